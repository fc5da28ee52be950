"""The networks' operations as functions, with gradients of their own.

Everything is NHWC / HWIO.  Depthwise 3x3 and the FIR resamplers have VJPs written by
hand: on TPU and CPU they are bound by memory traffic, and plain autodiff of a nine-term
sum moves six times the bytes of the closed forms below.  Every VJP is written with
functions that have VJPs themselves, so that they can be differentiated twice, as the R1
penalty does.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from migan_jax.devices import Array

# Python floats, never NumPy scalars: a float64 scalar would promote bfloat16.
SQRT2 = float(np.sqrt(2.0))
SQRT_HALF = 0.5**0.5
CLAMP = 256.0
NEGATIVE_SLOPE = 0.2
EPS = 1e-8
# FIR low-pass filter, outer([1, 3, 3, 1]) / 64: the taps along one axis.
FIR_TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)


def at_least_float32(dtype: jax.typing.DTypeLike) -> np.dtype:
    """float32 for bfloat16 and float16, `dtype` itself for float32 and float64."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def lrelu(x: Array, gain: float = 1.0) -> jax.Array:
    """Leaky ReLU (slope 0.2) times sqrt(2) * gain, clamped to +-256 * gain.

    A maximum, and a gradient that reads the output, not a selection: the predicate of
    a selection is a result of its own, which TPU compilers write out and read again.

    Args:
      x: [...], any float dtype, kept.
      gain: extra factor, a Python float.
    """
    x = jnp.maximum(x, NEGATIVE_SLOPE * x) * (SQRT2 * gain)
    return jnp.clip(x, -CLAMP * gain, CLAMP * gain)


def _lrelu_fwd(x, gain):
    y = lrelu(x, gain)
    return y, y


# Turns all but numbers next to nothing into more than 1; finite in bfloat16.
_STEEP = 2.0**100


def _lrelu_bwd(gain, y, g):
    # Piecewise constant in y, also for second derivatives.
    y = jax.lax.stop_gradient(y)
    positive = jnp.clip(y * _STEEP, 0.0, 1.0)
    inside = jnp.clip((CLAMP * gain - jnp.abs(y)) * _STEEP, 0.0, 1.0)
    slope = positive * (1 - NEGATIVE_SLOPE) + NEGATIVE_SLOPE
    return (g * (slope * inside * (SQRT2 * gain)),)


lrelu.defvjp(_lrelu_fwd, _lrelu_bwd)


@jax.custom_vjp
def add_broadcast(x: Array, b: Array) -> jax.Array:
    """x + b in the dtype of x; the gradient of b is summed in float32.

    Plain addition sums it in the dtype of x: in bfloat16 on CPU so coarsely that the
    gradient of a bias points elsewhere.

    Args:
      x: [...], any float dtype.
      b: broadcasts to x; any float dtype.
    """
    return x + b.astype(x.dtype)


def _add_broadcast_bwd(b, g):
    shape = (1,) * (g.ndim - b.ndim) + b.shape
    axes = tuple(i for i, side in enumerate(shape) if side == 1 and g.shape[i] != 1)
    total = jnp.sum(g.astype(at_least_float32(g.dtype)), axes, keepdims=True)
    return g, total.reshape(b.shape).astype(b.dtype)


add_broadcast.defvjp(lambda x, b: (add_broadcast(x, b), b), _add_broadcast_bwd)


# `jax.lax` where NumPy's functions would do: these are traced several hundred times in
# every network, and each jnp.pad or slice takes five times as long to trace.


def _padded(x, *axes, width=1):
    """x with zeros on both sides of some axes."""
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [
        (width, width, 0) if axis in axes else (0, 0, 0) for axis in range(x.ndim)])


def _shifts(x):
    """The nine zero-padded 3x3 neighbours: yields (i, j, x[.., h+i-1, w+j-1, ..])."""
    b, h, w, c = x.shape
    padded = _padded(x, 1, 2)
    for i in range(3):
        for j in range(3):
            yield i, j, jax.lax.slice(padded, (0, i, j, 0), (b, i + h, j + w, c))


@jax.custom_vjp
def depthwise_conv3x3(x: Array, kernel: Array) -> jax.Array:
    """Depthwise 3x3 convolution with zero padding 1.

    Args:
      x: [B, H, W, C].
      kernel: [3, 3, C] of the same dtype.

    Returns:
      [B, H, W, C], y[h, w] = sum_ij kernel[i, j] * x[h + i - 1, w + j - 1].
    """
    return sum(shifted * kernel[i, j] for i, j, shifted in _shifts(x))


