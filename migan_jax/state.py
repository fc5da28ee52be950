"""Models and TrainState from a config; saving and restoring them.

A checkpoint directory (a training workdir, or what `tools/from_torch.py` writes):

    DIR/config.json              everything a tool needs to know about the model
    DIR/checkpoints/<step>/      Orbax: state, and the evaluation's metrics
"""

import contextlib
import functools
import json
import logging as py_logging
import math
from typing import Any, NamedTuple

from absl import logging
from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from migan_jax import comodgan
from migan_jax import storage
from migan_jax.discriminator import Discriminator
from migan_jax.fuse import fuse
from migan_jax.fuse import unfold
from migan_jax.generator import Generator
from migan_jax.layers import check_resolution
from migan_jax.layers import ConvSpec


# The devices of one run, in every pmapped function.
AXIS = 'device'


class CheckpointError(ValueError):
    """A checkpoint directory can't be used; the message says what to do."""


@struct.dataclass
class TrainState:
    """Everything that training changes, arrays only.

    Attributes:
      step: i32[], finished iterations.
      params_g, params_d: parameters of generator and discriminator.
      ema: exponential moving average of params_g; what is evaluated and exported.
      variables: the generator's other collections: constant noise planes and, of
        Co-Mod-GAN, running means.
      path_length: f32[], running mean of the path lengths; 0 without that term.
      opt_g, opt_d: optimiser states; the regularisers' steps share them.
    """
    step: jax.Array
    params_g: Any
    params_d: Any
    ema: Any
    variables: Any
    path_length: jax.Array
    opt_g: Any
    opt_d: Any


class Models(NamedTuple):
    """Networks and their optimisers."""
    generator: nn.Module
    discriminator: nn.Module
    tx_g: optax.GradientTransformation
    tx_d: optax.GradientTransformation


def sanitize(gradients):
    """NaN -> 0, +-inf -> +-1e5, per leaf."""
    return jax.tree.map(
        lambda g: jnp.nan_to_num(g, nan=0.0, posinf=1e5, neginf=-1e5), gradients)


def _scale_branch_sums(factor):
    """Multiplies the updates of every `branch_sum` by `factor`."""
    def scale(path, update):
        return update * factor if path[-1].key == 'branch_sum' else update
    return optax.stateless(
        lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def make_optimizer(learning_rate, b2, eps=1e-8, branches=0):
    """Adam with b1 = 0 on sanitised gradients.

    b1 = 0 needs no first moment: RMS scaling with bias correction is the same.
    A kernel trained as the sum s = sum_i w_i / sqrt(n) of n equal-gradient branches
    follows the trajectory of the branches: each sees dL/ds / sqrt(n), and equal
    updates u of all branches move s by sqrt(n) * u.

    Args:
      learning_rate: of one branch.
      b2: decay of the second moment.
      eps: added to the root of the second moment.
      branches: n of the parameters called `branch_sum`; 0 if there are none.
    """
    root = float(max(branches, 1))**0.5
    chain = optax.chain(
        _scale_branch_sums(1 / root),
        optax.stateless(lambda updates, _: sanitize(updates)),
        optax.scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True),
        _scale_branch_sums(root),
        optax.scale(-learning_rate),
    )

    def update(updates, state, params=None):
        # optax's bias correction mixes dtypes, which strict promotion forbids.
        with jax.numpy_dtype_promotion('standard'):
            return chain.update(updates, state, params)

    return optax.GradientTransformation(chain.init, update)


def lazy_optimizer(learning_rate, interval, branches):
    """`make_optimizer` with the lazy-regularisation correction.

    Every `interval` iterations (0: never) a regulariser takes one more step with the
    same optimiser: learning rate and log b2 shrink by interval / (interval + 1)
    (Karras et al., Analyzing and improving the image quality of StyleGAN, 2020).
    """
    ratio = interval / (interval + 1) if interval else 1.0
    return make_optimizer(learning_rate * ratio, 0.99**ratio, branches=branches)


