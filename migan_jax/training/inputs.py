"""What a run takes from outside: images, teacher, metric networks, all checked first.

Everything here raises ValueError before a run has written anything.
"""

from collections.abc import Callable, Generator, Mapping
import json
import os
from typing import Any

from absl import logging
import jax
import ml_collections
import numpy as np

from migan_jax import checkpoint as checkpoint_lib
from migan_jax.data import batches as batches_lib
from migan_jax.data import mask_bank
from migan_jax.data import sources
from migan_jax.data import splits
from migan_jax.devices import replicate
from migan_jax.evaluation import figures
from migan_jax.evaluation.metrics import fid
from migan_jax.evaluation.metrics import inception
from migan_jax.evaluation import networks as networks_lib
from migan_jax.evaluation import report
from migan_jax import storage
from migan_jax.training import state as state_lib


def check_batch(batch_size: int, what: str) -> None:
    """Raises ValueError unless the devices can share a global batch equally."""
    devices = jax.device_count()
    if batch_size < 1 or batch_size % devices:
        raise ValueError(
            f'{what} is {batch_size}; expected a positive multiple of the {devices} '
            f'{jax.default_backend()} devices.')


def open_teacher(config: ml_collections.ConfigDict) -> tuple[Callable, Any] | tuple[None, None]:
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


def open_networks(config: ml_collections.ConfigDict, count: int
                  ) -> tuple[networks_lib.Networks, inception.Protocol, dict[str, str]]:
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


def check_best_metric(config: ml_collections.ConfigDict, networks: networks_lib.Networks,
                      left_out: Mapping[str, str]) -> None:
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


def divide(config: ml_collections.ConfigDict,
           workdir: os.PathLike | str = '') -> splits.Division:
    """Training and evaluation images of a config, see `splits.divide`.

    Args:
      config: of the run.
      workdir: of a run; what it holds out already stays held out.

    Returns:
      `splits.Division`.

    Raises:
      ValueError: no images, unknown source or split; says what there is.
    """
    data = config.data
    path = storage.path_of(workdir, 'splits.json') if workdir else None
    known, by_name = (), False
    if path is not None and path.exists():
        try:
            known = list(json.loads(path.read_text())['held_out'] or ())
        except (ValueError, KeyError, TypeError) as error:
            raise checkpoint_lib.CheckpointError(
                f'{path} is not what a run writes ({error!r}); delete it to divide the '
                'images anew.') from error
    elif path is not None:
        # Images that a run of version 0.1 has trained on must not be drawn now.
        by_name = checkpoint_lib.has_checkpoint(workdir)
    return splits.divide(
        lambda split: sources.open_source(
            data.source, path=data.path, name=data.name, split=split,
            cache_mb=data.cache_mb, max_pixels=data.max_pixels),
        data.source, train_split=data.train_split, eval_split=data.eval_split,
        share=data.get('held_out', 0.05), first=data.get('held_out_first', 0),
        seed=config.seed, known=known, by_name=by_name)


def open_masks(config: ml_collections.ConfigDict) -> np.ndarray | None:
    """The bank of masks that a config names, or None; says how many there are.

    Raises:
      ValueError: see `mask_bank.read_bank`.
    """
    if not config.data.masks:
        return None
    bank, left_out = mask_bank.read_bank(
        config.data.masks, config.model.resolution, tuple(config.mask.hole_range))
    logging.info(
        'masks of %s: %d, for %.0f %% of the training samples; %d left out, as their '
        'share of holes is outside mask.hole_range', config.data.masks, len(bank),
        100 * config.data.masks_share, left_out)
    return bank


def save_division(division: splits.Division, workdir: os.PathLike | str) -> None:
    """Writes DIR/splits.json: how images were divided, and the names held out."""
    text = json.dumps({
        'how': division.how, 'train': len(division.train),
        'evaluation': len(division.evaluation), 'held_out': division.held_out}, indent=1)
    storage.write_atomically(
        storage.path_of(workdir, 'splits.json'), (text + '\n').encode())


def eval_batches(source: Any, config: ml_collections.ConfigDict
                 ) -> Generator[dict[str, Any], None, None]:
    """Batches of `batches_lib.eval_batches` for this host."""
    per_host = config.eval.batch_size // jax.process_count()
    return batches_lib.eval_batches(
        source, resolution=config.model.resolution, batch_size=per_host,
        host_index=jax.process_index(), host_count=jax.process_count(),
        crop=config.data.eval_crop, limit=config.eval.limit or None)
