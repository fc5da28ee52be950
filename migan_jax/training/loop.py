"""The training loop: data -> steps -> metrics -> checkpoints.  Nothing numeric here."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import math
import os
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import ml_collections
import numpy as np

from migan_jax import checkpoint as checkpoint_lib
from migan_jax.data import batches as batches_lib
from migan_jax.data import images as image_files
from migan_jax.data import splits
from migan_jax.devices import replicate
from migan_jax.devices import unreplicate
from migan_jax.evaluation import classical
from migan_jax.evaluation import methods
from migan_jax.evaluation import step as evaluation_step
from migan_jax import storage
from migan_jax.training import agreement
from migan_jax.training.board import Board
from migan_jax.training.checkpointing import Checkpoints
from migan_jax.training import changes
from migan_jax.training import checks
from migan_jax.training.compiling import Compilations
from migan_jax.training import distributed
from migan_jax.training.history import History
from migan_jax.training import inputs
from migan_jax.training.lease import Lease
from migan_jax.training.preemption import Notice
from migan_jax.training.preemption import Preempted
from migan_jax.training.progress import duration
from migan_jax.training.progress import FiniteWatch
from migan_jax.training.progress import memory_gib
from migan_jax.training.progress import Progress
from migan_jax.training.progress import TrainingDiverged
from migan_jax.training.run_report import RunReport
from migan_jax.training.checkpointing import Rollbacks
from migan_jax.training import state as state_lib
from migan_jax.training import steps as steps_lib


def settings_of(config: ml_collections.ConfigDict) -> steps_lib.Settings:
    """`steps.Settings` of a config, whose `loss` has fields of the same names."""
    return steps_lib.Settings(
        seed=config.seed, batch_size=config.train.batch_size,
        ema_kimg=config.ema.kimg, ema_rampup=config.ema.rampup, **config.loss,
        warmup_kimg=config.optim.warmup_kimg,
        decay_kimg=config.optim.decay_kimg, total_kimg=config.train.kimg,
        hole_range=tuple(config.mask.hole_range),
        brush_width=tuple(config.mask.brush_width),
        bank_share=config.data.masks_share,
        objects_share=config.mask.objects_share,
        freeze_encoder=config.train.freeze_encoder,
        accumulate=config.train.accumulate)


def train(config: ml_collections.ConfigDict, workdir: os.PathLike | str,
          allow_changes: bool = False) -> dict[str, float]:
    """Trains until config.train.kimg; resumes if `workdir` has a checkpoint.

    Progress is counted in images: a resumed run may have another batch size.

    Args:
      config: ConfigDict, see configs/default.py.
      workdir: where config.json, checkpoints/, samples/ and TensorBoard's event files
        go; local or on Cloud Storage (gs://).
      allow_changes: resume though data, masks or losses are not those of the workdir.

    Returns:
      dict of the last evaluation's figures.

    Raises:
      ValueError: something in the config can't work; nothing was written then.
      storage.StorageError: `workdir` can't be written to.
      lease.InUse: another run works in `workdir`.
      agreement.Disagreement: the processes of the run were not started alike.
      state.CheckpointError: `workdir` holds another model or was trained on other data,
        or the end of training could not be saved.
      progress.TrainingDiverged: see `progress.FiniteWatch`.
      preemption.Preempted: SIGTERM or Ctrl-C came; the state was saved.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_made_for_the_run(workdir))
        division, lease = agreement.check(lambda: _prepare(config, workdir, stack))
        distributed.connect_devices()
        parts = _build(config, workdir, division, allow_changes)
        state = _first_state(config, workdir, parts)
        is_main = jax.process_index() == 0
        if is_main:
            storage.path_of(workdir, 'samples').mkdir(parents=True, exist_ok=True)
        board = Board(workdir, writes=is_main)
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir, config)))
        notice = stack.enter_context(Notice())
        if checkpoints.latest_step() is not None:
            state = checkpoints.restore(state)
            logging.info('resuming %s from iteration %d', workdir, int(state.step))
        parts.history.go_on(int(state.step), config.train.batch_size)
        if is_main:
            # Before the config, which says what an older history leaves open.
            parts.history.save()
            inputs.save_division(division, workdir)
            checkpoint_lib.save_config(config, workdir)
        run = _Run(config, workdir, division, parts, state, lease=lease, board=board,
                   checkpoints=checkpoints, notice=notice)
        # The run has its own, on the devices: this one would lie there all the while.
        del state
        stack.callback(run.flush)
        return run.train()