def activation_dtype(name):
    """The dtype that a config calls 'float32' or 'bfloat16'.

    With JAX_ENABLE_X64=1 also 'float64', for comparisons without rounding.
    """
    dtypes = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
    if jax.config.jax_enable_x64:
        dtypes['float64'] = jnp.float64
    if name not in dtypes:
        raise ValueError(f'dtype is {name!r}; expected one of {sorted(dtypes)} '
                         '(config.model.dtype, config.teacher.dtype).')
    return dtypes[name]


def conv_spec(model_config, *, fused=False):
    """`layers.ConvSpec` of config.model."""
    return ConvSpec(
        branches=model_config.branches,
        materialize_branches=model_config.materialize_branches,
        fused=fused, depthwise=model_config.depthwise,
        dtype=activation_dtype(model_config.dtype))


def is_comodgan(config):
    """Whether config.model describes a Co-Mod-GAN, not a MI-GAN."""
    if config.model.kind not in ('migan', 'comodgan'):
        raise ValueError(f'config.model.kind is {config.model.kind!r}; expected migan '
                         'or comodgan.')
    return config.model.kind == 'comodgan'


def build_generator(config, *, fused=False):
    """Generator of a config, in its training form or deployed (`fused`).

    Co-Mod-GAN has one form only.
    """
    model = config.model
    check_resolution(model.resolution)
    if is_comodgan(config):
        extra = model.comodgan
        return comodgan.Generator(
            model.resolution, model.ch_base, model.ch_max, extra.z_dim, extra.w_dim,
            extra.mapping_layers, extra.global_dim, extra.dropout,
            activation_dtype(model.dtype))
    return Generator(model.resolution, model.ch_base, model.ch_max,
                     conv_spec(model, fused=fused), model.noise_at_4x4)


def build_discriminator(config):
    """The discriminator that goes with a config's generator."""
    model = config.model
    if is_comodgan(config):
        return comodgan.Discriminator(model.resolution, model.ch_base, model.ch_max,
                                      activation_dtype(model.dtype))
    return Discriminator(model.resolution, model.ch_base, model.ch_max, conv_spec(model))


def build_models(config):
    """Generator, discriminator and optimisers of a config.

    Raises:
      ValueError: the resolution is no power of two from 16, or an unknown dtype or
        kind.
    """
    optim = config.optim
    branches = 0 if is_comodgan(config) else config.model.branches
    return Models(
        build_generator(config), build_discriminator(config),
        lazy_optimizer(optim.g_lr, optim.g_lazy_interval, branches),
        lazy_optimizer(optim.d_lr, config.loss.r1_interval, branches))


def init_generator(generator, key):
    """Variables of a generator at the start of training.

    Args:
      generator: of MI-GAN in any form, or of Co-Mod-GAN.
      key: a JAX key.

    Returns:
      {'params', 'noise', ...}.
    """
    x = jnp.zeros((1, generator.resolution, generator.resolution, 4))
    return generator.init(key, x, 'none', generator.latents(jax.random.split(key, 1)))


def _initial_state(models, resolution, key):
    key_g, key_d = jax.random.split(key)
    x = jnp.zeros((1, resolution, resolution, 4))
    g = dict(init_generator(models.generator, key_g))
    params_g = g.pop('params')
    d = models.discriminator.init(key_d, x)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params_g=params_g, params_d=d['params'],
        # A copy: donated buffers must not be shared.
        ema=jax.tree.map(jnp.copy, params_g), variables=g,
        path_length=jnp.zeros(()),
        opt_g=models.tx_g.init(params_g), opt_d=models.tx_d.init(d['params']))


def init_state(models, resolution, key):
    """TrainState at iteration 0.

    Args:
      models: `Models`.
      resolution: R.
      key: a JAX key.
    """
    # Compiled, because eager initialisation runs the forward pass op by op; barely
    # optimised on CPU, because this runs once and LLVM takes longer than the run.
    options = ({'xla_backend_optimization_level': 0}
               if jax.default_backend() == 'cpu' else None)
    initial = functools.partial(_initial_state, models, resolution)
    return jax.jit(initial, compiler_options=options)(key)


