"""The deployed generator as a PyTorch module of few operators, for compilers of graphs.

Runtimes of phones have kernels for convolutions, interpolation, padding and cropping,
and copy around anything else. So everything is a constant and of such operators: the
activations' sqrt(2) is in the weights before them, kernels of the FIR filter are stored
for all channels, clamps are left out where activations stayed far below them, and
upsampling is a bilinear resize. Between two pixels that is the FIR filter; at the
border interpolation would repeat the last pixel where the filter sees a zero, so a
border of zeros goes around before, and is cut off after.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from migan_jax.export import onnx_core
from migan_jax.model import build
from migan_jax.model import topology
from migan_jax.export.torch_module import starting_fill
from migan_jax.export.torch_module import tensor_of
from migan_jax.model.ops import CLAMP
from migan_jax.model.ops import FIR_TAPS
from migan_jax.model.ops import NEGATIVE_SLOPE
from migan_jax.model.ops import SQRT2


class StaticGenerator(nn.Module):
    """f32[1, 4, R, R] -> f32[1, 3, R, R]; see the head of this file.

    Input and output as those of `torch_module.Generator`.
    """

    def __init__(self, config: ml_collections.ConfigDict, variables: Mapping[str, Any],
                 largest: Mapping[str, float] | None = None) -> None:
        """The module of a deployed checkpoint.

        Args:
          config: ConfigDict; `config.model` is read.
          variables: {'params', 'noise'} of the deployed generator.
          largest: see `onnx_core.build_core`; None keeps all clamps.

        Raises:
          ValueError: the model is the ablation with plain 3x3 convolutions, or a
            parameter is not finite.
        """
        super().__init__()
        topology.check_deployable(config)
        onnx_core.check_finite(variables)
        self.resolution = config.model.resolution
        self.largest = largest
        self.fill_passes = build.fill_passes(config)
        params = variables['params']
        for layer in topology.layers(self.resolution):
            own = layer.of(params)
            gain = 1.0 if layer.name == 'torgb' else SQRT2
            self.keep(layer, 'bias', own['bias'], gain)
            self.keep(layer, 'pointwise', onnx_core.oihw(own['pointwise']['kernel']),
                      gain)
            if 'depthwise' in own:
                kernel = onnx_core.oihw(own['depthwise']['kernel'])
                self.keep(layer, 'depthwise', kernel, gain)
            if layer.down:
                taps = np.outer(FIR_TAPS, FIR_TAPS)
                self.keep(layer, 'fir', np.tile(taps, (len(kernel), 1, 1, 1)), 1.0)
        for name, plane in topology.noise_planes(variables).items():
            self.keep(name, 'noise', plane[None, None], SQRT2)

    def keep(self, layer: topology.Layer | str, what: str, array: np.typing.ArrayLike,
             gain: float) -> None:
        self.register_buffer(f'{layer}.{what}'.replace('.', '_'),
                             tensor_of(array, gain))

    def number(self, layer: topology.Layer, what: str) -> torch.Tensor | None:
        """A tensor that was kept, or None."""
        return self._buffers.get(f'{layer}.{what}'.replace('.', '_'))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fill_passes is None:
            return topology.walk(self, x, self.resolution)
        start = starting_fill(x, self.resolution, self.fill_passes)
        seen = torch.cat([x[:, :1], start], 1)
        return topology.walk(self, seen, self.resolution) + start

    # The operators of `topology.walk`.

    def activation(self, x: torch.Tensor, name: str) -> torch.Tensor:
        x = functional.leaky_relu(x, NEGATIVE_SLOPE)
        if onnx_core.keeps_clamp(self.largest, name):
            x = x.clamp(-CLAMP, CLAMP)
        return x

    def fromrgb(self, x: torch.Tensor, layer: topology.Layer) -> torch.Tensor:
        return self.activation(self.torgb(x, layer), str(layer))

    def block(self, x: torch.Tensor, layer: topology.Layer) -> torch.Tensor:
        kernel = self.number(layer, 'depthwise')
        x = functional.conv2d(x, kernel, self.number(layer, 'bias'), padding=1,
                              groups=kernel.shape[0])
        x = self.activation(x, f'{layer}.depthwise')
        if layer.down:
            x = functional.conv2d(x, self.number(layer, 'fir'), stride=2, padding=1,
                                  groups=kernel.shape[0])
        x = functional.conv2d(x, self.number(layer, 'pointwise'))
        if layer.up:
            x = self.up2(x, layer.resolution)
        noise = self.number(layer, 'noise')
        if noise is not None:
            x = x + noise
        return self.activation(x, str(layer))

    def torgb(self, x: torch.Tensor, layer: topology.Layer) -> torch.Tensor:
        return functional.conv2d(x, self.number(layer, 'pointwise'),
                                 self.number(layer, 'bias'))

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y

    def up2(self, image: torch.Tensor, resolution: int) -> torch.Tensor:
        side = resolution + 4
        x = functional.interpolate(functional.pad(image, (1, 1, 1, 1)), (side, side),
                                   mode='bilinear', align_corners=False)
        return x[:, :, 2:-2, 2:-2]
