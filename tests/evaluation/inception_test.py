"""Inception for FID against plain PyTorch layers, both front ends and both files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from golden import relative_error
from migan_jax.evaluation.metrics import inception

# name -> (input channels, output channels, kernel): the published table, written out.
_SHAPES = {
    'Conv2d_1a_3x3': (3, 32, 3, 3), 'Conv2d_2a_3x3': (32, 32, 3, 3),
    'Conv2d_2b_3x3': (32, 64, 3, 3), 'Conv2d_3b_1x1': (64, 80, 1, 1),
    'Conv2d_4a_3x3': (80, 192, 3, 3),
}
for _name, _in, _pool in (('5b', 192, 32), ('5c', 256, 64), ('5d', 288, 64)):
    for _branch, _shape in {
            'branch1x1': (_in, 64, 1, 1), 'branch5x5_1': (_in, 48, 1, 1),
            'branch5x5_2': (48, 64, 5, 5), 'branch3x3dbl_1': (_in, 64, 1, 1),
            'branch3x3dbl_2': (64, 96, 3, 3), 'branch3x3dbl_3': (96, 96, 3, 3),
            'branch_pool': (_in, _pool, 1, 1)}.items():
        _SHAPES[f'Mixed_{_name}.{_branch}'] = _shape
for _branch, _shape in {
        'branch3x3': (288, 384, 3, 3), 'branch3x3dbl_1': (288, 64, 1, 1),
        'branch3x3dbl_2': (64, 96, 3, 3), 'branch3x3dbl_3': (96, 96, 3, 3)}.items():
    _SHAPES[f'Mixed_6a.{_branch}'] = _shape
for _name, _c in (('6b', 128), ('6c', 160), ('6d', 160), ('6e', 192)):
    for _branch, _shape in {
            'branch1x1': (768, 192, 1, 1), 'branch7x7_1': (768, _c, 1, 1),
            'branch7x7_2': (_c, _c, 1, 7), 'branch7x7_3': (_c, 192, 7, 1),
            'branch7x7dbl_1': (768, _c, 1, 1), 'branch7x7dbl_2': (_c, _c, 7, 1),
            'branch7x7dbl_3': (_c, _c, 1, 7), 'branch7x7dbl_4': (_c, _c, 7, 1),
            'branch7x7dbl_5': (_c, 192, 1, 7), 'branch_pool': (768, 192, 1, 1)}.items():
        _SHAPES[f'Mixed_{_name}.{_branch}'] = _shape
for _branch, _shape in {
        'branch3x3_1': (768, 192, 1, 1), 'branch3x3_2': (192, 320, 3, 3),
        'branch7x7x3_1': (768, 192, 1, 1), 'branch7x7x3_2': (192, 192, 1, 7),
        'branch7x7x3_3': (192, 192, 7, 1), 'branch7x7x3_4': (192, 192, 3, 3)}.items():
    _SHAPES[f'Mixed_7a.{_branch}'] = _shape
for _name, _in in (('7b', 1280), ('7c', 2048)):
    for _branch, _shape in {
            'branch1x1': (_in, 320, 1, 1), 'branch3x3_1': (_in, 384, 1, 1),
            'branch3x3_2a': (384, 384, 1, 3), 'branch3x3_2b': (384, 384, 3, 1),
            'branch3x3dbl_1': (_in, 448, 1, 1), 'branch3x3dbl_2': (448, 384, 3, 3),
            'branch3x3dbl_3a': (384, 384, 1, 3), 'branch3x3dbl_3b': (384, 384, 3, 1),
            'branch_pool': (_in, 192, 1, 1)}.items():
        _SHAPES[f'Mixed_{_name}.{_branch}'] = _shape


def random_tensors():
    """Weights under the names of the PyTorch file; activations keep their size."""
    rng = np.random.default_rng(0)
    tensors = {}
    for name, (inputs, outputs, height, width) in _SHAPES.items():
        gain = np.sqrt(2 / (inputs * height * width))
        vector = lambda low, high: rng.uniform(low, high, outputs).astype(np.float32)
        tensors |= {
            f'{name}.conv.weight': (gain * rng.standard_normal(
                (outputs, inputs, height, width))).astype(np.float32),
            f'{name}.bn.weight': vector(0.8, 1.2), f'{name}.bn.bias': vector(-0.2, 0.3),
            f'{name}.bn.running_mean': vector(-0.2, 0.2),
            f'{name}.bn.running_var': vector(0.7, 1.4),
            f'{name}.bn.num_batches_tracked': np.array(0),
        }
    tensors['fc.weight'] = np.zeros((1008, 2048), np.float32)
    tensors['fc.bias'] = np.zeros(1008, np.float32)
    return tensors


def torch_network(tensors, x):
    """Features of f32[B, 3, 299, 299] by the table, in plain layers."""
    def conv(x, name, stride=1, padding=0):
        part = lambda suffix: torch.from_numpy(tensors[f'{name}.{suffix}'])
        x = F.conv2d(x, part('conv.weight'), stride=stride, padding=padding)
        return F.relu(F.batch_norm(
            x, part('bn.running_mean'), part('bn.running_var'), part('bn.weight'),
            part('bn.bias'), eps=1e-3))

    average = lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    x = conv(x, 'Conv2d_1a_3x3', 2)
    x = conv(x, 'Conv2d_2a_3x3')
    x = F.max_pool2d(conv(x, 'Conv2d_2b_3x3', padding=1), 3, 2)
    x = conv(x, 'Conv2d_3b_1x1')
    x = F.max_pool2d(conv(x, 'Conv2d_4a_3x3'), 3, 2)
    for m in ('Mixed_5b', 'Mixed_5c', 'Mixed_5d'):
        double = conv(conv(x, f'{m}.branch3x3dbl_1'), f'{m}.branch3x3dbl_2', padding=1)
        x = torch.cat([
            conv(x, f'{m}.branch1x1'),
            conv(conv(x, f'{m}.branch5x5_1'), f'{m}.branch5x5_2', padding=2),
            conv(double, f'{m}.branch3x3dbl_3', padding=1),
            conv(average(x), f'{m}.branch_pool')], 1)
    m = 'Mixed_6a'
    double = conv(conv(x, f'{m}.branch3x3dbl_1'), f'{m}.branch3x3dbl_2', padding=1)
    x = torch.cat([conv(x, f'{m}.branch3x3', 2), conv(double, f'{m}.branch3x3dbl_3', 2),
                   F.max_pool2d(x, 3, 2)], 1)
    for m in ('Mixed_6b', 'Mixed_6c', 'Mixed_6d', 'Mixed_6e'):
        single = conv(conv(x, f'{m}.branch7x7_1'), f'{m}.branch7x7_2', padding=(0, 3))
        double = conv(x, f'{m}.branch7x7dbl_1')
        for i, padding in ((2, (3, 0)), (3, (0, 3)), (4, (3, 0)), (5, (0, 3))):
            double = conv(double, f'{m}.branch7x7dbl_{i}', padding=padding)
        x = torch.cat([
            conv(x, f'{m}.branch1x1'), conv(single, f'{m}.branch7x7_3', padding=(3, 0)),
            double, conv(average(x), f'{m}.branch_pool')], 1)
    m = 'Mixed_7a'
    other = conv(conv(x, f'{m}.branch7x7x3_1'), f'{m}.branch7x7x3_2', padding=(0, 3))
    other = conv(other, f'{m}.branch7x7x3_3', padding=(3, 0))
    x = torch.cat([conv(conv(x, f'{m}.branch3x3_1'), f'{m}.branch3x3_2', 2),
                   conv(other, f'{m}.branch7x7x3_4', 2), F.max_pool2d(x, 3, 2)], 1)
    for m in ('Mixed_7b', 'Mixed_7c'):
        pooled = average(x) if m == 'Mixed_7b' else F.max_pool2d(x, 3, 1, 1)
        single = conv(x, f'{m}.branch3x3_1')
        double = conv(conv(x, f'{m}.branch3x3dbl_1'), f'{m}.branch3x3dbl_2', padding=1)
        x = torch.cat([
            conv(x, f'{m}.branch1x1'),
            conv(single, f'{m}.branch3x3_2a', padding=(0, 1)),
            conv(single, f'{m}.branch3x3_2b', padding=(1, 0)),
            conv(double, f'{m}.branch3x3dbl_3a', padding=(0, 1)),
            conv(double, f'{m}.branch3x3dbl_3b', padding=(1, 0)),
            conv(pooled, f'{m}.branch_pool')], 1)
    assert x.shape[1:] == (2048, 8, 8)
    return x.mean((2, 3))


def torch_front_end(levels, protocol):
    """u8[B, H, W, 3] -> f32[B, 3, 299, 299]."""
    x = torch.from_numpy(levels.transpose(0, 3, 1, 2).copy()).float()
    if protocol == 'paper':
        return 2 * F.interpolate(x / 255, size=(299, 299), mode='bilinear') - 1
    # The identity of [-1, 1]^2, moved so that sample i falls on pixel i * side / 299.
    shift = 1 / levels.shape[1] - 1 / 299
    theta = torch.tensor([[[1, 0, shift], [0, 1, shift]]], dtype=torch.float64)
    grid = F.affine_grid(theta, [1, 3, 299, 299], align_corners=False)
    sampled = F.grid_sample(
        x.double(), grid.expand(len(x), -1, -1, -1), padding_mode='border',
        align_corners=False)
    return ((sampled - 128) / 128).float()


@pytest.fixture(scope='module')
def tensors():
    return random_tensors()


@pytest.fixture(scope='module')
def params(tensors):
    return inception.from_tensors(tensors)


# Compiled once: the front ends all end in 299 x 299.
network = jax.jit(lambda params, x: inception.Inception().apply({'params': params}, x))


def test_counts_of_the_published_table(tensors, params):
    assert len(_SHAPES) == len(inception.LAYERS) == 94 and len(tensors) == 566
    counted = [tensors[f'{name}.{part}'].size for name in _SHAPES
               for part in ('conv.weight', 'bn.weight', 'bn.bias')]
    assert sum(counted) == 21_785_568
    assert set(params) == set(_SHAPES)


@pytest.mark.parametrize('protocol', ['paper', 'stylegan'])
@pytest.mark.parametrize('side', [64, 256, 512])
def test_features_against_torch(tensors, params, protocol, side):
    rng = np.random.default_rng(side)
    # Coarse noise under fine noise: antialiasing or a shifted grid would show.
    block = np.ones((1, side // 8, side // 8, 1))
    coarse = np.kron(rng.integers(0, 200, (1, 8, 8, 3)), block)
    levels = (coarse + rng.integers(0, 56, (1, side, side, 3))).astype(np.uint8)
    chosen = inception.PROTOCOLS[protocol]
    images = levels if chosen.quantized else levels.astype(np.float32) / 255
    seen = inception.front_end(jnp.asarray(images), chosen)
    want = torch_front_end(levels, protocol)
    np.testing.assert_allclose(seen, want.permute(0, 2, 3, 1), atol=2e-5)
    got = np.asarray(network(params, seen))
    expected = torch_network(tensors, want).numpy()
    assert got.dtype == np.float32 and got.shape == (1, 2048)
    assert expected.std() > 0.01   # alive
    assert relative_error(got, expected) < 1e-4


def test_features_are_front_end_and_network(params):
    images = jnp.asarray(np.random.default_rng(0).random((1, 40, 40, 3)), jnp.float32)
    features = jax.jit(lambda p, x: inception.features(p, x, inception.PAPER))
    got = features(params, images)
    want = network(params, inception.front_end(images, inception.PAPER))
    assert relative_error(got, want) < 1e-5


def test_front_ends_differ_from_each_other_and_from_antialiasing():
    levels = np.random.default_rng(0).integers(0, 256, (1, 512, 512, 3), np.uint8)
    unit = jnp.asarray(levels, jnp.float32) / 255
    paper = inception.front_end(unit, inception.PAPER)
    smooth = 2 * jax.image.resize(unit, (1, 299, 299, 3), 'bilinear') - 1
    assert float(jnp.abs(paper - smooth).max()) > 0.3
    stylegan = inception.front_end(jnp.asarray(levels), inception.STYLEGAN)
    assert float(jnp.abs(paper - stylegan).max()) > 0.3
    # Sample i of the second is pixel 512 i / 299: the first pixel itself.
    np.testing.assert_allclose(
        stylegan[0, 0, 0], (levels[0, 0, 0].astype(np.float32) - 128) / 128)


def torchscript_names(tensors, nested):
    """The same weights under the TensorFlow graph's names, without scale."""
    renamed = {}
    for layer in inception.LAYERS:
        name = layer.other_name
        if not nested:
            block, _, rest = name.partition('.')
            name = f'{block}.{rest.replace(".", "_")}' if rest else block
        get = lambda part: tensors[f'{layer.name}.{part}']
        renamed |= {
            f'layers.{name}.weight': get('conv.weight'),
            f'layers.{name}.beta': get('bn.bias'),
            f'layers.{name}.mean': get('bn.running_mean'),
            f'layers.{name}.var': get('bn.running_var')}
    return renamed | {'output.weight': np.zeros((1008, 2048)),
                      'output.bias': np.zeros(1008)}


