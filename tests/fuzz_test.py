"""Readers of outside files on damaged ones, and the crop logic on drawn pictures.

Every reader either gives what it promises or raises the one kind of error that it
documents.  300 cases each, always the same; with --slow 10,000, drawn anew each time.
What was found has tests of its own, here and in hostile_test.
"""

import io
import itertools
import struct
import zipfile
import zlib

import hypothesis
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import pytest
import safetensors.torch
import torch

from migan_jax.data import images
from migan_jax.data import mask_files
from migan_jax.data import sources
from migan_jax.data import torch_files
from migan_jax import inpaint
from migan_jax.model import io as model_io

# What the fuzzed readers may decode; no seed comes near it.
MAX_PIXELS = 250_000


@pytest.fixture
def fuzz(request):
    """Function (check, strategies...): calls `check` on many draws."""
    slow = request.config.getoption('--slow')

    def run(check, *strategies):
        hypothesis.settings(
            max_examples=10_000 if slow else 300, derandomize=not slow, deadline=None,
            database=None, print_blob=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )(hypothesis.given(*strategies)(check))()

    return run


# Damage.

PLACES = st.integers(0, 2**20)
NUMBERS = st.sampled_from([
    struct.pack(order + kind, value)
    for order in '<>' for kind, bits in (('H', 16), ('I', 32), ('Q', 64))
    for value in (0, 1, 2**(bits - 1) - 1, 2**(bits - 1), 2**bits - 1)])
EDITS = st.lists(st.one_of(
    st.tuples(st.just('flip'), PLACES, st.integers(1, 255)),
    st.tuples(st.just('put'), PLACES, NUMBERS | st.binary(min_size=1, max_size=8)),
    st.tuples(st.just('insert'), PLACES, NUMBERS | st.binary(min_size=1, max_size=40)),
    st.tuples(st.just('drop'), PLACES, st.integers(1, 64)),
    st.tuples(st.just('cut'), PLACES, st.none()),
    st.tuples(st.just('splice'), PLACES,
              st.tuples(PLACES, PLACES, st.integers(1, 200))),
), min_size=1, max_size=5)


def damaged(content, edits, others):
    """`content` after `EDITS`; splices take from `others`, a list of bytes."""
    for kind, place, what in edits:
        place %= len(content) + 1
        if kind == 'flip' and place < len(content):
            middle = bytes([content[place] ^ what])
            content = content[:place] + middle + content[place + 1:]
        elif kind == 'put':
            content = content[:place] + what + content[place + len(what):]
        elif kind == 'insert':
            content = content[:place] + what + content[place:]
        elif kind == 'drop':
            content = content[:place] + content[place + what:]
        elif kind == 'cut':
            content = content[:place]
        elif kind == 'splice':
            other = others[what[0] % len(others)]
            start = what[1] % len(other)
            piece = other[start:start + what[2]]
            content = content[:place] + piece + content[place + len(piece):]
    return content


def files_like(seeds, repair=lambda content: content):
    """Strategy of bytes: a damaged seed, perhaps repaired, or its start and noise."""
    seed = st.sampled_from(seeds)

    def make(content, edits, mend):
        content = damaged(content, edits, seeds)
        return repair(content) if mend else content

    noise = st.builds(lambda content, length, rest: content[:length] + rest, seed,
                      st.integers(0, 40), st.binary(max_size=300))
    return st.builds(make, seed, EDITS, st.booleans()) | noise


def png_repaired(content):
    """A PNG whose checksums fit again, so that damage reaches what they guard."""
    if not content.startswith(b'\x89PNG\r\n\x1a\n'):
        return content
    chunks, place = [content[:8]], 8
    while place + 8 <= len(content):
        (length,) = struct.unpack('>I', content[place:place + 4])
        body = content[place + 4:place + 8 + length]
        chunks += [content[place:place + 4], body, struct.pack('>I', zlib.crc32(body))]
        place += 12 + length
    return b''.join(chunks)


