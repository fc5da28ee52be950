"""A Co-Mod-GAN teacher at 256 x 256 on Places365, with StyleGAN2's settings.

Command:  python -m migan_jax.main --config configs/comodgan_places256.py \\
              --workdir runs/comodgan_places256 \\
              --config.data.path=gs://your-bucket/tensorflow_datasets
Use:      --config.teacher.checkpoint=runs/comodgan_places256 with configs/places256.py.
Cost:     50 million images, 1.56 million iterations of batch 32, as in the Co-Mod-GAN paper.
Expected: FID 9.32, LPIPS .397 on Places2 validation, as published for Co-Mod-GAN; not yet
          reproduced with this code.
"""

import ml_collections

from migan_jax.configs import places256


def get_config() -> ml_collections.ConfigDict:
    """The full ConfigDict."""
    return as_teacher(places256.get_config())


def as_teacher(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Turns the config of a student into that of its teacher."""
    config.model.kind = 'comodgan'
    config.loss.distillation_weight = 0.0
    # StyleGAN2's rates.  No step of the generator's own regulariser: the path-length
    # term is off (--config.loss.path_length_weight=2 --config.optim.g_lazy_interval=4).
    config.optim.g_lr = config.optim.d_lr = 0.002
    config.optim.g_lazy_interval = 0
    return config
