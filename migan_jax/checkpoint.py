"""Checkpoint directories: configs and arrays on storage, and the model in them.

A checkpoint directory (a training workdir, or what `tools/from_torch.py` writes):

    DIR/config.json              everything a tool needs to know about the model
    DIR/checkpoints/<step>/      Orbax: state, and the evaluation's metrics

Where a deployed generator is wanted, a published one's name, an address on a hub and a
folder of `Model.save` do as well: `open_checkpoint` takes them all.
"""

from collections.abc import Callable, Mapping
import contextlib
import hashlib
import json
import math
import os
import pathlib
from typing import Any

from absl import logging
from etils import epy
import flax
import jax
import ml_collections
import numpy as np

# Importing it takes a fifth of a second, and saved models do without it.
with epy.lazy_imports():
    import orbax.checkpoint as ocp

from migan_jax import lowered
from migan_jax.model import build
from migan_jax import storage
from migan_jax.devices import Array
from migan_jax.weights import opening

# Under this name a checkpoint's figures hold the `evaluation_setting` they were measured in.
SETTING = 'setting'
# Groups of a config, and their fields, that two comparable evaluations have in common.
_SETTING_FIELDS = {
    'model': ('resolution',),
    'data': ('source', 'path', 'name', 'train_split', 'eval_split', 'eval_crop',
             'held_out', 'held_out_first'),
    'mask': ('hole_range', 'brush_width'),
    'eval': ('limit', 'seed'),
}

# A written config has some 4,000.
_CONFIG_BYTES = 2**20
# A written config has three levels. How many Python can take differs by its version.
_CONFIG_DEPTH = 20


class CheckpointError(ValueError):
    """A checkpoint directory can't be used; the message says what to do."""


class DamagedCheckpoint(CheckpointError):
    """One checkpoint of a directory does not read; another may."""


def _config_path(directory):
    return storage.path_of(directory, 'config.json')


def has_config(directory: str | os.PathLike) -> bool:
    """Whether a run was started in a directory."""
    return _config_path(directory).exists()


def save_config(config: ml_collections.ConfigDict, directory: str | os.PathLike) -> None:
    """Writes DIR/config.json atomically."""
    text = json.dumps(json.loads(config.to_json_best_effort()), indent=2, sort_keys=True)
    storage.write_atomically(_config_path(directory), (text + '\n').encode())


