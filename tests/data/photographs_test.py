"""What goes in comes out: pictures made here, painted in a corner, written and read again."""

import dataclasses
import functools
import io

import numpy as np
from PIL import Image
from PIL import ImageCms
from PIL import ImageOps
from PIL import PngImagePlugin
import pytest
import tifffile

from migan_jax.data import colour
from migan_jax.data import images
from migan_jax.data import photograph_files
from migan_jax.data import photographs
import profiles

HOLE = np.zeros((24, 32), bool)
HOLE[4:12, 6:20] = True


def smooth(channels=3, top=255, dtype=np.uint8):
    """A picture without edges, which JPEG keeps well."""
    y, x = np.mgrid[:24, :32] / 32
    planes = [.2 + .5 * x, .8 - .6 * y, .3 + .4 * x * y, np.ones_like(x)]
    return np.rint(np.stack(planes[:channels], -1) * top).astype(dtype)


@functools.cache    # It holds the time at which it was made.
def srgb():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def display_p3():
    return profiles.profile('Display P3')


def saved(path, pixels, **options):
    if not isinstance(pixels, Image.Image):
        one = pixels.ndim == 3 and pixels.shape[2] == 1
        pixels = Image.fromarray(pixels[..., 0] if one else pixels)
    pixels.save(path, **options)
    return path


def repainted(path, tmp_path, format='same', quality=None, level=90.25):
    """Paints the hole grey: (what was read, what the new file holds, its path)."""
    before = photographs.read(path)
    how = photograph_files.plan(before, format, quality)
    fill = np.full((*HOLE.shape, 3), level, np.float32)
    out = tmp_path / f'out{how.suffix}'
    photograph_files.write(
        photograph_files.with_painting(before, fill, HOLE), out, how, quality)
    return before, photographs.read(out), out


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
@pytest.mark.parametrize('format', ['png', 'tiff'])
def test_eight_bits_keep_channels_and_bytes(tmp_path, channels, format):
    pixels = smooth(channels)
    if channels == 2:
        pixels[..., 1] = np.arange(32)
    if channels == 4:
        pixels[..., 3] = np.arange(32)[None]
    path = saved(tmp_path / 'a.png', Image.fromarray(
        pixels[..., 0] if channels == 1 else pixels))
    before, after, _ = repainted(path, tmp_path, format)
    assert after.samples.shape == (24, 32, channels)
    np.testing.assert_array_equal(after.samples[~HOLE], before.samples[~HOLE])
    colours = channels - after.has_alpha
    assert np.isin(after.samples[HOLE][:, :colours], (90, 91)).all()
    if after.has_alpha:
        np.testing.assert_array_equal(after.samples[..., -1], before.samples[..., -1])


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
@pytest.mark.parametrize('kind', ['png', 'tif'])
def test_sixteen_bits_stay_sixteen(tmp_path, channels, kind):
    imagecodecs = pytest.importorskip('imagecodecs')
    pixels = np.random.default_rng(0).integers(
        0, 65536, (24, 32, channels), dtype=np.uint16)
    path = tmp_path / f'a.{kind}'
    if kind == 'png':
        path.write_bytes(imagecodecs.png_encode(pixels))
    else:
        tifffile.imwrite(
            path, pixels, photometric='rgb' if channels > 2 else 'minisblack',
            planarconfig='contig' if channels > 1 else None,
            extrasamples=['unassalpha'] if channels in (2, 4) else None)
    before, after, _ = repainted(path, tmp_path)
    np.testing.assert_array_equal(before.samples, pixels)
    assert after.samples.dtype == np.uint16
    np.testing.assert_array_equal(after.samples[~HOLE], pixels[~HOLE])
    painted = after.samples[HOLE][:, :channels - after.has_alpha].astype(float)
    # Between two of the 65536 levels, and so dithered between them.
    assert set(np.unique(painted)) == {23194., 23195.}
    assert abs(painted.mean() - 90.25 * 257) < .2