@jax.custom_vjp
def depthwise_kernel_grad(x: Array, g: Array) -> jax.Array:
    """Gradient of `depthwise_conv3x3` with respect to its kernel.

    Args:
      x: [B, H, W, C], the input of the convolution.
      g: [B, H, W, C], the gradient of its output.

    Returns:
      [3, 3, C], summed in float32 whatever the dtype.
    """
    # On CPU: rows of accumulators while they are worth a loop (see below).
    on_cpu = _kernel_grad_rows if x.shape[2] * x.shape[3] >= 4096 else _kernel_grad_once
    taps = jax.lax.platform_dependent(x, g, cpu=on_cpu, default=_kernel_grad_shifts)
    return taps.reshape(3, 3, -1).astype(x.dtype)


def _kernel_grad_shifts(x, g):
    """[9, C]: nine reductions."""
    dtype = at_least_float32(g.dtype)
    # Converted after the shift: TPU compilers would write a float32 copy of a converted x.
    return jnp.stack([
        jnp.sum(shifted.astype(dtype) * g.astype(dtype), (0, 1, 2))
        for _, _, shifted in _shifts(x)])


def _kernel_grad_rows(x, g):
    """[9, C]: adds row by row into nine [W, C] accumulators (50 ms)."""
    dtype = at_least_float32(g.dtype)
    x, g = x.astype(dtype), g.astype(dtype)
    b, h, w, c = x.shape
    padded = _padded(x, 1, 2)

    def add_row(n, sums):
        i, j = n // h, n % h
        rows = jax.lax.dynamic_slice(padded, (i, j, 0, 0), (1, 3, w + 2, c))[0]
        g_row = jax.lax.dynamic_slice(g, (i, j, 0, 0), (1, 1, w, c))[0, 0]
        return tuple(total + rows[k // 3, k % 3:k % 3 + w] * g_row
                     for k, total in enumerate(sums))

    zeros = (jnp.zeros((w, c), x.dtype),) * 9
    return jnp.stack(jax.lax.fori_loop(0, b * h, add_row, zeros)).sum(1)


def _kernel_grad_once(x, g):
    """[9, C]: one reduction over W with nine results, then over the rest (100 ms)."""
    dtype = at_least_float32(g.dtype)
    x, g = x.astype(dtype), g.astype(dtype)
    products = tuple(shifted * g for _, _, shifted in _shifts(x))
    rows = jax.lax.reduce(
        products, (jnp.zeros((), x.dtype),) * 9,
        lambda a, b: tuple(u + v for u, v in zip(a, b)), (2,))
    return jnp.stack(rows).sum((1, 2))


def _depthwise_fwd(x, kernel):
    return depthwise_conv3x3(x, kernel), (x, kernel)


def _depthwise_bwd(residuals, g):
    x, kernel = residuals
    # The transpose of a correlation is the correlation with the flipped kernel.
    return (depthwise_conv3x3(g, kernel[::-1, ::-1]), depthwise_kernel_grad(x, g))


def _kernel_grad_fwd(x, g):
    return depthwise_kernel_grad(x, g), (x, g)


def _kernel_grad_bwd(residuals, ct):
    # The kernel gradient is bilinear in (x, g); ct has the shape of a kernel.
    x, g = residuals
    return depthwise_conv3x3(g, ct[::-1, ::-1]), depthwise_conv3x3(x, ct)


depthwise_conv3x3.defvjp(_depthwise_fwd, _depthwise_bwd)
depthwise_kernel_grad.defvjp(_kernel_grad_fwd, _kernel_grad_bwd)


def _down2_conv(x):
    """The FIR filter with stride 2 as a grouped 4x4 convolution."""
    taps = np.outer(FIR_TAPS, FIR_TAPS)[:, :, None, None]
    kernel = jnp.broadcast_to(jnp.asarray(taps, x.dtype), (4, 4, 1, x.shape[-1]))
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 2), [(1, 1)] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=x.shape[-1])


def _down2_axis(x, axis):
    """out[i] = (x[2i-1] + 3 x[2i] + 3 x[2i+1] + x[2i+2]) / 8 along one axis."""
    n = x.shape[axis]
    x = _padded(x, axis)
    return sum(
        tap * jax.lax.slice_in_dim(x, k, k + n - 1, stride=2, axis=axis)
        for k, tap in enumerate(FIR_TAPS))


def _down2_shifts(x):
    return _down2_axis(_down2_axis(x, 1), 2)


