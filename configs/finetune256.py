"""The published 256 x 256 model, or one of your own, made better on your photographs.

Command:  python -m migan_jax.main --config configs/finetune256.py --workdir runs/tuned \\
              --config.init_from=models/places256 --config.data.path=PHOTOS
Start:    models/places256 is written by tools/from_torch.py; a training workdir of the
          same model does as well, with --config.model.noise_at_4x4=True if it has that.
Cost:     200 thousand images, the first 20 of them for the discriminator alone: published
          weights come without one, and a new one knows nothing that the generator could
          learn from. A GPU; some hundred photographs.
Expected: runs/tuned/report.html begins with the figures before fine-tuning.  Of a
          stand-in at 32 x 32, hole PSNR rises from 16.5 to 17.1 dB in 4 thousand images
          (docs/teachers.md); not yet measured with the published weights.
"""

from configs import default
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.model.noise_at_4x4 = False    # as published

    config.data.crop = 'random'          # few photographs: more to see in each
    config.data.min_crop = 0.5
    config.data.eval_crop = 'center'
    config.data.cache_mb = 2048

    config.train.kimg = 200.0
    config.train.batch_size = 16
    config.train.d_only_kimg = 20.0
    config.optim.g_lr = 2e-4             # close to where it began
    # No teacher, and little time: L1 is what improves what is measured.
    config.loss.reconstruction_weight = 200.0
    config.loss.distillation_weight = 0.0
    # The average starts anew, and soon follows.
    config.ema.kimg = 5.0
    config.ema.rampup = 0.05

    config.eval.every_kimg = 10.0
    config.eval.batch_size = 16
    config.checkpoint.every_kimg = 10.0
    return config