@contextlib.contextmanager
def _made_for_the_run(workdir: os.PathLike | str) -> Iterator[None]:
    """A folder in which storage was tried, and no more, goes when the run is refused."""
    folder = storage.path_of(workdir)
    new = not storage.is_bucket(workdir) and not folder.exists()
    try:
        yield
    except BaseException:
        if new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise


def _prepare(config: ml_collections.ConfigDict, workdir: os.PathLike | str,
             stack: contextlib.ExitStack
             ) -> tuple[dict[str, Any], tuple[splits.Division, Lease | None]]:
    """What can fail on one host only, in the order of what costs least.

    Args:
      config, workdir: of `train`.
      stack: ExitStack that lets go of the lease.

    Returns:
      facts: of `agreement.facts_of`.
      `splits.Division`; the `Lease` of process 0, None of others.
    """
    checks.check(config)
    storage.check_writable(workdir)
    lease = stack.enter_context(Lease(workdir)) if jax.process_index() == 0 else None
    division = inputs.divide(config, workdir)
    facts = agreement.facts_of(config, workdir, {
        'training': len(division.train), 'evaluation': len(division.evaluation)})
    return facts, (division, lease)


class _Parts(NamedTuple):
    """What a run works with: all of it checked, nothing compiled or written yet.

    Attributes:
      models: of the config.
      evaluation: says when its step compiles.
      bank: of masks, or None.
      teacher, teacher_params: of `inputs.open_teacher`.
      rollbacks, history: of the workdir.
      announced: of the run's `Compilations`.
      resumes: whether the workdir has a checkpoint.
    """
    models: state_lib.Models
    evaluation: evaluation_step.Evaluation
    bank: np.ndarray | None
    teacher: Callable | None
    teacher_params: Any
    rollbacks: Rollbacks
    history: History
    announced: Callable
    resumes: bool


def _build(config: ml_collections.ConfigDict, workdir: os.PathLike | str,
           division: splits.Division, allow_changes: bool) -> _Parts:
    """`_Parts`: models, steps, and what the workdir has to say."""
    models = state_lib.build_models(config)
    limit = config.eval.limit or len(division.evaluation)
    networks, protocol, left_out = inputs.open_networks(
        config, min(limit, len(division.evaluation)))
    inputs.check_best_metric(config, networks, left_out)
    batch_size = config.train.batch_size
    resumes = checkpoint_lib.has_checkpoint(workdir)
    if checkpoint_lib.has_config(workdir):
        checkpoint_lib.check_resumable(config, workdir)
        saved = checkpoint_lib.load_config(workdir)
        batch_size = saved.train.batch_size
        if resumes:
            _say_changes(
                config, workdir, changes.review(config, saved, workdir, allow_changes))
            if sentence := checkpoint_lib.set_aside(workdir, config, saved):
                logging.info('%s', sentence)
    bank = inputs.open_masks(config)
    teacher, teacher_params = inputs.open_teacher(config)
    rollbacks = Rollbacks(workdir)
    history = History(workdir, batch_size, rollbacks.skipped)

    settings, announced = settings_of(config), Compilations().announced
    evaluation = evaluation_step.make_evaluation(
        models.generator, seed=config.eval.seed, hole_range=settings.hole_range,
        brush_width=settings.brush_width, networks=networks, protocol=protocol)
    for sentence in dict.fromkeys(left_out.values()):
        logging.info('evaluation: %s', sentence)
    return _Parts(
        models, evaluation._replace(step=announced('evaluation', evaluation.step)), bank,
        teacher, teacher_params, rollbacks, history, announced, resumes)


def _say_changes(config: ml_collections.ConfigDict, workdir: os.PathLike | str,
                 lines: list[str]) -> None:
    if lines:
        logging.info('%s goes on with another config (saved -> now):\n  %s',
                     workdir, '\n  '.join(lines))
    if config.init_from:
        logging.warning(
            'init_from=%s is ignored: %s has checkpoints of its own and goes on from '
            'the newest', config.init_from, workdir)


