"""Networks from a config."""

from collections.abc import Callable, Mapping
from typing import Any, TYPE_CHECKING

import jax
import jax.numpy as jnp

from migan_jax.devices import Array
from migan_jax.model import comodgan
from migan_jax.model.discriminator import Discriminator
from migan_jax.model.fuse import fuse
from migan_jax.model.generator import Generator
from migan_jax.model.layers import check_resolution
from migan_jax.model.layers import ConvSpec
from migan_jax.model import topology

if TYPE_CHECKING:
    import ml_collections

AnyGenerator = Generator | comodgan.Generator


def activation_dtype(name: str) -> jax.typing.DTypeLike:
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


def conv_spec(model_config: 'ml_collections.ConfigDict', *, fused: bool = False) -> ConvSpec:
    """`layers.ConvSpec` of config.model."""
    return ConvSpec(
        branches=model_config.branches,
        materialize_branches=model_config.materialize_branches,
        fused=fused, depthwise=model_config.depthwise,
        dtype=activation_dtype(model_config.dtype))


def is_comodgan(config: 'ml_collections.ConfigDict') -> bool:
    """Whether config.model describes a Co-Mod-GAN, not a MI-GAN."""
    if config.model.kind not in ('migan', 'comodgan'):
        raise ValueError(f'config.model.kind is {config.model.kind!r}; expected migan '
                         'or comodgan.')
    return config.model.kind == 'comodgan'


def fill_passes(config: 'ml_collections.ConfigDict') -> int | None:
    """Passes of the starting fill (`fill.starting_fill`) that a config's model paints on.

    Returns:
      None where the model has no starting fill, as the paper's. 0 is a fill without
      passes; configs from before there were passes, or a fill, mean 0 and None.
    """
    model = config.model
    return model.get('fill_passes', 0) if model.get('fill', False) else None


def build_generator(config: 'ml_collections.ConfigDict', *, fused: bool = False
                    ) -> AnyGenerator:
    """Generator of a config, in its training form or deployed (`fused`).

    Co-Mod-GAN has one form only.
    """
    model = config.model
    check_resolution(model.resolution)
    if is_comodgan(config):
        if fill_passes(config) is not None:
            raise ValueError('config.model.fill is True: a Co-Mod-GAN has no starting '
                             'fill; set it to False.')
        extra = model.comodgan
        return comodgan.Generator(
            model.resolution, model.ch_base, model.ch_max, extra.z_dim, extra.w_dim,
            extra.mapping_layers, extra.global_dim, extra.dropout,
            activation_dtype(model.dtype))
    return Generator(model.resolution, model.ch_base, model.ch_max,
                     conv_spec(model, fused=fused), model.noise_at_4x4,
                     fill_passes(config))


def build_discriminator(config: 'ml_collections.ConfigDict'
                        ) -> Discriminator | comodgan.Discriminator:
    """The discriminator that goes with a config's generator."""
    model = config.model
    if is_comodgan(config):
        return comodgan.Discriminator(model.resolution, model.ch_base, model.ch_max,
                                      activation_dtype(model.dtype))
    return Discriminator(model.resolution, model.ch_base, model.ch_max, conv_spec(model))


def init_generator(generator: AnyGenerator, key: jax.Array) -> dict[str, Any]:
    """Variables of a generator at the start of training.

    Args:
      generator: of MI-GAN in any form, or of Co-Mod-GAN.
      key: a JAX key.

    Returns:
      {'params', 'noise', ...}; with a starting fill all torgb layers are 0.
    """
    x = jnp.zeros((1, generator.resolution, generator.resolution, 4))
    variables = generator.init(key, x, 'none', generator.latents(jax.random.split(key, 1)))
    if isinstance(generator, Generator) and generator.fill_passes is not None:
        # What is added to a good start begins as nothing; random colours over it would
        # first have to be unlearned.
        of_torgb = lambda path: 'torgb' in jax.tree_util.keystr(
            path, simple=True, separator='/').split('/')
        variables = dict(variables, params=jax.tree_util.tree_map_with_path(
            lambda path, x: jnp.zeros_like(x) if of_torgb(path) else x,
            variables['params']))
    return variables


def deployed_params(config: 'ml_collections.ConfigDict', params: Mapping[str, Any]
                    ) -> Mapping[str, Any]:
    """Parameters of `build_generator(config, fused=True)` from trained ones."""
    return params if is_comodgan(config) else jax.device_get(fuse(params))


def abstract_variables(config: 'ml_collections.ConfigDict', *, fused: bool = False
                       ) -> dict[str, Any]:
    """Shapes and dtypes of the variables of `build_generator(config, fused=fused)`."""
    generator = build_generator(config, fused=fused)
    if isinstance(generator, Generator):
        return topology.abstract_variables(generator)
    # The key within: outside it would be computed, by two compiled programs.
    return jax.eval_shape(lambda: init_generator(generator, jax.random.key(0)))


def deployed_forward(generator: AnyGenerator, variables: Mapping[str, Any],
                     x: Array, z: jax.Array | None = None) -> jax.Array:
    """What a generator paints once training is over: with constant noise.

    Every evaluation, tool and export applies a generator through this function.

    Args:
      generator: of MI-GAN in any form, or of Co-Mod-GAN.
      variables: {'params', 'noise', ...} of it.
      x: f32[B, R, R, 4], `io.model_input` with mask 1 = known, 0 = hole.
      z: latents f32[B, Z] of a Co-Mod-GAN (`generator.latents`); MI-GAN has none.

    Returns:
      f32[B, R, R, 3] in about [-1, 1], not composited.
    """
    return generator.apply(variables, x, 'const', z)[0]


def make_painter(generator: AnyGenerator) -> Callable[..., jax.Array]:
    """`deployed_forward`, compiled, with one latent for all samples.

    A sample's neighbours in a batch don't matter then.

    Returns:
      jitted (variables, x, seed) -> f32[B, R, R, 3]; seed, u32[], is that of a
      Co-Mod-GAN's latent.
    """
    def paint(variables, x, seed):
        key = jax.random.fold_in(jax.random.key(seed), 0)
        z = generator.latents(jnp.broadcast_to(key, (len(x),)))
        return deployed_forward(generator, variables, x, z)

    return jax.jit(paint)
