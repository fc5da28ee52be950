"""Reads the generator's weights out of ONNX graphs, by what the graph computes.

Exporters and optimisers rename, fold and transpose weights, so that names tell nothing.
What stays is the computation: the graph is followed from the generator's picture back
to its input, and every value on the way has to be the operation that the architecture
has there (Table S.4).  Anything else ends the import with the node's name; nothing is
guessed from order or from shapes alone.

Read are graphs of the published inference network, alone or within the authors'
pipelines (upsampling by transposed convolution, by masked nearest resize, or in one),
and what `export.onnx_core` and `export.onnx_pipeline` write.
"""

import os
from typing import NamedTuple

import numpy as np
import onnx

from migan_jax.weights.onnx_graph import Graph
from migan_jax.weights.onnx_graph import Mismatch
from migan_jax.weights.onnx_graph import shown_node
from migan_jax.weights.onnx_operations import Activated
from migan_jax.weights.onnx_operations import is_close
from migan_jax.weights.onnx_operations import Operations
from migan_jax.storage import listed
from migan_jax.storage import shown

# Layers, and a number of weights that no filter of a pre- or postprocessing has.
LAYERS = {'Conv', 'ConvTranspose', 'MatMul', 'Gemm'}
MANY = 512
QUANTISED = ('QuantizeLinear', 'DequantizeLinear', 'ConvInteger', 'MatMulInteger')


class OnnxFileError(ValueError):
    """A file holds no generator that can be read; the message names it and says why."""

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


class OnnxFile(NamedTuple):
    """What a graph holds.

    Attributes:
      tensors: {published name: f32 array}, OIHW.
      kind: in words, for messages.
      notes: sentences on what is not as in a file of weights.
    """
    tensors: dict[str, np.ndarray]
    kind: str
    notes: list[str]


def read_file(path: str | os.PathLike) -> OnnxFile:
    """The weights of a graph under their published names.

    Args:
      path: .onnx file, everything in one.

    Returns:
      `OnnxFile`.  Weights are bit for bit those of the network that was exported, but
      where the exporter had folded a factor into them: those come back within 1e-6.

    Raises:
      OnnxFileError: no ONNX file, quantised, with data outside of it, not this
        architecture (says where it differs), several generators in it, or weights that
        no layer of the generator takes (they are listed).
    """
    path = os.fspath(path)
    try:
        model = onnx.load(path, load_external_data=False)
    # protobuf raises its own errors, and others on damaged files.
    except Exception as error:
        reason = ' '.join(str(error).split())[:200]
        raise OnnxFileError(f'{path} is missing, damaged or no ONNX file ({reason}): '
                            'download or write it again.') from error
    if not model.graph.node:
        raise OnnxFileError(f'{path} holds no ONNX graph: download or write it again.')
    outside = [t.name for t in model.graph.initializer if t.external_data]
    if outside:
        raise OnnxFileError(
            f'{path}: {len(outside)} weights lie in another file ({listed(outside)}); '
            'save the model as one file.')
    quantised = sorted({node.op_type for node in model.graph.node
                        if node.op_type in QUANTISED
                        or node.op_type.startswith('QLinear')})
    if quantised:
        raise OnnxFileError(
            f'{path} is quantised ({", ".join(quantised)}): its weights are rounded to '
            'integers. Import the float model that it was made from.')
    try:
        return _Reader(Graph(model)).read()
    except Mismatch as mismatch:
        raise OnnxFileError(f'{path}: {mismatch}') from mismatch


class Block(NamedTuple):
    """Depthwise 3x3, activation, [down], 1x1, [up], [noise], activation.

    Attributes:
      x: value that it reads.
      depthwise, bias, pointwise: as in the graph.
      plane, strength: of the noise; None if there is none.
      between, last: its two `Activated`.
    """
    x: str
    depthwise: np.ndarray
    bias: np.ndarray
    pointwise: np.ndarray
    plane: np.ndarray | None
    strength: np.ndarray | None
    between: Activated
    last: Activated


