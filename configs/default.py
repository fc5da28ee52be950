"""Every field of a config, with the published settings of the 256 model.

Command:  not meant to be run; the files beside it override it.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The full ConfigDict."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    # Start from the generator of this checkpoint directory (fine-tuning).
    config.init_from = ''

    config.model = model = ml_collections.ConfigDict()
    model.kind = 'migan'             # or comodgan, the teacher
    model.resolution = 256
    model.ch_base = 32768            # channels at r: min(ch_base / r, ch_max)
    model.ch_max = 512
    model.depthwise = True           # False: plain 3x3 convolutions (ablation)
    model.branches = 9               # re-parametrised kernels; 0: one plain kernel
    model.materialize_branches = False   # True: keep all branches, same trajectory
    # Holes start from a smooth continuation of the known colours, made in so many passes
    # per level, see migan_jax/model/fill.py; not in the paper.
    model.fill = False
    model.fill_passes = 8
    model.noise_at_4x4 = True        # as in Table S.4; the published weights: False
    model.dtype = 'float32'          # of activations; 'bfloat16' on TPU
    # Of Co-Mod-GAN only, as published.
    model.comodgan = ml_collections.ConfigDict()
    model.comodgan.z_dim = 512
    model.comodgan.w_dim = 512
    model.comodgan.mapping_layers = 8
    model.comodgan.global_dim = 1024
    model.comodgan.dropout = 0.5     # of the global feature, in training

    config.teacher = teacher = ml_collections.ConfigDict()
    teacher.checkpoint = ''          # a Co-Mod-GAN's directory, see README
    teacher.dtype = 'float32'        # of its convolutions; 'bfloat16' on TPU

    config.data = data = ml_collections.ConfigDict()
    data.source = 'folder'           # folder, zip, tfds, embedded
    data.path = ''                   # folder, zip file, or TFDS data_dir (also gs://)
    data.name = ''                   # TFDS builder, e.g. places365_small
    data.train_split = ''            # empty: what the source has, see docs/your_data.md
    data.eval_split = ''
    # Where the source has no such parts: this share, drawn by the seed; or the first
    # so many images by name, if that leaves more to train on.
    data.held_out = 0.05
    data.held_out_first = 0
    data.crop = 'squash'             # squash, center, random
    data.min_crop = 1.0              # random: smallest side, share of the shorter side
    data.eval_crop = 'squash'        # squash, center
    data.flip = True
    # Turned, in other colours, darker or brighter: for tens of photographs.
    data.augment = False
    # Folder of masks of one's own, white = known, for this share of training samples; the
    # others, and evaluation, have free-form ones.
    data.masks = ''
    data.masks_share = 0.5
    data.cache_mb = 0                # decoded images kept in memory
    data.max_pixels = 100_000_000    # larger images are refused
    data.workers = 4
    data.prefetch = 8

    config.mask = mask = ml_collections.ConfigDict()
    mask.hole_range = (0.0, 1.0)     # share of pixels to be painted
    mask.brush_width = (12, 48)      # pixels
    # Share of training samples with object-shaped holes, among those without a mask of
    # data.masks; not in the paper.
    mask.objects_share = 0.0

    config.train = train = ml_collections.ConfigDict()
    train.kimg = 50_000.0            # thousands of images
    train.batch_size = 32            # over all devices
    # Parts in which a device takes its share of a batch: less memory, the same step.
    train.accumulate = 1
    # So many at the start train the discriminator alone: fine-tuning without one.
    train.d_only_kimg = 0.0
    train.freeze_encoder = False     # fine-tuning: the encoder stays that of init_from
    train.max_nonfinite_steps = 20   # in a row, then training has diverged
    train.on_divergence = 'stop'     # or rollback: to the last checkpoint, other data
    train.max_rollbacks = 3          # in all, then training stops

    config.optim = optim = ml_collections.ConfigDict()
    optim.g_lr = 1e-3
    optim.d_lr = 1e-3
    optim.g_b1 = 0.0                 # of Adam
    # The published G settings keep the correction of a path-length step every 4
    # iterations, though none is taken.
    optim.g_lazy_interval = 4
    # Learning rates fall linearly to 0 over this end of train.kimg; 0: they don't.
    optim.decay_kimg = 0.0
    # They rise linearly over so many thousand images at the start; 0: at once.
    optim.warmup_kimg = 0.0

    config.ema = ema = ml_collections.ConfigDict()
    ema.kimg = 20.0                  # half-life
    ema.rampup = 0.0                 # half-life at most this share of images seen

    config.loss = loss = ml_collections.ConfigDict()
    loss.r1_gamma = 10.0
    loss.r1_interval = 16
    loss.distillation_weight = 2.0
    loss.distillation_min_resolution = 32
    loss.adversarial_weight = 1.0        # 0: neither D nor R1; not in the paper
    loss.reconstruction_weight = 0.0     # L1 on composites; not in the paper
    loss.path_length_weight = 0.0        # Co-Mod-GAN only; StyleGAN2 has 2
    loss.path_length_interval = 4

    config.eval = evaluation = ml_collections.ConfigDict()
    evaluation.every_kimg = 500.0
    evaluation.batch_size = 32
    evaluation.limit = 0             # images; 0: all
    evaluation.seed = 1              # of the masks, one per image name
    evaluation.grid_rows = 8
    # File of tools/prepare_metrics.py, for FID (over more than 2048 images) and LPIPS;
    # '': both are left out.
    evaluation.networks = ''
    evaluation.best_metric = 'hole_psnr'     # or psnr, ssim, hole_l1, lpips, fid
    evaluation.best_mode = 'max'             # 'min' for hole_l1, lpips and fid

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every_kimg = 100.0
    checkpoint.keep_last = 2         # besides the best

    config.log = ml_collections.ConfigDict()
    config.log.every_kimg = 3.2
    return config.lock()
