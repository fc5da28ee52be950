"""What libraries write to stderr past Python is kept, and shown when work fails."""

import os

import pytest

from migan_jax import quiet


def test_nothing_is_shown_when_all_goes_well(capfd):
    with quiet.stderr_unless_it_fails():
        os.write(2, b'remark')
    os.write(2, b'after')
    assert capfd.readouterr().err == 'after'


def test_everything_is_shown_when_it_fails(capfd):
    with pytest.raises(ValueError, match='why'):
        with quiet.stderr_unless_it_fails():
            os.write(2, b'remark')
            raise ValueError('why')
    assert capfd.readouterr().err == 'remark'
