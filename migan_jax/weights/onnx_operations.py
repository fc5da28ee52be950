"""Recognises in an ONNX graph what the generator is made of.

Each operation has the forms in which exporters and optimisers write it; a value that
has none of them is not that operation.
"""

from typing import NamedTuple

import numpy as np
import onnx

from migan_jax.weights.onnx_graph import attributes
from migan_jax.weights.onnx_graph import Graph
from migan_jax.weights.onnx_graph import Mismatch
from migan_jax.weights.onnx_graph import shown_node
from migan_jax.model.ops import CLAMP
from migan_jax.model.ops import FIR_TAPS
from migan_jax.model.ops import NEGATIVE_SLOPE
from migan_jax.model.ops import SQRT2

FIR = np.outer(FIR_TAPS, FIR_TAPS)
# What upsampling leaves after a nearest resize, see `export.onnx_core`.
AFTER_NEAREST = np.outer((1, 2, 1), (1, 2, 1)) / 16
# (coordinates, rounding) with which a nearest resize by 2 repeats every pixel.
REPEATING = {('asymmetric', 'floor'), ('asymmetric', 'round_prefer_floor'),
             ('half_pixel', 'round_prefer_floor'), ('half_pixel', 'round_prefer_ceil'),
             ('pytorch_half_pixel', 'round_prefer_floor'),
             ('pytorch_half_pixel', 'round_prefer_ceil')}


class Conv(NamedTuple):
    """A convolution: input, f32[co, ci / groups, kh, kw], f32[co] or None."""
    x: str
    kernel: np.ndarray
    bias: np.ndarray | None


class Activated(NamedTuple):
    """An activation's input, and the factors that the graph leaves to its neighbours.

    Attributes:
      x: value before it.
      after: the network's activation is `after` times the graph's.
      before: the graph's input is `before` times the network's.
    """
    x: str
    after: float
    before: float


