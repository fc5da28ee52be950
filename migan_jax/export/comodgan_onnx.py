"""Co-Mod-GAN's generator as an ONNX graph, written node by node.

The encoder follows the head of `onnx_core`: the activations' gain sqrt(2) is in what
reads them, clamps ride on convolutions of their own and are left out where nothing
reaches them. The decoder's styles differ from sample to sample:

* A style multiplies the activations before a convolution and demodulates them after
  it, so that all samples share one constant kernel.
* Every style is a dense layer of the same vector, the mapped latent and the global
  feature (without truncation all style inputs get one latent): one matrix product
  gives all of them.
* The network divides a style by its root mean square over the batch, so that low
  precision does not overflow. Demodulation divides by the style's scale again, up to
  the 1e-8 under its root: in float32 the division is left out, and 1e-8 times the
  sample's mean square is added instead. For one sample that is the same number.
* The two-fold upsampling is a transposed convolution, which multiplies no inserted
  zeros, and the FIR filter: half the time of convolving the upsampled image on x86.
* A torgb's style multiplies its 3 x ci kernel, not the image.
"""

from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import numpy as np
import onnx

from migan_jax.export import onnx_core
from migan_jax.model import build
from migan_jax.model.layers import check_resolution
from migan_jax.model.layers import resolutions
from migan_jax.model.ops import EPS
from migan_jax.model.ops import FIR_TAPS
from migan_jax.model.ops import NEGATIVE_SLOPE
from migan_jax.model.ops import SQRT2

# Bound of values that nothing is known of.
UNKNOWN = 1e30


