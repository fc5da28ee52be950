"""The ONNX pipeline graph against `inpaint.inpaint_pipeline`."""

import functools

import jax
import numpy as np
import onnxruntime
import pytest

from migan_jax.export import onnx_pipeline
from migan_jax import inpaint
from onnx_core_test import random_variables
from onnx_core_test import small_config

R = 32

# All of them are kernels of onnxruntime's CPU provider, which its wasm build shares;
# nothing needs control flow or has an output shape that depends on many values.
OPERATORS = {
    'Add', 'ArgMax', 'Cast', 'Clip', 'Concat', 'Conv', 'Div', 'Expand', 'Flatten',
    'Floor', 'Gather', 'LeakyRelu', 'Less', 'Max', 'MaxPool', 'Min', 'Mod', 'Mul',
    'ReduceMin', 'Relu', 'Reshape', 'Resize', 'Shape', 'Slice', 'Sub'}


@functools.cache
def models():
    """The JAX model and {(padding, upstream_crop): session}, made when asked for."""
    config = small_config(R, ch_max=8)
    generator, variables = random_variables(config)
    generate = jax.jit(lambda x: generator.apply(variables, x, 'const')[0])

    @functools.cache
    def session(padding, upstream_crop):
        model = onnx_pipeline.build_pipeline(
            config, variables, padding=padding, upstream_crop=upstream_crop)
        assert {node.op_type for node in model.graph.node} <= OPERATORS
        return onnxruntime.InferenceSession(
            model.SerializeToString(), providers=['CPUExecutionProvider'])

    return generate, session


def run(image, mask, padding=onnx_pipeline.PADDING, upstream_crop=False):
    """u8[H, W, 3] and u8[H, W] -> u8[H, W, 3]."""
    session = models()[1](padding, upstream_crop)
    assert [value.name for value in session.get_inputs()] == ['image', 'mask']
    result, = session.run(None, {'image': image.transpose(2, 0, 1)[None],
                                 'mask': mask[None, None]})
    assert result.dtype == np.uint8
    return result[0].transpose(1, 2, 0)


def check(image, mask, padding=onnx_pipeline.PADDING, upstream_crop=False):
    """Compares the two pipelines; returns the result."""
    wanted = inpaint.inpaint_pipeline(
        models()[0], image, mask, R, padding=padding, stretch=upstream_crop)
    result = run(image, mask, padding, upstream_crop)
    assert result.shape == wanted.shape
    difference = np.abs(result.astype(int) - wanted.astype(int))
    assert difference.max() <= 1, np.argwhere(difference > 1)[:5]
    if (mask == 255).all():
        outside = np.ones(mask.shape, bool)
    else:
        top, bottom, left, right = inpaint.hole_box(mask == 255, R, padding)
        outside = np.ones(mask.shape, bool)
        outside[top:bottom, left:right] = False
    np.testing.assert_array_equal(result[outside], image[outside])
    return result


def picture(rng, height, width):
    """Smooth and noisy parts, full range of levels."""
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    smooth = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
    noise = rng.integers(0, 256, (height, width, 3), np.uint8)
    return np.where(rng.random((height, width, 1)) < 0.5, smooth, noise)


def random_mask(rng, height, width):
    """A few holes; 255 = known, holes of any smaller level."""
    mask = np.full((height, width), 255, np.uint8)
    for _ in range(rng.integers(1, 4)):
        h = rng.integers(1, max(height // 3, 1) + 1)
        w = rng.integers(1, max(width // 3, 1) + 1)
        top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
        mask[top:top + h, left:left + w] = rng.choice([0, rng.integers(0, 255)])
    return mask


def random_sizes(count):
    rng = np.random.default_rng(5)
    sides = np.exp(rng.uniform(0, np.log(700), (count, 2))).astype(int)
    return [tuple(int(side) for side in size) for size in sides]


SIZES = [(1, 1), (1, 2), (2, 1), (1, 300), (299, 2), (3, 3), (31, 33), (32, 32),
         (287, 288), (288, 300), (4000, 3000), (1080, 1920), *random_sizes(28)]


@pytest.mark.parametrize('height, width', SIZES)
def test_equals_jax(height, width):
    rng = np.random.default_rng(height * 10_000 + width)
    image = picture(rng, height, width)
    check(image, random_mask(rng, height, width))


@pytest.mark.parametrize('height, width', [(40, 40), (97, 60), (20, 90), (7, 1)])
@pytest.mark.parametrize('upstream_crop', [False, True])
def test_small_padding(height, width, upstream_crop):
    """Boxes with room to move, boxes that the picture cuts, in both forms."""
    rng = np.random.default_rng(height)
    image = picture(rng, height, width)
    for _ in range(5):
        check(image, random_mask(rng, height, width), 8, upstream_crop)


def test_stretching_differs_from_mirroring():
    rng = np.random.default_rng(0)
    image, mask = picture(rng, 20, 90), random_mask(rng, 20, 90)
    assert (run(image, mask) != run(image, mask, upstream_crop=True)).any()


@pytest.mark.parametrize('height, width', [(1, 1), (20, 90), (300, 310)])
def test_all_known_returns_the_image(height, width):
    image = picture(np.random.default_rng(0), height, width)
    mask = np.full((height, width), 255, np.uint8)
    np.testing.assert_array_equal(check(image, mask), image)


@pytest.mark.parametrize('height, width', [(1, 1), (20, 90), (300, 310)])
def test_all_hole(height, width):
    image = picture(np.random.default_rng(0), height, width)
    result = check(image, np.zeros((height, width), np.uint8))
    # Nothing of the image is left to see.
    other = 255 - image
    np.testing.assert_array_equal(
        result, check(other, np.zeros((height, width), np.uint8)))


@pytest.mark.parametrize('level', [1, 127, 128, 254])
def test_any_level_below_255_is_hole(level):
    rng = np.random.default_rng(level)
    image = picture(rng, 300, 310)
    mask = np.full((300, 310), 255, np.uint8)
    mask[100:140, 200:290] = level
    black = np.where(mask == 255, mask, 0).astype(np.uint8)
    np.testing.assert_array_equal(check(image, mask), run(image, black))


@pytest.mark.parametrize('size', [(40, 50), (50, 40), (50, 50), (40, 1), (80, 25)])
def test_a_mask_of_another_size_is_refused(size):
    image, mask = np.zeros((50, 41, 3), np.uint8), np.zeros(size, np.uint8)
    with pytest.raises(Exception, match='mask_must_have_the_size_of_the_image'):
        run(image, mask)


def test_metadata():
    config = small_config(R, ch_max=8)
    model = onnx_pipeline.build_pipeline(
        config, random_variables(config)[1], metadata={'mask': '255 = known'})
    assert {p.key: p.value for p in model.metadata_props} == {'mask': '255 = known'}
