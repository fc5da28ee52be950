"""The deployed generator as Core ML packages (mlprogram, iOS 16 and later).

The program is written operator by operator in Core ML's own intermediate language, so
that neither a traced PyTorch model nor its version plays a part. As in `tflite`, the
activations' sqrt(2) is in the weights before them, noise planes are multiplied with
their strength, and upsampling is a nearest resize and a depthwise convolution.

Core ML itself runs on Apple's systems only. What is run here is the package as it lies
on the disk, read back and evaluated operator by operator with PyTorch's convolutions,
values of type float16 rounded after each operator.
"""

import collections
from collections.abc import Callable, Mapping
import contextlib
import io
import os
from typing import Any

import coremltools as ct
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.frontend.milproto import load as milproto
import ml_collections
import numpy as np
import torch
from torch.nn import functional

from migan_jax.export import onnx_core
from migan_jax.model import build
from migan_jax.model import fill
from migan_jax.model import topology
from migan_jax.model.ops import CLAMP
from migan_jax.model.ops import FIR_TAPS
from migan_jax.model.ops import NEGATIVE_SLOPE
from migan_jax.model.ops import SQRT2


class _Operators:
    """See `topology.Operators`."""

    def __init__(self, variables, largest):
        self.params = variables['params']
        self.planes = topology.noise_planes(variables)
        self.largest = largest

    def activation(self, x, name):
        x = mb.leaky_relu(x=x, alpha=NEGATIVE_SLOPE)
        if onnx_core.keeps_clamp(self.largest, name):
            x = mb.clip(x=x, alpha=-CLAMP, beta=CLAMP)
        return x

    def conv(self, x, kernel, bias=None, *, groups=1, stride=1, padding=0):
        biased = {} if bias is None else {'bias': np.asarray(bias, np.float32)}
        return mb.conv(
            x=x, weight=np.asarray(kernel, np.float32), groups=groups,
            strides=[stride] * 2, pad_type='custom', pad=[padding] * 4, **biased)

    def depthwise(self, x, kernel, **options):
        """The same [kh, kw] kernel for all channels."""
        channels = x.shape[1]
        kernel = np.broadcast_to(kernel, (channels, 1, *kernel.shape))
        return self.conv(x, kernel, groups=channels, **options)

    def pointwise(self, x, params, gain):
        return self.conv(x, gain * onnx_core.oihw(params['pointwise']['kernel']),
                         gain * np.asarray(params['bias']))

    def fromrgb(self, x, layer):
        return self.activation(
            self.pointwise(x, layer.of(self.params), SQRT2), str(layer))

    def block(self, x, layer):
        params, name = layer.of(self.params), str(layer)
        kernel = SQRT2 * onnx_core.oihw(params['depthwise']['kernel'])
        x = self.conv(x, kernel, SQRT2 * np.asarray(params['bias']),
                      groups=len(kernel), padding=1)
        x = self.activation(x, f'{name}.depthwise')
        if layer.down:
            x = self.depthwise(x, np.outer(FIR_TAPS, FIR_TAPS), stride=2, padding=1)
        x = self.conv(x, SQRT2 * onnx_core.oihw(params['pointwise']['kernel']))
        if layer.up:
            x = self.up2(x, layer.resolution)
        if name in self.planes:
            plane = (SQRT2 * self.planes[name]).astype(np.float32)
            x = mb.add(x=x, y=plane[None, None])
        return self.activation(x, name)

    def torgb(self, x, layer):
        return self.pointwise(x, layer.of(self.params), 1.0)

    def add(self, x, y):
        return mb.add(x=x, y=y)

    def up2(self, image, resolution):
        """FIR upsampling; see the head of `onnx_core`."""
        image = mb.upsample_nearest_neighbor(
            x=image, scale_factor_height=2, scale_factor_width=2)
        taps = np.outer(onnx_core.UP_TAPS, onnx_core.UP_TAPS)
        return self.depthwise(image, taps, padding=1)


