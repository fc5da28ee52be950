"""A deployed generator about to be written, and what a format of files is."""

from collections.abc import Callable, Mapping
import functools
import importlib.metadata
import importlib.util
import os
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from migan_jax import checkpoint as checkpoint_lib
from migan_jax.export import clamps
from migan_jax.export import comparison
from migan_jax.model import build

# Largest difference to JAX, of outputs about [-1, 1].
TOLERANCE, HALF_TOLERANCE = 1e-3, 2e-2


class ExportFailed(ValueError):
    """What was asked for can't be exported; one line for each reason."""


class Model(NamedTuple):
    """A deployed generator and what is known about it.

    Attributes:
      config: ConfigDict.
      variables: {'params', 'noise'} of the deployed generator.
      generate: f32[N, R, R, 4] -> f32[N, R, R, 3], JAX in float32.
      metadata: {str: str} for the files.
      largest: -> what `clamps.measure` says of it.
      step: iteration of the checkpoint, if it is known.
    """
    config: Any
    variables: dict
    generate: Callable
    metadata: dict[str, str]
    largest: Callable
    step: int | None = None


class Options(NamedTuple):
    """What the flags of the same names say."""
    half: bool = False
    drop_noise_at_4x4: bool = False
    dynamic_size: bool = False
    upstream_crop: bool = False
    keep_clamps: bool = False
    tolerance: float | None = None

    @property
    def limit(self) -> float:
        if self.tolerance is not None:
            return self.tolerance
        return HALF_TOLERANCE if self.half else TOLERANCE


class Format(NamedTuple):
    """One kind of file, as the module that writes it describes it.

    Attributes:
      file: name.
      write: (model, path, options) -> None, or a dict for the report.
      run: (path, config) -> f32[N, R, R, 4] -> f32[N, R, R, 3]; of a pipeline
        u8[H, W, 3], u8[H, W] -> u8[H, W, 3]; None where nothing here can run the file:
        then `write` compares what it was written from, as 'handed_over'.
      count: path -> {operator: how often}.
      compare: (reference, generate, pictures, resolution, options) -> what
        `comparison.differences` returns.
      samples: R -> pictures to compare on.
      levels: whether the result is rounded to whole levels, so that one apart is
        equal.
      lacks: (model, options) -> why it can't hold the model, a sentence, or None.
      reference: (model, options) -> the `Model` that the file is compared with, and a
        dict for the report; the model itself by default.
    """
    file: str
    write: Callable
    run: Callable | None
    count: Callable = lambda path: {}
    compare: Callable = comparison.differences
    samples: Callable = comparison.random_pictures
    levels: bool = False
    lacks: Callable = lambda model, options: None
    reference: Callable = lambda model, options: (model, {})


def load(directory: os.PathLike | str, step: str | int = 'best') -> Model:
    """The checkpoint as a `Model`; `step` is of `checkpoint.open_checkpoint`.

    Raises:
      checkpoint.CheckpointError: not a checkpoint.
    """
    config, _, variables, step = checkpoint_lib.load_deployed_step(directory, step)
    return from_deployed(
        config, variables, 'unknown' if step is None else str(step))._replace(step=step)


def from_deployed(config: ml_collections.ConfigDict, variables: Mapping[str, Any],
                  step: str) -> Model:
    """A deployed generator as a `Model`.

    Args:
      config, variables: see `checkpoint.load_deployed`.
      step: in words, for the metadata.
    """
    is_comodgan = build.is_comodgan(config)
    resolution = config.model.resolution
    metadata = {
        'model': 'Co-Mod-GAN' if is_comodgan else 'MI-GAN',
        'resolution': str(resolution),
        'input': f'[mask - 0.5, image * mask], 4 x {resolution} x {resolution}',
        'channel_order': 'mask, red, green, blue; output red, green, blue',
        'mask_polarity': '1 = known, 0 = hole', 'value_range': '-1 to 1',
        'source_step': step, 'migan_jax_version': version(),
    }
    if is_comodgan:
        metadata['z'] = f'{config.model.comodgan.z_dim} normal numbers for each image'
    return Model(config, variables, jax_generator(config, variables), metadata,
                 functools.cache(lambda: clamps.measure(config, variables)))


def version() -> str:
    """Version of the installed package; 'not installed' when it runs from its folder."""
    try:
        return importlib.metadata.version('migan_jax')
    except importlib.metadata.PackageNotFoundError:
        return 'not installed'


def jax_generator(config: ml_collections.ConfigDict,
                  variables: Mapping[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """f32[N, R, R, 4] -> f32[N, R, R, 3] in float32, one sample at a time."""
    config = config.copy_and_resolve_references()
    # Trained in bfloat16 or not: the files compute in float32.
    config.model.dtype = 'float32'
    generator = build.build_generator(config, fused=True)
    paint = jax.jit(functools.partial(build.deployed_forward, generator, variables))
    return lambda x: np.concatenate([
        paint(*(value[None] for value in sample))
        for sample in zip(*comparison.network_inputs(config, x))])


def drop_noise_at_4x4(config: ml_collections.ConfigDict, variables: Mapping[str, Any]
                      ) -> tuple[ml_collections.ConfigDict, Mapping[str, Any], float]:
    """The same model without noise in the decoder's 4x4 blocks.

    Returns:
      config, variables: of the changed model.
      strengths: the largest magnitude that was dropped, 0 if nothing changed.
    """
    if not config.model.noise_at_4x4:
        return config, variables, 0.0
    config = config.copy_and_resolve_references()
    config.model.noise_at_4x4 = False
    blocks = ('conv1', 'conv2')
    block = variables['params']['decoder']['b4']
    dropped = max(abs(float(block[name]['noise']['strength'])) for name in blocks)
    without = jax.tree.map(lambda x: x, variables)      # new dicts, the same arrays
    for name in blocks:
        del without['params']['decoder']['b4'][name]['noise']
    del without['noise']['decoder']['b4']
    return config, without, dropped


def lacks_plain_convolutions(model: Model, options: Options | None = None) -> str | None:
    """`Format.lacks` of formats that hold depthwise-separable blocks only."""
    if model.config.model.depthwise:
        return None
    return ('the model is the ablation with plain 3x3 convolutions, which has no '
            'deployed form in this format: export it as onnx or onnx_pipeline, or '
            'train with config.model.depthwise=True.')


def lacks_package(package: str, extra: str) -> str | None:
    """The sentence for a format that needs a package which is not installed, or None."""
    if importlib.util.find_spec(package) is not None:
        return None
    return (f'it needs {package}, which is not installed: pip install -e '
            f"'.[{extra}]'.")


def lacks_starting_fill(model: Model, options: Options | None = None) -> str | None:
    """`Format.lacks` of formats that hold the network alone, no fill before it."""
    if build.fill_passes(model.config) is None:
        return None
    return ('the model paints on a starting fill (config.model.fill), which this format '
            'can not hold: export it as torchscript, onnx or another of --formats.')
