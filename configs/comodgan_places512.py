"""A Co-Mod-GAN teacher at 512 x 512 on Places365, with StyleGAN2's settings.

Command:  python -m migan_jax.main --config configs/comodgan_places512.py \\
              --workdir runs/comodgan_places512 \\
              --config.data.path=/data/places365_large
Use:      --config.teacher.checkpoint=runs/comodgan_places512 with configs/places512.py.
Cost:     50 million images, 1.56 million iterations of batch 32, as in the Co-Mod-GAN paper.
Expected: FID 8.05, LPIPS .343 on Places2 validation, as published for Co-Mod-GAN; not yet
          reproduced with this code.
"""

import ml_collections

from migan_jax.configs import comodgan_places256
from migan_jax.configs import places512


def get_config() -> ml_collections.ConfigDict:
    config = comodgan_places256.as_teacher(places512.get_config())
    config.train.kimg = 50_000.0
    return config