class Operations:
    """Recognises what the architecture is made of.

    A method gets a value's name and returns what made it.  Where the value may be
    something else it returns None; where it may not, it raises `Mismatch`.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def conv(self, name: str) -> tuple[Conv, onnx.NodeProto] | None:
        """A convolution in two dimensions with constant weights: (`Conv`, node)."""
        node = self.graph.producer(name)
        if node is None or node.op_type != 'Conv':
            return None
        kernel = self.graph.constant(node.input[1])
        if kernel is None or kernel.ndim != 4:
            return None
        bias = None
        if len(node.input) > 2 and node.input[2]:
            bias = self.graph.constant(node.input[2])
            if bias is None:
                return None
        return Conv(node.input[0], kernel, bias), node

    def geometry(self, node: onnx.NodeProto) -> tuple[int, int | None, list[int]]:
        """(groups, stride, pads [top, left, bottom, right]) of a convolution.

        The stride is None where it is not one number, or anything else is unusual.
        """
        given = attributes(node)
        strides = set(given.get('strides', [1]))
        plain = (len(strides) == 1 and set(given.get('dilations', [1])) == {1}
                 and _text(given.get('auto_pad', 'NOTSET')) in ('NOTSET', 'VALID'))
        return (given.get('group', 1), strides.pop() if plain else None,
                list(given.get('pads', [0, 0, 0, 0])))

    def padded(self, name: str) -> tuple[str, list[int]]:
        """The value below a padding of rows and columns with zeros, and its pads."""
        node = self.graph.producer(name)
        if node is None or node.op_type != 'Pad':
            return name, [0, 0, 0, 0]
        given = attributes(node)
        pads, value = given.get('pads'), given.get('value', 0.0)
        if pads is None and len(node.input) > 1:
            pads = self.graph.constant(node.input[1])
        if len(node.input) > 2 and node.input[2]:
            value = self.graph.scalar(node.input[2])
        zeros = value == 0 and _text(given.get('mode', 'constant')) == 'constant'
        if not zeros or pads is None or len(pads) != 8 or any(
                pads[axis] for axis in (0, 1, 4, 5)):
            return name, [0, 0, 0, 0]
        return node.input[0], [int(n) for n in (*pads[2:4], *pads[6:8])]

    def depthwise(self, name: str) -> tuple[Conv, int | None, list[int], onnx.NodeProto] | None:
        """A convolution of each channel: (`Conv`, stride, pads, node) or None."""
        found = self.conv(name)
        if found is None:
            return None
        conv, node = found
        groups, stride, pads = self.geometry(node)
        if conv.kernel.shape[1] != 1 or groups != len(conv.kernel):
            return None
        x, more = self.padded(conv.x)
        return conv._replace(x=x), stride, [a + b for a, b in zip(pads, more)], node

    def fir(self, name: str, kernel: np.ndarray, stride: int, pads: list[int]) -> str | None:
        """What a filter reads, the same for all channels and without bias; or None."""
        found = self.depthwise(name)
        if found is None or found[0].kernel.shape[2:] != kernel.shape:
            return None
        conv, *geometry, _ = found
        if (geometry != [stride, pads] or conv.bias is not None
                or not np.allclose(conv.kernel, kernel, rtol=0, atol=1e-6)):
            return None
        return conv.x

    def identity(self, name: str) -> tuple[str, float] | None:
        """What a 1x1 convolution of each channel reads, and its one factor; or None."""
        found = self.depthwise(name)
        if found is None or found[0].kernel.shape[2:] != (1, 1):
            return None
        conv, *geometry, _ = found
        factors = np.unique(conv.kernel)
        if geometry != [1, [0] * 4] or conv.bias is not None or len(factors) != 1:
            return None
        return conv.x, float(factors[0])

    def factor(self, name: str) -> tuple[str, float] | None:
        """What a value is a constant multiple of, and the factor; or None."""
        node = self.graph.producer(name)
        if node is None or node.op_type not in ('Mul', 'Div'):
            return None
        factors = [self.graph.scalar(x) for x in node.input]
        if node.op_type == 'Div':
            return None if not factors[1] else (node.input[0], 1 / factors[1])
        for x, factor in zip(node.input, reversed(factors)):
            if factor is not None:
                return x, factor
        return None

    def limit(self, name: str) -> tuple[str, float] | None:
        """What is clamped symmetrically, and where; or None."""
        node = self.graph.producer(name)
        if node is None or node.op_type != 'Clip':
            return None
        given = attributes(node)
        bounds = [given.get('min'), given.get('max')]
        for i, bound in enumerate(node.input[1:3]):
            bounds[i] = self.graph.scalar(bound)
        if None in bounds or not is_close(-bounds[0], bounds[1]):
            raise Mismatch(f'{shown_node(node)} clamps at {bounds}, not symmetrically.')
        return node.input[0], bounds[1]

    def activation(self, name: str) -> Activated | None:
        """Leaky ReLU with its gain and clamp, in any order: `Activated`, or None."""
        gain, limit = 1.0, None
        while True:
            node = self.graph.producer(name)
            if node is None:
                return None
            if node.op_type in ('LeakyRelu', 'PRelu'):
                break
            if (found := self.limit(name)) is not None:
                name, bound = found
                limit = min(bound * gain, np.inf if limit is None else limit)
            elif (found := self.factor(name) or self.identity(name)) is not None:
                name, factor = found
                gain *= factor
            else:
                return None
        slope = (attributes(node).get('alpha', 0.01) if node.op_type == 'LeakyRelu'
                 else self._slope(node))
        if gain <= 0 or not np.isclose(slope, NEGATIVE_SLOPE, rtol=1e-5):
            raise Mismatch(f'{shown_node(node)} has the slope {slope:g} and the gain '
                            f'{gain:g}; expected {NEGATIVE_SLOPE} and above 0.')
        # A factor before a leaky ReLU is as good as one behind it, but for the clamp.
        before = 1.0 if limit is None else limit * SQRT2 / (CLAMP * gain)
        if is_close(before, 1):
            before = 1.0
        elif not is_close(before, SQRT2):
            raise Mismatch(
                f'{shown_node(node)} is clamped at {limit:g}; expected {CLAMP:g}.')
        after = SQRT2 / (gain * before)
        # What was not folded must come back exactly.
        return Activated(node.input[0], 1.0 if is_close(after, 1) else after, before)

    def _slope(self, node):
        slopes = self.graph.constant(node.input[1])
        if slopes is None or len(np.unique(slopes)) != 1:
            raise Mismatch(f'{shown_node(node)} has slopes that differ.')
        return float(np.unique(slopes)[0])

    def zero_inserted(self, name: str) -> str | None:
        """What has a zero put after every pixel, in rows and columns; or None."""
        node = self.graph.producer(name)
        if node is None:
            return None
        if node.op_type == 'ConvTranspose':
            return self._transposed(node, np.array([[1, 0], [0, 0]]), [0] * 4)
        if node.op_type != 'Mul':
            return None
        for x, mask in zip(node.input, reversed(node.input)):
            mask = self.graph.constant(mask)
            if mask is None or mask.ndim < 2:
                continue
            rows, columns = (np.arange(n) % 2 == 0 for n in mask.shape[-2:])
            if mask.any() and np.array_equal(
                    mask, np.broadcast_to(np.outer(rows, columns), mask.shape)):
                return self.repeated(x)
        return None

    def _transposed(self, node, kernel, pads):
        """What a transposed convolution of each channel by 2 reads, or None."""
        weights = self.graph.constant(node.input[1])
        given = attributes(node)
        if weights is None or weights.shape[1:] != (1, *kernel.shape) or any(
                given.get('output_padding', [])) or 'output_shape' in given:
            return None
        if (self.geometry(node) != (len(weights), 2, pads)
                or len([name for name in node.input if name]) > 2
                or not np.allclose(weights, kernel, rtol=0, atol=1e-6)):
            return None
        return node.input[0]

    def repeated(self, name: str) -> str | None:
        """What a nearest resize by 2 reads; or None."""
        node = self.graph.producer(name)
        if node is None or node.op_type not in ('Resize', 'Upsample'):
            return None
        given = {key: _text(value) for key, value in attributes(node).items()}
        if given.get('mode', 'nearest') != 'nearest':
            return None
        scales = given.get('scales')
        if scales is None:
            # The second input of Resize 10 and Upsample, the third one later.
            given_scales = [self.graph.constant(x) for x in node.input[1:3]]
            scales = next((x for x in given_scales if x is not None and x.size), None)
        if scales is None or not np.array_equal(scales, [1, 1, 2, 2]):
            raise Mismatch(
                f'{shown_node(node)} does not say that it doubles both sides.')
        way = (given.get('coordinate_transformation_mode', 'half_pixel'),
               given.get('nearest_mode', 'round_prefer_floor'))
        old = node.op_type == 'Upsample' or len(node.input) == 2
        if not old and way not in REPEATING:
            raise Mismatch(f'{shown_node(node)} does not repeat every pixel, but '
                           f'resizes by {" and ".join(way)}.')
        return node.input[0]

    def up2(self, name: str) -> str | None:
        """What the FIR upsampling by 2 reads; None if it is something else."""
        if (x := self.fir(name, 4 * FIR, 1, [2, 2, 1, 1])) is not None:
            return self.zero_inserted(x)
        if (x := self.fir(name, AFTER_NEAREST, 1, [1] * 4)) is not None:
            return self.repeated(x)
        node = self.graph.producer(name)
        if node is not None and node.op_type == 'ConvTranspose':
            return self._transposed(node, 4 * FIR, [1] * 4)
        return None

    def down2(self, name: str) -> str | None:
        """What the FIR downsampling by 2 reads; None if it is something else."""
        return self.fir(name, FIR, 2, [1] * 4)

    def pointwise(self, name: str) -> Conv | None:
        """A 1x1 convolution, also as a matrix product: `Conv` or None."""
        found = self.conv(name)
        if found is not None:
            conv, node = found
            if conv.kernel.shape[2:] == (1, 1) and self.geometry(node) == (
                    1, 1, [0] * 4):
                return conv
            return None
        node = self.graph.producer(name)
        if node is None:
            return None
        if node.op_type == 'Add':
            return self._biased(node, self.pointwise)
        if node.op_type == 'Transpose':
            # [N, H, W, co] of [N, H, W, ci] times [ci, co].
            below = self._transpose_of(node, [0, 3, 1, 2])
            matrix = below and self._product(below, [0, 2, 3, 1])
            return matrix or None
        if node.op_type == 'Reshape':
            # [co, ci] times [N, ci, H W].
            return self._flat_product(node.input[0])
        return None

    def _transpose_of(self, node, order):
        if list(attributes(node).get('perm', [])) != order:
            return None
        return self.graph.strip(node.input[0])

    def _product(self, name, order):
        """`Conv` of a product, perhaps with bias, behind a transposition."""
        node, bias = self.graph.producer(name), None
        if node is not None and node.op_type == 'Add':
            for x, added in zip(node.input, reversed(node.input)):
                value = self.graph.constant(added)
                if value is not None and value.ndim and value.size == value.shape[-1]:
                    node, bias = self.graph.producer(x), value.reshape(-1)
                    break
        if node is None or node.op_type != 'MatMul':
            return None
        matrix = self.graph.constant(node.input[1])
        below = self.graph.producer(node.input[0])
        if (matrix is None or matrix.ndim != 2 or below is None
                or below.op_type != 'Transpose'):
            return None
        x = self._transpose_of(below, order)
        # The side of the product says which axis is which, also of square matrices.
        return x and Conv(x, matrix.T[:, :, None, None], bias)

    def _flat_product(self, name):
        """`Conv` of a product of a matrix and pictures whose pixels are one axis."""
        node = self.graph.producer(name)
        if node is None or node.op_type != 'MatMul':
            return None
        matrix = self.graph.constant(node.input[0])
        below = self.graph.producer(node.input[1])
        if (matrix is None or matrix.ndim != 2 or below is None
                or below.op_type != 'Reshape'):
            return None
        return Conv(below.input[0], matrix[:, :, None, None], None)

    def _biased(self, node, layer):
        """A layer whose bias is added behind it: `Conv` or None."""
        for x, added in zip(node.input, reversed(node.input)):
            bias = self.graph.constant(added)
            # [co, 1, 1], not a plane of noise.
            if bias is None or bias.ndim < 3 or bias.size != bias.shape[-3]:
                continue
            conv = layer(x)
            if conv is not None and conv.bias is None and bias.size == len(conv.kernel):
                return conv._replace(bias=bias.reshape(-1))
        return None

    def depthwise3x3(self, name: str) -> Conv | None:
        """The first convolution of a block: `Conv` with a bias, or None."""
        found = self.depthwise(name)
        if found is None:
            node = self.graph.producer(name)
            if node is None or node.op_type != 'Add':
                return None
            return self._biased(node, self._unbiased3x3)
        conv, stride, pads, _ = found
        if (conv.kernel.shape[2:] != (3, 3) or stride != 1 or pads != [1] * 4):
            return None
        return conv

    def _unbiased3x3(self, name):
        found = self.depthwise(name)
        return None if found is None else self.depthwise3x3(name)

    def noise(self, name: str) -> tuple[str, np.ndarray, np.ndarray] | None:
        """What noise was added to, its plane f32[r, r] and its strength; or None."""
        # As `export.onnx_core` writes it: a convolution copies the plane to all channels.
        copied = self.identity(name)
        if copied is not None and copied[1] == 1:
            node = self.graph.producer(copied[0])
            if node is not None and node.op_type == 'Add':
                for x, added in zip(node.input, reversed(node.input)):
                    if (plane := self._copied_plane(added)) is not None:
                        return x, plane, np.ones((), np.float32)
            return None
        node = self.graph.producer(name)
        if node is None or node.op_type != 'Add':
            return None
        for x, added in zip(node.input, reversed(node.input)):
            plane = self.graph.constant(added)
            if (plane is not None and plane.ndim >= 2
                    and plane.size == np.prod(plane.shape[-2:]) > 1):
                return x, *self._plane_and_strength(added, plane)
        return None

    def _copied_plane(self, name):
        found = self.conv(name)
        if found is None or found[0].kernel.shape[1:] != (1, 1, 1) or not np.all(
                found[0].kernel == 1) or found[0].bias is not None:
            return None
        name = found[0].x
        # Repeated and cut where the graph takes pictures of other sizes.
        while (node := self.graph.producer(name)) is not None and node.op_type in (
                'Expand', 'Slice', 'Tile'):
            name = node.input[0]
        plane = self.graph.constant(name)
        if plane is None or plane.ndim < 2 or plane.size != np.prod(plane.shape[-2:]):
            return None
        return plane.reshape(plane.shape[-2:])

    def _plane_and_strength(self, name, product):
        """The two factors where the graph still has both, else the product and 1."""
        node = self.graph.producer(name)
        if node is not None and node.op_type == 'Mul':
            values = [self.graph.constant(x) for x in node.input]
            for plane, strength in (values, values[::-1]):
                if strength.size == 1 and plane.size == product.size:
                    return plane.reshape(plane.shape[-2:]), strength.reshape(())
        return product.reshape(product.shape[-2:]), np.ones((), np.float32)


def _text(value):
    return value.decode() if isinstance(value, bytes) else value


def is_close(value: float, expected: float) -> bool:
    """Whether two numbers are equal but for rounding."""
    return bool(np.isclose(value, expected, rtol=1e-5, atol=0))
