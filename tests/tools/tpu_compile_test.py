"""tools/tpu_compile.py: what it reads from compiled programs, and what it refuses."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from migan_jax.training import state as state_lib
from tiny import tiny_config
import tpu_compile as tool



def test_all_reduced_bytes_of_a_compiled_program():
    def mean(x, y):
        return jax.lax.pmean(x, 'd'), jax.lax.pmean(y, 'd')

    devices = jax.device_count()
    compiled = jax.pmap(mean, 'd').lower(
        np.ones((devices, 3, 5), np.float32), jnp.ones((devices, 7), jnp.bfloat16)
    ).compile()
    # CPUs reduce bfloat16 as float32.
    assert tool.all_reduced_bytes(compiled.as_text()) in (
        4 * 15 + 2 * 7, 4 * 15 + 4 * 7)
    assert tool.all_reduced_bytes(
        '%r = (f32[2,3]{1,0}, bf16[], u8[4]{0}) all-reduce-start(%a, %b), to_apply=%s\n'
        '%d = f32[2,3]{1,0} all-reduce-done(%r)') == 24 + 2 + 4


def test_arguments_have_the_device_axis_and_nothing_is_computed():
    config = tiny_config(1)
    models = state_lib.build_models(config)
    arguments = tool.abstract_arguments(config, models, range(3), 2, {'w': jnp.ones(4)})
    state, batch, teacher = arguments['g']
    assert batch['mask'].shape == (3, 2, 16, 16, 1) and teacher['w'].shape == (3, 4)
    assert all(isinstance(x, jax.ShapeDtypeStruct) and x.shape[0] == 3
               for x in jax.tree.leaves(state))
    assert arguments['prepare'][1].dtype == jnp.uint8


@pytest.mark.parametrize('topology, steps, message', [
    ('v9:2x4', ['g'], r"--topology=v9:2x4: expected one of \['v4'"),
    ('v5e:2x4', ['g', 'h'], r"unknown \['h'\]; expected some of \['prepare'"),
])
def test_refusals(topology, steps, message):
    with pytest.raises(ValueError, match=message):
        list(tool.run(tiny_config(1), topology, 1, steps))


HLO = """HloModule m, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%fused (p: bf16[8,4]) -> f32[8,4] {
  %p = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %c = f32[8,4]{1,0} convert(%p)
}

%body (s: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %s = (s32[], f32[8,4]{1,0:T(8,128)}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%s), index=1
  %n = f32[8,4]{1,0} negate(%x), metadata={op_name="pmap(g_step)/while/neg"}
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%i, %n)
}

ENTRY %main.7 (a: bf16[8,4]) -> f32[8,4] {
  %a = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  %f = f32[8,4]{1,0:T(8,128)S(1)} fusion(%a), kind=kLoop, calls=%fused, metadata={op_name="pmap(g_step)/b8/convert"}
  %cs = (f32[8,4]{1,0}, f32[8,4]{1,0}, u32[]{:S(2)}) copy-start(%f)
  %cd = f32[8,4]{1,0} copy-done(%cs)
  %b = f32[32]{0} bitcast(%cd)
  %i = (s32[], /*index=1*/f32[8,4]{1,0}) tuple(%z, %cd)
  %w = (s32[], f32[8,4]{1,0}) while(%i), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %r = f32[8,4]{1,0} get-tuple-element(%w), index=1
}
"""


@pytest.mark.parametrize('shape, expected', [
    ('f32[8,3]', 96), ('f32[8,3]{1,0}', 96), ('pred[]', 1), ('s32[]{:T(128)}', 4),
    ('f32[8,3]{1,0:T(8,128)}', 4 * 8 * 128), ('f32[8,3]{0,1:T(4,128)}', 4 * 4 * 128),
    ('bf16[2,9,130]{2,0,1:T(8,128)(2,1)}', 2 * 9 * 8 * 256),
    ('(f32[200]{0:T(128)}, /*index=1*/u8[5]{0:T(512)S(1)}, token[])', 1024 + 512),
])
def test_bytes_have_the_padding_of_tiles(shape, expected):
    assert tool.bytes_of(shape) == expected
    on_chip = 512 if 'S(1)' in shape else 0
    assert tool.bytes_of(shape, hbm_only=True) == expected - on_chip


def test_traffic_of_instructions():
    moved = tool.traffic(HLO)
    # The fusion reads bfloat16 and writes float32, both in tiles; the loop's negation runs
    # three times; a copy is read and written; tuples and bitcasts move nothing.
    assert [(size, i.name) for size, i in moved] == [
        (2 * 8 * 128 + 4 * 8 * 128, 'f'), (3 * 2 * 128, 'n'), (2 * 128, 'cd')]
    # The fusion's result is on the chip, and the copy from there costs HBM one write.
    assert [(size, i.name) for size, i in tool.traffic(HLO, hbm_only=True)] == [
        (2 * 8 * 128, 'f'), (3 * 2 * 128, 'n'), (128, 'cd')]
    heading, first, second = tool.traffic_table(HLO, 2, 2)
    assert '3 instructions; the 2 that move most' in heading
    assert first.split() == ['0.00', 'f', 'f32[8,4]', 'b8/convert']
    assert second.split() == ['0.00', 'n', 'f32[8,4]', 'while/neg']


def test_training_bound():
    figures = lambda compute, memory: {
        'compute_ms': compute, 'hbm_ms': memory, 'images_per_core': 2, 'cores': 8}
    steps = {'g': figures(3.0, 5.0), 'd': figures(4.0, 1.0)}
    assert tool.training_bound(steps, 16, 50_000) == {}
    # The longer time of each; R1 every 16th iteration.
    bound = tool.training_bound(
        {**steps, 'r1': figures(8.0, 16.0), 'generator': figures(9.0, 9.0)}, 16, 86.4)
    assert bound == pytest.approx(
        {'iteration_ms': 10.0, 'images_per_s': 1600.0, 'days': 86400 / 1600 / 86400})


def test_compiles_a_tiny_config_for_one_core():
    """In a process of its own: libtpu and the tests' CPU devices do not mix."""
    if importlib.util.find_spec('libtpu') is None:
        pytest.skip("libtpu is not installed: pip install -e '.[tpu-compile]'")
    result = subprocess.run(
        [sys.executable, tool.__file__,
         '--config=configs/ablation_dw_reparam_places256.py',
         '--config.model.resolution=16', '--config.model.ch_base=64',
         '--config.model.ch_max=8', '--config.model.dtype=bfloat16',
         '--topology=v5e:1x1', '--per_device_batch=2', '--steps=generator,d', '--top=3'],
        cwd=pathlib.Path(tool.__file__).parents[1], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    *lines, last = result.stdout.splitlines()
    steps = json.loads(last)['steps']
    assert list(steps) == ['generator', 'd']
    for figures in steps.values():
        assert figures['cores'] == 1 and figures['images_per_core'] == 2
        assert 0 < figures['memory_share'] < 0.01
        assert 0 < figures['gflop_per_image'] < 0.01
    # Two passes of D and one of G, backward too, move more than G forward.
    assert steps['d']['gb_per_image'] > 2 * steps['generator']['gb_per_image'] > 0
    assert sum('Generator/' in line for line in lines) >= 1
