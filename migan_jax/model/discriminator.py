"""MI-GAN discriminator (the supplement's Table S.5)."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from migan_jax.devices import Array
from migan_jax.model.layers import channels
from migan_jax.model.layers import check_input
from migan_jax.model.layers import ConvBlock
from migan_jax.model.layers import ConvSpec
from migan_jax.model.layers import Dense
from migan_jax.model.layers import minibatch_std
from migan_jax.model.layers import PointwiseConv
from migan_jax.model.layers import resolutions
from migan_jax.model.ops import at_least_float32
from migan_jax.model.ops import lrelu
from migan_jax.model.ops import SQRT_HALF


class ResidualBlock(nn.Module):
    """Halves the resolution; both paths carry sqrt(.5), so their sum has unit gain."""
    features: int
    out_features: int
    spec: ConvSpec
    from_input: bool = False

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        if self.from_input:
            # In float32, as far as the activation: the image's gradient, which the
            # generator learns from, is a product with this kernel, and rounding the
            # kernel turns the mean colour's part of it.  TPUs round in their products,
            # unless these are more precise.
            float32 = dataclasses.replace(
                self.spec, dtype=at_least_float32(self.spec.dtype))
            x = PointwiseConv(self.features, float32, name='fromrgb',
                              precision=jax.lax.Precision.HIGH)(x)
            x = lrelu(x.astype(self.spec.dtype))
        skip = PointwiseConv(self.out_features, self.spec, use_bias=False, down=True,
                             gain=SQRT_HALF, name='skip')(x)
        x = ConvBlock(self.features, self.spec, name='conv1')(x)
        x = ConvBlock(self.out_features, self.spec, down=True, gain=SQRT_HALF,
                      name='conv2')(x)
        return x + skip


class Discriminator(nn.Module):
    """MI-GAN discriminator (Table S.5).

    Attributes:
      resolution: R, a power of two from 16.
      ch_base, ch_max: ch(r) = min(ch_base / r, ch_max).
      spec: see `layers.ConvSpec`.
    """
    resolution: int
    ch_base: int = 32768
    ch_max: int = 512
    spec: ConvSpec = ConvSpec()

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
            x = ResidualBlock(ch(r), ch(r // 2), self.spec,
                              from_input=r == self.resolution, name=f'b{r}')(x)
        x = minibatch_std(x)
        x = ConvBlock(ch(4), self.spec, name='conv')(x)
        # Flattened in (C, H, W) order, as the published weights expect.
        x = jnp.transpose(x, (0, 3, 1, 2)).reshape(x.shape[0], -1)
        x = Dense(ch(4), activate=True, name='fc')(x)
        return Dense(1, name='out')(x)
