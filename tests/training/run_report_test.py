"""The page of a run: curves and samples in one file, renewed when a run goes on."""

import json
import math
import re

import numpy as np
from PIL import Image

from migan_jax.training import charts
from migan_jax.training import progress
from migan_jax.training.run_report import RunReport


def test_page_shows_curves_and_samples(tmp_path):
    (tmp_path / 'samples').mkdir()
    for i in range(20):
        Image.fromarray(np.full((30, 50, 3), i, np.uint8)).save(
            tmp_path / 'samples' / f'{i:06d}.00kimg.png')
    report = RunReport(str(tmp_path), 0)
    for step in range(2000):
        report.add(step, step * 8, {'train/g_loss': 2.0 - step / 2000, 'train/d_loss': 1.0})
    report.add(2000, 16000, {
        'eval/hole_psnr': 20.5, 'eval/mean_fill_hole_psnr': 17.25,
        'eval/telea_hole_psnr': 20.0, 'eval/ssim': math.nan})
    report.write()
    page = (tmp_path / 'report.html').read_text()
    assert page.count('<svg') == 3
    assert '<p>After 16,000 images.</p>' in page
    assert page.count('<circle') == 3   # figures of one evaluation
    for words in ('hole_psnr, last 20.5', 'mean_fill_hole_psnr, last 17.25',
                  'telea_hole_psnr, last 20', 'g_loss, last 1', 'd_loss, last 1'):
        assert words in page
    # Of two baselines the sample in the legend: a single point has no dashes.
    assert page.count('stroke-dasharray') == 2
    assert 'nan' not in re.sub('base64,[^"]*', '', page)
    # The first and the last grid, and few in between.
    assert '000000.00kimg' in page and '000019.00kimg' in page
    assert page.count('<img') == 6
    # Nothing from elsewhere.
    assert 'http' not in re.sub('base64,[^"]*', '', page) and '<script' not in page
    assert len(page) < 200_000
    points = re.findall('points="([^"]*)"', page)
    for point in ' '.join(points).split():
        x, y = map(float, point.split(','))
        assert 0 <= x <= 640 and 0 <= y <= 300
    with Image.open(tmp_path / 'curves.png') as picture:
        assert picture.mode == 'RGB' and picture.width == 1280
        assert 2 * 700 < picture.height < 2 * 900


def test_picture_has_what_the_page_has():
    rising = [(0, 1.0), (10, 3.0)]
    drawn = charts.chart('title', {'a': rising, '-b': [(0, 2.0), (10, 2.0)],
                                   'single': [(5, 1.5)]})
    pixels = np.asarray(charts.picture([drawn])).astype(int)
    near = lambda colour: np.abs(pixels - colour).sum(-1) < 30
    blue, orange, green = (near(colour) for colour in (
        (0x1f, 0x6f, 0xb4), (0xc2, 0x57, 0x1a), (0x5a, 0x8f, 0x29)))
    legend = 2 * (2 * charts._LINE + charts._LINE * 3 + 8)
    # The blue curve goes from below on the left to above on the right.
    rows, columns = np.nonzero(blue[legend:])
    assert rows[columns.argmin()] > rows[columns.argmax()] + 300
    # The orange one is level and has gaps.
    rows, columns = np.nonzero(orange[legend:])
    assert np.ptp(rows) <= 4
    assert 0.5 < len(set(columns)) / np.ptp(columns) < 0.8
    # The single point is a disc, 16 pixels across.
    rows, columns = np.nonzero(green[legend:])
    assert 14 <= np.ptp(rows) <= 17 and 14 <= np.ptp(columns) <= 17
    shapes = charts.svg(drawn)
    assert shapes.count('<polyline') == 1 + 3 + 2 + 3 and shapes.count('<circle') == 1
    assert charts.chart('empty', {}) is None


def test_page_of_few_images_counts_them(tmp_path):
    report = RunReport(str(tmp_path), 0)
    report.add(5, 20, {'eval/ssim': 0.75})
    report.write()
    page = (tmp_path / 'report.html').read_text()
    assert '<p>After 20 images.</p>' in page
    # One point, and the axis says where it is, once.
    assert page.count('<circle') == 1 and page.count(' kimg</text>') == 1
    assert 'text-anchor="middle" fill="#000000">0.02 kimg<' in page


def test_resumed_run_forgets_what_it_does_again(tmp_path):
    report = RunReport(str(tmp_path), 0)
    for step in range(1, 6):
        report.add(step, step * 4, {'train/g_loss': float(step)})
    report.write()
    again = RunReport(str(tmp_path), 3)
    again.add(4, 16, {'train/g_loss': 40.0})
    again.write()
    rows = [json.loads(x) for x in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert [(row['step'], row['train/g_loss']) for row in rows] == [
        (1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
    assert rows[-1]['kimg'] == 0.016


def test_memory_is_that_of_a_process_with_jax():
    assert 0.05 < progress.memory_gib()['host_gib'] < 1000