def _up2_axis(x, axis):
    """out[2i] = .75 x[i] + .25 x[i-1], out[2i+1] = .75 x[i] + .25 x[i+1]."""
    out = np.arange(2 * x.shape[axis])
    padded = _padded(x, axis)
    take = lambda index: jnp.take(padded, index + 1, axis, mode='clip')
    near, far = out // 2, out // 2 + np.where(out % 2, 1, -1)
    # Twice two neighbouring taps, from the gain of 2 per axis: 6/8 and 2/8.
    return 2 * FIR_TAPS[1] * take(near) + 2 * FIR_TAPS[0] * take(far)


def _up2_gather(x):
    return _up2_axis(_up2_axis(x, 1), 2)


def _up2_conv(x):
    """Zero insertion and the FIR filter with gain 4, as one dilated convolution."""
    taps = 4 * np.outer(FIR_TAPS, FIR_TAPS)[:, :, None, None]
    kernel = jnp.broadcast_to(jnp.asarray(taps, x.dtype), (4, 4, 1, x.shape[-1]))
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), [(2, 2)] * 2, lhs_dilation=(2, 2),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=x.shape[-1])


def _down2_matrix(n):
    """f64[n / 2, n]: the FIR filter with stride 2 along an axis of n elements."""
    matrix = np.zeros((n // 2, n))
    for i in range(n // 2):
        for k, tap in enumerate(FIR_TAPS):
            if 0 <= 2 * i - 1 + k < n:
                matrix[i, 2 * i - 1 + k] = tap
    return matrix


def _resample_by_products(x, rows, columns):
    rows, columns = (jnp.asarray(matrix, x.dtype) for matrix in (rows, columns))
    # Highest: by default a TPU would round a float32 image to bfloat16.
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    return product('pw,bowc->bopc', columns, product('oh,bhwc->bowc', rows, x))


def _down2_products(x):
    return _resample_by_products(x, *map(_down2_matrix, x.shape[1:3]))


def _up2_products(x):
    # 4 times the transpose of `down2`: 2 for each axis.
    return _resample_by_products(
        x, *(2 * _down2_matrix(2 * n).T for n in x.shape[1:3]))


def is_narrow(x: Array) -> bool:
    """Whether x is an image rather than features.

    For so few channels TPU convolutions want the batch in the lanes: with 8 images the
    compiler reads and writes arrays sixteen times their size, and copies to get there.
    """
    return x.shape[-1] <= 4


@jax.custom_vjp
def down2(x: Array) -> jax.Array:
    """FIR low-pass and decimation: [B, H, W, C] -> [B, H/2, W/2, C], pad 1.

    On TPU a grouped convolution moves the fewest bytes, for images products with
    banded matrices; shifted slices are fastest on CPU.
    """
    return jax.lax.platform_dependent(
        x, tpu=_down2_products if is_narrow(x) else _down2_conv, default=_down2_shifts)


@jax.custom_vjp
def up2(x: Array) -> jax.Array:
    """Zero insertion and FIR with gain 4: [B, H, W, C] -> [B, 2H, 2W, C].

    Exactly 4 times the transpose of `down2`, hence each is the other's gradient.  A
    dilated convolution on TPU, for images products with banded matrices; gathering rows
    and columns is fastest on CPU.
    """
    return jax.lax.platform_dependent(
        x, tpu=_up2_products if is_narrow(x) else _up2_conv, default=_up2_gather)


down2.defvjp(lambda x: (down2(x), None), lambda _, g: (up2(g) * 0.25,))
up2.defvjp(lambda x: (up2(x), None), lambda _, g: (down2(g) * 4.0,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def fir(x: Array, padding: int) -> jax.Array:
    """The FIR low-pass alone: [B, H, W, C] -> [B, H + 2p - 3, W + 2p - 3, C].

    The taps are symmetric, so its gradient is the filter with padding 3 - p.

    Args:
      x: [B, H, W, C].
      padding: p, 1 or 2 zeros on each side.
    """
    return _fir_axis(_fir_axis(x, 1, padding), 2, padding)


def _fir_axis(x, axis, padding):
    n = x.shape[axis] + 2 * padding - 3
    x = _padded(x, axis, width=padding)
    return sum(tap * jax.lax.slice_in_dim(x, k, k + n, axis=axis)
               for k, tap in enumerate(FIR_TAPS))


fir.defvjp(lambda x, padding: (fir(x, padding), None),
           lambda padding, _, g: (fir(g, 3 - padding),))
_conv = functools.partial(
    jax.lax.conv_general_dilated, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _kernel_with_fir(kernel, gain):
    """A 3x3 kernel and the FIR filter as one kernel: [3, 3, ..] -> [6, 6, ..]."""
    dtype = at_least_float32(kernel.dtype)
    taps = gain * np.outer(FIR_TAPS, FIR_TAPS)
    kernel = kernel.astype(dtype)
    return sum(
        float(taps[i, j]) * jnp.pad(kernel, ((i, 3 - i), (j, 3 - j), (0, 0), (0, 0)))
        for i in range(4) for j in range(4))


def _up_in_one(x, kernel):
    kernel = _kernel_with_fir(kernel, 4).astype(x.dtype)
    return _conv(x, kernel, (1, 1), [(3, 3)] * 2, lhs_dilation=(2, 2))


def _up_in_phases(x, kernel):
    b, h, w, _ = x.shape
    # Zero insertion and a 3x3 kernel as one 2x2 convolution per output phase: even
    # output rows see kernel rows 0 and 2, odd rows only row 1, likewise columns.
    outer, middle = kernel[::2], jnp.pad(kernel[1:2], ((1, 0), (0, 0), (0, 0), (0, 0)))
    phases = [phase for rows in (outer, middle) for phase in (
        rows[:, ::2], jnp.pad(rows[:, 1:2], ((0, 0), (1, 0), (0, 0), (0, 0))))]
    y = _conv(x, jnp.concatenate(phases, -1), (1, 1), [(1, 1)] * 2)  # [.., 4 co]
    y = y.reshape(b, h + 1, w + 1, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(b, 2 * h + 2, 2 * w + 2, -1)[:, :-1, :-1]
    # FIR and convolution commute.
    return 4 * fir(y, 1)


def _down_in_one(x, kernel):
    kernel = _kernel_with_fir(kernel, 1).astype(x.dtype)
    return _conv(x, kernel, (2, 2), [(2, 2)] * 2)


def _down_in_two(x, kernel):
    return _conv(fir(x, 2), kernel, (2, 2), 'VALID')


def conv3x3_resampled(x: Array, kernel: Array, *, up: bool = False, down: bool = False
                      ) -> jax.Array:
    """Dense 3x3 convolution with optional FIR resampling by 2.

    The image is a plane that is zero outside: what the FIR spreads one pixel past
    each border takes part in the convolution.  Zero padding between the two would
    darken the border instead.

    On TPU both together are one 6x6 convolution: nearly four times the FLOPs, of
    which there are plenty, and 3.3 in place of 11 passes over the output of an up
    convolution (9.9 in place of 20 over the input of a down convolution).  On CPU
    the convolution takes place at the lower resolution.

    Args:
      x: [B, H, W, ci].
      kernel: [3, 3, ci, co] of the same dtype.
    """
    if up:
        # The published upsampling layers convolve (flipped kernel), all others
        # correlate.
        return jax.lax.platform_dependent(                  # [B, 2H, 2W, co]
            x, kernel[::-1, ::-1], cpu=_up_in_phases, default=_up_in_one)
    if down:
        return jax.lax.platform_dependent(                  # [B, H / 2, W / 2, co]
            x, kernel, cpu=_down_in_two, default=_down_in_one)
    return _conv(x, kernel, (1, 1), 'SAME')


def conv1x1(x: Array, kernel: Array, precision: jax.lax.PrecisionLike = None
            ) -> jax.Array:
    """1x1 convolution: [B, H, W, ci], [1, 1, ci, co] -> [B, H, W, co].

    It is a product of matrices.  For the kernel gradient of an einsum over four axes
    XLA:CPU would transpose the activations, which takes three times as long.
    """
    y = jnp.matmul(                                     # [B H W, co]
        x.reshape(-1, x.shape[-1]), kernel[0, 0], precision=precision)
    return y.reshape(*x.shape[:3], -1)


def separable_conv(x: Array, depthwise: Array, bias: Array, pointwise: Array, *,
                   gain: float, down: bool) -> jax.Array:
    """Depthwise 3x3, bias, activation, [down2], 1x1: the heart of a `ConvBlock`.

    Args:
      x: [B, H, W, ci].
      depthwise: [3, 3, ci] and pointwise: [1, 1, ci, co], of the dtype of x.
      bias: [ci], any float dtype.
      gain: of the activation.
      down: resample by 2.
    """
    x = lrelu(add_broadcast(depthwise_conv3x3(x, depthwise), bias), gain)
    return conv1x1(down2(x) if down else x, pointwise)