def abstract_state(models, resolution):
    """The shapes and dtypes of `init_state`, nothing computed."""
    return jax.eval_shape(
        functools.partial(_initial_state, models, resolution), jax.random.key(0))


# --- files --------------------------------------------------------------------


def quiet_logs():
    """Hides what Orbax logs, and JAX below errors.

    Orbax writes forty lines about each save and restore and hundreds about a failed one,
    JAX one for every accelerator that a machine has not got.  What goes wrong there is
    raised; the loop and the tools say the rest.  For the programs to call, not for the
    library.
    """
    logging.get_absl_handler().addFilter(
        lambda record: 'orbax' not in record.pathname
        and ('xla_bridge' not in record.pathname or record.levelno >= py_logging.ERROR))


def _config_path(directory):
    return storage.path_of(directory, 'config.json')


def has_config(directory):
    """Whether a run was started in a directory."""
    return _config_path(directory).exists()


def save_config(config, directory):
    """Writes DIR/config.json atomically."""
    text = json.dumps(json.loads(config.to_json_best_effort()), indent=2, sort_keys=True)
    storage.write_atomically(_config_path(directory), (text + '\n').encode())


def load_config(directory):
    """The ConfigDict saved in a checkpoint directory.

    Raises:
      CheckpointError: there is none, or it is not readable.
    """
    path = _config_path(directory)
    if not path.exists():
        raise CheckpointError(
            f'{directory} holds no config.json: it is not a checkpoint directory. '
            'Expected a workdir of migan_jax.main or the output of from_torch.')
    try:
        return ml_collections.ConfigDict(json.loads(path.read_text()))
    except ValueError as error:
        raise CheckpointError(f'{path} is not valid JSON: {error}') from error


def _as_plain(value):
    """Tuples and lists alike, as JSON has only lists."""
    return json.loads(json.dumps(value))


def differing_fields(config, saved, prefix=''):
    """Lines 'field: saved value -> value now' where two configs differ."""
    lines = []
    for name in sorted(set(config) | set(saved)):
        ours, theirs = config.get(name, 'absent'), saved.get(name, 'absent')
        if isinstance(ours, ml_collections.ConfigDict) and isinstance(
                theirs, ml_collections.ConfigDict):
            lines += differing_fields(ours, theirs, f'{prefix}{name}.')
        elif _as_plain(ours) != _as_plain(theirs):
            lines.append(f'{prefix}{name}: {theirs} -> {ours}')
    return lines


def check_resumable(config, directory):
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


def checkpoint_manager(directory, *, keep_last=2, metric='', mode='max', read_only=False):
    """Orbax CheckpointManager of DIR/checkpoints: asynchronous, last K and best.

    Args:
      directory: workdir.
      keep_last: how many of the newest to keep; the best is kept besides.
      metric: name of the metric that decides what is best; '' for none.
      mode: 'max' or 'min'.
      read_only: for tools.
    """
    best = None
    if metric:
        best = lambda metrics: metrics.get(metric, -math.inf if mode == 'max' else math.inf)
    policies = [preservation_policy.LatestN(keep_last)]
    if best:
        policies.append(preservation_policy.BestN(
            get_metric_fn=best, reverse=mode == 'min', n=1, keep_checkpoints_without_metrics=False))
    options = ocp.CheckpointManagerOptions(
        best_fn=best, best_mode=mode, create=not read_only, read_only=read_only,
        preservation_policy=None if read_only else (
            preservation_policy.AnyPreservationPolicy(policies)),
        # What an interrupted save left.
        cleanup_tmp_directories=not read_only,
        enable_async_checkpointing=not read_only)
    return ocp.CheckpointManager(storage.path_of(directory, 'checkpoints'), options=options)


def has_checkpoint(directory):
    """Whether a finished checkpoint lies in DIR/checkpoints."""
    if not storage.path_of(directory, 'checkpoints').is_dir():
        return False
    with contextlib.closing(checkpoint_manager(directory, read_only=True)) as manager:
        return manager.latest_step() is not None


