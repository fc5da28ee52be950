"""The table of sizes and speeds: counts at published widths, the rest at tiny ones."""

import json

import jax
import pytest

import benchmark_exports
import benchmark_models
from migan_jax.model import build


def tiny(kind):
    config = benchmark_models.published_config(kind, 32)
    config.model.ch_base, config.model.ch_max = 256, 16
    sizes = config.model.comodgan
    sizes.z_dim, sizes.w_dim, sizes.mapping_layers, sizes.global_dim = 8, 8, 2, 16
    return config


@pytest.fixture(scope='module')
def result():
    return benchmark_models.measure(
        {kind: tiny(kind) for kind in benchmark_models.MODELS}, 1, 3)


# What XLA counts besides: FIR, biases, noise, activations. A fifteenth of MI-GAN, whose
# convolutions are cheap.
@pytest.mark.parametrize('kind, options, beyond', [
    ('migan', {}, 0.08), ('comodgan', {'up_taps': 16}, 0.01)])
def test_hand_count_agrees_with_the_compiled_function(kind, options, beyond):
    config = benchmark_models.published_config(kind, 256)
    compiled = benchmark_exports.compile_jax(
        config, build.abstract_variables(config, fused=True))
    by_hand = benchmark_models.counted_by_hand(config, **options)
    by_xla = benchmark_models.counted_by_xla(compiled)
    # XLA leaves out products with the zeros around an image.
    assert 0.99 < by_xla / by_hand < 1 + beyond


def test_layers_of_the_hand_count():
    """Each kernel of the models is a layer of the list, and nothing else is."""
    for kind in benchmark_models.MODELS:
        config = benchmark_models.published_config(kind, 512)
        params = build.abstract_variables(config, fused=True)['params']
        kernels = {
            jax.tree_util.keystr(path, simple=True, separator='.')
            .removesuffix('.kernel')
            for path, _ in jax.tree_util.tree_leaves_with_path(params)
            if path[-1].key == 'kernel'}
        layers = (benchmark_models.migan_layers if kind == 'migan'
                  else benchmark_models.comodgan_layers)(config)
        # Norms have no kernel of their own.
        names = [
            layer.name for layer in layers if not layer.name.endswith('.norms')]
        assert sorted(names) == sorted(kernels)


def test_hand_count_of_single_layers():
    migan = dict(benchmark_models.migan_layers(
        benchmark_models.published_config('migan', 256)))
    assert migan['encoder.b256.conv2.pointwise'] == 128 * 256 * 128**2
    assert migan['decoder.b256.conv1.depthwise'] == 9 * 256 * 128**2
    assert migan['decoder.b256.torgb.pointwise'] == 3 * 128 * 256**2
    comodgan = dict(benchmark_models.comodgan_layers(
        benchmark_models.published_config('comodgan', 256)))
    assert comodgan['encoder.b256.conv1'] == 9 * 128 * 256 * 128**2
    assert comodgan['decoder.b256.conv0'] == 9 * 256 * 128 * 128**2
    assert comodgan['decoder.b4.fc'] == 1024 * 16 * 512
    assert comodgan['decoder.b8.torgb.affine'] == 1536 * 512


def test_table(result):
    models = result['models']
    assert set(models) == {'migan', 'comodgan'}
    assert models['comodgan']['parameters'] > 2 * models['migan']['parameters']
    for row in models.values():
        for runtime in ('jax', 'onnx'):
            assert row[runtime]['mean_s'] > 0 <= row[runtime]['std_s']
    medians = {kind: row['onnx']['median_s'] for kind, row in models.items()}
    expected = medians['comodgan'] / medians['migan']
    assert result['ratios']['onnx'] == expected
    lines = '\n'.join(benchmark_models.table(result))
    assert f'{expected:.2f} |' in lines and '32 x 32' in lines
    assert json.loads(json.dumps(result)) == result


def test_operators_are_named_where_the_ratio_is_small(monkeypatch):
    monkeypatch.setattr(benchmark_models, 'PUBLISHED_RATIO', float('inf'))
    result = benchmark_models.measure(
        {kind: tiny(kind) for kind in benchmark_models.MODELS}, 1, 1)
    for shares in result['operators'].values():
        assert sum(shares.values()) == pytest.approx(1)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
        assert 'Conv' in shares
    assert 'ConvTranspose' in result['operators']['comodgan']
    text = '\n'.join(benchmark_models.table(result))
    assert 'Co-Mod-GAN in onnxruntime: ' in text
    monkeypatch.setattr(benchmark_models, 'PUBLISHED_RATIO', 0)
    assert 'operators' not in benchmark_models.measure({'migan': tiny('migan')}, 1, 1)


def test_one_model_alone_has_no_ratio():
    result = benchmark_models.measure({'comodgan': tiny('comodgan')}, 1, 1)
    assert 'ratios' not in result
    assert 'Table S.1' not in '\n'.join(benchmark_models.table(result))


@pytest.mark.parametrize('models, sides, message', [
    (['migan', 'lama'], ['256'], 'lama; expected some of migan, comodgan'),
    ([], ['256'], 'none given'), (['migan'], ['256', '5.5'], '5.5; expected numbers')])
def test_bad_flags(models, sides, message):
    with pytest.raises(ValueError, match=message):
        benchmark_models.chosen(models, sides)
    assert benchmark_models.chosen(['migan', 'migan'], ['64']) == (['migan'], [64])


def test_resolution_that_is_no_power_of_two():
    with pytest.raises(ValueError, match='power of two'):
        benchmark_models.measure(
            {'migan': benchmark_models.published_config('migan', 100)}, 1, 1)
