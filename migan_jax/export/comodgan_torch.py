"""Co-Mod-GAN's generator as a PyTorch module, for TorchScript.

It computes what the published network computes in evaluation mode, without truncation
(psi 1) and with its constant noise.  As in `torch_module`, the activations' sqrt(2) is
in the weights before them, noise planes are multiplied with their strength, all
numbers are buffers, and weights take the dtype of the input when used.

Styles scale activations before and after a convolution whose kernel all samples
share.  The network first divides a style by its root mean square over the batch, which
demodulation undoes up to the 1e-8 under its root: see `comodgan_onnx`.
"""

from collections import abc
from typing import Any

import ml_collections
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from migan_jax.weights import torch_map
from migan_jax.export.torch_module import activation
from migan_jax.export.torch_module import tensor_of
from migan_jax.export.torch_module import up2
from migan_jax.model.layers import resolutions
from migan_jax.model.ops import EPS
from migan_jax.model.ops import FIR_TAPS
from migan_jax.model.ops import SQRT2


def _fir(x, taps, padding):
    """The FIR filter, all channels alike: taps [1, 1, 4, 4]."""
    channels = x.shape[1]
    taps = taps.type_as(x).expand(channels, 1, 4, 4)
    return functional.conv2d(x, taps, padding=padding, groups=channels)


class Dense(nn.Module):
    """Fully connected layer, [N, ci] -> [N, co]."""

    def __init__(self, state: abc.Mapping[str, np.ndarray], prefix: str, activate: bool = False,
                 gain: float = 1.0, lr_multiplier: float = 1.0) -> None:
        super().__init__()
        self.activate = activate
        if activate:
            gain *= SQRT2
        weight = state[f'{prefix}.weight']
        self.register_buffer(
            'kernel', tensor_of(weight, gain * lr_multiplier * weight.shape[1]**-0.5))
        self.register_buffer(
            'bias', tensor_of(state[f'{prefix}.bias'], gain * lr_multiplier))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.linear(x, self.kernel.type_as(x), self.bias.type_as(x))
        return activation(x) if self.activate else x


