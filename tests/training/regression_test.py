"""Training without a discriminator, with momentum and a cooling end."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from migan_jax.training import loop
from migan_jax.training import optimizers
from migan_jax.training import state as state_lib
from migan_jax.training import steps
from tiny import final_state
from tiny import tiny_config


def test_the_learning_rate_falls_in_the_end():
    settings = steps.Settings(batch_size=1000, decay_kimg=4.0, total_kimg=10.0)
    factors = [float(steps.learning_rate_factor(settings, jnp.int32(step)))
               for step in (0, 6, 7, 9, 10, 11)]
    assert factors == [1, 1, 0.75, 0.25, 0, 0]
    assert float(steps.learning_rate_factor(steps.Settings(), jnp.int32(5))) == 1


def test_the_learning_rate_rises_at_the_start():
    settings = steps.Settings(batch_size=1000, warmup_kimg=4.0)
    factors = [float(steps.learning_rate_factor(settings, jnp.int32(step)))
               for step in (0, 1, 3, 4, 100)]
    assert factors == [0.25, 0.5, 1, 1, 1]
    both = steps.Settings(batch_size=1000, warmup_kimg=4.0, decay_kimg=4.0, total_kimg=5.0)
    factors = [float(steps.learning_rate_factor(both, jnp.int32(step))) for step in range(6)]
    assert factors == [0.25, 0.5, 0.75, 0.5, 0.25, 0]


@pytest.mark.parametrize('branches', [0, 9])
def test_momentum_is_that_of_adam(branches):
    rng = np.random.default_rng(0)
    name = 'branch_sum' if branches else 'kernel'
    params = {name: jnp.asarray(rng.standard_normal((3, 4)), jnp.float32)}
    ours = optimizers.make_optimizer(0.01, 0.9, branches=branches, b1=0.8)
    # n branches that see 1 / sqrt(n) of the gradient, and move their sum by sqrt(n).
    root = max(branches, 1)**0.5
    adam = optax.adam(0.01 * root, b1=0.8, b2=0.9, eps=1e-8 * root)
    state, expected, their_params = ours.init(params), adam.init(params), params
    for _ in range(3):
        gradient = {name: jnp.asarray(rng.standard_normal((3, 4)), jnp.float32)}
        update, state = ours.update(gradient, state, params)
        params = optax.apply_updates(params, update)
        # As `make_optimizer` says: optax's bias correction mixes dtypes.
        with jax.numpy_dtype_promotion('standard'):
            update, expected = adam.update(gradient, expected)
        their_params = optax.apply_updates(their_params, update)
    np.testing.assert_allclose(params[name], their_params[name], rtol=1e-5)


def test_a_run_without_discriminator(tmp_path):
    config = tiny_config(3)
    config.loss.adversarial_weight = 0.0
    config.loss.reconstruction_weight = 1.0
    config.optim.g_b1 = 0.9
    config.optim.decay_kimg = config.train.kimg
    config.model.fill = True
    figures = loop.train(config, str(tmp_path))
    assert np.isfinite(figures['hole_psnr'])
    state = final_state(str(tmp_path))
    assert int(state.step) == 3
    start = state_lib.init_state(
        state_lib.build_models(config), 16, jax.random.key(config.seed))
    jax.tree.map(np.testing.assert_array_equal, state.params_d, start.params_d)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params_g, start.params_g)
    assert all(jax.tree.leaves(moved['decoder']['b16']['torgb']['pointwise']))
