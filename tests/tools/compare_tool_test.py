"""tools/compare.py on two evaluations, which it pairs image by image."""

import json
import pathlib

import numpy as np
from PIL import Image
import pytest

import compare as tool

R, COUNT = 8, 40
# One letter, as Linux and as macOS write it in names.
ACCENT = ('\u00e9', 'e\u0301')


def write(path, level, *, gain=0.0, **changed):
    """What tools/evaluate.py writes, as far as it is read."""
    rng = np.random.default_rng(0)
    # Images differ far more than the methods do: only pairs show the difference.
    psnr = rng.normal(20, 5, COUNT) + gain + np.random.default_rng(level).normal(
        0, 0.1, COUNT)
    images = {f'{ACCENT[level % 2]}{i}.png': {'masks': {
        'hole_psnr': None if i == 0 and level else value, 'hole_l1': 0.1,
        'hole_share': 0.3}} for i, value in enumerate(psnr)}
    report = {
        'protocol': 'paper', 'resolution': R, 'image_source': 'photos', 'masks': 'masks',
        'seeds': {'masks': None}, 'images': images, 'summary': {},
        'method': {'name': f'm{level}', 'step': 7 + level},
        'ranges': [{'hole_range': None, 'fid': 30.0 - gain}]} | changed
    pathlib.Path(f'{path}.json').write_text(json.dumps(report))
    picture = np.repeat(np.arange(5, dtype=np.uint8) * 10 + level, R)
    Image.fromarray(np.broadcast_to(picture[:, None], (2 * R, 5 * R, 3))).save(f'{path}.png')
    return str(path)


def test_small_difference_between_pairs_is_seen(tmp_path):
    first = write(tmp_path / 'a', 0)
    second = write(tmp_path / 'b', 1, gain=0.2)
    found = tool.run(first, f'{second}.json', str(tmp_path / 'out'))
    row = found['masks']['hole_psnr']
    assert row['images'] == COUNT - 1
    assert 0 < row['low'] < row['difference'] < row['high'] < 0.4
    assert row['difference'] == pytest.approx(row['second'] - row['first'])
    assert found['masks']['fid'] == {
        'first': 30.0, 'second': 29.8, 'difference': pytest.approx(-0.2)}
    assert 'hole_share' not in found['masks']
    text = (tmp_path / 'out.md').read_text()
    assert 'm0, iteration 7' in text and text.count('| better |') == 1
    assert json.loads((tmp_path / 'out.json').read_text())['differences'] == found
    with Image.open(tmp_path / 'out.png') as sheet:
        assert np.asarray(sheet)[0, ::R, 0].tolist() == [0, 30, 31, 40]
    # The other way round it is worse.
    tool.run(second, first, str(tmp_path / 'back'))
    assert (tmp_path / 'back.md').read_text().count('| worse |') == 1


@pytest.mark.parametrize('changed, message', [
    ({'resolution': 16}, 'resolution: 8 and 16'),
    ({'masks': 'others'}, 'masks: masks and others'),
    ({'images': {f'{ACCENT[0]}0.png': {}}}, 'images: 40 and 1, 1 of them the same'),
    ({'ranges': [{'hole_range': [0, 1]}]}, 'hole ranges differ'),
])
def test_what_was_measured_otherwise_is_refused(tmp_path, changed, message):
    first = write(tmp_path / 'a', 0)
    second = write(tmp_path / 'b', 1, **changed)
    with pytest.raises(ValueError, match=message):
        tool.run(first, second, str(tmp_path / 'out'))
    assert not (tmp_path / 'out.json').exists()


@pytest.mark.parametrize('content, message', [
    (None, 'no such file'), ('{', 'no result of'), ('{}', 'it lacks'), ('[]', 'it lacks')])
def test_other_files_are_refused(tmp_path, content, message):
    first = write(tmp_path / 'a', 0)
    if content is not None:
        (tmp_path / 'b.json').write_text(content)
    with pytest.raises(ValueError, match=message):
        tool.run(first, str(tmp_path / 'b'), str(tmp_path / 'out'))
