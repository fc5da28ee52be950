"""Network inputs, compositing, u8 and the two ways to inpaint pictures of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from migan_jax import inpaint
from migan_jax.model import io as model_io

R = 32
PADDING = 8
TEAL = np.array([-0.5, 0.25, 0.5], np.float32)


def teal(x):
    """A model that paints one colour."""
    return jnp.broadcast_to(jnp.asarray(TEAL), (*x.shape[:3], 3))


def mean_fill(x):
    """A model that paints the mean known colour."""
    known = x[..., :1] + 0.5
    total = jnp.sum(x[..., 1:], axis=(1, 2), keepdims=True)
    mean = total / jnp.maximum(jnp.sum(known, axis=(1, 2), keepdims=True), 1)
    return jnp.broadcast_to(mean, (*x.shape[:3], 3))


def never(x):
    raise AssertionError('the model must not run')


class Spy:
    """A model that keeps what it was given."""

    def __call__(self, x):
        self.seen = np.asarray(x)
        return teal(x)


def pipeline(generate, image, mask, **options):
    options = {'padding': PADDING, **options}
    return inpaint.inpaint_pipeline(generate, image, mask, R, **options)


def resize(generate, image, mask):
    return inpaint.inpaint_resize(generate, image, mask, R)


BOTH = pytest.mark.parametrize('method', [pipeline, resize])


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def hole(height, width, top, bottom, left, right):
    mask = np.full((height, width), 255, np.uint8)
    mask[top:bottom, left:right] = 0
    return mask


def near(mask, distance):
    """bool[H, W]: within `distance` pixels (rows and columns) of a hole pixel."""
    result = np.zeros(mask.shape, bool)
    for y, x in np.argwhere(mask != 255):
        rows = slice(max(y - distance, 0), y + distance + 1)
        columns = slice(max(x - distance, 0), x + distance + 1)
        result[rows, columns] = True
    return result


# Arrays for the networks.


@pytest.mark.parametrize('as_array', [np.asarray, jnp.asarray])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_network_inputs_and_composite(as_array, dtype):
    rng = np.random.default_rng(0)
    image = as_array(rng.uniform(-1, 1, (2, 4, 6, 3)).astype(dtype))
    other = as_array(rng.uniform(-1, 1, (2, 4, 6, 3)).astype(dtype))
    mask = as_array((rng.random((2, 4, 6, 1)) < 0.5).astype(dtype))
    known = np.asarray(mask) == 1

    x = model_io.model_input(image, mask)
    assert x.shape == (2, 4, 6, 4) and x.dtype == dtype and type(x) is type(image)
    np.testing.assert_array_equal(x[..., :1], np.where(known, 0.5, -0.5))
    np.testing.assert_array_equal(x[..., 1:], np.where(known, image, 0))

    x = model_io.critic_input(image, mask)
    assert x.shape == (2, 4, 6, 4) and x.dtype == dtype and type(x) is type(image)
    np.testing.assert_array_equal(x[..., :1], np.where(known, 0.5, -0.5))
    np.testing.assert_array_equal(x[..., 1:], image)

    x = model_io.composite(other, image, mask)
    assert x.dtype == dtype and type(x) is type(image)
    np.testing.assert_array_equal(x, np.where(known, image, other))


def test_under_jit():
    image = jnp.linspace(-1, 1, 2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
    mask = jnp.ones((2, 4, 4, 1)).at[:, 1:3].set(0)
    for function, arguments in [
        (model_io.model_input, (image, mask)),
        (model_io.critic_input, (image, mask)),
        (model_io.composite, (-image, image, mask)),
        (model_io.to_uint8, (image,)),
    ]:
        want = function(*map(np.asarray, arguments))
        np.testing.assert_allclose(jax.jit(function)(*arguments), want, atol=1e-6)


@pytest.mark.parametrize('as_array', [np.asarray, jnp.asarray])
def test_uint8_round_trip_and_rounding(as_array):
    levels = np.arange(256, dtype=np.uint8)
    x = model_io.from_uint8(as_array(levels))
    assert x.dtype == np.float32 and x[0] == -1 and x[255] == 1
    back = model_io.to_uint8(x)
    assert back.dtype == np.uint8 and type(back) is type(as_array(levels))
    np.testing.assert_array_equal(back, levels)
    x = np.array([10.49, 10.51, -3, 300], np.float32) / 127.5 - 1
    np.testing.assert_array_equal(model_io.to_uint8(as_array(x)), [10, 11, 0, 255])
    # Level 127.5: half a level rounds up.
    assert model_io.to_uint8(as_array(np.zeros(1, np.float32)))[0] == 128


def test_uint8_of_bfloat16_rounds_once():
    x = jnp.asarray([0.5, 0.30078125, -0.30078125], jnp.bfloat16)
    want = np.floor(np.asarray(x, np.float64) * 127.5 + 128)
    np.testing.assert_array_equal(model_io.to_uint8(x), want)


# Both methods.


@BOTH
def test_all_known_returns_the_image(method):
    image = picture(45, 30)
    mask = np.full((45, 30), 255, np.uint8)
    result = method(never, image, mask)
    np.testing.assert_array_equal(result, image)
    assert result is not image


@BOTH
@pytest.mark.parametrize(
    'size', [(1, 1), (1, 9), (2, 3), (20, 31), (33, 32), (57, 91), (90, 41)])
def test_all_hole(method, size):
    result = method(teal, picture(*size), np.zeros(size, np.uint8))
    assert result.dtype == np.uint8 and result.shape == (*size, 3)
    # The colour is TEAL * 127.5 + 127.5 = 63.75, 159.4, 191.25.
    want = [63, 159, 191] if method is pipeline else [64, 159, 191]
    np.testing.assert_array_equal(result, np.broadcast_to(want, result.shape))


@BOTH
def test_mask_with_a_channel_axis_and_inputs_left_alone(method):
    image, mask = picture(40, 50), hole(40, 50, 5, 15, 8, 20)
    copies = image.copy(), mask.copy()
    plain = method(mean_fill, image, mask)
    np.testing.assert_array_equal(method(mean_fill, image, mask[..., None]), plain)
    np.testing.assert_array_equal(method(mean_fill, image, mask), plain)
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(mask, copies[1])


@BOTH
def test_the_hole_is_hidden_from_the_model(method):
    mask = hole(45, 38, 10, 25, 12, 30)
    spy = Spy()
    method(spy, picture(45, 38), mask)
    assert set(np.unique(spy.seen[..., 0])) == {-0.5, 0.5}
    inside = spy.seen[..., 0] == -0.5
    assert 0.05 < inside.mean() < 0.5
    assert (spy.seen[..., 1:][inside] == 0).all()
    assert (spy.seen[..., 1:][~inside] != 0).mean() > 0.9


@BOTH
def test_any_level_below_255_is_hole(method):
    image, mask = picture(40, 40), hole(40, 40, 10, 20, 10, 20)
    grey = np.where(mask == 0, 254, mask).astype(np.uint8)
    want = method(mean_fill, image, mask)
    np.testing.assert_array_equal(method(mean_fill, image, grey), want)


@BOTH
def test_bad_input(method):
    image, mask = picture(40, 30), hole(40, 30, 5, 9, 5, 9)
    with pytest.raises(ValueError, match=r'image: .* got float32\[40, 30, 3\]'):
        method(never, image.astype(np.float32), mask)
    with pytest.raises(ValueError, match=r'image: .* got uint8\[40, 30, 1\]'):
        method(never, image[..., :1], mask)
    with pytest.raises(ValueError, match=r'H, W >= 1'):
        method(never, image[:0], mask[:0])
    with pytest.raises(ValueError, match=r'mask: .* got uint8\[30, 40\]'):
        method(never, image, mask.T)
    with pytest.raises(ValueError, match=r'mask: .* got bool'):
        method(never, image, mask == 255)
    with pytest.raises(ValueError, match=r'expected an output of shape'):
        method(lambda x: x[:, ::2, ::2, :3], image, mask)
    with pytest.raises(ValueError, match='non-finite'):
        method(lambda x: x[..., :3] * jnp.nan, image, mask)


# inpaint_resize.


def test_resize_keeps_known_bytes_and_paints_every_hole_pixel():
    image, mask = picture(57, 91), hole(57, 91, 20, 21, 3, 80)
    result = resize(teal, image, mask)
    np.testing.assert_array_equal(result[mask == 255], image[mask == 255])
    assert (result[mask == 0] == [64, 159, 191]).all()


def test_resize_at_the_model_resolution_is_exact():
    image, mask = picture(R, R), hole(R, R, 4, 9, 7, 20)
    spy = Spy()
    resize(spy, image, mask)
    known = (mask == 255).astype(np.float32)[None, ..., None]
    want = model_io.model_input(model_io.from_uint8(image)[None], known)
    np.testing.assert_array_equal(spy.seen, want)


def test_resize_squashes_the_picture_bicubic_and_the_mask_nearest():
    image = picture(50, 70)
    mask = np.random.default_rng(1).choice(np.array([0, 255], np.uint8), (50, 70))
    spy = Spy()
    resize(spy, image, mask)
    want = np.asarray(Image.fromarray(image).resize((R, R), Image.Resampling.BICUBIC))
    known = Image.fromarray(mask).resize((R, R), Image.Resampling.NEAREST)
    known = np.asarray(known) == 255
    np.testing.assert_array_equal(spy.seen[0, ..., 0] == 0.5, known)
    np.testing.assert_array_equal(
        model_io.to_uint8(spy.seen[0, ..., 1:])[known], want[known]
    )


def test_resize_back_is_smooth():
    """Bicubic keeps a linear ramp linear away from the border."""

    def ramp(x):
        columns = (jnp.arange(R, dtype=jnp.float32) + 0.5) / R * 2 - 1
        return jnp.broadcast_to(columns[None, None, :, None], (1, R, R, 3))

    size = (40, 8 * R)
    result = resize(ramp, picture(*size), np.zeros(size, np.uint8)).astype(int)
    want = (np.arange(8 * R) + 0.5) / (8 * R) * 255
    inner = slice(24, -24)
    np.testing.assert_allclose(result[20, inner, 0], want[inner], atol=1.5)


# The box.


def box(height, width, *corners):
    return inpaint.hole_box(hole(height, width, *corners) == 255, R, PADDING)


def test_box_is_at_least_the_resolution_and_centred():
    assert box(200, 300, 100, 104, 150, 154) == (86, 118, 136, 168)


def test_box_grows_with_the_hole_and_its_padding():
    # The longer side is 60: 60 + 2 * 8 = 76, square, centred on (70, 150).
    assert box(200, 300, 50, 90, 120, 180) == (32, 108, 112, 188)
    top, bottom, left, right = box(200, 300, 50, 91, 121, 180)
    assert bottom - top == right - left == 59 + 2 * PADDING
    assert top <= 50 - PADDING and left <= 121 - PADDING
    assert bottom >= 91 + PADDING and right >= 180 + PADDING


def test_box_moves_inside_at_the_border():
    assert box(200, 300, 0, 2, 298, 300) == (0, 32, 268, 300)
    assert box(200, 300, 199, 200, 0, 1) == (168, 200, 0, 32)


def test_box_is_cut_where_the_picture_is_smaller():
    assert box(20, 300, 5, 10, 100, 110) == (0, 20, 89, 121)
    assert box(20, 25, 5, 10, 3, 7) == (0, 20, 0, 25)
    assert box(1, 1, 0, 1, 0, 1) == (0, 1, 0, 1)


@pytest.mark.parametrize('seed', range(20))
def test_box_contains_every_hole(seed):
    rng = np.random.default_rng(seed)
    known = np.ones(rng.integers(1, 150, 2), bool)
    for _ in range(rng.integers(1, 4)):
        known[tuple(rng.integers(0, known.shape))] = False
    top, bottom, left, right = inpaint.hole_box(known, R, PADDING)
    outside = known.copy()
    outside[top:bottom, left:right] = True
    assert outside.all()
    side = max(bottom - top, right - left)
    for length, size in zip(known.shape, (bottom - top, right - left)):
        assert size == min(side, length) or size == length


# Resampling.


SIZES = [((7, 5), (13, 9)), ((13, 9), (7, 5)), ((1, 1), (8, 8)), ((31, 40), (32, 32)),
         ((6, 20), (6, 7)), ((64, 64), (32, 32)), ((3, 1), (1, 4))]


@pytest.mark.parametrize('source, target', SIZES)
def test_resize_bilinear_equals_jax(source, target):
    x = np.random.default_rng(0).standard_normal((*source, 3)).astype(np.float32)
    want = jax.image.resize(x, (*target, 3), 'bilinear', antialias=False)
    got = inpaint.resize_bilinear(x, *target)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize('source, target', SIZES)
def test_resizing_equals_torch(source, target):
    torch = pytest.importorskip('torch')
    x = np.random.default_rng(0).standard_normal((*source, 3)).astype(np.float32)
    nchw = torch.from_numpy(x.transpose(2, 0, 1)[None].copy())
    interpolate = torch.nn.functional.interpolate
    want = interpolate(nchw, target, mode='bilinear', align_corners=False)
    want = want[0].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(inpaint.resize_bilinear(x, *target), want, atol=1e-5)
    want = interpolate(nchw, target, mode='nearest')[0].numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(inpaint.resize_nearest(x, *target), want)


def test_resize_nearest_takes_the_floor():
    x = np.arange(5)[:, None, None] * 10 + np.arange(3)[None, :, None]
    rows, columns = [0, 0, 1, 1, 2, 3, 3, 4], [0, 1]
    want = x[rows][:, columns]
    np.testing.assert_array_equal(inpaint.resize_nearest(x, 8, 2), want)


# Blending.


def soften_pixel_by_pixel(known):
    """The definition in float64, one pixel at a time."""
    height, width = known.shape

    def mirrored(i, n):
        while n > 1 and not 0 <= i < n:
            i = -i if i < 0 else 2 * (n - 1) - i
        return i if n > 1 else 0

    grown = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            grown[y, x] = known[max(y - 1, 0):y + 2, max(x - 1, 0):x + 2].max()
    taps = [np.exp(-(((i - 2) / 2) ** 2)) for i in range(5)]
    taps = [t / sum(taps) for t in taps]
    result = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            for i in range(5):
                for j in range(5):
                    result[y, x] += taps[i] * taps[j] * grown[
                        mirrored(y + i - 2, height), mirrored(x + j - 2, width)
                    ]
    return result


@pytest.mark.parametrize('size', [(12, 15), (9, 2), (1, 7), (3, 3), (1, 1)])
def test_soften_pixel_by_pixel(size):
    rng = np.random.default_rng(4)
    for share in (0.02, 0.3, 1.1):
        known = (rng.random(size) < share).astype(np.float32)
        got = inpaint.soften(known[..., None])[..., 0]
        np.testing.assert_allclose(got, soften_pixel_by_pixel(known), atol=1e-6)


@pytest.mark.parametrize('size', [(R, R), (20, 14), (14, 20), (70, 45)])
def test_pipeline_blends_the_painted_colour(size):
    """Every level against the definition; the model's colour needs no resampling."""
    image, mask = picture(*size), hole(*size, 3, 11, 2, 9)
    mask[12, 11] = 0
    known = soften_pixel_by_pixel(mask == 255)[..., None]
    assert 0 < known.min() + 1e-6 and known.min() < 0.3
    levels = known * image + (1 - known) * (TEAL.astype(np.float64) * 127.5 + 127.5)
    # Bounds this tight only allow for the rounding guard in front of truncation.
    result = pipeline(teal, image, mask)
    np.testing.assert_array_less(np.floor(levels) - 0.5, result)
    np.testing.assert_array_less(result, np.floor(levels + 2e-3) + 0.5)


