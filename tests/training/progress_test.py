"""What the log says of speed, with a clock that only the test moves."""

import pytest

from migan_jax.training import progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, 'perf_counter', lambda: now[0])
    return now


def test_rates_between_two_reports(clock):
    counted = progress.Progress(batch_size=4, total_steps=30)

    def batches():
        while True:
            clock[0] += 1.0   # a second of reading
            yield 'batch'

    reading = batches()
    assert counted.wait(reading) == 'batch'   # before the interval: not counted
    counted.restart(1)
    for step in range(2, 6):
        counted.wait(reading)
        clock[0] += 3.0
        counted.add({'g_loss': step, 'g_nonfinite': 0.0})
    clock[0] += 5.0   # an evaluation
    counted.pause(5.0)
    means, left = counted.report(5)
    # Four iterations in 16 seconds, four of which were spent waiting.
    assert means == pytest.approx(
        {'g_loss': 3.5, 'images_per_second': 1.0, 'data_wait': 0.25})
    assert left == pytest.approx(25 * 4.0)
    counted.restart(5)
    clock[0] += 2.0
    counted.add({})
    assert counted.report(6)[0] == {'images_per_second': 2.0, 'data_wait': 0.0}


@pytest.mark.parametrize('seconds, text', [
    (0, '0:00:00'), (59.6, '0:01:00'), (3661, '1:01:01'), (360_000, '100:00:00')])
def test_duration(seconds, text):
    assert progress.duration(seconds) == text
