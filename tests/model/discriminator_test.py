"""Discriminator and the R1 penalty against the published code."""

import jax
import jax.numpy as jnp
import pytest

import golden
from migan_jax.weights import torch_map
from migan_jax.model.discriminator import Discriminator
from migan_jax.model.layers import ConvSpec
from migan_jax.training import losses
import published_forms


def _load():
    arrays = golden.load('discriminator_r1')
    table = published_forms.discriminator_table(32, branches=9)
    params = torch_map.from_torch(golden.subset(arrays, 'state/'), table)['params']
    model = Discriminator(32, 512, 32, ConvSpec(materialize_branches=True))
    return arrays, table, model, params, jnp.asarray(golden.nhwc(arrays['in/x']))


def test_logits_input_gradient_and_r1_equal_the_published_code():
    arrays, _, model, params, x = _load()
    critic = lambda x: model.apply({'params': params}, x)
    assert golden.relative_error(jax.jit(critic)(x), arrays['out/logits']) < 1e-4
    gradient = jax.jit(jax.grad(lambda x: critic(x).sum()))(x)
    assert golden.relative_error(gradient, golden.nhwc(arrays['out/grad_x'])) < 1e-4
    penalty = jax.jit(lambda x: losses.r1_penalty(critic, x))(x)
    assert golden.relative_error(penalty, arrays['out/r1_penalty']) < 1e-4


def test_second_order_gradients_equal_the_published_code():
    arrays, table, model, params, x = _load()

    def loss(params):
        critic = lambda x: model.apply({'params': params}, x)
        return jnp.mean(losses.r1_penalty(critic, x)) * (10 / 2) * 16

    gradients = jax.jit(jax.grad(loss))(params)
    ours = torch_map.to_torch({'params': gradients}, table)
    expected = golden.subset(arrays, 'out/grad/')
    assert set(expected) <= set(ours)
    for name, array in expected.items():
        assert golden.relative_error(ours[name], array) < 1e-3, name
    # What the golden leaves out has no gradient: the last bias.
    for name in set(ours) - set(expected):
        assert not ours[name].any(), name


def test_collapsed_form_scores_the_same():
    arrays, _, _, params, x = _load()
    model = Discriminator(32, 512, 32)
    logits = jax.jit(model.apply)({'params': published_forms.collapse_branches(params)}, x)
    assert golden.relative_error(logits, arrays['out/logits']) < 1e-4


def test_bfloat16_logits_are_float32():
    model = Discriminator(16, 64, 8, ConvSpec(dtype=jnp.bfloat16))
    x = jax.random.normal(jax.random.key(0), (4, 16, 16, 4))
    logits, _ = jax.jit(model.init_with_output)(jax.random.key(1), x)
    assert logits.dtype == jnp.float32 and logits.shape == (4, 1)


def test_input_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r'expected \[B, 16, 16, 4\]'):
        jax.eval_shape(Discriminator(16).init, jax.random.key(0),
                       jnp.zeros((1, 16, 16, 3)))