def replicate(tree, devices=None):
    """One copy per device, leading axis = devices, placed as pmapped functions place.

    flax's `replicate` names its mesh axis differently from the results of the steps: the
    first step would be compiled twice, once for each. It also compiles three functions
    for each shape in the tree.
    """
    count = jax.local_device_count() if devices is None else len(devices)
    copies = jax.tree.map(lambda x: np.broadcast_to(x, (count, *np.shape(x))), tree)
    return jax.pmap(lambda x: x, AXIS, devices=devices)(copies)


def unreplicate(tree):
    """First local copy of a replicated tree, on the host.

    Not `x[0]`: indexing a sharded array compiles a gather over devices.
    """
    return jax.device_get(jax.tree.map(lambda x: x.addressable_data(0)[0], tree))


def save(manager, state, metrics=None):
    """Saves an unreplicated state; returns before the files are written."""
    manager.save(int(state.step), args=ocp.args.StandardSave(state), metrics=metrics)


def restore(manager, state, step=None):
    """Restores a state.

    Args:
      manager: from `checkpoint_manager`.
      state: a TrainState of the right structure (arrays or ShapeDtypeStructs).
      step: which; the latest by default.

    Returns:
      TrainState of host arrays.

    Raises:
      CheckpointError: the checkpoint does not fit `state`.
    """
    step = manager.latest_step() if step is None else step
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    try:
        restored = manager.restore(step, args=ocp.args.StandardRestore(abstract))
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise CheckpointError(
            f'checkpoint {step} in {manager.directory} can not be restored into this '
            f'model: {error}') from error
    return jax.device_get(restored)


def deployed_params(config, params):
    """Parameters of `build_generator(config, fused=True)` from trained ones."""
    return params if is_comodgan(config) else jax.device_get(fuse(params))


def save_deployed(directory, config, variables):
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
    check_same_arrays(abstract_deployed(config), variables, 'the config', 'the weights')
    storage.path_of(directory).mkdir(parents=True, exist_ok=True)
    manager = checkpoint_manager(directory)
    manager.save(0, args=ocp.args.StandardSave(variables))
    manager.wait_until_finished()
    manager.close()
    # Last: a directory without it is no checkpoint.
    save_config(config, directory)


def abstract_deployed(config):
    """Shapes and dtypes of the variables of `build_generator(config, fused=True)`."""
    generator = build_generator(config, fused=True)
    return jax.eval_shape(
        functools.partial(init_generator, generator), jax.random.key(0))


def check_same_arrays(expected, actual, expected_name, actual_name):
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


def open_checkpoint(directory):
    """Config and read-only manager of a checkpoint directory, and its best step.

    Returns:
      config, manager, step (best, else latest).

    Raises:
      CheckpointError: no checkpoint there.
    """
    config = load_config(directory)
    if not storage.path_of(directory, 'checkpoints').is_dir():
        raise CheckpointError(f'{directory} has a config.json but no checkpoints yet: '
                              'train on, or name another directory.')
    manager = checkpoint_manager(
        directory, metric=config.eval.best_metric, mode=config.eval.best_mode,
        read_only=True)
    step = manager.best_step()
    step = manager.latest_step() if step is None else step
    if step is None:
        raise CheckpointError(f'{directory}/checkpoints holds no finished checkpoint.')
    return config, manager, step


def load_deployed(directory):
    """The deployed generator of a checkpoint directory: best, else latest, EMA.

    Args:
      directory: a training workdir or the output of `tools/from_torch.py`.

    Returns:
      config: ConfigDict; `config.model.resolution` is R.
      generator: `Generator` of MI-GAN in its deployed form, or of Co-Mod-GAN.
      variables: {'params', 'noise', ...} of it, host arrays.

    Raises:
      CheckpointError: no checkpoint there, or not of this model.
    """
    config, manager, step = open_checkpoint(directory)
    if config.get('deployed', False):
        variables = restore(manager, abstract_deployed(config), step)
    else:
        models = build_models(config)
        state = restore(manager, abstract_state(models, config.model.resolution), step)
        variables = {'params': deployed_params(config, state.ema), **state.variables}
    manager.close()
    return config, build_generator(config, fused=True), variables