def test_png_of_sixteen_bits_keeps_what_describes_it(tmp_path):
    imagecodecs = pytest.importorskip('imagecodecs')
    path, plain = tmp_path / 'a.png', tmp_path / 'plain.png'
    info = PngImagePlugin.PngInfo()
    info.add_text('Author', 'somebody')
    saved(plain, smooth(), dpi=(300, 300), icc_profile=display_p3(), pnginfo=info)
    held = photographs.read(plain)
    deep = dataclasses.replace(
        held, samples=smooth(3, 65535, np.uint16))
    photograph_files.write(deep, path, photograph_files.plan(deep))
    assert imagecodecs.png_decode(path.read_bytes()).dtype == np.uint16
    before, after, _ = repainted(path, tmp_path)
    assert after.text == {'Author': 'somebody'}
    assert after.profile == display_p3()
    assert after.dpi == pytest.approx((300, 300), abs=.1)
    np.testing.assert_array_equal(after.samples[~HOLE], before.samples[~HOLE])


def test_floats_stay_floats(tmp_path):
    pixels = (smooth() / 255).astype(np.float32)
    path = tmp_path / 'a.tif'
    tifffile.imwrite(path, pixels, photometric='rgb')
    before, after, _ = repainted(path, tmp_path)
    assert after.samples.dtype == np.float32
    np.testing.assert_array_equal(after.samples[~HOLE], pixels[~HOLE])
    np.testing.assert_allclose(after.samples[HOLE], 90.25 / 255, rtol=1e-6)
    assert before.format == after.format == 'TIFF'


def test_floats_of_other_ranges_are_refused(tmp_path):
    path = tmp_path / 'a.tif'
    tifffile.imwrite(path, np.full((4, 4, 3), 7.5, np.float32), photometric='rgb')
    with pytest.raises(images.UnreadableImage, match='from 7.5 to 7.5; expected 0 to 1'):
        photographs.read(path)


@pytest.mark.parametrize('suffix', ['png', 'tif', 'webp', 'jpg'])
def test_profiles_stay_and_colours_are_those_of_the_profile(tmp_path, suffix):
    options = {'webp': {'lossless': True}, 'jpg': {'quality': 95}}.get(suffix, {})
    path = saved(tmp_path / f'a.{suffix}', smooth(), icc_profile=display_p3(), **options)
    before, after, _ = repainted(path, tmp_path)
    assert after.profile == display_p3()
    assert not colour.is_srgb(after)
    # Grey is grey in both: the fill is converted back, and is what it was in sRGB.
    seen = colour.to_srgb(after)[HOLE].astype(int)
    assert np.abs(np.median(seen, 0) - 90).max() <= 2
    if after.lossless:
        np.testing.assert_array_equal(after.samples[~HOLE], before.samples[~HOLE])


def test_a_saturated_colour_goes_to_the_profile_and_back(tmp_path):
    path = saved(tmp_path / 'a.png', smooth(), icc_profile=display_p3())
    held = photographs.read(path)
    fill = np.zeros((*HOLE.shape, 3), np.float32)
    fill[...] = (200, 60, 40)
    painted = photograph_files.with_painting(held, fill, HOLE)
    # P3's red is stronger than sRGB's: the same colour has a smaller number.
    assert painted.samples[HOLE][0, 0] < 195
    assert np.abs(colour.to_srgb(painted)[HOLE].astype(int) - fill[HOLE]).max() <= 2


def test_an_srgb_profile_changes_nothing(tmp_path):
    path = saved(tmp_path / 'a.png', smooth(), icc_profile=srgb())
    held = photographs.read(path)
    assert colour.is_srgb(held)
    np.testing.assert_array_equal(colour.to_srgb(held), smooth())


def lab_of(photograph):
    """Lab of a photograph, by its profile."""
    image = Image.fromarray(colour.to_srgb(photograph))
    given, lab = ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB')
    return _lab(ImageCms.profileToProfile(image, given, lab, outputMode='LAB'))


def _lab(image):
    levels = np.asarray(image).astype(float)
    signed = levels[..., 1:] - 256 * (levels[..., 1:] > 127)
    return np.concatenate([levels[..., :1] / 2.55, signed], -1)


