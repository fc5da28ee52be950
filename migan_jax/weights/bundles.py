"""A trained generator as a folder for others: weights, config and model card.

    DIR/model.safetensors   tensors under their published names, with metadata
    DIR/config.json         fields of the model, of its masks and of the card
    DIR/README.md           the model card, as model hubs show it

Names and layouts of the tensors are those of the published PyTorch code (`torch_map`),
so that other programs can read the file, too.  Nothing in it can run code.
"""

import json
import math
import os
import pathlib
import shutil
from typing import Any, NamedTuple
import uuid

import ml_collections
import numpy as np
import safetensors
import safetensors.numpy

from migan_jax.weights import torch_map
from migan_jax.model import build
from migan_jax.model.fill import FLAG as FILL_FLAG
from migan_jax.model.fill import flag_value
from migan_jax.model.layers import channels

WEIGHTS, CONFIG, CARD = 'model.safetensors', 'config.json', 'README.md'

# The groups of a config that say something about the generator: paths stay at home.
_KEPT = ('model', 'mask')

_POLARITY = '1 (255, white) = known, 0 (black) = hole'


class BundleError(ValueError):
    """A folder of this kind can't be read or written; the message says why."""


class Card(NamedTuple):
    """What people want to know of a model before they use it.

    Attributes:
      name: of the model, the card's title.
      data: what it was trained on.
      licence: of the weights, an SPDX name such as 'MIT'; '' if nobody has said.
      step: iteration of the checkpoint; None if not known.
      metrics: {figure: value}, such as {'hole_psnr': 20.3}.
      source: where the weights came from, if not from a training.
      remarks: sentences for the end of the card.
    """
    name: str = 'MI-GAN'
    data: str = 'not said'
    licence: str = ''
    step: int | None = None
    metrics: dict[str, float] = {}
    source: str = ''
    remarks: str = ''


class Bundle(NamedTuple):
    """What `load_bundle` returns.

    Attributes:
      config: ConfigDict with `deployed`, `model` and, if it was saved, `mask`.
      variables: {'params', 'noise', ...} of `build_generator(config, fused=True)`,
        float32.
      card: `Card`.
      half: whether the weights were stored in float16.
    """
    config: ml_collections.ConfigDict
    variables: dict[str, Any]
    card: Card
    half: bool


def card_of(config: ml_collections.ConfigDict) -> Card:
    """What the config of a training says for a card: the data, where they have a name.

    A folder or a zip has none that others know, and its path stays at home.

    Args:
      config: ConfigDict of a checkpoint.
    """
    if config.get('deployed', False) or 'data' not in config:
        return Card()   # weights from outside: nobody here has trained them
    if config.data.source == 'embedded':
        data = 'the photographs that scikit-image and scikit-learn carry'
    elif config.data.source == 'tfds':
        data = f'{config.data.name}, a set of TensorFlow Datasets'
    else:
        return Card()
    return Card(data=f'{data}, from weights that were trained before'
                if config.init_from else data)


def is_bundle(directory: str | os.PathLike) -> bool:
    """Whether `save_bundle` wrote this folder."""
    return os.path.isfile(os.path.join(directory, WEIGHTS))


def save_bundle(directory: str | os.PathLike, config: ml_collections.ConfigDict,
                variables: dict, card: Card = Card(), *, half: bool = False,
                overwrite: bool = False) -> pathlib.Path:
    """Writes a generator's folder: whole, or as it was before.

    Args:
      directory: to be made; its parents are made if missing.
      config: ConfigDict of the checkpoint; `model` and `mask` are stored.
      variables: {'params', 'noise', ...} of `build_generator(config, fused=True)`.
      card: what the model card says.
      half: store float16, half the size; 5e-4 of each value's size is lost.
      overwrite: replace an earlier result of this function.

    Returns:
      Path of the folder.

    Raises:
      BundleError: something else is in its place, a value is not finite or too large
        for float16.
      ValueError: the variables are not this config's.
      OSError: it can't be written.
    """
    directory = pathlib.Path(directory)
    _check_place(directory, overwrite)
    table = _table(config)
    shapes = torch_map.torch_shapes(build.abstract_variables(config, fused=True), table)
    tensors = torch_map.to_torch(variables, table)
    wrong = [f'{name} has {list(array.shape)}, expected {list(shapes[name])}'
             for name, array in tensors.items() if array.shape != shapes[name]]
    if wrong:
        raise BundleError(f'{directory}: the weights are not of this config: '
                          f'{"; ".join(wrong[:8])}.')
    if (flag := _fill_flag(config)) is not None:
        tensors[FILL_FLAG] = flag
    dtype = np.float16 if half else np.float32
    with np.errstate(over='ignore'):
        tensors = {name: tensors[name].astype(dtype) for name in sorted(tensors)}
    damaged = [name for name, array in tensors.items() if not np.isfinite(array).all()]
    if damaged:
        raise BundleError(
            f'{directory}: {len(damaged)} tensors have values that '
            f'{"float16 can not hold" if half else "are not finite"}, such as '
            f'{damaged[0]}' + ('; save it without half.' if half else
                               ': the training diverged; take an earlier checkpoint.'))
    stored = {name: config[name].to_dict() for name in _KEPT if name in config}
    stored |= {'deployed': True, 'card': card._asdict()}
    files = {
        WEIGHTS: safetensors.numpy.save(tensors, _metadata(config, card)),
        CONFIG: (json.dumps(stored, indent=2, sort_keys=True) + '\n').encode(),
        CARD: card_text(config, card, sum(a.nbytes for a in tensors.values()),
                        half).encode(),
    }
    _write(directory, files)
    return directory