class _Reader:
    """Follows the generator through a graph, from its picture to its input."""

    def __init__(self, graph):
        self.graph = graph
        self.ops = Operations(graph)
        self.tensors = {}
        self.notes = []

    def read(self):
        """`OnnxFile`; raises `Mismatch`."""
        picture, levels = self.levels()
        resolution = 4 * 2**(len(levels) - 1)
        skips, value = self.decoder(levels)
        seen = self.encoder(resolution, value, skips)
        self.check_input(seen, resolution)
        self.fill_noise(resolution)
        # Every value between the two has been recognised, with all that it is made of.
        taken = self.graph.ancestors(picture) - self.graph.ancestors(seen)
        taken &= self.graph.initialisers.keys()
        self.check_rest(taken)
        half = any(self.graph.initialisers[name].data_type == onnx.TensorProto.FLOAT16
                   for name in taken)
        return OnnxFile(
            {name: np.array(array, np.float32, order='C')
             for name, array in self.tensors.items()},
            'ONNX graph' + (' with float16 weights' if half else ''), self.notes)

    # The picture.

    def levels(self):
        """The picture, and the 1x1 convolutions to it from R down to 4."""
        found = {}
        for node in self.graph.nodes:
            if node.op_type == 'Add':
                pair = self.rgb_and_picture(node)
                if pair is not None:
                    found[node.output[0]] = pair
        read = {self.graph.strip(below) for _, below in found.values()}
        tops = [name for name in found if name not in read]
        if not tops:
            kinds = sorted({node.op_type for node in self.graph.nodes})
            raise Mismatch(
                'no value of the graph is a picture enlarged by 2 plus a 1x1 '
                'convolution to 3 channels: it is no MI-GAN generator, or an optimiser '
                f'has rewritten it. Its operators: {listed(kinds, 30)}.')
        if len(tops) > 1:
            raise Mismatch(
                f'{len(tops)} values could be the picture of a generator: '
                f'{listed(tops)}. Export one generator alone.')
        levels, name = [], tops[0]
        while (pair := found.get(self.graph.strip(name))) is not None:
            levels.append(pair[0])
            name = pair[1]
        last = self.ops.pointwise(name)
        if last is None or len(last.kernel) != 3:
            raise Mismatch(f'{shown_node(self.graph.producer(name))} should be a 1x1 '
                            'convolution to 3 channels, the picture at 4 x 4.')
        return tops[0], [*levels, last]

    def rgb_and_picture(self, node):
        """What an Add takes: the 1x1 convolution, and what the other operand enlarges."""
        for rgb, picture in zip(node.input, reversed(node.input)):
            conv = self.ops.pointwise(rgb)
            if conv is None or len(conv.kernel) != 3 or conv.bias is None:
                continue
            below = self.ops.up2(picture)
            if below is not None:
                return conv, below
        return None

    # Blocks.

    def block(self, name, where, *, up=False, down=False):
        """`Block` that ends in a value.

        Args:
          where: its name, for messages.
        """
        def expect(found, what, at):
            if found is None:
                raise Mismatch(f'{where}: {shown_node(self.graph.producer(at))} should '
                               f'be {what}.')
            return found

        ops = self.ops
        activation = 'a leaky ReLU with its gain and clamp'
        last = expect(ops.activation(name), activation, name)
        x, plane, strength = ops.noise(last.x) or (last.x, None, None)
        if up:
            x = expect(ops.up2(x), 'the upsampling with the filter [1, 3, 3, 1]', x)
        conv = expect(ops.pointwise(x), 'a 1x1 convolution', x)
        if conv.bias is not None:
            raise Mismatch(f'{where}: its 1x1 convolution has a bias, which the '
                            'architecture has not.')
        x = conv.x
        if down:
            x = expect(ops.down2(x), 'the downsampling with the filter [1, 3, 3, 1]', x)
        between = expect(ops.activation(x), activation, x)
        first = expect(ops.depthwise3x3(between.x), 'a 3x3 convolution of each channel',
                       between.x)
        if first.bias is None:
            raise Mismatch(f'{where}: its 3x3 convolution has no bias.')
        return Block(first.x, first.kernel, first.bias, conv.kernel, plane, strength,
                      between, last)

    def store(self, prefix, block, scale, resolution):
        """Puts a block's tensors under their names.

        Args:
          scale: the network's input of the block is `scale` times the graph's.
        """
        between, last = block.between, block.last
        self.put(f'{prefix}.conv1.weight', block.depthwise, between.before * scale)
        self.put(f'{prefix}.conv1.bias', block.bias, between.before)
        self.put(f'{prefix}.conv2.weight', block.pointwise, last.before * between.after)
        if block.plane is not None:
            if block.plane.shape != (resolution, resolution):
                raise Mismatch(f'{prefix}: its noise has the shape '
                                f'{list(block.plane.shape)}, expected '
                                f'{[resolution, resolution]}.')
            self.put(f'{prefix}.noise_const', block.plane, last.before)
            self.put(f'{prefix}.noise_strength', block.strength, 1)

    def put(self, name, array, factor):
        """Stores an array that the graph has `factor` times as large."""
        if factor != 1:
            array = np.asarray(array, np.float64) / factor
        array = np.asarray(array, np.float32)
        if not np.isfinite(array).all():
            raise Mismatch(f'{name} has NaN or infinite values.')
        self.tensors[name] = array

    def scale_of(self, name, where):
        """The network's value over the graph's, of an activation."""
        activated = self.ops.activation(name)
        if activated is None:
            raise Mismatch(f'{where} reads what should be an activation, but is made '
                            f'by {shown_node(self.graph.producer(name))}.')
        return activated.after

    def decoder(self, levels):
        """Reads the decoder.

        Args:
          levels: from `levels`.

        Returns:
          {r: skip feature}, and the value that the decoder's first block reads.
        """
        skips, value = {}, None
        for i, rgb in enumerate(levels):
            r = 4 * 2**(len(levels) - 1 - i)
            prefix = f'synthesis.b{r}'
            if value is not None and self.graph.strip(rgb.x) != self.graph.strip(value):
                raise Mismatch(f'{prefix}.torgb does not read {value!r}, which the '
                                f'block above reads, but {rgb.x!r}.')
            second = self.block(rgb.x, f'{prefix}.conv2')
            self.put(f'{prefix}.torgb.weight', rgb.kernel, second.last.after)
            self.put(f'{prefix}.torgb.bias', rgb.bias, 1)
            name, skips[r] = self.sum_of(second.x, prefix)
            first = self.block(name, f'{prefix}.conv1', up=r > 4)
            if not is_close(self.scale_of(skips[r], prefix), first.last.after):
                raise Mismatch(f'{prefix}: the skip feature has another gain than '
                               'what it is added to.')
            self.store(f'{prefix}.conv2', second, first.last.after, r)
            value = first.x
            self.store(f'{prefix}.conv1', first,
                       self.scale_of(value, f'{prefix}.conv1'), r)
        return skips, value

    def sum_of(self, name, where):
        """The two operands of an Add: the block's own value, and the skip feature."""
        node = self.graph.producer(name)
        if node is None or node.op_type != 'Add':
            raise Mismatch(f'{where}: {shown_node(node)} should add the skip feature.')
        a, b = (self.graph.strip(x) for x in node.input)
        if b in self.graph.ancestors(a):
            return a, b
        if a in self.graph.ancestors(b):
            return b, a
        raise Mismatch(f'{where}: {shown_node(node)} adds two values of which neither '
                       'is computed from the other; expected the skip feature as one.')

    # The encoder.

    def encoder(self, resolution, value, skips):
        """Reads the encoder.

        Args:
          resolution: R.
          value: what the decoder's first block reads.
          skips: from `decoder`.

        Returns:
          The value that the encoder reads.
        """
        for r in (4 * 2**i for i in range(len(skips))):
            prefix = f'encoder.b{r}'
            second = self.block(value, f'{prefix}.conv2', down=r > 4)
            if self.graph.strip(second.x) != skips[r]:
                raise Mismatch(f'{prefix}.conv2 does not read {skips[r]!r}, the skip '
                                f'feature of {r} x {r}, but {second.x!r}.')
            first = self.block(second.x, f'{prefix}.conv1')
            if first.plane is not None or second.plane is not None:
                raise Mismatch(f'{prefix} has noise, which the architecture has only '
                                'in the decoder.')
            self.store(f'{prefix}.conv2', second, first.last.after, r)
            value = first.x
            self.store(f'{prefix}.conv1', first,
                       self.scale_of(value, f'{prefix}.conv1'), r)
        activated = self.ops.activation(value)
        conv = self.ops.pointwise(activated.x)
        if conv is None or conv.bias is None or conv.kernel.shape[1] != 4:
            raise Mismatch(
                f'{shown_node(self.graph.producer(activated.x))} should be a 1x1 '
                f'convolution of 4 channels, the first layer at {resolution} x '
                f'{resolution}.')
        prefix = f'encoder.b{resolution}.fromrgb'
        self.put(f'{prefix}.weight', conv.kernel, activated.before)
        self.put(f'{prefix}.bias', conv.bias, activated.before)
        return conv.x

    def check_input(self, name, resolution):
        """That the four channels are mask, red, green, blue, as far as a graph says."""
        name = self.graph.strip(name)
        shape = self.graph.inputs.get(name)
        if shape is not None:
            sides = [n for n in shape[2:] if isinstance(n, int) and n]
            if len(shape) != 4 or set(sides) - {resolution}:
                raise Mismatch(f'its input {name!r} has the shape {shape}; expected '
                                f'[N, 4, {resolution}, {resolution}].')
            return
        node = self.graph.producer(name)
        if node is None or node.op_type != 'Concat' or len(node.input) != 2:
            raise Mismatch(
                f'{shown_node(node)} should put mask and picture together, mask first.')
        mask, picture = (self.graph.ancestors(x) & set(self.graph.inputs)
                         for x in node.input)
        if len(mask) != 1 or not picture - mask:
            raise Mismatch(
                f'{shown_node(node)}: its first operand depends on {sorted(mask)}, the '
                f'second on {sorted(picture)}; expected the mask alone, then the '
                'picture. The order of the channels is not that of the architecture.')

    # What is not in the graph, and what is left over.

    def fill_noise(self, resolution):
        """Adds the noise that the graph leaves out, with strength 0."""
        with_noise = [r for r in (4 * 2**i for i in range(20)) if r <= resolution]
        if not any(name.startswith('synthesis.b4.') and name.endswith('.noise_const')
                   for name in self.tensors):
            with_noise.remove(4)
        absent = []
        for r in with_noise:
            for conv in ('conv1', 'conv2'):
                name = f'synthesis.b{r}.{conv}'
                if f'{name}.noise_const' not in self.tensors:
                    absent.append(name)
                    self.tensors[f'{name}.noise_const'] = np.zeros((r, r), np.float32)
                    self.tensors[f'{name}.noise_strength'] = np.zeros((), np.float32)
        if absent:
            self.notes.append(
                f'{len(absent)} layers have no noise in the graph, as of strength 0: '
                f'{listed(absent, 4)}.')

    def check_rest(self, taken):
        """Refuses weights that nothing took; notes the small constants around.

        Args:
          taken: names of the initialisers of the generator.
        """
        left = {name: tensor for name, tensor in self.graph.initialisers.items()
                if name not in taken
                and tensor.data_type in (onnx.TensorProto.FLOAT,
                                         onnx.TensorProto.FLOAT16,
                                         onnx.TensorProto.DOUBLE)
                and np.prod(tensor.dims, dtype=float) > 1}
        described = {
            name: f'{name} {list(tensor.dims)}' for name, tensor in left.items()}
        large = [described[name] for name, tensor in left.items()
                 if np.prod(tensor.dims, dtype=float) >= MANY and (
                     not (kinds := self.graph.consumers([name])) or kinds & LAYERS)]
        if large:
            raise Mismatch(
                f'{len(large)} initialisers are left over, no layer of the generator '
                f'takes them: {listed(large)}. It is another network, or more than '
                'one.')
        if left:
            self.notes.append(
                f'{len(left)} constants belong to what is done before and after the '
                f'generator: {listed(list(described.values()), 6)}.')
