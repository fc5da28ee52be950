"""The training loop: data -> steps -> metrics -> checkpoints.  Nothing numeric here."""

import collections
import contextlib
import io
import math
import os
import time

from absl import logging
import jax
import numpy as np
from PIL import Image

from migan_jax import data
from migan_jax import evaluate
from migan_jax import scoring
from migan_jax import state as state_lib
from migan_jax import steps as steps_lib
from migan_jax.metrics import fid
from migan_jax.metrics import inception
from migan_jax.metrics import lpips


class TrainingDiverged(RuntimeError):
    """Losses stayed non-finite; names the last good checkpoint."""


def settings_of(config):
    """`steps.Settings` of a config."""
    return steps_lib.Settings(
        seed=config.seed, batch_size=config.train.batch_size,
        ema_kimg=config.ema.kimg, ema_rampup=config.ema.rampup,
        r1_gamma=config.loss.r1_gamma, r1_interval=config.loss.r1_interval,
        distillation_weight=config.loss.distillation_weight,
        distillation_min_resolution=config.loss.distillation_min_resolution,
        reconstruction_weight=config.loss.reconstruction_weight,
        path_length_weight=config.loss.path_length_weight,
        path_length_interval=config.loss.path_length_interval,
        hole_range=tuple(config.mask.hole_range),
        brush_width=tuple(config.mask.brush_width))


def check_batch(batch_size, what):
    """Raises ValueError unless the devices can share a global batch equally."""
    devices = jax.device_count()
    if batch_size < 1 or batch_size % devices:
        raise ValueError(
            f'{what} is {batch_size}; expected a positive multiple of the {devices} '
            f'{jax.default_backend()} devices.')


def open_teacher(config):
    """The teacher that a config distils from, and its parameters on every device.

    Returns:
      function, replicated parameters, see `state.load_teacher`; (None, None) without
      distillation.

    Raises:
      ValueError: one is wanted and none is named.
      state.CheckpointError: it can't be this config's teacher.
    """
    if not config.loss.distillation_weight:
        return None, None
    if not config.teacher.checkpoint:
        raise ValueError(
            'this config distils from a Co-Mod-GAN teacher '
            f'(loss.distillation_weight={config.loss.distillation_weight}): name one with '
            '--config.teacher.checkpoint=DIR, made by tools/from_torch.py '
            '--kind=comodgan from published weights or trained on your own images with '
            'configs/comodgan_*.py, or train without one with '
            '--config.loss.distillation_weight=0.')
    teacher, variables = state_lib.load_teacher(
        config.teacher.checkpoint, config.model.resolution, config.teacher.dtype)
    return teacher, state_lib.replicate(variables)


def check_path_length(config):
    """Raises ValueError if a generator without a latent is to have the term."""
    if config.loss.path_length_weight and not state_lib.is_comodgan(config):
        raise ValueError(
            f'loss.path_length_weight is {config.loss.path_length_weight}, but MI-GAN has '
            'no latent whose path could have a length: set it to 0.')


# Of the figures that an evaluation may give, those whose least value is the best.
_LOWER_IS_BETTER = ('fid', 'lpips', 'hole_l1')


def open_networks(config, count):
    """The metric networks of evaluation during training.

    Args:
      config: of the run.
      count: of images that an evaluation sees.

    Returns:
      `scoring.Networks` on the host, without those that such an evaluation can't use;
      protocol of `inception.PROTOCOLS`; {'fid' or 'lpips': why it is left out}.

    Raises:
      ValueError: config.eval.networks can't be read.
    """
    path, side = config.eval.networks, config.model.resolution
    if not path:
        why = ('FID and LPIPS left out: config.eval.networks is empty; '
               'tools/prepare_metrics.py makes that file from published weights.')
        return scoring.Networks(), inception.PAPER, dict.fromkeys(('fid', 'lpips'), why)
    protocol, loaded = scoring.read_networks(path)
    networks = loaded.networks
    left_out = {name: f'{path} was made without it. {why}'
                for name, why in loaded.missing.items()}
    try:
        fid.check_count(count, inception.FEATURES)
    except fid.TooFewSamples as error:
        networks = networks._replace(inception=None)
        left_out['fid'] = f'FID left out: {error}'
    if side < lpips.MIN_SIDE:
        networks = networks._replace(lpips=None)
        left_out['lpips'] = (f'LPIPS left out: {side} x {side} pixels are too few, '
                             f'AlexNet needs {lpips.MIN_SIDE}.')
    return networks, protocol, left_out


