"""tools/make_grid.py, make_study.py and tally_study.py."""

import base64
import io
import json
import re

import numpy as np
from PIL import Image
import pytest

import make_grid
import make_study
import tally_study

R = 32


@pytest.fixture
def folders(tmp_path):
    """Three images; method A paints red, B green, C blue."""
    rng = np.random.default_rng(0)
    for i in range(3):
        mask = np.full((R, R), 255, np.uint8)
        mask[:, :R // 2] = 0   # the left half is hole
        pictures = {'images': rng.integers(0, 256, (40, 50, 3), np.uint8),
                    'masks': mask}
        for channel, name in enumerate('ABC'):
            pixels = np.zeros((R, R, 3), np.uint8)
            pixels[..., channel] = 200
            pictures[name] = pixels
        for kind, pixels in pictures.items():
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / kind / f'{i}.png')
    methods = {name: str(tmp_path / name) for name in 'ABC'}
    return tmp_path, methods


def load(folders, **options):
    folder, methods = folders
    images, masks = (str(folder / kind) for kind in ('images', 'masks'))
    return make_grid.load(images, masks, methods, **options)


def test_known_pixels_come_from_the_original(folders):
    rows = load(folders)
    assert list(rows) == ['0', '1', '2']
    for row in rows.values():
        assert list(row) == ['original', 'masked', 'A', 'B', 'C']
        for name, picture in row.items():
            np.testing.assert_array_equal(
                picture[:, R // 2:], row['original'][:, R // 2:])
        assert (row['masked'][:, :R // 2] == 128).all()
        assert (row['B'][:, :R // 2] == [0, 200, 0]).all()


def test_sheet_puts_each_picture_under_its_label(folders):
    rows = list(load(folders, stems=['2', '0']).values())
    page = np.asarray(make_grid.sheet(rows))
    head, gap = 12, 2
    assert page.shape == (head + 2 * (R + gap), 5 * (R + gap) + gap, 3)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row.values()):
            top, left = head + r * (R + gap), gap + c * (R + gap)
            np.testing.assert_array_equal(
                page[top:top + R, left:left + R], picture)
    for c in range(5):   # something is written above each column
        assert (page[:head, gap + c * (R + gap):][:, :R] < 128).any()
    assert make_grid.sheet(rows, cell=64).size == (5 * 66 + 2, 12 + 2 * 66)


def test_png_and_pdf(folders, tmp_path):
    page = make_grid.sheet(list(load(folders, rows=1).values()))
    make_grid.write(page, str(tmp_path / 'new' / 'sheet.png'))
    with Image.open(tmp_path / 'new' / 'sheet.png') as back:
        np.testing.assert_array_equal(np.asarray(back), np.asarray(page))
    make_grid.write(page, str(tmp_path / 'sheet.pdf'))
    assert (tmp_path / 'sheet.pdf').read_bytes().startswith(b'%PDF')
    with pytest.raises(ValueError, match='ends in .png or .pdf'):
        make_grid.write(page, str(tmp_path / 'sheet.gif'))


def test_bad_input(folders):
    folder, methods = folders
    assert make_grid.parse_methods('A b=x/y; C=z') == {'A b': 'x/y', 'C': 'z'}
    for text in ('A', '=x', 'A=', 'A=x;A=y', 'A=x;'):
        with pytest.raises(ValueError, match='expected NAME=FOLDER'):
            make_grid.parse_methods(text)
    with pytest.raises(ValueError, match='no image nowhere'):
        load(folders, stems=['nowhere'])
    (folder / 'B' / '1.png').unlink()
    with pytest.raises(ValueError, match='no prediction for 1 of 3 images: 1'):
        load(folders)
    with pytest.raises(ValueError, match='a pair needs two'):
        make_study.make({'0': {'original': None, 'masked': None, 'A': None}}, 0)


def test_images_that_no_method_painted_are_left_out_and_named(folders, capsys):
    folder, methods = folders
    for name in methods:
        (folder / name / '1.png').unlink()
    assert list(load(folders)) == ['0', '2']
    assert 'left out, as no method has painted them: 1' in capsys.readouterr().err
    # By name it is asked for, and is missing.
    with pytest.raises(ValueError, match='no prediction for 1 of 1 images: 1'):
        load(folders, stems=['1'])


def study_of(page):
    """The data in a page."""
    return json.loads(re.search(r'const study = (.*);\n', page).group(1))


def picture(data):
    with Image.open(io.BytesIO(base64.b64decode(data.partition(',')[2]))) as image:
        return np.asarray(image)


def test_study_is_blind_random_and_matches_its_key(folders):
    rows = load(folders)
    page, key = make_study.make(rows, seed=1)
    study = study_of(page)
    assert study['id'] == key['study'] and len(study['pairs']) == 9
    seen = set()
    for pair in study['pairs']:
        truth = key['pairs'][pair['id']]
        row = rows[truth['image']]
        for side in ('left', 'right'):
            np.testing.assert_array_equal(
                picture(study['pictures'][pair[side]]), row[truth[side]])
        np.testing.assert_array_equal(
            picture(study['pictures'][pair['input']]), row['masked'])
        seen.add((truth['image'], *sorted((truth['left'], truth['right']))))
    assert len(seen) == 9   # every image with every pair of methods, once
    # Nothing on the page names a side's method.
    assert {name for pair in study['pairs'] for name in pair} == {
        'id', 'input', 'left', 'right'}
    # Sides and order vary, and come from the seed alone.
    lefts = [key['pairs'][p['id']]['left'] for p in study['pairs']]
    assert lefts.count('A') < 6 and lefts.count('C') > 0
    images = [key['pairs'][p['id']]['image'] for p in study['pairs']]
    assert images != sorted(images)
    assert make_study.make(rows, seed=1) == (page, key)
    assert make_study.make(rows, seed=2)[1]['pairs'] != key['pairs']


def test_tally_counts_methods_not_sides():
    key = {'study': 's', 'pairs': {
        'q0': {'image': '0', 'left': 'B', 'right': 'A'},
        'q1': {'image': '1', 'left': 'A', 'right': 'B'},
        'q2': {'image': '1', 'left': 'C', 'right': 'A'}}}
    result = tally_study.tally(key, {
        'one': {'study': 's', 'answers': {'q0': 'right', 'q1': 'left', 'q2': 'left'}},
        'two': {'study': 's', 'answers': {'q0': 'left'}}})
    assert result == {('A', 'B'): (2, 3), ('A', 'C'): (0, 1)}
    assert '| A | B | 66.7% | 3 | 20.8% to 93.9% |' in tally_study.table(result)


@pytest.mark.parametrize('wins, count, low, high', [
    # Published examples (Newcombe, 1998, without continuity correction).
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611),
    (1, 29, 0.0061, 0.1718), (20, 20, 0.8389, 1)])
def test_wilson_interval(wins, count, low, high):
    np.testing.assert_allclose(tally_study.wilson(wins, count), (low, high), atol=6e-5)


def test_answers_that_do_not_fit(tmp_path):
    key = {'study': 's', 'pairs': {'q0': {'image': '0', 'left': 'B', 'right': 'A'}}}
    for content, message in (
            ({'study': 'other', 'answers': {}}, "study 'other', but the key is of 's'"),
            ({'study': 's', 'answers': {'q9': 'left'}}, "answer 'q9': 'left'"),
            ({'study': 's', 'answers': {'q0': 'both'}}, "answer 'q0': 'both'"),
            ([], 'a.json: expected what the page of a study saves')):
        with pytest.raises(ValueError, match=message):
            tally_study.tally(key, {'a.json': content})
    (tmp_path / 'bad.json').write_text('{')
    with pytest.raises(ValueError, match='bad.json: cannot read it as JSON'):
        tally_study.read(str(tmp_path / 'bad.json'))


@pytest.mark.parametrize('text', [
    '[1]', '{}', 'null', '{"study": "s"}', '{"study": 1, "pairs": {}}',
    '{"study": "s", "pairs": [1]}', '{"study": "s", "pairs": {"q": 1}}',
    '{"study": "s", "pairs": {"q": {"left": "A"}}}',
    '{"study": "s", "pairs": {"q": {"left": ["A"], "right": "B"}}}', '[' * 100_000])
def test_what_is_no_key_is_one_sentence(tmp_path, text):
    (tmp_path / 'key.json').write_text(text)
    with pytest.raises(ValueError, match='key.json: (expected the key|nested too deep)'):
        tally_study.read_key(tmp_path / 'key.json')
