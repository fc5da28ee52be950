"""Masks as people make them, made here, and how each is understood."""

import numpy as np
from PIL import Image
import pytest

from migan_jax.data import drawn_masks
from migan_jax.data import mask_files

HOLE = np.zeros((20, 30), bool)
HOLE[5:12, 8:20] = True


def saved(path, pixels, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def rgba(colour, alpha):
    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[..., :3] = colour
    pixels[..., 3] = alpha
    return pixels


def photograph():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize('invert', [False, True])
def test_zero_and_one(tmp_path, invert):
    path = saved(tmp_path / 'm.png', (~HOLE ^ invert).astype(np.uint8))
    drawn = drawn_masks.read(path, invert)
    np.testing.assert_array_equal(drawn.levels, np.where(HOLE, 0, 255))
    assert 'levels 0 and 1' in drawn.note


def test_plain_masks_need_no_word(tmp_path):
    path = saved(tmp_path / 'm.png', np.where(HOLE, 0, 255).astype(np.uint8))
    assert drawn_masks.read(path).note == ''
    assert (drawn_masks.read(path).levels == np.where(HOLE, 0, 255)).all()


@pytest.mark.parametrize('colour', [(255, 255, 255), (0, 0, 0), (255, 0, 0)])
@pytest.mark.parametrize('invert', [False, True])
def test_strokes_on_a_transparent_layer_are_the_hole(tmp_path, colour, invert):
    path = saved(tmp_path / 'm.png', rgba(colour, np.where(HOLE, 255, 0)))
    drawn = drawn_masks.read(path, invert)
    np.testing.assert_array_equal(drawn.levels == 0, HOLE)
    assert 'strokes' in drawn.note
    known, between = mask_files.read(path, invert)
    np.testing.assert_array_equal(known, ~HOLE)
    assert between == 0


def test_cut_out_photographs_have_their_hole_where_nothing_is(tmp_path):
    path = saved(tmp_path / 'm.png', rgba(photograph(), np.where(HOLE, 0, 255)))
    drawn = drawn_masks.read(path)
    np.testing.assert_array_equal(drawn.levels == 0, HOLE)
    assert 'cut out' in drawn.note


def test_black_and_white_with_an_opaque_layer_is_plain(tmp_path):
    pixels = rgba(np.where(HOLE, 0, 255)[..., None], 255)
    drawn = drawn_masks.read(saved(tmp_path / 'm.png', pixels))
    assert drawn.note == '' and ((drawn.levels == 0) == HOLE).all()


def test_palettes_of_labels_are_refused(tmp_path):
    image = Image.fromarray(HOLE.astype(np.uint8)).convert('P')
    image.putpalette([0, 0, 0, 128, 0, 0])
    with pytest.raises(drawn_masks.NotAMask, match='a palette of 2 colours: labels'):
        drawn_masks.read(saved(tmp_path / 'm.png', image))
    image.putpalette([255, 255, 255, 0, 0, 0])
    drawn = drawn_masks.read(saved(tmp_path / 'm.png', image))
    np.testing.assert_array_equal(drawn.levels == 0, HOLE)


def test_levels_of_labels_are_refused(tmp_path):
    labels = HOLE.astype(np.uint8)
    labels[0, 0] = 7
    with pytest.raises(drawn_masks.NotAMask, match='levels 0 to 7 are labels'):
        drawn_masks.read(saved(tmp_path / 'm.png', labels))


def test_orientation_is_applied_and_told(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / 'm.png', np.where(HOLE, 0, 255).astype(np.uint8), exif=exif)
    drawn = drawn_masks.read(path)
    assert drawn.orientation == 6
    np.testing.assert_array_equal(drawn.levels == 0, np.rot90(HOLE, -1))


@pytest.mark.parametrize('scale', [.5, 2, 4])
def test_masks_of_other_sizes_are_fitted(scale):
    levels = np.where(HOLE, 0, 255).astype(np.uint8)
    size = (int(20 * scale), int(30 * scale))
    fitted = drawn_masks.fitted(levels, size)
    assert fitted.shape == size and set(np.unique(fitted)) == {0, 255}
    assert abs((fitted == 0).mean() - HOLE.mean()) < .02
    with pytest.raises(ValueError, match='not the same proportions'):
        drawn_masks.fitted(levels, (size[0], size[1] * 2))


def test_holes_grow_in_every_direction():
    levels = np.full((30, 30), 255, np.uint8)
    levels[15, 15] = 0
    y, x = np.mgrid[:30, :30] - 15
    grown = drawn_masks.grown(levels, 3)
    np.testing.assert_array_equal(grown == 0, np.hypot(y, x) <= 3)
    np.testing.assert_array_equal(drawn_masks.grown(levels, 0), levels)


def names_of(pairs):
    return [(image.name, mask.name) for _, image, mask in pairs]


def test_suffixes(tmp_path):
    mask = np.where(HOLE, 0, 255).astype(np.uint8)
    for folder in ('images', 'masks'):
        (tmp_path / folder).mkdir()
    for name in ('a.png', 'b.png'):
        saved(tmp_path / 'images' / name, photograph())
    for name in ('a_mask.png', 'b_mask001.png'):
        saved(tmp_path / 'masks' / name, mask)
    pairs, unused = mask_files.match(tmp_path / 'images', tmp_path / 'masks')
    assert names_of(pairs) == [('a.png', 'a_mask.png'), ('b.png', 'b_mask001.png')]
    assert unused == []


def test_masks_beside_their_images(tmp_path):
    saved(tmp_path / 'a.jpg', photograph())
    saved(tmp_path / 'a_mask.png', np.where(HOLE, 0, 255).astype(np.uint8))
    pairs, unused = mask_files.match(tmp_path, tmp_path)
    assert names_of(pairs) == [('a.jpg', 'a_mask.png')] and unused == []


def test_one_mask_for_a_folder(tmp_path):
    (tmp_path / 'images').mkdir()
    for name in ('a.png', 'b.png'):
        saved(tmp_path / 'images' / name, photograph())
    mask = saved(tmp_path / 'm.png', np.where(HOLE, 0, 255).astype(np.uint8))
    pairs, _ = mask_files.match(tmp_path / 'images', mask)
    assert names_of(pairs) == [('a.png', 'm.png'), ('b.png', 'm.png')]


def test_composed_and_decomposed_names_are_one(tmp_path):
    for folder in ('images', 'masks'):
        (tmp_path / folder).mkdir()
    saved(tmp_path / 'images' / 'gr\u00fcn.png', photograph())
    saved(tmp_path / 'masks' / 'gru\u0308n.png', np.zeros((20, 30), np.uint8))
    pairs, unused = mask_files.match(tmp_path / 'images', tmp_path / 'masks')
    assert [stem for stem, *_ in pairs] == ['gr\u00fcn'] and unused == []


def test_previews_are_left_out(tmp_path):
    for folder in ('images', 'images/@eaDir', 'images/__MACOSX', 'images/.thumbnails'):
        (tmp_path / folder).mkdir(exist_ok=True)
        saved(tmp_path / folder / 'a.png', photograph())
    mask = saved(tmp_path / 'm.png', np.zeros((20, 30), np.uint8))
    pairs, _ = mask_files.match(tmp_path / 'images', mask)
    assert len(pairs) == 1
