"""tools/tpu_compile.py: what it reads from compiled programs, and what it refuses."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from migan_jax import state as state_lib
from tiny import tiny_config

TOOL = pathlib.Path(__file__).parents[1] / 'tools' / 'tpu_compile.py'
spec = importlib.util.spec_from_file_location('tools_tpu_compile', TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


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
