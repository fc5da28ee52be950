"""The deployed generator as a LiteRT (TensorFlow Lite) file.

NHWC, f32[1, R, R, 4] -> f32[1, R, R, 3], of builtin operators that phones' delegates
take: DEPTHWISE_CONV_2D, CONV_2D, LEAKY_RELU, ADD, RESIZE_NEAREST_NEIGHBOR and, where
clamps are kept, MINIMUM and MAXIMUM.  The graph is written in TensorFlow's own
convolutions: what jax2tf makes of the network converts to builtin operators too, but at
32 x 32 to 766 instead of 164, slices, gathers and transpositions among them.
"""

from collections.abc import Callable, Mapping
import os
from typing import Any
import warnings

import ml_collections
import numpy as np

from migan_jax import quiet
with quiet.importing_tensorflow():
    import tensorflow as tf
    from tensorflow.lite.tools import flatbuffer_utils

from migan_jax.export import onnx_core
from migan_jax.model import build
from migan_jax.model import fill
from migan_jax.model import topology
from migan_jax.model.ops import CLAMP
from migan_jax.model.ops import FIR_TAPS
from migan_jax.model.ops import NEGATIVE_SLOPE
from migan_jax.model.ops import SQRT2


# It only converts here, and would reserve all memory of a GPU.
with quiet.stderr_unless_it_fails():
    tf.config.set_visible_devices([], 'GPU')


def _depthwise(x, kernel, stride=1):
    """x [1, H, W, C] and kernel [k, k, C], zero padding (k - stride) / 2."""
    return tf.nn.depthwise_conv2d(
        x, tf.constant(kernel[..., None], tf.float32), [1, stride, stride, 1], 'SAME')


def _pointwise(x, kernel, gain):
    return tf.nn.conv2d(x, tf.constant(kernel * gain, tf.float32), 1, 'VALID')


def up2(x: tf.Tensor) -> tf.Tensor:
    """FIR upsampling by 2: [1, H, W, C] -> [1, 2H, 2W, C].

    Every pixel twice, then [1, 2, 1] / 4 per axis: the FIR's [1, 3, 3, 1] / 4 is the
    product of [1, 1] and these taps.
    """
    h, w, c = x.shape[1:]
    x = tf.raw_ops.ResizeNearestNeighbor(images=x, size=[2 * h, 2 * w])
    taps = np.polydiv(2 * np.array(FIR_TAPS), [1, 1])[0]
    return _depthwise(x, np.tile(np.outer(taps, taps)[..., None], c))


def _with_bias(x, params, gain):
    bias = tf.constant(params['bias'] * gain, tf.float32)
    return _pointwise(x, params['pointwise']['kernel'], gain) + bias


def _starting_fill(x, resolution, passes):
    """`fill.starting_fill`."""
    known, colour = x[..., :1] + 0.5, x[..., 1:]
    levels = []
    while resolution > fill.LOWEST:
        levels.append((known, colour))
        share = tf.nn.avg_pool2d(known, 2, 2, 'VALID')
        colour = tf.nn.avg_pool2d(colour, 2, 2, 'VALID') / tf.maximum(share, 0.25)
        known = tf.minimum(4 * share, 1.0)
        resolution //= 2
    mean = lambda y: tf.reduce_mean(y, [1, 2], keepdims=True)
    coarse = mean(colour) / tf.maximum(mean(known), fill.SMALLEST_SHARE)
    coarse = _relax(colour + (1 - known) * coarse, known, colour, passes)
    for known, colour in reversed(levels):
        resolution *= 2
        coarse = colour + (1 - known) * tf.raw_ops.ResizeBilinear(
            images=coarse, size=[resolution] * 2, half_pixel_centers=True)
        coarse = _relax(coarse, known, colour, passes)
    return coarse


def _relax(x, known, colour, passes):
    # The mean of the four neighbours, edges repeated.
    cross = np.zeros((3, 3, 3, 1), np.float32)
    cross[[0, 2, 1, 1], [1, 1, 0, 2]] = 0.25
    for _ in range(passes):
        around = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], 'SYMMETRIC')
        mean = tf.nn.depthwise_conv2d(around, cross, (1, 1, 1, 1), 'VALID')
        x = colour + (1 - known) * mean
    return x


