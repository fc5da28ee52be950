"""MI-GAN generator: encoder, decoder and painting branch (the supplement's Table S.4)."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from migan_jax.devices import Array
from migan_jax.model.fill import starting_fill
from migan_jax.model.layers import channels
from migan_jax.model.layers import check_input
from migan_jax.model.layers import ConvBlock
from migan_jax.model.layers import ConvSpec
from migan_jax.model.layers import PointwiseConv
from migan_jax.model.layers import resolutions
from migan_jax.model.ops import at_least_float32
from migan_jax.model.ops import up2


class EncoderBlock(nn.Module):
    """conv1 keeps the resolution and gives the skip feature, conv2 goes on."""
    features: int
    out_features: int
    spec: ConvSpec
    down: bool
    from_input: bool = False

    @nn.compact
    def __call__(self, x: Array) -> tuple[jax.Array, jax.Array]:
        if self.from_input:
            x = PointwiseConv(self.features, self.spec, use_branches=False,
                              activate=True, name='fromrgb')(x)
        skip = ConvBlock(self.features, self.spec, name='conv1')(x)
        x = ConvBlock(self.out_features, self.spec, down=self.down, name='conv2')(skip)
        return x, skip


class Encoder(nn.Module):
    """[B, R, R, 4] -> feature [B, 4, 4, ch(4)] and {resolution: skip feature}."""
    resolution: int
    ch_base: int
    ch_max: int
    spec: ConvSpec

    @nn.compact
    def __call__(self, x: Array) -> tuple[jax.Array, dict[int, jax.Array]]:
        ch = lambda r: channels(r, self.ch_base, self.ch_max)
        skips = {}
        for r in resolutions(self.resolution):
            x, skips[r] = EncoderBlock(
                ch(r), ch(r // 2), self.spec, down=True,
                from_input=r == self.resolution, name=f'b{r}')(x)
        x, skips[4] = EncoderBlock(ch(4), ch(4), self.spec, down=False, name='b4')(x)
        return x, skips


class DecoderBlock(nn.Module):
    """conv1 (up from 8 on), + skip, conv2, torgb."""
    features: int
    spec: ConvSpec
    up: bool
    noise: bool

    @nn.compact
    def __call__(self, x: Array, skip: jax.Array, noise_mode: str
                 ) -> tuple[jax.Array, jax.Array]:
        x = ConvBlock(self.features, self.spec, up=self.up, noise=self.noise,
                      name='conv1')(x, noise_mode)
        x = ConvBlock(self.features, self.spec, noise=self.noise,
                      name='conv2')(x + skip, noise_mode)
        # The painting branch sums small corrections: float32 throughout.
        float32 = dataclasses.replace(self.spec, dtype=at_least_float32(self.spec.dtype))
        return x, PointwiseConv(3, float32, name='torgb')(x)


class Decoder(nn.Module):
    """Features to (image, {resolution: rgb}); rgb are the torgb outputs."""
    resolution: int
    ch_base: int
    ch_max: int
    spec: ConvSpec
    noise_at_4x4: bool

    @nn.compact
    def __call__(self, x: Array, skips: dict[int, jax.Array], noise_mode: str
                 ) -> tuple[jax.Array, dict[int, jax.Array]]:
        rgbs = {}
        image = None
        for r in (4, *reversed(tuple(resolutions(self.resolution)))):
            x, rgbs[r] = DecoderBlock(
                channels(r, self.ch_base, self.ch_max), self.spec, up=r > 4,
                noise=r > 4 or self.noise_at_4x4, name=f'b{r}')(x, skips[r], noise_mode)
            # Painting branch: image_r = up2(image_{r/2}) + torgb_r.
            image = rgbs[r] if image is None else up2(image) + rgbs[r]
        return image, rgbs


class Generator(nn.Module):
    """MI-GAN generator (Table S.4).

    Attributes:
      resolution: R, a power of two from 16.
      ch_base, ch_max: ch(r) = min(ch_base / r, ch_max).
      spec: see `layers.ConvSpec`.
      noise_at_4x4: noise in the decoder's two 4x4 blocks, as Table S.4 marks it;
        the published weights have none there.
      fill_passes: holes start from `fill.starting_fill` with so many passes, and what
        is painted is added to it; None for the paper's, which has no such fill.
    """
    resolution: int
    ch_base: int = 32768
    ch_max: int = 512
    spec: ConvSpec = ConvSpec()
    noise_at_4x4: bool = True
    fill_passes: int | None = None

    def latents(self, keys: jax.Array) -> None:
        """None for any [B] keys: MI-GAN has no latent, Co-Mod-GAN draws its z here."""
        return None

    @nn.compact
    def __call__(self, x: Array, noise_mode: str = 'random', z: None = None
                 ) -> tuple[jax.Array, dict[int, jax.Array]]:
        """Paints the holes.

        Args:
          x: f32[B, R, R, 4], `io.model_input`: [mask - 0.5, image * mask],
            mask 1 = known, image in [-1, 1].
          noise_mode: 'random' (needs the rng stream `noise`), 'const' or 'none'.
          z: of `latents`; here so that both generators are called alike.

        Returns:
          image: f32[B, R, R, 3], about [-1, 1], not clipped, not composited.
          rgbs: {r: f32[B, r, r, 3]} for r = 4..R, the torgb outputs before they
            are accumulated.

        Raises:
          ValueError: resolution is no power of two, x is not [B, R, R, 4], or z is
            not None.
        """
        check_input(x, self.resolution, 'generator')
        if z is not None:
            raise ValueError(f'MI-GAN has no latent; got z of shape {z.shape}.')
        start = None
        if self.fill_passes is not None:
            start = starting_fill(
                x.astype(at_least_float32(x.dtype)), self.fill_passes)
            x = jnp.concatenate([x[..., :1], start.astype(x.dtype)], -1)
        shared = (self.resolution, self.ch_base, self.ch_max, self.spec)
        x, skips = Encoder(*shared, name='encoder')(x)
        image, rgbs = Decoder(*shared, self.noise_at_4x4, name='decoder')(
            x, skips, noise_mode)
        return image if start is None else image + start.astype(image.dtype), rgbs
