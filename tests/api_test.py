"""The Python API: loading, inpainting whatever is handed over, export, evaluation."""

import contextlib
import json
import pathlib
import subprocess
import sys
import warnings

import jax
import numpy as np
from PIL import Image
import pytest

import golden
import inpaint as inpaint_tool
import migan_jax
from migan_jax import checkpoint as checkpoint_lib
from migan_jax.data import colour
from migan_jax.data import images as image_files
from migan_jax.data import masks as masks_lib
from migan_jax.data import photographs
from migan_jax.data import pictures as pictures_lib
from migan_jax import inpaint
from migan_jax.model import build
from migan_jax.model import io as model_io
from migan_jax.weights import importing
import profiles
from tiny import tiny_config
import evaluate as tool

ROOT = pathlib.Path(__file__).parents[1]

R = 16


def drawn_variables(config):
    """Variables of a deployed generator, by NumPy: nothing is compiled."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        scale = max(np.prod(leaf.shape[:-1], dtype=int), 1) ** -0.5
        return rng.normal(0, scale, leaf.shape).astype(leaf.dtype)

    return jax.tree.map(draw, build.abstract_variables(config, fused=True))


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    """A checkpoint directory with a deployed 16 x 16 MI-GAN of random weights."""
    folder = tmp_path_factory.mktemp('model') / 'deployed'
    config = tiny_config(1)
    checkpoint_lib.save_deployed(str(folder), config, drawn_variables(config))
    return str(folder)


@pytest.fixture(scope='module')
def model(directory):
    return migan_jax.load(directory)


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    """A published state dict, 32 x 32, as a file."""
    path = tmp_path_factory.mktemp('published') / 'migan.pt'
    return golden.save_state(path, golden.published_state())


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def with_info(pixels, **info):
    """A PIL image with more than pixels."""
    image = Image.fromarray(pixels)
    image.info.update(info)
    return image


def known(height, width):
    """bool[H, W], True = known; a hole of a ninth of the area."""
    mask = np.ones((height, width), bool)
    mask[height // 3:2 * height // 3, width // 3:2 * width // 3] = False
    return mask


def expected(model, image, mask, mode='resize'):
    """What the library's own functions give with the checkpoint as tools load it."""
    _, generate = checkpoint_lib.load_generator(model.source)
    paint = {'resize': inpaint.inpaint_resize, 'pipeline': inpaint.inpaint_pipeline}
    return paint[mode](generate, image, np.where(mask, 255, 0).astype(np.uint8), R)


def assert_close(result, want):
    """Equal within one level: batches of other sizes round differently."""
    assert result.dtype == want.dtype == np.uint8 and result.shape == want.shape
    assert np.abs(result.astype(int) - want).max() <= 1


@contextlib.contextmanager
def compilations():
    """A list that gets one entry for each program compiled in the body."""
    found = []

    def listen(event, *_, **__):
        if event == '/jax/core/compile/backend_compile_duration':
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


# Importing.


def test_importing_is_cheap():
    """Nothing large before it is needed; TensorFlow and PyTorch not for inpainting."""
    code = '''
import json, sys
heavy = {'jax', 'flax', 'numpy', 'tensorflow', 'torch', 'onnx', 'onnxruntime'}
import migan_jax
first = sorted(heavy & set(sys.modules))
assert {'load', 'evaluate', 'masks'} <= set(dir(migan_jax))
load, measure, draw = migan_jax.load, migan_jax.evaluate, migan_jax.masks.free_form
from migan_jax import evaluation, masks
print(json.dumps([first, sorted(heavy & set(sys.modules)),
                  callable(measure), masks.free_form is draw]))
'''
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT,
                            capture_output=True, text=True, check=True)
    first, later, function, same = json.loads(result.stdout)
    assert first == [] and function and same
    assert later == ['flax', 'jax', 'numpy']


def test_help_imports_nothing_large():
    """What costs seconds is imported once the flags are known to be right."""
    code = '''
import runpy, sys
sys.argv = ['migan', 'inpaint', '--help']
try:
    runpy.run_module('migan_jax', run_name='__main__')
except SystemExit as end:
    assert not end.code
heavy = {'jax', 'flax', 'scipy', 'orbax', 'tensorflow', 'torch', 'onnx', 'onnxruntime'}
print('imported:', sorted(heavy & set(sys.modules)))
'''
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT,
                            capture_output=True, text=True, check=True)
    assert '--checkpoint=' in result.stdout
    assert result.stdout.splitlines()[-1] == 'imported: []'


def test_unknown_names_are_no_attributes():
    with pytest.raises(AttributeError, match='lode'):
        migan_jax.lode('runs/mine')


# Loading.


