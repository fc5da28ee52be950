"""MI-GAN at 256 x 256 on FFHQ, the published schedule.

Command:  python -m migan_jax.main --config configs/ffhq256.py --workdir runs/ffhq256 \\
              --config.data.path=/data/ffhq.zip
Data:     the published zip (or a folder: --config.data.source=folder); the first 10,000
          images are for validation.
Teacher:  needs a Co-Mod-GAN teacher (the published weights or one trained on your
          data); without one, train with --config.loss.distillation_weight=0.
Cost:     50 million images.  1.56 million iterations of batch 32.
Expected: PSNR 16.32, SSIM .590 (the supplement's Table 3), as published for these
          settings; not yet reproduced with this code.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.model.dtype = 'bfloat16'
    config.data.source = 'zip'
    config.data.train_split = '[10000:]'
    config.data.eval_split = '[:10000]'
    return config
