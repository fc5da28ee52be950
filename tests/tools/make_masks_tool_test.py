"""tools/make_masks.py."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from migan_jax.data import masks
import make_masks as tool

ROOT = pathlib.Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'make_masks.py'
BRUSH = (2, 8)



def touch(folder, *names):
    """Empty files: the tool does not open images."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def make(images, out, **overrides):
    arguments = dict(resolution=32, hole_range=(0.1, 0.9), brush_width=BRUSH)
    return tool.make_masks(images, out, **(arguments | overrides))


def files(folder):
    return sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


def test_writes_a_mask_per_image(tmp_path):
    images = touch(
        tmp_path / 'images', 'a.jpg', 'b.JPEG', 'sub/a.PNG', 'sub/x.1.webp',
        'notes.txt', '.hidden.png', '.cache/c.png')
    count, share = make(images, tmp_path / 'out')
    assert count == 4
    assert files(tmp_path / 'out') == ['a.png', 'b.png', 'sub/a.png', 'sub/x.1.png']
    shares = []
    for stem in ('a', 'b', 'sub/a', 'sub/x.1'):
        with Image.open(tmp_path / 'out' / f'{stem}.png') as image:
            assert (image.mode, image.size) == ('L', (32, 32))
            pixels = np.asarray(image)
        expected = masks.free_form(
            masks.name_key(0, stem), 32, (0.1, 0.9), brush_width=BRUSH)
        # White (255) = known (1).
        np.testing.assert_array_equal(pixels, 255 * np.asarray(expected)[:, :, 0])
        shares.append(np.mean(pixels == 0))
    assert share == pytest.approx(np.mean(shares))


def test_mask_depends_on_name_and_seed_only(tmp_path):
    few = touch(tmp_path / 'few', 'm.png')
    many = touch(tmp_path / 'many', 'a.png', 'm.jpg', 'z.png')
    make(few, tmp_path / '1')
    make(many, tmp_path / '2')
    make(many, tmp_path / '3', seed=1)
    first, second, third = (
        (tmp_path / out / 'm.png').read_bytes() for out in '123')
    assert first == second != third


def test_replaces_masks_and_leaves_nothing_else(tmp_path):
    images = touch(tmp_path / 'images', 'a.png')
    out = touch(tmp_path / 'out', 'a.png')
    make(images, out)
    assert files(out) == ['a.png']
    assert (out / 'a.png').stat().st_size > 0


def test_a_failed_write_leaves_the_old_mask(tmp_path, monkeypatch):
    path = tmp_path / 'a.png'
    path.write_bytes(b'old')

    def fail(*_):
        raise OSError('disk full')

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(OSError, match='disk full'):
        tool.write_mask(path, np.ones((4, 4, 1), np.float32))
    assert files(tmp_path) == ['a.png']
    assert path.read_bytes() == b'old'


def test_no_images(tmp_path):
    touch(tmp_path, 'notes.txt')
    with pytest.raises(ValueError, match=r'no image in .*webp'):
        make(tmp_path, tmp_path / 'out')
    with pytest.raises(ValueError, match='missing: no such file or folder'):
        make(tmp_path / 'missing', tmp_path / 'out')


def test_two_images_of_one_stem(tmp_path):
    images = touch(tmp_path / 'images', 'sub/a.jpg', 'sub/a.png')
    with pytest.raises(ValueError, match=r'a\.jpg and a\.png differ.*sub/a\.png'):
        make(images, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('out', ['images', 'images/masks', 'images/../images', '.'])
def test_masks_do_not_land_among_images(tmp_path, out):
    # For '.', the mask of images/images/a.png would be images/a.png.
    images = touch(tmp_path / 'images', 'images/a.png')
    with pytest.raises(ValueError, match='choose a place outside.*--overwrite'):
        make(images, tmp_path / out)
    assert files(tmp_path) == ['images/images/a.png']


def test_bad_arguments_write_nothing(tmp_path):
    images = touch(tmp_path / 'images', 'a.png')
    with pytest.raises(ValueError, match='0 <= lo < hi <= 1'):
        make(images, tmp_path / 'out', hole_range=(0.5, 0.2))
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('text', ['1', '0,1,2', 'a,b', '', '0;1'])
def test_pair_refuses(text):
    with pytest.raises(ValueError, match='expected two float numbers'):
        tool.pair(text, float)


def run(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, *arguments], capture_output=True, text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)})


def test_command_line(tmp_path):
    images = touch(tmp_path / 'images', 'a.png', 'b.png')
    done = run(
        f'--images={images}', f'--out={tmp_path / "out"}', '--resolution=32',
        '--hole_range=0.1,0.9', '--brush_width=2,8', '--seed=3')
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('2 masks in ')
    make(images, tmp_path / 'expected', seed=3)
    for name in ('a.png', 'b.png'):
        assert (tmp_path / 'out' / name).read_bytes() == (
            tmp_path / 'expected' / name).read_bytes()


def test_command_line_reports_errors_without_traceback(tmp_path):
    failed = run(
        f'--images={tmp_path}', f'--out={tmp_path / "out"}', '--resolution=32')
    assert failed.returncode == 1
    assert 'no image in' in failed.stderr.splitlines()[-1]
    assert 'Traceback' not in failed.stderr
