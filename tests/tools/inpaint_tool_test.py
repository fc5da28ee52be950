"""tools/inpaint.py with a model that paints one colour."""

import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from migan_jax import storage
import inpaint as tool
import make_grid

ROOT = pathlib.Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'inpaint.py'
R = 16



def grey(x):
    """Paints level 128."""
    return jnp.zeros((*x.shape[:3], 3))


def never(x):
    raise AssertionError('the model must not run')


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def holed(height, width):
    """A mask whose middle is hole (0)."""
    mask = np.full((height, width), 255, np.uint8)
    mask[height // 3:height // 2, width // 3:width // 2] = 0
    return mask


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def read(path):
    with Image.open(path) as image:
        assert image.format == 'PNG' and image.mode == 'RGB'
        return np.asarray(image)


@pytest.fixture
def folders(tmp_path):
    """images/a.png (20 x 30) with its mask; out does not exist."""
    save(tmp_path / 'images' / 'a.png', picture(20, 30))
    save(tmp_path / 'masks' / 'a.png', holed(20, 30))
    return tmp_path


def run(folder, generate=grey, **options):
    options = {
        'images': folder / 'images', 'masks': folder / 'masks', 'out': folder / 'out',
        'mode': 'resize', **options,
    }
    return tool.run(generate, R, **options)


def refused(folder, **options):
    """The complaint; checks that the model did not run and nothing was written."""
    before = sorted(folder.rglob('*'))
    with pytest.raises(tool.InputError) as caught:
        run(folder, never, **options)
    assert sorted(folder.rglob('*')) == before
    return str(caught.value)


@pytest.mark.parametrize('mode', ['resize', 'pipeline'])
def test_a_folder_of_every_format(tmp_path, mode, capsys):
    for i, name in enumerate(['b.png', 'sub/c.JPG', 'sub/d.Jpeg', 'e.f.webp']):
        save(tmp_path / 'images' / name, picture(21 + i, 34, i))
        save(tmp_path / 'masks' / (name.rsplit('.', 1)[0] + '.png'), holed(21 + i, 34))
    save(tmp_path / 'images' / '._b.png', picture(4, 4))
    (tmp_path / 'images' / 'notes.txt').write_text('not an image')
    written = run(tmp_path, mode=mode)
    names = ['b.png', 'e.f.png', 'sub/c.jpg', 'sub/d.jpg']
    assert written == [tmp_path / 'out' / name for name in names]
    files = [path for path in (tmp_path / 'out').rglob('*') if path.is_file()]
    assert sorted(files) == written
    result, image, mask = read(written[0]), picture(21, 34, 0), holed(21, 34)
    if mode == 'resize':
        np.testing.assert_array_equal(result[mask == 255], image[mask == 255])
        assert (result[mask == 0] == 128).all()
    assert (result[8:9, 13:15] != image[8:9, 13:15]).any()
    np.testing.assert_array_equal(result[:5], image[:5])
    said = capsys.readouterr().err
    assert 'no images are left out: .txt (1)' in said
    assert 'WEBP became PNG: e.f.webp' in said
    assert 'JPEG is lossy' in said and 'c.JPG, d.Jpeg' in said
    assert said.count('\n') == 3


def test_single_files_belong_together(folders):
    image = save(folders / 'photo.jpg', picture(20, 30))
    mask = save(folders / 'other.png', holed(20, 30))
    assert run(folders, images=image, masks=mask) == [folders / 'out' / 'photo.jpg']


def test_one_image_takes_its_mask_from_a_folder(folders, capsys):
    save(folders / 'masks' / 'unused.png', holed(4, 4))
    image = folders / 'images' / 'a.png'
    assert run(folders, images=image) == [folders / 'out' / 'a.png']
    assert capsys.readouterr().err == ''


def test_exif_rotation_of_image_and_mask(tmp_path):
    """Stored lying, shown upright: what counts is the upright picture."""
    upright, mask = picture(40, 24), holed(40, 24)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after turning the stored pixels clockwise
    save(tmp_path / 'images' / 'a.png', np.rot90(upright).copy(), exif=exif)
    save(tmp_path / 'masks' / 'a.png', mask)
    save(tmp_path / 'images' / 'b.png', np.rot90(upright).copy(), exif=exif)
    save(tmp_path / 'masks' / 'b.png', np.rot90(mask).copy(), exif=exif)
    first, second = map(read, run(tmp_path))
    want = np.where(mask[..., None] == 255, upright, 128)
    np.testing.assert_array_equal(first, want)
    np.testing.assert_array_equal(second, want)


def test_invert_mask(folders):
    mask = holed(20, 30)
    plain = read(run(folders)[0])
    save(folders / 'masks' / 'a.png', 255 - mask)
    inverted = read(run(folders, invert_mask=True)[0])
    np.testing.assert_array_equal(plain, inverted)
    assert (plain != picture(20, 30)).any()


@pytest.mark.parametrize('mode', ['L', '1', 'P', 'RGB', 'RGBA', 'I;16'])
def test_masks_of_every_mode(folders, mode):
    mask = holed(20, 30)
    want = read(run(folders)[0])
    if mode == 'I;16':
        image = Image.fromarray(mask.astype(np.uint16) * 257)
        assert image.mode == mode
    else:
        image = Image.fromarray(mask).convert(mode)
    image.save(folders / 'masks' / 'a.png')
    np.testing.assert_array_equal(read(run(folders)[0]), want)


# Warnings.


def test_all_known_copies_the_image_and_warns(folders, capsys):
    save(folders / 'masks' / 'a.png', np.full((20, 30), 255, np.uint8))
    np.testing.assert_array_equal(read(run(folders, never)[0]), picture(20, 30))
    message = capsys.readouterr().err
    assert 'all known' in message and 'pass --invert_mask' in message
    assert 'a.png' in message and message.count('\n') == 1
    save(folders / 'masks' / 'a.png', np.zeros((20, 30), np.uint8))
    run(folders, never, invert_mask=True)
    assert 'drop --invert_mask' in capsys.readouterr().err


def test_all_hole_runs_and_warns(folders, capsys):
    save(folders / 'masks' / 'a.png', np.zeros((20, 30), np.uint8))
    assert (read(run(folders)[0]) == 128).all()
    message = capsys.readouterr().err
    assert 'all hole' in message and 'pass --invert_mask' in message


def test_mostly_hole_mentions_the_polarity(folders, capsys):
    save(folders / 'masks' / 'a.png', 255 - holed(20, 30))
    run(folders)
    message = capsys.readouterr().err
    assert '97% of the masks is hole (white = known' in message
    assert 'pass --invert_mask' in message


def test_mask_without_an_image_is_a_warning(folders, capsys):
    save(folders / 'masks' / 'sub' / 'z.png', holed(9, 9))
    assert run(folders) == [folders / 'out' / 'a.png']
    message = capsys.readouterr().err
    assert 'no image' in message and 'z.png' in message


def test_a_jpeg_mask_is_thresholded_with_a_warning(folders, capsys):
    want = read(run(folders)[0])
    (folders / 'masks' / 'a.png').unlink()
    path = save(folders / 'masks' / 'a.jpg', holed(20, 30), quality=75)
    between = ~np.isin(np.asarray(Image.open(path)), [0, 255])
    assert between.mean() > 0.05  # the few levels off that JPEG leaves are no reason
    np.testing.assert_array_equal(read(run(folders)[0]), want)
    assert f'{between.sum()} pixels' in capsys.readouterr().err


# Errors.


def test_image_without_a_mask(folders):
    for name in ('b.jpg', 'sub/a.png'):
        save(folders / 'images' / name, picture(20, 30))
    message = refused(folders)
    assert 'no mask for' in message and '\n' not in message
    assert 'b.jpg' in message and str(pathlib.Path('sub/a.png')) in message


def test_mask_of_another_size(folders):
    save(folders / 'masks' / 'a.png', holed(30, 20))
    message = refused(folders)
    assert '20 x 30 pixels' in message and '30 x 20' in message and '\n' not in message


def test_two_images_of_one_stem(folders):
    save(folders / 'images' / 'a.webp', picture(20, 30))
    message = refused(folders)
    assert 'a.png and a.webp differ only in their extension' in message


def test_a_photograph_is_no_mask(folders):
    pixels = np.linspace(0, 255, 600).astype(np.uint8).reshape(20, 30)
    save(folders / 'masks' / 'a.png', pixels)
    between = np.count_nonzero((pixels > 0) & (pixels < 255))
    message = refused(folders)
    assert 'not a mask' in message and 'masks' in message
    assert f'{between} pixels ({between / 600:.2%})' in message


def test_a_coloured_mask_is_no_mask(folders):
    red = np.zeros((20, 30, 3), np.uint8)
    red[:10, :, 0] = 255
    save(folders / 'masks' / 'a.png', red)
    assert '300 pixels (50.00%)' in refused(folders)


@pytest.mark.parametrize('kind', ['images', 'masks'])
def test_unreadable_files_are_named(folders, kind):
    path = folders / kind / 'a.png'
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])
    assert str(path) in refused(folders)


