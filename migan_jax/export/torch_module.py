"""The deployed generator as a PyTorch module, for TorchScript.

It computes what the published inference network computes, faster: the activations'
sqrt(2) is folded into the weights before them (a leaky ReLU commutes with positive
factors), noise planes are multiplied with their strength, upsampling is a bilinear
resize instead of zero insertion and a 4x4 convolution, and activations are kept
channels-last, in which the depthwise convolutions of CPUs are fastest.

All numbers are buffers, so that `.to(device)` moves them.  Weights take the dtype of
the input when used: half the file size with float16 weights, float32 in between.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from migan_jax.model import build
from migan_jax.model.fill import FLAG as FILL_FLAG
from migan_jax.model.fill import flag_value
from migan_jax.model.fill import LOWEST
from migan_jax.model.fill import SMALLEST_SHARE
from migan_jax.model import topology
from migan_jax.model.ops import CLAMP
from migan_jax.model.ops import FIR_TAPS
from migan_jax.model.ops import NEGATIVE_SLOPE
from migan_jax.model.ops import SQRT2
from migan_jax.weights import torch_map
from migan_jax.weights.folded import BLOCK_TENSORS


def activation(x: torch.Tensor) -> torch.Tensor:
    """Leaky ReLU clamped to +-256, in place; its sqrt(2) is in the weights."""
    return functional.leaky_relu(x, NEGATIVE_SLOPE, inplace=True).clamp_(-CLAMP, CLAMP)


def up2(x: torch.Tensor) -> torch.Tensor:
    """FIR upsampling by 2 with zeros outside: [N, C, H, W] -> [N, C, 2H, 2W].

    Between two pixels that is bilinear interpolation at half-pixel centres.  At the
    border interpolation repeats the last pixel, where the FIR sees a zero: what is
    left is the tap of the nearer pixel.
    """
    x = functional.interpolate(
        x, scale_factor=2.0, mode='bilinear', align_corners=False)
    near = 2 * FIR_TAPS[1]
    x[:, :, ::x.shape[2] - 1].mul_(near)
    x[:, :, :, ::x.shape[3] - 1].mul_(near)
    return x


class Pointwise(nn.Module):
    """1x1 convolution with bias, [N, ci, H, W] -> [N, co, H, W]."""

    def __init__(self, state: Mapping[str, np.ndarray], prefix: str, activate: bool) -> None:
        super().__init__()
        self.activate = activate
        gain = SQRT2 if activate else 1.0
        self.register_buffer('kernel', tensor_of(state[f'{prefix}.weight'], gain))
        self.register_buffer('bias', tensor_of(state[f'{prefix}.bias'], gain))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.conv2d(x, self.kernel.type_as(x), self.bias.type_as(x))
        return activation(x) if self.activate else x


class Block(nn.Module):
    """Depthwise 3x3, activation, [down], 1x1, [up], [noise], activation."""

    def __init__(self, state: Mapping[str, np.ndarray], prefix: str, up: bool = False,
                 down: bool = False) -> None:
        super().__init__()
        self.up, self.down = up, down
        for name, ending in BLOCK_TENSORS.items():
            self.register_buffer(name, tensor_of(state[f'{prefix}.{ending}'], SQRT2))
        self.noisy = f'{prefix}.noise_const' in state
        if self.noisy:
            plane = state[f'{prefix}.noise_const'] * state[f'{prefix}.noise_strength']
            self.register_buffer('noise', tensor_of(plane, SQRT2)[None, None])
        if down:
            self.register_buffer(
                'fir', tensor_of(np.outer(FIR_TAPS, FIR_TAPS), 1.0)[None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channels = self.depthwise.shape[0]
        x = functional.conv2d(x, self.depthwise.type_as(x), self.bias.type_as(x),
                              padding=1, groups=channels)
        x = activation(x)
        if self.down:
            fir = self.fir.type_as(x).expand(channels, 1, 4, 4)
            x = functional.conv2d(x, fir, stride=2, padding=1, groups=channels)
        x = functional.conv2d(x, self.pointwise.type_as(x))
        if self.up:
            x = up2(x)
        if self.noisy:
            x = x.add_(self.noise.type_as(x))
        return activation(x)


def starting_fill(x: torch.Tensor, resolution: int, passes: int) -> torch.Tensor:
    """`model.fill.starting_fill`, channels first: [N, 4, R, R] -> [N, 3, R, R]."""
    known, colour = x[:, :1] + 0.5, x[:, 1:]
    levels = []
    while resolution > LOWEST:
        levels.append((known, colour))
        share = functional.avg_pool2d(known, 2)
        colour = functional.avg_pool2d(colour, 2) / share.clamp(min=0.25)
        known = (4.0 * share).clamp(max=1.0)
        resolution //= 2
    mean = lambda y: y.mean((2, 3), keepdim=True)
    coarse = mean(colour) / mean(known).clamp(min=SMALLEST_SHARE)
    coarse = _relax(colour + (1.0 - known) * coarse, known, colour, passes)
    for known, colour in reversed(levels):
        coarse = colour + (1.0 - known) * functional.interpolate(
            coarse, scale_factor=2, mode='bilinear', align_corners=False)
        coarse = _relax(coarse, known, colour, passes)
    return coarse


def _relax(x, known, colour, passes: int):
    # Slices, as runtimes of phones have no kernel for padding with the edge.
    hole = 1.0 - known
    for _ in range(passes):
        up = torch.cat([x[:, :, :1], x[:, :, :-1]], 2)
        down = torch.cat([x[:, :, 1:], x[:, :, -1:]], 2)
        left = torch.cat([x[..., :1], x[..., :-1]], 3)
        right = torch.cat([x[..., 1:], x[..., -1:]], 3)
        x = colour + hole * (up + down + left + right) * 0.25
    return x


class Generator(nn.Module):
    """The deployed generator, f32[N, 4, R, R] -> f32[N, 3, R, R].

    Input and output as those of `migan_jax.model.generator.Generator`, channels first:
    [mask - 0.5, image * mask], mask 1 = known and 0 = hole, image in [-1, 1].

    Attributes:
      resolution: R.
      fill_passes: holes start from `starting_fill` with so many passes; None if they
        start empty.
    """

    def __init__(self, state: Mapping[str, np.ndarray], resolution: int,
                 fill_passes: int | None = None) -> None:
        """`state`: {published name: array}, as of `torch_map.to_torch`."""
        super().__init__()
        self.resolution = resolution
        self.fill_passes = fill_passes
        if fill_passes is not None:
            # For those who find the tensors without the program.
            self.register_buffer(FILL_FLAG, torch.tensor(flag_value(fill_passes)))
        for layer in topology.layers(resolution):
            name = torch_map.torch_name(layer)
            if layer.name in ('fromrgb', 'torgb'):
                module = Pointwise(state, name, activate=layer.name == 'fromrgb')
            else:
                module = Block(state, name, layer.up, layer.down)
            *path, last = name.split('.')
            place = self
            for part in path:
                if part not in place._modules:
                    place.add_module(part, nn.Module())
                place = place.get_submodule(part)
            place.add_module(last, module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fill_passes is None:
            return self.paint(x)
        start = starting_fill(x, self.resolution, self.fill_passes)
        return self.paint(torch.cat([x[:, :1], start], 1)) + start

    def paint(self, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return topology.walk(self, x, self.resolution).contiguous()

    # The operators of `topology.walk`.

    def block(self, x: torch.Tensor, layer: topology.Layer) -> torch.Tensor:
        return self.get_submodule(torch_map.torch_name(layer))(x)

    fromrgb = torgb = block

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.add_(y)

    def up2(self, image: torch.Tensor, resolution: int) -> torch.Tensor:
        return up2(image)


def tensor_of(array: np.typing.ArrayLike, gain: float) -> torch.Tensor:
    """float32 tensor of array * gain, rounded once."""
    return torch.from_numpy((np.asarray(array, np.float64) * gain).astype(np.float32))


def build_module(config: ml_collections.ConfigDict, variables: Mapping[str, Any]) -> Generator:
    """`Generator` of a deployed checkpoint.

    Args:
      config: ConfigDict; `config.model` is read.
      variables: {'params', 'noise'} of the deployed generator, as
        `checkpoint.load_deployed` returns them.

    Returns:
      `Generator` in evaluation mode.

    Raises:
      ValueError: the model is the ablation with plain 3x3 convolutions.
    """
    model = config.model
    topology.check_deployable(config)
    table = torch_map.generator_table(
        model.resolution, branches=0, noise_at_4x4=model.noise_at_4x4, fused=True)
    return Generator(torch_map.to_torch(variables, table), model.resolution,
                     build.fill_passes(config)).eval()


def trace(module: Generator) -> torch.jit.ScriptModule:
    """TorchScript of a `Generator`: any batch size, R x R, moves with `.to`."""
    x = torch.zeros(1, 4, module.resolution, module.resolution)
    with torch.inference_mode():
        # Compared with JAX by those who write it to a file.
        return torch.jit.trace(module, x, check_trace=False)