def _first_state(config: ml_collections.ConfigDict, workdir: os.PathLike | str,
                 parts: _Parts) -> state_lib.TrainState:
    """TrainState of a run that starts; one that resumes takes its shapes."""
    state = parts.announced('the initial state', state_lib.init_state)(
        parts.models, config.model.resolution, jax.random.key(config.seed))
    if config.init_from and not parts.resumes:
        state = state_lib.warm_start(state, config, config.init_from)
    return state


class _Run:
    """One run: what `train` has opened, and its position."""

    def __init__(self, config: ml_collections.ConfigDict, workdir: os.PathLike | str,
                 division: splits.Division, parts: _Parts, state: state_lib.TrainState, *,
                 lease: Lease | None, board: Board, checkpoints: Checkpoints,
                 notice: Notice) -> None:
        """Compiles nothing.

        Args:
          config, workdir: of `train`.
          division: of images.
          parts: `_Parts`.
          state: TrainState to go on from, not replicated.
          lease: of the workdir, or None.
          board: of the workdir.
          checkpoints, notice: opened.
        """
        self._config, self._workdir = config, workdir
        self._division, self._parts = division, parts
        self._lease, self._board = lease, board
        self._checkpoints, self._notice = checkpoints, notice
        self._history = parts.history
        self._batch_size = config.train.batch_size
        self._is_main = jax.process_index() == 0
        self._every = {name: kimg * 1000 for name, kimg in {
            'log': config.log.every_kimg, 'eval': config.eval.every_kimg,
            'checkpoint': config.checkpoint.every_kimg}.items()}
        self._watch = FiniteWatch(config.train.max_nonfinite_steps)
        self._pending = None   # (iteration, metrics still on the device)
        self._measured = {}
        self._classical = None   # figures, once they are measured

        self._first = self._step = int(state.step)
        self._state = replicate(state)
        self._total, self._progress, self._page = self._ahead()
        self._settings = self._settings_ahead()
        self._steps = self._make_steps()

    def flush(self) -> None:
        """Waits until the figures are in the workdir."""
        with self._figures():
            self._board.publish()

    @contextlib.contextmanager
    def _figures(self):
        """A context to write figures and pictures in: a failure costs just these."""
        try:
            yield
        # A full disk gives OSError, an error of clu or one of TensorFlow, which is not
        # imported here.  Figures are in the log besides.
        except Exception as error:
            logging.error('figures or pictures could not be written to %s: %s',
                          self._workdir, str(error).splitlines()[0])

    def _ahead(self):
        """From here on: the last iteration, `Progress` towards it, and its `RunReport`."""
        total = self._step_at(self._config.train.kimg)
        return total, Progress(self._batch_size, total), RunReport(self._workdir, self._step)

    def _settings_ahead(self):
        """Settings of the steps from here on."""
        d_only_kimg = self._config.train.d_only_kimg
        return dataclasses.replace(
            settings_of(self._config),
            images_offset=self._images() - self._step * self._batch_size,
            d_only_steps=self._step_at(d_only_kimg) if d_only_kimg else 0)

    def _make_steps(self):
        parts = self._parts
        steps = steps_lib.make_steps(
            parts.models, self._settings, parts.teacher, bank=parts.bank)
        return steps._replace(
            g=parts.announced('G', steps.g), d=parts.announced('D', steps.d),
            r1=parts.announced('R1', steps.r1),
            path_length=parts.announced('the path-length step', steps.path_length))

    def _step_at(self, kimg):
        """The iteration after which so many thousand images are seen, from now on."""
        left = kimg * 1000 - self._images()
        # Not one more for the rounding of a product.
        return self._step + max(0, math.ceil(left / self._batch_size - 1e-6))

    def train(self) -> dict[str, float]:
        """Iterates to the end; the last evaluation's figures."""
        logging.info('%s', self._division.how)
        logging.info(
            '%d training and %s evaluation images; iterations %d to %d on %d %s',
            len(self._division.train), len(self._division.evaluation), self._step,
            self._total, jax.device_count(), jax.devices()[0].device_kind)
        if self._step == 0 and self._config.init_from:
            self._measured = self._evaluate()   # what fine-tuning has to improve on
            self._write_page()   # the next evaluation may be hours away
        with contextlib.closing(self._batches()) as batches:
            while self._step < self._total:
                try:
                    self._iterate(self._progress.wait(batches)['image'])
                    self._report()
                except TrainingDiverged as error:
                    self._roll_back(error)
        self._checkpoints.wait()
        if self._checkpoints.owed:
            self._save_or_raise()
        if not self._measured:   # resumed a run that was already complete
            self._measured = self._evaluate()
        return self._measured

    def _batches(self):
        config = self._config
        return batches_lib.train_batches(
            self._division.train, resolution=config.model.resolution,
            batch_size=self._batch_size // jax.process_count(), seed=config.seed,
            start_batch=self._position(), host_index=jax.process_index(),
            host_count=jax.process_count(), crop=config.data.crop,
            min_crop=config.data.min_crop, flip=config.data.flip,
            augment=config.data.augment,
            workers=config.data.workers, prefetch=config.data.prefetch)

    def _position(self):
        """Batches read so far, in this run and those before."""
        return self._history.data_batch(self._step)

    def _images(self):
        """Images trained on so far, in this run and those before."""
        return self._history.images(self._step)

    def _iterate(self, images):
        images = images.reshape(jax.local_device_count(), -1, *images.shape[1:])
        self._state, metrics = steps_lib.iterate(
            self._steps, self._settings, self._step, self._state, images,
            self._parts.teacher_params)
        before, self._pending = self._pending, (self._step, metrics)
        self._step += 1
        # Metrics of the iteration before: the devices are busy with this one.
        self._look_at(before)

    def _settle(self):
        pending, self._pending = self._pending, None
        self._look_at(pending)

    def _look_at(self, pending):
        if pending is not None:
            step, metrics = pending
            metrics = {k: float(v) for k, v in unreplicate(metrics).items()}
            self._progress.add(metrics)
            self._watch.check(step, metrics, self._checkpoints.latest_step())

    def _due(self, name):
        # Whether the iteration has reached or passed a multiple of that many images.
        before, now = (int(self._history.images(step) / self._every[name] + 1e-9)
                       for step in (self._step - 1, self._step))
        return now > before or self._step == self._total

    def _report(self):
        """All that is due after an iteration: log, evaluation, checkpoint."""
        if self._step == self._first + 1:
            # Compilation is not speed: time from the second iteration on.
            self._settle()
            self._progress.restart(self._step)
        elif self._due('log'):
            self._settle()
            self._log()
            self._checkpoints.poll()
            if self._lease:
                self._lease.check()
            self._progress.restart(self._step)
        if self._notice.reached(self._position()):
            self._stop()
        owed = self._checkpoints.owed and self._due('log')
        if self._due('eval') or self._due('checkpoint') or owed:
            self._settle()
            began = time.perf_counter()
            figures = self._evaluate() if self._due('eval') else None
            self._measured = figures or self._measured
            self._save(figures)
            self._write_page()
            self._progress.pause(time.perf_counter() - began)

    def _log(self):
        means, left = self._progress.report(self._step)
        counts = dict(sorted(self._watch.totals.items()))
        self._page.add(self._step, self._images(), {
            f'train/{name}': value for name, value in (means | memory_gib()).items()})
        with self._figures():
            # In a bucket the whole file would be uploaded for each line: there it waits for
            # the next checkpoint or evaluation.
            if self._is_main and not storage.is_bucket(self._workdir):
                self._page.write_rows()
            self._board.write_scalars(self._step, {
                **{f'train/{name}': value for name, value in means.items()},
                **{f'nonfinite/{phase}': count for phase, count in counts.items()}})
        logging.info(
            '%s of %.2f kimg, %.1f images/s (%.1f %% of the time waiting for data), '
            '%s left, %s%s', self._kimg(), self._config.train.kimg,
            means.pop('images_per_second'), 100 * means.pop('data_wait'), duration(left),
            ', '.join(f'{name} {value:.3g}' for name, value in means.items()),
            f'; non-finite iterations: {counts}' if counts else '')

    def _write_page(self):
        if self._is_main:
            with self._figures():
                self._page.write()
        self.flush()

    def _kimg(self):
        return f'{self._images() / 1000:.2f}'

    def _evaluate(self):
        config = self._config
        figures = dict(evaluation_step.evaluate(
            self._parts.evaluation, self._state.ema, self._state.variables,
            self._eval_batches()))
        if self._classical is None:
            self._classical = self._measure_classical()
        figures |= self._classical
        self._page.add(self._step, self._images(), {
            f'eval/{name}': value for name, value in figures.items()})
        with self._figures():
            self._board.write_scalars(
                self._step, {f'eval/{name}': value for name, value in figures.items()})
        with contextlib.closing(self._eval_batches()) as samples:
            grid = evaluation_step.sample_grid(
                self._parts.evaluation, self._state.ema, self._state.variables, next(samples),
                config.eval.grid_rows)
        if self._is_main:
            name = f'{self._images() / 1000:09.2f}kimg.png'
            with self._figures():
                image_files.write_png(grid, os.path.join(self._workdir, 'samples', name))
                self._board.write_images(self._step, {'samples': grid[None]})
        logging.info('evaluation at %s kimg: %s', self._kimg(), ', '.join(
            f'{name} {value:.4g}' for name, value in figures.items()))
        return figures

    def _measure_classical(self):
        """Figures of OpenCV's methods; they stay what they are through a run."""
        limit = self._config.eval.limit or len(self._division.evaluation)
        why = ('OpenCV\'s methods are not measured in a run of several processes.'
               if jax.process_count() > 1 else
               classical.unavailable(min(limit, len(self._division.evaluation))))
        if why:
            logging.info('evaluation: %s', why)
            return {}
        masks_of = methods.mask_maker(
            self._config.model.resolution, self._settings.hole_range,
            self._settings.brush_width, self._config.eval.seed)
        return methods.classical_means(self._eval_batches(), masks_of)

    def _eval_batches(self):
        batches = inputs.eval_batches(self._division.evaluation, self._config)
        with contextlib.closing(batches):
            for batch in batches:
                # An evaluation may take longer than a machine is left to the run.
                if self._notice.signal:
                    self._stop()
                yield batch

    def _save(self, figures):
        if self._watch.streak:
            logging.warning('iteration %d was non-finite: not saved', self._step - 1)
        else:
            if figures:
                figures = figures | {checkpoint_lib.SETTING:
                                     checkpoint_lib.evaluation_setting(self._config)}
            self._checkpoints.save(
                unreplicate(self._state) if self._is_main else None, figures)

    def _save_or_raise(self):
        if self._checkpoints.latest_step() != self._step:
            self._save(None)
            self._checkpoints.wait()
        if self._checkpoints.owed:
            raise checkpoint_lib.CheckpointError(
                f'iteration {self._step} could not be saved in {self._workdir}, see '
                'above; free some space and give the same command: it goes on from '
                f'iteration {self._checkpoints.latest_step()}.')

    def _stop(self):
        """Saves and raises `Preempted`."""
        self._settle()
        self._checkpoints.wait()
        self._save_or_raise()
        self._write_page()
        raise Preempted(
            f'stopped by {self._notice.signal or "SIGTERM"} after iteration '
            f'{self._step} ({self._kimg()} kimg); {self._workdir} holds iteration '
            f'{self._checkpoints.latest_step()}, from where the same command goes on.')

    def _roll_back(self, error):
        """Goes back to the last checkpoint, if the config says so; data go on."""
        settings = self._config.train
        self._checkpoints.wait()
        if (settings.on_divergence != 'rollback'
                or self._checkpoints.latest_step() is None):
            raise error
        if len(self._parts.rollbacks) >= settings.max_rollbacks:
            raise TrainingDiverged(
                f'{error} It was rolled back {len(self._parts.rollbacks)} times already '
                '(train.max_rollbacks).') from error
        start = self._step
        abstract = state_lib.abstract_state(self._parts.models, self._config.model.resolution)
        state = self._checkpoints.restore(abstract)
        end = int(state.step)
        self._history.roll_back(start, end)
        self._parts.rollbacks.add(start, end, write=self._is_main)
        if self._is_main:
            self._history.save()
        self._step, self._state = end, replicate(state)
        self._total, self._progress, self._page = self._ahead()
        settings_ahead = self._settings_ahead()
        if settings_ahead != self._settings:
            self._settings = settings_ahead
            self._steps = self._make_steps()
        self._pending = None
        self._watch.streak = 0
        self._progress.restart(self._step)
        logging.warning('%s Rolled back to iteration %d, with the data after them.',
                        error, self._step)