@pytest.mark.parametrize('nested', [True, False])
def test_names_of_the_torchscript_file(tensors, nested):
    plain = {k: np.ones_like(v) if k.endswith('bn.weight') else v
             for k, v in tensors.items()}
    want = inception.from_tensors(plain)
    got = inception.from_tensors(torchscript_names(plain, nested))
    assert set(got) == set(want)
    for layer, parts in want.items():
        for part, array in parts.items():
            np.testing.assert_array_equal(got[layer][part], array)


# (a layer here, what the graph calls it): written out, not derived.
@pytest.mark.parametrize('name, other', [
    ('Conv2d_1a_3x3', 'conv'), ('Conv2d_4a_3x3', 'conv_4'),
    ('Mixed_5b.branch1x1', 'mixed.conv'),
    ('Mixed_5d.branch5x5_2', 'mixed_2.tower.conv_1'),
    ('Mixed_5c.branch3x3dbl_3', 'mixed_1.tower_1.conv_2'),
    ('Mixed_6a.branch3x3', 'mixed_3.conv'),
    ('Mixed_6a.branch3x3dbl_2', 'mixed_3.tower.conv_1'),
    ('Mixed_6b.branch7x7_2', 'mixed_4.tower.conv_1'),
    ('Mixed_6e.branch7x7dbl_5', 'mixed_7.tower_1.conv_4'),
    ('Mixed_6c.branch_pool', 'mixed_5.tower_2.conv'),
    ('Mixed_7a.branch3x3_2', 'mixed_8.tower.conv_1'),
    ('Mixed_7a.branch7x7x3_4', 'mixed_8.tower_1.conv_3'),
    ('Mixed_7b.branch3x3_1', 'mixed_9.tower.conv'),
    ('Mixed_7b.branch3x3_2a', 'mixed_9.tower.mixed.conv'),
    ('Mixed_7c.branch3x3dbl_2', 'mixed_10.tower_1.conv_1'),
    ('Mixed_7c.branch3x3dbl_3b', 'mixed_10.tower_1.mixed.conv_1'),
])
def test_layers_of_the_graph(name, other):
    (layer,) = [layer for layer in inception.LAYERS if layer.name == name]
    assert layer.other_name == other


