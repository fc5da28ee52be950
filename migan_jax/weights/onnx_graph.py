"""An ONNX graph by its values: what makes them, and which of them are constant."""

from collections.abc import Iterable
from typing import Any

from absl import logging
import numpy as np
import onnx
from onnx import helper
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

# Constant expressions that are worked out, and what they may grow to.
_GROWING = {'Mul', 'Div', 'Add', 'Sub', 'ConstantOfShape', 'Gather'}
_FOLDED = {'Identity', 'Cast', 'Transpose', 'Reshape', 'Unsqueeze', 'Squeeze',
           'Flatten', 'Neg', 'Concat', 'Slice', 'Shape', 'Constant', *_GROWING}
_MAX_ELEMENTS = 2**26


class Mismatch(Exception):
    """The graph is not what it should be; a sentence without the file's name."""


class Graph:
    """A graph by its values.

    Attributes:
      inputs: {name: shape}, numbers and symbols, without the initialisers.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._opsets = list(model.opset_import)
        self.nodes = list(graph.node)
        self._producers = {name: node for node in graph.node for name in node.output}
        self.initialisers = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = {
            value.name: [d.dim_value if d.HasField('dim_value') else d.dim_param
                         for d in value.type.tensor_type.shape.dim]
            for value in graph.input if value.name not in self.initialisers}
        self._constants = {}

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a value, past those that hand it on; None of an input."""
        return self._producers.get(self.strip(name))

    def strip(self, name: str) -> str:
        """The value that a value is a mere copy of."""
        seen = set()
        while (node := self._producers.get(name)) is not None and name not in seen:
            seen.add(name)
            if node.op_type not in ('Identity', 'Dropout') and not (
                    node.op_type == 'Cast'
                    and attributes(node)['to'] == onnx.TensorProto.FLOAT):
                break
            name = node.input[0]
        return name

    def constant(self, name: str, depth: int = 0) -> np.ndarray | None:
        """The value of a constant expression as an array; None if it is none."""
        if not name or depth > 20:
            return None
        if name in self._constants:
            return self._constants[name]
        if name in self.initialisers:
            value = numpy_helper.to_array(self.initialisers[name])
        else:
            value = self._folded(self._producers.get(name), depth)
        self._constants[name] = value
        return value

    def _folded(self, node, depth):
        """What a node makes of constants, or None."""
        if node is None or node.op_type not in _FOLDED or len(node.output) != 1:
            return None
        values = [self.constant(name, depth + 1) for name in node.input]
        if any(value is None for value in values):
            return None
        if node.op_type in _GROWING and self._size(node, values) > _MAX_ELEMENTS:
            return None
        model = helper.make_model(helper.make_graph(
            [node], 'constant',
            [helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
             for name, value in zip(node.input, values)],
            [helper.make_tensor_value_info(node.output[0], 0, None)]),
            opset_imports=self._opsets)
        try:
            return ReferenceEvaluator(model).run(None, dict(zip(node.input, values)))[0]
        # In a stranger's graph, shapes and types may not go together.
        except Exception:
            logging.debug('%s can not be worked out', shown_node(node), exc_info=True)
            return None

    def _size(self, node, values):
        """How many elements a node that can make much of little makes."""
        if node.op_type == 'ConstantOfShape':
            return np.prod(values[0], dtype=float)
        if node.op_type == 'Gather':
            return values[0].size * values[1].size
        try:
            return np.prod(np.broadcast_shapes(*(x.shape for x in values)), dtype=float)
        except ValueError:
            return np.inf

    def scalar(self, name: str) -> float | None:
        """A constant of one element as a float, or None."""
        value = self.constant(name)
        if value is None or value.size != 1:
            return None
        return float(value.reshape(()))

    def ancestors(self, name: str) -> set[str]:
        """All values that a value is computed from, itself included."""
        found, waiting = set(), [name]
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            found.add(name)
            if (node := self._producers.get(name)) is not None:
                waiting += self._sliced_operand(node) or _inputs_of(node)
        return found

    def _sliced_operand(self, node):
        """[operand] of which a Slice of channels takes what was put together, else []."""
        joined = self._producers.get(node.input[0]) if node.op_type == 'Slice' else None
        if joined is None or joined.op_type != 'Concat' or len(node.input) < 4:
            return []
        start, end, axis = (self.scalar(name) for name in node.input[1:4])
        shapes = [self.inputs.get(name) for name in joined.input]
        if axis != 1 or attributes(joined).get('axis') != 1 or not all(
                shape is not None and len(shape) > 1 and isinstance(shape[1], int)
                for shape in shapes) or start is None or end is None:
            return []
        first = 0
        for name, shape in zip(joined.input, shapes):
            if first <= start < end <= first + shape[1]:
                return [name]
            first += shape[1]
        return []

    def consumers(self, names: Iterable[str]) -> set[str]:
        """Kinds of the nodes that read some of these values, also through folding."""
        names, kinds = set(names), set()
        for node in self.nodes:                            # in topological order
            if names & set(node.input):
                kinds.add(node.op_type)
                if node.op_type in _FOLDED:
                    names |= set(node.output)
        return kinds


def _inputs_of(node):
    """Names that a node reads, also within its branches and loops."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for child in inner.node:
                names += _inputs_of(child)
    return names


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """{name: value} of a node."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def shown_node(node: onnx.NodeProto | None) -> str:
    """A node for messages."""
    if node is None:
        return 'an input of the graph'
    name = f' {node.name!r}' if node.name else ''
    return f'{node.op_type}{name}, which makes {node.output[0]!r}'
