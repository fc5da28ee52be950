"""Set once for all tests: CPU, eight virtual devices, strict dtype promotion."""

import gc
import os

from processes import QUICK_TO_COMPILE

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['XLA_FLAGS'] = ' '.join((
    os.environ.get('XLA_FLAGS', ''), '--xla_force_host_platform_device_count=8',
    QUICK_TO_COMPILE))
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

from absl import logging
import jax
# Before the files of tests import TensorFlow: keeps it apart from PyTorch.
import migan_jax  # pylint: disable=unused-import
import pytest

jax.config.update('jax_numpy_dtype_promotion', 'strict')
# Most of the suite's time is compilation: a second run finds it on disk.  A folder for
# each process: entries are not written atomically, and one half-written by another
# process can take the reader down.
jax.config.update('jax_compilation_cache_dir', os.path.join(
    os.path.dirname(__file__), '..', '.cache', 'xla',
    os.environ.get('PYTEST_XDIST_WORKER', 'main')))


def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true',
                     help='also run the tests that take minutes each')


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes minutes; runs with --slow only')


def pytest_collection_modifyitems(config, items):
    if not config.getoption('--slow'):
        for item in items:
            if 'slow' in item.keywords:
                item.add_marker(pytest.mark.skip(reason='takes minutes: --slow runs it'))


@pytest.fixture(autouse=True, scope='module')
def forget_compiled_functions():
    """Frees what a file's tests compiled.

    All files' together take 9 GB and more memory mappings than a process may have.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def warnings(monkeypatch):
    """The texts of absl warnings."""
    out = []
    monkeypatch.setattr(logging, 'warning', lambda text, *a: out.append(text % a))
    return out