def test_files_that_do_not_fit(tensors):
    bad = dict(tensors)
    del bad['Mixed_5b.branch1x1.bn.running_var']
    bad['Mixed_6b.branch7x7_2.conv.weight'] = np.zeros((128, 128, 7, 1), np.float32)
    bad['Mixed_9z.branch1x1.conv.weight'] = np.zeros(1)
    with pytest.raises(ValueError) as error:
        inception.from_tensors(bad, 'some.pth')
    for text in ('some.pth', 'missing variance of Mixed_5b.branch1x1',
                 'unexpected Mixed_9z.branch1x1.conv.weight',
                 'has shape [128, 128, 7, 1], expected [128, 128, 1, 7]'):
        assert text in str(error.value)
    with pytest.raises(ValueError, match='and 356 more'):
        inception.from_tensors({})


def test_bad_images():
    images = jnp.zeros((1, 8, 8, 3))
    with pytest.raises(ValueError, match="'stylegan' takes u8 levels, got float32"):
        inception.front_end(images, inception.STYLEGAN)
    with pytest.raises(ValueError, match=r"'paper' takes float32 .*got uint8"):
        inception.front_end(images.astype(jnp.uint8), inception.PAPER)
    with pytest.raises(ValueError, match=r'\[B, H, W, 3\], got \[1, 3, 8, 8\]'):
        inception.front_end(jnp.zeros((1, 3, 8, 8)), inception.PAPER)