@pytest.mark.parametrize('space', profiles.SPACES)
@pytest.mark.parametrize('suffix', ['png', 'tif', 'jpg'])
def test_wide_colours_are_the_same_beside_holes(tmp_path, space, suffix):
    """What a viewer shows: Lab by the profile of each file, nothing clipped to sRGB."""
    large = np.asarray(Image.fromarray(smooth()).resize((256, 192)))
    options = {'quality': 92, 'subsampling': 2} if suffix == 'jpg' else {}
    path = saved(tmp_path / f'a.{suffix}', large, icc_profile=profiles.profile(space),
                 **options)
    before = photographs.read(path)
    how, out = photograph_files.plan(before), tmp_path / f'out.{suffix}'
    hole = np.zeros(before.size, bool)
    hole[40:100, 60:150] = True
    fill = np.full((*before.size, 3), (180, 110, 70), np.float32)
    photograph_files.write(photograph_files.with_painting(before, fill, hole), out, how)
    after = photographs.read(out)
    assert after.profile == before.profile == profiles.profile(space)
    assert after.jpeg == before.jpeg and after.format == before.format
    assert not colour.is_srgb(after)
    shown = [lab_by_profile(held) for held in (before, after)]
    difference = np.linalg.norm(shown[0] - shown[1], axis=-1)
    if suffix == 'jpg':
        away = np.ones(before.size, bool)
        away[32:112, 48:160] = False    # Blocks of the hole's own change with it.
        assert difference[away].mean() < .5
    else:
        assert (difference[~hole] == 0).all()
    seen = colour.to_srgb(after)[50:90, 70:140].astype(int)
    assert np.abs(np.median(seen, (0, 1)) - (180, 110, 70)).max() <= 2


def lab_by_profile(photograph):
    """f64[H, W, 3], Lab by the picture's own profile."""
    image = ImageCms.profileToProfile(
        Image.fromarray(photograph.samples), io.BytesIO(photograph.profile),
        ImageCms.createProfile('LAB'), outputMode='LAB')
    return _lab(image)


def test_jpeg_is_written_with_its_own_tables(tmp_path):
    for quality, subsampling, progressive in (
            (60, 2, False), (92, 0, True), (75, 1, False)):
        large = np.asarray(Image.fromarray(smooth()).resize((256, 192)))
        path = saved(tmp_path / 'a.jpg', large, quality=quality,
                     subsampling=subsampling, progressive=progressive, dpi=(300, 300),
                     icc_profile=display_p3())
        before = photographs.read(path)
        how, out = photograph_files.plan(before), tmp_path / 'out.jpg'
        fill = np.full((*HOLE.shape, 3), 90, np.float32)
        photograph_files.write(photograph_files.with_painting(
            before, fill, HOLE, (0, 24, 0, 32)), out, how)
        after = photographs.read(out)
        assert after.format == 'JPEG'
        assert after.jpeg == before.jpeg
        assert after.dpi == (300, 300)
        assert out.stat().st_size < 2 * path.stat().st_size
        away = np.ones(before.size, bool)
        away[:48, :48] = False    # Blocks of the hole's own change with it.
        difference = np.linalg.norm(lab_of(before) - lab_of(after), axis=-1)[away]
        assert difference.mean() < .5


def test_jpeg_keeps_grey(tmp_path):
    path = saved(tmp_path / 'a.jpg', smooth(1), quality=90)
    _, after, _ = repainted(path, tmp_path)
    assert after.samples.shape[2] == 1