def _paint(config, variables, largest, x):
    """The generator, on its starting fill if it has one; f32 [1, 4, R, R]."""
    resolution, passes = config.model.resolution, build.fill_passes(config)
    paint = lambda x: topology.walk(_Operators(variables, largest), x, resolution)
    if passes is None:
        return paint(x)
    known = mb.slice_by_size(x=x, begin=[0] * 4, size=[1, 1, *x.shape[2:]])
    start = _starting_fill(x, resolution, passes)
    return mb.add(x=paint(mb.concat(values=[known, start], axis=1)), y=start)


def _starting_fill(x, resolution, passes):
    """`fill.starting_fill`."""
    number = np.float32
    pool = lambda y: mb.avg_pool(
        x=y, kernel_sizes=[2, 2], strides=[2, 2], pad_type='valid')
    mean = lambda y: mb.reduce_mean(x=y, axes=[2, 3], keep_dims=True)
    at_least = lambda y, least: mb.maximum(x=y, y=number(least))
    cross = np.array([[0, .25, 0], [.25, 0, .25], [0, .25, 0]], number)

    def filled(values, known, colour):
        hole = mb.sub(x=number(1), y=known)
        fill_holes = lambda y: mb.add(x=colour, y=mb.mul(x=y, y=hole))
        values = fill_holes(values)
        for _ in range(passes):
            around = mb.pad(x=values, pad=[1] * 4, mode='replicate')
            values = fill_holes(mb.conv(
                x=around, weight=np.tile(cross, (3, 1, 1, 1)), groups=3))
        return values

    side = x.shape[2:]
    known = mb.add(x=mb.slice_by_size(x=x, begin=[0] * 4, size=[1, 1, *side]),
                   y=number(0.5))
    colour = mb.slice_by_size(x=x, begin=[0, 1, 0, 0], size=[1, 3, *side])
    levels = []
    while resolution > fill.LOWEST:
        levels.append((known, colour))
        share = pool(known)
        colour = mb.real_div(x=pool(colour), y=at_least(share, 0.25))
        known = mb.minimum(x=mb.mul(x=share, y=number(4)), y=number(1))
        resolution //= 2
    coarse = filled(
        mb.real_div(x=mean(colour), y=at_least(mean(known), fill.SMALLEST_SHARE)),
        known, colour)
    for known, colour in reversed(levels):
        coarse = filled(
            mb.upsample_bilinear(x=coarse, scale_factor_height=2, scale_factor_width=2,
                                 align_corners=False, half_pixel_centers=True),
            known, colour)
    return coarse


def _check(config, variables):
    topology.check_deployable(config)
    onnx_core.check_finite(variables)


def _convert(program, path, half, metadata, **types):
    """Converts, fills in the metadata and saves."""
    # It draws progress bars there; what goes wrong it raises.
    with contextlib.redirect_stderr(io.StringIO()):
        package = ct.convert(
            program, convert_to='mlprogram', minimum_deployment_target=ct.target.iOS16,
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            skip_model_load=True, **types)
    package.short_description = (
        f'{metadata["model"]} inpainting, {metadata["resolution"]} x '
        f'{metadata["resolution"]}')
    package.version = metadata['source_step']
    package.user_defined_metadata.update(metadata)
    package.save(os.fspath(path))


def write_core(config: ml_collections.ConfigDict, variables: Mapping[str, Any],
               path: os.PathLike | str, *, half: bool, largest: Mapping[str, float] | None,
               metadata: Mapping[str, str]) -> None:
    """The network alone, on multi-arrays.

    Input `input`, f32 [1, 4, R, R]: [mask - 0.5, image * mask], mask first, 1 = known
    and 0 = hole, image RGB in [-1, 1]. Output `output`, f32 [1, 3, R, R], about
    [-1, 1], neither clipped nor composited. Noise is the stored planes.

    Args:
      config: ConfigDict; `config.model` is read.
      variables: {'params', 'noise'} of the deployed generator.
      path: of the .mlpackage, a folder.
      half: weights and computation in float16, else in float32.
      largest: see `onnx_core.build_core`; None keeps all clamps.
      metadata: {str: str}; needs 'model', 'resolution' and 'source_step'.

    Raises:
      ValueError: the model is the ablation with plain 3x3 convolutions, or a parameter
        is not finite.
    """
    _check(config, variables)
    resolution = config.model.resolution

    @mb.program(input_specs=[mb.TensorSpec((1, 4, resolution, resolution))],
                opset_version=ct.target.iOS16)
    def program(input):
        y = _paint(config, variables, largest, input)
        return mb.identity(x=y, name='output')

    _convert(program, path, half, metadata)


