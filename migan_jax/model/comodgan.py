"""Co-Mod-GAN, the teacher: generator and discriminator.

Zhao et al., Large scale image completion via co-modulated generative adversarial
networks, 2021: an image encoder's global feature and a mapped random latent together
modulate the convolutions of a StyleGAN2 decoder, which also adds the encoder's
features of its own resolution.

Parameters are float32; convolutions run in `dtype`, styles and images in float32.
"""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from migan_jax.devices import Array
from migan_jax.model.layers import channels
from migan_jax.model.layers import check_input
from migan_jax.model.layers import Dense
from migan_jax.model.layers import minibatch_std
from migan_jax.model.layers import Noise
from migan_jax.model.layers import resolutions
from migan_jax.model.ops import at_least_float32
from migan_jax.model.ops import conv1x1
from migan_jax.model.ops import conv3x3_resampled
from migan_jax.model.ops import down2
from migan_jax.model.ops import EPS
from migan_jax.model.ops import lrelu
from migan_jax.model.ops import SQRT_HALF
from migan_jax.model.ops import up2

# Share of the old average that w_avg keeps in a training step.
W_AVG_DECAY = 0.995


def latent_count(resolution: int) -> int:
    """Style inputs of a generator: one per 3x3 convolution and a last torgb.

    Args:
      resolution: R, a power of two.

    Returns:
      2 log2(R) - 2: 14 at 256, 16 at 512.
    """
    return 2 * resolution.bit_length() - 4


def flatten_chw(x: Array) -> jax.Array:
    """[B, H, W, C] -> [B, C H W], in the published order (C, H, W)."""
    return jnp.transpose(x, (0, 3, 1, 2)).reshape(x.shape[0], -1)


class Conv(nn.Module):
    """Convolution with run-time fan-in gain 1/sqrt(k k ci), bias and activation.

    Attributes:
      features: output channels.
      size: k, 1 or 3.
      down: FIR down by 2 first.
      gain: of the activation, or of the output if there is none.
      use_bias, activate: what the layer has.
      dtype: it computes in.
    """
    features: int
    size: int = 3
    down: bool = False
    gain: float = 1.0
    use_bias: bool = True
    activate: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        k, ci = self.size, x.shape[-1]
        kernel = self.param('kernel', nn.initializers.normal(1.0),
                            (k, k, ci, self.features))
        kernel = (kernel * (k * k * ci)**-0.5).astype(self.dtype)
        x = x.astype(self.dtype)
        if k == 3:
            x = conv3x3_resampled(x, kernel, down=self.down)
        else:
            x = conv1x1(down2(x) if self.down else x, kernel)
        if self.use_bias:
            bias = self.param('bias', nn.initializers.zeros, (self.features,))
            x = x + bias.astype(self.dtype)
        return lrelu(x, self.gain) if self.activate else x * self.gain


class ModulatedConv(nn.Module):
    """3x3 convolution whose input channels are scaled by a style (StyleGAN2).

    Attributes:
      features: output channels.
      up: FIR up by 2.
      dtype: it computes in.
    """
    features: int
    up: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, w: jax.Array, noise_mode: str) -> jax.Array:
        ci = x.shape[-1]
        style = Dense(ci, bias_init=1.0, name='affine')(w)                   # [B, ci]
        kernel = self.param('kernel', nn.initializers.normal(1.0),
                            (3, 3, ci, self.features))
        # Both to unit size, so that low precision does not overflow; demodulation
        # cancels the style's scale, which is one number for the whole batch.
        kernel *= jax.lax.rsqrt(jnp.mean(jnp.square(kernel), (0, 1, 2)))
        style *= jax.lax.rsqrt(jnp.mean(jnp.square(style)))
        # Kernel w_kio * s_bi has output norm^2 sum_i s_bi^2 sum_k w_kio^2.
        norms = jnp.square(style) @ jnp.sum(jnp.square(kernel), (0, 1))      # [B, co]
        demodulate = jax.lax.rsqrt(norms + EPS)
        # Scaling activations before and after is the same as one kernel per sample,
        # and one convolution for the batch.
        x = x * style[:, None, None].astype(self.dtype)
        x = conv3x3_resampled(x, kernel.astype(self.dtype), up=self.up)
        x = x * demodulate[:, None, None].astype(self.dtype)
        x = Noise(name='noise')(x, noise_mode)
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        return lrelu(x + bias.astype(self.dtype))


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to 3 channels, without demodulation: f32 output."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, w: jax.Array) -> jax.Array:
        ci = x.shape[-1]
        style = Dense(ci, bias_init=1.0, name='affine')(w) * ci**-0.5        # [B, ci]
        kernel = self.param('kernel', nn.initializers.normal(1.0), (1, 1, ci, 3))
        bias = self.param('bias', nn.initializers.zeros, (3,))
        x = conv1x1(x * style[:, None, None].astype(self.dtype),
                    kernel.astype(self.dtype))
        return x.astype(at_least_float32(self.dtype)) + bias


