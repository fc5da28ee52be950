"""MI-GAN at 512 x 512 on Places365, the published schedule.

Command:  python -m migan_jax.main --config configs/places512.py --workdir runs/places512 \\
              --config.data.path=/data/places365_large
Data:     a folder of the large images (places365_small is 256 x 256).
Teacher:  name a Co-Mod-GAN with --config.teacher.checkpoint=DIR: published weights read
          by tools/from_torch.py --kind=comodgan, or your own from comodgan_places512;
          without one, train with --config.loss.distillation_weight=0.
Cost:     25 million images.  781,250 iterations of batch 32.
Expected: FID 10.00, LPIPS .345; PSNR 16.12, SSIM .597 (the supplement's Table 3), as
          published for these settings; not yet reproduced with this code.
"""

import ml_collections

from migan_jax.configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.model.resolution = 512
    config.model.dtype = config.teacher.dtype = 'bfloat16'
    config.train.kimg = 25_000.0
    config.eval.limit = 10_000
    return config
