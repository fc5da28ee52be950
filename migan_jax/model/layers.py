"""Layers that the generator and the discriminator share.

Everything is NHWC / HWIO.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from migan_jax.devices import Array
from migan_jax.model.ops import add_broadcast
from migan_jax.model.ops import at_least_float32
from migan_jax.model.ops import conv1x1
from migan_jax.model.ops import conv3x3_resampled
from migan_jax.model.ops import down2
from migan_jax.model.ops import EPS
from migan_jax.model.ops import is_narrow
from migan_jax.model.ops import lrelu
from migan_jax.model.ops import separable_conv
from migan_jax.model.ops import up2


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """What all convolutions of a network have in common.

    Attributes:
      branches: n kernels that are summed into one (re-parametrisation); 0 for
        one plain kernel.
      materialize_branches: keep all n kernels as parameters.  By default their
        sum is trained instead: the n gradients are equal, so the sum follows the
        same trajectory when the optimiser accounts for n (see
        `optimizers.make_optimizer`), at 1/n of the parameters.
      fused: the kernels are the deployed ones (summed, normalised): use as is.
      depthwise: depthwise-separable blocks; False gives plain 3x3 convolutions
        (the paper's first ablation).
      dtype: of activations; parameters are always float32.
    """
    branches: int = 9
    materialize_branches: bool = False
    fused: bool = False
    depthwise: bool = True
    dtype: Any = jnp.float32

    @property
    def recompute(self) -> bool:
        """Whether the backward pass computes depthwise outputs anew.

        In half precision, as accelerators train: nine multiplications cost them less
        than writing the result and reading it back, because what is not kept is
        computed within the next product of matrices.  On CPU it is the other way round.
        """
        return jnp.finfo(self.dtype).bits < 32


def channels(resolution: int, ch_base: int, ch_max: int) -> int:
    """Channels at a resolution, ch(r) = min(ch_base / r, ch_max) (Table S.4)."""
    return min(ch_base // resolution, ch_max)


def resolutions(resolution: int) -> Iterator[int]:
    """Yields `resolution` and its halves down to 8; 4 is a block of its own."""
    while resolution >= 8:
        yield resolution
        resolution //= 2


def check_resolution(resolution: int) -> None:
    """Raises ValueError unless `resolution` is a power of two from 16."""
    if resolution < 16 or resolution & (resolution - 1):
        raise ValueError(
            f'resolution is {resolution}; expected a power of two from 16 (16, 32, '
            '64, 128, 256, 512, ...): set config.model.resolution to one of these.')


def check_input(x: Array, resolution: int, network: str) -> None:
    """Raises ValueError unless x is [B, R, R, 4] and R a power of two from 16.

    Args:
      x: the input of a network.
      resolution: R.
      network: its name, for the message.
    """
    check_resolution(resolution)
    expected = (resolution, resolution, 4)
    if x.ndim != 4 or x.shape[1:] != expected:
        raise ValueError(f'{network} input has shape {x.shape}; expected [B, '
                         f'{expected[0]}, {expected[1]}, 4] for this model.')


# --- kernels ------------------------------------------------------------------


def sum_branches(branches: Array) -> Array:
    """Sum of n branch kernels: [n, ..., co] -> [..., co], sum_i w_i / sqrt(n)."""
    return branches.sum(0) * float(branches.shape[0])**-0.5


def normalize_kernel(kernel: Array) -> Array:
    """Divides every output channel (last axis) by its L2 norm: [..., co].

    A NumPy array on the host, where nothing is compiled for it.
    """
    axes = tuple(range(kernel.ndim - 1))
    if isinstance(kernel, np.ndarray):
        return kernel * (np.square(kernel).sum(axes, keepdims=True) + EPS)**-0.5
    return kernel * jax.lax.rsqrt(
        jnp.sum(jnp.square(kernel), axes, keepdims=True) + EPS)


def effective_kernel(params: Mapping[str, Array]) -> Array:
    """The kernel that a convolution applies, from its training parameters.

    Args:
      params: holds one of `branches` [n, kh, kw, ci, co], `branch_sum` or
        `kernel` [kh, kw, ci, co].

    Returns:
      f32[kh, kw, ci, co], summed over branches and normalised; no fan-in gain.
    """
    if 'branches' in params:
        return normalize_kernel(sum_branches(params['branches']))
    if 'branch_sum' in params:
        return normalize_kernel(params['branch_sum'])
    return normalize_kernel(params['kernel'])


def kernel_form(shape: tuple[int, ...], spec: ConvSpec, use_branches: bool = True
                ) -> tuple[str, tuple[int, ...]]:
    """Name and shape of the parameter that holds a kernel; arguments as of `Kernel`."""
    if spec.fused or not use_branches or spec.branches == 0:
        return 'kernel', shape
    if spec.materialize_branches:
        return 'branches', (spec.branches, *shape)
    return 'branch_sum', shape


class Kernel(nn.Module):
    """Holds the parameters of one convolution kernel; returns the effective one.

    Attributes:
      shape: (kh, kw, ci, co).
      spec: see `ConvSpec`.
      use_branches: False for the encoder's fromrgb, which is never branched.
    """
    shape: tuple[int, ...]
    spec: ConvSpec
    use_branches: bool = True

    @nn.compact
    def __call__(self) -> Array:
        name, shape = kernel_form(self.shape, self.spec, self.use_branches)
        kernel = self.get_variable('params', name)
        # `param` traces a draw to compare shapes; of all kernels that takes a tenth of a
        # second. So it is left to make them, and to say what does not fit.
        if getattr(kernel, 'shape', None) != shape:
            # n draws of N(0, 1) over sqrt(n), the sum of branches, are N(0, 1) again.
            kernel = self.param(name, nn.initializers.normal(1.0), shape)
        return kernel if self.spec.fused else effective_kernel({name: kernel})


# --- modules ------------------------------------------------------------------


class Noise(nn.Module):
    """Adds strength * N(0, 1), one plane per sample, shared by all channels.

    The strength is a scalar parameter, 0 at the start.  Modes: 'random' draws
    from the rng stream `noise` (training), 'const' uses the plane stored in the
    collection `noise` (evaluation, export), 'none' adds nothing.
    """

    @nn.compact
    def __call__(self, x: Array, mode: str) -> jax.Array:
        b, h, w, _ = x.shape
        strength = self.param('strength', nn.initializers.zeros, ())
        plane = self.variable(
            'noise', 'const',
            lambda: jax.random.normal(self.make_rng('params'), (h, w), jnp.float32))
        if mode == 'none':
            return x
        if mode == 'const':
            noise = plane.value[None, :, :, None]
        elif mode == 'random':
            noise = jax.random.normal(self.make_rng('noise'), (b, h, w, 1), jnp.float32)
        else:
            raise ValueError(f"noise mode {mode!r}; expected 'random', 'const' or 'none'")
        return add_broadcast(x, strength * noise.astype(strength.dtype))


class ConvBlock(nn.Module):
    """dw-sep of Tables S.4 and S.5, or a plain 3x3 convolution.

    dw-sep: depthwise 3x3, bias, activation; [down2]; 1x1 without bias; [up2];
    [noise]; activation.  With `spec.depthwise` False: 3x3 with resampling, bias,
    [noise], activation.

    Attributes:
      features: output channels.
      spec: see `ConvSpec`.
      up, down: resample by 2.
      noise: has a noise input.
      gain: of every activation of the block.
    """
    features: int
    spec: ConvSpec
    up: bool = False
    down: bool = False
    noise: bool = False
    gain: float = 1.0

    @nn.compact
    def __call__(self, x: Array, noise_mode: str = 'none') -> jax.Array:
        dtype = self.spec.dtype
        ci = x.shape[-1]
        if self.spec.depthwise:
            kernel = Kernel((3, 3, 1, ci), self.spec, name='depthwise')()
            bias = self.param('bias', nn.initializers.zeros, (ci,))
            pointwise = Kernel((1, 1, ci, self.features), self.spec, name='pointwise')()
            separable = functools.partial(
                separable_conv, gain=self.gain, down=self.down)
            if self.spec.recompute:
                separable = jax.checkpoint(separable)
            x = separable(x, kernel[:, :, 0].astype(dtype), bias,
                          pointwise.astype(dtype))
            if self.up:
                x = up2(x)
        else:
            kernel = Kernel((3, 3, ci, self.features), self.spec, name='conv')()
            bias = self.param('bias', nn.initializers.zeros, (self.features,))
            x = conv3x3_resampled(x, kernel.astype(dtype), up=self.up, down=self.down)
            x = add_broadcast(x, bias)
        if self.noise:
            x = Noise(name='noise')(x, noise_mode)
        return lrelu(x, self.gain)


class PointwiseConv(nn.Module):
    """1x1 convolution with optional bias and activation, optional down2 first.

    Attributes:
      features: output channels.
      spec: see `ConvSpec`; `spec.dtype` is the dtype it computes in.
      use_branches, use_bias, activate, down: what the layer has.
      gain: factor on the output (inside the activation if there is one).
      precision: of the products, `jax.lax.Precision` or None.
    """
    features: int
    spec: ConvSpec
    use_branches: bool = True
    use_bias: bool = True
    activate: bool = False
    down: bool = False
    gain: float = 1.0
    precision: Any = None

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        dtype = self.spec.dtype
        kernel = Kernel((1, 1, x.shape[-1], self.features), self.spec,
                        self.use_branches, name='pointwise')().astype(dtype)
        x = x.astype(dtype)
        if self.down:
            x = down2(x)
        narrow = is_narrow(x)
        if self.use_bias:
            bias = self.param('bias', nn.initializers.zeros, (self.features,))
            if narrow:
                # The bias becomes the kernel of a channel of ones: its gradient, a sum over
                # the large output, then belongs to a product that reads that anyway.
                x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1)
                kernel = jnp.concatenate(
                    [kernel, bias.astype(dtype)[None, None, None]], 2)
        x = conv1x1(x, kernel, self.precision)
        if self.use_bias and not narrow:
            x = add_broadcast(x, bias)
        if self.activate:
            return lrelu(x, self.gain)
        return x * self.gain if self.gain != 1.0 else x


class Dense(nn.Module):
    """Fully connected layer with run-time 1/sqrt(fan_in), in float32.

    Attributes:
      features: outputs.
      activate: apply `lrelu`.
      bias_init: of every bias at the start.
      lr_multiplier: m trains m times slower than the rest: parameters are kept
        divided by m, and multiplied when used.
    """
    features: int
    activate: bool = False
    bias_init: float = 0.0
    lr_multiplier: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        fan_in, m = x.shape[-1], self.lr_multiplier
        kernel = self.param(
            'kernel', nn.initializers.normal(1.0 / m), (fan_in, self.features))
        bias = self.param(
            'bias', nn.initializers.constant(self.bias_init / m), (self.features,))
        x = x.astype(kernel.dtype) @ (kernel * (m * fan_in**-0.5)) + bias * m
        return lrelu(x) if self.activate else x


def std_group(count: int) -> int:
    """How many samples `minibatch_std` compares: the largest divisor of `count` up to 4."""
    return max(group for group in (1, 2, 3, 4) if count % group == 0)


def minibatch_std(x: Array) -> jax.Array:
    """Appends the standard deviation over groups of samples as one channel.

    Samples j, j + N/4, j + 2N/4, j + 3N/4 form a group.  If 4 does not divide N
    the group is the largest divisor of N below it.  On several devices groups lie
    within a device: samples are compared with those of the same device only.

    Args:
      x: [N, H, W, C].

    Returns:
      [N, H, W, C + 1] (Table S.5, mbstd).
    """
    n, h, w, c = x.shape
    group = std_group(n)
    # Squares of differences: float32, bfloat16 would cancel.
    y = x.astype(at_least_float32(x.dtype)).reshape(group, n // group, h, w, c)
    y = jnp.sqrt(jnp.mean(jnp.square(y - y.mean(0)), 0) + EPS)
    y = jnp.mean(y, (1, 2, 3))                      # [N / group]
    y = jnp.tile(y, group).astype(x.dtype)          # sample i is in group i mod N/group
    y = jnp.broadcast_to(y[:, None, None, None], (n, h, w, 1))
    return jnp.concatenate([x, y], -1)