def test_a_profile_that_is_none_is_named_before_anything_is_painted(folders):
    path = next(iter(sorted((folders / 'images').iterdir())))
    with Image.open(path) as image:
        image.load()
    image.save(path, icc_profile=b'no profile')
    message = refused(folders)
    assert f'{path}: its colour profile cannot be used' in message
    assert not (folders / 'out').exists()


def test_every_problem_has_its_line(folders):
    save(folders / 'images' / 'b.png', picture(8, 8))
    save(folders / 'masks' / 'b.png', holed(8, 9))
    (folders / 'masks' / 'a.png').write_bytes(b'')
    first, second = refused(folders).splitlines()
    assert 'a.png' in first and 'b.png' in second


@pytest.mark.parametrize(
    'out', ['images', 'images/results', 'masks', 'images/../images'])
def test_out_among_the_inputs(folders, out):
    assert f'--out={folders / out}' in refused(folders, out=folders / out)


def test_out_would_replace_a_single_image(folders):
    image = save(folders / 'photo.png', picture(20, 30))
    mask = save(folders / 'mask.png', holed(20, 30))
    message = refused(folders, images=image, masks=mask, out=folders)
    assert f'a result would replace the input {image}' in message


def test_out_is_a_file(folders):
    (folders / 'out').write_text('')
    assert 'is not a folder' in refused(folders)


