"""The model that comes with a clone, models/demo: 128 x 128, narrow channels.

Command:  python -m migan_jax.main --config configs/demo.py --workdir runs/demo
          (tools/train_demo.sh does this with the photographs that it fetches)
Cost:     tens of CPU hours, or an hour on a GPU; it resumes.
Expected: see models/demo/README.md.
"""

import ml_collections

from migan_jax.configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.model.resolution = 128
    config.model.ch_base = 1024
    config.model.ch_max = 128
    config.model.fill = True
    config.model.noise_at_4x4 = False

    config.data.source = 'folder'
    config.data.path = ''
    config.data.train_split = 'train'
    config.data.eval_split = 'test'
    config.data.crop = 'random'
    config.data.min_crop = 0.3
    config.data.augment = True
    config.data.eval_crop = 'center'
    config.data.cache_mb = 512
    config.data.workers = 1
    config.data.prefetch = 2

    # The shapes of a 256 x 256 picture's holes, at half the size.
    config.mask.hole_range = (0.02, 0.65)
    config.mask.brush_width = (6, 24)

    config.train.kimg = 2000.0
    config.train.batch_size = 8
    config.loss.adversarial_weight = 0.0
    config.loss.reconstruction_weight = 1.0
    config.loss.distillation_weight = 0.0
    config.optim.g_lr = 0.002
    config.optim.g_b1 = 0.9
    config.optim.g_lazy_interval = 0
    config.ema.kimg = 2.0
    config.ema.rampup = 0.05

    config.eval.every_kimg = 4.0
    config.eval.batch_size = 5
    config.checkpoint.every_kimg = 1.0
    config.log.every_kimg = 0.4
    return config
