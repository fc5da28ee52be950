"""The deployed MI-GAN generator as an ONNX graph, written node by node.

The graph is made for speed in onnxruntime on CPU. On x86 that keeps activations in
blocks of channels (NCHWc) as long as every operator is a convolution, a nearest
resize or an Add of equal shapes; anything else costs two passes of reordering. A
convolution takes one activation that follows it directly along for free, or adds
another value, but not both. Hence:

* The gain sqrt(2) of the activations is in the kernels that read them: every
  activation here is the network's divided by sqrt(2), and the clamp is at
  256 / sqrt(2). Leaky ReLU commutes with positive factors.
* The clamp is a second activation, so it rides on a 1x1 depthwise convolution with
  kernel 1: a pass over memory, a tenth of the graph's time. It is left out where
  interval arithmetic shows that no input in the documented range reaches it, or where
  activations were measured (see `clamps`) and stayed far below it.
* Upsampling is a nearest resize and the depthwise kernel outer([1, 2, 1]) / 16:
  nearest gives n[2i] = n[2i+1] = x[i], so that (n[k-1] + 2 n[k] + n[k+1]) / 4 is
  .75 x[i] + .25 x[i-1] or .75 x[i] + .25 x[i+1], also at the border, where both are
  padded with zeros. That equals zero insertion and the 4x4 FIR filter of gain 4.
* The noise plane times its strength is one constant. A 1x1 convolution copies it to
  all channels, because an Add that broadcasts does not keep the blocks. OpenVINO, which
  takes such an Add along with the convolution before it, is better off with one.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import jax
import ml_collections
import numpy as np
import onnx
from onnx import helper
from onnx import numpy_helper

from migan_jax.model import build
from migan_jax.model import fill
from migan_jax.model import topology
from migan_jax.model.layers import check_resolution
from migan_jax.model.ops import CLAMP
from migan_jax.model.ops import FIR_TAPS
from migan_jax.model.ops import NEGATIVE_SLOPE
from migan_jax.model.ops import SQRT2

# Both are old enough for onnxruntime-web 1.17.
OPSET = 17
IR_VERSION = 8

# After a nearest resize by 2, the FIR upsampling along one axis.
UP_TAPS = (1 / 4, 2 / 4, 1 / 4)

# Every activation in the graph is the network's divided by its gain.
LIMIT = CLAMP / SQRT2

# From which measured activation on its clamp is kept: one that never came near it is
# left out.
KEPT_FROM = CLAMP / 4


class GraphBuilder:
    """Collects nodes and constants; equal constants are stored once.

    Values are named by strings, as in ONNX; a NumPy array given as an input becomes
    a constant.
    """

    def __init__(self) -> None:
        self.nodes = []
        self.value_infos = []
        self._constants = {}
        self._count = 0

    def constant(self, array: np.typing.ArrayLike) -> str:
        """Name of the constant with the value, shape and dtype of `array`."""
        array = np.asarray(array, order='C')
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(
                array, f'constant_{len(self._constants)}')
        return self._constants[key].name

    def op(self, op_type: str, *inputs: str | np.typing.ArrayLike, output: str | None = None,
           shape: Sequence[int | str] | None = None, **attributes: Any) -> str:
        """Adds a node with one output.

        Args:
          op_type: ONNX operator of the default domain.
          *inputs: names, arrays, or '' for an optional input left out.
          output: name of the output; made up by default.
          shape: of the output (numbers and symbols), where onnxruntime cannot infer
            it: what it cannot prove equal it does not fuse.
          **attributes: of the node.

        Returns:
          Name of the output.
        """
        if output is None:
            output = f'{op_type.lower()}_{self._count}'
            self._count += 1
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        self.nodes.append(helper.make_node(
            op_type, names, [output], name=f'make_{output}', **attributes))
        if shape is not None:
            self.value_infos.append(helper.make_tensor_value_info(
                output, onnx.TensorProto.FLOAT, shape))
        return output

    def conv(self, x: str, kernel: np.ndarray, bias: np.ndarray | None = None, *,
             groups: int = 1, stride: int = 1, padding: int = 0) -> str:
        """Convolution.

        Args:
          x: name, [N, ci, H, W].
          kernel: f32[co, ci / groups, kh, kw].
          bias: f32[co].
          groups, stride, padding: the same in both directions.
        """
        inputs = [x, kernel] if bias is None else [x, kernel, bias]
        return self.op('Conv', *inputs, group=groups, kernel_shape=kernel.shape[2:],
                       strides=[stride] * 2, pads=[padding] * 4)

    def model(self, name: str, inputs: Mapping[str, tuple[int, Sequence[int | str]]],
              outputs: Mapping[str, tuple[int, Sequence[int | str]]],
              metadata: Mapping[str, str] | None = None) -> onnx.ModelProto:
        """The finished graph, checked.

        Args:
          name: of the graph.
          inputs, outputs: {name: (ONNX element type, shape)} in order.
          metadata: {str: str} for `metadata_props`.

        Returns:
          onnx.ModelProto.
        """
        values = lambda described: [
            helper.make_tensor_value_info(name, *value)
            for name, value in described.items()]
        graph = helper.make_graph(
            self.nodes, name, values(inputs), values(outputs),
            list(self._constants.values()), value_info=self.value_infos)
        model = helper.make_model(
            graph, producer_name='migan_jax', ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid('', OPSET)])
        helper.set_model_props(model, dict(metadata or {}))
        onnx.checker.check_model(model, full_check=True)
        return model


@dataclasses.dataclass(frozen=True)
class Feature:
    """A value [N, C, H, W] and what is known of it.

    Attributes:
      name: in the graph.
      low, high: f64[C], bounds of its elements for every input in range.
    """
    name: str
    low: np.ndarray
    high: np.ndarray

    @property
    def channels(self) -> int:
        return len(self.low)


class CoreBuilder:
    """The generator's layers on `Feature`s.

    Attributes:
      graph: `GraphBuilder`.
      image: name of the model's input [N, 4, H, W].
      params: of the generator.
      planes: see `topology.noise_planes`.
      resolution: R.
      dynamic_size: H and W are not R but multiples of R / 4.
      one: None, or the name of an int64 [1] that is 1, as N then is.
      largest: None, or {activation: the largest magnitude that was measured}.
      broadcast_noise: see `build_core`.
    """

    def __init__(self, graph: GraphBuilder, image: str, variables: Mapping[str, Any],
                 resolution: int, dynamic_size: bool = False, one: str | None = None,
                 largest: Mapping[str, float] | None = None,
                 broadcast_noise: bool = False) -> None:
        self.graph = graph
        self.image = image
        self.params = variables['params']
        self.planes = topology.noise_planes(variables)
        self.resolution = resolution
        self.dynamic_size = dynamic_size
        self.one = one
        self.largest = largest
        self.broadcast_noise = broadcast_noise
        self._batch = one

    def shape(self, channels: int, resolution: int) -> list[int | str]:
        """Shape of a value where the model's own resolution has `resolution` pixels."""
        batch = 'N' if self.one is None else 1
        if not self.dynamic_size:
            return [batch, channels, resolution, resolution]
        return [batch, channels, f'H*{resolution}/{self.resolution}',
                f'W*{resolution}/{self.resolution}']

    def conv(self, x: Feature, kernel: np.ndarray, bias: np.ndarray | None = None, *,
             groups: int = 1, stride: int = 1, padding: int = 0) -> Feature:
        """`GraphBuilder.conv` with bounds; kernel f[co, ci / groups, kh, kw]."""
        kernel = np.asarray(kernel, np.float32)
        bias = None if bias is None else np.asarray(bias, np.float32)
        name = self.graph.conv(
            x.name, kernel, bias, groups=groups, stride=stride, padding=padding)
        low, high = x.low, x.high
        if padding:
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        taps = kernel.astype(np.float64).reshape(*kernel.shape[:2], -1)
        rising, falling = np.maximum(taps, 0).sum(-1), np.minimum(taps, 0).sum(-1)
        if groups == 1:
            bounds = (rising @ low + falling @ high, rising @ high + falling @ low)
        else:
            bounds = (rising[:, 0] * low + falling[:, 0] * high,
                      rising[:, 0] * high + falling[:, 0] * low)
        offset = 0 if bias is None else bias.astype(np.float64)
        return Feature(name, bounds[0] + offset, bounds[1] + offset)

    def depthwise(self, x: Feature, kernel: np.ndarray, bias: np.ndarray | None = None,
                  **options: int) -> Feature:
        """The same [kh, kw] kernel for all channels, or a kernel [C, 1, kh, kw]."""
        if kernel.ndim == 2:
            kernel = np.broadcast_to(kernel, (x.channels, 1, *kernel.shape))
        return self.conv(x, kernel, bias, groups=x.channels, **options)

    def identity(self, x: Feature) -> Feature:
        """A pass of its own for an activation that no other convolution can take."""
        return self.depthwise(x, np.ones((1, 1)))

    def must_clamp(self, bound: float, name: str) -> bool:
        """Whether an activation may need its clamp.

        Args:
          bound: the largest magnitude possible.
          name: of the activation.
        """
        # Room for rounding between the bounds and the graph's float32.
        if bound < 0.999 * LIMIT:
            return False
        return keeps_clamp(self.largest, name)

    def activate(self, x: Feature, name: str) -> Feature:
        """Leaky ReLU and, where it can bind, the clamp; gain left to the reader.

        Args:
          x: `Feature`.
          name: of the activation, under which its largest magnitude is known.
        """
        self.graph.op('LeakyRelu', x.name, alpha=NEGATIVE_SLOPE, output=name)
        low, high = (np.where(bound >= 0, bound, NEGATIVE_SLOPE * bound)
                     for bound in (x.low, x.high))
        x = Feature(name, low, high)
        if not self.must_clamp(max(-low.min(), high.max()), name):
            return x
        limits = np.float32(-LIMIT), np.float32(LIMIT)
        name = self.graph.op('Clip', self.identity(x).name, *limits)
        return Feature(name, low.clip(-LIMIT, LIMIT), high.clip(-LIMIT, LIMIT))

    def add(self, x: Feature, y: Feature) -> Feature:
        return Feature(
            self.graph.op('Add', x.name, y.name), x.low + y.low, x.high + y.high)

    def up2(self, x: Feature, resolution: int | None = None, *, padding: int = 1) -> Feature:
        """FIR upsampling to `resolution`; see the head of this file.

        With `padding` 0 the outermost pixel is left out on each side.
        """
        name = self.graph.op(
            'Resize', x.name, '', np.array([1, 1, 2, 2], np.float32),
            mode='nearest', coordinate_transformation_mode='asymmetric',
            nearest_mode='floor',
            shape=resolution and self.shape(x.channels, resolution))
        return self.depthwise(Feature(name, x.low, x.high),
                              np.outer(UP_TAPS, UP_TAPS), padding=padding)

    def down2(self, x: Feature) -> Feature:
        """FIR downsampling."""
        return self.depthwise(x, np.outer(FIR_TAPS, FIR_TAPS), stride=2, padding=1)

    def noise(self, plane: np.ndarray) -> Feature:
        """A noise plane for every sample: f32[r, r] -> Feature [N, 1, h, w].

        With a dynamic size the plane is repeated from its upper left corner on, and
        cut: at R x R that is the plane itself.
        """
        resolution = len(plane)
        graph = self.graph
        low, high = (np.array([bound], np.float64)
                     for bound in (plane.min(), plane.max()))
        name = graph.constant(plane[None, None].astype(np.float32))
        sides = np.array([resolution] * 2)
        if self.dynamic_size:
            sides = graph.op('Div', graph.op('Shape', self.image, start=2),
                             np.array([self.resolution // resolution] * 2))
            # One period more than the whole ones that fit: enough to cut from.
            repeats = graph.op(
                'Add', graph.op('Div', sides, np.array([resolution] * 2)),
                np.array([1, 1]))
            name = graph.op(
                'Tile', name, graph.op('Concat', np.array([1, 1]), repeats, axis=0))
            name = graph.op('Slice', name, np.array([0, 0]), sides, np.array([2, 3]))
        if self._batch is None:
            self._batch = graph.op('Shape', self.image, start=0, end=1)
        # What follows depends on a value that only the run gives.  Else onnxruntime
        # would compute it when it loads the model, and keep [C, H, W] for each plane.
        name = graph.op(
            'Expand', name,
            graph.op('Concat', self._batch, np.array([1]), sides, axis=0),
            shape=self.shape(1, resolution))
        return Feature(name, low, high)

    def add_noise(self, x: Feature, plane: np.ndarray) -> Feature:
        """x + plane, and an activation may follow directly."""
        if self.broadcast_noise:
            plane = plane[None, None].astype(np.float32)
            return Feature(self.graph.op('Add', x.name, plane),
                           x.low + plane.min(), x.high + plane.max())
        ones = np.ones((x.channels, 1, 1, 1))
        # In this order it is the copying convolution that adds x, in x's memory.
        return self.identity(self.add(self.conv(self.noise(plane), ones), x))

    def fromrgb(self, x: Feature, layer: topology.Layer) -> Feature:
        params = layer.of(self.params)
        return self.activate(self.conv(
            x, oihw(params['pointwise']['kernel']), params['bias']), str(layer))

    def block(self, x: Feature, layer: topology.Layer) -> Feature:
        """`layers.ConvBlock`."""
        params, name = layer.of(self.params), str(layer)
        plane = self.planes.get(name)
        gained = lambda kernel: SQRT2 * oihw(params[kernel]['kernel'])
        if 'depthwise' not in params:
            return self.dense_block(x, gained('conv'), params['bias'], plane, layer)
        x = self.depthwise(x, gained('depthwise'), params['bias'], padding=1)
        x = self.activate(x, f'{name}.depthwise')
        if layer.down:
            x = self.down2(x)
        x = self.conv(x, gained('pointwise'))
        if layer.up:
            x = self.up2(x, layer.resolution)
        if plane is not None:
            x = self.add_noise(x, plane)
        return self.activate(x, name)

    def dense_block(self, x: Feature, kernel: np.ndarray, bias: np.ndarray,
                    plane: np.ndarray | None, layer: topology.Layer) -> Feature:
        """3x3 convolution of all channels; see `ops.conv3x3_resampled`."""
        padding, stride = 1, 1
        if layer.up:
            # One pixel beyond each border, which the convolution then uses up.
            name = self.graph.op('Pad', x.name, np.array([0, 0, 1, 1] * 2))
            x = Feature(name, np.minimum(x.low, 0), np.maximum(x.high, 0))
            x = self.up2(x, padding=0)
            kernel, padding = kernel[:, :, ::-1, ::-1], 0
        elif layer.down:
            x = self.depthwise(x, np.outer(FIR_TAPS, FIR_TAPS), padding=2)
            padding, stride = 0, 2
        x = self.conv(x, kernel, bias, stride=stride, padding=padding)
        if plane is not None:
            x = self.add_noise(x, plane)
        return self.activate(x, str(layer))

    def torgb(self, x: Feature, layer: topology.Layer) -> Feature:
        params = layer.of(self.params)
        kernel = SQRT2 * oihw(params['pointwise']['kernel'])
        return self.conv(x, kernel, params['bias'])


def keeps_clamp(largest: Mapping[str, float] | None, name: str) -> bool:
    """Whether an activation keeps its clamp.

    Args:
      largest: {activation: the largest magnitude that was measured}; None keeps all.
      name: of the activation.
    """
    # Written so that NaN is clamped.
    return largest is None or not largest[name] < KEPT_FROM


def oihw(kernel: np.typing.ArrayLike) -> np.ndarray:
    """HWIO -> OIHW."""
    return np.asarray(kernel).transpose(3, 2, 0, 1)


def check_finite(variables: Mapping[str, Any]) -> None:
    """Raises ValueError, with their names, if parameters are NaN or infinite."""
    damaged = [
        jax.tree_util.keystr(path, simple=True, separator='/')
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
        if not np.isfinite(leaf).all()]
    if damaged:
        raise ValueError(
            f'{len(damaged)} parameters are not finite: {", ".join(damaged[:8])}: the '
            'checkpoint is damaged or its training diverged; export an earlier one.')


def add_core(graph: GraphBuilder, image: str, config: ml_collections.ConfigDict,
             variables: Mapping[str, Any], *, dynamic_size: bool = False,
             one: str | None = None, largest: Mapping[str, float] | None = None,
             broadcast_noise: bool = False) -> str:
    """Adds the generator to a graph.

    Args:
      graph: `GraphBuilder`.
      image: name of an f32 [N, 4, R, R] value, [mask - 0.5, image * mask].
      config, variables, dynamic_size, largest, broadcast_noise: see `build_core`.
      one: where N is known to be 1, the name of an int64 [1] that is 1 but comes from
        the graph's inputs, so that nothing is computed when the model is loaded.

    Returns:
      Name of the f32 [N, 3, R, R] result.
    """
    resolution = config.model.resolution
    check_resolution(resolution)
    check_finite(variables)
    start, passes = None, build.fill_passes(config)
    if passes is not None:
        image, start = add_starting_fill(graph, image, resolution, passes)
    builder = CoreBuilder(
        graph, image, variables, resolution, dynamic_size, one, largest,
        broadcast_noise)
    high = np.array([0.5, 1, 1, 1])
    painted = topology.walk(builder, Feature(image, -high, high), resolution).name
    return painted if start is None else graph.op('Add', painted, start)


def add_starting_fill(graph: GraphBuilder, x: str, resolution: int,
                      passes: int) -> tuple[str, str]:
    """Adds `fill.starting_fill` to a graph.

    Args:
      graph: `GraphBuilder`.
      x: name of an f32 [N, 4, H, W] value, [mask - 0.5, image * mask].
      resolution: R; H and W are R or, with a dynamic size, multiples of R / 4.
      passes: see `fill.starting_fill`.

    Returns:
      Names of x with filled holes and of the f32 [N, 3, H, W] fill.
    """
    constant = lambda value: np.array(value, np.float32)
    part = lambda x, first, end: graph.op(
        'Slice', x, np.array([first]), np.array([end]), np.array([1]))
    known, colour = (lambda x: part(x, 0, 1)), (lambda x: part(x, 1, 4))

    def filled(level, coarse):
        unknown, seen = graph.op('Sub', constant(1), known(level)), colour(level)
        fit = lambda x: graph.op('Add', seen, graph.op('Mul', unknown, x))
        x = fit(coarse)
        for _ in range(passes):
            around = graph.op('Pad', x, np.array([0, 0, 1, 1, 0, 0, 1, 1]), mode='edge')
            x = fit(graph.conv(around, cross, groups=3))
        return x

    # The mean of the four neighbours, each colour by itself.
    cross = np.zeros((3, 1, 3, 3), np.float32)
    cross[:, 0, [0, 2, 1, 1], [1, 1, 0, 2]] = 0.25
    level = graph.op('Add', x, constant([0.5, 0, 0, 0]).reshape(1, 4, 1, 1))
    levels = [level]
    for _ in range((resolution // fill.LOWEST).bit_length() - 1):
        sums = graph.conv(level, np.ones((4, 1, 2, 2), np.float32), groups=4, stride=2)
        count = known(sums)
        level = graph.op(
            'Concat', graph.op('Min', count, constant(1)),
            graph.op('Div', colour(sums), graph.op('Max', count, constant(1))), axis=1)
        levels.append(level)
    mean = graph.op('ReduceMean', level, axes=[2, 3])
    coarse = filled(level, graph.op('Div', colour(mean), graph.op(
        'Max', known(mean), constant(fill.SMALLEST_SHARE))))
    for level in reversed(levels[:-1]):
        coarse = filled(level, graph.op(
            'Resize', coarse, '', constant([1, 1, 2, 2]), mode='linear',
            coordinate_transformation_mode='half_pixel'))
    return graph.op('Concat', known(x), coarse, axis=1), coarse


def build_core(config: ml_collections.ConfigDict, variables: Mapping[str, Any], *,
               dynamic_size: bool = False, largest: Mapping[str, float] | None = None,
               metadata: Mapping[str, str] | None = None,
               broadcast_noise: bool = False) -> onnx.ModelProto:
    """The generator as an ONNX model.

    Input `input`, f32 [N, 4, R, R]: [mask - 0.5, image * mask], mask first, 1 = known
    and 0 = hole, image RGB in [-1, 1]. Outside these ranges the clamps of the first
    layers may be missing. Output `output`, f32 [N, 3, R, R], about [-1, 1], neither
    clipped nor composited. Noise is the stored planes.

    Args:
      config: ConfigDict of the checkpoint; `config.model.resolution` is R.
      variables: {'params', 'noise'} of the deployed generator, as
        `checkpoint.load_deployed` returns them.
      dynamic_size: H and W are any multiples of R / 4. The noise planes, which belong
        to R x R, are repeated beyond and cut below it.
      largest: None, for the network's function whatever the picture; or
        `clamps.measure`'s numbers, to leave out the clamps at +-256 where activations
        stayed below `KEPT_FROM`.  The result is then the network's for pictures
        that drive no activation beyond 256 there, which nothing checks at run time.
      metadata: {str: str} for the file's `metadata_props`.
      broadcast_noise: noise planes are added as they are, which suits OpenVINO and
        costs onnxruntime a tenth; not with `dynamic_size`.

    Returns:
      onnx.ModelProto.

    Raises:
      ValueError: the resolution is no power of two from 16, a parameter is not finite,
        or `broadcast_noise` with `dynamic_size`.
    """
    if dynamic_size and broadcast_noise:
        raise ValueError('broadcast_noise adds planes of R x R: leave out dynamic_size.')
    graph = GraphBuilder()
    result = add_core(graph, 'input', config, variables, dynamic_size=dynamic_size,
                      largest=largest, broadcast_noise=broadcast_noise)
    for node in graph.nodes:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == result:
                    names[i] = 'output'
    resolution = config.model.resolution
    sides = ['H', 'W'] if dynamic_size else [resolution] * 2
    float32 = onnx.TensorProto.FLOAT
    return graph.model(
        'migan', {'input': (float32, ['N', 4, *sides])},
        {'output': (float32, ['N', 3, *sides])}, metadata)
