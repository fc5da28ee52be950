"""Smaller ONNX files: float16 weights.

For int8, which does not pay here, see docs/converting.md.
"""

import numpy as np
import onnx
from onnx import helper
from onnx import numpy_helper


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
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