class Mapping(nn.Module):
    """z [B, z_dim] -> w [B, w_dim], with the running mean w_avg.

    w_avg lies in the collection `average` and moves where that is mutable.
    """
    w_dim: int
    layers: int

    @nn.compact
    def __call__(self, z: Array) -> tuple[jax.Array, Array]:
        x = z * jax.lax.rsqrt(jnp.mean(jnp.square(z), 1, keepdims=True) + EPS)
        for i in range(self.layers):
            x = Dense(self.w_dim, activate=True, lr_multiplier=0.01, name=f'fc{i}')(x)
        average = self.variable('average', 'w_avg', jnp.zeros, (self.w_dim,))
        if self.is_mutable_collection('average') and not self.is_initializing():
            average.value = average.value + (1 - W_AVG_DECAY) * jax.lax.stop_gradient(
                jnp.mean(x, 0) - average.value)
        return x, average.value


class EncoderBlock(nn.Module):
    """conv0 gives the skip feature, conv1 halves the resolution."""
    features: int
    out_features: int
    from_input: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> tuple[jax.Array, jax.Array]:
        if self.from_input:
            x = Conv(self.features, 1, dtype=self.dtype, name='fromrgb')(x)
        skip = Conv(self.features, dtype=self.dtype, name='conv0')(x)
        return Conv(self.out_features, down=True, dtype=self.dtype, name='conv1')(
            skip), skip


class EncoderEnd(nn.Module):
    """At 4x4: the last skip feature and the global feature [B, global_dim]."""
    features: int
    global_dim: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> tuple[jax.Array, jax.Array]:
        skip = Conv(self.features, dtype=self.dtype, name='conv')(x)
        x = Dense(self.global_dim, activate=True, name='fc')(flatten_chw(skip))
        return nn.Dropout(self.dropout, deterministic=not self.has_rng('dropout'))(
            x), skip


class Encoder(nn.Module):
    """[B, R, R, 4] -> global feature [B, global_dim] and {resolution: feature}."""
    resolution: int
    ch_base: int
    ch_max: int
    global_dim: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> tuple[jax.Array, dict[int, jax.Array]]:
        ch = lambda r: channels(r, self.ch_base, self.ch_max)
        skips = {}
        for r in resolutions(self.resolution):
            x, skips[r] = EncoderBlock(
                ch(r), ch(r // 2), r == self.resolution, self.dtype, name=f'b{r}')(x)
        x, skips[4] = EncoderEnd(
            ch(4), self.global_dim, self.dropout, self.dtype, name='b4')(x)
        return x, skips


class DecoderStart(nn.Module):
    """At 4x4: the global feature becomes a picture again."""
    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, skip: jax.Array, styles: Callable[[int], jax.Array],
                 noise_mode: str) -> tuple[jax.Array, jax.Array]:
        x = Dense(16 * self.features, activate=True, name='fc')(x)
        x = jnp.transpose(x.reshape(-1, self.features, 4, 4), (0, 2, 3, 1))
        x = ModulatedConv(self.features, dtype=self.dtype, name='conv')(
            x.astype(self.dtype) + skip, styles(0), noise_mode)
        return x, ToRGB(self.dtype, name='torgb')(x, styles(1))


class DecoderBlock(nn.Module):
    """conv0 up, + skip, conv1, torgb; `first` is the style input of conv0."""
    features: int
    first: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, skip: jax.Array, styles: Callable[[int], jax.Array],
                 noise_mode: str) -> tuple[jax.Array, jax.Array]:
        x = ModulatedConv(self.features, up=True, dtype=self.dtype, name='conv0')(
            x, styles(self.first), noise_mode)
        x = ModulatedConv(self.features, dtype=self.dtype, name='conv1')(
            x + skip, styles(self.first + 1), noise_mode)
        return x, ToRGB(self.dtype, name='torgb')(x, styles(self.first + 2))


class Decoder(nn.Module):
    """Co-modulated synthesis: (image, {resolution: rgb})."""
    resolution: int
    ch_base: int
    ch_max: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, skips: dict[int, jax.Array], ws: jax.Array, noise_mode: str
                 ) -> tuple[jax.Array, dict[int, jax.Array]]:
        # Co-modulation: every style comes from both w and the global feature.
        styles = lambda i: jnp.concatenate([ws[:, i], x_global], 1)
        x_global = x
        ch = lambda r: channels(r, self.ch_base, self.ch_max)
        x, image = DecoderStart(ch(4), self.dtype, name='b4')(
            x, skips[4], styles, noise_mode)
        rgbs = {4: image}
        # Convolutions go on counting, and a torgb reads the input after its own
        # block's, which the next block's first convolution reads as well.
        for i, r in enumerate(reversed(tuple(resolutions(self.resolution)))):
            x, rgbs[r] = DecoderBlock(ch(r), 2 * i + 1, self.dtype, name=f'b{r}')(
                x, skips[r], styles, noise_mode)
            image = up2(image) + rgbs[r]
        return image, rgbs