def write_image(config: ml_collections.ConfigDict, variables: Mapping[str, Any],
                path: os.PathLike | str, *, half: bool, largest: Mapping[str, float] | None,
                metadata: Mapping[str, str]) -> None:
    """The network between pictures: the whole picture painted, R x R.

    Inputs `image`, RGB, and `mask`, greyscale, 255 = known and any smaller level =
    hole, both R x R; output `painted`, RGB, R x R. What is known is kept.

    Args:
      As of `write_core`.

    Raises:
      ValueError: as of `write_core`.
    """
    _check(config, variables)
    r = config.model.resolution

    @mb.program(input_specs=[mb.TensorSpec((1, 3, r, r)), mb.TensorSpec((1, 1, r, r))],
                opset_version=ct.target.iOS16)
    def program(image, mask):
        known = mb.clip(x=mb.add(x=mask, y=np.float32(-254)), alpha=0.0, beta=1.0)
        x = mb.add(x=mb.mul(x=image, y=np.float32(1 / 127.5)), y=np.float32(-1))
        seen = mb.concat(values=[mb.add(x=known, y=np.float32(-0.5)),
                                 mb.mul(x=x, y=known)], axis=1)
        y = _paint(config, variables, largest, seen)
        levels = mb.mul(x=mb.add(x=y, y=np.float32(1)), y=np.float32(127.5))
        levels = mb.clip(x=levels, alpha=0.0, beta=255.0)
        hole = mb.sub(x=np.float32(1), y=known)
        return mb.add(x=mb.mul(x=image, y=known), y=mb.mul(x=levels, y=hole),
                      name='painted')

    # `convert` reads the type of an output only where it makes the program itself.
    program.functions['main'].set_output_types(
        [ct.ImageType('painted', color_layout=ct.colorlayout.RGB)])
    _convert(program, path, half, metadata, inputs=[
        ct.ImageType('image', (1, 3, r, r), color_layout=ct.colorlayout.RGB),
        ct.ImageType('mask', (1, 1, r, r), color_layout=ct.colorlayout.GRAYSCALE),
    ])


# --- what a package computes --------------------------------------------------


def read(path: os.PathLike | str) -> tuple[Any, Any]:
    """A package's specification and its program.

    Raises:
      ValueError: no package of Core ML.
    """
    if not os.path.isdir(path):
        raise ValueError(f'{path} is no Core ML package; expected a folder that '
                         'to_torch.py --formats=coreml wrote.')
    package = ct.models.MLModel(os.fspath(path), skip_model_load=True)
    spec = package.get_spec()
    return spec, milproto.load(spec, spec.specificationVersion, package.weights_dir)


def _conv(x, weight, strides, pad, dilations, groups, bias=None, **_):
    top, bottom, left, right = (int(side) for side in pad)
    x = functional.pad(x, (left, right, top, bottom))
    return functional.conv2d(
        x, weight, bias, tuple(int(s) for s in strides),
        dilation=tuple(int(d) for d in dilations), groups=int(groups))


def _avg_pool(x, kernel_sizes, strides, **_):
    return functional.avg_pool2d(x, tuple(map(int, kernel_sizes)),
                                 tuple(map(int, strides)))


def _pad(x, pad, mode, **_):
    top, bottom, left, right = (int(side) for side in pad)
    return functional.pad(x, (left, right, top, bottom), mode=str(mode))


def _slice(x, begin, size):
    return x[tuple(slice(start, start + length) for start, length in zip(
        begin.tolist(), size.tolist()))]