def _is_deeper(value, depth):
    """Whether lists and dicts are nested more than `depth` times."""
    level = [value]
    for _ in range(depth):
        level = [inner for outer in level if isinstance(outer, (dict, list))
                 for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return any(isinstance(value, (dict, list)) for value in level)


def load_config(directory: str | os.PathLike) -> ml_collections.ConfigDict:
    """The ConfigDict saved in a checkpoint directory.

    Raises:
      CheckpointError: there is none, or it is not readable.
      storage.StorageError: the bucket that it should be in does not answer.
    """
    storage.check_readable(directory)
    path = _config_path(directory)
    if not path.exists():
        raise CheckpointError(
            f'{directory} holds no config.json: it is not a checkpoint directory. '
            'Expected a workdir of migan_jax.main, the output of from_torch, the name '
            'of published weights (tools/fetch.py --list) or hf://owner/name.')
    size = path.stat().length
    if size > _CONFIG_BYTES:
        raise CheckpointError(f'{path} has {size:,} bytes; expected a config of at most '
                              f'{_CONFIG_BYTES:,}: it is not one that migan_jax wrote.')
    try:
        value = json.loads(path.read_text())
        if _is_deeper(value, _CONFIG_DEPTH):
            raise RecursionError
        if isinstance(value, dict):
            config = ml_collections.ConfigDict(value)
            if isinstance(config.get('model'), ml_collections.ConfigDict):
                for name, before in (('fill', False), ('fill_passes', 0)):
                    if name not in config.model:
                        config.model[name] = before   # saved before there was this field
                return config
    except ValueError as error:
        raise CheckpointError(f'{path} is not valid JSON: {error}') from error
    except RecursionError as error:
        raise CheckpointError(f'{path} is nested too deeply for a config.') from error
    raise CheckpointError(
        f'{path} is no config of a checkpoint directory; expected an object with '
        '"model" among its fields, as migan_jax.main and from_torch write.')


def as_plain(value: Any) -> Any:
    """Tuples and lists alike, as JSON has only lists."""
    return json.loads(json.dumps(value))


def differing_fields(config: ml_collections.ConfigDict | Mapping[str, Any],
                     saved: ml_collections.ConfigDict | Mapping[str, Any],
                     prefix: str = '') -> list[str]:
    """Lines 'field: saved value -> value now' where two configs, or some fields, differ."""
    lines = []
    for name in sorted(set(config) | set(saved)):
        if name == 'fill_passes' and not (config.get('fill') or saved.get('fill')):
            continue   # neither has the fill whose passes these are
        ours, theirs = config.get(name, 'absent'), saved.get(name, 'absent')
        if isinstance(ours, ml_collections.ConfigDict) and isinstance(
                theirs, ml_collections.ConfigDict):
            lines += differing_fields(ours, theirs, f'{prefix}{name}.')
        elif as_plain(ours) != as_plain(theirs):
            lines.append(f'{prefix}{name}: {theirs} -> {ours}')
    return lines


def check_resumable(config: ml_collections.ConfigDict, directory: str | os.PathLike) -> None:
    """Compares the model of a config with that of a workdir.

    Raises:
      CheckpointError: they differ; lists the fields with both values.
    """
    lines = differing_fields(config.model, load_config(directory).model, 'model.')
    if lines:
        raise CheckpointError(
            f'{directory} was trained with another model (saved -> now):\n  '
            + '\n  '.join(lines)
            + '\nUse another --workdir, or the config that started this one.')


def evaluation_setting(config: ml_collections.ConfigDict) -> str:
    """A short text that is the same where two evaluations are comparable."""
    fields = {f'{group}.{name}': config[group].get(name)
              for group, names in _SETTING_FIELDS.items() if group in config
              for name in names}
    text = json.dumps(as_plain(fields), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _BestOfEachSetting:
    """Orbax's protocol `PreservationPolicy`: keeps the best of each setting."""

    def __init__(self, metric, mode):
        self._metric, self._sign = metric, 1 if mode == 'max' else -1

    def should_preserve(self, checkpoints, *, context):
        del context
        best = {}
        for i, info in enumerate(checkpoints):
            value = (info.metrics or {}).get(self._metric)
            if value is not None:
                setting = info.metrics.get(SETTING, '')
                best[setting] = max(best.get(setting, (-math.inf, 0)),
                                    (self._sign * value, i))
        kept = {i for _, i in best.values()}
        return [i in kept for i in range(len(checkpoints))]


def checkpoint_manager(directory: str | os.PathLike, *, keep_last: int = 2, metric: str = '',
                       mode: str = 'max', setting: str = '', read_only: bool = False,
                       in_background: bool = True) -> 'ocp.CheckpointManager':
    """Orbax CheckpointManager of DIR/checkpoints: last K and best.

    It belongs to this process alone: where a run has several, each one that opens a manager
    reads or writes by itself, and none waits for another.

    Args:
      directory: workdir.
      keep_last: how many of the newest to keep; the best is kept besides.
      metric: name of the metric that decides what is best; '' for none.
      mode: 'max' or 'min'.
      setting: `evaluation_setting`; figures of another one are not compared, but its
        best checkpoint is kept.
      read_only: for tools.
      in_background: saves return before files are written.
    """
    folder = storage.path_of(directory, 'checkpoints')
    alone = ocp.options.MultiprocessingOptions()
    if jax.process_count() > 1:
        this = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=this, active_processes={this},
            barrier_sync_key_prefix=f'process{this}')
    if not read_only:
        folder.mkdir(parents=True, exist_ok=True)
    worst = -math.inf if mode == 'max' else math.inf
    best = None
    if metric:
        best = lambda metrics: (
            metrics.get(metric, worst) if metrics.get(SETTING, '') == setting else worst)
    preservation_policy = ocp.checkpoint_managers.preservation_policy
    policies = [preservation_policy.LatestN(keep_last)]
    if best:
        policies.append(_BestOfEachSetting(metric, mode))
    options = ocp.CheckpointManagerOptions(
        best_fn=best, best_mode=mode, create=False, read_only=read_only,
        multiprocessing_options=alone,
        preservation_policy=None if read_only else (
            preservation_policy.AnyPreservationPolicy(policies)),
        # What an interrupted save left.
        cleanup_tmp_directories=not read_only,
        enable_async_checkpointing=in_background and not read_only)
    return ocp.CheckpointManager(folder, options=options)


def has_checkpoint(directory: str | os.PathLike) -> bool:
    """Whether a finished checkpoint lies in DIR/checkpoints."""
    if not storage.path_of(directory, 'checkpoints').is_dir():
        return False
    with contextlib.closing(checkpoint_manager(directory, read_only=True)) as manager:
        return manager.latest_step() is not None


def save(manager: 'ocp.CheckpointManager', state: Any, metrics: Mapping[str, Any] | None = None
         ) -> None:
    """Saves an unreplicated state; a manager in the background returns before."""
    # By force: whether to save is decided by the run, and Orbax would ask the other
    # processes whether they are told to stop.
    manager.save(int(state.step), args=ocp.args.StandardSave(state), metrics=metrics,
                 force=True)


def restore(manager: 'ocp.CheckpointManager', state: Any, step: int | None = None) -> Any:
    """Restores a state.

    Args:
      manager: from `checkpoint_manager`.
      state: a TrainState of the right structure (arrays or ShapeDtypeStructs).
      step: which; the latest by default.

    Returns:
      TrainState of host arrays.

    Raises:
      DamagedCheckpoint: it does not read, or does not fit `state`.
      storage.StorageError: storage fails.
    """
    step = manager.latest_step() if step is None else step
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    with _reading(manager, step):
        return jax.device_get(
            manager.restore(step, args=ocp.args.StandardRestore(abstract)))


@contextlib.contextmanager
def _reading(manager, step):
    """Around reads of a checkpoint: what fails is one sentence."""
    folder = manager.directory / str(step)
    try:
        yield
    # Damaged files end in errors of JSON, zstd, TensorStore, asyncio or Orbax itself.
    except Exception as error:
        reason = ' '.join(str(error).split())[:200] or type(error).__name__
        # A missing file is damage on a disk; what else the system says is the system's.
        if storage.is_trouble(error) and not isinstance(error, FileNotFoundError):
            raise storage.StorageError(
                f'{folder}: the checkpoint could not be read, storage fails: {reason}'
            ) from error
        raise DamagedCheckpoint(
            f'{folder}: the checkpoint can not be restored into this model; it is damaged '
            f'or of another model ({type(error).__name__}: {reason})') from error


def save_deployed(directory: str | os.PathLike, config: ml_collections.ConfigDict,
                  variables: Mapping[str, Any]) -> None:
    """Writes a checkpoint directory that holds a deployed generator only, bit for bit.

    Args:
      directory: made if missing; must hold no checkpoint.
      config: ConfigDict; its `deployed` is set.
      variables: {'params', 'noise', ...} of `build_generator(config, fused=True)`.

    Raises:
      CheckpointError: the variables are not this config's, both sides are listed.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.deployed = True
    check_same_arrays(build.abstract_variables(config, fused=True), variables,
                      'the config', 'the weights')
    storage.path_of(directory).mkdir(parents=True, exist_ok=True)
    manager = checkpoint_manager(directory)
    manager.save(0, args=ocp.args.StandardSave(variables))
    manager.wait_until_finished()
    manager.close()
    # Last: a directory without it is no checkpoint.
    save_config(config, directory)


def check_same_arrays(expected: Any, actual: Any, expected_name: str,
                      actual_name: str | os.PathLike) -> None:
    """Compares names and shapes of two trees.

    Raises:
      CheckpointError: they differ; lists what only one side has and other shapes.
    """
    def shapes(tree):
        return {jax.tree_util.keystr(path, simple=True, separator='/'): tuple(x.shape)
                for path, x in jax.tree_util.tree_leaves_with_path(tree)}
    expected, actual = shapes(expected), shapes(actual)
    lines = [f'only in {expected_name}: {sorted(expected.keys() - actual.keys())}',
             f'only in {actual_name}: {sorted(actual.keys() - expected.keys())}']
    lines += [f'{name}: {expected_name} {expected[name]}, {actual_name} {actual[name]}'
              for name in sorted(expected.keys() & actual.keys())
              if expected[name] != actual[name]]
    if expected != actual:
        raise CheckpointError('arrays do not fit:\n  ' + '\n  '.join(lines))


class _Saved:
    """In place of a manager: a generator that is read whole, with nothing to close."""

    def __init__(self, variables):
        self.variables = variables

    def close(self):
        """Nothing is open."""


def _best_step(manager, config):
    """The best of the steps that were measured as the config says, or None.

    Where none was, those of version 0.1 count, which did not note how they were.
    """
    metric = config.eval.best_metric if 'eval' in config else ''
    measured = {}
    for step in manager.all_steps():
        try:
            figures = (manager.metrics(step) or {}) if metric else {}
        except ValueError as error:
            logging.warning('the figures of iteration %d in %s do not read (%s)', step,
                            manager.directory, str(error).partition('\n')[0])
            continue
        if metric in figures:
            measured.setdefault(figures.get(SETTING, ''), {})[step] = figures[metric]
    values = measured.get(evaluation_setting(config)) or measured.get('')
    if not values:
        return None
    choose = max if config.eval.best_mode == 'max' else min
    return choose(sorted(values, reverse=True), key=values.get)


def set_aside(directory: str | os.PathLike, config: ml_collections.ConfigDict,
              saved: ml_collections.ConfigDict) -> str:
    """A sentence where a run's best is not compared with what is measured from now on.

    Args:
      directory: workdir.
      config: of the run as it goes on.
      saved: of the workdir.

    Returns:
      '' where the evaluation stays as it was, or nothing was evaluated.
    """
    if evaluation_setting(config) == evaluation_setting(saved):
        return ''
    with contextlib.closing(checkpoint_manager(directory, read_only=True)) as manager:
        step = _best_step(manager, saved)
        if step is None:
            return ''
        value = manager.metrics(step)[saved.eval.best_metric]
    return (f'the evaluation has other images or masks now: the best so far, iteration {step} '
            f'({saved.eval.best_metric} {value:.4g}), is kept and not compared, a new best is '
            f'found from here on; --step={step} of the tools takes the old one')


def open_checkpoint(
        directory: str | os.PathLike, step: str | int = 'best'
        ) -> 'tuple[ml_collections.ConfigDict, ocp.CheckpointManager | _Saved, int | None]':
    """Config and read-only manager of a checkpoint directory, and one of its steps.

    Args:
      directory: a training workdir or the output of `tools/from_torch.py`; or what
        `opening.open_bundle` takes: the name of a published generator, hf://owner/name
        or a folder of `Model.save`. Their configs are `deployed`, and then nothing but
        `load_deployed` reads from the manager.
      step: 'best', the latest where none was evaluated; 'latest'; or an iteration.

    Returns:
      config, manager, step; the step is None where it is not known.

    Raises:
      CheckpointError: no checkpoint there, or not that one.
      ValueError: a name or an address whose files can't be had.
    """
    bundle = opening.open_bundle(directory)
    if bundle is not None:
        return bundle.config, _Saved(bundle.variables), bundle.card.step
    config = load_config(directory)
    if not storage.path_of(directory, 'checkpoints').is_dir():
        raise CheckpointError(
            f'{directory} has a config.json but no checkpoints yet: train on, or name another '
            'directory. (What Model.save writes is read from a disk only.)')
    manager = checkpoint_manager(directory, read_only=True)
    steps = sorted(manager.all_steps())
    if not steps:
        raise CheckpointError(f'{directory}/checkpoints holds no finished checkpoint.')
    step = str(step)
    if step == 'latest':
        return config, manager, steps[-1]
    if step == 'best':
        best = _best_step(manager, config)
        return config, manager, steps[-1] if best is None else best
    if not step.isdigit() or int(step) not in steps:
        raise CheckpointError(
            f'{directory} has no checkpoint {step!r}; expected best, latest or one of the '
            f'iterations {", ".join(map(str, steps))}.')
    return config, manager, int(step)


def restore_parts(manager: 'ocp.CheckpointManager', expected: Mapping[str, Any], step: int
                  ) -> dict[str, Any]:
    """Some parts of a training checkpoint; nothing else of it is read.

    Args:
      manager: from `checkpoint_manager`.
      expected: {field of TrainState: tree of arrays or ShapeDtypeStructs}.
      step: which checkpoint.

    Returns:
      dict like `expected`, of host arrays.

    Raises:
      CheckpointError: the checkpoint is of another model; both sides are listed.
    """
    with _reading(manager, step):
        restored = manager.restore(step, args=ocp.args.PyTreeRestore(
            item=expected, partial_restore=True,
            restore_args=ocp.checkpoint_utils.construct_restore_args(expected)))
    # Orbax leaves out what is not there, and takes whatever shapes it finds.
    check_same_arrays(expected, restored, 'the config', f'checkpoint {step}')
    return jax.device_get(restored)


def _restore_average(manager, config, step):
    """The deployed average of a training checkpoint."""
    expected = build.abstract_variables(config)
    restored = restore_parts(
        manager, {'ema': expected.pop('params'), 'variables': expected}, step)
    return {'params': build.deployed_params(config, restored['ema']),
            **restored['variables']}


def load_deployed(directory: str | os.PathLike, step: str | int = 'best'
                  ) -> tuple[ml_collections.ConfigDict, build.AnyGenerator, dict[str, Any]]:
    """The deployed generator of a checkpoint directory, the average of training.

    Every tool's --checkpoint and config.teacher.checkpoint come here.

    Args:
      directory: see `open_checkpoint`.
      step: of `open_checkpoint`.

    Returns:
      config: ConfigDict; `config.model.resolution` is R.
      generator: `Generator` of MI-GAN in its deployed form, or of Co-Mod-GAN.
      variables: {'params', 'noise', ...} of it, host arrays.

    Raises:
      CheckpointError: no checkpoint there, or not of this model.
      storage.StorageError: the bucket that it is in fails.
    """
    return load_deployed_step(directory, step)[:3]


def load_deployed_step(
        directory: str | os.PathLike, step: str | int = 'best'
        ) -> tuple[ml_collections.ConfigDict, build.AnyGenerator, dict[str, Any], int | None]:
    """`load_deployed`, and the iteration that was taken.

    Where the best or the latest is damaged, the newest that reads is taken, and said;
    an iteration asked for by its number has to read.
    """
    config, manager, wanted = open_checkpoint(directory, step)
    generator = build.build_generator(config, fused=True)
    if isinstance(manager, _Saved):
        return config, generator, manager.variables, wanted
    damaged, others = [], []
    if step in ('best', 'latest'):
        others = sorted(set(manager.all_steps()) - {wanted}, reverse=True)
    with contextlib.closing(manager):
        for candidate in [wanted, *others]:
            try:
                variables = _restore_deployed(manager, config, candidate)
            except DamagedCheckpoint as error:
                damaged.append(error)
                continue
            for error in damaged:
                logging.error('%s', error)
            if damaged:
                logging.error('%s: iteration %d is used instead of %d, which is damaged',
                              directory, candidate, wanted)
            return config, generator, variables, candidate
    raise damaged[0]


def _restore_deployed(manager, config, step):
    if config.get('deployed', False):
        return restore(manager, build.abstract_variables(config, fused=True), step)
    return _restore_average(manager, config, step)


def load_generator(directory: str | os.PathLike, seed: int = 0, step: str | int = 'best'
                   ) -> tuple[ml_collections.ConfigDict, Callable[[Array], jax.Array]]:
    """`load_deployed` as one function, with constant noise.

    Args:
      directory: a checkpoint directory.
      seed: of a Co-Mod-GAN's latent, the same for each sample.
      step: of `open_checkpoint`.

    Returns:
      config: ConfigDict; `config.model.resolution` is R.
      generate: f32[B, R, R, 4] (`io.model_input`, mask 1 = known) ->
        f32[B, R, R, 3].
    """
    return load_generator_step(directory, seed, step)[:2]


def load_generator_step(
        directory: str | os.PathLike, seed: int = 0, step: str | int = 'best'
        ) -> tuple[ml_collections.ConfigDict, Callable[[Array], jax.Array], int | None]:
    """`load_generator`, and the iteration that was taken; None where there is none."""
    config, generator, variables, taken = load_deployed_step(directory, step)
    # Flax traces, too.
    paint = lowered.kept(build.make_painter(generator), f'{generator!r}, {flax.__version__}',
                         pathlib.Path(build.__file__).parent)
    on_device = jax.device_put(variables)
    return config, lambda x: paint(on_device, x, np.uint32(seed)), taken


def said(directory: str | os.PathLike, config: ml_collections.ConfigDict, step: int | None
         ) -> str:
    """What a tool has used, in words: 'runs/mine, iteration 1500'.

    Args:
      directory, config, step: see `load_deployed_step`.
    """
    words = storage.shown(directory)
    return f'{words}, iteration {step}' if is_iteration(config, step) else words


def is_iteration(config: ml_collections.ConfigDict, step: int | None) -> bool:
    """Whether a step, see `load_deployed_step`, is of a training that is known."""
    # What from_torch writes has one checkpoint, 0, which is of none.
    return step is not None and not (config.get('deployed', False) and step == 0)
