"""The quickstart's model trained as in the paper, against a discriminator.

Command:  python -m migan_jax.main --config configs/quickstart_adversarial.py \\
              --workdir runs/quickstart_adversarial
Cost:     7 minutes on 2 CPU cores, compilation included.
Expected: hole PSNR 20.3 dB on held-out regions with holes of 5 to 40 %, where the mean
          known colour has 17.2: less than configs/quickstart.py, as minutes are too
          short for a discriminator.  What a teacher adds is measured on this one.
"""

import ml_collections

from migan_jax.configs import quickstart


def get_config() -> ml_collections.ConfigDict:
    config = quickstart.get_config()
    config.model.fill = False
    config.data.augment = False
    config.mask.hole_range = (0.05, 0.4)
    config.train.kimg = 16.0
    config.eval.every_kimg = config.checkpoint.every_kimg = 4.0
    config.log.every_kimg = 0.8
    config.loss.adversarial_weight = 1.0
    # Minutes are too short for the adversarial loss alone: L1 finds colours first.
    config.loss.reconstruction_weight = 200.0
    config.optim.g_b1 = 0.0
    config.optim.decay_kimg = 0.0
    config.ema.kimg = 1.0
    return config
