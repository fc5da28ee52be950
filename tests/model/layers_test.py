"""Layers against goldens, against plain autodiff, and in both precisions."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

import golden
from migan_jax.model import layers
from migan_jax.model import ops


def test_resampling_equals_golden():
    g = golden.load('resample')
    x = jnp.asarray(golden.nhwc(g['in/x']))
    w = jnp.asarray(np.transpose(g['in/w'], (2, 3, 1, 0)))
    for name, actual in {
        'up2': ops.up2(x),
        'down2': ops.down2(x),
        'conv1x1_up2': ops.up2(ops.conv1x1(x, w)),
        'conv1x1_down2': ops.conv1x1(ops.down2(x), w),
    }.items():
        assert golden.relative_error(actual, golden.nhwc(g[f'out/{name}'])) < 1e-6, name


@pytest.mark.parametrize('shape', [(2, 8, 8, 3), (1, 4, 6, 5), (1, 2, 2, 1)])
def test_forms_of_resampling_agree(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    for form in (ops._down2_conv, ops._down2_products):
        np.testing.assert_allclose(form(x), ops._down2_shifts(x), atol=1e-6)
    for form in (ops._up2_conv, ops._up2_products):
        np.testing.assert_allclose(form(x), ops._up2_gather(x), atol=1e-6)


def test_up2_is_four_times_the_transpose_of_down2():
    x = jax.random.normal(jax.random.key(0), (1, 6, 8, 2))
    y = jax.random.normal(jax.random.key(1), (1, 3, 4, 2))
    np.testing.assert_allclose(
        4 * jnp.vdot(ops.down2(x), y), jnp.vdot(x, ops.up2(y)), rtol=1e-5)


def _grouped_conv(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel[:, :, None, :], (1, 1), 'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=x.shape[-1])


def test_depthwise_and_its_gradients_equal_a_grouped_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 3))
    k = jax.random.normal(jax.random.key(1), (3, 3, 3))
    c = jax.random.normal(jax.random.key(2), x.shape)

    def second_order(conv, x, k):
        # As in R1: the gradient of a function of the input gradient.
        def penalty(x, k):
            gx = jax.grad(lambda x: jnp.sum(jnp.tanh(conv(x, k)) * c))(x)
            return jnp.sum(jnp.square(gx))
        return jax.grad(penalty, (0, 1))(x, k)

    ours, plain = ops.depthwise_conv3x3, _grouped_conv
    np.testing.assert_allclose(ours(x, k), plain(x, k), atol=1e-5)
    loss = lambda conv, x, k: jnp.sum(jnp.tanh(conv(x, k)) * c)
    for conv_pair in ((functools.partial(loss, ours), functools.partial(loss, plain)),):
        for a, b in zip(*(jax.grad(f, (0, 1))(x, k) for f in conv_pair)):
            np.testing.assert_allclose(a, b, atol=1e-4)
    for a, b in zip(second_order(ours, x, k), second_order(plain, x, k)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('form', [ops._kernel_grad_rows, ops._kernel_grad_once])
def test_cpu_forms_of_the_kernel_gradient(form):
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 3))
    g = jax.random.normal(jax.random.key(1), x.shape)
    expected = jax.vjp(lambda k: _grouped_conv(x, k), jnp.zeros((3, 3, 3)))[1](g)[0]
    np.testing.assert_allclose(form(x, g).reshape(3, 3, 3), expected, atol=1e-4)


def test_wide_depthwise_gradient_equals_a_grouped_convolution():
    # 64 x 64 elements per row and more take the other form on CPU.
    x = jax.random.normal(jax.random.key(0), (1, 3, 64, 64))
    k = jax.random.normal(jax.random.key(1), (3, 3, 64))
    gradient = lambda conv: jax.grad(lambda k: jnp.sum(jnp.sin(conv(x, k))))(k)
    np.testing.assert_allclose(
        gradient(ops.depthwise_conv3x3), gradient(_grouped_conv), atol=1e-3)


def test_second_order_gradient_through_resampling():
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 2))

    def penalty(down, up, x):
        gx = jax.grad(lambda x: jnp.sum(jnp.sin(up(jnp.tanh(down(x))))))(x)
        return jnp.sum(jnp.square(gx))

    ours = jax.grad(functools.partial(penalty, ops.down2, ops.up2))(x)
    plain = jax.grad(functools.partial(
        penalty, ops._down2_shifts, ops._up2_gather))(x)
    np.testing.assert_allclose(ours, plain, atol=1e-6)


def _dtypes(jaxpr):
    """Dtypes of all float arrays of more than one element inside a jaxpr."""
    found = set()
    for eqn in jaxpr.eqns:
        for v in eqn.outvars:
            if jnp.issubdtype(v.aval.dtype, jnp.floating) and v.aval.ndim == 4:
                found.add(v.aval.dtype)
        for sub in jax.extend.core.jaxprs_in_params(eqn.params):
            found |= _dtypes(sub)
    return found


@pytest.mark.parametrize('function', [
    ops.lrelu, ops.up2, ops.down2,
    lambda x: ops.depthwise_conv3x3(x, jnp.ones((3, 3, x.shape[-1]), x.dtype))])
def test_bfloat16_is_not_promoted(function):
    x = jnp.ones((1, 8, 8, 4), jnp.bfloat16)
    assert function(x).dtype == jnp.bfloat16
    gradient = jax.grad(lambda x: function(x).sum().astype(jnp.float32))
    assert gradient(x).dtype == jnp.bfloat16
    assert _dtypes(jax.make_jaxpr(function)(x).jaxpr) == {jnp.dtype(jnp.bfloat16)}


def test_lrelu_values():
    x = jnp.array([-1e6, -1.0, 0.0, 1.0, 1e6])
    s = 2**0.5
    np.testing.assert_allclose(ops.lrelu(x), [-256, -0.2 * s, 0, s, 256], rtol=1e-6)
    np.testing.assert_allclose(
        ops.lrelu(x, 0.5), [-128, -0.1 * s, 0, s / 2, 128], rtol=1e-6)


def test_effective_kernel_of_branches_and_their_sum_agree():
    w = jax.random.normal(jax.random.key(0), (9, 3, 3, 4, 5))
    effective = layers.effective_kernel({'branches': w})
    np.testing.assert_allclose(
        effective, layers.effective_kernel({'branch_sum': w.sum(0) / 3}), atol=1e-6)
    np.testing.assert_allclose(jnp.square(effective).sum((0, 1, 2)), 1, rtol=1e-5)


def test_minibatch_std_groups_are_strided():
    x = jax.random.normal(jax.random.key(0), (8, 2, 2, 3))
    y = layers.minibatch_std(x)
    assert y.shape == (8, 2, 2, 4)
    for j in range(2):
        members = np.asarray(x)[j::2]
        expected = np.sqrt(members.var(0) + 1e-8).mean()
        np.testing.assert_allclose(y[j::2, ..., 3], expected, rtol=1e-5)


@pytest.mark.parametrize('n, group', [(6, 3), (5, 1), (2, 2)])
def test_minibatch_std_of_other_batch_sizes(n, group):
    x = jax.random.normal(jax.random.key(0), (n, 2, 2, 3))
    members = np.asarray(x).reshape(group, n // group, 2, 2, 3)
    expected = np.tile(np.sqrt(members.var(0) + 1e-8).mean((1, 2, 3)), group)
    np.testing.assert_allclose(
        layers.minibatch_std(x)[:, 0, 0, 3], expected, rtol=1e-4)


def test_forms_of_the_resampled_convolution_agree():
    """What TPUs run and what CPUs run; both against zero insertion and plain sums."""
    x = jax.random.normal(jax.random.key(0), (2, 6, 8, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))
    taps = np.outer(ops.FIR_TAPS, ops.FIR_TAPS)[:, :, None, None] * np.eye(3)
    conv = lambda x, k, padding, **more: jax.lax.conv_general_dilated(
        x, jnp.asarray(k, jnp.float32), (1, 1), [padding] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'), **more)
    # One more pixel of the upsampled plane on each side, then VALID.
    plane = conv(x, 4 * taps, (3, 3), lhs_dilation=(2, 2))
    up = conv(plane, kernel, (0, 0))
    down = conv(conv(x, taps, (2, 2)), kernel, (0, 0))[:, ::2, ::2]
    for form, expected in ((ops._up_in_one, up), (ops._up_in_phases, up),
                           (ops._down_in_one, down), (ops._down_in_two, down)):
        actual = jax.jit(form)(x, kernel)
        np.testing.assert_allclose(actual, expected, atol=1e-5, err_msg=form.__name__)
        f = lambda x, k: jnp.sum(jnp.sin(form(x, k)))
        g = lambda x, k: jnp.sum(jnp.sin(
            (ops._up_in_one if expected is up else ops._down_in_one)(x, k)))
        for ours, theirs in zip(jax.grad(f, (0, 1))(x, kernel), jax.grad(g, (0, 1))(x, kernel)):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_gradients_of_lrelu_are_those_of_its_formula():
    def plain(x, gain):
        x = jnp.where(x > 0, x, 0.2 * x) * (2**0.5 * gain)
        return jnp.clip(x, -256 * gain, 256 * gain)

    x = jnp.array([-1e6, -1000.0, -1.0, -1e-20, 1e-20, 1.0, 180.0, 300.0, 1e6])
    c = jnp.linspace(-1, 1, len(x))

    def gradients(f, gain):
        first = jax.grad(lambda x: jnp.sum(c * f(x, gain)))
        # As in R1: through the gradient, too.
        second = jax.grad(lambda x, c: jnp.sum(jnp.square(
            jax.vjp(lambda x: f(x, gain), x)[1](jnp.tanh(c * x))[0])))
        return first(x), second(x, c)

    for gain in (1.0, 0.5**0.5):
        for ours, expected in zip(gradients(ops.lrelu, gain), gradients(plain, gain)):
            np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_kernel_gradient_of_accelerators_equals_a_grouped_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 3))
    g = jax.random.normal(jax.random.key(1), x.shape)
    expected = jax.vjp(lambda k: _grouped_conv(x, k), jnp.zeros((3, 3, 3)))[1](g)[0]
    np.testing.assert_allclose(
        ops._kernel_grad_shifts(x, g).reshape(3, 3, 3), expected, atol=1e-4)
    half = ops._kernel_grad_shifts(x.astype(jnp.bfloat16), g.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half.reshape(3, 3, 3), expected, atol=0.3)
