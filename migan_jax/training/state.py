"""TrainState: networks with their optimisers at the start, warm starts and teachers."""

from collections.abc import Callable
import functools
import os
from typing import Any, NamedTuple

from flax import linen as nn
from flax import struct
from flax import traverse_util
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from migan_jax import checkpoint as checkpoint_lib
from migan_jax.model import build
from migan_jax.model.fuse import unfold
from migan_jax.training.optimizers import lazy_optimizer


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


def build_models(config: ml_collections.ConfigDict) -> Models:
    """Generator, discriminator and optimisers of a config.

    Raises:
      ValueError: the resolution is no power of two from 16, or an unknown dtype or
        kind.
    """
    optim = config.optim
    branches = 0 if build.is_comodgan(config) else config.model.branches
    return Models(
        build.build_generator(config), build.build_discriminator(config),
        lazy_optimizer(optim.g_lr, optim.g_lazy_interval, branches, optim.g_b1),
        lazy_optimizer(optim.d_lr, config.loss.r1_interval, branches))


def _initial_state(models, resolution, key):
    key_g, key_d = jax.random.split(key)
    x = jnp.zeros((1, resolution, resolution, 4))
    g = dict(build.init_generator(models.generator, key_g))
    params_g = g.pop('params')
    d = models.discriminator.init(key_d, x)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params_g=params_g, params_d=d['params'],
        # A copy: donated buffers must not be shared.
        ema=jax.tree.map(jnp.copy, params_g), variables=g,
        path_length=jnp.zeros(()),
        opt_g=models.tx_g.init(params_g), opt_d=models.tx_d.init(d['params']))


def init_state(models: Models, resolution: int, key: jax.Array) -> TrainState:
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


def abstract_state(models: Models, resolution: int) -> TrainState:
    """The shapes and dtypes of `init_state`, nothing computed."""
    return jax.eval_shape(
        functools.partial(_initial_state, models, resolution), jax.random.key(0))


# --- files --------------------------------------------------------------------


def teacher_function(generator: nn.Module) -> Callable:
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


def load_teacher(directory: os.PathLike | str, resolution: int,
                 dtype: str) -> tuple[Callable, Any]:
    """A frozen Co-Mod-GAN teacher.

    Args:
      directory: a checkpoint directory.
      resolution: of the student.
      dtype: of its convolutions, 'float32' or 'bfloat16'.

    Returns:
      teacher: see `teacher_function`.
      variables: host arrays.

    Raises:
      checkpoint_lib.CheckpointError: not a Co-Mod-GAN of this resolution; says what it is.
    """
    config, _, variables = checkpoint_lib.load_deployed(directory)
    if not build.is_comodgan(config):
        raise checkpoint_lib.CheckpointError(
            f'{directory} holds a MI-GAN; the teacher must be a Co-Mod-GAN (from_torch '
            '--kind=comodgan, or trained with configs/comodgan_*.py).')
    if config.model.resolution != resolution:
        raise checkpoint_lib.CheckpointError(
            f'the teacher in {directory} paints {config.model.resolution} x '
            f'{config.model.resolution}, this config trains {resolution} x {resolution}: '
            'take a teacher of that resolution, or change config.model.resolution.')
    config.model.dtype = dtype
    return teacher_function(build.build_generator(config)), variables


def warm_start(state: TrainState, config: ml_collections.ConfigDict,
               directory: os.PathLike | str) -> TrainState:
    """A fresh state with the generator of another checkpoint: fine-tuning.

    A training workdir lends its discriminator, too; what `from_torch` wrote has none, and
    its kernels are unfolded (`fuse.unfold`).

    A generator of lower resolution lends its blocks to a larger one: what the larger has
    besides starts afresh, and so does its discriminator.

    Args:
      state: TrainState at iteration 0.
      config: of the run.
      directory: a checkpoint directory of the same model, or of a MI-GAN that differs
        from it in a lower resolution alone.

    Raises:
      checkpoint_lib.CheckpointError: it is another model; lists the fields that differ.
    """
    source, manager, step = checkpoint_lib.open_checkpoint(directory)
    grows = (not build.is_comodgan(config)
             and source.model.resolution < config.model.resolution)
    # Neither changes what the parameters mean, nor can deployed ones tell.
    ignored = {'dtype'}
    if source.get('deployed', False):
        ignored |= {'branches', 'materialize_branches'}
    if grows:
        ignored.add('resolution')
    if not build.is_comodgan(config):
        ignored.add('comodgan')   # a MI-GAN has none of it
    fields = lambda c: {k: v for k, v in c.model.items() if k not in ignored}
    lines = checkpoint_lib.differing_fields(fields(config), fields(source), 'model.')
    if lines:
        raise checkpoint_lib.CheckpointError(
            f'config.init_from: {directory} holds another model (there -> in this '
            'config):\n  ' + '\n  '.join(lines)
            + '\nSet these fields in the config as they are there.')
    if grows and config.train.freeze_encoder:
        manager.close()
        raise checkpoint_lib.CheckpointError(
            f'train.freeze_encoder is True, but the generator in {directory} is of '
            f'{source.model.resolution} x {source.model.resolution}: the first blocks of '
            'the encoder here would stay as they were drawn; set it to False.')
    if grows:
        manager.close()
        return _grown(state, config, directory)
    if source.get('deployed', False):
        manager.close()
        _, _, variables = checkpoint_lib.load_deployed(directory)
        params = variables.pop('params')
        if not build.is_comodgan(config):
            params = unfold(params, state.params_g)
        state = state.replace(variables={**state.variables, **variables})
    else:
        # Not the optimisers, whose form depends on their settings.
        shapes = lambda tree: jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
        trained = checkpoint_lib.restore_parts(manager, {
            'ema': shapes(state.ema), 'params_d': shapes(state.params_d),
            'variables': shapes(state.variables)}, step)
        manager.close()
        params = trained['ema']
        state = state.replace(
            params_d=trained['params_d'], variables=trained['variables'])
    return _starting_with(state, params)


def _starting_with(state, params):
    # Two copies: donated buffers must not be shared.
    return state.replace(params_g=params, ema=jax.tree.map(np.copy, params))


def _grown(state, config, directory):
    """A fresh state with the blocks that a smaller generator has, too."""
    source, _, variables = checkpoint_lib.load_deployed(directory)
    there = config.copy_and_resolve_references()
    with there.unlocked():
        there.model.resolution = source.model.resolution
    like = build.init_generator(build.build_generator(there), jax.random.key(0))
    params = unfold(variables.pop('params'), like['params'])
    state = state.replace(variables=_with_blocks_of(variables, state.variables))
    return _starting_with(state, _with_blocks_of(params, state.params_g))


def _with_blocks_of(small, large):
    """Arrays of `large`, from `small` where it has one of that name.

    Blocks are named by their resolution; the first of `small` has a fromrgb that
    `large` has elsewhere.
    """
    small = traverse_util.flatten_dict(small)
    return traverse_util.unflatten_dict({
        path: np.copy(small[path]) if path in small else array
        for path, array in traverse_util.flatten_dict(large).items()})