# Images and masks.


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def image_seeds():
    """A small file of every format and mode that Pillow writes here."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
    rgba = rgb.copy()
    rgba.putalpha(Image.fromarray(rng.integers(0, 256, (7, 9), np.uint8)))
    gray, cmyk, palette = rgb.convert('L'), rgb.convert('CMYK'), rgb.quantize(5)
    deep = Image.fromarray(rng.integers(0, 2**16, (7, 9)).astype(np.uint16))
    frames = dict(save_all=True, append_images=[rgb.rotate(90), rgb.rotate(180)])
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [
        encoded(rgb, 'JPEG', exif=exif), encoded(gray, 'JPEG', progressive=True),
        encoded(cmyk, 'JPEG'), encoded(rgb, 'JPEG', subsampling=2, optimize=True),
        encoded(rgb, 'MPO', **frames),
        encoded(rgb, 'PNG', exif=exif, dpi=(72, 72)), encoded(rgba, 'PNG'),
        encoded(gray.convert('1'), 'PNG'), encoded(rgba.convert('LA'), 'PNG'),
        encoded(palette, 'PNG', transparency=2), encoded(deep, 'PNG'),
        encoded(rgb, 'PNG', **frames), encoded(gray, 'PNG', transparency=3),
        encoded(rgb, 'WEBP', exif=exif), encoded(rgba, 'WEBP', lossless=True),
        encoded(rgb, 'WEBP', **frames),
        encoded(rgb, 'BMP'), encoded(rgba, 'BMP'), encoded(palette, 'BMP'),
        encoded(gray.convert('1'), 'BMP'),
        encoded(palette, 'GIF', transparency=1), encoded(rgb, 'GIF', **frames),
        encoded(rgb, 'PPM'), encoded(gray, 'PPM'), encoded(gray.convert('1'), 'PPM'),
        encoded(deep, 'PPM'), b'P3 2 2 255 ' + b'1 2 3 ' * 4, b'P1 3 2 101010',
        encoded(rgb, 'TIFF'), encoded(cmyk, 'TIFF'), encoded(deep, 'TIFF'),
        encoded(gray.convert('F'), 'TIFF'), encoded(gray.convert('I'), 'TIFF'),
        encoded(rgba, 'TIFF'), encoded(palette, 'TIFF'),
    ]
    for compression in 'tiff_lzw', 'tiff_adobe_deflate', 'packbits', 'jpeg':
        files.append(encoded(rgb, 'TIFF', compression=compression))
    files.append(encoded(gray.convert('1'), 'TIFF', compression='group4'))
    return files


IMAGES = image_seeds()


def test_seeds_are_good():
    for content in IMAGES:
        try:
            assert images.decode(io.BytesIO(content), 'a').shape[2] == 3
        except images.UnreadableImage as error:
            assert 'floating-point' in str(error)


def test_image_reader(fuzz):
    def check(content, min_side):
        try:
            pixels = images.decode(io.BytesIO(content), 'a', max_pixels=MAX_PIXELS,
                                   min_side=min_side)
        except images.UnreadableImage as error:
            assert str(error).startswith('a: ') and str(error).isprintable()
        else:
            assert pixels.dtype == np.uint8 and pixels.shape[2:] == (3,)
            assert 0 < pixels.size <= 3 * MAX_PIXELS

    fuzz(check, files_like(IMAGES, png_repaired), st.sampled_from([0, 1, 8]))


def test_mask_reader(fuzz, tmp_path):
    hole = np.full((7, 9), 255, np.uint8)
    hole[2:4, 3:6] = 0
    masks = [Image.fromarray(hole).convert(mode) for mode in ('L', '1', 'P', 'RGBA')]
    masks.append(Image.fromarray(hole.astype(np.uint16) * 257))
    seeds = [encoded(mask, 'PNG') for mask in masks]
    seeds += [encoded(Image.fromarray(hole), kind)
              for kind in ('JPEG', 'WEBP', 'BMP', 'GIF', 'TIFF')]
    path = tmp_path / 'mask.png'
    path.write_bytes(seeds[0])
    np.testing.assert_array_equal(mask_files.read(path)[0], hole == 255)

    def check(content, invert):
        path.write_bytes(content)
        try:
            # Its header, so that nothing of the size of a poster is decoded here.
            images.stored_size(path, max_pixels=MAX_PIXELS)
            known, between = mask_files.read(path, invert)
        except (images.UnreadableImage, mask_files.NotAMask) as error:
            assert str(path) in str(error) and str(error).isprintable()
        else:
            assert known.dtype == bool and known.ndim == 2 and known.size
            assert 0 <= between <= known.size

    fuzz(check, files_like(seeds, png_repaired), st.booleans())


# Zip files.


def zip_of(entries, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', method) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return buffer.getvalue()


def zip_repaired(content):
    """A zip whose directory lies where its end says."""
    end, start = content.rfind(b'PK\x05\x06'), content.find(b'PK\x01\x02')
    if end < 0 or start < 0 or end + 20 > len(content) or start > end:
        return content
    place = struct.pack('<II', end - start, start)
    return content[:end + 12] + place + content[end + 20:]


def test_zip_source(fuzz, tmp_path):
    pictures = {'a.png': IMAGES[6], 'b/c.jpg': IMAGES[0], 'b/ü d.webp': IMAGES[13]}
    seeds = [zip_of({**pictures, 'notes.txt': b'x', '.hidden.png': b''}, method)
             for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED,
                            zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)]
    path = tmp_path / 'a.zip'
    inner = st.builds(
        lambda name, content, method: zip_of({name: content, **pictures}, method),
        st.text(st.characters(codec='utf-8', exclude_characters='\0'), max_size=12).map(
            lambda text: f'{text}.png'),
        files_like(IMAGES[:8]),
        st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))

    def check(content, split):
        path.write_bytes(content)
        try:
            source = sources.open_source(
                'zip', path=str(path), split=split, max_pixels=MAX_PIXELS)
        except ValueError as error:
            assert str(error).startswith('zip ') and str(error).isprintable()
            return
        for i, name in enumerate(source.names):
            assert not name.startswith('/') and '..' not in name.split('/')
            try:
                assert source.read(i).shape[2:] == (3,)
            except images.UnreadableImage as error:
                assert str(path) in str(error) and str(error).isprintable()

    fuzz(check, files_like(seeds, zip_repaired) | inner,
         st.sampled_from(['', '', 'b', '[1:]', '[:50%]']))


# PyTorch and safetensors files.


class Model(torch.nn.Module):
    """Something of every kind that archives hold."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Conv2d(2, 1, 1)
        self.register_buffer('small', torch.ones(2, dtype=torch.float16))
        self.sizes, self.scale, self.name = [1, 2], 2.0, 'x'

    def forward(self, x):
        return self.inner(x) * self.small.float().sum() * self.scale


