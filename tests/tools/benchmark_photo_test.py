"""tools/benchmark.py --what=photo: holes, figures and table on pictures made here."""

import json

import numpy as np
from PIL import Image
import pytest

import benchmark_photo as tool
from migan_jax.evaluation import networks as networks_lib


@pytest.fixture(scope='module')
def judge():
    return tool.Judge(networks_lib.Loaded(
        networks_lib.Networks(), {}, {'lpips': 'no weights here'}))


def _picture(seed, height=90, width=130):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_holes_are_of_their_kind_and_of_their_seed():
    draw = lambda kind, seed: tool.draw_holes(300, 400, kind, np.random.default_rng(seed))
    for kind in tool.KINDS:
        mask = draw(kind, 0)
        assert mask.shape == (300, 400) and set(np.unique(mask)) == {0, 255}
        np.testing.assert_array_equal(mask, draw(kind, 0))
        assert (mask != draw(kind, 1)).any()
    share = lambda kind: np.mean([(draw(kind, seed) == 0).mean() for seed in range(10)])
    assert share('spots') < share('one blob') < share('blobs') < share('all at once')


def test_figures_are_of_the_holes(judge):
    image = _picture(0, 300, 270)        # several tiles
    mask = np.full((300, 270), 255, np.uint8)
    mask[250:270, 240:262] = 0           # over the edges of tiles
    painted = image.copy()
    painted[mask == 255] = 0             # what is known is not looked at for PSNR
    painted[mask == 0] = image[mask == 0] // 2
    expected = -10 * np.log10(np.mean(
        ((image[mask == 0] - painted[mask == 0].astype(float)) / 255) ** 2))
    assert judge(painted, image, mask).psnr == pytest.approx(expected)
    same = judge(image, image, mask)
    assert same.psnr == np.inf and same.ssim == pytest.approx(1, abs=1e-5)
    assert np.isnan(same.lpips)


def test_no_method_sees_the_truth(tmp_path, judge):
    image = np.full((90, 130, 3), 40, np.uint8)
    image[45:] = 200
    Image.fromarray(image).save(tmp_path / 'half.png')
    given = []

    def keeps(picture, mask):
        given.append((picture, mask))
        return picture

    figures = tool.measure({'keeps': keeps}, [str(tmp_path / 'half.png')], judge,
                           ('one blob',))
    ((picture, mask),) = given
    np.testing.assert_array_equal(picture[mask == 255], image[mask == 255])
    np.testing.assert_array_equal(picture[mask == 0], 240 - image[mask == 0])
    # What a method that paints nothing is worth: 160 levels beside the truth.
    assert figures['one blob']['keeps'][0].psnr == pytest.approx(
        -20 * np.log10(160 / 255))


def test_all_methods_fill_the_same_holes(tmp_path, judge):
    for i in range(2):
        Image.fromarray(_picture(i)).save(tmp_path / f'{i}.png')
    with pytest.raises(ValueError, match='expected 3 photographs of 0.01 megapixels'):
        tool.photographs_of(str(tmp_path), 3, 0.01)
    paths = tool.photographs_of(str(tmp_path), 2, 0.01)
    seen = {}

    def method(name, value):
        def fill(image, mask):
            seen.setdefault(name, []).append(mask)
            return np.where(mask[..., None] == 255, image, np.uint8(value))
        return fill

    methods = {'photo': method('photo', 128), 'black': method('black', 0)}
    result = tool.summary(tool.measure(methods, paths, judge, ('spots', 'blobs')))
    for ours, theirs in zip(seen['photo'], seen['black'], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    gain = result['blobs']['photo_over']['black']['psnr']
    means = result['blobs']['means']
    assert gain['mean'] == pytest.approx(means['photo']['psnr'] - means['black']['psnr'])
    assert gain['mean'] > 1 and gain['interval'][0] <= gain['mean'] <= gain['interval'][1]
    lines = tool.table(result)
    assert [line.split('|')[1].strip() for line in lines[2:]] == ['spots', 'blobs']
    assert f'{gain["mean"]:+.2f}' in lines[3] and 'LPIPS' not in lines[0]
    json.dumps(result)
