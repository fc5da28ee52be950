"""MI-GAN at 256 x 256 on FFHQ, the published schedule.

Command:  python -m migan_jax.main --config configs/ffhq256.py --workdir runs/ffhq256 \\
              --config.data.path=/data/ffhq.zip
Data:     the published zip (or a folder: --config.data.source=folder); the first 10,000
          images are for validation.
Teacher:  name a Co-Mod-GAN with --config.teacher.checkpoint=DIR: published weights read
          by tools/from_torch.py --kind=comodgan, or your own from comodgan_ffhq256;
          without one, train with --config.loss.distillation_weight=0.
Cost:     50 million images.  1.56 million iterations of batch 32.
Expected: PSNR 16.32, SSIM .590 (the supplement's Table 3), as published for these
          settings; not yet reproduced with this code.
"""

import ml_collections

from migan_jax.configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.model.dtype = config.teacher.dtype = 'bfloat16'
    config.data.source = 'zip'
    config.data.held_out_first = 10_000
    return config