class Generator(nn.Module):
    """Co-Mod-GAN generator.

    Attributes:
      resolution: R, a power of two from 16.
      ch_base, ch_max: ch(r) = min(ch_base / r, ch_max).
      z_dim, w_dim: of the latent and the mapped latent.
      mapping_layers: dense layers from z to w.
      global_dim: of the encoder's global feature.
      dropout: rate on the global feature, where the rng stream `dropout` is given.
      dtype: of the convolutions.
    """
    resolution: int
    ch_base: int = 32768
    ch_max: int = 512
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    global_dim: int = 1024
    dropout: float = 0.5
    dtype: Any = jnp.float32

    def setup(self) -> None:
        shared = (self.resolution, self.ch_base, self.ch_max)
        self.mapping = Mapping(self.w_dim, self.mapping_layers)
        self.encoder = Encoder(*shared, self.global_dim, self.dropout, self.dtype)
        self.decoder = Decoder(*shared, self.dtype)

    def latents(self, keys: jax.Array) -> jax.Array:
        """Draws z.

        Args:
          keys: [B] keys, one per sample.

        Returns:
          f32[B, z_dim], N(0, 1).
        """
        return jax.vmap(lambda key: jax.random.normal(key, (self.z_dim,)))(keys)

    def map(self, z: Array, psi: float | Array = 1.0) -> jax.Array:
        """Mapped latents, one per style input.

        Args:
          z: f32[B, z_dim].
          psi: truncation, w = w_avg + psi (w - w_avg); 1 leaves w as it is.

        Returns:
          f32[B, latent_count(R), w_dim].
        """
        w, w_avg = self.mapping(z)
        w = w_avg + psi * (w - w_avg)
        return jnp.broadcast_to(
            w[:, None], (len(w), latent_count(self.resolution), self.w_dim))

    def synthesize(self, x: Array, ws: jax.Array, noise_mode: str = 'random'
                   ) -> tuple[jax.Array, dict[int, jax.Array]]:
        """As `__call__`, from mapped latents f32[B, latent_count(R), w_dim]."""
        x_global, skips = self.encoder(x)
        return self.decoder(x_global, skips, ws, noise_mode)

    def __call__(self, x: Array, noise_mode: str = 'random', z: Array | None = None,
                 psi: float | Array = 1.0) -> tuple[jax.Array, dict[int, jax.Array]]:
        """Paints the holes.

        Args:
          x: f32[B, R, R, 4], `io.model_input`: [mask - 0.5, image * mask],
            mask 1 = known, image in [-1, 1].
          noise_mode: 'random' (needs the rng stream `noise`), 'const' or 'none'.
          z: f32[B, z_dim], of `latents`.
          psi: truncation, see `map`.

        Returns:
          image: f32[B, R, R, 3], about [-1, 1], not clipped, not composited.
          rgbs: {r: f32[B, r, r, 3]} for r = 4..R, the torgb outputs before they
            are accumulated.

        Raises:
          ValueError: no power of two, or x or z has another shape.
        """
        check_input(x, self.resolution, 'generator')
        if z is None or z.shape != (len(x), self.z_dim):
            raise ValueError(
                f'z has shape {None if z is None else z.shape}; expected '
                f'{(len(x), self.z_dim)}: draw it with `latents`.')
        return self.synthesize(x, self.map(z, psi), noise_mode)


class ResidualBlock(nn.Module):
    """Halves the resolution; both paths carry sqrt(.5), so their sum has unit gain."""
    features: int
    out_features: int
    from_input: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        if self.from_input:
            x = Conv(self.features, 1, dtype=self.dtype, name='fromrgb')(x)
        skip = Conv(self.out_features, 1, down=True, gain=SQRT_HALF, use_bias=False,
                    activate=False, dtype=self.dtype, name='skip')(x)
        x = Conv(self.features, dtype=self.dtype, name='conv0')(x)
        x = Conv(self.out_features, down=True, gain=SQRT_HALF, dtype=self.dtype,
                 name='conv1')(x)
        return x + skip


class Discriminator(nn.Module):
    """The residual StyleGAN2 discriminator that Co-Mod-GAN trains against.

    Attributes:
      resolution: R, a power of two from 16.
      ch_base, ch_max: ch(r) = min(ch_base / r, ch_max).
      dtype: of the convolutions.
    """
    resolution: int
    ch_base: int = 32768
    ch_max: int = 512
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        """Scores images.

        Args:
          x: f32[B, R, R, 4], `io.critic_input`: [mask - 0.5, image], mask
            1 = known, image in [-1, 1].

        Returns:
          f32[B, 1] logits, larger for what looks real.

        Raises:
          ValueError: resolution is no power of two, or x is not [B, R, R, 4].
        """
        check_input(x, self.resolution, 'discriminator')
        ch = lambda r: channels(r, self.ch_base, self.ch_max)
        for r in resolutions(self.resolution):
            x = ResidualBlock(ch(r), ch(r // 2), r == self.resolution, self.dtype,
                              name=f'b{r}')(x)
        x = Conv(ch(4), dtype=self.dtype, name='conv')(minibatch_std(x))
        x = Dense(ch(4), activate=True, name='fc')(flatten_chw(x))
        return Dense(1, name='out')(x)