def test_a_directory_and_a_file_of_published_weights(model, published):
    assert (model.resolution, model.step) == (R, 0)
    assert 'MI-GAN, 16 x 16' in repr(model)
    loaded = migan_jax.load(published)
    assert (loaded.resolution, loaded.step) == (32, None)
    # The network in that file is the published one.
    arrays = golden.load('generator_inference')
    x = golden.nhwc(arrays['in/x'])
    got = jax.jit(lambda v: loaded.generator.apply(v, x, 'const')[0])(loaded.variables)
    assert golden.relative_error(got, golden.nhwc(arrays['out/image'])) < 1e-4
    image, mask = picture(40, 50), known(40, 50)
    result = loaded.inpaint(image, mask, mode='resize')
    assert (result[mask] == image[mask]).all() and (result[~mask] != image[~mask]).any()


def test_a_comodgan_paints_the_same_alone_and_in_company(tmp_path):
    config = tiny_config(1, 'comodgan')
    variables = drawn_variables(config)
    # Its layers divide by a hundred.
    variables['params']['mapping'] = jax.tree.map(
        lambda x: 100 * x, variables['params']['mapping'])
    checkpoint_lib.save_deployed(str(tmp_path / 'm'), config, variables)
    model = migan_jax.load(tmp_path / 'm')
    images = [picture(16, 16, i) for i in range(2)]
    masks = [known(16, 16)] * 2
    alone = [model.inpaint(i, m) for i, m in zip(images, masks)]
    for one, want in zip(model.inpaint(images, masks), alone):
        assert_close(one, want)
    assert (model.inpaint(images[0], masks[0], seed=1) != alone[0]).any()


@pytest.mark.parametrize('name, content, message', [
    ('absent', None, 'no such file or folder'),
    ('migan.tflite', b'x', 'an exported graph'),
    ('migan.onnx', b'x', 'no ONNX file'),
    ('places2-1024', None, 'one of the names demo, places2-512'),
    ('page.pt', b'<html>', 'no PyTorch or safetensors file'),
])
def test_what_is_no_model_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        migan_jax.load(path)
    assert str(path) in str(caught.value)


def test_an_address_that_is_none():
    with pytest.raises(ValueError, match='hf://name: expected hf://owner/name'):
        migan_jax.load('hf://name')


def test_saved_and_loaded_again(model, tmp_path):
    folder = model.save(tmp_path / 'mine', data='photographs', licence='CC0-1.0',
                        metrics={'psnr': 20.5})
    assert 'photographs' in (folder / 'README.md').read_text()
    again = migan_jax.load(folder)
    assert again.step == model.step and again.resolution == model.resolution
    image, mask = picture(20, 30), known(20, 30)
    np.testing.assert_array_equal(
        again.inpaint(image, mask), model.inpaint(image, mask))
    with pytest.raises(ValueError, match='holds a saved model'):
        model.save(tmp_path / 'mine')
    # What was known of it stays known, unless it is said anew.
    assert again.card.data == 'photographs'
    kept = again.save(tmp_path / 'kept', remarks='Soft.')
    text = (kept / 'README.md').read_text()
    for words in ('# kept', 'photographs', 'CC0-1.0', '| psnr | 20.5 |', 'Soft.'):
        assert words in text


