import io

import numpy as np
import pytest
from PIL import Image

from migan_jax.data import images


def _gradient(height, width):
    """u8[height, width, 3], smooth, so that lossy formats stay close to it."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    planes = 200 * x / width + 20, 200 * y / height + 20, 128 + 0 * x
    return np.stack(planes, -1).astype(np.uint8)


def _save(path, image, **kwargs):
    image.save(path, **kwargs)
    return path


def _check_close(actual, expected, tolerance):
    assert actual.dtype == np.uint8 and actual.shape == expected.shape
    assert np.abs(actual.astype(int) - expected.astype(int)).max() <= tolerance


@pytest.mark.parametrize('suffix, kwargs, tolerance', [
    ('png', {}, 0), ('jpg', {'quality': 95, 'subsampling': 0}, 6),
    ('webp', {'lossless': True}, 0), ('bmp', {}, 0), ('tif', {}, 0), ('ppm', {}, 0)])
def test_formats(tmp_path, suffix, kwargs, tolerance):
    expected = _gradient(20, 30)
    path = _save(tmp_path / f'a.{suffix}', Image.fromarray(expected), **kwargs)
    _check_close(images.decode(path), expected, tolerance)
    with open(path, 'rb') as file:
        _check_close(images.decode(file, 'a'), expected, tolerance)


def test_gray_bilevel_and_gray_alpha(tmp_path):
    gray = _gradient(8, 9)[..., 0]
    path = _save(tmp_path / 'l.png', Image.fromarray(gray))
    _check_close(images.decode(path), np.repeat(gray[..., None], 3, -1), 0)

    bits = (gray > 100).astype(np.uint8) * 255
    path = _save(tmp_path / '1.png', Image.fromarray(bits).convert('1'))
    assert Image.open(path).mode == '1'
    _check_close(images.decode(path), np.repeat(bits[..., None], 3, -1), 0)

    both = np.stack([gray, np.full_like(gray, 255)], -1)
    both[0, 0, 1] = 0
    path = _save(tmp_path / 'la.png', Image.fromarray(both))
    expected = np.repeat(gray[..., None], 3, -1)
    expected[0, 0] = 255
    _check_close(images.decode(path), expected, 0)


def test_16_bit_gray_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 128, 129], [32896, 65535, 300, 40000]], np.uint16)
    path = _save(tmp_path / 'a.png', Image.fromarray(values))
    assert Image.open(path).mode.startswith('I')
    expected = np.round(values / 257).astype(np.uint8)
    _check_close(images.decode(path), np.repeat(expected[..., None], 3, -1), 0)


def test_integers_beyond_16_bits_and_floats_are_refused(tmp_path):
    path = _save(tmp_path / 'i.tif', Image.fromarray(np.array([[70000, 1]], np.int32)))
    with pytest.raises(images.UnreadableImage, match=r'i\.tif.*from 1 to 70000'):
        images.decode(path)
    path = _save(tmp_path / 'f.tif', Image.fromarray(np.ones((2, 2), np.float32)))
    with pytest.raises(images.UnreadableImage, match=r'f\.tif.*floating-point'):
        images.decode(path)


def test_transparency_is_composited_on_white(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = 10, 20, 30, 255
    rgba[0, 1] = 10, 20, 30, 0
    rgba[1, 0] = 0, 0, 0, 128
    rgba[1, 1] = 200, 0, 0, 255
    path = _save(tmp_path / 'rgba.png', Image.fromarray(rgba))
    expected = np.array([[[10, 20, 30], [255] * 3], [[127] * 3, [200, 0, 0]]], np.uint8)
    _check_close(images.decode(path), expected, 0)

    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode='P')
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    expected = np.array(
        [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]], np.uint8)
    _check_close(images.decode(_save(tmp_path / 'p.png', palette)), expected, 0)
    path = _save(tmp_path / 'pt.png', palette, transparency=1)
    expected[:, 1] = 255
    _check_close(images.decode(path), expected, 0)

    rgb = _gradient(4, 5)
    rgb[1, 2] = 1, 2, 3
    path = _save(tmp_path / 'trns.png', Image.fromarray(rgb), transparency=(1, 2, 3))
    rgb[1, 2] = 255
    _check_close(images.decode(path), rgb, 0)


def test_cmyk_jpeg_is_inverted_as_adobe_writes_it(tmp_path):
    cmyk = np.zeros((16, 16, 4), np.uint8)
    cmyk[..., 1] = 200
    path = _save(tmp_path / 'a.jpg', Image.fromarray(cmyk, mode='CMYK'), quality=95)
    expected = np.broadcast_to(np.array([255, 55, 255], np.uint8), (16, 16, 3))
    _check_close(images.decode(path), expected, 4)
    assert b'Adobe' in path.read_bytes()


@pytest.mark.parametrize('suffix, tolerance', [('png', 0), ('jpg', 8)])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation(tmp_path, orientation, suffix, tolerance):
    upright = _gradient(6, 10)
    # How the pixels are stored for each orientation (EXIF 2.3, tag 0x0112).
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _save(tmp_path / f'a.{suffix}', Image.fromarray(np.ascontiguousarray(stored)),
                 exif=exif, quality=95, subsampling=0)
    _check_close(images.decode(path), upright, tolerance)


def test_orientation_after_a_thumbnail(tmp_path):
    upright = _gradient(6, 10)
    exif = Image.Exif()
    exif[0x0112] = 3
    path = _save(tmp_path / 'a.jpg', Image.fromarray(upright[::-1, ::-1].copy()),
                 exif=exif, quality=95, subsampling=0)
    data = path.read_bytes()
    # A segment in which pixels seem to start, as in that of a small JPEG picture.
    path.write_bytes(data[:2] + b'\xff\xed\x00\x06\xff\xda\x00\x02' + data[2:])
    _check_close(images.decode(path), upright, 8)


def test_orientation_in_xmp_data(tmp_path):
    xmp = (b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description '
           b'tiff:Orientation="3"/></rdf:RDF></x:xmpmeta>')
    upright = _gradient(6, 10)
    path = _save(tmp_path / 'a.jpg', Image.fromarray(upright[::-1, ::-1].copy()),
                 xmp=xmp, quality=95, subsampling=0)
    _check_close(images.decode(path), upright, 8)


def test_damaged_exif_leaves_the_pixels(tmp_path):
    image = Image.fromarray(_gradient(8, 8))
    path = _save(tmp_path / 'a.jpg', image, exif=b'Exif\0\0II*\0\xff\xff\xff\x7f')
    assert images.decode(path).shape == (8, 8, 3)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new('RGB', (5, 4), color) for color in ('red', 'blue')]
    for kind in 'webp', 'gif', 'png', 'mpo':  # mpo: a .jpg of some cameras
        path = tmp_path / f'a.{kind}'
        frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
        assert Image.open(path).n_frames == 2
        _check_close(images.decode(path, min_side=1), np.array(frames[0]), 1)


def test_unreadable_names_file_and_reason(tmp_path):
    good = _save(tmp_path / 'good.jpg', Image.fromarray(_gradient(64, 64)))
    cases = {
        'empty.jpg': b'', 'text.png': b'not an image',
        'cut.jpg': good.read_bytes()[:300],
        'eps.jpg': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n',
    }
    for name, data in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(images.UnreadableImage, match=name):
            images.decode(path)
    with pytest.raises(images.UnreadableImage, match='missing.png'):
        images.decode(tmp_path / 'missing.png')
    with pytest.raises(images.UnreadableImage, match='the name'):
        images.decode(io.BytesIO(b'x'), 'the name')


def test_too_many_pixels(tmp_path):
    path = _save(tmp_path / 'a.png', Image.fromarray(_gradient(10, 20)))
    assert images.decode(path, max_pixels=200).shape == (10, 20, 3)
    with pytest.raises(images.UnreadableImage, match=r'a\.png: 20 x 10 .*199'):
        images.decode(path, max_pixels=199)


def test_pillows_own_bomb_error_is_unreadable(tmp_path):
    path = tmp_path / 'bomb.ppm'
    path.write_bytes(b'P6 50000 50000 255\n')
    with pytest.raises(images.UnreadableImage, match=r'bomb\.ppm.*DecompressionBomb'):
        images.decode(path, max_pixels=10**12)


def test_min_side_reduces_only_jpeg_and_stays_long_enough(tmp_path):
    image = Image.fromarray(_gradient(200, 300))
    png = _save(tmp_path / 'a.png', image)
    jpg = _save(tmp_path / 'a.jpg', image, quality=95)
    assert images.decode(png, min_side=10).shape == (200, 300, 3)
    assert images.decode(jpg).shape == (200, 300, 3)
    assert images.decode(jpg, min_side=101).shape == (200, 300, 3)
    assert images.decode(jpg, min_side=100).shape == (100, 150, 3)
    assert images.decode(jpg, min_side=26).shape == (50, 75, 3)
    small = images.squash(images.decode(jpg, min_side=64), 32)
    _check_close(small, images.squash(images.decode(jpg), 32), 6)


@pytest.mark.parametrize('size', [(1, 1), (7, 9), (33, 50), (64, 64), (130, 97)])
@pytest.mark.parametrize('kwargs', [
    {'subsampling': 0}, {'subsampling': 1}, {'subsampling': 2}, {'progressive': True},
    {'restart_marker_blocks': 1}, {'keep_rgb': True}, {'quality': 5}], ids=str)
def test_jpeg_pixels_are_those_of_pillow(tmp_path, size, kwargs):
    draw = np.random.default_rng(0)
    pixels = _gradient(*size) // 2 + draw.integers(0, 128, (*size, 3), np.uint8)
    path = _save(tmp_path / 'a.jpg', Image.fromarray(pixels), **kwargs)
    assert images._plain_jpeg(path, 10**6, 0) is not None
    for min_side in (0, 1, 3, 7, 8, 16, 17, 32, 60):
        with Image.open(path) as image:
            if min_side:
                image.draft(None, (min_side, min_side))
            expected = np.array(image.convert('RGB'))
        np.testing.assert_array_equal(images.decode(path, min_side=min_side), expected)
        np.testing.assert_array_equal(
            images.decode(io.BytesIO(path.read_bytes()), 'a', min_side=min_side), expected)


def test_pillow_decides_on_damaged_and_long_jpeg_files(tmp_path, monkeypatch):
    path = _save(tmp_path / 'a.jpg', Image.fromarray(_gradient(64, 64)), quality=90)
    expected = images.decode(path)
    data = path.read_bytes()
    # Bytes between the segments: a warning of the decoder, the pixels are complete.
    path.write_bytes(data[:-2] + bytes(9) + data[-2:])
    np.testing.assert_array_equal(images.decode(path), expected)
    path.write_bytes(data[:-200])
    with pytest.raises(images.UnreadableImage, match=r'a\.jpg.*truncated'):
        images.decode(path)
    monkeypatch.setattr(images, '_MAX_JPEG_BYTES', len(data) - 1)
    path.write_bytes(data)
    assert images._plain_jpeg(path, 10**6, 0) is None
    np.testing.assert_array_equal(images.decode(path), expected)


def test_squash_is_pillows_bicubic():
    image = _gradient(40, 60)
    expected = np.array(Image.fromarray(image).resize((16, 16), Image.BICUBIC))
    np.testing.assert_array_equal(images.squash(image, 16), expected)
    assert images.resize(image, 5, 7).shape == (5, 7, 3)
    same = images.squash(image[:40, :40], 40)
    np.testing.assert_array_equal(same, image[:40, :40])


def test_center_square():
    image = _gradient(6, 10)
    np.testing.assert_array_equal(images.center_square(image), image[:, 2:8])
    image = _gradient(9, 4)
    np.testing.assert_array_equal(images.center_square(image), image[2:6])


def test_random_square_range_and_coverage():
    y, x = np.mgrid[:40, :60]
    image = np.stack([y, x, 0 * x], -1).astype(np.uint8)
    rng = np.random.default_rng(0)
    squares = [images.random_square(image, 0.5, rng) for _ in range(400)]
    sides = [s.shape[0] for s in squares]
    assert all(s.shape[0] == s.shape[1] for s in squares)
    assert min(sides) == 20 and max(sides) == 40
    # Every border of the image is reached.
    corners = np.array([[s[0, 0, 0], s[0, 0, 1], s[-1, -1, 0], s[-1, -1, 1]]
                        for s in squares])
    assert corners[:, :2].min(0).tolist() == [0, 0]
    assert corners[:, 2:].max(0).tolist() == [39, 59]
    assert images.random_square(image, 1.0, rng).shape == (40, 40, 3)
    assert images.random_square(image[:1, :1], 0.1, rng).shape == (1, 1, 3)
