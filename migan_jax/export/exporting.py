"""Exports a deployed generator into files, each run again and compared with JAX.

Formats and their contracts are listed in tools/to_torch.py, which is the command line
of `run`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import json
import math
import os
import pathlib
import tempfile
from typing import Any

import ml_collections

from migan_jax import checkpoint as checkpoint_lib
from migan_jax.export import clamps
from migan_jax.export import comparison
from migan_jax.export import onnx_core
from migan_jax.export import onnx_formats
from migan_jax.export import phone_formats
from migan_jax.export import torch_formats
from migan_jax.export.models import ExportFailed
from migan_jax.export.models import Format
from migan_jax.export.models import load
from migan_jax.export.models import Model
from migan_jax.export.models import Options
from migan_jax.model import build
from migan_jax.model.ops import CLAMP
from migan_jax import extras
from migan_jax import storage

FORMATS = {
    'pt': torch_formats.PT,
    'torchscript': torch_formats.TORCHSCRIPT,
    'onnx': onnx_formats.ONNX,
    'onnx_pipeline': onnx_formats.PIPELINE,
    'tflite': phone_formats.TFLITE,
}

# Written when asked for: each needs an extra of its own.
MORE_FORMATS = {
    'coreml': phone_formats.COREML,
    'coreml_image': phone_formats.COREML_IMAGE,
    'executorch': phone_formats.EXECUTORCH,
    'executorch_vulkan': phone_formats.EXECUTORCH_VULKAN,
    'executorch_coreml': phone_formats.EXECUTORCH_COREML,
    'ncnn': phone_formats.NCNN,
    'openvino': onnx_formats.OPENVINO,
    'ort': onnx_formats.ORT,
    'ort_pipeline': onnx_formats.ORT_PIPELINE,
}

COMODGAN_FORMATS = {
    'pt': torch_formats.COMODGAN_PT,
    'torchscript': torch_formats.COMODGAN_TORCHSCRIPT,
    'onnx': onnx_formats.COMODGAN_ONNX,
}


def formats_of(config: ml_collections.ConfigDict) -> dict[str, Format]:
    """{name: `Format`} that a model has."""
    if build.is_comodgan(config):
        return COMODGAN_FORMATS
    return FORMATS | MORE_FORMATS


def counts(counter: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counter.items()))


def export_one(name: str, model: Model, path: pathlib.Path, options: Options,
               pictures: Sequence[comparison.Picture]) -> dict[str, Any]:
    """Writes one format and checks it.

    Args:
      name: of the format.
      model: `models.Model`.
      path: of the file; an earlier one is replaced when the new one has passed.
      options: `models.Options`.
      pictures: besides random ones.

    Returns:
      dict for the report.

    Raises:
      ExportFailed: outside the tolerance, or not possible.
    """
    chosen, limit = formats_of(model.config)[name], options.limit
    lacks = chosen.lacks(model, options)
    if lacks:
        raise ExportFailed(lacks)
    model, notes = chosen.reference(model, options)
    resolution = model.config.model.resolution
    # In a folder of its own: TorchScript archives remember the name of their file.
    with tempfile.TemporaryDirectory(prefix='.to_torch.', dir=path.parent) as folder:
        temporary = pathlib.Path(folder) / path.name
        notes |= chosen.write(model, temporary, options) or {}
        if chosen.levels:
            limit = max(math.ceil(limit * 127.5), 1) / 127.5
        report = {'format': name, 'file': path.name, 'bytes': size_of(temporary)}
        if chosen.run is not None:
            generate = chosen.run(temporary, model.config)
            for key, samples in (('random', chosen.samples(resolution)),
                                 ('pictures', pictures)):
                if samples:
                    report[key] = chosen.compare(
                        model.generate, generate, samples, resolution, options)
        report |= notes | {'tolerance': limit,
                           'operators': counts(chosen.count(temporary))}
        worst = max(report[key]['max'] for key in ('random', 'pictures', 'handed_over')
                    if key in report)
        # Written so that NaN fails.
        if not worst <= limit * (1 + 1e-6):
            raise ExportFailed(
                f'differs from JAX by up to {worst:.3g}, more than {limit:.3g}: not '
                'written. --tolerance allows more.')
        # A folder can't be replaced by another that is not empty.
        if path.is_dir():
            os.rename(path, pathlib.Path(folder) / 'earlier')
        os.replace(temporary, path)
    return report


def size_of(path: pathlib.Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob('*') if p.is_file())
    return path.stat().st_size


def check_comodgan_has(formats: Iterable[str], options: Options) -> None:
    """Raises ExportFailed if more is asked for than a Co-Mod-GAN has."""
    missing = [name for name in formats if name not in COMODGAN_FORMATS]
    if missing:
        raise ExportFailed(
            'the checkpoint holds a Co-Mod-GAN, which can not be exported as '
            f'{", ".join(missing)}: pass --formats={",".join(COMODGAN_FORMATS)} or '
            'some of them.')
    if options.dynamic_size:
        raise ExportFailed('the checkpoint holds a Co-Mod-GAN, whose dense layers tie '
                           'it to one size: leave out --dynamic_size.')


def run(checkpoint: os.PathLike | str, out: os.PathLike | str,
        formats: Sequence[str] | None = None, options: Options = Options(),
        images: os.PathLike | str | None = None, masks: os.PathLike | str | None = None,
        say: Callable[[str], Any] = lambda text: None,
        done: Callable[[dict[str, Any]], Any] = lambda report: None, step: str | int = 'best',
        opened: Callable[[str], Any] = lambda text: None) -> list[dict[str, Any]]:
    """Exports a checkpoint.

    Args:
      checkpoint: directory.
      out: directory for the files, made if missing.
      formats: keys of `FORMATS` and `MORE_FORMATS`; by default all of `FORMATS` that
        can hold the model, and with ['all'] those of both.
      options: `models.Options`.
      images, masks: paths of pictures to compare on, or None.
      say: called with what it is about to do.
      done: called with each report.
      step: which checkpoint, see `checkpoint.open_checkpoint`.
      opened: called with what was loaded, in words.

    Returns:
      list of dicts, one per format; those that failed have 'error', and those that
      can't hold the model or lack a package and weren't asked for by name 'skipped',
      each a sentence.

    Raises:
      ValueError: unusable input; nothing was written.
      OSError: `out` can't be written.
    """
    known = FORMATS | MORE_FORMATS
    everything = formats == ['all']
    unknown = [] if everything else [n for n in formats or () if n not in known]
    if unknown or formats is not None and not formats:
        raise ExportFailed(f'--formats: {", ".join(unknown) or "none given"}; expected '
                           f'some of {", ".join(known)}, or all.')
    if (images is None) != (masks is None):
        raise ExportFailed('--images and --masks go together: pass both or neither.')
    out = make_out(out)
    pictures = comparison.read_pictures(images, masks) if images else []
    model = load(checkpoint, step)
    opened(checkpoint_lib.said(checkpoint, model.config, model.step))
    files = formats_of(model.config)
    named = formats is not None and not everything
    if not named:
        formats = [name for name in files if everything or name not in MORE_FORMATS]
    if build.is_comodgan(model.config):
        check_comodgan_has(formats, options)
    model = model._replace(largest=functools.cache(lambda: clamps.measure(
        model.config, model.variables, pictures)))
    reports = []
    for name in dict.fromkeys(formats):
        file = files[name].file
        report = {'format': name, 'file': file}
        say(f'writing {file} and comparing it with JAX')
        try:
            if not named and (lacks := files[name].lacks(model, options)):
                report['skipped'] = lacks
            else:
                with extras.needs('export', f'Writing {file}'):
                    report = export_one(name, model, out / file, options, pictures)
        except extras.MissingExtra as error:
            report['skipped' if formats is None else 'error'] = str(error)
        # One library's failure, whatever it raises, must not cost the other formats.
        except Exception as error:
            report['error'] = str(error) if isinstance(
                error, (ValueError, OSError)) else f'{type(error).__name__}: {error}'
        reports.append(report)
        done(report)
    storage.write_atomically(
        out / 'report.json', (json.dumps(reports, indent=2) + '\n').encode())
    return reports


def make_out(out: os.PathLike | str) -> pathlib.Path:
    """The directory for results, made and found writable."""
    out = pathlib.Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix='.to_torch.', dir=out):
            return out
    except OSError as error:
        raise ExportFailed(f'--out={out} can not be written to: {error}.') from error


def describe(report: Mapping[str, Any]) -> str:
    """A few lines about one format."""
    if 'error' in report:
        return '\n'.join(f'error: {report["file"]}: {line}'
                         for line in report['error'].splitlines())
    if 'skipped' in report:
        return f'{report["file"]}: left out: {report["skipped"]}'
    lines = [f'{report["file"]}: {report["bytes"] / 1e6:.2f} MB']
    for key, words in (('random', 'JAX, random pictures'),
                       ('pictures', 'JAX, --images'),
                       ('handed_over', 'JAX, before it was lowered; this file can not be '
                                       'run here'),
                       ('dropped_noise_at_4x4', 'the model with noise at 4 x 4')):
        if key in report:
            values = report[key]
            psnr = values['composite_psnr_db']
            lines.append(
                f'  against {words}: max {values["max"]:.2e}, '
                f'mean {values["mean"]:.2e}; '
                + ('composites equal' if psnr is None else f'composites {psnr:.1f} dB'))
    if 'largest_activation' in report:
        lines.append(
            f'  largest activation: {report["largest_activation"]:.3g}; clamps at '
            f'{CLAMP:g} kept where one reached {onnx_core.KEPT_FROM:g}')
    if report.get('operators'):
        lines.append('  operators: ' + ', '.join(
            f'{count} {kind}' for kind, count in report['operators'].items()))
    return '\n'.join(lines)
