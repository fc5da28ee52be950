"""All branches kept, or only their sum: the same training trajectory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import golden
from migan_jax.devices import replicate
from migan_jax.devices import unreplicate
from migan_jax.model.discriminator import Discriminator
from migan_jax.model import fuse
from migan_jax.model.generator import Generator
from migan_jax.model.layers import ConvSpec
from migan_jax.training import optimizers
from migan_jax.training import state as state_lib
from migan_jax.training import steps
import published_forms

R, B = 16, 4
# A short half-life, so that the EMA has moved far when it is compared.
SETTINGS = steps.Settings(batch_size=B, ema_kimg=0.02, noise='none')


@pytest.fixture(autouse=True)
def quick_compilation():
    """Compiling twelve steps takes most of the time; fast code is not needed here."""
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', False)


def _models(dtype, materialize):
    spec = ConvSpec(branches=9, materialize_branches=materialize, dtype=dtype)
    return state_lib.Models(
        Generator(R, 64, 8, spec), Discriminator(R, 64, 8, spec),
        optimizers.lazy_optimizer(1e-3, 4, 9), optimizers.lazy_optimizer(1e-3, 16, 9))


def _start(dtype):
    """Nine branches of G and of D, and noise planes, drawn; biases too."""
    rng = np.random.default_rng(0)
    abstract = state_lib.abstract_state(_models(dtype, True), R)
    draw = lambda tree: jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), dtype), tree)
    return draw(abstract.params_g), draw(abstract.params_d), draw(abstract.variables)


def _state(models, params_g, params_d, variables, dtype):
    return state_lib.TrainState(
        step=jnp.zeros((), jnp.int32), params_g=params_g, params_d=params_d,
        ema=jax.tree.map(jnp.copy, params_g), variables=variables,
        path_length=jnp.zeros((), dtype),
        opt_g=models.tx_g.init(params_g), opt_d=models.tx_d.init(params_d))


def _batch(i, dtype):
    rng = np.random.default_rng(i + 1)
    return {'image': jnp.asarray(rng.uniform(-1, 1, (1, B, R, R, 3)), dtype),
            'mask': jnp.asarray(rng.integers(0, 2, (1, B, R, R, 1)), dtype)}


def _train(dtype, materialize, iterations):
    """TrainState, with branches collapsed; and how often the R1 step ran."""
    models = _models(dtype, materialize)
    form = (lambda p: p) if materialize else published_forms.collapse_branches
    params_g, params_d, variables = _start(dtype)
    state = replicate(
        _state(models, form(params_g), form(params_d), variables, dtype),
        jax.devices()[:1])
    functions = steps.make_steps(models, SETTINGS)
    r1_steps = 0
    for i in range(iterations):
        batch = _batch(i, dtype)
        state, _ = functions.g(state, batch, None)
        state, _ = functions.d(state, batch)
        if steps.r1_is_due(SETTINGS, i):
            state, _ = functions.r1(state, batch)
            r1_steps += 1
    state = unreplicate(state)
    return {name: published_forms.collapse_branches(getattr(state, name))
            for name in ('params_g', 'params_d', 'ema')}, r1_steps


def _compare(dtype, iterations, tolerance):
    branches, r1_steps = _train(dtype, True, iterations)
    sums, _ = _train(dtype, False, iterations)
    start_g, start_d = map(published_forms.collapse_branches, _start(dtype)[:2])
    start = {'params_g': start_g, 'params_d': start_d, 'ema': start_g}
    for form in (lambda p: p, fuse.fuse):   # the sums, and what the networks apply
        flat = jax.tree_util.tree_leaves_with_path(
            {name: form(tree) for name, tree in branches.items()})
        others = jax.tree.leaves({name: form(tree) for name, tree in sums.items()})
        starts = jax.tree.leaves({name: form(tree) for name, tree in start.items()})
        for (path, ours), other, first in zip(flat, others, starts, strict=True):
            name = jax.tree_util.keystr(path)
            assert ours.dtype == dtype, name
            assert golden.relative_error(other, ours) < tolerance, name
            # Without noise its strength has no gradient; all else has trained.
            if 'strength' not in name:
                assert golden.relative_error(ours, first) > 10 * tolerance, name
    return r1_steps


def test_a_sum_follows_its_nine_branches_in_float64():
    with jax.enable_x64(True):
        assert _compare(jnp.float64, 17, 1e-10) == 2


def test_a_sum_follows_its_nine_branches_in_float32():
    assert _compare(jnp.float32, 3, 1e-5) == 1
