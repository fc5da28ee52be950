"""Evaluation of what any method painted, in parts that survive an interruption.

A method is a `Painter`: a checkpoint, another framework's model, or pictures made
earlier.  Known pixels always come from the original, whatever the method returned.
Figures and features are stored part by part under a hash of everything that they
depend on, so that a second run computes only what is not there.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
import hashlib
import io
import itertools
import json
import os
from typing import Any, NamedTuple

from absl import logging
from flax import linen as nn
import jax
import ml_collections
import numpy as np

from migan_jax.data import images as image_files
from migan_jax.data import masks as masks_lib
from migan_jax.devices import AXIS
from migan_jax.devices import replicate
from migan_jax.evaluation.metrics import fid
from migan_jax.evaluation.metrics import ids
from migan_jax.evaluation.metrics import inception
from migan_jax.evaluation import networks as networks_lib
from migan_jax.evaluation import figures as figures_lib
from migan_jax.evaluation import step as evaluation_step
from migan_jax.meter import Meter
from migan_jax.model import io as model_io
from migan_jax import storage

# Images in one stored part: what an interruption can cost at most.
PART = 128
# Raised when the same input would give other figures than before.
_VERSION = 1


class Painter(NamedTuple):
    """A method that fills holes.

    Attributes:
      paint: (stems, u8[B, R, R, 3] originals, u8[B, R, R, 1] masks, 1 = known) ->
        f32[B, R, R, 3] in [-1, 1], known pixels arbitrary.
      identity: stems -> str, a hash of everything besides image and mask that the
        result depends on.
    """
    paint: Callable[[Sequence[str], np.ndarray, np.ndarray], np.ndarray]
    identity: Callable[[Sequence[str]], str]


class Scorer(NamedTuple):
    """The measuring of composites, from `make_scorer`.

    Attributes:
      figures: pmapped (networks, outputs, originals, masks) -> {name: f32[b]} and, with
        an Inception, 'features': f32[b, 2048].
      features: pmapped (networks, originals) -> features; None without an Inception.
      networks: replicated `networks_lib.Networks`.
      identity: str.
      classical: names of the classical figures that are measured besides.
    """
    figures: Callable
    features: Callable | None
    networks: networks_lib.Networks
    identity: str
    classical: tuple[str, ...] = ()


class Results(NamedTuple):
    """What was measured, one row per readable image.

    Attributes:
      names: of the images.
      figures: {name: f64[N]}; nan where an image has nothing to count.
      real, fake: f32[N, 2048] features of originals and composites; None without an
        Inception.
    """
    names: list[str]
    figures: dict[str, np.ndarray]
    real: np.ndarray | None
    fake: np.ndarray | None


def make_scorer(protocol: inception.Protocol, loaded: networks_lib.Loaded,
                classical: Sequence[str] = ()) -> Scorer:
    """The `Scorer` of a protocol.

    Args:
      protocol: of `inception.PROTOCOLS`.
      loaded: from `networks_lib.load_networks`.
      classical: names of classical figures, see `figures.measure_classical`.
    """
    with_features = loaded.networks.inception is not None

    def measure(networks, output, images, masks):
        image = model_io.from_uint8(images)
        mask = masks.astype(np.float32)
        composite = networks_lib.as_judged(
            model_io.composite(output, image, mask), protocol)
        measured = figures_lib.measure(networks, composite, image, mask)
        if with_features:
            measured['features'] = networks_lib.features(networks, protocol, composite)
        return measured

    def features(networks, images):
        return networks_lib.features(networks, protocol, model_io.from_uint8(images))

    networks = loaded.networks
    if jax.tree.leaves(networks):
        networks = replicate(networks)
    return Scorer(
        jax.pmap(measure, AXIS),
        jax.pmap(features, AXIS) if with_features else None, networks,
        json.dumps([_VERSION, protocol.name, loaded.files, *classical], sort_keys=True),
        tuple(classical))


def from_generator(config: ml_collections.ConfigDict, generator: nn.Module,
                   variables: Mapping[str, Any], seed: int) -> Painter:
    """`Painter` of a deployed generator, on all local devices.

    Args:
      config: ConfigDict of the model.
      generator, variables: see `checkpoint.load_deployed`.
      seed: of the masks, from which a latent, where there is one, derives.
    """
    identity = key_of(
        config.model.to_json_best_effort(),
        *(np.asarray(leaf) for leaf in jax.tree.leaves(variables)))
    params = replicate(variables['params'])
    rest = replicate(
        {name: tree for name, tree in variables.items() if name != 'params'})

    def step(params, variables, images, masks, key_data):
        keys = jax.random.wrap_key_data(key_data, impl='threefry2x32')
        return evaluation_step.paint(
            generator, params, variables, model_io.from_uint8(images),
            masks.astype(np.float32), keys)

    step = jax.pmap(step, AXIS)

    def paint(stems, images, masks):
        keys = evaluation_step.mask_keys_of(seed, stems)
        output = step(params, rest, *(_shard(x) for x in (images, masks, keys)))
        return np.asarray(output).reshape(images.shape)

    return Painter(paint, lambda stems: identity)


def mask_maker(resolution: int, bounds: tuple[float, float], brush_width: tuple[int, int],
               seed: int) -> Callable[[Sequence[str]], np.ndarray]:
    """Function stems -> u8[B, R, R, 1] generated masks, 1 = known, on all devices."""
    draw = jax.pmap(lambda key_data: masks_lib.free_form_batch(
        jax.random.wrap_key_data(key_data, impl='threefry2x32'), resolution, bounds,
        brush_width=brush_width), AXIS)

    def make(stems):
        masks = np.asarray(draw(_shard(evaluation_step.mask_keys_of(seed, stems))))
        return masks.reshape(len(stems), resolution, resolution, 1).astype(np.uint8)

    return make


class Parts:
    """Stored parts: .npz files named by a hash of all that their content depends on."""

    def __init__(self, folder: os.PathLike | str) -> None:
        self._folder = folder
        os.makedirs(folder, exist_ok=True)

    def _path(self, key):
        return os.path.join(self._folder, f'{key}.npz')

    def load(self, key: str) -> dict[str, np.ndarray] | None:
        """{name: array} of a key, or None if it has to be computed."""
        path = self._path(key)
        if not os.path.exists(path):
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        # A damaged archive raises whatever zipfile, zlib and NumPy trip over.
        except Exception as error:
            logging.warning('%s is damaged and is computed again: %s', path, error)
            return None

    def save(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Stores {name: array} atomically."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        storage.write_atomically(self._path(key), buffer.getvalue())


def key_of(*content: str | np.ndarray) -> str:
    """Hash of strings and arrays, with their order, shapes and dtypes."""
    digest = hashlib.sha256()
    for item in content:
        if isinstance(item, np.ndarray):
            digest.update(f'{item.dtype}{item.shape}'.encode())
            digest.update(np.ascontiguousarray(item).data)
        else:
            digest.update(f'str{len(item)}:{item}'.encode())
    return digest.hexdigest()[:40]


def measure(batches: Iterable[dict[str, Any]], masks_of: Callable[[Sequence[str]], np.ndarray],
            painter: Painter, scorer: Scorer, parts: Parts, progress: Meter) -> Results:
    """Paints and measures every image, or takes what is stored.

    Args:
      batches: of `batches.eval_batches`, batch size divisible by the local devices.
      masks_of: stems -> u8[B, R, R, 1], 1 = known, 0 = hole.
      painter: `Painter`.
      scorer: `Scorer`.
      parts: `Parts`.
      progress: `Meter` of as many images.

    Returns:
      `Results`; padding and unreadable images are left out.

    Raises:
      ValueError: the method painted values that are not finite, or nothing was
        readable.
    """
    names, rows, real = [], [], []
    for part in _parts_of(batches):
        valid = np.concatenate([batch['valid'] for batch in part])
        stems = [[image_files.stem_of(name) for name in batch['name']] for batch in part]
        flat = sum(stems, [])
        masks = [masks_of(group) for group in stems]
        images = np.concatenate([batch['image'] for batch in part])
        key = key_of(
            'fake', scorer.identity, painter.identity([s for s in flat if s]),
            json.dumps(stems), images, np.concatenate(masks))
        row = parts.load(key)
        stored = row is not None
        if not stored:
            row = _stack([_measure_batch(scorer, painter, *item)
                          for item in zip(stems, part, masks)])
            parts.save(key, row)
        rows.append({name: values[valid] for name, values in row.items()})
        if scorer.features is not None:
            real.append(_originals(scorer, part, images, parts)[valid])
        names += [name for batch in part
                  for name, good in zip(batch['name'], batch['valid']) if good]
        (progress.skip if stored else progress.update)(int(valid.sum()))
    if not names:
        raise ValueError('none of the images is readable.')
    figures = _stack(rows)
    fake = figures.pop('features', None)
    figures = {name: values.astype(np.float64) for name, values in figures.items()}
    return Results(names, figures, np.concatenate(real) if real else None, fake)


def _originals(scorer, part, images, parts):
    """Features f32[n, 2048] of the originals, shared by all methods and masks."""
    key = key_of('real', scorer.identity, images)
    stored = parts.load(key)
    if stored is None:
        stored = {'features': np.concatenate([
            _gather(scorer.features(scorer.networks, _shard(batch['image'])))
            for batch in part])}
        parts.save(key, stored)
    return stored['features']


def _parts_of(batches):
    """Lists of as many batches as make about `PART` images."""
    batches = iter(batches)
    while (first := next(batches, None)) is not None:
        count = max(1, PART // len(first['valid']))
        yield [first, *itertools.islice(batches, count - 1)]


def _measure_batch(scorer, painter, stems, batch, masks):
    """What `Scorer.figures` gives for one batch, on the host, padding included."""
    output = np.asarray(painter.paint(stems, batch['image'], masks), np.float32)
    wrong = ~np.isfinite(output).all((1, 2, 3)) & batch['valid']
    if wrong.any():
        raise ValueError(
            'the method painted values that are not finite for '
            + ', '.join(s for s, bad in zip(stems, wrong) if bad))
    figures = scorer.figures(
        scorer.networks, *(_shard(x) for x in (output, batch['image'], masks)))
    return {name: _gather(values) for name, values in figures.items()} | (
        figures_lib.measure_classical(scorer.classical, batch['image'], masks))


def _shard(x):
    """[B, ...] -> [devices, B / devices, ...]."""
    return x.reshape(jax.local_device_count(), -1, *x.shape[1:])


def _gather(x):
    """What `_shard` shared out, on the host."""
    return np.asarray(x).reshape(-1, *x.shape[2:])


def _stack(rows):
    """[{name: [n, ...]}] -> {name: [sum of n, ...]}."""
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def classical_means(batches: Iterable[dict[str, Any]],
                    masks_of: Callable[[Sequence[str]], np.ndarray]) -> dict[str, float]:
    """What classical methods reach on images that are evaluated.

    Args:
      batches: of `batches.eval_batches`.
      masks_of: stems -> u8[B, R, R, 1], 1 = known, 0 = hole.

    Returns:
      {figure: mean}.

    Raises:
      MissingExtra: OpenCV is not installed.
    """
    rows = []
    for batch in batches:
        masks = masks_of([image_files.stem_of(name) for name in batch['name']])
        measured = figures_lib.measure_classical(
            figures_lib.CLASSICAL, batch['image'], masks)
        rows.append({name: values[batch['valid']] for name, values in measured.items()})
    summary = figures_lib.summarize(_stack(rows), resamples=0)
    return {name: figure['mean'] for name, figure in summary.items()}


def set_figures(results: Results, protocol: inception.Protocol,
                metrics: Collection[str]) -> dict[str, float]:
    """FID, P-IDS and U-IDS of the whole set.

    Args:
      results: `Results` with features.
      protocol: of `inception.PROTOCOLS`.
      metrics: which of 'fid', 'p_ids', 'u_ids'.

    Returns:
      {metric: float}.

    Raises:
      ValueError: too few images, see `check_counts`.
    """
    figures = {}
    if 'fid' in metrics:
        statistics = []
        for features in (results.real, results.fake):
            sums = fid.empty(inception.FEATURES)
            for start in range(0, len(features), PART):
                sums = fid.add(sums, features[start:start + PART])
            statistics.append(sums)
        figures['fid'] = fid.fid(*statistics, protocol.ddof)
    if 'p_ids' in metrics or 'u_ids' in metrics:
        ids.check_count(len(results.real), inception.FEATURES)
        scores = ids.inception_discriminative_scores(results.real, results.fake)
        figures |= {name: value for name, value in scores._asdict().items()
                    if name in metrics}
    return figures


def check_counts(count: int, metrics: Collection[str]) -> dict[str, str]:
    """{metric: sentence} of the metrics for which `count` images are too few."""
    refused = {}
    for check, names in ((fid.check_count, ('fid',)),
                         (ids.check_count, ('p_ids', 'u_ids'))):
        try:
            check(count, inception.FEATURES)
        except ValueError as error:
            refused |= {name: str(error) for name in names if name in metrics}
    return refused
