"""Trains MI-GAN:  python -m migan_jax.main --config configs/X.py --workdir DIR.

--config DIR/config.json repeats a run, also in another workdir.

On a TPU pod, under SLURM or Open MPI: the same command on every host. Elsewhere also
--coordinator_address=HOST:PORT --num_processes=N --process_id=I.
"""

from collections.abc import Sequence
import sys

from absl import flags
from absl import logging
from ml_collections import config_flags

from migan_jax import cli
from migan_jax import quiet
from migan_jax.training import compiling

with cli.needs('train'), quiet.importing_tensorflow():
    import tensorflow as tf

    from migan_jax.training import distributed
    from migan_jax.training import endings
    from migan_jax.training import loop
    from migan_jax.training.preemption import Preempted
    from migan_jax.training.progress import TrainingDiverged
    from migan_jax.training import saved_config

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file, or the name of a shipped one, such as places256; '
    'override fields with --config.field=value.',
    lock_config=True)
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Where checkpoints, samples and logs go; a run in it is resumed.')
_ALLOW_CHANGES = flags.DEFINE_bool(
    'allow_changes', False, 'Resume though data, masks or losses are not the workdir\'s.')
_COORDINATOR = flags.DEFINE_string(
    'coordinator_address', None, 'host:port of process 0, where no launcher says it.')
_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Processes of this run.')
_PROCESS = flags.DEFINE_integer('process_id', None, 'Which of them this is, from 0.')


def main(argv: Sequence[str]) -> None:
    del argv
    # TensorFlow only reads data: it must not take the accelerator's memory.
    with quiet.stderr_unless_it_fails():
        for kind in ('GPU', 'TPU'):
            tf.config.set_visible_devices([], kind)
    compiling.keep(_WORKDIR.value)
    logging.set_verbosity(logging.INFO)
    with endings.explained():
        try:
            distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
            loop.train(_CONFIG.value, _WORKDIR.value, _ALLOW_CHANGES.value)
        except Preempted as stop:
            logging.info('%s', stop)
        except TrainingDiverged as error:
            raise cli.Failed(str(error)) from error


if __name__ == '__main__':
    # There the flag of a config looks for fields that are overridden.
    sys.argv = saved_config.with_module(sys.argv)
    flags.mark_flags_as_required(['config', 'workdir'])
    cli.run(main)
