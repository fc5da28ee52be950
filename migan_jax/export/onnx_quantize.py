"""Smaller ONNX files: float16 weights, and static int8 quantisation."""

import logging
import os
import tempfile

import numpy as np
import onnx
from onnx import helper
from onnx import numpy_helper
from onnxruntime import quantization

from migan_jax import storage


def to_half(model):
    """The model with its kernels and noise planes stored in float16.

    They are cast to float32 by the graph, which runtimes do once, when they load it:
    the file is half as large, inputs, outputs, speed and every operator's precision
    stay.  (Computing in float16 is what only some accelerators can do.)

    Args:
      model: onnx.ModelProto from `onnx_core` or `onnx_pipeline`; not changed.

    Returns:
      onnx.ModelProto.

    Raises:
      ValueError: a weight is beyond the range of float16.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    casts = []
    for tensor in half.graph.initializer:
        # Biases and scalars are a thousandth of the file: they stay exact.
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        array = numpy_helper.to_array(tensor)
        limit = np.finfo(np.float16).max
        if array.size and not np.abs(array).max() <= limit:
            raise ValueError(
                f'{tensor.name}: its largest magnitude is {np.abs(array).max()}; '
                f'float16 ends at {limit}: export in float32 instead.')
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(
            array.astype(np.float16), f'{name}_float16'))
        casts.append(helper.make_node(
            'Cast', [tensor.name], [name], name=f'make_{name}',
            to=onnx.TensorProto.FLOAT))
    nodes = casts + list(half.graph.node)
    del half.graph.node[:]
    half.graph.node.extend(nodes)
    onnx.checker.check_model(half, full_check=True)
    return half


class _Reader(quantization.CalibrationDataReader):
    """Feeds the calibration inputs, checked, one by one."""

    def __init__(self, inputs, shape):
        self.inputs = iter(inputs)
        self.shape = shape
        self.count = 0

    def get_next(self):
        x = next(self.inputs, None)
        if x is None:
            if not self.count:
                raise ValueError(
                    'no calibration inputs: int8 needs some, a hundred pictures with '
                    'masks is a good number.')
            return None
        if x.dtype != np.float32 or x.shape != self.shape:
            raise ValueError(
                f'calibration input {self.count}: expected float32{list(self.shape)}, '
                f'got {x.dtype}{list(x.shape)}.')
        if not np.isfinite(x).all():
            raise ValueError(f'calibration input {self.count} is not finite.')
        self.count += 1
        return {'input': x}


def _large_convolutions(model):
    """Names of the convolutions that hold nearly all weights and arithmetic.

    Those over all channels, but not fromrgb, torgb and the copies of noise planes: they
    cost little, and a palette of 256 levels at the first or last layer shows.
    """
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    names = []
    for node in model.graph.node:
        if node.op_type != 'Conv':
            continue
        co, ci, *_ = shapes[node.input[1]]
        group = helper.get_node_attr_value(node, 'group')
        if group == 1 and ci > 4 and co > 3:
            names.append(node.name)
    return names


def to_int8(path_in, path_out, calibration_inputs):
    """Static quantisation of the large convolutions to int8 weights and activations.

    Args:
      path_in: file of `onnx_core.build_core` (float32, fixed size).
      path_out: written atomically; keeps the metadata.
      calibration_inputs: iterable of f32 [1, 4, R, R], [mask - 0.5, image * mask] of
        typical pictures; their ranges are what the activations' 256 levels cover.

    Raises:
      ValueError: no calibration inputs, or of a wrong shape or dtype, or `path_in` is
        no such model.
    """
    model = onnx.load(path_in)
    if [value.name for value in model.graph.input] != ['input']:
        raise ValueError(
            f'{path_in}: inputs are {[value.name for value in model.graph.input]}; '
            "expected ['input'], the core model: quantise that, not the pipeline.")
    sides = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    if not all(sides):
        raise ValueError(f'{path_in}: expected a model of a fixed size.')
    with tempfile.TemporaryDirectory() as directory:
        result = os.path.join(directory, 'int8.onnx')
        root = logging.getLogger()
        level = root.level
        # It advises on standard error to pre-process models; this one has its shapes.
        root.setLevel(logging.ERROR)
        try:
            quantization.quantize_static(
                path_in, result, _Reader(calibration_inputs, (1, *sides)),
                quant_format=quantization.QuantFormat.QDQ, per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                op_types_to_quantize=['Conv'],
                nodes_to_quantize=_large_convolutions(model))
        finally:
            root.setLevel(level)
        quantized = onnx.load(result)
    # The quantiser leaves a mark of its own there.
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(model.metadata_props)
    storage.write_atomically(path_out, quantized.SerializeToString())