def torch_seeds():
    tensors = {'a.weight': torch.arange(6.).reshape(2, 3), 'b': torch.tensor(7),
               'c': torch.ones(4, dtype=torch.float16)[::2]}
    seeds = []
    for content, zipped in itertools.product(
            (tensors, {'G_ema': tensors, 'step': 3, 'lr': [0.1, (1, 2)]}),
            (True, False)):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
        seeds.append(buffer.getvalue())
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Model()), buffer)
    seeds.append(buffer.getvalue())
    seeds.append(safetensors.torch.save(tensors | {'c': torch.ones(2).bfloat16()}))
    return seeds


def test_torch_reader(fuzz, tmp_path):
    seeds = torch_seeds()
    path = tmp_path / 'model.pt'
    archives = []   # (name of data.pkl, records) of those that are zip files
    for content in seeds:
        path.write_bytes(content)
        assert torch_files.read_tensors(path)
        if content.startswith(b'PK'):
            with zipfile.ZipFile(path) as file:
                records = {name: file.read(name) for name in file.namelist()}
            name = next(n for n in records if n.endswith('/data.pkl'))
            archives.append((name, records))
    pickles = [records[name] for name, records in archives]

    def with_pickle(archive, edits):
        name, records = archive
        return zip_of({**records, name: damaged(records[name], edits, pickles)})

    def check(content):
        path.write_bytes(content)
        try:
            arrays = torch_files.read_tensors(path)
        except torch_files.TorchFileError as error:
            assert str(path) in str(error) and str(error).isprintable()
        else:
            assert arrays and all(
                isinstance(array, np.ndarray) for array in arrays.values())

    fuzz(check, files_like(seeds, zip_repaired)
         | st.builds(with_pickle, st.sampled_from(archives), EDITS))


# Pictures of any size.

RESOLUTION = 8


