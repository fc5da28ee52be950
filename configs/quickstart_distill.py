"""The quickstart's MI-GAN with a teacher: distillation in minutes.

Command:  python -m migan_jax.main --config configs/quickstart_distill.py \\
              --workdir runs/quickstart_distill
Teacher:  runs/comodgan_quickstart, made by configs/comodgan_quickstart.py before;
          another one with --config.teacher.checkpoint=DIR.
Cost:     about 10 minutes on 2 CPU cores, compilation included.
Expected: after 6,000 images (--config.train.kimg=6), means of three seeds: hole PSNR
          19.04 dB, SSIM 0.856; without the teacher 18.88 dB, 0.845.
"""

import ml_collections

from migan_jax.configs import quickstart_adversarial


def get_config() -> ml_collections.ConfigDict:
    config = quickstart_adversarial.get_config()
    config.teacher.checkpoint = 'runs/comodgan_quickstart'
    config.loss.distillation_weight = 100.0
    # An eighth of the resolution, as 32 is of the published 256.
    config.loss.distillation_min_resolution = 8
    return config
