"""How a process of a run ends: with its sentence, and soon."""

from collections.abc import Iterator
import contextlib
import ctypes
import os
import re
import signal
import sys
import threading
import time

import jax
# Not public, as in agreement.py; asking the public functions connects the devices, which
# hangs or fails where a process has died.
from jax._src import distributed as jax_distributed

from migan_jax import cli

# A program that has failed and said why is gone in this time.
ERROR_S = 8
# One that is through waits for the other processes first.
DONE_S = 40
# A step that fails because a process has died and JAX's abort come so close together.
ABORT_S = 2
# How messages of XLA begin. On CPU a lost connection is a ValueError with one of them.
_XLA_STATUS = re.compile('(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|UNKNOWN): ')

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)


def several() -> bool:
    """Whether the run has several processes."""
    return jax_distributed.global_state.num_processes > 1


def lost_the_others() -> str:
    """What a process says when another one has died."""
    run = jax_distributed.global_state
    return (f'process {run.process_id} of {run.num_processes} has lost the others; give '
            'the same command on all hosts to go on from the last checkpoint')


def say_when_aborted(sentence: str) -> None:
    """From now on an abort of JAX's service ends this process with exit code 1.

    When another process dies, JAX's client aborts the program from a thread of its own,
    where no exception can be raised: before, while or after the steps fail, as it falls.
    Python's own handlers run too late for that signal, so this one is C's.

    Args:
      sentence: without 'error:'; `lost_the_others()` once they are found.
    """
    line = f'error: {sentence}\n'.encode()
    _on_abort(lambda _: (os.write(2, line), os._exit(1)))


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Around a run: it ends with its sentence, and soon, also when others die.

    Raises:
      cli.Failed: a step, a save or an evaluation did not get through to the others.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        foreseen = isinstance(error, ValueError) and not _XLA_STATUS.match(str(error))
        if foreseen or not several():
            raise
        # An abort brings a long report; where one comes, the sentence comes after it.
        time.sleep(ABORT_S)
        reason = str(error).partition('\n')[0]
        raise cli.Failed(f'{lost_the_others()} ({reason})') from error
    finally:
        _end_within(failed=sys.exc_info()[0] is not None)


def _end_within(failed: bool) -> None:
    """Ends the process, if it has not ended by itself, a while after this.

    Storage that does not answer and processes that have died keep threads of TensorFlow,
    Orbax and JAX waiting for minutes, and Python waits for them.

    Args:
      failed: whether the run has; it then ends sooner, and with exit code 1.
    """
    def end():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(failed))
    if failed and several():
        # The exception on its way says what there is to say.
        _on_abort(lambda _: (time.sleep(ABORT_S), end()))
    timer = threading.Timer(ERROR_S if failed else DONE_S, end)
    timer.daemon = True
    timer.start()


def _on_abort(function):
    """Makes a function the handler of SIGABRT, in C and for any thread."""
    handler = _HANDLER(function)
    # C keeps an address only: the function must live as long as the process.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(handler))
    install = ctypes.CDLL(None).signal
    install.argtypes, install.restype = (ctypes.c_int, _HANDLER), ctypes.c_void_p
    install(signal.SIGABRT, handler)