def test_places_on_a_bucket_that_are_refused(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = 'gs://bucket/there'
    for refused in (lambda: model.save(there), lambda: model.export(f'{there}/a.onnx'),
                    lambda: migan_jax.evaluate(model, there),
                    lambda: migan_jax.evaluate(model, [], parts=there),
                    lambda: importing.convert(f'{there}/a.pt')):
        with pytest.raises(ValueError, match='=gs://bucket/.*: expected a path on a disk'):
            refused()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory(tmp_path):
    with pytest.raises(ValueError, match='config.json'):
        migan_jax.load(tmp_path)


def test_a_missing_package_is_named_with_its_extra(
        model, published, monkeypatch, tmp_path):
    for name in [n for n in sys.modules if n.startswith('migan_jax.export')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, 'migan_jax.data.torch_files', raising=False)
    monkeypatch.delattr(migan_jax.data, 'torch_files', raising=False)
    monkeypatch.setitem(sys.modules, 'torch', None)
    # An attribute of the package would be found without importing.
    monkeypatch.delattr(migan_jax, 'export', raising=False)
    for call in (lambda: migan_jax.load(published),
                 lambda: model.export(tmp_path / 'migan_traced.pt',
                                      format='torchscript')):
        with pytest.raises(
                ImportError, match=r"torch.*pip install 'migan_jax\[export\]'"):
            call()
    assert model.export(tmp_path / 'migan.onnx')['bytes'] > 10_000


# Inpainting: what comes back is what went in.


@pytest.mark.parametrize('mode', ['resize', 'pipeline'])
def test_equal_to_the_tool(model, mode):
    for size in ((16, 16), (37, 61), (200, 90)):
        image, mask = picture(*size), known(*size)
        result = model.inpaint(image, mask, mode=mode)
        assert_close(result, expected(model, image, mask, mode))
        assert (result != image).any()


def test_large_pictures_are_painted_hole_by_hole(model):
    image, mask = picture(90, 120), np.ones((90, 120), bool)
    mask[10:14, 10:14] = mask[70:75, 100:104] = False
    result = model.inpaint(image, mask, feather=0)
    np.testing.assert_array_equal(result[mask], image[mask])
    assert (result[~mask] != image[~mask]).any()
    np.testing.assert_array_equal(
        result, model.inpaint(image, mask, mode='photo', feather=0))
    assert (result != model.inpaint(image, mask, mode='resize')).any()
    with pytest.raises(ValueError, match='feather=-1'):
        model.inpaint(image, mask, feather=-1)


def test_kinds_of_pictures(model):
    image, mask = picture(40, 30), known(40, 30)
    want = model.inpaint(image, mask, mode='resize')

    result = model.inpaint(Image.fromarray(image), mask, mode='resize')
    assert isinstance(result, Image.Image) and result.mode == 'RGB'
    np.testing.assert_array_equal(result, want)

    for dtype in (np.float16, np.float32, np.float64):
        levels = (image / 255).astype(dtype)
        result = model.inpaint(levels, mask, mode='resize')
        assert result.dtype == dtype and result.shape == image.shape
        np.testing.assert_array_equal(result[mask], levels[mask])
        np.testing.assert_array_equal(np.rint(result * 255), want)
    # What lies between two levels survives where nothing is painted.
    between = np.full((40, 30, 3), 0.1234567)
    result = model.inpaint(between, mask, mode='resize')
    assert (result[mask] == 0.1234567).all() and (result[~mask] != 0.1234567).all()


def test_grey_pictures_stay_grey(model):
    grey, mask = picture(40, 30)[..., 0], known(40, 30)
    want = model.inpaint(grey, mask, mode='resize')
    assert want.shape == (40, 30) and want.dtype == np.uint8
    np.testing.assert_array_equal(want[mask], grey[mask])
    assert (want[~mask] != grey[~mask]).any()
    np.testing.assert_array_equal(
        model.inpaint(grey[..., None], mask, mode='resize')[..., 0], want)
    result = model.inpaint((grey / 255).astype(np.float32), mask, mode='resize')
    assert result.shape == (40, 30) and (result[mask] == (grey / 255)[mask].astype(
        np.float32)).all()
    result = model.inpaint(Image.fromarray(grey), mask, mode='resize')
    assert result.mode == 'L'
    np.testing.assert_array_equal(np.asarray(result)[mask], grey[mask])


@pytest.mark.parametrize('channels', [2, 4])
def test_transparency_stays(model, channels):
    mask = known(20, 20)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, channels), np.uint8)
    result = model.inpaint(pixels, mask, mode='resize')
    np.testing.assert_array_equal(result[..., -1], pixels[..., -1])
    np.testing.assert_array_equal(result[mask], pixels[mask])
    assert (result[~mask][:, :-1] != pixels[~mask][:, :-1]).any()
    again = model.inpaint(Image.fromarray(pixels), mask, mode='resize')
    assert again.mode == {2: 'LA', 4: 'RGBA'}[channels]
    np.testing.assert_array_equal(np.asarray(again), result)
    # Colours under transparent pixels are not seen.
    hidden = pixels.copy()
    hidden[..., -1] = 0
    other = hidden.copy()
    other[mask, 0] ^= 255
    np.testing.assert_array_equal(model.inpaint(hidden, mask, mode='resize')[~mask],
                                  model.inpaint(other, mask, mode='resize')[~mask])


@pytest.mark.parametrize('mode', ['resize', 'pipeline', 'photo'])
@pytest.mark.parametrize('shape', [(40, 30), (40, 30, 1), (40, 30, 2), (40, 30, 3),
                                   (40, 30, 4)])
