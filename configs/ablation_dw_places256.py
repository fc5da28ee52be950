"""Ablation: depthwise-separable blocks alone, no re-parametrisation, no distillation.

Command:  python -m migan_jax.main --config configs/ablation_dw_places256.py \\
              --workdir runs/ablation_dw --config.data.path=gs://your-bucket/tensorflow_datasets
Cost:     30 million images.  937,500 iterations of batch 32; no teacher needed.
Expected: the weakest of the three ablations; not yet reproduced with this code.
"""

import ml_collections

from migan_jax.configs import places256


def get_config() -> ml_collections.ConfigDict:
    config = places256.get_config()
    config.model.branches = 0
    config.loss.distillation_weight = 0.0
    config.train.kimg = 30_000.0
    return config
