"""Co-Mod-GAN against the published code's outputs; its discriminator; bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden
from migan_jax.weights import torch_map
from migan_jax.model import comodgan

# The golden's sizes.
SIZES = dict(resolution=256, ch_base=4096, ch_max=16, z_dim=32, w_dim=32, global_dim=64)
SMALL = dict(resolution=32, ch_base=512, ch_max=16, z_dim=8, w_dim=8, mapping_layers=2,
             global_dim=32)


@pytest.fixture(scope='module')
def published():
    """Golden arrays, the variables they hold, x and z."""
    arrays = golden.load('comodgan')
    variables = torch_map.from_torch(
        golden.subset(arrays, 'state/'), torch_map.comodgan_table(256))
    return arrays, variables, golden.nhwc(arrays['in/x']), arrays['in/z']


@pytest.fixture(scope='module')
def small():
    model = comodgan.Generator(**SMALL)
    x = jax.random.normal(jax.random.key(1), (3, 32, 32, 4))
    z = model.latents(jax.random.split(jax.random.key(2), 3))
    variables = jax.jit(lambda: model.init(jax.random.key(0), x, 'none', z))()
    return model, variables, x, z


def test_outputs_equal_the_published_code(published):
    arrays, variables, x, z = published
    model = comodgan.Generator(**SIZES)
    ws = model.apply(variables, z, method=model.map)
    assert golden.relative_error(ws, arrays['out/ws']) < 1e-4
    paint = jax.jit(lambda x, z, psi: model.apply(variables, x, 'const', z, psi))
    image, rgbs = paint(x, z, 1.0)
    assert golden.relative_error(image, golden.nhwc(arrays['out/image'])) < 1e-4
    assert sorted(rgbs) == [4, 8, 16, 32, 64, 128, 256]
    for r in (4, 8, 16, 32, 64):
        expected = golden.nhwc(arrays[f'out/rgb{r}'])
        assert golden.relative_error(rgbs[r], expected) < 1e-4, r
    image, _ = paint(x, z, 0.5)
    assert golden.relative_error(image, golden.nhwc(arrays['out/image_psi0.5'])) < 1e-4
    image, _ = jax.jit(lambda x, z: model.apply(variables, x, 'none', z))(x, z)
    assert golden.relative_error(image, golden.nhwc(arrays['out/image'])) > 1e-3


def test_every_published_tensor_is_read():
    arrays = golden.load('comodgan')
    names = {entry.torch for entry in torch_map.comodgan_table(256)}
    given = {name for name in golden.subset(arrays, 'state/')
             if not name.endswith('resample_filter')}
    assert names == given


def test_full_size_parameters_by_hand_count():
    model = comodgan.Generator(256)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 256, 256, 4)), 'none',
                           jnp.zeros((1, 512))))['params']
    ch = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128}
    conv = lambda ci, co: 9 * ci * co + co
    modulated = lambda ci, co, k: k * k * ci * co + co + 1536 * ci + ci + (k == 3)
    expected = 8 * (512 * 512 + 512) + 4 * 128 + 128
    for r in (256, 128, 64, 32, 16, 8):
        expected += conv(ch[r], ch[r]) + conv(ch[r], ch[r // 2])
        expected += modulated(ch[r // 2], ch[r], 3) + modulated(ch[r], ch[r], 3)
    expected += conv(512, 512) + 8192 * 1024 + 1024 + 1024 * 8192 + 8192
    expected += modulated(512, 512, 3) + sum(modulated(c, 3, 1) for c in ch.values())
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


def test_style_inputs_are_read_in_order(small):
    model, variables, x, z = small
    assert [comodgan.latent_count(r) for r in (16, 256, 512)] == [6, 14, 16]
    ws = model.apply(variables, z, method=model.map)
    assert ws.shape == (3, 8, 8)
    paint = jax.jit(lambda ws: model.apply(
        variables, x, ws, 'none', method=model.synthesize)[1])
    before = paint(ws)
    first_changed = []
    for i in range(8):
        after = paint(ws.at[:, i].add(1.0))
        changed = [r for r in before if np.abs(after[r] - before[r]).max() > 1e-4]
        # What a convolution changes goes on upwards; a torgb changes its own picture.
        first_changed.append((min(changed), len(changed)))
    # Input 1: torgb of 4 and conv0 of 8; 2: conv1 of 8; the last: torgb of 32 alone.
    assert first_changed == [
        (4, 4), (4, 4), (8, 3), (8, 3), (16, 2), (16, 2), (32, 1), (32, 1)]
    only_last = paint(ws.at[:, 7].add(1.0))
    np.testing.assert_array_equal(only_last[16], before[16])


def test_truncation_goes_from_the_average_to_w(small):
    model, variables, _, z = small
    average = jnp.arange(8.0)
    moved = {**variables, 'average': {'mapping': {'w_avg': average}}}
    ws = lambda psi: model.apply(moved, z, psi, method=model.map)
    np.testing.assert_allclose(ws(0.0), jnp.broadcast_to(average, (3, 8, 8)))
    np.testing.assert_allclose(ws(0.25), 0.75 * average + 0.25 * ws(1.0), atol=1e-6)


def test_latent_and_noise_are_drawn_from_keys(small):
    model, variables, x, z = small
    strong = jax.tree_util.tree_map_with_path(
        lambda path, v: v + 1.0 if path[-1].key == 'strength' else v, variables)
    paint = jax.jit(
        lambda key, z: model.apply(strong, x, 'random', z, rngs={'noise': key})[0])
    first = paint(jax.random.key(0), z)
    np.testing.assert_array_equal(first, paint(jax.random.key(0), z))
    assert np.abs(first - paint(jax.random.key(1), z)).max() > 1e-2
    assert np.abs(first - paint(jax.random.key(0), z + 1)).max() > 1e-4


def test_samples_of_a_batch_do_not_mix(small):
    # The style's scale is shared by the batch; demodulation cancels it.
    model, variables, x, z = small
    paint = jax.jit(lambda x, z: model.apply(variables, x, 'none', z)[0])
    together = paint(x, z)
    for i in range(3):
        assert golden.relative_error(paint(x[i:i + 1], z[i:i + 1])[0], together[i]) < 1e-4


def test_dropout_only_where_its_stream_is_given(small):
    model, variables, x, z = small
    paint = jax.jit(lambda rngs: model.apply(variables, x, 'none', z, rngs=rngs)[0])
    still = paint({})
    dropped = [paint({'dropout': jax.random.key(i)}) for i in range(2)]
    assert np.abs(dropped[0] - dropped[1]).max() > 1e-3
    assert np.abs(dropped[0] - still).max() > 1e-3


def test_w_avg_moves_only_where_it_may(small):
    model, variables, x, z = small
    _, moved = jax.jit(lambda variables: model.apply(
        variables, x, 'none', z, mutable=['average']))(variables)
    w = model.apply(variables, z, method=model.map)[:, 0]
    np.testing.assert_allclose(
        moved['average']['mapping']['w_avg'], 0.005 * w.mean(0), rtol=1e-4)
    assert not variables['average']['mapping']['w_avg'].any()


def test_bfloat16_is_close_and_returns_float32(small):
    _, variables, x, z = small
    images = []
    for dtype in (jnp.float32, jnp.bfloat16):
        model = comodgan.Generator(**SMALL, dtype=dtype)
        image, rgbs = jax.jit(model.apply, static_argnums=2)(variables, x, 'none', z)
        assert all(v.dtype == jnp.float32 for v in (image, *rgbs.values()))
        images.append(image)
    assert 0 < golden.relative_error(images[1], images[0]) < 0.03


def test_wrong_shapes_are_refused(small):
    model, variables, x, z = small
    with pytest.raises(ValueError, match=r'\(3, 16, 16, 4\); expected \[B, 32, 32, 4\]'):
        jax.eval_shape(
            lambda x: model.apply(variables, x, 'none', z), x[:, :16, :16])
    with pytest.raises(ValueError, match=r'z has shape None; expected \(3, 8\)'):
        jax.eval_shape(lambda x: model.apply(variables, x, 'none'), x)
    with pytest.raises(ValueError, match='power of two'):
        jax.eval_shape(lambda x: comodgan.Generator(48).init(
            jax.random.key(0), x, 'none', z), x)


def test_discriminator_equals_an_independent_one():
    """The same network in PyTorch, from the StyleGAN2 paper's description."""
    torch = pytest.importorskip('torch')
    functional = torch.nn.functional
    model = comodgan.Discriminator(32, 256, 16)
    x = jax.random.normal(jax.random.key(0), (8, 32, 32, 4))
    params = jax.jit(lambda: model.init(jax.random.key(1), x))()['params']
    keys = iter(jax.random.split(jax.random.key(2), 100))
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(next(keys), p.shape), params)
    tensor = lambda a: torch.tensor(np.asarray(a))
    taps = torch.outer(*[torch.tensor([1.0, 3, 3, 1]) / 8] * 2)

    def filtered(x, padding):
        kernel = taps.expand(x.shape[1], 1, 4, 4)
        return functional.conv2d(functional.pad(x, [padding] * 4), kernel,
                                 groups=x.shape[1])

    def conv(x, p, down=False, gain=1.0, activate=True):
        weight = tensor(p['kernel']).permute(3, 2, 0, 1)
        weight = weight / np.sqrt(np.prod(weight.shape[1:]))
        k = weight.shape[-1]
        if down:   # the filter sees zeros outside; then every second position
            x = functional.conv2d(filtered(x, 1 + (k - 1) // 2), weight, stride=2)
        else:
            x = functional.conv2d(x, weight, padding=k // 2)
        if 'bias' in p:
            x = x + tensor(p['bias'])[:, None, None]
        if activate:
            x = functional.leaky_relu(x, 0.2) * np.sqrt(2)
        return x * gain

    def dense(x, p):
        return x @ tensor(p['kernel']) / np.sqrt(x.shape[1]) + tensor(p['bias'])

    y = tensor(x).permute(0, 3, 1, 2)
    half = np.sqrt(0.5)
    for r in (32, 16, 8):
        p = params[f'b{r}']
        if r == 32:
            y = conv(y, p['fromrgb'])
        skip = conv(y, p['skip'], down=True, gain=half, activate=False)
        y = conv(conv(y, p['conv0']), p['conv1'], down=True, gain=half) + skip
    groups = y.reshape(4, 2, *y.shape[1:])
    deviation = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    y = torch.cat([y, deviation.tile(4)[:, None, None, None].expand(8, 1, 4, 4)], 1)
    y = conv(y, params['conv']).flatten(1)
    y = functional.leaky_relu(dense(y, params['fc']), 0.2) * np.sqrt(2)
    expected = dense(y, params['out']).numpy()
    ours = jax.jit(model.apply)({'params': params}, x)
    assert ours.shape == (8, 1)
    assert golden.relative_error(ours, expected) < 1e-4