def test_sixteen_bits_stay(model, mode, shape):
    mask = known(40, 30)
    deep = np.random.default_rng(0).integers(0, 65536, shape, np.uint16)
    result = model.inpaint(deep, mask, mode=mode, feather=0, grain=False)
    assert result.dtype == np.uint16 and result.shape == shape
    away = mask if mode != 'pipeline' else np.asarray(
        Image.fromarray(mask).resize((30, 40))) & ~dilated(~mask, 3)
    np.testing.assert_array_equal(result[away], deep[away])
    assert (result[~mask] != deep[~mask]).any()
    shallow = model.inpaint(((deep.astype(int) + 128) // 257).astype(np.uint8), mask,
                            mode=mode, feather=0, grain=False)
    middle = (slice(18, 22), slice(13, 17))
    # What lies between two levels is dithered, and not in the same way.
    assert np.abs(result[middle] / 257 - shallow[middle]).max() <= 2


def dilated(where, pixels):
    from scipy import ndimage
    return ndimage.binary_dilation(where, np.ones((3, 3)), pixels)


def test_deep_grey_pil_images_stay(model):
    mask = known(20, 20)
    deep = np.random.default_rng(0).integers(0, 65536, (20, 20), np.uint16)
    for image, mode in ((Image.fromarray(deep), 'I;16'),
                        (Image.fromarray(deep.astype(np.int32)), 'I'),
                        (Image.fromarray((deep / 65535).astype(np.float32)), 'F')):
        assert image.mode == mode
        result = model.inpaint(image, mask, mode='resize')
        assert result.mode == mode
        np.testing.assert_array_equal(np.asarray(result)[mask], np.asarray(image)[mask])
        assert (np.asarray(result)[~mask] != np.asarray(image)[~mask]).any()


def test_what_describes_a_picture_stays(model):
    image, mask = picture(30, 40), known(30, 40)
    exif = Image.Exif()
    exif[271], exif[image_files.EXIF_ORIENTATION] = 'maker', 6
    given = with_info(
        np.ascontiguousarray(np.rot90(image)), dpi=(300, 300), exif=exif.tobytes(),
        icc_profile=profiles.profile('ProPhoto RGB'), xmp=b'<x:xmpmeta/>')
    assert given.size == (30, 40)
    result = model.inpaint(given, mask, mode='resize')
    # Upright, and so is what its EXIF data says.
    assert result.size == (40, 30)
    np.testing.assert_array_equal(np.asarray(result)[mask], image[mask])
    assert result.getexif()[271] == 'maker'
    assert result.getexif()[image_files.EXIF_ORIENTATION] == 1
    assert result.info['icc_profile'] == profiles.profile('ProPhoto RGB')
    assert result.info['dpi'] == (300, 300) and result.info['xmp'] == b'<x:xmpmeta/>'
    # The picture that was given is what it was, also for a second call.
    assert given.getexif()[image_files.EXIF_ORIENTATION] == 6
    with pytest.warns(pictures_lib.MaskWarning, match='turned with it') as said:
        again = model.inpaint(given, np.rot90(mask), mode='resize')
    assert {warning.filename for warning in said} == {__file__}
    np.testing.assert_array_equal(np.asarray(again), np.asarray(result))
    # Painted in sRGB, and written in the colours of the profile.
    plain = model.inpaint(colour.to_srgb(photographs.of_pillow(given, 'image')), mask,
                          mode='resize')
    seen = colour.to_srgb(photographs.of_pillow(result, 'image'))
    missed, unconverted = (np.abs(one.astype(int) - plain)[~mask].mean()
                           for one in (seen, np.asarray(result)))
    # Eight bits of a space this wide are coarse.
    assert missed < 1.5 and unconverted > 3 * missed


def test_a_mask_of_an_upside_down_picture_is_a_guess(model):
    exif = Image.Exif()
    exif[image_files.EXIF_ORIENTATION] = 3
    image = with_info(picture(20, 20), exif=exif.tobytes())
    for pictures, masks in ((image, known(20, 20)), ([image], [known(20, 20)])):
        with pytest.warns(pictures_lib.MaskWarning, match='exif_transpose') as said:
            model.inpaint(pictures, masks)
        assert {warning.filename for warning in said} == {__file__}


def test_soft_masks(model):
    image, levels = picture(60, 50), np.full((60, 50), 255, np.uint8)
    levels[20:40, 15:35] = np.linspace(0, 255, 20).astype(np.uint8)
    with pytest.raises(ValueError, match='not a mask.*soft=True keeps'):
        model.inpaint(image, levels)
    with pytest.raises(ValueError, match='soft masks need mode=photo, not resize'):
        model.inpaint(image, levels, soft=True, mode='resize')
    result = model.inpaint(image, levels, soft=True)
    np.testing.assert_array_equal(result[levels == 255], image[levels == 255])
    change = np.abs(result.astype(int) - image).mean((0, 2))[15:35]
    assert change[:5].mean() > 2 * change[-5:].mean() > 0
    for same in ({'mask': levels / 255}, {'hole': 255 - levels},
                 {'mask': Image.fromarray(levels)}):
        np.testing.assert_array_equal(model.inpaint(image, soft=True, **same), result)


def test_masks_of_pil_are_understood_as_files(model):
    image, mask = picture(30, 30), known(30, 30)
    want = model.inpaint(image, mask)
    strokes = np.full((30, 30, 4), 255, np.uint8)
    strokes[..., 3] = np.where(mask, 0, 255)
    for drawn, note in ((Image.fromarray(strokes), 'strokes of one colour'),
                        (Image.fromarray(mask.astype(np.uint8)), 'levels 0 and 1')):
        with pytest.warns(pictures_lib.MaskWarning, match=note) as said:
            np.testing.assert_array_equal(model.inpaint(image, drawn), want)
        assert {warning.filename for warning in said} == {__file__}


@pytest.mark.parametrize('kind', ['rgba', 'grey', 'deep grey', 'profile', 'turned', 'soft'])
def test_what_the_tool_paints(model, tmp_path, kind):
    """Through files or in memory: the same samples."""
    pixels, mask = picture(60, 45), np.where(known(60, 45), 255, 0).astype(np.uint8)
    if kind == 'soft':
        mask[10:20, 10:30] = np.linspace(0, 255, 20).astype(np.uint8)
    exif, profile = Image.Exif(), None
    if kind == 'turned':
        exif[image_files.EXIF_ORIENTATION] = 2
    if kind == 'profile':
        profile = profiles.profile('Adobe RGB')
    alpha = np.random.default_rng(1).integers(0, 256, (60, 45, 1), np.uint8)
    pixels = {'rgba': np.concatenate([pixels, alpha], 2), 'grey': pixels[..., 0],
              'deep grey': pixels[..., 0] * np.uint16(200)}.get(kind, pixels)
    Image.fromarray(pixels).save(tmp_path / 'a.png', exif=exif, icc_profile=profile)
    Image.fromarray(mask).save(tmp_path / 'm.png')
    _, generate = checkpoint_lib.load_generator(model.source)
    written, = inpaint_tool.run(
        generate, R, tmp_path / 'a.png', tmp_path / 'm.png', tmp_path / 'out',
        soft=kind == 'soft')
    with Image.open(tmp_path / 'a.png') as image, warnings.catch_warnings():
        warnings.simplefilter('ignore', pictures_lib.MaskWarning)
        result = model.inpaint(image, Image.fromarray(mask), soft=kind == 'soft')
    with Image.open(written) as painted:
        assert result.mode == painted.mode
        np.testing.assert_array_equal(np.asarray(result), np.asarray(painted))
        assert result.info.get('icc_profile') == painted.info.get('icc_profile') == profile
    assert (np.asarray(result) != pixels).any()


def test_batches_and_lists(model):
    sizes = [(20, 30), (16, 16), (50, 8)]
    images = [picture(*size, i) for i, size in enumerate(sizes)]
    masks = [known(*size) for size in sizes]
    alone = [model.inpaint(i, m) for i, m in zip(images, masks)]
    mixed = [images[0], Image.fromarray(images[1]), images[2] / 255]
    results = model.inpaint(mixed, masks)
    assert isinstance(results, list) and isinstance(results[1], Image.Image)
    assert results[2].dtype == np.float64
    assert_close(results[0], alone[0])
    assert_close(np.asarray(results[1]), alone[1])
    assert_close(np.rint(results[2] * 255).astype(np.uint8), alone[2])

    # More than one network batch; in between, one with nothing to do.
    batch = np.stack([picture(24, 20, i) for i in range(11)])
    masks = np.stack([known(24, 20)] * 11)
    masks[4] = True
    with pytest.warns(pictures_lib.MaskWarning, match='nothing to inpaint'):
        result = model.inpaint(batch, masks)
    assert isinstance(result, np.ndarray) and result.shape == batch.shape
    np.testing.assert_array_equal(result[4], batch[4])
    for i in (0, 3, 5, 10):
        assert_close(result[i], model.inpaint(batch[i], masks[i]))
    grey = model.inpaint(batch[:2, ..., :1], masks[:2, ..., None])
    assert grey.shape == (2, 24, 20, 1)


def test_inputs_are_left_alone(model):
    image, mask = picture(20, 20), known(20, 20)
    copies = image.copy(), mask.copy()
    for mode in ('resize', 'pipeline'):
        assert not np.shares_memory(model.inpaint(image, mask, mode=mode), image)
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(mask, copies[1])
    strided = np.asfortranarray(image)[::-1]
    np.testing.assert_array_equal(
        model.inpaint(strided, mask[::-1]), model.inpaint(strided.copy(), mask[::-1]))


# Masks.


def test_every_kind_of_mask_says_the_same(model):
    image, mask = picture(40, 30), known(40, 30)
    want = model.inpaint(image, mask)
    levels = np.where(mask, 255, 0).astype(np.uint8)
    for same in (levels, levels[..., None], mask.astype(np.float32),
                 mask.astype(np.float64)[..., None], jax.numpy.asarray(mask),
                 Image.fromarray(levels), Image.fromarray(levels).convert('1'),
                 Image.fromarray(levels).convert('RGB')):
        np.testing.assert_array_equal(model.inpaint(image, same), want)
    for hole in (~mask, 255 - levels, 1 - mask.astype(np.float32),
                 Image.fromarray(255 - levels)):
        np.testing.assert_array_equal(model.inpaint(image, hole=hole), want)
    # What the sampler draws fits, also to a picture's size.
    drawn = migan_jax.masks.free_form(3, image.shape, (0.2, 0.5))
    result = model.inpaint(image, drawn, mode='resize')
    np.testing.assert_array_equal(result[drawn[..., 0] == 1], image[drawn[..., 0] == 1])


def test_polarity_has_to_be_said(model):
    image, mask = picture(20, 20), known(20, 20)
    for arguments, got in (({}, 'neither'), ({'mask': mask, 'hole': ~mask}, 'both')):
        with pytest.raises(ValueError, match=f'hole.*, got {got}'):
            model.inpaint(image, **arguments)


def test_masks_that_look_inverted_get_a_warning(model, recwarn):
    image, mask = picture(20, 20), known(20, 20)
    model.inpaint(image, mask)
    model.inpaint(image, hole=~mask)
    assert not [w for w in recwarn if w.category is pictures_lib.MaskWarning]
    with pytest.warns(pictures_lib.MaskWarning, match='88% .*pass it as hole='):
        model.inpaint(image, ~mask)
    with pytest.warns(pictures_lib.MaskWarning, match='88% .*pass it as mask='):
        model.inpaint(image, hole=mask)
    with pytest.warns(pictures_lib.MaskWarning, match='nothing to inpaint'):
        result = model.inpaint(image, np.ones((20, 20), bool))
    np.testing.assert_array_equal(result, image)
    with pytest.warns(pictures_lib.MaskWarning, match='nothing is known'):
        model.inpaint(image, np.zeros((20, 20), bool))


def test_levels_in_between(model):
    image, mask = picture(40, 40), known(40, 40)
    levels = np.where(mask, 250, 5).astype(np.uint8)   # as JPEG leaves them
    levels[0, 0] = 130
    with pytest.warns(
            pictures_lib.MaskWarning, match='1600 pixels .* 128 and above') as said:
        result = model.inpaint(image, levels)
    # Warnings name the caller's line, in every Python.
    assert {warning.filename for warning in said} == {__file__}
    np.testing.assert_array_equal(result, model.inpaint(image, mask))
    with pytest.raises(ValueError, match='mask: not a mask'):
        model.inpaint(image, picture(40, 40)[..., 0])
    with pytest.raises(ValueError, match='hole: not a mask'):
        model.inpaint(image, hole=np.full((40, 40), 0.5))


@pytest.mark.parametrize('mask, message', [
    (np.ones((20, 20), np.uint8), r'no level above 1.*astype\(bool\)'),
    (np.ones((20, 20), np.int64), r'got int64\[20, 20\]; pass mask > 0'),
    (np.ones((20, 21), bool), r'of shape \[20, 20\].*got bool\[20, 21\]'),
    (np.ones((20, 20, 3), bool), r'got bool\[20, 20, 3\]'),
    (np.ones((1, 20, 20), bool), r'got bool\[1, 20, 20\]'),
    (np.full((20, 20), 255.0), r'values 255 to 255'),
    (np.full((20, 20), np.nan), r'values nan'),
    (Image.new('L', (21, 20)), r'mode L, 21 x 20'),
    (Image.new('F', (20, 20)), 'no defined range'),
    ('mask.png', r'got a str'),
])
def test_masks_that_are_refused(model, mask, message):
    with pytest.raises(ValueError, match=f'^mask: .*{message}'):
        model.inpaint(picture(20, 20), mask)


@pytest.mark.parametrize('image, message', [
    (picture(20, 20).astype(np.int32), r'got int32\[20, 20, 3\]; convert'),
    (picture(20, 20).astype(np.int16), r'got int16'),
    (np.zeros((20, 20, 5), np.uint8), r'with alpha \[H, W, 4\].*got uint8\[20, 20, 5\]'),
    (picture(20, 20).astype(np.float32), r'values in \[0, 1\], got 0 to 255'),
    (picture(20, 20) / 127.5 - 1, r'values in \[0, 1\], got -1'),
    (np.full((20, 20, 3), np.nan), r'got nan'),
    (np.zeros((0, 20, 3), np.uint8), r'H, W >= 1'),
    (np.zeros((5, 20, 20), np.uint8), r'\[B, H, W, 1\]'),
    ('photo.jpg', r'got a str'),
    (Image.new('F', (20, 20), 7.5), 'from 7.5 to 7.5; expected 0 to 1'),
    (Image.new('I', (20, 20), 70000), r'expected 16 bits \(0 to 65535\)'),
    (with_info(picture(20, 20), icc_profile=b'none'), 'its colour profile cannot be used'),
])
def test_pictures_that_are_refused(model, image, message):
    with pytest.raises(ValueError, match=f'^image: .*{message}'):
        model.inpaint(image, known(20, 20))


def test_several_need_as_many_masks(model):
    images, mask = [picture(20, 20)] * 3, known(20, 20)
    for masks, got in (([mask] * 2, '2 of them'), (mask, r'bool\[20, 20\]')):
        with pytest.raises(ValueError, match=f'expected 3, one for each.*{got}'):
            model.inpaint(images, masks)
        with pytest.raises(ValueError, match=f'expected 3, one for each.*{got}'):
            model.inpaint(np.stack(images), masks)
    with pytest.raises(ValueError, match=r'^mask\[1\]: '):
        model.inpaint(images, [mask, mask.T[1:], mask])
    with pytest.raises(ValueError, match=r'^image\[2\]: '):
        model.inpaint([*images[:2], images[2].astype(int)], [mask] * 3)
    with pytest.raises(ValueError, match='at least one'):
        model.inpaint([], [])
    with pytest.raises(ValueError, match="'resize', 'pipeline'"):
        model.inpaint(images[0], mask, mode='squash')


# Compiling.


def test_another_size_compiles_nothing(directory):
    model = migan_jax.load(directory)
    with compilations() as first:
        model.inpaint(picture(40, 30), known(40, 30))
    assert first
    with compilations() as later:
        for size in ((31, 77), (16, 16), (120, 50)):
            for mode in ('resize', 'pipeline'):
                model.inpaint(picture(*size), known(*size), mode=mode)
    assert later == []
    # Numbers of pictures share programs too: three and four, seven and eight.
    image, mask = picture(20, 20), known(20, 20)
    model.inpaint([image] * 3, [mask] * 3)
    model.inpaint([image] * 8, [mask] * 8)
    with compilations() as later:
        for count in (1, 4, 5, 7, 9, 17):
            model.inpaint([image] * count, [mask] * count)
        masks_lib.free_form(0, (30, 40))
        drawing = len(later)
        masks_lib.free_form(1, (50, 20))
        masks_lib.free_form(2, 256)
    assert len(later) == drawing > 0


# Free-form masks.


def test_free_form_by_seed():
    mask = migan_jax.masks.free_form(5, 64, (0.1, 0.4), brush_width=(3, 12))
    assert isinstance(mask, np.ndarray) and mask.shape == (64, 64, 1)
    assert mask.dtype == np.float32 and set(np.unique(mask)) == {0, 1}
    np.testing.assert_array_equal(mask, masks_lib.free_form(
        jax.random.key(5), 64, (0.1, 0.4), brush_width=(3, 12)))
    assert (mask != migan_jax.masks.free_form(
        6, 64, (0.1, 0.4), brush_width=(3, 12))).any()


def test_free_form_of_the_size_of_a_picture():
    square = migan_jax.masks.free_form(5, 256, (0.2, 0.5))
    for shape in ((300, 500, 3), (40, 90)):
        mask = migan_jax.masks.free_form(5, shape, (0.2, 0.5))
        assert mask.shape == (*shape[:2], 1)
        np.testing.assert_array_equal(mask, inpaint.resize_nearest(square, *shape[:2]))
        assert 0.18 < 1 - mask.mean() < 0.52
    with pytest.raises(ValueError, match='height, width'):
        migan_jax.masks.free_form(0, (5,))


# Export.


def test_export_writes_what_onnxruntime_runs(model, tmp_path):
    import onnxruntime

    report = model.export(tmp_path / 'deep' / 'mine.onnx')
    assert report['format'] == 'onnx' and report['random']['max'] < report['tolerance']
    session = onnxruntime.InferenceSession(report['path'])
    assert session.get_modelmeta().custom_metadata_map['source_step'] == '0'
    report = model.export(f'{tmp_path}/out/', 'onnx_pipeline')
    assert pathlib.Path(report['path']) == tmp_path / 'out' / 'migan_pipeline.onnx'
    session = onnxruntime.InferenceSession(report['path'])
    image, mask = picture(40, 50), known(40, 50)
    got, = session.run(None, {
        'image': image.transpose(2, 0, 1)[None].copy(),
        'mask': np.where(mask, 255, 0).astype(np.uint8)[None, None]})
    want = model.inpaint(image, mask, mode='pipeline')
    assert np.abs(got[0].transpose(1, 2, 0).astype(int) - want).max() <= 2


def test_exported_weights_come_back(published, tmp_path):
    first = migan_jax.load(published)
    report = first.export(tmp_path / 'again.pt')
    second = migan_jax.load(report['path'])
    jax.tree.map(np.testing.assert_array_equal, first.variables, second.variables)


def test_exports_that_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match='suffix does not tell'):
        model.export(tmp_path / 'migan.bin')
    with pytest.raises(ValueError, match='suffix does not tell'):
        model.export(tmp_path)
    with pytest.raises(ValueError, match="'onnx_pipeline'"):
        model.export(tmp_path / 'migan.onnx', 'coremI')
    with pytest.raises(ValueError, match='not written'):
        model.export(tmp_path / 'migan.onnx', tolerance=1e-12)
    assert list(tmp_path.iterdir()) == []