def load_bundle(directory: str | os.PathLike) -> Bundle:
    """Reads what `save_bundle` wrote.

    Raises:
      BundleError: a file is missing or damaged, or config.json and the weights are not
        of one model; names the file and what differs.
    """
    directory = pathlib.Path(directory)
    config, card, abstract = _read_config(directory / CONFIG)
    path = directory / WEIGHTS
    tensors, metadata = _read_weights(path)
    expected = _metadata(config, card)
    differing = [f'{key}: {metadata.get(key, "not said")!r}, expected {value!r}'
                 for key, value in expected.items() if metadata.get(key) != value]
    if differing:
        raise BundleError(
            f'{path} is not of the model in {CONFIG}, its metadata differ: '
            f'{"; ".join(differing)}. Copy both files from one folder.')
    table = _table(config)
    shapes = torch_map.torch_shapes(abstract, table)
    damaged = [name for name, array in tensors.items() if not np.isfinite(array).all()]
    if damaged:
        raise BundleError(
            f'{path}: {len(damaged)} tensors have NaN or infinite values, such as '
            f'{damaged[0]}: download or save it again.')
    expected = _fill_flag(config)
    if (flag := tensors.pop(FILL_FLAG, None)) != expected:
        raise BundleError(
            f'{path} and {CONFIG} do not agree on a starting fill: its {FILL_FLAG} is '
            f'{flag}, expected {expected}. Copy both files from one folder.')
    try:
        variables = torch_map.from_torch(tensors, table, shapes)
    except ValueError as error:
        raise BundleError(f'{path}: {error}') from error
    variables = {name: tree for name, tree in variables.items() if tree}
    return Bundle(config, variables, card,
                  any(array.dtype == np.float16 for array in tensors.values()))


def card_text(config: ml_collections.ConfigDict, card: Card, size: int,
              half: bool) -> str:
    """The model card, Markdown behind the YAML head that hubs read.

    Args:
      config, card: see `save_bundle`.
      size: bytes of the weights.
      half: whether they are float16.
    """
    model = config.model
    kind = _kind(config)
    side, widths = model.resolution, [
        channels(r, model.ch_base, model.ch_max) for r in (model.resolution, 4)]
    licence = _one_line(card.licence)
    head = ['---', 'library_name: migan_jax', 'pipeline_tag: image-to-image',
            'tags:', '- inpainting', '- jax', '- flax']
    if licence:
        head.append(f'license: {json.dumps(licence.lower())}')
    rows = [
        ('paints', f'{side} x {side} pixels; pictures of any size are resized or '
                   'cropped around the hole'),
        ('channels', f'{widths[0]} at {side} x {side}, {widths[1]} at 4 x 4'),
        ('weights', f'{size:,} bytes, {"float16" if half else "float32"}'),
        ('mask', _POLARITY),
        ('input of the network', '[mask - 0.5, image * mask], RGB in [-1, 1]'),
        ('trained on', card.data),
        ('iteration', 'not known' if card.step is None else f'{card.step:,}'),
        ('licence', licence or 'not said: ask whoever made it'),
    ]
    if card.source:
        rows.append(('source', card.source))
    lines = [
        *head, '---', '', f'# {_one_line(card.name)}', '',
        f'{kind}, a generator that fills holes in pictures.', '', '| | |', '|---|---|',
        *(f'| {name} | {_cell(text)} |' for name, text in rows), '',
    ]
    if card.metrics:
        lines += ['## Measured', '', '| figure | value |', '|---|---|', *(
            f'| {_cell(name)} | {value:.4g} |'
            for name, value in sorted(card.metrics.items())), '']
    lines += [
        '## Use', '', '```python', 'import migan_jax', '',
        "model = migan_jax.load('.')       # this folder, or hf://owner/name",
        'painted = model.inpaint(picture, mask)   # mask: True or 255 = known', '```',
        '',
        f'`{WEIGHTS}` has the names and layouts of the published PyTorch code, without '
        'its constant filters.', '']
    if card.remarks:
        lines += [card.remarks, '']
    return '\n'.join(lines)


