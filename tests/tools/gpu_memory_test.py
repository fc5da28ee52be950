"""tools/gpu_memory.py: what it counts, with this machine's compiler, and what it refuses."""

import math
import types

import jax
import jax.numpy as jnp
import pytest

from migan_jax.training import state as state_lib
from tiny import tiny_config
import gpu_memory as tool


def test_memory_of_a_step(monkeypatch):
    """State and batch are arguments; what is given back in their place is not counted."""
    device = jax.devices()[:1]
    monkeypatch.setattr(tool.topologies, 'get_topology_desc',
                        lambda **_: types.SimpleNamespace(devices=device))
    step = jax.pmap(lambda state, batch: (state, jnp.fft.fft2(batch['image']).real.std()),
                    donate_argnums=0, devices=device)
    monkeypatch.setattr(tool.steps_lib, 'make_steps',
                        lambda *_: types.SimpleNamespace(r1=step))
    config = tiny_config(1)
    state = state_lib.abstract_state(state_lib.build_models(config), 16)
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    small, large = tool.run(config, [8, 64], ['r1'])
    for figures in small, large:
        images = figures['batch'] * 16 * 16 * 4
        assert size <= figures['arguments_gb'] * 1e9 <= size + 4 * images
        assert 0 < figures['temporaries_gb'] * 1e9 < size + 100 * images
    assert large['temporaries_gb'] > 4 * small['temporaries_gb']


def test_refusals(monkeypatch):
    def missing(**_):
        raise NotImplementedError('topology not implemented for cuda')

    monkeypatch.setattr(tool.topologies, 'get_topology_desc', missing)
    config = tiny_config(1)
    with pytest.raises(ValueError, match=r'no compiler for GPUs .*\[cuda12\]'):
        next(tool.run(config, [8], ['g']))
    with pytest.raises(ValueError, match=r"unknown \['h'\]; expected some of \['g'"):
        next(tool.run(config, [8], ['g', 'h']))
    config.loss.distillation_weight = 1.0
    with pytest.raises(ValueError, match='--teacher_config'):
        next(tool.run(config, [8], ['g']))
