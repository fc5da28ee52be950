"""The smallest runs of the training loop, and their final states."""

import jax
import numpy as np

from configs import default
from migan_jax import checkpoint as checkpoint_lib
from migan_jax.model import build
from migan_jax.training import state as state_lib

BATCH = 8   # one image for each of the eight virtual devices


def tiny_config(steps, kind='migan'):
    """A config of the smallest model of a kind, for a number of iterations."""
    config = default.get_config()
    config.model.kind = kind
    config.model.resolution, config.model.ch_base, config.model.ch_max = 16, 64, 8
    config.model.comodgan.z_dim = config.model.comodgan.w_dim = 8
    config.model.comodgan.mapping_layers = 2
    config.model.comodgan.global_dim = 16
    config.data.source, config.data.crop, config.data.workers = 'embedded', 'random', 1
    config.data.min_crop = 0.5
    config.mask.hole_range, config.mask.brush_width = (0.05, 0.6), (1, 4)
    config.train.batch_size = config.eval.batch_size = BATCH
    config.train.kimg = steps * BATCH / 1000
    config.loss.distillation_weight = 0.0
    config.loss.distillation_min_resolution = 8
    config.loss.r1_interval = 3
    config.eval.limit, config.eval.grid_rows = 10, 3
    config.eval.every_kimg = config.checkpoint.every_kimg = 1000.0
    config.log.every_kimg = 2 * BATCH / 1000
    return config.lock()


def final_state(workdir):
    """TrainState of the newest checkpoint of a workdir."""
    config = checkpoint_lib.load_config(workdir)
    models = state_lib.build_models(config)
    abstract = state_lib.abstract_state(models, config.model.resolution)
    manager = checkpoint_lib.checkpoint_manager(workdir, read_only=True)
    state = checkpoint_lib.restore(manager, abstract)
    manager.close()
    return state


def random_deployed(config, seed=0):
    """Drawn variables of a config's deployed generator."""
    generator = build.build_generator(config, fused=True)
    return jax.device_get(jax.jit(
        lambda: build.init_generator(generator, jax.random.key(seed)))())


def with_noise(variables, strength):
    """Variables with drawn biases and a strength of noise; both are 0 at first."""
    rng = np.random.default_rng(0)

    def filled(path, leaf):
        if path[-1].key == 'strength':
            return np.float32(strength)
        if path[-1].key == 'bias':
            return rng.standard_normal(leaf.shape).astype(np.float32)
        return leaf

    return jax.tree_util.tree_map_with_path(filled, variables)