def check_best_metric(config, networks, left_out):
    """Raises ValueError unless config.eval.best_metric is a figure that will be there.

    Args:
      config: of the run.
      networks, left_out: from `open_networks`.
    """
    metric, mode = config.eval.best_metric, config.eval.best_mode
    if not metric:
        return
    side = config.model.resolution
    picture, mask = (
        jax.ShapeDtypeStruct((1, side, side, c), np.float32) for c in (3, 1))
    names = {*jax.eval_shape(evaluate.figures_of, picture, picture, mask),
             *jax.eval_shape(scoring.lpips_figures, networks, picture, picture)}
    if networks.inception is not None:
        names.add('fid')
    if metric not in names:
        why = f' {left_out[metric]}' if metric in left_out else ''
        raise ValueError(
            f'eval.best_metric is {metric!r}, which the evaluation of this run does '
            f'not give; it gives {", ".join(sorted(names))}.{why}')
    expected = 'min' if metric in _LOWER_IS_BETTER else 'max'
    if mode != expected:
        raise ValueError(f'eval.best_mode is {mode!r}; expected {expected!r}, as '
                         f'eval.best_metric is {metric!r}.')


def open_sources(data_config):
    """Training and evaluation images.

    With both splits empty, images are held out without being asked: the embedded
    photographs' own test regions, TFDS's `validation`, else the first 5 % (at least
    one) of a folder or zip.

    Returns:
      two sources of `data.open_source`.

    Raises:
      ValueError: no images, unknown source or split; says what there is.
    """
    kind = data_config.source
    opened = lambda split: data.open_source(
        kind, path=data_config.path, name=data_config.name, split=split,
        cache_mb=data_config.cache_mb, max_pixels=data_config.max_pixels)
    train_split, eval_split = data_config.train_split, data_config.eval_split
    if not train_split and not eval_split:
        if kind == 'embedded':
            train_split, eval_split = 'train', 'test'
        elif kind == 'tfds':
            train_split, eval_split = 'train', 'validation'
        else:
            count = len(opened(''))
            if count < 2:
                raise ValueError(
                    f'{data_config.path} holds {count} image; one is held out for '
                    'evaluation, so training needs at least two.')
            held_out = max(1, count // 20)
            train_split, eval_split = f'[{held_out}:]', f'[:{held_out}]'
    return opened(train_split), opened(eval_split)


def eval_batches(source, config):
    """Batches of `data.eval_batches` for this host."""
    per_host = config.eval.batch_size // jax.process_count()
    return data.eval_batches(
        source, resolution=config.model.resolution, batch_size=per_host,
        host_index=jax.process_index(), host_count=jax.process_count(),
        crop=config.data.eval_crop, limit=config.eval.limit or None)


def steps_of(kimg, batch_size):
    """Iterations in a number of thousand images, at least 1."""
    return max(1, math.ceil(kimg * 1000 / batch_size))


def duration(seconds):
    """h:mm:ss."""
    seconds = round(seconds)
    return f'{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}'


class Progress:
    """Counts images and time; averages metrics between two reports."""

    def __init__(self, batch_size, total_steps):
        self._batch_size, self._total = batch_size, total_steps
        self._start = self._step = None
        self._sums = collections.defaultdict(list)

    def add(self, metrics):
        for name, value in metrics.items():
            self._sums[name].append(value)

    def restart(self, step):
        """Begins a new interval, so that what happened before is not timed."""
        self._start, self._step = time.perf_counter(), step

    def pause(self, seconds):
        """Takes seconds that were not training out of the interval."""
        self._start += seconds

    def report(self, step):
        """Means since the last report, images/s and seconds left."""
        rate = (step - self._step) / (time.perf_counter() - self._start)
        means = {name: float(np.mean(values)) for name, values in self._sums.items()}
        self._sums.clear()
        means['images_per_second'] = rate * self._batch_size
        return means, (self._total - step) / rate


class FiniteWatch:
    """Stops training when losses stay non-finite; knows whether the last was fine."""

    def __init__(self, patience):
        self._patience = patience
        self.streak = self.total = 0

    def check(self, step, metrics, last_good):
        """Counts one iteration.

        Raises:
          TrainingDiverged: `patience` iterations in a row were non-finite.
        """
        bad = {k: v for k, v in metrics.items() if not np.isfinite(v)}
        if not bad:
            self.streak = 0
            return
        self.streak += 1
        self.total += 1
        logging.warning('iteration %d: non-finite %s (%d in a row)', step, bad, self.streak)
        if self.streak >= self._patience:
            raise TrainingDiverged(
                f'{self.streak} iterations in a row up to {step} were non-finite: {bad}. '
                f'The last good checkpoint is that of iteration {last_good}; it is kept '
                'and the next run resumes from it. A lower learning rate '
                '(--config.optim.g_lr, --config.optim.d_lr) or float32 '
                '(--config.model.dtype=float32) may help.')


def write_png(image, path):
    """Writes u8[H, W, 3] as a PNG, atomically."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'PNG')
    state_lib.write_atomically(path, buffer.getvalue())


def train(config, workdir):
    """Trains until config.train.kimg; resumes if `workdir` has a checkpoint.

    Args:
      config: ConfigDict, see configs/default.py.
      workdir: where config.json, checkpoints/, samples/ and TensorBoard's event files
        go.

    Returns:
      dict of the last evaluation's figures.

    Raises:
      ValueError: something in the config can't work; nothing was written then.
      state.CheckpointError: `workdir` holds another model.
      TrainingDiverged: see `FiniteWatch`.
    """
    # Not at the top: it imports TensorFlow, which tools that import this module can
    # do without.
    from clu import metric_writers

    batch_size = config.train.batch_size
    check_batch(batch_size, 'train.batch_size')
    check_batch(config.eval.batch_size, 'eval.batch_size')
    check_path_length(config)
    models = state_lib.build_models(config)
    train_source, eval_source = open_sources(config.data)
    networks, protocol, left_out = open_networks(
        config, min(config.eval.limit or len(eval_source), len(eval_source)))
    check_best_metric(config, networks, left_out)
    resuming = os.path.exists(os.path.join(workdir, 'config.json'))
    if resuming:
        state_lib.check_resumable(config, workdir)
    teacher, teacher_params = open_teacher(config)

    settings = settings_of(config)
    state = state_lib.init_state(
        models, config.model.resolution, jax.random.key(config.seed))
    if config.init_from and not state_lib.has_checkpoint(workdir):
        state = state_lib.warm_start(state, config, config.init_from)

    main_process = jax.process_index() == 0
    if main_process:
        os.makedirs(os.path.join(workdir, 'samples'), exist_ok=True)
        state_lib.save_config(config, workdir)
    writer = metric_writers.create_default_writer(
        workdir, just_logging=not main_process, asynchronous=True)

    manager = state_lib.checkpoint_manager(
        workdir, keep_last=config.checkpoint.keep_last, metric=config.eval.best_metric,
        mode=config.eval.best_mode)
    if manager.latest_step() is not None:
        state = state_lib.restore(manager, state)
        logging.info('resuming %s from iteration %d', workdir, int(state.step))
    step = int(state.step)
    state = state_lib.replicate(state)

    steps = steps_lib.make_steps(models, settings, teacher)
    evaluation = evaluate.make_evaluation(
        models.generator, seed=config.eval.seed, hole_range=settings.hole_range,
        brush_width=settings.brush_width, networks=networks, protocol=protocol)
    for sentence in dict.fromkeys(left_out.values()):
        logging.info('evaluation: %s', sentence)

    total_steps = steps_of(config.train.kimg, batch_size)
    every = {name: steps_of(kimg, batch_size) for name, kimg in {
        'log': config.log.every_kimg, 'eval': config.eval.every_kimg,
        'checkpoint': config.checkpoint.every_kimg}.items()}
    due = lambda name: step % every[name] == 0 or step == total_steps

    logging.info('%d training and %s evaluation images; iterations %d to %d on %d %s',
                 len(train_source), len(eval_source), step, total_steps,
                 jax.device_count(), jax.devices()[0].device_kind)
    progress = Progress(batch_size, total_steps)
    watch = FiniteWatch(config.train.max_nonfinite_steps)
    batches = data.train_batches(
        train_source, resolution=config.model.resolution,
        batch_size=batch_size // jax.process_count(), seed=config.seed, start_batch=step,
        host_index=jax.process_index(), host_count=jax.process_count(),
        crop=config.data.crop, min_crop=config.data.min_crop, flip=config.data.flip,
        workers=config.data.workers, prefetch=config.data.prefetch)

    pending = None   # (iteration, metrics still on the device)

    def settle():
        """Looks at the metrics of the iteration before, which has finished by now."""
        nonlocal pending
        if pending is not None:
            iteration, on_device = pending
            pending = None
            metrics = {k: float(v) for k, v in state_lib.unreplicate(on_device).items()}
            progress.add(metrics)
            watch.check(iteration, metrics, manager.latest_step())

    def run_evaluation():
        figures = dict(evaluate.evaluate(
            evaluation, state.ema, state.variables, eval_batches(eval_source, config)))
        writer.write_scalars(step, {f'eval/{k}': v for k, v in figures.items()})
        with contextlib.closing(eval_batches(eval_source, config)) as samples:
            grid = evaluate.sample_grid(
                evaluation, state.ema, state.variables, next(samples), config.eval.grid_rows)
        if main_process:
            name = f'{step * batch_size / 1000:09.2f}kimg.png'
            write_png(grid, os.path.join(workdir, 'samples', name))
            writer.write_images(step, {'samples': grid[None]})
        logging.info('evaluation at %.2f kimg: %s', step * batch_size / 1000,
                     ', '.join(f'{k} {v:.4g}' for k, v in figures.items()))
        return figures

    figures = {}
    with contextlib.closing(batches), contextlib.closing(manager), \
            metric_writers.ensure_flushes(writer):
        progress.restart(step)
        first = True
        while step < total_steps:
            images = next(batches)['image']
            images = images.reshape(jax.local_device_count(), -1, *images.shape[1:])
            state, metrics = steps_lib.iterate(
                steps, settings, step, state, images, teacher_params)
            settle()   # of the iteration before: the devices are busy with this one
            pending = (step, metrics)
            step += 1
            if first:
                # Compilation is not speed: time from the second iteration on.
                settle()
                progress.restart(step)
                first = False
            elif due('log'):
                settle()
                means, left = progress.report(step)
                writer.write_scalars(step, {f'train/{k}': v for k, v in means.items()})
                logging.info(
                    '%.2f of %.2f kimg, %.1f images/s, %s left, %s',
                    step * batch_size / 1000, config.train.kimg,
                    means.pop('images_per_second'), duration(left),
                    ', '.join(f'{k} {v:.3g}' for k, v in means.items()))
                progress.restart(step)
            if due('eval') or due('checkpoint'):
                settle()
                began = time.perf_counter()
                measured = run_evaluation() if due('eval') else None
                figures = measured or figures
                if watch.streak:
                    logging.warning('iteration %d was non-finite: not saved', step - 1)
                else:
                    state_lib.save(manager, state_lib.unreplicate(state), measured)
                progress.pause(time.perf_counter() - began)
        manager.wait_until_finished()
        if not figures:   # resumed a run that was already complete
            figures = run_evaluation()
    return figures
