"""The networks against the supplement's Tables S.4 and S.5, layer by layer."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest

from migan_jax.weights import torch_map
from migan_jax.model.discriminator import Discriminator
from migan_jax.model import fuse
from migan_jax.model.generator import Generator
from migan_jax.model import layers
from migan_jax.model.layers import ConvSpec
from migan_jax.model import ops
import published_forms

# Channels at each resolution, as the tables print them.
CHANNELS = {
    256: {256: 128, 128: 256, 64: 512, 32: 512, 16: 512, 8: 512, 4: 512},
    512: {512: 64, 256: 128, 128: 256, 64: 512, 32: 512, 16: 512, 8: 512, 4: 512},
}


def dw_sep(ci, co, noise=False, branches=9):
    """Parameters of dw-sep 3x3 (ci -> co): depthwise, its bias, pointwise, noise."""
    return branches * (9 * ci + ci * co) + ci + noise


def generator_rows(r_max, noise_at_4x4):
    """(layer, output resolution, channels, parameters) of Table S.4 from top to bottom."""
    ch = CHANNELS[r_max]
    rows = [('encoder/fromrgb', r_max, ch[r_max], 4 * ch[r_max] + ch[r_max])]
    for r in sorted(ch, reverse=True):
        down = r // 2 if r > 4 else 4
        rows += [(f'encoder/b{r}/conv1', r, ch[r], dw_sep(ch[r], ch[r])),
                 (f'encoder/b{r}/conv2', down, ch[down], dw_sep(ch[r], ch[down]))]
    for r in sorted(ch):
        low = r // 2 if r > 4 else 4
        noise = r > 4 or noise_at_4x4
        rows += [(f'decoder/b{r}/conv1', r, ch[r], dw_sep(ch[low], ch[r], noise)),
                 (f'decoder/b{r}/conv2', r, ch[r], dw_sep(ch[r], ch[r], noise)),
                 (f'decoder/b{r}/torgb', r, 3, 9 * 3 * ch[r] + 3)]
    return rows


def discriminator_rows(r_max):
    """The same of Table S.5, convolutions only."""
    ch = CHANNELS[r_max]
    rows = [('fromrgb', r_max, ch[r_max], 9 * 4 * ch[r_max] + ch[r_max])]
    for r in sorted(ch, reverse=True)[:-1]:
        rows += [(f'b{r}/skip', r // 2, ch[r // 2], 9 * ch[r] * ch[r // 2]),
                 (f'b{r}/conv1', r, ch[r], dw_sep(ch[r], ch[r])),
                 (f'b{r}/conv2', r // 2, ch[r // 2], dw_sep(ch[r], ch[r // 2]))]
    return [*rows, ('conv', 4, 512, dw_sep(513, 512))]


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@functools.cache
def abstract(kind, resolution, noise_at_4x4=True, **spec):
    """Abstract variables and intermediates of a network, nothing allocated."""
    spec = ConvSpec(materialize_branches=True, **spec)
    if kind == 'generator':
        model = Generator(resolution, spec=spec, noise_at_4x4=noise_at_4x4)
        args = ('none',)
    else:
        model, args = Discriminator(resolution, spec=spec), ()
    x = jnp.zeros((4, resolution, resolution, 4))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x, *args))
    _, seen = jax.eval_shape(lambda v: model.apply(
        v, x, *args, capture_intermediates=True), variables)
    return variables, seen['intermediates']


def descend(tree, path):
    for name in path.split('/'):
        tree = tree[name]
    return tree


@pytest.mark.parametrize('resolution', [256, 512])
@pytest.mark.parametrize('noise_at_4x4', [True, False])
def test_generator_layers_are_those_of_table_s4(resolution, noise_at_4x4):
    variables, seen = abstract('generator', resolution, noise_at_4x4)
    total = 0
    for path, r, channels, parameters in generator_rows(resolution, noise_at_4x4):
        path = path.replace('encoder/fromrgb', f'encoder/b{resolution}/fromrgb')
        assert descend(seen, path)['__call__'][0].shape == (4, r, r, channels), path
        assert count(descend(variables['params'], path)) == parameters, path
        total += parameters
    assert count(variables['params']) == total, 'there are layers beside the table'


@pytest.mark.parametrize('resolution', [256, 512])
def test_discriminator_layers_are_those_of_table_s5(resolution):
    variables, seen = abstract('discriminator', resolution)
    total = 0
    for path, r, channels, parameters in discriminator_rows(resolution):
        path = path if path != 'fromrgb' else f'b{resolution}/fromrgb'
        assert descend(seen, path)['__call__'][0].shape == (4, r, r, channels), path
        assert count(descend(variables['params'], path)) == parameters, path
        total += parameters
    assert seen['fc']['__call__'][0].shape == (4, 512)
    assert seen['out']['__call__'][0].shape == (4, 1)
    fully_connected = 8192 * 512 + 512 + 512 + 1
    assert count(variables['params']) == total + fully_connected


def test_totals_at_256_with_nine_branches():
    generator, _ = abstract('generator', 256, False)
    discriminator, _ = abstract('discriminator', 256)
    assert count(generator['params']) == 52_686_881
    assert count(discriminator['params']) == 39_002_835


@pytest.mark.parametrize('resolution, with_taps, without_taps', [
    (256, 5_943_617, 5_865_505), (512, 5_973_366, 5_893_158)])
def test_totals_of_the_deployed_generator(resolution, with_taps, without_taps):
    variables, _ = abstract('generator', resolution, False)
    deployed = jax.eval_shape(fuse.fuse, variables['params'])
    constants = torch_map.deployed_constants(
        resolution, lambda r: layers.channels(r, 32768, 512), ops.FIR_TAPS)
    taps = sum(v.size for k, v in constants.items() if k.endswith('filter.weight'))
    assert count(deployed) == without_taps
    assert count(deployed) + taps == with_taps


def test_collapsed_training_has_a_ninth_of_the_kernels():
    variables, _ = abstract('generator', 256, False)
    collapsed = jax.eval_shape(published_forms.collapse_branches, variables['params'])
    assert count(collapsed) == 5_865_505
