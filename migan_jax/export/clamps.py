"""How near a generator's activations come to the clamps at +-256.

The clamps are there so that float16 does not overflow in training; activations of a
trained generator stay far below them, and a graph without them is a tenth faster. So
the exporter measures every activation, on noise, on pictures at the corners of the
input's range and on those it is given, and `onnx_core` leaves out the clamps that had
room to spare.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
import onnx
from onnx import helper
import onnxruntime

from migan_jax.export import comodgan_onnx
from migan_jax.export import comparison
from migan_jax.model.ops import SQRT2

_LARGEST = '_largest'


def measure(config: ml_collections.ConfigDict, variables: Mapping[str, Any],
            pictures: Sequence[comparison.Picture] = ()) -> dict[str, float]:
    """The largest magnitude of each activation.

    Args:
      config: ConfigDict of a deployed generator, MI-GAN or Co-Mod-GAN.
      variables: {'params', 'noise'}.
      pictures: list of `comparison.Picture` to try besides random and extreme ones.

    Returns:
      {activation, as the exported graphs call it: float}; before clamping.

    Raises:
      ValueError: a parameter is not finite.
    """
    resolution = config.model.resolution
    model, names = _with_largest(
        comodgan_onnx.builder_of(config)(config, variables))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=['CPUExecutionProvider'])
    largest = np.zeros(len(names))
    samples = comparison.model_inputs(
        [*comparison.random_pictures(resolution),
         *comparison.extreme_pictures(resolution), *pictures], resolution)
    # One at a time; for a Co-Mod-GAN each has a z of its own.
    for x, *z in zip(*comparison.network_inputs(config, samples)):
        inputs = np.ascontiguousarray(x.transpose(2, 0, 1)), *z
        values = session.run(names, {
            name: value[None] for name, value in zip(('input', 'z'), inputs)})
        largest = np.maximum(largest, values)
    return {name.removesuffix(_LARGEST): float(SQRT2 * value)
            for name, value in zip(names, largest)}


def _with_largest(model):
    """A graph and the names of new outputs: each activation's largest magnitude."""
    graph = model.graph
    names = []
    for node in [node for node in graph.node if node.op_type == 'LeakyRelu']:
        magnitude, name = f'{node.output[0]}_magnitude', f'{node.output[0]}{_LARGEST}'
        graph.node.append(helper.make_node('Abs', node.output, [magnitude]))
        graph.node.append(
            helper.make_node('ReduceMax', [magnitude], [name], keepdims=0))
        graph.output.append(
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []))
        names.append(name)
    return model, names