# --- parts ----------------------------------------------------------------------


def _fill_flag(config):
    """The tensor of a starting fill; None where the model has no such fill."""
    passes = build.fill_passes(config)
    return None if passes is None else flag_value(passes)


def _kind(config):
    return 'Co-Mod-GAN' if build.is_comodgan(config) else 'MI-GAN'


def _table(config):
    """`torch_map` table of a deployed generator."""
    model = config.model
    if build.is_comodgan(config):
        return torch_map.comodgan_table(
            model.resolution, mapping_layers=model.comodgan.mapping_layers)
    return torch_map.generator_table(
        model.resolution, branches=0, depthwise=model.depthwise,
        noise_at_4x4=model.noise_at_4x4, fused=True)


def _metadata(config, card):
    """Metadata of the weights' file, which may come without the rest of the folder."""
    side = config.model.resolution
    return {
        # By which readers of safetensors know the order of the axes.
        'format': 'pt', 'model': _kind(config), 'resolution': str(side),
        'input': f'[mask - 0.5, image * mask], 4 x {side} x {side}',
        'mask_polarity': '1 = known, 0 = hole', 'value_range': '-1 to 1',
        'channel_order': 'mask, red, green, blue; output red, green, blue',
        'licence': card.licence,
        'step': 'unknown' if card.step is None else str(card.step),
    }


def _one_line(text):
    return ' '.join(str(text).split())


def _cell(text):
    return _one_line(text).replace('|', '\\|')


def _check_place(directory, overwrite):
    """Raises BundleError unless the folder is new, empty or to be replaced."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise BundleError(f'{directory} is a file; name a new folder.')
    names = sorted(os.listdir(directory))
    if names and not set(names) <= {WEIGHTS, CONFIG, CARD}:
        others = ', '.join(sorted(set(names) - {WEIGHTS, CONFIG, CARD})[:4])
        raise BundleError(f'{directory} holds other things ({others}): name a new '
                          'folder.')
    if names and not overwrite:
        raise BundleError(f'{directory} holds a saved model: name a new folder, or '
                          'pass overwrite.')


def _write(directory, files):
    """{name: bytes} as a folder that is never seen half-written."""
    directory.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f'.{uuid.uuid4().hex}.tmp')
    previous = directory.with_name(f'.{uuid.uuid4().hex}.old')
    try:
        temporary.mkdir()
        for name, data in files.items():
            (temporary / name).write_bytes(data)
        if directory.exists():
            os.replace(directory, previous)
        try:
            os.replace(temporary, directory)
        except OSError:
            if previous.exists():
                os.replace(previous, directory)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


def _read_config(path):
    """ConfigDict and `Card` of a config.json, and shapes of the generator's variables."""
    try:
        stored = json.loads(path.read_text())
        config = ml_collections.ConfigDict(
            {name: stored[name] for name in _KEPT if name in stored})
        config.deployed = True
        card = Card(**stored['card'])
        _check_card(card)
        abstract = build.abstract_variables(config, fused=True)
    except FileNotFoundError as error:
        raise BundleError(f'{path} is missing: it belongs beside {WEIGHTS}.') from error
    # Whatever a stranger's file makes of the fields that a model needs.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(
            f'{path} does not describe a model ({type(error).__name__}: '
            f'{_one_line(error)}); expected what migan_jax wrote.') from error
    return config, card, abstract


def _check_card(card):
    texts = (card.name, card.data, card.licence, card.source, card.remarks)
    step, metrics = card.step, card.metrics
    if not (all(isinstance(text, str) for text in texts)
            and (step is None or isinstance(step, int)) and isinstance(metrics, dict)
            and all(isinstance(value, (int, float)) and math.isfinite(value)
                    for value in metrics.values())):
        raise ValueError('card: a field has another type than in migan_jax')


def _read_weights(path):
    """{name: array} and metadata of a safetensors file."""
    try:
        with safetensors.safe_open(path, framework='numpy') as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    # Headers that are valid JSON but nonsense raise KeyError, TypeError and others.
    except Exception as error:
        raise BundleError(f'{path} can not be read, it is missing, truncated or '
                          f'something else: {_one_line(error)}') from error
    unknown = sorted({str(a.dtype) for a in tensors.values()} - {'float16', 'float32'})
    if unknown:
        raise BundleError(f'{path} holds {", ".join(unknown)}; expected float32 or '
                          'float16.')
    return tensors, metadata
