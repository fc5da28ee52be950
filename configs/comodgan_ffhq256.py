"""A Co-Mod-GAN teacher at 256 x 256 on FFHQ, with StyleGAN2's settings.

Command:  python -m migan_jax.main --config configs/comodgan_ffhq256.py \\
              --workdir runs/comodgan_ffhq256 \\
              --config.data.path=/data/ffhq.zip
Use:      --config.teacher.checkpoint=runs/comodgan_ffhq256 with configs/ffhq256.py.
Cost:     25 million images, 781,250 iterations of batch 32, as in the Co-Mod-GAN paper.
Expected: the teacher of the published FFHQ student (the supplement's Table 3); not yet
          reproduced with this code.
"""

import ml_collections

from migan_jax.configs import comodgan_places256
from migan_jax.configs import ffhq256


def get_config() -> ml_collections.ConfigDict:
    config = comodgan_places256.as_teacher(ffhq256.get_config())
    config.train.kimg = 25_000.0
    return config
