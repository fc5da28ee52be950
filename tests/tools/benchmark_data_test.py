"""The benchmark of reading, at a size that takes a second."""

import json

import benchmark
import benchmark_data
import pytest


@pytest.mark.parametrize('resolution', [16, 32])   # one after the other in one process
def test_all_sources_are_timed_beside_decoding(resolution):
    results = list(benchmark_data.measure(
        resolution, count=8, batch_size=4, repeats=1, workers=1))
    assert [result['kind'] for result in results] == ['folder', 'zip', 'tfds']
    for result in results:
        assert result['images_per_s_and_core'] > 0
        assert result['ratio'] == pytest.approx(
            result['images_per_s_and_core'] / result['decode_only_per_s_and_core'])


def test_all_writes_one_file_and_says_what_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, '_ALL', {
        'train': ['--what=train', '--config=configs/missing.py'], 'other': ['--bogus']})
    out = tmp_path / 'all.json'
    assert not benchmark.run_all(str(out))
    results = json.loads(out.read_text())
    assert results['train']['exit_code'] and results['other']['exit_code']
    assert results['machine']['cores'] > 0