class _Builder(onnx_core.CoreBuilder):
    """The layers of Co-Mod-GAN; every activation is the network's over sqrt(2)."""

    def dense(self, x, params, *, gain=SQRT2, lr_multiplier=1.0):
        """Dense layer: name [N, ci] -> name [N, co].

        Args:
          x: what it reads.
          params: of `layers.Dense`.
          gain: that x lacks.
          lr_multiplier: of `layers.Dense`.
        """
        kernel, bias = _dense_weights(params, gain, lr_multiplier)
        return self.graph.op('Gemm', x, kernel, bias)

    def limit(self, x, name):
        """Leaky ReLU, called `name`, and clamp of a value of unknown range."""
        x = self.graph.op('LeakyRelu', x, alpha=NEGATIVE_SLOPE, output=name)
        if not self.must_clamp(UNKNOWN, name):
            return x
        limit = np.float32(onnx_core.LIMIT)
        return self.graph.op('Clip', x, -limit, limit)

    def encoder_conv(self, x, block, layer, *, gain=SQRT2, down=False):
        """`comodgan.Conv` with bias and activation."""
        params = self.params['encoder'][block][layer]
        kernel = onnx_core.oihw(params['kernel'])
        kernel = kernel * (gain * kernel[0].size**-0.5)
        padding, stride = kernel.shape[-1] // 2, 1
        if down:
            # One pixel beyond each border, which the convolution then uses up.
            x = self.depthwise(x, np.outer(FIR_TAPS, FIR_TAPS), padding=2)
            padding, stride = 0, 2
        return self.activate(self.conv(
            x, kernel, params['bias'], stride=stride, padding=padding),
            f'encoder.{block}.{layer}')

    def encoder(self):
        """From the model's input.

        Returns:
          global feature: name [N, global_dim].
          skips: {resolution: name [N, C, r, r]}.
        """
        high = np.array([0.5, 1, 1, 1])
        x = onnx_core.Feature(self.image, -high, high)
        skips = {}
        for r in resolutions(self.resolution):
            block = f'b{r}'
            if r == self.resolution:
                x = self.encoder_conv(x, block, 'fromrgb', gain=1.0)
            x = self.encoder_conv(x, block, 'conv0')
            skips[r] = x.name
            x = self.encoder_conv(x, block, 'conv1', down=True)
        skips[4] = self.encoder_conv(x, 'b4', 'conv').name
        flat = self.graph.op('Flatten', skips[4])
        x = self.dense(flat, self.params['encoder']['b4']['fc'])
        return self.limit(x, 'encoder.b4.fc'), skips

    def mapping(self, z):
        """Mapped latent: name [N, z_dim] -> name [N, w_dim]."""
        op, params = self.graph.op, self.params['mapping']
        mean = op('ReduceMean', op('Mul', z, z), axes=[1], keepdims=1)
        x = op('Div', z, op('Sqrt', op('Add', mean, np.float32(EPS))))
        for i in range(len(params)):
            x = self.limit(self.dense(
                x, params[f'fc{i}'], gain=SQRT2 if i else 1.0, lr_multiplier=0.01),
                f'mapping.fc{i}')
        return x

    def styles(self, x, params):
        """All styles, [N, w_dim + global_dim] -> {(block, layer): name [N, ci]}."""
        layers = {(block_name, name): layer['affine']
                  for block_name, block in params.items()
                  for name, layer in block.items() if 'affine' in layer}
        weights = [_dense_weights(affine, SQRT2) for affine in layers.values()]
        kernels, biases = zip(*weights)
        for (_, name), kernel, bias in zip(layers, kernels, biases):
            if name == 'torgb':
                kernel *= len(bias)**-0.5
                bias *= len(bias)**-0.5
        every = self.graph.op(
            'Gemm', x, np.concatenate(kernels, 1), np.concatenate(biases))
        ends = np.cumsum([len(bias) for bias in biases])
        parts = zip(layers, ends - [len(bias) for bias in biases], ends)
        return {key: self.graph.op(
            'Slice', every, np.array([start]), np.array([end]), np.array([1]))
            for key, start, end in parts}

    def modulated(self, x, style, block, layer, *, up=False):
        """`comodgan.ModulatedConv`: name -> name."""
        op = self.graph.op
        params = self.params['decoder'][block][layer]
        plane = self.planes.get(f'decoder.{block}.{layer}')
        kernel = np.asarray(params['kernel'], np.float64)
        ci = kernel.shape[2]
        kernel = kernel / np.sqrt(np.square(kernel).mean((0, 1, 2)))
        squares = np.square(kernel).sum((0, 1)) + EPS / ci
        norms = op('MatMul', op('Mul', style, style), squares.astype(np.float32))
        demodulate = op('Reciprocal', op('Sqrt', norms))
        kernel = (SQRT2 * kernel).astype(np.float32)
        pixels = lambda vector: op('Unsqueeze', vector, np.array([2, 3]))
        x = op('Mul', x, pixels(style))
        if up:
            x = op('ConvTranspose', x, kernel.transpose(2, 3, 0, 1), strides=[2, 2],
                   kernel_shape=[3, 3])
            taps = (4 * np.outer(FIR_TAPS, FIR_TAPS)).astype(np.float32)
            co = kernel.shape[3]
            x = self.graph.conv(
                x, np.tile(taps, (co, 1, 1, 1)), groups=co, padding=1)
        else:
            x = self.graph.conv(x, onnx_core.oihw(kernel), padding=1)
        x = op('Mul', x, pixels(demodulate))
        if plane is not None:
            x = op('Add', x, plane[None, None].astype(np.float32))
        bias = np.asarray(params['bias'], np.float32)
        return self.limit(op('Add', x, bias[None, :, None, None]),
                          f'decoder.{block}.{layer}')

    def torgb_of_style(self, x, style, params, resolution):
        """`comodgan.ToRGB`: name [N, ci, r, r] -> Feature [N, 3, r, r]."""
        op = self.graph.op
        kernel = SQRT2 * np.asarray(params['kernel'], np.float64)[0, 0].T   # [3, ci]
        kernels = op('Mul', op('Unsqueeze', style, np.array([1])),
                     kernel.astype(np.float32))                             # [N, 3, ci]
        pixels = op('Reshape', x, np.array([0, 0, -1]))
        rgb = op('Reshape', op('MatMul', kernels, pixels),
                 np.array([0, 0, resolution, resolution]))
        bias = np.asarray(params['bias'], np.float32)
        unbounded = np.full(3, UNKNOWN)
        return onnx_core.Feature(
            op('Add', rgb, bias[None, :, None, None],
               shape=self.shape(3, resolution)), -unbounded, unbounded)

    def comodgan(self, z, output):
        """The generator from the model's input and z; `output` names the result."""
        op = self.graph.op
        x_global, skips = self.encoder()
        decoder = self.params['decoder']
        styles = self.styles(op('Concat', self.mapping(z), x_global, axis=1), decoder)
        image = None
        for r in (4, *reversed(tuple(resolutions(self.resolution)))):
            name = f'b{r}'
            block = decoder[name]
            if r == 4:
                x = self.limit(self.dense(x_global, block['fc']), 'decoder.b4.fc')
                x = op('Reshape', x, np.array([0, len(block['conv']['bias']), 4, 4]))
                last = 'conv'
            else:
                x = self.modulated(x, styles[name, 'conv0'], name, 'conv0', up=True)
                last = 'conv1'
            x = op('Add', x, skips[r])
            x = self.modulated(x, styles[name, last], name, last)
            rgb = self.torgb_of_style(x, styles[name, 'torgb'], block['torgb'], r)
            image = rgb if image is None else self.add(self.up2(image, r), rgb)
        op('Identity', image.name, output=output)


