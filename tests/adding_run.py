"""A process of a run that only adds numbers: ADDRESS INDEX, of two processes."""

from absl import logging
import jax
import numpy as np

from migan_jax import cli
from migan_jax.training import distributed
from migan_jax.training import endings


def main(argv):
    logging.set_verbosity(logging.INFO)
    with endings.explained():
        distributed.initialize(argv[1], 2, int(argv[2]))
        distributed.connect_devices()
        add = jax.pmap(lambda x: jax.lax.psum(x, 'devices'), 'devices')
        numbers = jax.block_until_ready(add(np.zeros(1, np.float32)))
        logging.info('adding')
        while True:
            numbers = jax.block_until_ready(add(numbers))


if __name__ == '__main__':
    cli.run(main, arguments=True)
