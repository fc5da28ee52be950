"""What a long loop says of itself, with a clock that only the tests move."""

import io

import pytest

from migan_jax import meter
from migan_jax.meter import Meter


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr('tqdm.std.time', lambda: now[0])
    return now


def leaves_nothing(text):
    """Whether the last thing on the line is blanks, with the cursor before them."""
    *_, last, end = text.split('\r')
    return last.strip() == '' and end == '' and '\x1b' not in text and '\n' not in text


def test_a_terminal_shows_a_bar_that_goes(clock):
    terminal = Terminal()
    items = []
    for item in Meter.over('abc', 'pictures', stream=terminal):
        items.append(item)
        clock[0] += 2
    assert items == ['a', 'b', 'c']
    text = terminal.getvalue()
    assert '1/3 [00:02<00:04' in text and 's/pictures' in text
    assert leaves_nothing(text)


def test_what_is_quick_is_not_shown(clock):
    terminal = Terminal()
    for _ in Meter.over('abc', 'pictures', stream=terminal):
        clock[0] += 0.3
    assert terminal.getvalue() == ''


def test_a_file_gets_nothing(clock):
    file = io.StringIO()
    for _ in Meter.over('abc', 'pictures', stream=file):
        clock[0] += 20
    with Meter(3, 'pictures', stream=file) as counted, meter.status(file) as line:
        counted.skip(1)
        clock[0] += 20
        counted.update(1)
        line.set_description_str('reading')
    assert file.getvalue() == ''


def test_a_log_gets_lines_that_count_only_what_took_time(clock):
    said, terminal = [], Terminal()
    with Meter(1000, 'images', title='set', say=said.append, stream=terminal) as counted:
        counted.skip(600)
        clock[0] += 5
        counted.update(50)
        assert said == []
        clock[0] += 5
        counted.update(50)   # ten seconds for 100, 300 are left
        assert said == ['set: 700 of 1,000 images, 00:30 left']
        clock[0] += 1
        counted.update(50)
        assert len(said) == 1
    assert len(said) == 1 and terminal.getvalue() == ''


def test_a_status_is_written_over(clock):
    terminal = Terminal()
    with meter.status(terminal) as line:
        line.set_description_str('migan.onnx: writing')
        line.clear()
        assert leaves_nothing(terminal.getvalue())
        line.set_description_str('short')
    assert 'migan.onnx: writing' in terminal.getvalue()
    assert leaves_nothing(terminal.getvalue())
