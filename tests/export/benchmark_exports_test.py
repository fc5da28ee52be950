"""The benchmark of the ONNX exports, at a size that takes a second."""

import benchmark_exports
from onnx_core_test import small_config


def test_plain_and_core_agree():
    result = benchmark_exports.measure(
        32, 1, 2, config=small_config(32), pictures={'60x90': (60, 90)})
    assert result['difference_plain_core'] < 1e-4
    assert result['plain_over_core'] == result['plain_s'] / result['core_s'] > 0
    assert result['half_mb'] < result['core_mb'] < result['pipeline_mb']
    assert {'jax_s', 'torchscript_s', 'pipeline_32x32_s', 'pipeline_60x90_s',
            'pipeline_overhead_60x90'} <= set(result)


def test_strengths_are_not_zero():
    """With none the plain graph would be timed without what noise costs."""
    variables = benchmark_exports.random_variables(small_config(32))
    decoder = variables['params']['decoder']
    assert all(layer['noise']['strength'] != 0
               for block in decoder.values() for layer in block.values()
               if 'noise' in layer)
