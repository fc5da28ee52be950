"""How a process of a run ends: with its sentence, and soon."""

import ctypes
import os
import signal
import sys
import threading

import jax

# A program that has failed and said why is gone in this time.
ERROR_S = 8
# One that is through waits for the other processes first.
DONE_S = 40

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)


def lost_the_others() -> str:
    """What a process says when another one has died."""
    return (f'process {jax.process_index()} of {jax.process_count()} has lost the '
            'others; give the same command on all hosts to go on from the last '
            'checkpoint')


def say_when_aborted() -> None:
    """From now on an abort of JAX's service ends this process with the sentence.

    When another process dies, JAX's client aborts the program from a thread of its own,
    where no exception can be raised: before, while or after the steps fail, as it falls.
    Python's own handlers run too late for that signal, so this one is C's.
    """
    sentence = f'error: {lost_the_others()}\n'.encode()
    _on_abort(lambda _: (os.write(2, sentence), os._exit(1)))


def end_within(failed: bool) -> None:
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
    if failed and jax.process_count() > 1:
        # What there is to say is said.
        _on_abort(lambda _: os._exit(1))
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
