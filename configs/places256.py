"""MI-GAN at 256 x 256 on Places365, the published schedule.

Command:  python -m migan_jax.main --config configs/places256.py --workdir runs/places256 \\
              --config.data.path=gs://your-bucket/tensorflow_datasets
Data:     TFDS builder places365_small, prepared once; a folder or zip works as well.
Teacher:  name a Co-Mod-GAN with --config.teacher.checkpoint=DIR: published weights read
          by tools/from_torch.py --kind=comodgan, or your own from comodgan_places256;
          without one, train with --config.loss.distillation_weight=0.
Cost:     50 million images.  1.56 million iterations of batch 32.
Expected: FID 11.83, LPIPS .394 on Places2 validation (36,500 images, free-form
          masks), as published for these settings; not yet reproduced with this code.
"""

import ml_collections

from migan_jax.configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.model.dtype = config.teacher.dtype = 'bfloat16'
    config.data.source = 'tfds'
    config.data.name = 'places365_small'
    config.eval.limit = 10_000
    return config
