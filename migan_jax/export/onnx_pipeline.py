"""`inpaint.inpaint_pipeline` as one ONNX graph: u8 pictures of any size in and out.

Only operators that onnxruntime-web runs on wasm, no control flow and nothing whose
output shape depends on values other than the hole's box.  Positions are integers
throughout, so that the crop and its nearest and bilinear sampling are exact for any
size; only the painted square is enlarged by a Resize.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
import onnx

from migan_jax.export import onnx_core

PADDING = 128

# The two axes of a picture [N, C, H, W].
ROWS, COLUMNS = 2, 3


def _scalar(value):
    """An int64 [1], which is what Slice and Concat want of a position."""
    return np.array([value], np.int64)


class _PipelineBuilder:
    """The steps of the pipeline; positions are names of int64 [1] values."""

    def __init__(self, resolution, padding):
        self.graph = onnx_core.GraphBuilder()
        self.resolution = resolution
        self.padding = padding

    def op(self, op_type, *inputs, **attributes):
        return self.graph.op(op_type, *inputs, **attributes)

    def cast(self, x, to):
        return self.op('Cast', x, to=to)

    def length(self, x, axis):
        return self.op('Shape', x, start=axis, end=axis + 1)

    def checked(self, image, mask):
        """The mask; running the graph fails where its size is not the image's.

        Concat does that: it is the only operator of every runtime that refuses other sizes.
        Without it, a mask of another size would paint elsewhere.
        """
        both = self.op('Concat', image, mask, axis=1,
                       output='mask_must_have_the_size_of_the_image')
        return self.op('Slice', both, _scalar(3), _scalar(4), _scalar(1))

    def hole_span(self, mask, axis):
        """Start and end (exclusive) of the hole along one axis.

        The whole axis if all is known, which costs a run of the model and changes
        nothing.
        """
        # 255 = known: a line with a smaller level in it has a hole.
        level = self.op('ReduceMin', mask, axes=[ROWS + COLUMNS - axis], keepdims=0)
        level = self.cast(self.op('Flatten', level, axis=1), onnx.TensorProto.INT32)
        hole = self.cast(self.op('Less', level, np.array(255, np.int32)),
                         onnx.TensorProto.INT32)
        first, last = (
            self.op('Reshape', self.op('ArgMax', hole, axis=1, keepdims=0,
                                       select_last_index=last), _scalar(1))
            for last in (0, 1))
        return first, self.op('Add', last, _scalar(1))

    def hole_box(self, mask):
        """`inpaint.hole_box`: [(start, end)] for rows and columns, int64 [1] each."""
        spans = [self.hole_span(mask, axis) for axis in (ROWS, COLUMNS)]
        longest = self.op('Max', *(self.op('Sub', end, start) for start, end in spans))
        side = self.op('Max', self.op('Add', longest, _scalar(2 * self.padding)),
                       _scalar(self.resolution))
        half = self.op('Div', side, _scalar(2))
        box = []
        for axis, (start, end) in zip((ROWS, COLUMNS), spans):
            length = self.length(mask, axis)
            centre = self.op('Div', self.op('Add', start, end), _scalar(2))
            room = self.op('Max', self.op('Sub', length, side), _scalar(0))
            first = self.op('Max', self.op('Sub', centre, half), _scalar(0))
            first = self.op('Min', first, room)
            box.append((first, self.op('Min', self.op('Add', first, side), length)))
        return box

    def crop(self, x, box):
        starts, ends = (self.op('Concat', *bounds, axis=0) for bounds in zip(*box))
        return self.op('Slice', x, starts, ends, np.array([ROWS, COLUMNS]))

    def paste(self, x, patch, box):
        """x [1, C, H, W] with `patch` in the box."""
        (top, bottom), (left, right) = box
        cut = lambda x, start, end, axis: self.op(
            'Slice', x, start, end, _scalar(axis))
        end = _scalar(np.iinfo(np.int64).max)
        beside = cut(x, top, bottom, ROWS)
        middle = self.op(
            'Concat', cut(beside, _scalar(0), left, COLUMNS), patch,
            cut(beside, right, end, COLUMNS), axis=COLUMNS)
        return self.op(
            'Concat', cut(x, _scalar(0), top, ROWS), middle, cut(x, bottom, end, ROWS),
            axis=ROWS, output='result')

    def mirror(self, index, length, first):
        """Positions in the picture of positions in the mirrored box.

        Beyond `length`, the box's own side, they run back and forth.
        """
        period = self.op('Mul', length, _scalar(2))
        index = self.op('Mod', index, period)
        back = self.op('Sub', self.op('Sub', period, _scalar(1)), index)
        return self.op('Add', self.op('Min', index, back), first)

    def nearest(self, side, length, first):
        """Where `inpaint.resize_nearest` to R samples a mirrored box of `side`."""
        places = np.arange(self.resolution, dtype=np.int64)
        index = self.op('Div', self.op('Mul', places, side), _scalar(self.resolution))
        return self.mirror(index, length, first)

    def bilinear(self, side, length, first, axis):
        """Where `inpaint.resize_bilinear` to R samples a mirrored box of `side`.

        Returns:
          low, high: names of int64 [R], the two neighbours.
          share: name of the weight of `high`, f32, broadcast along the other axes.
        """
        # The position (i + .5) side / R - .5 in units of 1 / (2 R).
        unit = _scalar(2 * self.resolution)
        last = self.op('Sub', side, _scalar(1))
        position = self.op(
            'Sub', self.op('Mul', 2 * np.arange(self.resolution, dtype=np.int64) + 1,
                           side), _scalar(self.resolution))
        position = self.op('Min', self.op('Max', position, _scalar(0)),
                           self.op('Mul', last, unit))
        low = self.op('Div', position, unit)
        high = self.op('Min', self.op('Add', low, _scalar(1)), last)
        rest = self.op('Sub', position, self.op('Mul', low, unit))
        share = self.op('Div', self.cast(rest, onnx.TensorProto.FLOAT),
                        np.array(2 * self.resolution, np.float32))
        shape = np.ones(4, np.int64)
        shape[axis] = self.resolution
        return (self.mirror(low, length, first), self.mirror(high, length, first),
                self.op('Reshape', share, shape))

    def mix(self, low, high, share):
        """low (1 - share) + high share."""
        return self.op('Add', self.op('Mul', low, self.op('Sub', np.float32(1), share)),
                       self.op('Mul', high, share))

    def seen(self, image, mask, box, sides):
        """The model's input, f32 [1, 4, R, R], from the box mirrored to `sides`."""
        geometry = [(side, self.op('Sub', end, start), start)
                    for side, (start, end) in zip(sides, box)]
        rows, columns = (self.bilinear(*place, axis)
                         for place, axis in zip(geometry, (ROWS, COLUMNS)))
        # Rows first: picking columns costs a copy per pixel.
        upper, lower = (
            self.cast(self.op('Gather', image, index, axis=ROWS),
                      onnx.TensorProto.FLOAT)
            for index in rows[:2])
        picture = self.mix(upper, lower, rows[2])
        left, right = (
            self.op('Gather', picture, index, axis=COLUMNS) for index in columns[:2])
        picture = self.mix(left, right, columns[2])
        picture = self.op(
            'Sub', self.op('Div', picture, np.float32(127.5)), np.float32(1))
        known = mask
        for place, axis in zip(geometry, (ROWS, COLUMNS)):
            known = self.op('Gather', known, self.nearest(*place), axis=axis)
        known = self.known(known)
        return self.op('Concat', self.op('Sub', known, np.float32(0.5)),
                       self.op('Mul', picture, known), axis=1)

    def known(self, mask):
        """u8 levels -> f32: 255 is 1 = known, all below is 0 = hole."""
        level = self.cast(mask, onnx.TensorProto.FLOAT)
        return self.op('Relu', self.op('Sub', level, np.float32(254)))

    def soften(self, known):
        """`inpaint.soften` of f32 [1, 1, h, w]."""
        grown = self.op('MaxPool', known, kernel_shape=[3, 3], pads=[1] * 4)
        hole = self.op('Sub', np.float32(1), grown)
        taps = np.exp(-np.square((np.arange(5) - 2) / 2))
        taps = (taps / taps.sum()).astype(np.float32)
        for axis in (ROWS, COLUMNS):
            hole = self.reflect_pad(hole, axis)
            shape = [1, 1, 1, 1]
            shape[axis] = 5
            hole = self.graph.conv(hole, taps.reshape(shape))
        return self.op('Clip', self.op('Sub', np.float32(1), hole), np.float32(0),
                       np.float32(1))

    def reflect_pad(self, x, axis):
        """Two pixels on each side, mirrored about the outermost one.

        Not Pad, which refuses a picture of one or two pixels.
        """
        last = self.op('Sub', self.length(x, axis), _scalar(1))
        period = self.op('Max', self.op('Mul', last, _scalar(2)), _scalar(1))

        def mirrored(offsets):
            index = self.op('Mod', offsets, period)
            index = self.op('Min', index, self.op('Sub', period, index))
            return self.op('Gather', x, index, axis=axis)

        before = mirrored(np.array([-2, -1]))
        after = mirrored(self.op('Add', last, np.array([1, 2])))
        return self.op('Concat', before, x, after, axis=axis)

    def enlarge(self, painted, sides, box):
        """f32 [1, 3, R, R] -> f32 [1, 3, h, w], the box's part of `sides`."""
        sizes = self.op('Concat', _scalar(1), _scalar(3), *sides, axis=0)
        painted = self.op('Resize', painted, '', '', sizes, mode='linear',
                          coordinate_transformation_mode='half_pixel')
        lengths = [self.op('Sub', end, start) for start, end in box]
        return self.op(
            'Slice', painted, np.array([0, 0]), self.op('Concat', *lengths, axis=0),
            np.array([ROWS, COLUMNS]))

    def blend(self, painted, picture, known):
        """u8 levels of the box; `picture` u8, `known` f32 in [0, 1]."""
        painted = self.op('Clip', painted, np.float32(-1), np.float32(1))
        painted = self.op('Add', self.op('Mul', painted, np.float32(127.5)),
                          np.float32(127.5))
        picture = self.cast(picture, onnx.TensorProto.FLOAT)
        levels = self.mix(painted, picture, known)
        # Rounding noise of a blend that should hit a level must not cost that level.
        levels = self.op('Clip', self.op('Add', levels, np.float32(1e-3)),
                         np.float32(0), np.float32(255))
        return self.cast(self.op('Floor', levels), onnx.TensorProto.UINT8)


