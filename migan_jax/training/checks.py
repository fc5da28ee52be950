"""What the fields of a config may be: checked in one go, before a run writes anything."""

from collections.abc import Callable
import math
import numbers
import re
from typing import Any, NamedTuple

import jax
import ml_collections

from migan_jax.configs import default
from migan_jax.data import batches
from migan_jax.data import masks
from migan_jax.data import sources
from migan_jax.evaluation import figures
from migan_jax.model.layers import std_group
from migan_jax import storage


class Rule(NamedTuple):
    """What a field may be.

    Attributes:
      expected: in words.
      holds: whether a value is.
    """
    expected: str
    holds: Callable[[Any], bool]


def _is_number(value):
    return (isinstance(value, numbers.Real) and not isinstance(value, bool)
            and math.isfinite(value))


def _is_whole(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _whole(least, most=math.inf):
    return Rule(f'a whole number from {least}' + (
        '' if most == math.inf else f' to {most}'),
        lambda value: _is_whole(value) and least <= value <= most)


def _one_of(*values):
    # A bool is no number here, though Python counts it among them.
    return Rule('one of ' + ', '.join(str(v) or "''" for v in values), lambda value: any(
        type(value) is type(v) and value == v for v in values))


_POSITIVE = Rule('a number above 0', lambda value: _is_number(value) and value > 0)
_FROM_0 = Rule('a number from 0', lambda value: _is_number(value) and value >= 0)
_SHARE = Rule('a number above 0, at most 1',
              lambda value: _is_number(value) and 0 < value <= 1)
_PART = Rule('a number above 0 and below 1',
             lambda value: _is_number(value) and 0 < value < 1)
_FROM_0_BELOW_1 = Rule('a number from 0 and below 1',
                       lambda value: _is_number(value) and 0 <= value < 1)
_SWITCH = _one_of(True, False)
_PAIR = Rule('two numbers', lambda value: (
    isinstance(value, (tuple, list)) and len(value) == 2
    and all(map(_is_number, value))))
_TEXT = Rule('text', lambda value: isinstance(value, str))
# Seeds that every generator of random numbers takes.
_SEED = _whole(0, 2**31 - 1)

# Of fields that say more than their default does, see `_rules`. An interval of 0 is no way
# to say never: one beyond train.kimg is.
_OWN_RULES = {
    'seed': _SEED,
    'init_from': _TEXT,
    'model.kind': _one_of('migan', 'comodgan'),
    'model.resolution': _whole(1),
    'model.ch_base': _whole(1),
    'model.ch_max': _whole(1),
    'model.branches': _whole(0),
    'model.fill_passes': _whole(0),
    'model.dtype': _TEXT,
    'model.comodgan.z_dim': _whole(1),
    'model.comodgan.w_dim': _whole(1),
    'model.comodgan.mapping_layers': _whole(1),
    'model.comodgan.global_dim': _whole(1),
    'model.comodgan.dropout': _FROM_0_BELOW_1,
    'teacher.checkpoint': _TEXT,
    'teacher.dtype': _TEXT,
    'data.source': _one_of(*sources.KINDS),
    'data.path': _TEXT,
    'data.name': _TEXT,
    'data.train_split': _TEXT,
    'data.eval_split': _TEXT,
    'data.held_out': _PART,
    'data.held_out_first': _whole(0),
    'data.crop': _one_of(*batches.CROPS),
    'data.min_crop': _SHARE,
    'data.eval_crop': _one_of('squash', 'center'),
    'data.masks': _TEXT,
    'data.masks_share': _SHARE,
    'data.cache_mb': _FROM_0,
    'data.max_pixels': _whole(1),
    'data.workers': _whole(1),
    'data.prefetch': _whole(1),
    'mask.hole_range': _PAIR,
    'mask.brush_width': _PAIR,
    'mask.objects_share': Rule('a number from 0 to 1', lambda value: (
        _is_number(value) and 0 <= value <= 1)),
    'train.kimg': _POSITIVE,
    'train.batch_size': _whole(1),
    'train.accumulate': _whole(1),
    'train.d_only_kimg': _FROM_0,
    'train.max_nonfinite_steps': _whole(1),
    'train.on_divergence': _one_of('stop', 'rollback'),
    'train.max_rollbacks': _whole(0),
    'optim.g_lr': _FROM_0,
    'optim.d_lr': _FROM_0,
    'optim.g_b1': _FROM_0_BELOW_1,
    'optim.g_lazy_interval': _whole(0),
    'optim.decay_kimg': _FROM_0,
    'optim.warmup_kimg': _FROM_0,
    'ema.kimg': _FROM_0,
    'ema.rampup': _FROM_0,
    'loss.r1_gamma': _FROM_0,
    'loss.r1_interval': _whole(1),
    'loss.distillation_min_resolution': _whole(4),
    'loss.path_length_interval': _whole(1),
    'eval.every_kimg': _POSITIVE,
    'eval.batch_size': _whole(1),
    'eval.limit': _whole(0),
    'eval.seed': _SEED,
    'eval.grid_rows': _whole(1),
    'eval.networks': _TEXT,
    'eval.best_metric': _one_of(
        '', *(figure.name for figure in figures.FIGURES if figure.better)),
    'eval.best_mode': _one_of('max', 'min'),
    'checkpoint.every_kimg': _POSITIVE,
    'checkpoint.keep_last': _whole(1),
    'log.every_kimg': _POSITIVE,
}


def fields_of(config: ml_collections.ConfigDict, prefix: str = '') -> dict[str, Any]:
    """{dotted name: value} of a ConfigDict."""
    found = {}
    for name, value in config.items():
        if hasattr(value, 'items'):
            found |= fields_of(value, f'{prefix}{name}.')
        else:
            found[prefix + name] = value
    return found


def _rules():
    """{dotted name: Rule} of all fields of configs/default.py, sorted."""
    rules = {}
    for name, value in fields_of(default.get_config()).items():
        if name in _OWN_RULES:
            rules[name] = _OWN_RULES[name]
        elif isinstance(value, bool):
            rules[name] = _SWITCH
        elif re.fullmatch(r'loss\.\w+_weight', name):
            rules[name] = _FROM_0
        else:
            # For who adds a field, at the first import.
            raise LookupError(f'configs/default.py has a field {name}, and _OWN_RULES in '
                              f'{__file__} does not say what it may be')
    return rules


RULES = _rules()


def check(config: ml_collections.ConfigDict) -> None:
    """Checks all fields, each for itself and some together; opens nothing.

    Args:
      config: ConfigDict of a run.

    Raises:
      ValueError: one line for each field that can't work: its value, what was expected.
    """
    fields = fields_of(config)
    lines = [f'{name} is {fields[name]!r}; expected {rule.expected}.'
             for name, rule in RULES.items()
             if name in fields and not rule.holds(fields[name])]
    if not lines:
        lines = _together(config)
    if lines:
        raise ValueError('\n'.join(lines))


def _together(config):
    """Lines about fields that are fine each for itself."""
    data = config.data
    read_from_disk = {'data.masks': data.masks, 'eval.networks': config.eval.networks}
    if data.source != 'tfds':
        read_from_disk['data.path'] = data.path
    lines = [line for name, path in read_from_disk.items()
             if (line := storage.only_on_disk(name, path))]
    for name in ('train.batch_size', 'eval.batch_size'):
        group, field = name.split('.')
        devices, size = jax.device_count(), config[group][field]
        if size % devices:
            lines.append(f'{name} is {size}; expected a positive multiple of the '
                         f'{devices} {jax.default_backend()} devices.')
    loss, model = config.loss, config.model
    parts, share = config.train.accumulate, config.train.batch_size // jax.device_count()
    groups = share // std_group(share) if share else 0
    if groups and groups % parts:
        lines.append(
            f'train.accumulate is {parts}; expected a divisor of {groups}: a device has '
            f'{share} of the images of a batch, in {groups} groups of {std_group(share)} that '
            'the discriminator compares and that stay whole (train.batch_size is '
            f'{config.train.batch_size}).')
    if parts > 1 and loss.path_length_weight:
        lines.append(
            f'train.accumulate is {parts}, but the path-length step takes half a batch '
            'at once: set loss.path_length_weight to 0, or train.accumulate to 1 and '
            'lower train.batch_size.')
    if loss.path_length_weight and model.kind != 'comodgan':
        lines.append(
            f'loss.path_length_weight is {loss.path_length_weight}, but MI-GAN has no '
            'latent whose path could have a length: set it to 0.')
    if loss.distillation_weight and loss.distillation_min_resolution > model.resolution:
        lines.append(
            f'loss.distillation_min_resolution is {loss.distillation_min_resolution}, '
            f'above model.resolution={model.resolution}: nothing would be distilled; '
            'expected at most the resolution, or loss.distillation_weight=0.')
    if config.train.get('d_only_kimg', 0) >= config.train.kimg:
        lines.append(
            f'train.d_only_kimg is {config.train.d_only_kimg}: the generator would never '
            f'train; expected less than train.kimg={config.train.kimg}.')
    if config.train.get('d_only_kimg', 0) and not loss.adversarial_weight:
        lines.append(
            f'train.d_only_kimg is {config.train.d_only_kimg}, but '
            'loss.adversarial_weight is 0, so there is no discriminator to train: set '
            'one of the two.')
    if config.train.get('freeze_encoder', False) and not config.init_from:
        lines.append(
            'train.freeze_encoder is True, but init_from is empty: an encoder that stays '
            'as it was drawn sees nothing; expected a trained generator in init_from.')
    if model.ch_base < model.resolution:
        lines.append(
            f'model.ch_base is {model.ch_base}: ch_base / resolution channels are less '
            f'than one at model.resolution={model.resolution}; raise it.')
    try:
        jax.eval_shape(lambda key: masks.free_form(
            key, model.resolution, tuple(config.mask.hole_range),
            brush_width=tuple(config.mask.brush_width)), jax.random.key(0))
    except (ValueError, TypeError) as error:
        lines.append(f'mask: {error}.')
    return lines