def test_missing_and_empty_inputs(folders):
    message = refused(folders, images=folders / 'nowhere')
    assert '--images=' in message and 'no such file or folder' in message
    (folders / 'empty').mkdir()
    message = refused(folders, images=folders / 'empty', masks=folders / 'nowhere')
    assert len(message.splitlines()) == 2
    assert 'no image in this folder (looked for jpg, jpeg, png, webp, ' in message


def test_an_unknown_mode(folders):
    assert 'resize, pipeline, photo' in refused(folders, mode='crop')


def test_a_failed_write_leaves_the_former_result(folders, monkeypatch):
    target, = run(folders)
    former = target.read_bytes()

    def fails(self, data):
        with open(self, 'wb') as file:
            file.write(data[:len(data) // 2])
        raise OSError('disk full')

    monkeypatch.setattr(type(storage.path_of(target)), 'write_bytes', fails)
    with pytest.raises(OSError, match='disk full'):
        run(folders)
    assert target.read_bytes() == former
    assert list(target.parent.iterdir()) == [target]


# Photographs.


def test_large_pictures_are_painted_hole_by_hole(folders):
    image, mask = picture(90, 120), np.full((90, 120), 255, np.uint8)
    mask[10:14, 10:14] = mask[70:75, 100:104] = 0
    save(folders / 'images' / 'a.png', image)
    save(folders / 'masks' / 'a.png', mask)
    result = read(run(folders, mode='', feather=0, grain=False)[0])
    np.testing.assert_array_equal(result[mask == 255], image[mask == 255])
    assert (result[mask == 0] != image[mask == 0]).any(-1).mean() > .9
    plain = read(run(folders, mode='resize')[0])
    assert (plain[mask == 0] == 128).all()


def test_keep_going_does_the_good_ones(folders):
    for name in ('b', 'c'):
        save(folders / 'images' / f'{name}.png', picture(20, 30))
        save(folders / 'masks' / f'{name}.png', holed(20, 30))
    (folders / 'images' / 'b.png').write_bytes(b'broken')
    with pytest.raises(tool.SomeFailed, match='2 pictures were written, 1 were not') as e:
        run(folders, keep_going=True)
    assert 'b.png' in str(e.value)
    assert sorted(p.name for p in (folders / 'out').iterdir()) == ['a.png', 'c.png']
    for path in (folders / 'out').iterdir():
        path.unlink()
    (folders / 'out').rmdir()
    assert 'b.png' in refused(folders)


def test_masks_are_fitted_grown_and_turned(folders, capsys):
    small = holed(10, 15)
    save(folders / 'masks' / 'a.png', small)
    assert 'pass --fit_masks' in refused(folders)
    result = read(run(folders, fit_masks=True)[0])
    hole = np.kron(small, np.ones((2, 2))) == 0
    assert (result[hole] == 128).all()
    np.testing.assert_array_equal(result[~hole], picture(20, 30)[~hole])
    assert 'was scaled' in capsys.readouterr().err
    grown = read(run(folders, fit_masks=True, grow=1)[0])
    assert (grown == 128).all(-1).sum() > hole.sum()


@pytest.mark.parametrize('fit', [False, True])
def test_a_mask_of_other_proportions_is_not_sent_to_fit_masks(folders, fit):
    save(folders / 'masks' / 'a.png', holed(10, 10))
    said = refused(folders, fit_masks=fit)
    assert 'not its proportions either' in said and '--fit_masks' not in said


def test_a_mask_drawn_on_the_stored_pixels_is_turned(folders, capsys):
    upright, mask = picture(40, 24), holed(40, 24)
    exif = Image.Exif()
    exif[0x0112] = 6
    save(folders / 'images' / 'a.png', np.rot90(upright).copy(), exif=exif)
    save(folders / 'masks' / 'a.png', np.rot90(mask).copy())
    result = read(run(folders)[0])
    np.testing.assert_array_equal(
        result, np.where(mask[..., None] == 255, upright, 128))
    assert 'EXIF orientation 6' in capsys.readouterr().err
    # Upside down has the same size: only its maker knows.
    exif[0x0112] = 3
    save(folders / 'images' / 'a.png', upright[::-1, ::-1].copy(), exif=exif)
    save(folders / 'masks' / 'a.png', mask[::-1, ::-1].copy())
    assert not (read(run(folders)[0]) == result).all()
    assert 'pass --stored_masks' in capsys.readouterr().err
    np.testing.assert_array_equal(read(run(folders, stored_masks=True)[0]), result)


def test_soft_masks(folders):
    mask = holed(40, 60)
    ramp = np.minimum(mask, np.roll(np.where(mask == 0, 90, 255), 3, 1).astype(np.uint8))
    ramp[0:12, :] = 200
    save(folders / 'images' / 'a.png', np.full((40, 60, 3), 255, np.uint8))
    save(folders / 'masks' / 'a.png', ramp)
    assert '--soft keeps' in refused(folders)
    result = read(run(folders, mode='', soft=True, grain=False)[0])
    assert (result[ramp == 255] == 255).all()
    assert result[ramp == 0].mean() < result[ramp == 90].mean() + 60


def test_large_pictures_can_be_refused(folders):
    assert 'more than the 100 allowed' in refused(folders, max_pixels=100)


def test_formats_and_depth(folders):
    grey_levels = picture(20, 30)[..., 0]
    save(folders / 'images' / 'a.png', grey_levels)
    target, = run(folders)
    with Image.open(target) as image:
        assert image.mode == 'L'
        kept = holed(20, 30) == 255
        np.testing.assert_array_equal(np.asarray(image)[kept], grey_levels[kept])
    for format, name in (('jpg', 'JPEG'), ('webp', 'WEBP'), ('tiff', 'TIFF')):
        target, = run(folders, format=format)
        with Image.open(target) as image:
            assert image.format == name


def test_squashed_pictures_are_what_sheets_and_evaluations_take(folders):
    save(folders / 'images' / 'sub' / 'b.c.jpg', picture(40, 16))
    save(folders / 'masks' / 'sub' / 'b.c.png', holed(40, 16))
    predictions, masks = folders / 'predictions', folders / 'masks16'
    run(folders, save_predictions=str(predictions), save_masks=str(masks))
    rows = make_grid.load(folders / 'images', masks, {'grey': predictions})
    assert sorted(rows) == ['a', 'sub/b.c']
    for row in rows.values():
        hole = (row['masked'] == 128).all(-1)
        assert 0 < hole.sum() < R * R / 4
        np.testing.assert_array_equal(row['grey'][hole], 128)
    for name in ('a.png', 'sub/b.c.png'):
        assert read(predictions / name).shape == (R, R, 3)
        with Image.open(masks / name) as mask:
            assert set(np.unique(mask)) == {0, 255}
    # Known pixels are the squashed original's, not the sheet's doing.
    np.testing.assert_array_equal(read(predictions / 'a.png'), rows['a']['grey'])


def test_squashed_pictures_stay_out_of_the_inputs(folders):
    assert '--save_masks' in refused(folders, save_masks=str(folders / 'masks'))
    assert '--save_predictions' in refused(
        folders, save_predictions=str(folders / 'images'))


# The command line.

COMMAND = """
import runpy, sys, types
import jax.numpy as jnp
checkpoint = types.ModuleType('migan_jax.checkpoint')
config = types.SimpleNamespace(model=types.SimpleNamespace(resolution=16))
def load_generator_step(checkpoint, step):
    if checkpoint != 'weights':
        raise ValueError(f'{checkpoint}: no checkpoint')
    return config, lambda x: jnp.zeros((*x.shape[:3], 3)), step
checkpoint.load_generator_step = load_generator_step
checkpoint.said = lambda *of: f'{of[0]}, iteration {of[2]}'
import migan_jax
sys.modules['migan_jax.checkpoint'] = migan_jax.checkpoint = checkpoint
tool = sys.argv[1]
sys.argv = sys.argv[1:]
runpy.run_path(tool, run_name='__main__')
"""


def command(folder, *arguments):
    return subprocess.run(
        [sys.executable, '-c', COMMAND, str(TOOL), '--images=images', '--masks=masks',
         '--out=out', *arguments],
        cwd=folder, env={'PYTHONPATH': f'{ROOT}:{TOOL.parent}', 'JAX_PLATFORMS': 'cpu'},
        capture_output=True, text=True, timeout=120,
    )


def test_command_line(folders):
    done = command(folders, '--checkpoint=weights', '--mode=resize', '--noinvert_mask',
                   '--step=7')
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'wrote 1 picture to out (model: weights, iteration 7)\n'
    want = np.where(holed(20, 30)[..., None] == 255, picture(20, 30), 128)
    np.testing.assert_array_equal(read(folders / 'out' / 'a.png'), want)


def test_command_line_errors(folders):
    done = command(folders, '--checkpoint=nothing')
    assert done.returncode == 1 and done.stderr == 'error: nothing: no checkpoint\n'
    (folders / 'masks' / 'a.png').unlink()
    done = command(folders, '--checkpoint=weights')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert done.stderr.startswith('error: --masks=masks: no image in this folder')
    assert not (folders / 'out').exists()
