"""web/photo.js, in Node, against migan_jax/photo: the same plan, and the same painting."""

import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

from migan_jax.photo import paint
from migan_jax.photo import plan as plan_lib

PHOTO = pathlib.Path(__file__).parents[1] / 'web' / 'photo.js'

PLAN = '''
import {plan} from '%s';
let text = '';
for await (const part of process.stdin) text += part;
const box = ({top, bottom, left, right}) => [top, bottom, left, right];
console.log(JSON.stringify(JSON.parse(text).map(({known, width, height, resolution}) =>
  plan(Uint8Array.from(known), width, height, resolution).map(group => ({
    route: group.route, factor: group.factor,
    windows: group.windows.map(({seen, core}) => [box(seen), box(core)])})))));
'''

# The network of both: channel c of what it sees, and a bit of where it is.
PAINT = '''
import {paintHoles} from '%s';
let text = '';
for await (const part of process.stdin) text += part;
const {image, known, width, height, resolution} = JSON.parse(text);
const area = resolution * resolution;
const network = input => Float32Array.from({length: 3 * area}, (_, i) =>
  0.5 * input[area + i] + 0.1 * input[i %% area] + 0.3 * (i %% resolution) / resolution);
console.log(JSON.stringify(Array.from(await paintHoles(
  Uint8Array.from(image), Uint8Array.from(known), width, height, resolution, network))));
'''


def node(program, values):
    found = shutil.which('node') or shutil.which('nodejs')
    if found is None:
        if os.environ.get('CI') == 'true':
            pytest.fail('no Node: apt-get install npm')
        pytest.skip('no Node: apt-get install npm')
    done = subprocess.run(
        [found, '--input-type=module', '-e', program % PHOTO.as_uri()], timeout=120,
        input=json.dumps(values), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def masks(count):
    """(bool[H, W], True = known; R): discs, lines and blocks of all sizes."""
    for i in range(count):
        rng = np.random.default_rng(i)
        height, width = rng.integers(20, 260, 2)
        resolution = int(rng.choice([16, 32, 64, 128]))
        hole = np.zeros((height, width), bool)
        rows, columns = np.mgrid[:height, :width]
        for _ in range(rng.integers(1, 7)):
            y, x = rng.integers(height), rng.integers(width)
            size = rng.integers(1, max(height, width) // 2)
            kind = rng.integers(3)
            if kind == 0:
                hole |= (rows - y) ** 2 + (columns - x) ** 2 <= (size / 2) ** 2
            elif kind == 1:
                slope = rng.uniform(-2, 2)
                hole |= (abs(rows - y - slope * (columns - x)) < 2) & (
                    abs(columns - x) < size)
            else:
                hole[y:y + size, x:x + rng.integers(1, size + 1)] = True
        yield ~hole, resolution


def test_the_page_plans_as_python_does():
    cases = list(masks(60))
    answers = node(PLAN, [
        {'known': known.astype(int).ravel().tolist(), 'height': known.shape[0],
         'width': known.shape[1], 'resolution': resolution} for known, resolution in cases])
    routes = set()
    for (known, resolution), answer in zip(cases, answers, strict=True):
        groups = plan_lib.plan(known, resolution)
        routes |= {group.route for group in groups}
        assert answer == [
            {'route': group.route, 'factor': group.factor,
             'windows': [[list(window.seen), list(window.core)] for window in group.windows]}
            for group in groups]
    assert routes == {'native', 'tiles', 'scaled'}


@pytest.mark.parametrize('case', range(8))
def test_the_page_paints_as_python_does(case):
    known, _ = list(masks(case + 1))[case]
    resolution = 32
    image = np.random.default_rng(case).integers(0, 256, (*known.shape, 3), np.uint8)

    def network(x):
        columns = np.arange(resolution) / np.float32(resolution)
        return np.float32(0.5) * x[..., 1:] + np.float32(0.1) * x[..., :1] + (
            np.float32(0.3) * columns[:, None])

    expected = paint.inpaint_photo(
        network, image, np.where(known, 255, 0).astype(np.uint8), resolution,
        paint.Settings(feather=0, grain=False))
    answer = node(PAINT, {
        'image': image.transpose(2, 0, 1).ravel().tolist(),
        'known': np.where(known, 255, 0).ravel().tolist(), 'width': known.shape[1],
        'height': known.shape[0], 'resolution': resolution})
    got = np.array(answer, np.uint8).reshape(3, *known.shape).transpose(1, 2, 0)
    np.testing.assert_array_equal(got[known], image[known])
    apart = np.abs(got.astype(int) - expected)
    # Sums in another order: a level may round the other way, and tiles see it.
    assert apart.max() <= 2 and (apart > 0).mean() < 0.02
    assert (expected != image).any()
