"""Ablation: nine branches and distillation, at the schedule of the other ablations.

Command:  python -m migan_jax.main --config configs/ablation_dw_reparam_kd_places256.py \\
              --workdir runs/ablation_dw_reparam_kd \\
              --config.data.path=gs://your-bucket/tensorflow_datasets
Teacher:  needs a Co-Mod-GAN teacher (the published weights or one trained on your
          data); without one, train with --config.loss.distillation_weight=0.
Cost:     30 million images.  937,500 iterations of batch 32.
Expected: the best of the three ablations; not yet reproduced with this code.
"""

from configs import places256


def get_config():
    config = places256.get_config()
    config.train.kimg = 30_000.0
    return config