def _dense_weights(params, gain, lr_multiplier=1.0):
    """f32[ci, co], f32[co]: what a dense layer multiplies with and adds."""
    kernel = np.asarray(params['kernel'], np.float64)
    factor = gain * lr_multiplier * len(kernel)**-0.5
    bias = np.asarray(params['bias'], np.float64) * lr_multiplier
    return (kernel * factor).astype(np.float32), bias.astype(np.float32)


def build_comodgan(config: ml_collections.ConfigDict, variables: Mapping[str, Any], *,
                   largest: Mapping[str, float] | None = None,
                   metadata: Mapping[str, str] | None = None) -> onnx.ModelProto:
    """The generator as an ONNX model, in evaluation mode and without truncation.

    Input `input`, f32 [N, 4, R, R]: [mask - 0.5, image * mask], mask first, 1 = known
    and 0 = hole, image RGB in [-1, 1]. Outside these ranges the clamps of the first
    layers may be missing. Input `z`, f32 [N, z_dim]: normal, one per sample. Output
    `output`, f32 [N, 3, R, R], about [-1, 1], neither clipped nor composited. Noise is
    the stored planes.

    Args:
      config: ConfigDict; `config.model` is read.
      variables: {'params', 'noise'} of `comodgan.Generator`.
      largest: see `onnx_core.build_core`.
      metadata: {str: str} for the file's `metadata_props`.

    Returns:
      onnx.ModelProto.

    Raises:
      ValueError: the resolution is no power of two from 16, or a parameter is not
        finite.
    """
    resolution = config.model.resolution
    check_resolution(resolution)
    onnx_core.check_finite(variables)
    graph = onnx_core.GraphBuilder()
    builder = _Builder(graph, 'input', variables, resolution, largest=largest)
    builder.comodgan('z', 'output')
    float32, sides = onnx.TensorProto.FLOAT, [resolution] * 2
    z_dim = len(variables['params']['mapping']['fc0']['kernel'])
    return graph.model(
        'comodgan',
        {'input': (float32, ['N', 4, *sides]), 'z': (float32, ['N', z_dim])},
        {'output': (float32, ['N', 3, *sides])}, metadata)


def builder_of(config: ml_collections.ConfigDict) -> Callable[..., onnx.ModelProto]:
    """`build_comodgan` or `onnx_core.build_core`: what a config's graph is built by."""
    return build_comodgan if build.is_comodgan(config) else onnx_core.build_core