def test_quality_is_used(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    path = saved(tmp_path / 'a.png', noise)
    sizes = {}
    for format in ('jpg', 'webp'):
        for quality in (20, 95):
            _, after, out = repainted(path, tmp_path, format, quality)
            assert not after.lossless
            sizes[format, quality] = out.stat().st_size
    assert sizes['jpg', 20] < sizes['jpg', 95] and sizes['webp', 20] < sizes['webp', 95]


def test_no_resolution_is_made_up(tmp_path):
    for suffix in ('tif', 'bmp', 'png', 'jpg', 'webp'):
        options = {'bmp': {'dpi': (0, 0)}, 'webp': {'lossless': True}}.get(suffix, {})
        path = saved(tmp_path / f'a.{suffix}', smooth(), **options)
        before, after, out = repainted(path, tmp_path)
        assert before.dpi is None and after.dpi is None
        assert before.format == after.format
    with Image.open(saved(tmp_path / 'a.tif', smooth())) as image:
        assert image.info['dpi'] == (1, 1)    # Pillow's
    _, _, out = repainted(tmp_path / 'a.tif', tmp_path)
    with tifffile.TiffFile(out) as file:
        assert not {282, 283, 296} & {tag.code for tag in file.pages[0].tags}
    exif = Image.Exif()
    exif[271] = 'maker'
    before, after, out = repainted(
        saved(tmp_path / 'a.jpg', smooth(), exif=exif), tmp_path)
    assert before.dpi is None and after.dpi is None and after.exif
    with Image.open(out) as image:
        assert image.info['dpi'] == (72, 72) and image.info['jfif_unit'] == 0
    exif[282], exif[283], exif[296] = 240., 240., 2
    before, _, _ = repainted(saved(tmp_path / 'a.jpg', smooth(), exif=exif), tmp_path)
    assert before.dpi == (240, 240)
    for suffix in ('tif', 'bmp', 'png', 'jpg'):
        path = saved(tmp_path / f'a.{suffix}', smooth(), dpi=(300, 150))
        _, after, _ = repainted(path, tmp_path)
        assert after.dpi == pytest.approx((300, 150), abs=.1)


def test_exif_comes_back_upright_and_without_a_preview(tmp_path):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[images.EXIF_ORIENTATION] = orientation
        exif[271] = 'maker'
        exif.get_ifd(0x8769)[0x9003] = '2020:01:02 03:04:05'
        exif.get_ifd(0x8825)[1] = 'N'
        path = saved(tmp_path / 'a.png', smooth(), exif=exif)
        with Image.open(path) as image:
            shown = np.array(ImageOps.exif_transpose(image))
        before = photographs.read(path)
        np.testing.assert_array_equal(before.samples, shown)
        assert before.stored_size == (24, 32)
        for format in ('png', 'jpg', 'tiff', 'webp'):
            how = photograph_files.plan(before, format)
            out = tmp_path / f'out{how.suffix}'
            photograph_files.write(before, out, how)
            with Image.open(out) as image:
                kept = image.getexif()
                assert kept.get(images.EXIF_ORIENTATION, 1) == 1
                assert kept[271] == 'maker'
                assert kept.get_ifd(0x8769)[0x9003] == '2020:01:02 03:04:05'
                assert kept.get_ifd(0x8825)[1] == 'N'
            after = photographs.read(out)
            assert after.orientation == 1 and after.size == before.size


def test_previews_are_left_out(tmp_path):
    """They would show what was painted over."""
    path, preview = tmp_path / 'a.jpg', io.BytesIO()
    Image.fromarray(smooth()).save(preview, 'JPEG')
    data = preview.getvalue()
    # Little-endian TIFF: one entry, then a second directory with a JPEG preview.
    first = (b'\x01\0' + b'\x0f\x01\x02\0\x04\0\0\0abc\0' + (26).to_bytes(4, 'little'))
    second = (b'\x02\0' + b'\x01\x02\x04\0\x01\0\0\0' + (56).to_bytes(4, 'little')
              + b'\x02\x02\x04\0\x01\0\0\0' + len(data).to_bytes(4, 'little')
              + bytes(4))
    body = b'II*\0\x08\0\0\0' + first + second
    exif = b'Exif\0\0' + body.ljust(56, b'\0') + data
    saved(path, smooth(), exif=exif)
    assert path.read_bytes().count(b'\xff\xd8\xff') == 2
    _, after, out = repainted(path, tmp_path)
    assert out.read_bytes().count(b'\xff\xd8\xff') == 1
    assert b'abc' in after.exif


def test_text_and_colour_chunks_of_png_stay(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text('Title', 'a picture')
    info.add_itxt('Comment', 'höhe', 'de', 'Kommentar')
    info.add(b'gAMA', (45455).to_bytes(4, 'big'))
    path = saved(tmp_path / 'a.png', smooth(), pnginfo=info)
    before, after, out = repainted(path, tmp_path)
    assert after.text == {'Title': 'a picture', 'Comment': 'höhe'}
    assert after.text['Comment'].lang == 'de'
    assert after.png_colour == ((b'gAMA', (45455).to_bytes(4, 'big')),)


def test_palettes_become_colours_and_keep_transparency(tmp_path):
    image = Image.fromarray(smooth()).quantize(16)
    plain = saved(tmp_path / 'plain.png', image)
    image.info['transparency'] = 0
    path = saved(tmp_path / 'a.png', image, transparency=0)
    _, after, _ = repainted(plain, tmp_path)
    assert after.samples.shape[2] == 3
    before, after, _ = repainted(path, tmp_path)
    assert after.samples.shape[2] == 4
    np.testing.assert_array_equal(after.samples[..., 3], before.samples[..., 3])
    assert set(np.unique(after.samples[..., 3])) == {0, 255}


def test_formats_are_found_by_content(tmp_path):
    for real, options in (('PNG', {}), ('JPEG', {}), ('BMP', {}), ('GIF', {}),
                          ('WEBP', {'lossless': True}), ('AVIF', {})):
        path = saved(tmp_path / 'photo.xyz', smooth(), format=real, **options)
        assert photographs.read(path).format == real


def test_lossy_formats_without_tables_become_png(tmp_path):
    for real in ('AVIF', 'WEBP', 'GIF'):
        path = saved(tmp_path / 'a.bin', smooth(), format=real)
        how = photograph_files.plan(photographs.read(path))
        assert how.format == 'PNG' and how.lossless
        assert f'{real} became PNG' in how.notes


def test_heic(tmp_path):
    pillow_heif = pytest.importorskip('pillow_heif')
    path = tmp_path / 'a.jpg'
    heif = pillow_heif.from_pillow(Image.fromarray(np.kron(
        smooth(), np.ones((4, 4, 1), np.uint8))))
    heif.save(path, quality=90)
    held = photographs.read(path)
    assert held.format == 'HEIC' and held.size == (96, 128)
    assert np.abs(held.samples[::4, ::4].astype(int) - smooth()).mean() < 4
    assert photograph_files.plan(held).format == 'PNG'


def test_cmyk_becomes_rgb_and_says_so(tmp_path):
    path = saved(tmp_path / 'a.jpg', Image.fromarray(smooth()).convert('CMYK'))
    held = photographs.read(path)
    assert held.samples.shape == (24, 32, 3)
    assert 'CMYK became RGB' in photograph_files.plan(held).notes


def test_jpeg_does_not_drop_transparency(tmp_path):
    pixels = smooth(4)
    pixels[0, 0, 3] = 10
    held = photographs.read(saved(tmp_path / 'a.png', pixels))
    with pytest.raises(photograph_files.CannotHold, match='no transparency'):
        photograph_files.plan(held, 'jpg')


def test_lossy_output_is_announced(tmp_path):
    held = photographs.read(saved(tmp_path / 'a.jpg', smooth()))
    how = photograph_files.plan(held)
    assert not how.lossless and 'with the tables of the input' in ' '.join(how.notes)
    assert photograph_files.plan(held, 'png').lossless


@pytest.mark.parametrize('format,quality', [('heic', None), ('jpg', 0), ('jpg', 101)])
def test_unknown_formats_and_qualities_are_refused(tmp_path, format, quality):
    held = photographs.read(saved(tmp_path / 'a.png', smooth()))
    with pytest.raises(ValueError, match='expected'):
        photograph_files.plan(held, format, quality)


def test_damaged_files_are_refused(tmp_path):
    path = saved(tmp_path / 'a.png', smooth())
    path.write_bytes(path.read_bytes()[:120])
    with pytest.raises(images.UnreadableImage, match='a.png: cannot read it'):
        photographs.read(path)
    saved(path, smooth())
    with pytest.raises(images.UnreadableImage, match='more than the 100 allowed'):
        photographs.read(path, max_pixels=100)


def test_transparency_is_seen_on_white(tmp_path):
    pixels = smooth(4)
    pixels[:12, :, 3] = 0
    held = photographs.read(saved(tmp_path / 'a.png', pixels))
    seen = colour.to_srgb(held)
    assert (seen[:12] == 255).all()
    np.testing.assert_array_equal(seen[12:], pixels[12:, :, :3])