def build_pipeline(config: ml_collections.ConfigDict, variables: Mapping[str, Any], *,
                   upstream_crop: bool = False, largest: Mapping[str, float] | None = None,
                   metadata: Mapping[str, str] | None = None,
                   padding: int = PADDING) -> onnx.ModelProto:
    """The generator with crop, resize and blending as an ONNX model.

    Computes what `inpaint.inpaint_pipeline` does, within one level: outside the box
    around the hole every byte is kept, and an all-known mask returns the image.

    Inputs in this order: `image` u8 [1, 3, H, W] RGB and `mask` u8 [1, 1, H, W],
    255 = known, any smaller level = hole.  Output: `result` u8 [1, 3, H, W].  H and W
    are any size from 1 x 1, those of the mask the image's: else running it fails.

    Args:
      config: ConfigDict of the checkpoint; `config.model.resolution` is R.
      variables: {'params', 'noise'} of the deployed generator.
      upstream_crop: squeeze a box that the picture cuts to an oblong into R x R, as
        the published pipeline does, instead of mirroring it to a square.
      largest: see `onnx_core.build_core`.
      metadata: {str: str} for the file's `metadata_props`.
      padding: pixels of context around the hole.

    Returns:
      onnx.ModelProto.

    Raises:
      ValueError: the resolution is no power of two from 16, or a parameter is not
        finite.
    """
    builder = _PipelineBuilder(config.model.resolution, padding)
    mask = builder.checked('image', 'mask')
    box = builder.hole_box(mask)
    lengths = [builder.op('Sub', end, start) for start, end in box]
    longer = builder.op('Max', *lengths)
    sides = lengths if upstream_crop else [longer, longer]
    seen = builder.seen('image', mask, box, sides)
    one = builder.op('Min', builder.length('image', ROWS), _scalar(1))
    painted = onnx_core.add_core(builder.graph, seen, config, variables, one=one,
                                 largest=largest)
    painted = builder.enlarge(painted, sides, box)
    known = builder.soften(builder.known(builder.crop(mask, box)))
    levels = builder.blend(painted, builder.crop('image', box), known)
    result = builder.paste('image', levels, box)
    uint8 = onnx.TensorProto.UINT8
    return builder.graph.model(
        'migan_pipeline',
        {'image': (uint8, [1, 3, 'H', 'W']), 'mask': (uint8, [1, 1, 'H', 'W'])},
        {result: (uint8, [1, 3, 'H', 'W'])}, metadata)
