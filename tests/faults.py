"""What goes wrong in several files' tests: pickles that run code, losses that are nan."""

import pathlib

from migan_jax.training import steps as steps_lib


class Touches:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def diverge(monkeypatch):
    """Makes G's loss nan from now on."""
    iterate = steps_lib.iterate

    def diverging(*args):
        state, metrics = iterate(*args)
        return state, metrics | {'g_loss': metrics['g_loss'] * float('nan')}

    monkeypatch.setattr(steps_lib, 'iterate', diverging)