class _Operators:
    """See `topology.Operators`; activations leave their gain to the weights before."""

    def __init__(self, variables, largest):
        self.params = variables['params']
        self.planes = topology.noise_planes(variables)
        self.largest = largest

    def activation(self, x, name):
        x = tf.nn.leaky_relu(x, NEGATIVE_SLOPE)
        if onnx_core.keeps_clamp(self.largest, name):
            x = tf.minimum(tf.maximum(x, -CLAMP), CLAMP)
        return x

    def fromrgb(self, x, layer):
        return self.activation(
            _with_bias(x, layer.of(self.params), SQRT2), str(layer))

    def block(self, x, layer):
        params, plane = layer.of(self.params), self.planes.get(str(layer))
        x = _depthwise(x, params['depthwise']['kernel'][:, :, 0] * SQRT2)
        x = self.activation(x + tf.constant(params['bias'] * SQRT2, tf.float32),
                            f'{layer}.depthwise')
        if layer.down:
            taps = np.outer(FIR_TAPS, FIR_TAPS)[..., None]
            x = _depthwise(x, np.tile(taps, x.shape[-1]), stride=2)
        x = _pointwise(x, params['pointwise']['kernel'], SQRT2)
        if layer.up:
            x = up2(x)
        if plane is not None:
            x += tf.constant(plane[None, :, :, None] * SQRT2, tf.float32)
        return self.activation(x, str(layer))

    def torgb(self, x, layer):
        return _with_bias(x, layer.of(self.params), 1.0)

    def add(self, x, y):
        return x + y

    def up2(self, image, resolution):
        return up2(image)


def build_tflite(config: ml_collections.ConfigDict, variables: Mapping[str, Any], *,
                 half: bool = False, largest: Mapping[str, float] | None = None,
                 description: str = '') -> bytes:
    """The generator as a LiteRT model.

    Input `input`, f32[1, R, R, 4]: [mask - 0.5, image * mask], mask first, 1 = known
    and 0 = hole, image RGB in [-1, 1].  Output `output`, f32[1, R, R, 3], about
    [-1, 1], neither clipped nor composited.  Noise is the stored planes.

    Args:
      config: ConfigDict; `config.model` is read.
      variables: {'params', 'noise'} of the deployed generator, as
        `checkpoint.load_deployed` returns them.
      half: weights as float16; delegates may compute in it, CPUs compute in float32.
      largest: see `onnx_core.build_core`; None keeps all clamps.
      description: text for the file's field of that name.

    Returns:
      bytes of the file.

    Raises:
      ValueError: the model is the ablation with plain 3x3 convolutions.
    """
    topology.check_deployable(config)
    resolution, passes = config.model.resolution, build.fill_passes(config)
    module = tf.Module()

    @tf.function(input_signature=[
        tf.TensorSpec((1, resolution, resolution, 4), tf.float32, 'input')])
    def generate(input):
        start = None
        if passes is not None:
            start = _starting_fill(input, resolution, passes)
            input = tf.concat([input[..., :1], start], -1)
        painted = topology.walk(_Operators(variables, largest), input, resolution)
        return {'output': painted if start is None else painted + start}

    module.generate = generate
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [generate.get_concrete_function()], module)
    if half:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    # Builtin operators alone: whatever else converts would need a delegate of its own.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    with quiet.stderr_unless_it_fails():
        converted = converter.convert()
    content = flatbuffer_utils.read_model_from_bytearray(bytearray(converted))
    content.description = description
    return bytes(flatbuffer_utils.convert_object_to_bytearray(content))


def _interpreter(path, threads=None):
    """TensorFlow's interpreter of a file, which speaks up when it is made."""
    with quiet.stderr_unless_it_fails(), warnings.catch_warnings():
        # Its successor is a package of its own that not every Python has.
        warnings.simplefilter('ignore', UserWarning)
        return tf.lite.Interpreter(model_path=str(path), num_threads=threads)


def load_generator(path: os.PathLike | str,
                   threads: int | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """A LiteRT file as a function of arrays, run by the interpreter.

    Args:
      path: of the file.
      threads: of the interpreter; its default if None.

    Returns:
      f32[N, R, R, 4] -> f32[N, R, R, 3], one image at a time.

    Raises:
      ValueError: not a LiteRT file.
    """
    interpreter = _interpreter(path, threads)
    with quiet.stderr_unless_it_fails():
        interpreter.allocate_tensors()
    source, = interpreter.get_input_details()
    target, = interpreter.get_output_details()

    def generate(x):
        images = []
        for sample in x:
            interpreter.set_tensor(source['index'], sample[None])
            interpreter.invoke()
            images.append(interpreter.get_tensor(target['index']))
        return np.concatenate(images)

    return generate


def operators(path: os.PathLike | str) -> dict[str, int]:
    """{operator: how often} in a LiteRT file."""
    interpreter = _interpreter(path)
    counts = {}
    # No public interface lists the operators.
    for details in interpreter._get_ops_details():
        counts[details['op_name']] = counts.get(details['op_name'], 0) + 1
    return counts
