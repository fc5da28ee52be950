"""A small Co-Mod-GAN on the quickstart's photographs: a teacher in minutes.

Command:  python -m migan_jax.main --config configs/comodgan_quickstart.py \\
              --workdir runs/comodgan_quickstart
Use:      --config.teacher.checkpoint=runs/comodgan_quickstart with
          configs/quickstart_distill.py.
Cost:     COST
Expected: EXPECTED
Own data: --config.data.source=folder --config.data.path=PHOTOS
"""

from configs import quickstart


def get_config():
    config = quickstart.get_config()
    config.model.kind = 'comodgan'
    config.model.comodgan.z_dim = config.model.comodgan.w_dim = 64
    config.model.comodgan.mapping_layers = 4
    config.model.comodgan.global_dim = 128
    config.optim.g_lazy_interval = 0
    return config
