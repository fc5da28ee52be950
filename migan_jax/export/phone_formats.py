"""Files for the runtimes of phones, whose libraries take seconds to import."""

import collections
from collections.abc import Callable
import json
import os
import pathlib
from typing import Any

import ml_collections
import numpy as np

from migan_jax.export import comparison
from migan_jax.export.models import Format
from migan_jax.export.models import lacks_package
from migan_jax.export.models import lacks_plain_convolutions
from migan_jax.export.models import lacks_starting_fill
from migan_jax.export.models import Model
from migan_jax.export.models import Options
from migan_jax import quiet


def write_tflite(model: Model, path: pathlib.Path, options: Options) -> None:
    from migan_jax.export import tflite

    metadata = model.metadata | {'layout': 'NHWC'}
    path.write_bytes(tflite.build_tflite(
        model.config, model.variables, half=options.half,
        largest=None if options.keep_clamps else model.largest(),
        description=json.dumps(metadata)))


def run_tflite(path: os.PathLike | str,
               config: ml_collections.ConfigDict) -> Callable[[np.ndarray], np.ndarray]:
    del config
    from migan_jax.export import tflite

    return tflite.load_generator(path)


def count_tflite(path: os.PathLike | str) -> dict[str, int]:
    from migan_jax.export import tflite

    return tflite.operators(path)


TFLITE = Format('migan.tflite', write_tflite, run_tflite, count_tflite,
                lacks=lacks_plain_convolutions)


def write_coreml(model: Model, path: pathlib.Path, options: Options) -> None:
    from migan_jax.export import coreml

    coreml.write_core(
        model.config, model.variables, path, half=options.half,
        largest=None if options.keep_clamps else model.largest(),
        metadata=model.metadata)


def write_coreml_image(model: Model, path: pathlib.Path, options: Options) -> None:
    from migan_jax.export import coreml

    coreml.write_image(
        model.config, model.variables, path, half=options.half,
        largest=None if options.keep_clamps else model.largest(),
        metadata=model.metadata | {
            'input': 'image RGB, mask greyscale; output painted RGB, composited',
            'mask_polarity': '255 = known, any smaller value = hole',
            'channel_order': 'red, green, blue', 'value_range': '0 to 255'})


def run_coreml(path: os.PathLike | str,
               config: ml_collections.ConfigDict) -> Callable[[np.ndarray], np.ndarray]:
    del config
    from migan_jax.export import coreml

    return coreml.load_generator(path)


def run_coreml_image(path: os.PathLike | str, config: ml_collections.ConfigDict
                     ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """u8[R, R, 3], u8[R, R] (255 = known) -> f32[R, R, 3], levels."""
    del config
    from migan_jax.export import coreml

    return coreml.load_painter(path)


def count_coreml(path: os.PathLike | str) -> collections.Counter[str]:
    from migan_jax.export import coreml

    return coreml.operators(path)


def needs(package: str, extra: str) -> Callable[[Model, Options], str | None]:
    """`Format.lacks` of a format that needs a package, which an extra brings."""
    def lacks(model, options):
        return (lacks_package(package, extra) or lacks_plain_convolutions(model)
                or lacks_starting_fill(model))
    return lacks


COREML = Format('migan.mlpackage', write_coreml, run_coreml, count_coreml,
                lacks=needs('coremltools', 'coreml'))
COREML_IMAGE = Format('migan_image.mlpackage', write_coreml_image, run_coreml_image,
                      count_coreml, compare=comparison.composite_differences,
                      lacks=needs('coremltools', 'coreml'))


def write_executorch(model: Model, path: pathlib.Path, options: Options) -> None:
    from migan_jax.export import executorch

    path.write_bytes(executorch.build_executorch(
        model.config, model.variables,
        None if options.keep_clamps else model.largest()))


def run_executorch(path: os.PathLike | str,
                   config: ml_collections.ConfigDict) -> Callable[[np.ndarray], np.ndarray]:
    del config
    from migan_jax.export import executorch

    return executorch.load_generator(path)


def count_executorch(path: os.PathLike | str) -> collections.Counter[str]:
    from migan_jax.export import executorch

    return executorch.operators(path)


def lacks_of_executorch(model: Model, options: Options) -> str | None:
    """`Format.lacks` of a format that is float32 only."""
    if options.half:
        return ('its CPU program computes in float32 and keeps its weights so: leave '
                'out --half for it.')
    return needs('executorch', 'executorch')(model, options)


EXECUTORCH = Format('migan.pte', write_executorch, run_executorch, count_executorch,
                    lacks=lacks_of_executorch)


def write_executorch_vulkan(model: Model, path: pathlib.Path,
                            options: Options) -> dict[str, Any]:
    from executorch.backends.vulkan.partitioner import vulkan_partitioner

    return _write_delegated(
        model, path, options, vulkan_partitioner.VulkanPartitioner())


def write_executorch_coreml(model: Model, path: pathlib.Path,
                            options: Options) -> dict[str, Any]:
    from executorch.backends.apple.coreml import partition

    return _write_delegated(model, path, options, partition.CoreMLPartitioner())


def _write_delegated(model, path, options, partitioner):
    from migan_jax.export import executorch

    # They report each operator and each pass.
    with quiet.stderr_unless_it_fails():
        program, generate = executorch.build_delegated(
            model.config, model.variables, partitioner,
            None if options.keep_clamps else model.largest())
    path.write_bytes(program)
    resolution = model.config.model.resolution
    return {'handed_over': comparison.differences(
        model.generate, generate, comparison.random_pictures(resolution), resolution,
        options)}


def lacks_of_executorch_coreml(model: Model, options: Options) -> str | None:
    return lacks_of_executorch(model, options) or lacks_package('coremltools', 'coreml')


EXECUTORCH_VULKAN = Format('migan_vulkan.pte', write_executorch_vulkan, None,
                           count_executorch, lacks=lacks_of_executorch)
EXECUTORCH_COREML = Format('migan_coreml.pte', write_executorch_coreml, None,
                           count_executorch, lacks=lacks_of_executorch_coreml)


def write_ncnn(model: Model, path: pathlib.Path, options: Options) -> None:
    from migan_jax.export import ncnn_files

    ncnn_files.write_ncnn(
        model.config, model.variables, path, half=options.half,
        largest=None if options.keep_clamps else model.largest())


def run_ncnn(path: os.PathLike | str,
             config: ml_collections.ConfigDict) -> Callable[[np.ndarray], np.ndarray]:
    del config
    from migan_jax.export import ncnn_files

    return ncnn_files.load_generator(path)


def count_ncnn(path: os.PathLike | str) -> collections.Counter[str]:
    from migan_jax.export import ncnn_files

    return ncnn_files.operators(path)


NCNN = Format('migan_ncnn', write_ncnn, run_ncnn, count_ncnn,
              lacks=needs('pnnx', 'ncnn'))