class Conv(nn.Module):
    """3x3 or 1x1 convolution with bias and activation, FIR down by 2 first or not."""

    def __init__(self, state: abc.Mapping[str, np.ndarray], prefix: str,
                 down: bool = False) -> None:
        super().__init__()
        self.down = down
        weight = state[f'{prefix}.weight']
        self.padding = weight.shape[-1] // 2
        self.register_buffer('kernel', tensor_of(weight, SQRT2 * weight[0].size**-0.5))
        self.register_buffer('bias', tensor_of(state[f'{prefix}.bias'], SQRT2))
        if down:
            self.register_buffer(
                'fir', tensor_of(np.outer(FIR_TAPS, FIR_TAPS), 1.0)[None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, bias = self.kernel.type_as(x), self.bias.type_as(x)
        if self.down:
            # One pixel beyond each border, which the convolution then uses up.
            x = functional.conv2d(_fir(x, self.fir, 2), kernel, bias, stride=2)
        else:
            x = functional.conv2d(x, kernel, bias, padding=self.padding)
        return activation(x)


class ModulatedConv(nn.Module):
    """3x3 convolution with style and demodulation, [up by 2], noise, activation."""

    def __init__(self, state: abc.Mapping[str, np.ndarray], prefix: str,
                 up: bool = False) -> None:
        super().__init__()
        self.up = up
        self.affine = Dense(state, f'{prefix}.affine')
        weight = np.asarray(state[f'{prefix}.weight'], np.float64)
        weight = weight / np.sqrt(np.square(weight).mean((1, 2, 3), keepdims=True))
        squares = np.square(weight).sum((2, 3)).T                       # [ci, co]
        self.register_buffer('squares', tensor_of(squares + EPS / len(squares), 1.0))
        if up:
            weight = weight.transpose(1, 0, 2, 3)
            self.register_buffer(
                'fir', tensor_of(np.outer(FIR_TAPS, FIR_TAPS), 4.0)[None, None])
        self.register_buffer('kernel', tensor_of(np.ascontiguousarray(weight), SQRT2))
        self.register_buffer('bias', tensor_of(state[f'{prefix}.bias'], SQRT2))
        plane = state[f'{prefix}.noise_const'] * state[f'{prefix}.noise_strength']
        self.register_buffer('noise', tensor_of(plane, SQRT2)[None, None])

    def forward(self, x: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
        style = self.affine(styles)                                     # [N, ci]
        norms = (style * style).matmul(self.squares.type_as(x))         # [N, co]
        x = x * style[:, :, None, None]
        if self.up:
            x = functional.conv_transpose2d(x, self.kernel.type_as(x), stride=2)
            x = _fir(x, self.fir, 1)
        else:
            x = functional.conv2d(x, self.kernel.type_as(x), padding=1)
        x = x.mul_(norms.rsqrt()[:, :, None, None]).add_(self.noise.type_as(x))
        return activation(x.add_(self.bias.type_as(x)[:, None, None]))


class ToRGB(nn.Module):
    """1x1 convolution to 3 channels with style, linear."""

    def __init__(self, state: abc.Mapping[str, np.ndarray], prefix: str) -> None:
        super().__init__()
        weight = state[f'{prefix}.weight']
        self.affine = Dense(state, f'{prefix}.affine', gain=weight.shape[1]**-0.5)
        self.register_buffer('kernel', tensor_of(weight, 1.0))
        self.register_buffer('bias', tensor_of(state[f'{prefix}.bias'], 1.0))

    def forward(self, x: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
        x = x * self.affine(styles)[:, :, None, None]
        return functional.conv2d(x, self.kernel.type_as(x), self.bias.type_as(x))


class Mapping(nn.Module):
    """z [N, z_dim] -> w [N, w_dim]."""

    def __init__(self, state: abc.Mapping[str, np.ndarray], layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Dense(state, f'mapping.fc{i}', activate=True, lr_multiplier=0.01)
            for i in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * ((x * x).mean(1, keepdim=True) + EPS).rsqrt()
        for layer in self.layers:
            x = layer(x)
        return x


class EncoderBlock(nn.Module):
    """-> (features, skip feature)."""

    def __init__(self, state: abc.Mapping[str, np.ndarray], prefix: str, first: bool) -> None:
        super().__init__()
        self.first = first
        if first:
            self.fromrgb = Conv(state, f'{prefix}.fromrgb')
        self.conv0 = Conv(state, f'{prefix}.conv0')
        self.conv1 = Conv(state, f'{prefix}.conv1', down=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.first:
            x = self.fromrgb(x)
        skip = self.conv0(x)
        return self.conv1(skip), skip


class EncoderEnd(nn.Module):
    """-> (global feature, skip feature)."""

    def __init__(self, state: abc.Mapping[str, np.ndarray], prefix: str) -> None:
        super().__init__()
        self.conv = Conv(state, f'{prefix}.conv')
        self.fc = Dense(state, f'{prefix}.fc', activate=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        skip = self.conv(x)
        # In memory the channels come last, in the weights first.
        return self.fc(skip.contiguous().flatten(1)), skip


class DecoderStart(nn.Module):
    """-> (features, rgb)."""

    def __init__(self, state: abc.Mapping[str, np.ndarray], prefix: str) -> None:
        super().__init__()
        self.fc = Dense(state, f'{prefix}.fc', activate=True)
        self.conv = ModulatedConv(state, f'{prefix}.conv')
        self.torgb = ToRGB(state, f'{prefix}.torgb')

    def forward(self, x: torch.Tensor, skip: torch.Tensor,
                styles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # `skip` leads: it is channels-last.
        x = self.conv(skip + self.fc(x).unflatten(1, (-1, 4, 4)), styles)
        return x, self.torgb(x, styles)


class DecoderBlock(nn.Module):
    """-> (features, rgb)."""

    def __init__(self, state: abc.Mapping[str, np.ndarray], prefix: str) -> None:
        super().__init__()
        self.conv0 = ModulatedConv(state, f'{prefix}.conv0', up=True)
        self.conv1 = ModulatedConv(state, f'{prefix}.conv1')
        self.torgb = ToRGB(state, f'{prefix}.torgb')

    def forward(self, x: torch.Tensor, skip: torch.Tensor,
                styles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.conv1(self.conv0(x, styles).add_(skip), styles)
        return x, self.torgb(x, styles)


class Generator(nn.Module):
    """Co-Mod-GAN, f32[N, 4, R, R], f32[N, z_dim] -> f32[N, 3, R, R].

    Input and output as those of `migan_jax.model.comodgan.Generator`, channels first:
    [mask - 0.5, image * mask], mask 1 = known and 0 = hole, image in [-1, 1]; z normal.

    Attributes:
      resolution: R.
      z_dim: of z.
    """

    def __init__(self, state: abc.Mapping[str, np.ndarray], resolution: int,
                 mapping_layers: int = 8) -> None:
        """`state`: {published name: array}, as of `torch_map.to_torch`."""
        super().__init__()
        self.resolution = resolution
        self.z_dim = state['mapping.fc0.weight'].shape[1]
        self.mapping = Mapping(state, mapping_layers)
        downward = tuple(resolutions(resolution))
        self.encoder = nn.ModuleDict({
            f'b{r}': EncoderBlock(state, f'encoder.b{r}', r == resolution)
            for r in downward})
        self.encoder_end = EncoderEnd(state, 'encoder.b4')
        self.synthesis_start = DecoderStart(state, 'synthesis.b4')
        self.synthesis = nn.ModuleDict({
            f'b{r}': DecoderBlock(state, f'synthesis.b{r}')
            for r in reversed(downward)})

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        skips = []
        for block in self.encoder.values():
            x, skip = block(x)
            skips.append(skip)
        x, skip = self.encoder_end(x)
        # Without truncation all style inputs are one vector.
        styles = torch.cat([self.mapping(z), x], 1)
        x, image = self.synthesis_start(x, skip, styles)
        for block, skip in zip(self.synthesis.values(), reversed(skips)):
            x, rgb = block(x, skip, styles)
            image = up2(image).add_(rgb)
        return image.contiguous()


def build_comodgan_module(config: ml_collections.ConfigDict,
                          variables: abc.Mapping[str, Any]) -> Generator:
    """`Generator` of a checkpoint.

    Args:
      config: ConfigDict; `config.model` is read.
      variables: {'params', 'noise', 'average'} of `migan_jax.model.comodgan.Generator`, as
        `checkpoint.load_deployed` returns them.

    Returns:
      `Generator` in evaluation mode.
    """
    return Generator(
        published_state(config, variables), config.model.resolution,
        config.model.comodgan.mapping_layers).eval()


def trace(module: Generator) -> torch.jit.ScriptModule:
    """TorchScript of a `Generator`: any batch size, R x R, moves with `.to`."""
    x = torch.zeros(1, 4, module.resolution, module.resolution)
    with torch.inference_mode():
        # Compared with JAX by those who write it to a file.
        return torch.jit.trace(
            module, (x, torch.ones(1, module.z_dim)), check_trace=False)


def published_state(config: ml_collections.ConfigDict,
                    variables: abc.Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{published name: f32 array}, without the filters."""
    model = config.model
    table = torch_map.comodgan_table(
        model.resolution, mapping_layers=model.comodgan.mapping_layers)
    return torch_map.to_torch(variables, table)


def filters(resolution: int) -> dict[str, np.ndarray]:
    """The fixed FIR filters that the published layout holds beside the weights.

    Args:
      resolution: R.

    Returns:
      {published name: f32[4, 4]}.
    """
    names = ['synthesis.b4.conv']
    for r in resolutions(resolution):
        names += [f'encoder.b{r}', f'encoder.b{r}.conv1', f'synthesis.b{r}',
                  f'synthesis.b{r}.conv0']
    taps = np.outer(FIR_TAPS, FIR_TAPS).astype(np.float32)
    return {f'{name}.resample_filter': taps for name in names}