@st.composite
def pictures_with_masks(draw):
    """u8[H, W, 3] and u8[H, W], sides from 1, any shape of hole."""
    sides = st.integers(1, 40) | st.sampled_from([1, 2, 3, 64, 150])
    height, width = draw(sides), draw(sides)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    mask = np.full((height, width), 255, np.uint8)
    kind = draw(st.sampled_from(['boxes', 'pixels', 'all', 'none', 'levels']))
    if kind == 'boxes':
        for _ in range(draw(st.integers(1, 3))):
            top = draw(st.integers(0, height - 1))
            left = draw(st.integers(0, width - 1))
            mask[top:top + draw(st.integers(1, height)),
                 left:left + draw(st.integers(1, width))] = 0
    elif kind == 'pixels':
        mask[rng.random(mask.shape) < draw(st.sampled_from([0.01, 0.5, 0.99]))] = 0
    elif kind == 'all':
        mask[:] = 0
    elif kind == 'levels':
        mask = rng.integers(0, 256, mask.shape, np.uint8)
    return image, mask[..., None] if draw(st.booleans()) else mask


def away_from(known, distance):
    """bool[H, W]: whether all pixels so near, and at the border none, are known."""
    hole = ~known
    for axis in 0, 1:
        grown = hole.copy()
        for shift in range(1, distance + 1):
            for moved, still in ((slice(shift, None), slice(None, -shift)),
                                 (slice(None, -shift), slice(shift, None))):
                index = [(slice(None),) * axis + (part,) for part in (moved, still)]
                grown[index[0]] |= hole[index[1]]
        hole = grown
    return ~hole


def test_box_logic(fuzz):
    def check(pair, padding, stretch, level):
        image, mask = pair
        before, known = image.copy(), (mask.reshape(image.shape[:2]) == 255)

        def generate(x):
            return np.full((*x.shape[:3], 3), level, np.float32)

        resized = inpaint.inpaint_resize(generate, image, mask, RESOLUTION)
        result = inpaint.inpaint_pipeline(
            generate, image, mask, RESOLUTION, padding=padding, stretch=stretch)
        np.testing.assert_array_equal(image, before)
        for painted in result, resized:
            assert painted.shape == image.shape and painted.dtype == np.uint8
        np.testing.assert_array_equal(resized[known], image[known])
        assert (resized[~known] == model_io.to_uint8(np.full(1, level, 'f4'))).all()
        if known.all():
            np.testing.assert_array_equal(result, image)
            return
        np.testing.assert_array_equal(
            result[away_from(known, 2)], image[away_from(known, 2)])
        top, bottom, left, right = inpaint.hole_box(known, RESOLUTION, padding)
        height, width = known.shape
        assert 0 <= top < bottom <= height and 0 <= left < right <= width
        outside = known.copy()
        outside[top:bottom, left:right] = True
        assert outside.all()
        # Square, unless the picture is too short for that.
        longest = max(bottom - top, right - left)
        assert bottom - top in (longest, height) and right - left in (longest, width)
        assert longest >= min(RESOLUTION, max(height, width))

    fuzz(check, pictures_with_masks(), st.integers(0, 3) | st.sampled_from([128, 1000]),
         st.booleans(), st.sampled_from([-3e38, -1.0, 0.0, 0.5, 1.0, 3e38]))


def test_pictures_of_other_types_and_shapes(fuzz):
    """The documented ValueError, whatever is handed over."""
    shapes = st.lists(st.integers(0, 5), min_size=0, max_size=4).map(tuple)
    arrays = st.builds(lambda shape, kind: np.ones(shape, kind), shapes,
                       st.sampled_from(['u1', 'i8', 'f4', 'f8', '?']))

    def check(image, mask):
        good = (image.dtype == mask.dtype == np.uint8 and image.ndim == 3
                and image.shape[2] == 3 and image.size
                and mask.shape in (image.shape[:2], (*image.shape[:2], 1)))
        for paint in inpaint.inpaint_resize, inpaint.inpaint_pipeline:
            try:
                result = paint(lambda x: x[..., :3], image, mask, RESOLUTION)
            except ValueError as error:
                assert not good and str(error).startswith(('image: ', 'mask: '))
            else:
                assert good and result.shape == image.shape

    fuzz(check, arrays, arrays)