def load_generator(directory, seed=0):
    """`load_deployed` as one function, with constant noise.

    Args:
      directory: a checkpoint directory.
      seed: of a Co-Mod-GAN's latents, sample i of a batch always having the same.

    Returns:
      config: ConfigDict; `config.model.resolution` is R.
      generate: jitted f32[B, R, R, 4] (`inpaint.model_input`, mask 1 = known) ->
        f32[B, R, R, 3].
    """
    config, generator, variables = load_deployed(directory)

    def generate(x):
        z = generator.latents(jax.vmap(jax.random.fold_in, (None, 0))(
            jax.random.key(seed), jnp.arange(len(x))))
        return generator.apply(variables, x, 'const', z)[0]

    return config, jax.jit(generate)


def teacher_function(generator):
    """A Co-Mod-GAN generator as the teacher of `steps.make_steps`.

    Returns:
      (variables, x, key) -> {r: f32[B, r, r, 3]}, the torgb outputs in evaluation mode
      (no dropout), latent and noise drawn from the key.
    """
    def teacher(variables, x, key):
        noise, latent = jax.random.split(key)
        z = generator.latents(jax.random.split(latent, len(x)))
        return generator.apply(variables, x, 'random', z, rngs={'noise': noise})[1]

    return teacher


def load_teacher(directory, resolution, dtype):
    """A frozen Co-Mod-GAN teacher.

    Args:
      directory: a checkpoint directory.
      resolution: of the student.
      dtype: of its convolutions, 'float32' or 'bfloat16'.

    Returns:
      teacher: see `teacher_function`.
      variables: host arrays.

    Raises:
      CheckpointError: not a Co-Mod-GAN of this resolution; says what it is.
    """
    config, _, variables = load_deployed(directory)
    if not is_comodgan(config):
        raise CheckpointError(
            f'{directory} holds a MI-GAN; the teacher must be a Co-Mod-GAN (from_torch '
            '--kind=comodgan, or trained with configs/comodgan_*.py).')
    if config.model.resolution != resolution:
        raise CheckpointError(
            f'the teacher in {directory} paints {config.model.resolution} x '
            f'{config.model.resolution}, this config trains {resolution} x {resolution}: '
            'take a teacher of that resolution, or change config.model.resolution.')
    config.model.dtype = dtype
    return teacher_function(build_generator(config)), variables


def warm_start(state, config, directory):
    """A fresh state with the generator of another checkpoint: fine-tuning.

    Of a training workdir the discriminator comes along too; what `from_torch` wrote
    has none, and its kernels are unfolded (`fuse.unfold`).

    Args:
      state: TrainState at iteration 0.
      config: of the run.
      directory: a checkpoint directory of the same model.

    Raises:
      CheckpointError: it is another model; lists the fields that differ.
    """
    source, manager, step = open_checkpoint(directory)
    # Neither changes what the parameters mean, nor can deployed ones tell.
    ignored = {'dtype'}
    if source.get('deployed', False):
        ignored |= {'branches', 'materialize_branches'}
    fields = lambda c: {k: v for k, v in c.model.items() if k not in ignored}
    lines = differing_fields(fields(config), fields(source), 'model.')
    if lines:
        raise CheckpointError(
            f'config.init_from: {directory} holds another model (there -> in this '
            'config):\n  ' + '\n  '.join(lines)
            + '\nSet these fields in the config as they are there.')
    if source.get('deployed', False):
        manager.close()
        _, _, variables = load_deployed(directory)
        params = variables.pop('params')
        if not is_comodgan(config):
            params = unfold(params, state.params_g)
        state = state.replace(variables={**state.variables, **variables})
    else:
        trained = restore(manager, state, step)
        manager.close()
        params = trained.ema
        state = state.replace(params_d=trained.params_d, variables=trained.variables)
    # Two copies: donated buffers must not be shared.
    return state.replace(params_g=params, ema=jax.tree.map(np.copy, params))