def _upsample_bilinear(x, scale_factor_height, scale_factor_width, half_pixel_centers,
                       **_):
    return functional.interpolate(
        x, scale_factor=(float(scale_factor_height), float(scale_factor_width)),
        mode='bilinear', align_corners=not half_pixel_centers)


_EVALUATED = {
    'add': lambda x, y: x + y,
    'avg_pool': _avg_pool,
    'cast': lambda x, dtype: x,
    'clip': lambda x, alpha, beta: x.clamp(float(alpha), float(beta)),
    'concat': lambda values, axis, interleave: torch.cat(values, int(axis)),
    'conv': _conv,
    'identity': lambda x: x,
    'leaky_relu': lambda x, alpha: functional.leaky_relu(x, float(alpha)),
    'maximum': lambda x, y: torch.maximum(x, y),
    'minimum': lambda x, y: torch.minimum(x, y),
    'mul': lambda x, y: x * y,
    'pad': _pad,
    'real_div': lambda x, y: x / y,
    'reduce_mean': lambda x, axes, keep_dims: x.mean(
        tuple(map(int, axes)), keepdim=bool(keep_dims)),
    'slice_by_size': _slice,
    'sub': lambda x, y: x - y,
    'upsample_bilinear': _upsample_bilinear,
    'upsample_nearest_neighbor': lambda x, scale_factor_height, scale_factor_width:
        functional.interpolate(x, scale_factor=(
            float(scale_factor_height), float(scale_factor_width))),
}


def evaluate(program: Any, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """What a program computes.

    Args:
      program: of `read`.
      inputs: {name: f32 array}.

    Returns:
      f32 array, its only output.

    Raises:
      ValueError: an operator that the exporter does not write.
    """
    function = program.functions['main']
    values = {name: torch.from_numpy(np.ascontiguousarray(array))
              for name, array in inputs.items()}

    def value_of(var):
        if isinstance(var, (list, tuple)):
            return [value_of(one) for one in var]
        if var.name in values:
            return values[var.name]
        value = var.val
        if isinstance(value, (np.ndarray, np.generic)) and (
                np.issubdtype(value.dtype, np.floating)):
            return torch.from_numpy(np.array(value, np.float32))
        return value

    with torch.inference_mode():
        for operation in function.operations:
            if operation.op_type == 'const':
                continue
            if operation.op_type not in _EVALUATED:
                raise ValueError(f'{operation.name} is of type {operation.op_type}; '
                                 f'expected one of {", ".join(_EVALUATED)}.')
            arguments = {name: value_of(var) for name, var in operation.inputs.items()
                         if var is not None}
            arguments.pop('pad_type', None)
            result = _EVALUATED[operation.op_type](**arguments)
            output, = operation.outputs
            if 'fp16' in str(output.dtype):
                result = result.half().float()
            values[output.name] = result
        output, = function.outputs
        return values[output.name].numpy()


def load_generator(path: os.PathLike | str) -> Callable[[np.ndarray], np.ndarray]:
    """A package of `write_core` as a function.

    Returns:
      f32[N, R, R, 4] -> f32[N, R, R, 3], one image at a time.
    """
    _, program = read(path)
    return lambda x: np.concatenate([
        evaluate(program, {'input': sample[None].transpose(0, 3, 1, 2)})
        for sample in x]).transpose(0, 2, 3, 1)


def load_painter(path: os.PathLike | str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A package of `write_image` as a function.

    Returns:
      u8[R, R, 3], u8[R, R] (255 = known) -> f32[R, R, 3], levels before rounding.
    """
    _, program = read(path)
    return lambda image, mask: evaluate(program, {
        'image': image.transpose(2, 0, 1)[None].astype(np.float32),
        'mask': mask[None, None].astype(np.float32)})[0].transpose(1, 2, 0)


def operators(path: os.PathLike | str) -> collections.Counter[str]:
    """{operator: how often} in a package, constants aside."""
    _, program = read(path)
    return collections.Counter(
        operation.op_type for operation in program.functions['main'].operations
        if operation.op_type != 'const')
