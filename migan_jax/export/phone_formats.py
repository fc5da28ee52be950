"""Files for the runtimes of phones, whose libraries take seconds to import."""

from collections.abc import Callable
import importlib
import json
import pathlib
from typing import Any

from migan_jax.export import comparison
from migan_jax.export.models import Format
from migan_jax.export.models import lacks_package
from migan_jax.export.models import lacks_plain_convolutions
from migan_jax.export.models import Model
from migan_jax.export.models import Options
from migan_jax import quiet


def _in(module: str, function: str) -> Callable[..., Any]:
    """A function of a path, in a module that is imported when it is called."""
    def call(path, *_):
        imported = importlib.import_module(f'migan_jax.export.{module}')
        return getattr(imported, function)(path)
    return call


def _largest(model: Model, options: Options) -> dict[str, float] | None:
    """What `largest` of the builders is."""
    return None if options.keep_clamps else model.largest()


def write_tflite(model: Model, path: pathlib.Path, options: Options) -> None:
    from migan_jax.export import tflite

    metadata = model.metadata | {'layout': 'NHWC'}
    path.write_bytes(tflite.build_tflite(
        model.config, model.variables, half=options.half,
        largest=_largest(model, options), description=json.dumps(metadata)))


TFLITE = Format('migan.tflite', write_tflite, _in('tflite', 'load_generator'),
                _in('tflite', 'operators'), lacks=lacks_plain_convolutions)


def _coreml():
    # It names each library that it knows another version of.
    with quiet.stderr_unless_it_fails():
        from migan_jax.export import coreml
    return coreml


def write_coreml(model: Model, path: pathlib.Path, options: Options) -> None:
    coreml = _coreml()
    coreml.write_core(
        model.config, model.variables, path, half=options.half,
        largest=_largest(model, options), metadata=model.metadata)


def write_coreml_image(model: Model, path: pathlib.Path, options: Options) -> None:
    coreml = _coreml()
    coreml.write_image(
        model.config, model.variables, path, half=options.half,
        largest=_largest(model, options),
        metadata=model.metadata | {
            'input': 'image RGB, mask greyscale; output painted RGB, composited',
            'mask_polarity': '255 = known, any smaller value = hole',
            'channel_order': 'red, green, blue', 'value_range': '0 to 255'})


def needs(package: str, extra: str) -> Callable[[Model, Options], str | None]:
    """`Format.lacks` of a format that needs a package, which an extra brings."""
    def lacks(model, options):
        return lacks_package(package, extra) or lacks_plain_convolutions(model)
    return lacks


COREML = Format('migan.mlpackage', write_coreml, _in('coreml', 'load_generator'),
                _in('coreml', 'operators'), lacks=needs('coremltools', 'coreml'))
COREML_IMAGE = Format('migan_image.mlpackage', write_coreml_image,
                      _in('coreml', 'load_painter'), _in('coreml', 'operators'),
                      compare=comparison.composite_differences,
                      lacks=needs('coremltools', 'coreml'))


def write_executorch(model: Model, path: pathlib.Path, options: Options) -> None:
    from migan_jax.export import executorch

    path.write_bytes(executorch.build_executorch(
        model.config, model.variables,
        _largest(model, options)))


def lacks_of_executorch(model: Model, options: Options) -> str | None:
    """`Format.lacks` of a format that is float32 only."""
    if options.half:
        return ('its CPU program computes in float32 and keeps its weights so: leave '
                'out --half for it.')
    return needs('executorch', 'executorch')(model, options)


EXECUTORCH = Format('migan.pte', write_executorch, _in('executorch', 'load_generator'),
                    _in('executorch', 'operators'), lacks=lacks_of_executorch)


def write_executorch_vulkan(model: Model, path: pathlib.Path,
                            options: Options) -> dict[str, Any]:
    # Here and below: both libraries' imports tell of versions and accelerators.
    with quiet.stderr_unless_it_fails():
        from executorch.backends.vulkan.partitioner import vulkan_partitioner

    return _write_delegated(
        model, path, options, vulkan_partitioner.VulkanPartitioner())


def write_executorch_coreml(model: Model, path: pathlib.Path,
                            options: Options) -> dict[str, Any]:
    # coremltools names each library that it knows another version of.
    with quiet.stderr_unless_it_fails():
        import coremltools
        from executorch.backends.apple.coreml import compiler
        from executorch.backends.apple.coreml import partition

    # Unless told, it takes float16.
    precision = coremltools.precision
    specs = compiler.CoreMLBackend.generate_compile_specs(
        compute_precision=precision.FLOAT16 if options.half else precision.FLOAT32)
    return _write_delegated(
        model, path, options, partition.CoreMLPartitioner(compile_specs=specs))


def _write_delegated(model, path, options, partitioner):
    from migan_jax.export import executorch

    # They report each operator and each pass.
    with quiet.stderr_unless_it_fails():
        program, generate = executorch.build_delegated(
            model.config, model.variables, partitioner,
            _largest(model, options))
    path.write_bytes(program)
    resolution = model.config.model.resolution
    return {'handed_over': comparison.differences(
        model.generate, generate, comparison.random_pictures(resolution), resolution,
        options)}


def lacks_of_executorch_coreml(model: Model, options: Options) -> str | None:
    return (needs('executorch', 'executorch')(model, options)
            or lacks_package('coremltools', 'coreml'))


EXECUTORCH_VULKAN = Format('migan_vulkan.pte', write_executorch_vulkan, None,
                           _in('executorch', 'operators'), lacks=lacks_of_executorch)
EXECUTORCH_COREML = Format('migan_coreml.pte', write_executorch_coreml, None,
                           _in('executorch', 'operators'), lacks=lacks_of_executorch_coreml)


def write_ncnn(model: Model, path: pathlib.Path, options: Options) -> None:
    from migan_jax.export import ncnn_files

    ncnn_files.write_ncnn(
        model.config, model.variables, path, half=options.half,
        largest=_largest(model, options))


NCNN = Format('migan_ncnn', write_ncnn, _in('ncnn_files', 'load_generator'),
              _in('ncnn_files', 'operators'), lacks=needs('pnnx', 'ncnn'))
