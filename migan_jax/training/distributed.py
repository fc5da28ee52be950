"""Several processes as one run: pods, SLURM, Open MPI, or by hand."""

import glob
import os
import pathlib

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np

from migan_jax.training import endings

# A process that does not answer for so long counts as dead, and the others end too.
HEARTBEAT_S = 30
# So long a process that ends waits for the others to end.
SHUTDOWN_S = 20
# Google's PCI vendor, whose accelerators are TPUs.
_TPU_VENDOR = '0x1ae0'


def _on_a_tpu_vm():
    # A notebook's TPU belongs to one host, and has no metadata to ask.
    return 'COLAB_RELEASE_TAG' not in os.environ and any(
        pathlib.Path(file).read_text().strip() == _TPU_VENDOR
        for file in glob.glob('/sys/bus/pci/devices/*/vendor'))


def launcher() -> str | None:
    """Who started this process beside others: 'SLURM', 'Open MPI', 'TPU', or None."""
    several = lambda name: int(os.environ.get(name, '1')) > 1
    if several('SLURM_NTASKS') and 'SLURM_PROCID' in os.environ:
        return 'SLURM'
    if several('OMPI_COMM_WORLD_SIZE'):
        return 'Open MPI'
    if _on_a_tpu_vm() or ',' in os.environ.get('TPU_WORKER_HOSTNAMES', ''):
        return 'TPU'
    return None


def initialize(coordinator_address: str | None = None, num_processes: int | None = None,
               process_id: int | None = None) -> None:
    """Joins the other processes of the run, if there are any.  Call before using JAX.

    Without arguments, asks the launcher: TPU metadata, SLURM or Open MPI. One process
    on its own needs nothing and gets nothing; `num_processes=1` says so where the
    launcher says otherwise.

    Args:
      coordinator_address: 'host:port' of process 0, for the others to connect to.
      num_processes: how many there are.
      process_id: which this one is, from 0.

    Raises:
      ValueError: only some were given, or the launcher does not say enough.
    """
    given = {'--coordinator_address': coordinator_address,
             '--num_processes': num_processes, '--process_id': process_id}
    if num_processes == 1 and coordinator_address is None and not process_id:
        return
    missing = [name for name, value in given.items() if value is None]
    found = launcher()
    if len(missing) == len(given):
        if found is None:
            return
    elif missing:
        raise ValueError(
            f'{", ".join(missing)} missing: pass all of {", ".join(given)}, the same on '
            'every host but for --process_id, or none of them on a TPU pod, under SLURM '
            'or Open MPI.')
    elif not 0 <= process_id < num_processes:
        raise ValueError(f'--process_id is {process_id}; expected 0 to '
                         f'{num_processes - 1}, as --num_processes is {num_processes}.')
    elif ':' not in coordinator_address:
        raise ValueError(f'--coordinator_address is {coordinator_address}; expected '
                         'host:port, the port being free on process 0.')
    apart = (f'the processes of this run ({found or "given by flags"}) do not find each '
             'other')
    advice = ('Pass --coordinator_address=HOST:PORT --num_processes=N --process_id=I, or '
              '--num_processes=1 for a run on this host alone.')
    # Not every failure is raised: JAX's client also aborts.
    endings.say_when_aborted(f'{apart}. {advice}')
    try:
        jax.distributed.initialize(
            coordinator_address, num_processes, process_id,
            heartbeat_timeout_seconds=HEARTBEAT_S,
            shutdown_timeout_seconds=SHUTDOWN_S)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f'{apart}: {error} {advice}') from error
    # Before the devices are asked for: they connect, and a process may die meanwhile.
    endings.say_when_aborted(endings.lost_the_others())
    logging.info('process %d of %d, %d of %d devices are here', jax.process_index(),
                 jax.process_count(), jax.local_device_count(), jax.device_count())


def connect_devices() -> None:
    """Lets the devices of all processes find each other; they have compared their setup.

    Nothing is compiled before this.
    """
    if jax.process_count() == 1:
        return
    # A first collective connects its devices, and on CPU fails if one process comes 30 s
    # after another. Here they come together; later each reads and compiles for itself.
    multihost_utils.sync_global_devices('start')   # one device of each process
    jax.block_until_ready(jax.pmap(lambda x: jax.lax.psum(x, 'devices'), 'devices')(
        np.ones(jax.local_device_count(), np.float32)))   # all, as in the steps
