"""Keeps off the terminal what libraries write there and no reader can act on."""

from collections.abc import Iterator
import contextlib
import glob
import logging as py_logging
import os
import sys
import tempfile
import warnings

from absl import logging


@contextlib.contextmanager
def stderr_unless_it_fails() -> Iterator[None]:
    """Around work that only says on stderr what nobody asked: shown if it raises.

    TensorFlow writes start-up remarks before anyone can set its level, LiteRT and the
    libraries of accelerators whatever was set.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


@contextlib.contextmanager
def importing_tensorflow() -> Iterator[None]:
    """Around importing TensorFlow: no remarks on GPUs it will not use, then or later."""
    # What is 1 was set by JAX, which does that when it is imported first.
    if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':
        os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
    with stderr_unless_it_fails():
        yield


@contextlib.contextmanager
def importing_openvino() -> Iterator[None]:
    """Around importing OpenVINO: it does not report to its makers that it was imported.

    It does where its telemetry package is found and nobody has opted out, from a fork of
    this process, of which JAX and Python warn; where it is not found, it has a stub.
    """
    telemetry = 'openvino_telemetry'
    found = telemetry in sys.modules
    sys.modules.setdefault(telemetry, None)
    try:
        yield
    finally:
        if not found:
            del sys.modules[telemetry]


@contextlib.contextmanager
def torchscript_is_deprecated() -> Iterator[None]:
    """Around calls of torch.jit: it is what IOPaint and pnnx load, deprecated or not.

    Says so as DeprecationWarning, from PyTorch 2.14 on as FutureWarning.
    """
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter('ignore', category)
        yield


def logs_of_programs() -> None:
    """Hides what Orbax logs, JAX below errors, requests, and libtpu without a TPU.

    Orbax writes forty lines about each save and restore and hundreds about a failed one,
    JAX one for every accelerator that a machine has not got, httpx one for every request
    to a hub.  What goes wrong there is raised; the loop and the tools say the rest.  For
    programs (`cli.run`), not for the library.
    """
    _libtpu_without_a_tpu()
    logging.get_absl_handler().addFilter(
        lambda record: 'orbax' not in record.pathname
        and (not record.name.startswith('httpx') or record.levelno >= py_logging.WARNING)
        and ('xla_bridge' not in record.pathname or record.levelno >= py_logging.ERROR))


# One of them is there wherever a process can reach a TPU.
_TPU_FILES = ('/dev/accel*', '/dev/vfio/[0-9]*')


def _libtpu_without_a_tpu() -> None:
    """Answers what libtpu, installed on a machine without a TPU, complains of not knowing.

    JAX tries every platform that is installed, and libtpu writes six lines about host names
    and bounds before it says that there is no TPU, which JAX passes over. It reads the
    variables when it is loaded. Where there is a TPU, and for variables that are set,
    nothing changes.
    """
    if not any(glob.glob(pattern) for pattern in _TPU_FILES):
        os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
        os.environ.setdefault('TPU_HOST_BOUNDS', '1,1,1')


@contextlib.contextmanager
def orbax_warnings() -> Iterator[None]:
    """Around reading a checkpoint: Orbax warns twice that it only reads."""
    def wanted(record):
        return 'orbax' not in record.pathname or record.levelno > py_logging.WARNING

    logger = logging.get_absl_logger()
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


@contextlib.contextmanager
def below_errors(logger: py_logging.Logger) -> Iterator[None]:
    """Around work of which a logger reports more than errors."""
    level = logger.level
    logger.setLevel(py_logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
