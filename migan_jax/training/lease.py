"""One workdir, one run: a file in it that the run renews, and that others respect."""

import json
import os
import pathlib
import socket
import threading
import time
from typing import Self
import uuid

from absl import logging

from migan_jax import storage

# Often enough to tell a run from what a crash left, seldom enough for a bucket, where
# each renewal is four requests.
RENEW_S = 30
# A lease that is not renewed for so long is a crashed run's. Watched, not computed: the
# clocks of two hosts need not agree.
STALE_S = 45

_BOOT_ID = pathlib.Path('/proc/sys/kernel/random/boot_id')


class InUse(ValueError):
    """Another run works in this workdir; the message says which."""


def _process():
    """What tells this process from all others on this host, ever."""
    return {'host': socket.gethostname(), 'pid': os.getpid(),
            'boot': _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else '',
            'born': _birth(os.getpid())}


def _birth(pid):
    """Clock ticks from the boot to a process's start; None: there is no such process.

    Numbers of processes are used again, also across a restart of a container.
    """
    try:
        # After the name, which may hold anything.
        fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == 'Z' else fields[19]


class Lease:
    """Holds a workdir; a context that lets go of it.

    A run that ends by itself leaves nothing behind. A crashed one is noticed at once on
    its own host, and by `STALE_S` without a renewal elsewhere.
    """

    def __init__(self, workdir: os.PathLike | str, renew_s: float = RENEW_S,
                 stale_s: float = STALE_S) -> None:
        """Takes the lease of a workdir.

        Raises:
          InUse: another run has it.
        """
        self._workdir, self._renew_s = workdir, renew_s
        self._path = storage.path_of(workdir, 'run.json')
        self._mine = {**_process(), 'token': uuid.uuid4().hex, 'renewals': 0,
                      'started': time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}
        self._lost = None
        self._ended = threading.Event()
        self._check_free(stale_s)
        self._write()
        self._thread = threading.Thread(target=self._renew, daemon=True, name='lease')
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self) -> None:
        """Raises InUse if another run has taken the workdir over."""
        if self._lost:
            raise self._in_use(self._lost)

    def close(self) -> None:
        """Lets go of the workdir."""
        self._ended.set()
        self._thread.join()
        if self._lost:
            return
        try:
            self._path.unlink(missing_ok=True)
        # TensorFlow's errors on a bucket are no OSError. The lease goes stale by itself.
        except Exception as error:
            logging.warning('%s could not be removed: %s', self._path, _line(error))

    def _read(self):
        """The lease that lies there, or None; what is not one is nobody's."""
        try:
            value = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return value if isinstance(value, dict) and 'token' in value else None

    def _write(self):
        storage.write_atomically(self._path, json.dumps(self._mine).encode())

    def _in_use(self, other):
        return InUse(
            f'{storage.shown(self._workdir)} is in use by a run of process '
            f'{other.get("pid")} on {other.get("host")}, started '
            f'{other.get("started")}: two runs would destroy each other\'s checkpoints. '
            'Stop that one, or use another --workdir.')

    def _check_free(self, stale_s):
        other = self._read()
        if other is None:
            return
        here = _process()
        if (other.get('host'), other.get('boot')) == (here['host'], here['boot']):
            if _birth(other.get('pid')) == other.get('born'):
                raise self._in_use(other)
            return
        logging.info(
            '%s was left by a run on %s; waiting up to %d s to see whether it goes on',
            self._path, other.get('host'), stale_s)
        end = time.monotonic() + stale_s
        while time.monotonic() < end:
            time.sleep(min(stale_s / 10, 5))
            now = self._read()
            if now is None:
                return
            if now != other:
                raise self._in_use(now)

    def _renew(self):
        while not self._ended.wait(self._renew_s):
            try:
                found = self._read()
                if found is not None and found['token'] != self._mine['token']:
                    self._lost = found
                    return
                self._mine['renewals'] += 1
                self._write()
            # A full disk or a bucket that is unavailable: the next renewal may succeed,
            # and what a run must save it says itself.
            except Exception as error:
                logging.warning('%s could not be renewed: %s', self._path, _line(error))


def _line(error):
    return str(error).partition('\n')[0]
