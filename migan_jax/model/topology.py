"""The deployed MI-GAN generator's shape (Table S.4), walked once for every format.

A format brings an object that makes its operators; `walk` calls it layer by layer, from
the input to the image. What a format alone knows (its layout, its convolutions, how it
filters) is in that object, and which layer follows which is here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from migan_jax.model.generator import Generator
from migan_jax.model.layers import channels
from migan_jax.model.layers import kernel_form
from migan_jax.model.layers import resolutions


def check_deployable(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError unless config.model has the shape that is walked here."""
    if not config.model.depthwise:
        raise ValueError('config.model.depthwise is False: plain 3x3 convolutions have '
                         'no deployed form; export a depthwise-separable model.')


class Layer(NamedTuple):
    """One layer of the generator.

    Attributes:
      part: 'encoder' or 'decoder'.
      resolution: r of the block b{r} that it is in.
      name: 'fromrgb', 'torgb', or of a depthwise-separable block 'conv1' or 'conv2'.
      up, down: whether it changes the resolution by 2.
    """
    part: str
    resolution: int
    name: str
    up: bool = False
    down: bool = False

    @property
    def path(self) -> tuple[str, str, str]:
        """Where its parameters lie among the generator's."""
        return self.part, f'b{self.resolution}', self.name

    @property
    def read(self) -> int:
        """Resolution of what it takes."""
        return self.resolution // 2 if self.up else self.resolution

    @property
    def written(self) -> int:
        """Resolution of what it gives."""
        return self.resolution // 2 if self.down else self.resolution

    @property
    def in_decoder(self) -> bool:
        return self.part == 'decoder'

    def __str__(self) -> str:
        return '.'.join(self.path)

    def of(self, tree: Mapping[str, Any]) -> Any:
        """Its own part of a nested dict of parameters."""
        for name in self.path:
            tree = tree[name]
        return tree

    def put(self, tree: dict[str, Any], own: Any) -> None:
        """Makes `own` its part of a nested dict."""
        *outer, name = self.path
        for key in outer:
            tree = tree.setdefault(key, {})
        tree[name] = own


class Operators(Protocol):
    """What a format makes of each step; a value is whatever the format works on."""

    def fromrgb(self, x: Any, layer: Layer) -> Any:
        """1x1 convolution of the input with bias and activation."""

    def block(self, x: Any, layer: Layer) -> Any:
        """Depthwise 3x3, activation, [down], 1x1, [up], [noise], activation."""

    def torgb(self, x: Any, layer: Layer) -> Any:
        """1x1 convolution to 3 channels with bias."""

    def add(self, x: Any, y: Any) -> Any:
        """The sum of two values of one shape; both are read for the last time."""

    def up2(self, image: Any, resolution: int, /) -> Any:
        """FIR upsampling of the image to `resolution`; it is read for the last time."""


def walk(operators: Operators, x: Any, resolution: int) -> Any:
    """The generator from its input [mask - 0.5, image * mask], mask 1 = known.

    Args:
      operators: see `Operators`.
      x: the input, four channels of R x R.
      resolution: R.

    Returns:
      The image, three channels of R x R, as `operators` made it.
    """
    downward = (*resolutions(resolution), 4)
    skips = {}
    for r in downward:
        if r == resolution:
            x = operators.fromrgb(x, Layer('encoder', r, 'fromrgb'))
        skips[r] = operators.block(x, Layer('encoder', r, 'conv1'))
        x = operators.block(skips[r], Layer('encoder', r, 'conv2', down=r > 4))
    image = None
    for r in reversed(downward):
        x = operators.block(x, Layer('decoder', r, 'conv1', up=r > 4))
        x = operators.add(x, skips[r])
        x = operators.block(x, Layer('decoder', r, 'conv2'))
        rgb = operators.torgb(x, Layer('decoder', r, 'torgb'))
        # Painting branch: image_r = up2(image_{r/2}) + torgb_r.
        image = rgb if image is None else operators.add(
            operators.up2(image, r), rgb)
    return image


class _Lister:
    """Notes the layers that it is shown."""

    def __init__(self):
        self.layers = []

    def block(self, x, layer):
        self.layers.append(layer)
        return layer

    fromrgb = torgb = block

    def add(self, x, y):
        return x

    def up2(self, image, resolution):
        return image


def layers(resolution: int) -> list[Layer]:
    """The layers of a generator for R x R, in order."""
    lister = _Lister()
    walk(lister, None, resolution)
    return lister.layers


def abstract_variables(generator: Generator) -> dict[str, Any]:
    """Shapes and dtypes of a generator's variables, in any form: what its init makes.

    From tracing init they would take a quarter of a second, of every program that
    paints a picture.

    Returns:
      {'params', 'noise'}, nested dicts of ShapeDtypeStruct.
    """
    spec = generator.spec
    ch = lambda r: channels(r, generator.ch_base, generator.ch_max)
    array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.result_type(float))

    def kernel(*shape, use_branches=True):
        name, shape = kernel_form(shape, spec, use_branches)
        return {name: array(*shape)}

    variables = {'params': {}, 'noise': {}}
    for layer in layers(generator.resolution):
        ci, co, r = ch(layer.read), ch(layer.written), layer.resolution
        if layer.name == 'fromrgb':
            own = {'pointwise': kernel(1, 1, 4, co, use_branches=False)}
        elif layer.name == 'torgb':
            co = 3
            own = {'pointwise': kernel(1, 1, ci, co)}
        elif spec.depthwise:
            own = {'depthwise': kernel(3, 3, 1, ci), 'pointwise': kernel(1, 1, ci, co)}
        else:
            own = {'conv': kernel(3, 3, ci, co)}
        own['bias'] = array(ci if 'depthwise' in own else co)
        if (layer.in_decoder and layer.name != 'torgb'
                and (r > 4 or generator.noise_at_4x4)):
            own['noise'] = {'strength': array()}
            layer.put(variables['noise'], {
                'noise': {'const': jax.ShapeDtypeStruct((r, r), jnp.float32)}})
        layer.put(variables['params'], own)
    return variables


def noise_planes(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{layer: f32[r, r]}, noise times strength; strengths of 0 are left out.

    Args:
      variables: {'params', 'noise'} of a generator, MI-GAN or Co-Mod-GAN.
    """
    planes = {}
    for block_name, block in variables['params']['decoder'].items():
        for layer_name, layer in block.items():
            if 'noise' not in layer:
                continue
            strength = np.asarray(layer['noise']['strength'])
            if strength == 0:
                continue
            constant = variables['noise']['decoder'][block_name][layer_name]
            planes[f'decoder.{block_name}.{layer_name}'] = strength * np.asarray(
                constant['noise']['const'])
    return planes
