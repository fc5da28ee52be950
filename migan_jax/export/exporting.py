"""Exports a deployed generator into files, each run again and compared with JAX.

Formats and their contracts are listed in tools/to_torch.py, which is the command line
of `run`.
"""

import collections
import functools
import importlib.metadata
import json
import math
import os
import pathlib
import re
import sys
import tempfile
from typing import Any, Callable, NamedTuple
import warnings

import jax
import numpy as np
import onnx
import onnxruntime
import torch

from migan_jax import checkpoint as checkpoint_lib
from migan_jax.data import torch_files
from migan_jax.export import clamps
from migan_jax.export import comodgan_onnx
from migan_jax.export import comodgan_torch
from migan_jax.export import comparison
from migan_jax.export import onnx_core
from migan_jax.export import onnx_pipeline
from migan_jax.export import onnx_quantize
from migan_jax.export import torch_map
from migan_jax.export import torch_module
from migan_jax.model import build
from migan_jax.model.layers import channels
from migan_jax.model.ops import CLAMP
from migan_jax.model.ops import FIR_TAPS
from migan_jax import storage

INT8 = 'migan_int8.onnx'

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
    """
    config: Any
    variables: dict
    generate: Callable
    metadata: dict[str, str]
    largest: Callable


class Options(NamedTuple):
    """What the flags of the same names say."""
    half: bool = False
    drop_noise_at_4x4: bool = False
    dynamic_size: bool = False
    upstream_crop: bool = False
    keep_clamps: bool = False
    tolerance: float | None = None

    @property
    def limit(self):
        if self.tolerance is not None:
            return self.tolerance
        return HALF_TOLERANCE if self.half else TOLERANCE


# --- the model ----------------------------------------------------------------


def load(directory):
    """The checkpoint as a `Model`.

    Raises:
      ExportFailed: not a model that the formats can hold.
      state.CheckpointError: not a checkpoint.
    """
    _, manager, step = checkpoint_lib.open_checkpoint(directory)
    manager.close()
    config, _, variables = checkpoint_lib.load_deployed(directory)
    return from_deployed(config, variables, directory, str(step))


def from_deployed(config, variables, source, step):
    """A deployed generator as a `Model`.

    Args:
      config, variables: see `checkpoint.load_deployed`.
      source: where it came from, for messages.
      step: in words, for the metadata.

    Raises:
      ExportFailed: not a model that the formats can hold.
    """
    is_comodgan = build.is_comodgan(config)
    if not is_comodgan and not config.model.depthwise:
        raise ExportFailed(
            f'{source} holds the ablation with plain 3x3 convolutions, which has no '
            'deployed form; train with config.model.depthwise=True.')
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


def version():
    """Of the installed package; 'not installed' when it runs from its folder."""
    try:
        return importlib.metadata.version('migan_jax')
    except importlib.metadata.PackageNotFoundError:
        return 'not installed'


def jax_generator(config, variables):
    """f32[N, R, R, 4] -> f32[N, R, R, 3] in float32, one sample at a time."""
    config = config.copy_and_resolve_references()
    # Trained in bfloat16 or not: the files compute in float32.
    config.model.dtype = 'float32'
    generator = build.build_generator(config, fused=True)
    paint = jax.jit(functools.partial(build.deployed_forward, generator, variables))
    return lambda x: np.concatenate([
        paint(*(value[None] for value in sample))
        for sample in zip(*comparison.network_inputs(config, x))])


def drop_noise_at_4x4(config, variables):
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


def published_layout(config):
    """{name: shape} of the published deployed layout, constants included."""
    config = config.copy_and_resolve_references()
    config.model.noise_at_4x4 = False
    model = config.model
    table = torch_map.generator_table(model.resolution, branches=0, fused=True)
    shapes = torch_map.torch_shapes(build.abstract_variables(config, fused=True), table)
    return shapes | {name: array.shape for name, array in constants(config).items()}


def constants(config):
    """The fixed tensors of the published deployed layout."""
    model = config.model
    return torch_map.deployed_constants(
        model.resolution, lambda r: channels(r, model.ch_base, model.ch_max), FIR_TAPS)


# --- formats: write a file, run it, count its operators ------------------------


def write_pt(model, path, options):
    config, variables, dropped = drop_noise_at_4x4(model.config, model.variables)
    notes = {}
    if dropped:
        if not options.drop_noise_at_4x4:
            raise ExportFailed(
                'the published layout has no place for noise in the 4 x 4 blocks, '
                f'which this model has (strength up to {dropped:.3g}): pass '
                '--drop_noise_at_4x4 to export it without, or leave pt out of '
                '--formats.')
        resolution = config.model.resolution
        notes = {'dropped_noise_at_4x4': comparison.differences(
            model.generate, jax_generator(config, variables),
            comparison.random_pictures(resolution), resolution)}
    dtype = torch.float16 if options.half else torch.float32
    table = torch_map.generator_table(config.model.resolution, branches=0, fused=True)
    state = {name: torch.from_numpy(array).to(dtype)
             for name, array in torch_map.to_torch(variables, table).items()}
    state |= as_views(constants(config), dtype)
    torch.save({name: state[name] for name in sorted(state)}, path)
    return notes


def write_comodgan_pt(model, path, options):
    state = comodgan_torch.published_state(model.config, model.variables)
    state |= comodgan_torch.filters(model.config.model.resolution)
    dtype = torch.float16 if options.half else torch.float32
    torch.save({
        name: torch.from_numpy(state[name]).to(dtype) for name in sorted(state)}, path)


def as_views(arrays, dtype):
    """Constants as tensors, each a corner of the largest of its kind.

    torch.save stores a tensor and its views once: the masks alone are 0.7 MB otherwise
    at 256 x 256.  Filters are equal for all channels, and masks at all resolutions.
    """
    kind = lambda name: re.search(r'(down|up)sample\..*', name)[0]
    largest = {}
    for name, array in arrays.items():
        if array.size > np.size(largest.get(kind(name), ())):
            largest[kind(name)] = array
    largest = {key: torch.from_numpy(array).to(dtype)
               for key, array in largest.items()}
    return {name: largest[kind(name)][tuple(slice(n) for n in array.shape)]
            for name, array in arrays.items()}


def run_pt(path, config):
    """What the published class computes of a file that it loads strictly."""
    state = torch_files.read_tensors(path)
    check_layout(path, state, published_layout(config))
    return run_torch(torch_module.Generator(state, config.model.resolution), config)


def run_comodgan_pt(path, config):
    """What the published Co-Mod-GAN computes of a file that it loads strictly."""
    state = torch_files.read_tensors(path)
    model = config.model
    layers = model.comodgan.mapping_layers
    table = torch_map.comodgan_table(model.resolution, mapping_layers=layers)
    check_layout(path, state, torch_map.torch_shapes(
        build.abstract_variables(config, fused=True), table) | {
            name: array.shape
            for name, array in comodgan_torch.filters(model.resolution).items()})
    return run_torch(comodgan_torch.Generator(state, model.resolution, layers), config)


def check_layout(path, state, expected):
    """Raises ExportFailed unless {name: array} has just the expected {name: shape}."""
    actual = {name: array.shape for name, array in state.items()}
    if actual != expected:
        raise ExportFailed(
            f'{path}: only in the file {sorted(actual.items() - expected.items())}, '
            'only in the published layout '
            f'{sorted(expected.items() - actual.items())}.')


def run_torch(module, config):
    """A torch module or TorchScript function for NHWC arrays."""
    def generate(x):
        x, *z = comparison.network_inputs(config, x)
        with torch.inference_mode():
            y = module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()),
                       *map(torch.from_numpy, z))
        return y.numpy().transpose(0, 2, 3, 1)
    return generate


def write_torchscript(model, path, options):
    if build.is_comodgan(model.config):
        module = comodgan_torch.build_comodgan_module(model.config, model.variables)
        trace = comodgan_torch.trace
    else:
        module = torch_module.build_module(model.config, model.variables)
        trace = torch_module.trace
    if options.half:
        module = module.half()
    with warnings.catch_warnings():
        # TorchScript is deprecated, and what these consumers load.
        warnings.simplefilter('ignore', DeprecationWarning)
        trace(module).save(
            str(path), _extra_files={'metadata.json': json.dumps(model.metadata)})


def run_torchscript(path, config):
    return run_torch(torch_script(path), config)


def torch_script(path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        return torch.jit.load(str(path))


def clamps_of(model, options):
    """Which clamps an ONNX graph gets.

    Returns:
      `largest` of `onnx_core.build_core`.
      {str: str} for the file.
      dict for the report.
    """
    if options.keep_clamps:
        return None, {'clamps': 'wherever an activation could reach 256'}, {}
    largest = model.largest()
    return largest, {
        'clamps': f'where an activation reached {onnx_core.KEPT_FROM:g} in the pictures '
                  f'tried when exporting; the largest was {max(largest.values()):.3g}'
    }, {'largest_activation': max(largest.values())}


def write_onnx(model, path, options):
    largest, said, notes = clamps_of(model, options)
    # Which a Co-Mod-GAN has not, see `check_comodgan_has`.
    size = {'dynamic_size': True} if options.dynamic_size else {}
    save_onnx(comodgan_onnx.builder_of(model.config)(
        model.config, model.variables, largest=largest, metadata=model.metadata | said,
        **size), path, options)
    return notes


def write_onnx_pipeline(model, path, options):
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


def save_onnx(proto, path, options):
    if options.half:
        proto = onnx_quantize.to_half(proto)
    path.write_bytes(proto.SerializeToString())


def onnx_session(path):
    return onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])


def run_onnx(path, config):
    session = onnx_session(path)

    def generate(x):
        x, *z = comparison.network_inputs(config, x)
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        y, = session.run(['output'], dict(zip(('input', 'z'), (x, *z))))
        return y.transpose(0, 2, 3, 1)
    return generate


def run_onnx_pipeline(path, config):
    """u8[H, W, 3], u8[H, W] (255 = known) -> u8[H, W, 3]."""
    del config
    session = onnx_session(path)

    def inpaint_picture(image, mask):
        y, = session.run(None, {
            'image': np.ascontiguousarray(image.transpose(2, 0, 1)[None]),
            'mask': mask[None, None]})
        return y[0].transpose(1, 2, 0)
    return inpaint_picture


def write_tflite(model, path, options):
    # TensorFlow takes seconds to import.
    from migan_jax.export import tflite

    metadata = model.metadata | {'layout': 'NHWC'}
    path.write_bytes(tflite.build_tflite(
        model.config, model.variables, half=options.half,
        description=json.dumps(metadata)))


def run_tflite(path, config):
    del config
    from migan_jax.export import tflite

    return tflite.load_generator(path)


def count_torchscript(path):
    kinds = (node.kind() for node in torch_script(path).inlined_graph.nodes())
    return collections.Counter(kind for kind in kinds if kind.startswith('aten::'))


def count_onnx(path):
    return collections.Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def count_tflite(path):
    from migan_jax.export import tflite

    return tflite.operators(path)


class Format(NamedTuple):
    """One kind of file.

    Attributes:
      file: name.
      write: (model, path, options) -> None, or a dict for the report.
      run: (path, config) -> f32[N, R, R, 4] -> f32[N, R, R, 3]; of the pipeline
        u8[H, W, 3], u8[H, W] -> u8[H, W, 3].
      count: path -> {operator: how often}.
    """
    file: str
    write: Callable
    run: Callable
    count: Callable


FORMATS = {
    'pt': Format('migan.pt', write_pt, run_pt, lambda path: {}),
    'torchscript': Format(
        'migan_traced.pt', write_torchscript, run_torchscript, count_torchscript),
    'onnx': Format('migan.onnx', write_onnx, run_onnx, count_onnx),
    'onnx_pipeline': Format(
        'migan_pipeline.onnx', write_onnx_pipeline, run_onnx_pipeline, count_onnx),
    'tflite': Format('migan.tflite', write_tflite, run_tflite, count_tflite),
}

COMODGAN_FORMATS = {
    'pt': Format('comodgan.pt', write_comodgan_pt, run_comodgan_pt, lambda path: {}),
    'torchscript': Format(
        'comodgan_traced.pt', write_torchscript, run_torchscript, count_torchscript),
    'onnx': Format('comodgan.onnx', write_onnx, run_onnx, count_onnx),
}


def formats_of(config):
    """{name: `Format`} that a model has."""
    return COMODGAN_FORMATS if build.is_comodgan(config) else FORMATS


def counts(counter):
    return dict(sorted(counter.items()))


# --- exporting ----------------------------------------------------------------


def export_one(name, model, path, options, pictures):
    """Writes one format and checks it.

    Args:
      name: of the format.
      model: `Model`.
      path: of the file; an earlier one is replaced when the new one has passed.
      options: `Options`.
      pictures: besides random ones.

    Returns:
      dict for the report.

    Raises:
      ExportFailed: outside the tolerance, or not possible.
    """
    chosen, limit = formats_of(model.config)[name], options.limit
    resolution = model.config.model.resolution
    # In a folder of its own: TorchScript archives remember the name of their file.
    with tempfile.TemporaryDirectory(prefix='.to_torch.', dir=path.parent) as folder:
        temporary = pathlib.Path(folder) / path.name
        notes = chosen.write(model, temporary, options) or {}
        reference = model.generate
        if 'dropped_noise_at_4x4' in notes:
            config, variables, _ = drop_noise_at_4x4(model.config, model.variables)
            reference = jax_generator(config, variables)
        generate = chosen.run(temporary, model.config)
        samples = comparison.random_pictures(resolution)
        if name == 'onnx_pipeline':
            # Both round down to whole levels: one apart is equal.
            limit = max(math.ceil(limit * 127.5), 1) / 127.5
            compare = lambda pictures: comparison.pipeline_differences(
                reference, generate, pictures, resolution, options.upstream_crop)
            samples += comparison.odd_pictures(resolution)
        else:
            compare = lambda pictures: comparison.differences(
                reference, generate, pictures, resolution)
        report = {'format': name, 'file': path.name, 'bytes': temporary.stat().st_size,
                  'random': compare(samples)}
        if pictures:
            report['pictures'] = compare(pictures)
        report |= notes | {'tolerance': limit,
                           'operators': counts(chosen.count(temporary))}
        worst = max(report[key]['max'] for key in ('random', 'pictures')
                    if key in report)
        # Written so that NaN fails.
        if not worst <= limit * (1 + 1e-6):
            raise ExportFailed(
                f'differs from JAX by up to {worst:.3g}, more than {limit:.3g}: not '
                'written. --tolerance allows more.')
        os.replace(temporary, path)
    return report


def export_int8(model, path, pictures):
    """Writes the quantised graph and measures what it costs.

    Args:
      model, path: see `export_one`.
      pictures: to calibrate with, and to measure on.

    Returns:
      dict for the report; no tolerance applies, quantisation is a compromise.
    """
    resolution = model.config.model.resolution
    x = comparison.model_inputs(pictures, resolution)
    with tempfile.TemporaryDirectory(prefix='.to_torch.', dir=path.parent) as folder:
        source = pathlib.Path(folder) / FORMATS['onnx'].file
        write_onnx(model, source, Options())
        temporary = pathlib.Path(folder) / path.name
        onnx_quantize.to_int8(
            str(source), str(temporary),
            [np.ascontiguousarray(s.transpose(2, 0, 1)[None]) for s in x])
        report = {'format': 'int8', 'file': path.name,
                  'bytes': temporary.stat().st_size,
                  'calibration': comparison.differences(
                      model.generate, run_onnx(temporary, model.config), pictures,
                      resolution),
                  'operators': counts(count_onnx(temporary))}
        os.replace(temporary, path)
    return report


def check_comodgan_has(formats, options, calibration):
    """Raises ExportFailed if more is asked for than a Co-Mod-GAN has."""
    missing = [name for name in formats if name not in COMODGAN_FORMATS]
    if missing:
        raise ExportFailed(
            'the checkpoint holds a Co-Mod-GAN, which can not be exported as '
            f'{", ".join(missing)}: pass --formats={",".join(COMODGAN_FORMATS)} or '
            'some of them.')
    if calibration:
        raise ExportFailed('the checkpoint holds a Co-Mod-GAN, of which no int8 graph '
                           'can be made: leave out --int8.')
    if options.dynamic_size:
        raise ExportFailed('the checkpoint holds a Co-Mod-GAN, whose dense layers tie '
                           'it to one size: leave out --dynamic_size.')


def run(checkpoint, out, formats=None, options=Options(), images=None, masks=None,
        calibration=None,
        say=lambda text: None):
    """Exports a checkpoint.

    Args:
      checkpoint: directory.
      out: directory for the files, made if missing.
      formats: keys of `FORMATS`; all that the model has by default.
      options: `Options`.
      images, masks: paths of pictures to compare on, or None.
      calibration: (images, masks) to write an int8 graph with, or None.
      say: called with what it does, and with '' before it prints.

    Returns:
      list of dicts, one per format; those that failed have 'error'.

    Raises:
      ValueError: unusable input; nothing was written.
      OSError: `out` can't be written.
    """
    unknown = [name for name in formats or () if name not in FORMATS]
    if unknown or formats is not None and not formats:
        raise ExportFailed(f'--formats: {", ".join(unknown) or "none given"}; expected '
                           f'some of {", ".join(FORMATS)}.')
    if (images is None) != (masks is None):
        raise ExportFailed('--images and --masks go together: pass both or neither.')
    out = make_out(out)
    pictures = comparison.read_pictures(images, masks) if images else []
    calibration_pictures = (
        comparison.read_pictures(*calibration) if calibration else [])
    model = load(checkpoint)
    files = formats_of(model.config)
    formats = files if formats is None else formats
    if build.is_comodgan(model.config):
        check_comodgan_has(formats, options, calibration)
    model = model._replace(largest=functools.cache(lambda: clamps.measure(
        model.config, model.variables, [*pictures, *calibration_pictures])))
    reports = []
    for name in [*dict.fromkeys(formats), *(['int8'] if calibration else [])]:
        file = INT8 if name == 'int8' else files[name].file
        say(f'writing {file} and comparing it with JAX')
        try:
            if name == 'int8':
                report = export_int8(model, out / file, calibration_pictures)
            else:
                report = export_one(name, model, out / file, options, pictures)
        # One library's failure, whatever it raises, must not cost the other formats.
        except Exception as error:
            text = str(error) if isinstance(error, (ValueError, OSError)) else (
                f'{type(error).__name__}: {error}')
            report = {'format': name, 'file': file, 'error': text}
        reports.append(report)
        say('')
        print(describe(report), file=sys.stderr if 'error' in report else sys.stdout,
              flush=True)
    storage.write_atomically(
        out / 'report.json', (json.dumps(reports, indent=2) + '\n').encode())
    return reports


def make_out(out):
    """The directory for results, made and found writable."""
    out = pathlib.Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix='.to_torch.', dir=out):
            return out
    except OSError as error:
        raise ExportFailed(f'--out={out} can not be written to: {error}.') from error


def describe(report):
    """A few lines about one format."""
    if 'error' in report:
        return '\n'.join(f'error: {report["file"]}: {line}'
                         for line in report['error'].splitlines())
    lines = [f'{report["file"]}: {report["bytes"] / 1e6:.2f} MB']
    for key, words in (('random', 'JAX, random pictures'),
                       ('pictures', 'JAX, --images'),
                       ('calibration', 'float32, calibration images'),
                       ('dropped_noise_at_4x4', 'the model with noise at 4 x 4')):
        if key in report:
            values = report[key]
            psnr = values['composite_psnr_db']
            lines.append(
                f'  against {words}: max {values["max"]:.2e}, '
                f'mean {values["mean"]:.2e}; '
                + ('composites equal' if psnr is None else f'composites {psnr:.1f} dB'))
    if 'largest_activation' in report:
        lines.append(f'  largest activation: {report["largest_activation"]:.3g}; clamps '
                     f'at {CLAMP:g} kept where one reached {onnx_core.KEPT_FROM:g}')
    if report.get('operators'):
        lines.append('  operators: ' + ', '.join(
            f'{count} {kind}' for kind, count in report['operators'].items()))
    return '\n'.join(lines)
