"""Trains MI-GAN:  python -m migan_jax.main --config configs/X.py --workdir DIR."""

import os

# Read when TensorFlow is imported, which then keeps quiet about GPUs it will not use.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

from absl import app
from absl import flags
from absl import logging
import jax
from ml_collections import config_flags
import tensorflow as tf

from migan_jax import state
from migan_jax import train

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file; override fields with --config.field=value.',
    lock_config=True)
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Where checkpoints, samples and logs go; a run in it is resumed.')


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments {argv[1:]}')
    # TensorFlow only reads data: it must not take the accelerator's memory.
    for kind in ('GPU', 'TPU'):
        tf.config.set_visible_devices([], kind)
    if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
        jax.config.update('jax_compilation_cache_dir', os.path.join(
            os.path.dirname(os.path.abspath(_WORKDIR.value)), '.jax_cache'))
    logging.set_verbosity(logging.INFO)
    state.quiet_logs()
    try:
        train.train(_CONFIG.value, _WORKDIR.value)
    except (ValueError, train.TrainingDiverged) as error:
        logging.debug('traceback', exc_info=True)
        raise SystemExit(f'error: {error}') from error


if __name__ == '__main__':
    flags.mark_flags_as_required(['config', 'workdir'])
    app.run(main)
