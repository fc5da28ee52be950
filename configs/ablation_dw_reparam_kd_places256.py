"""Ablation: nine branches and distillation, at the schedule of the other ablations.

Command:  python -m migan_jax.main --config configs/ablation_dw_reparam_kd_places256.py \\
              --workdir runs/ablation_dw_reparam_kd \\
              --config.data.path=gs://your-bucket/tensorflow_datasets
Teacher:  name a Co-Mod-GAN with --config.teacher.checkpoint=DIR: published weights read
          by tools/from_torch.py --kind=comodgan, or your own from comodgan_places256;
          without one, train with --config.loss.distillation_weight=0.
Cost:     30 million images.  937,500 iterations of batch 32.
Expected: the best of the three ablations; not yet reproduced with this code.
"""

import ml_collections

from migan_jax.configs import places256


def get_config() -> ml_collections.ConfigDict:
    config = places256.get_config()
    config.train.kimg = 30_000.0
    return config
