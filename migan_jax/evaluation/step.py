"""Evaluation: parameters and batches of held-out images -> named figures.

Always on composites (known pixels are the original's), with constant noise and
one fixed free-form mask per image name, drawn on the device.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging
from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
import numpy as np

from migan_jax.data import images as image_files
from migan_jax.data import masks
from migan_jax.devices import AXIS
from migan_jax.devices import replicate
from migan_jax.evaluation import figures
from migan_jax.evaluation.metrics import fid
from migan_jax.evaluation.metrics import inception
from migan_jax.evaluation import networks as networks_lib
from migan_jax.model import build
from migan_jax.model import io as model_io

class Evaluation(NamedTuple):
    """What `make_evaluation` gives.

    Attributes:
      step: the compiled step.
      seed: of the masks.
      networks: replicated `networks_lib.Networks`.
      protocol: of `inception.PROTOCOLS`.
    """
    step: Callable
    seed: int
    networks: networks_lib.Networks
    protocol: inception.Protocol


def mask_keys_of(seed: int, stems: Sequence[str]) -> np.ndarray:
    """Key data u32[B, 2] of `masks.name_key` for image names without extension."""
    return np.stack([jax.random.key_data(masks.name_key(seed, stem)) for stem in stems])


def paint(generator: nn.Module, params: Mapping[str, Any], variables: Mapping[str, Any],
          image: jax.Array, mask: jax.Array, mask_keys: jax.Array) -> jax.Array:
    """The generator's output in evaluation: constant noise, a fixed latent per name.

    Args:
      generator: of MI-GAN in any form, or of Co-Mod-GAN.
      params, variables: its parameters and other collections.
      image: f32[B, R, R, 3] in [-1, 1].
      mask: f32[B, R, R, 1], 1 = known.
      mask_keys: [B] keys of the masks; a latent, where there is one, derives from them.

    Returns:
      f32[B, R, R, 3], not composited.
    """
    z = generator.latents(jax.vmap(jax.random.fold_in, (0, None))(mask_keys, 1))
    return build.deployed_forward(generator, {'params': params, **variables},
                                  model_io.model_input(image, mask), z)


def grid_rows(image: jax.typing.ArrayLike, mask: jax.typing.ArrayLike,
              output: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
    """Rows of a sample grid: input, mask, raw output, composite, original.

    Args:
      image, output: f32[B, R, R, 3] in [-1, 1], jax or numpy arrays.
      mask: f32[B, R, R, 1], 1 = known.

    Returns:
      u8[B, R, 5 R, 3]; holes are grey in the input, black in the mask.
    """
    numpy = np if isinstance(image, np.ndarray) else jnp
    pictures = (image * mask, numpy.broadcast_to(mask * 2 - 1, image.shape), output,
                model_io.composite(output, image, mask), image)
    return numpy.concatenate([model_io.to_uint8(picture) for picture in pictures], 2)


def stack_rows(rows: jax.typing.ArrayLike, valid: np.ndarray, count: int) -> np.ndarray:
    """The first `count` rows of valid samples as one picture.

    Args:
      rows: u8[B, R, 5 R, 3], from `grid_rows`.
      valid: bool[B].

    Returns:
      u8[rows * R, 5 * R, 3].
    """
    return np.concatenate(list(np.asarray(rows)[valid][:count]))


def make_evaluation(generator: nn.Module, *, seed: int, hole_range: tuple[float, float],
                    brush_width: tuple[int, int],
                    networks: networks_lib.Networks = networks_lib.Networks(),
                    protocol: inception.Protocol = inception.PAPER) -> Evaluation:
    """The pmapped evaluation step of a generator.

    Args:
      generator: of MI-GAN in any form, or of Co-Mod-GAN.
      seed: of the masks.
      hole_range, brush_width: of `masks.free_form`.
      networks: `networks_lib.Networks`, host arrays; FID and LPIPS come with them.
      protocol: of `inception.PROTOCOLS`, of FID and LPIPS.
    """
    def step(params, variables, networks, images, mask_keys):
        image = model_io.from_uint8(images)
        mask_keys = jax.random.wrap_key_data(mask_keys, impl='threefry2x32')
        mask = masks.free_form_batch(
            mask_keys, image.shape[1], hole_range, brush_width=brush_width)
        output = paint(generator, params, variables, image, mask, mask_keys)
        judged = networks_lib.as_judged(
            model_io.composite(output, image, mask), protocol)
        measured = figures.measure(networks, judged, image, mask)
        features = {}
        if networks.inception is not None:
            features = {'real': networks_lib.features(networks, protocol, image),
                        'fake': networks_lib.features(networks, protocol, judged)}
        return measured, features, grid_rows(image, mask, output)

    if jax.tree.leaves(networks):
        networks = replicate(networks)
    return Evaluation(jax.pmap(step, AXIS), seed, networks, protocol)


def _run(evaluation, params, variables, batch):
    """One batch over the local devices.

    Returns:
      {name: f32[B]} and {'real', 'fake': f32[B, 2048]} (empty without an Inception) on
      the host, and the grid rows u8[D, B / D, R, 5 R, 3] on device.
    """
    devices = jax.local_device_count()
    shard = lambda x: x.reshape(devices, -1, *x.shape[1:])
    gather = lambda x: np.asarray(x).reshape(-1, *x.shape[2:])
    # As `tools/make_masks.py` has them: the same masks.
    stems = [image_files.stem_of(name) for name in batch['name']]
    keys = mask_keys_of(evaluation.seed, stems)
    measured, features, pictures = evaluation.step(
        params, variables, evaluation.networks, shard(batch['image']), shard(keys))
    return jax.tree.map(gather, measured), jax.tree.map(gather, features), pictures


def evaluate(evaluation: Evaluation, params: Mapping[str, Any], variables: Mapping[str, Any],
             batches: Iterable[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """Figures over all hosts' images; padding and unreadable ones are left out.

    Args:
      evaluation: from `make_evaluation`.
      params, variables: replicated, in the form that the generator has.
      batches: from `batches.eval_batches`, batch size divisible by local devices; every
        host must bring equally many.

    Yields:
      (figure, mean), the same on every host; then ('fid', FID) with an Inception and
      more images than features; ('images', count) last.
    """
    columns, valid, sums = [], [], {}
    for batch in batches:
        measured, features, _ = _run(evaluation, params, variables, batch)
        columns.append(measured)
        valid.append(batch['valid'])
        for name, rows in features.items():
            before = sums.get(name) or fid.empty(inception.FEATURES)
            sums[name] = fid.add(before, rows, batch['valid'])
    # Single values travel, not means: the sum is then in float64 on each host.
    stacked = {k: np.concatenate([c[k] for c in columns]) for k in columns[0]}
    valid = np.concatenate(valid)
    if jax.process_count() > 1:
        stacked, valid = multihost_utils.process_allgather((stacked, valid))
        valid = valid.reshape(-1)
    summary = figures.summarize(
        {name: values.reshape(-1)[valid] for name, values in stacked.items()},
        resamples=0)
    for name, figure in summary.items():
        yield name, figure['mean']
    if sums:
        real, fake = (networks_lib.over_hosts(sums[name]) for name in ('real', 'fake'))
        try:
            yield 'fid', fid.fid(real, fake, evaluation.protocol.ddof)
        except fid.TooFewSamples as error:
            logging.warning('FID is left out: %s', error)
    yield 'images', int(valid.sum())


def sample_grid(evaluation: Evaluation, params: Mapping[str, Any], variables: Mapping[str, Any],
                batch: Mapping[str, Any], rows: int = 8) -> np.ndarray:
    """A picture of samples, one row each, see `grid_rows`.

    Args:
      batch: one batch of `batches.eval_batches`.
      rows: at most so many samples.

    Returns:
      u8[rows * R, 5 * R, 3].
    """
    *_, pictures = _run(evaluation, params, variables, batch)
    pictures = np.asarray(pictures)
    return stack_rows(
        pictures.reshape(-1, *pictures.shape[2:]), batch['valid'], rows)