# Evaluation.


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photos')
    arrays = {f'pic.{i}': picture(20 + i, 24, i) for i in range(5)}
    for stem, array in arrays.items():
        Image.fromarray(array).save(folder / f'{stem}.png')
    return folder, arrays


def test_figures_are_those_of_the_tool(model, photos, tmp_path):
    folder, arrays = photos
    want = tool.run(model.source, str(folder), str(tmp_path / 'out'))
    got = migan_jax.evaluate(model, folder)
    assert got.means['images'] == want['images'] == 5
    names = set(want) - {'images'}
    assert {'psnr', 'hole_psnr', 'ssim'} <= names == set(got.means) - {'images'}
    for name in names:
        np.testing.assert_allclose(got.means[name], want[name], rtol=1e-6)
    low, high = got.intervals['psnr']
    assert low < got.means['psnr'] < high
    assert sorted(got.per_image) == sorted(f'{stem}.png' for stem in arrays)
    assert set(got.left_out) == {'fid', 'p_ids', 'u_ids', 'lpips'}
    # By path, on part of them, other masks.
    other = migan_jax.evaluate(model.source, folder, seed=9, limit=3, metrics=['psnr'])
    assert set(other.means) == {'psnr', 'images'} and other.means['images'] == 3
    first = f'{min(arrays)}.png'
    assert other.per_image[first]['psnr'] != got.per_image[first]['psnr']


