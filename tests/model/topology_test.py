"""The walk against the network's own parameters."""

import jax
import pytest

from configs import default
from migan_jax.model import topology
from migan_jax.model import build


class Trace:
    """Values are words for what made them."""

    def block(self, x, layer):
        return f'{layer.name}{layer.resolution}({x})'

    fromrgb = torgb = block

    def add(self, x, y):
        return f'{x}+{y}'

    def up2(self, image, resolution):
        return f'up{resolution}({image})'


def traced(config, fused):
    """Shapes of the variables that a generator's init makes."""
    generator = build.build_generator(config, fused=fused)
    return jax.eval_shape(lambda: build.init_generator(generator, jax.random.key(0)))


@pytest.mark.parametrize('resolution', [16, 256])
def test_every_layer_of_the_network_is_walked_once(resolution):
    config = default.get_config()
    config.model.resolution = resolution
    params = traced(config, fused=True)['params']
    paths = {tuple(key.key for key in path[:3])
             for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    layers = topology.layers(resolution)
    assert sorted(layer.path for layer in layers) == sorted(paths)
    for layer in layers:
        if layer.name == 'conv2' and layer.part == 'encoder':
            kernel = layer.of(params)['pointwise']['kernel']
            widths = {r: layer.of(params)['depthwise']['kernel'].shape[-1]
                      for layer in layers if layer.name == 'conv2'
                      for r in [layer.resolution]}
            assert kernel.shape[-2:] == (widths[layer.read], widths[layer.written])


def test_order_at_16():
    encoder8 = 'conv28(conv18(conv216(conv116(fromrgb16(x)))))'
    skips = {16: 'conv116(fromrgb16(x))', 8: 'conv18(conv216(conv116(fromrgb16(x))))',
             4: f'conv14({encoder8})'}
    x = f'conv24({skips[4]})'
    image = None
    for r in (4, 8, 16):
        x = f'conv2{r}(conv1{r}({x})+{skips[r]})'
        rgb = f'torgb{r}({x})'
        image = rgb if image is None else f'up{r}({image})+{rgb}'
    assert topology.walk(Trace(), 'x', 16) == image


@pytest.mark.parametrize('fused', [True, False])
@pytest.mark.parametrize('changes', [
    {}, {'branches': 0}, {'materialize_branches': True}, {'depthwise': False},
    {'noise_at_4x4': False}, {'fill': True, 'fill_passes': 2},
    {'resolution': 512, 'dtype': 'bfloat16'}, {'ch_base': 2048, 'ch_max': 48}])
def test_variables_are_those_of_init(changes, fused):
    config = default.get_config()
    config.model.resolution = 64
    config.model.update(changes)
    assert build.abstract_variables(config, fused=fused) == traced(config, fused)
