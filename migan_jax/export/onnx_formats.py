"""ONNX files: the core graph, for onnxruntime and for OpenVINO, and the pipeline.

The first and the last for ONNX Runtime Mobile, too.
"""

import collections
from collections.abc import Callable
import os
import pathlib

import ml_collections
import numpy as np
import onnx
import onnxruntime

from migan_jax.export import comodgan_onnx
from migan_jax.export import comparison
from migan_jax.export import onnx_core
from migan_jax.export import onnx_pipeline
from migan_jax.export import onnx_half
from migan_jax.export.models import Format
from migan_jax.export.models import lacks_package
from migan_jax.export.models import Model
from migan_jax.export.models import Options
from migan_jax import quiet


def clamps_of(model: Model, options: Options
              ) -> tuple[dict[str, float] | None, dict[str, str], dict[str, float]]:
    """Which clamps an ONNX graph gets.

    Returns:
      `largest` of `onnx_core.build_core`.
      {str: str} for the file.
      dict for the report.
    """
    if options.keep_clamps:
        return None, {'clamps': 'wherever an activation could reach 256'}, {}
    largest = model.largest()
    highest = max(largest.values())
    return largest, {
        'clamps': f'where an activation reached {onnx_core.KEPT_FROM:g} in the '
                  f'pictures tried when exporting; the largest was {highest:.3g}'
    }, {'largest_activation': highest}


def write_onnx(model: Model, path: pathlib.Path, options: Options) -> dict[str, float]:
    largest, said, notes = clamps_of(model, options)
    # A Co-Mod-GAN has no such option, see `exporting.check_comodgan_has`.
    size = {'dynamic_size': True} if options.dynamic_size else {}
    save_onnx(comodgan_onnx.builder_of(model.config)(
        model.config, model.variables, largest=largest, metadata=model.metadata | said,
        **size), path, options)
    return notes


def write_onnx_pipeline(model: Model, path: pathlib.Path, options: Options) -> dict[str, float]:
    resolution = model.config.model.resolution
    largest, said, notes = clamps_of(model, options)
    metadata = model.metadata | said | {
        'input': 'image u8[1, 3, H, W], mask u8[1, 1, H, W]; output u8[1, 3, H, W]',
        'mask_polarity': '255 = known, any smaller value = hole',
        'channel_order': 'red, green, blue', 'value_range': '0 to 255',
        'crop': f'{resolution} x {resolution} or more around the hole, '
                + ('stretched to a square' if options.upstream_crop else 'square'),
    }
    save_onnx(onnx_pipeline.build_pipeline(
        model.config, model.variables, upstream_crop=options.upstream_crop,
        largest=largest, metadata=metadata), path, options)
    return notes


def save_onnx(proto: onnx.ModelProto, path: pathlib.Path, options: Options) -> None:
    if options.half:
        proto = onnx_half.to_half(proto)
    path.write_bytes(proto.SerializeToString())


def write_openvino(model: Model, path: pathlib.Path, options: Options) -> dict[str, float]:
    largest, said, notes = clamps_of(model, options)
    save_onnx(onnx_core.build_core(
        model.config, model.variables, largest=largest, metadata=model.metadata | said,
        broadcast_noise=True), path, options)
    return notes


def run_openvino(path: os.PathLike | str,
                 config: ml_collections.ConfigDict) -> Callable[[np.ndarray], np.ndarray]:
    del config
    with quiet.importing_openvino():
        import openvino

    core = openvino.Core()
    # On processors that have it, bfloat16 is its default.
    compiled = core.compile_model(
        core.read_model(path), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})

    def generate(x):
        result = compiled({'input': np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
        return result['output'].transpose(0, 2, 3, 1)
    return generate


def lacks_openvino(model: Model, options: Options) -> str | None:
    return lacks_package('openvino', 'runtimes')


def onnx_session(path: os.PathLike | str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])


def run_onnx(path: os.PathLike | str,
             config: ml_collections.ConfigDict) -> Callable[[np.ndarray], np.ndarray]:
    session = onnx_session(path)

    def generate(x):
        x, *z = comparison.network_inputs(config, x)
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        y, = session.run(['output'], dict(zip(('input', 'z'), (x, *z))))
        return y.transpose(0, 2, 3, 1)
    return generate


def run_onnx_pipeline(path: os.PathLike | str, config: ml_collections.ConfigDict
                      ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """u8[H, W, 3], u8[H, W] (255 = known) -> u8[H, W, 3]."""
    del config
    session = onnx_session(path)

    def inpaint_picture(image, mask):
        y, = session.run(None, {
            'image': np.ascontiguousarray(image.transpose(2, 0, 1)[None]),
            'mask': mask[None, None]})
        return y[0].transpose(1, 2, 0)
    return inpaint_picture


def count_onnx(path: os.PathLike | str) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in onnx.load(str(path)).graph.node)


ONNX = Format('migan.onnx', write_onnx, run_onnx, count_onnx)
PIPELINE = Format('migan_pipeline.onnx', write_onnx_pipeline, run_onnx_pipeline,
                  count_onnx, compare=comparison.pipeline_differences,
                  samples=comparison.any_size_pictures, levels=True)

_Write = Callable[[Model, pathlib.Path, Options], dict[str, float]]


def as_ort(write: _Write) -> _Write:
    """`Format.write` of the ORT format, from that of the ONNX file.

    The graph is optimised as far as every machine shares, so that builds of
    onnxruntime without its optimisers can load it.
    """
    def write_ort(model, path, options):
        source = path.with_suffix('.onnx')
        notes = write(model, source, options)
        session = onnxruntime.SessionOptions()
        session.optimized_model_filepath = str(path)
        session.add_session_config_entry('session.save_model_format', 'ORT')
        # Blocks of channels are as wide as this processor's vectors.
        onnxruntime.InferenceSession(
            str(source), session, providers=['CPUExecutionProvider'],
            disabled_optimizers=['NchwcTransformer'])
        source.unlink()
        return notes
    return write_ort


def lacks_of_ort(model: Model, options: Options) -> str | None:
    """`Format.lacks` of a graph whose constants are computed when it is written."""
    if options.half:
        return ('it is finished when it is written, float16 weights made float32 again: '
                'leave out --half for it.')
    return None


ORT = Format('migan.ort', as_ort(write_onnx), run_onnx, lacks=lacks_of_ort)
ORT_PIPELINE = Format(
    'migan_pipeline.ort', as_ort(write_onnx_pipeline), run_onnx_pipeline,
    compare=comparison.pipeline_differences, samples=comparison.any_size_pictures,
    levels=True, lacks=lacks_of_ort)
OPENVINO = Format('migan_openvino.onnx', write_openvino, run_openvino, count_onnx,
                  lacks=lacks_openvino)
COMODGAN_ONNX = Format('comodgan.onnx', write_onnx, run_onnx, count_onnx)
