"""What a run takes from outside: images, teacher, metric networks, all checked first.

Everything here raises ValueError before a run has written anything.
"""

import jax
import numpy as np

from migan_jax.data import batches as batches_lib
from migan_jax.data import sources
from migan_jax.devices import replicate
from migan_jax.evaluation import figures
from migan_jax.evaluation.metrics import fid
from migan_jax.evaluation.metrics import inception
from migan_jax.evaluation import networks as networks_lib
from migan_jax.evaluation import report
from migan_jax.model import build
from migan_jax.training import state as state_lib


def check_batch(batch_size, what):
    """Raises ValueError unless the devices can share a global batch equally."""
    devices = jax.device_count()
    if batch_size < 1 or batch_size % devices:
        raise ValueError(
            f'{what} is {batch_size}; expected a positive multiple of the {devices} '
            f'{jax.default_backend()} devices.')


def open_teacher(config):
    """The teacher that a config distils from, and its parameters on every device.

    Returns:
      function, replicated parameters, see `state.load_teacher`; (None, None) without
      distillation.

    Raises:
      ValueError: one is wanted and none is named.
      state.CheckpointError: it can't be this config's teacher.
    """
    if not config.loss.distillation_weight:
        return None, None
    if not config.teacher.checkpoint:
        raise ValueError(
            'this config distils from a Co-Mod-GAN teacher '
            f'(loss.distillation_weight={config.loss.distillation_weight}): name one with '
            '--config.teacher.checkpoint=DIR, made by tools/from_torch.py '
            '--kind=comodgan from published weights or trained on your own images with '
            'configs/comodgan_*.py, or train without one with '
            '--config.loss.distillation_weight=0.')
    teacher, variables = state_lib.load_teacher(
        config.teacher.checkpoint, config.model.resolution, config.teacher.dtype)
    return teacher, replicate(variables)


def check(config):
    """Checks what needs no file.

    Raises:
      ValueError: fields that can't work, or not together.
    """
    check_batch(config.train.batch_size, 'train.batch_size')
    check_batch(config.eval.batch_size, 'eval.batch_size')
    if config.loss.path_length_weight and not build.is_comodgan(config):
        raise ValueError(
            f'loss.path_length_weight is {config.loss.path_length_weight}, but MI-GAN has '
            'no latent whose path could have a length: set it to 0.')
    if config.train.on_divergence not in ('stop', 'rollback'):
        raise ValueError(f'train.on_divergence is {config.train.on_divergence!r}; '
                         'expected stop or rollback.')


def open_networks(config, count):
    """The metric networks of evaluation during training.

    Args:
      config: of the run.
      count: of images that an evaluation sees.

    Returns:
      `networks_lib.Networks` on the host, without those that such an evaluation can't use;
      protocol of `inception.PROTOCOLS`; {'fid' or 'lpips': why it is left out}.

    Raises:
      ValueError: config.eval.networks can't be read.
    """
    path, side = config.eval.networks, config.model.resolution
    if not path:
        why = ('FID and LPIPS left out: config.eval.networks is empty; '
               'tools/prepare_metrics.py makes that file from published weights.')
        return networks_lib.Networks(), inception.PAPER, dict.fromkeys(('fid', 'lpips'), why)
    protocol, loaded = networks_lib.read_networks(path)
    networks = loaded.networks
    left_out = {name: f'{path} was made without it. {why}'
                for name, why in loaded.missing.items()}
    try:
        fid.check_count(count, inception.FEATURES)
    except fid.TooFewSamples as error:
        networks = networks._replace(inception=None)
        left_out['fid'] = f'FID left out: {error}'
    if too_small := report.too_small(side, ('lpips',)):
        networks = networks._replace(lpips=None)
        left_out |= too_small
    return networks, protocol, left_out


def check_best_metric(config, networks, left_out):
    """Raises ValueError unless config.eval.best_metric is a figure that will be there.

    Args:
      config: of the run.
      networks, left_out: from `open_networks`.
    """
    metric, mode = config.eval.best_metric, config.eval.best_mode
    if not metric:
        return
    side = config.model.resolution
    picture, mask = (
        jax.ShapeDtypeStruct((1, side, side, c), np.float32) for c in (3, 1))
    names = set(jax.eval_shape(figures.measure, networks, picture, picture, mask))
    if networks.inception is not None:
        names.add('fid')
    if metric not in names:
        why = f' {left_out[metric]}' if metric in left_out else ''
        raise ValueError(
            f'eval.best_metric is {metric!r}, which the evaluation of this run does '
            f'not give; it gives {", ".join(sorted(names))}.{why}')
    better = {figure.name: figure.better for figure in figures.FIGURES}[metric]
    expected = 'min' if better == 'lower' else 'max'
    if mode != expected:
        raise ValueError(f'eval.best_mode is {mode!r}; expected {expected!r}, as '
                         f'eval.best_metric is {metric!r}.')


def open_sources(data_config):
    """Training and evaluation images.

    With both splits empty, images are held out without being asked: the embedded
    photographs' own test regions, TFDS's `validation`, else the first 5 % (at least
    one) of a folder or zip.

    Returns:
      two sources of `sources.open_source`.

    Raises:
      ValueError: no images, unknown source or split; says what there is.
    """
    kind = data_config.source
    opened = lambda split: sources.open_source(
        kind, path=data_config.path, name=data_config.name, split=split,
        cache_mb=data_config.cache_mb, max_pixels=data_config.max_pixels)
    train_split, eval_split = data_config.train_split, data_config.eval_split
    if not train_split and not eval_split:
        if kind == 'embedded':
            train_split, eval_split = 'train', 'test'
        elif kind == 'tfds':
            train_split, eval_split = 'train', 'validation'
        else:
            # Listed once: a folder of millions takes seconds.
            whole = opened('')
            count = len(whole)
            if count < 2:
                raise ValueError(
                    f'{data_config.path} holds {count} image; one is held out for '
                    'evaluation, so training needs at least two.')
            held_out = max(1, count // 20)
            return whole.part(f'[{held_out}:]'), whole.part(f'[:{held_out}]')
    return opened(train_split), opened(eval_split)


def eval_batches(source, config):
    """Batches of `batches_lib.eval_batches` for this host."""
    per_host = config.eval.batch_size // jax.process_count()
    return batches_lib.eval_batches(
        source, resolution=config.model.resolution, batch_size=per_host,
        host_index=jax.process_index(), host_count=jax.process_count(),
        crop=config.data.eval_crop, limit=config.eval.limit or None)
