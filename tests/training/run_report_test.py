"""The page of a run: curves and samples in one file, renewed when a run goes on."""

import json
import math
import re

import numpy as np
from PIL import Image

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
        'eval/hole_psnr': 20.5, 'eval/mean_fill_hole_psnr': 17.25, 'eval/ssim': math.nan})
    report.write()
    page = (tmp_path / 'report.html').read_text()
    assert page.count('<svg') == 2 and page.count('<polyline') == 4
    assert 'eval/hole_psnr 20.5' in page and 'eval/mean_fill_hole_psnr 17.25' in page
    assert page.count('stroke-dasharray') == 1
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
        assert 0 <= x <= 640 and 0 <= y <= 220


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