def test_pictures_and_masks_at_hand(model, photos, tmp_path):
    _, arrays = photos
    pictures = [arrays[stem] for stem in sorted(arrays)]
    mask = known(R, R)
    got = migan_jax.evaluate(model, pictures, [mask] * 5)
    assert list(got.per_image) == ['0', '1', '2', '3', '4']
    np.testing.assert_allclose(got.means['hole_share'], (~mask).mean(), rtol=1e-6)
    opposite = migan_jax.evaluate(model, pictures, holes=[~mask] * 5)
    assert opposite.means == got.means
    # By hand: PSNR of a composite.
    image = np.asarray(Image.fromarray(pictures[2]).resize((R, R), 3))
    _, generate = checkpoint_lib.load_generator(model.source)
    generated = generate(model_io.model_input(
        model_io.from_uint8(image)[None], mask.astype(np.float32)[None, ..., None]))[0]
    error = np.where(mask[..., None], 0, (
        np.clip(generated, -1, 1) - model_io.from_uint8(image)) / 2)
    np.testing.assert_allclose(
        got.per_image['2']['psnr'], -10 * np.log10(np.mean(error**2)), rtol=1e-4)
    # The same from folders.
    for folder, array in (('images', image), ('masks', np.uint8(mask) * 255)):
        (tmp_path / folder).mkdir()
        Image.fromarray(array).save(tmp_path / folder / 'x.png')
    files = migan_jax.evaluate(model, tmp_path / 'images', tmp_path / 'masks')
    np.testing.assert_allclose(
        files.means['psnr'], got.per_image['2']['psnr'], rtol=1e-5)


def test_evaluations_that_are_refused(model, photos, tmp_path):
    folder, arrays = photos
    pictures = list(arrays.values())
    mask = known(R, R)
    for arguments, message in (
            ({'images': tmp_path}, 'no images'),
            ({'images': folder, 'metrics': ['psmr']}, 'unknown psmr'),
            ({'images': folder, 'metrics': ['fid']}, '5 images are too few'),
            ({'images': folder, 'protocol': 'mine'}, "'mine'"),
            ({'images': folder, 'masks': tmp_path}, 'no image in this folder'),
            ({'images': folder, 'masks': [mask] * 5}, 'expected a folder'),
            ({'images': pictures, 'masks': [mask]}, 'expected 5'),
            ({'images': pictures, 'masks': [mask] * 5, 'holes': [mask] * 5}, 'both'),
            ({'images': pictures, 'masks': [known(9, 9)] * 5}, r'masks\[0\]'),
            ({'images': []}, 'expected a folder'),
            ({'images': pictures[0]}, 'expected a folder')):
        with pytest.raises(ValueError, match=message):
            migan_jax.evaluate(model, **arguments)