# inpaint_pipeline.


@pytest.mark.parametrize('stretch', [False, True])
@pytest.mark.parametrize('seed', range(12))
def test_pipeline_on_random_sizes(seed, stretch):
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 120, 2))
    image, mask = picture(*size, seed), np.full(size, 255, np.uint8)
    top, left = (rng.integers(0, n) for n in size)
    mask[top:top + rng.integers(1, 30), left:left + rng.integers(1, 30)] = 0
    mask[tuple(rng.integers(0, size))] = 0
    result = pipeline(mean_fill, image, mask, stretch=stretch)
    assert result.shape == image.shape and result.dtype == np.uint8
    top, bottom, left, right = inpaint.hole_box(mask == 255, R, PADDING)
    inside = np.zeros(size, bool)
    inside[top:bottom, left:right] = True
    np.testing.assert_array_equal(result[~inside], image[~inside])
    kept = ~near(mask, 1)
    np.testing.assert_array_equal(result[kept], image[kept])


@pytest.mark.parametrize('size', [(1, 1), (20, 90), (33, 17), (80, 75)])
def test_pipeline_mean_fill_continues_a_plain_picture(size):
    image = np.broadcast_to(np.array([200, 100, 37], np.uint8), (*size, 3)).copy()
    mask = hole(*size, 0, size[0] // 2, 3, 12)
    if size != (1, 1):
        image_with_object = image.copy()
        image_with_object[mask == 0] = 255
        # Bilinear resampling lets the object shine one pixel into its surroundings;
        # at one scale, or where the model sees no object, the fill is exact.
        result = pipeline(mean_fill, image_with_object, mask)
        inner = ~near(255 - mask, 3)
        difference = result[inner].astype(int) - image[inner]
        assert inner.any() and np.abs(difference).max() <= 25
    np.testing.assert_array_equal(pipeline(mean_fill, image, mask), image)


def test_pipeline_paints_a_gradient_where_it_belongs():
    """What the model paints at a place lands at that place of the picture."""

    def ramp(x):
        rows = (jnp.arange(R, dtype=jnp.float32) + 0.5) / R * 2 - 1
        columns = rows[None, None, :, None]
        rows = jnp.broadcast_to(rows[None, :, None, None], (1, R, R, 1))
        columns = jnp.broadcast_to(columns, (1, R, R, 1))
        return jnp.concatenate([rows, columns, rows * 0], axis=-1)

    image, mask = picture(150, 200), hole(150, 200, 60, 100, 90, 150)
    result = pipeline(ramp, image, mask)
    top, bottom, left, right = inpaint.hole_box(mask == 255, R, PADDING)
    assert (top, bottom, left, right) == (42, 118, 82, 158)
    y, x = np.mgrid[64:96, 94:146]
    want = np.stack([(y + 0.5 - top) / 76, (x + 0.5 - left) / 76, 0 * y + 0.5], -1)
    want *= 255
    np.testing.assert_allclose(result[64:96, 94:146], want, atol=1.01)


def test_pipeline_at_one_scale_shows_the_model_the_crop():
    image, mask = picture(90, 100), hole(90, 100, 30, 40, 50, 60)
    spy = Spy()
    pipeline(spy, image, mask)
    top, bottom, left, right = inpaint.hole_box(mask == 255, R, PADDING)
    assert (bottom - top, right - left) == (R, R)
    crop = model_io.from_uint8(image[top:bottom, left:right])
    known = (mask[top:bottom, left:right] == 255).astype(np.float32)[..., None]
    np.testing.assert_allclose(spy.seen[0], model_io.model_input(crop, known), atol=1e-6)


def test_pipeline_does_not_stretch():
    """A square of the picture is a square to the model; a mirrored hole is a hole."""
    image, mask = np.zeros((16, 64, 3), np.uint8), hole(16, 64, 12, 16, 28, 36)
    image[4:8, 20:24] = 255
    spy = Spy()
    pipeline(spy, image, mask)  # box 16 x 32, mirrored to 32 x 32 = R x R
    seen = spy.seen[0]
    # The square and its mirror image.
    assert (seen[..., 1:] == 1).all(axis=-1).sum() == 2 * 16
    np.testing.assert_array_equal(seen[:16], seen[16:][::-1])
    assert (seen[12:20, 12:20, 0] == -0.5).all() and (seen[..., 0] == -0.5).sum() == 64

    pipeline(spy, image, mask, stretch=True)
    seen = spy.seen[0]
    assert (seen[..., 0] == -0.5).sum() == 64
    assert (seen[24:, 12:20, 0] == -0.5).all()
    assert (seen[8:16, 4:8, 1] > -0.5).all()


def test_pipeline_clips_what_the_model_overshoots():
    """Unclipped, an overshoot would burn through the soft edge."""
    image, mask = np.zeros((60, 60, 3), np.uint8), hole(60, 60, 20, 30, 20, 30)
    white = pipeline(lambda x: jnp.ones((*x.shape[:3], 3)), image, mask)
    over = pipeline(lambda x: jnp.full((*x.shape[:3], 3), 3.0), image, mask)
    np.testing.assert_array_equal(over, white)
    assert ((white > 0) & (white < 255)).any()


def test_pipeline_cuts_the_mirrored_part_off():
    """The picture is the upper half of what the model sees, so is its painting."""

    def halves(x):
        top = jnp.arange(R)[None, :, None, None] < R // 2
        return jnp.where(top, jnp.ones((1, R, R, 3)), -jnp.ones((1, R, R, 3)))

    # Box 16 x 32; the rows next to the cut mix with the mirrored part.
    image, mask = picture(16, 64), np.zeros((16, 64), np.uint8)
    mask[:, :28] = mask[:, 36:] = 255
    assert (pipeline(halves, image, mask)[:14, 31:33] == 255).all()


def test_a_hole_of_two_pixels_closes_and_one_of_three_does_not():
    image = picture(60, 60)
    thin, wide = hole(60, 60, 20, 22, 5, 55), hole(60, 60, 20, 23, 5, 55)
    np.testing.assert_array_equal(pipeline(teal, image, thin), image)
    assert (pipeline(teal, image, wide) != image).any()


@pytest.mark.parametrize('size', [(4000, 3000), (3001, 1999)])
def test_pipeline_on_a_large_picture(size):
    image = np.zeros((*size, 3), np.uint8)
    image[::7, ::3] = 200
    mask = hole(*size, 1500, 1700, 900, 1300)
    result = inpaint.inpaint_pipeline(teal, image, mask, R)
    assert (result[1503:1697, 903:1297] == [63, 159, 191]).all()
    changed = (result != image).any(axis=-1)
    assert not changed[:1499].any() and not changed[1701:].any()
    assert not changed[:, :899].any() and not changed[:, 1301:].any()
