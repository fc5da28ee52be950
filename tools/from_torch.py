"""Turns PyTorch weights into a checkpoint directory.

    python tools/from_torch.py --kind=migan --checkpoint=migan_256.pt --out=imported

Reads MI-GAN as published for inference (also the older layout, whose upsampling has
`insert_zeros`), TorchScript archives of it (migan_traced.pt), what tools/to_torch.py
writes, and Co-Mod-GAN generators (--kind=comodgan); state dicts, safetensors and
TorchScript alike, and ONNX graphs of a MI-GAN. Only tensors are read: pickled code is
refused before any of it runs.

Resolution, channels and noise are read from the file; with --resolution they are
checked against it. The result holds the generator bit for bit. tools/inpaint.py,
tools/evaluate.py and tools/to_torch.py take it as --checkpoint, training as
--config.init_from (fine-tuning) or --config.teacher.checkpoint.

Errors go to stderr, one line each, and the exit code is 1; nothing half-written stays.
"""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import runpy
import shutil
from typing import Any

from absl import flags
import ml_collections

from migan_jax import checkpoint as checkpoint_lib
from migan_jax import cli
from migan_jax.configs import finetune256
from migan_jax.data import masks
from migan_jax import meter
from migan_jax import storage
with cli.needs('export'):
    from migan_jax.weights import importing
    from migan_jax.weights.importing import ImportFailed

DEFAULT_CONFIG = pathlib.Path(__file__).resolve().parents[1] / 'configs' / 'default.py'


def convert(
        path: os.PathLike | str, kind: str,
        resolution: int | None = None) -> tuple[ml_collections.ConfigDict, dict[str, Any], str]:
    """`importing.convert` with the repository's default config.

    Args:
      path: see `torch_files.read_tensors`.
      kind: 'migan' or 'comodgan', what the file is expected to hold.
      resolution: what it is expected to have; None takes any.

    Returns:
      config: ConfigDict, the defaults with `config.model` filled in from the file, and
        strokes as wide for its resolution as the published ones are for 256.
      variables, description: see `importing.convert`.
    """
    config = runpy.run_path(str(DEFAULT_CONFIG))['get_config']()
    config, variables, description = importing.convert(path, kind, resolution, config)
    config.mask.brush_width = masks.stroke_widths(config.model.resolution)
    return config, variables, description


def check_out(out: pathlib.Path, overwrite: bool) -> None:
    """Raises ImportFailed unless `out` can be written, or replaced."""
    parent = next(p for p in out.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ImportFailed(f'--out={out}: {parent} is no directory that can be written '
                           'to; name another place.')
    if not out.exists():
        return
    if not out.is_dir():
        raise ImportFailed(f'--out={out} is a file; name a new directory.')
    names = sorted(os.listdir(out))
    if not names:
        return
    try:
        ours = set(names) == {'config.json', 'checkpoints'} and json.loads(
            (out / 'config.json').read_text()).get('deployed') is True
    except ValueError:
        ours = False
    if not ours:
        raise ImportFailed(
            f'--out={out} exists and was not written by from_torch (it holds '
            f'{storage.listed(names, 5)}): name a new directory.')
    if not overwrite:
        raise ImportFailed(f'--out={out} exists: pass --overwrite to replace it, or '
                           'name a new directory.')


def write(out: pathlib.Path, config: ml_collections.ConfigDict,
          variables: Mapping[str, Any]) -> None:
    """Writes a checkpoint directory: complete, or `out` is what it was before."""
    temporary = out.with_name(f'.{out.name}.{os.getpid()}.tmp')
    previous = out.with_name(f'.{out.name}.{os.getpid()}.old')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        checkpoint_lib.save_deployed(str(temporary), config, variables)
        if out.exists():
            os.replace(out, previous)
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


def run(path: os.PathLike | str, kind: str, out: os.PathLike | str,
        resolution: int | None = None,
        overwrite: bool = False) -> tuple[ml_collections.ConfigDict, str]:
    """Reads a file and writes a checkpoint directory.

    Args:
      path, kind, resolution: see `convert`.
      out: directory to be made.
      overwrite: replace what from_torch wrote there before.

    Returns:
      config, description: see `convert`.

    Raises:
      ImportFailed, torch_files.TorchFileError: see `convert`; nothing was written.
      OSError: `out` can't be written; nothing was written.
    """
    out = pathlib.Path(out)
    check_out(out, overwrite)
    config, variables, description = convert(path, kind, resolution)
    write(out, config, variables)
    return config, description


def advice(config: ml_collections.ConfigDict, out: os.PathLike | str) -> list[str]:
    """What is missing in the result, and what to do with it: lines."""
    model = config.model
    size = model.resolution if model.resolution in (256, 512) else 256
    width, widest = config.mask.brush_width
    fields = '' if model.resolution >= 256 else (
        f' --config.model.resolution={model.resolution}'
        f' --config.mask.brush_width={width},{widest}')
    photos = ' --config.data.source=folder --config.data.path=PHOTOS'
    lines = []
    if model.kind == 'migan':
        recipe = finetune256.get_config()
        fields = ''.join(
            f' --config.model.{name}={model[name]}'
            for name in ('resolution', 'ch_base', 'ch_max', 'noise_at_4x4')
            if model[name] != recipe.model[name])
        if (width, widest) != tuple(recipe.mask.brush_width):
            fields += f' --config.mask.brush_width={width},{widest}'
        lines += [
            'Not in such a file: the discriminator, the optimiser states, the split of '
            'kernels into branches and the size they had before normalisation. '
            'Fine-tuning starts those anew; the generator paints the same.',
            'Next:',
            f'  python tools/to_torch.py --checkpoint={out} --out=export',
            '  python -m migan_jax.main --config=configs/finetune256.py '
            f'--workdir=runs/tuned --config.init_from={out}{fields} '
            '--config.data.path=PHOTOS',
        ]
    else:
        lines += [
            'Not in such a file: the discriminator and the optimiser states.', 'Next:',
            f'  python -m migan_jax.main --config=configs/places{size}.py '
            f'--workdir=runs/student --config.teacher.checkpoint={out}{fields}{photos}',
        ]
    lines.append(f'  python tools/inpaint.py --checkpoint={out} --images=IMAGES '
                 '--masks=MASKS --out=RESULTS')
    return lines


def define_flags() -> None:
    flags.DEFINE_enum(
        'kind', None, sorted(importing.KINDS), 'What the file holds.', required=True)
    flags.DEFINE_integer(
        'resolution', None, 'Side that the model paints, px; any by default.')
    flags.DEFINE_string('checkpoint', None, 'File of PyTorch weights.', required=True)
    flags.DEFINE_string('out', None, 'Checkpoint directory to be made.', required=True)
    flags.DEFINE_bool('overwrite', False, 'Replace an earlier result of this tool.')


def main(argv: Sequence[str]) -> None:
    del argv
    args = flags.FLAGS
    with meter.status() as status:
        status.set_description_str(f'reading {args.checkpoint}')
        config, description = run(
            args.checkpoint, args.kind, args.out, args.resolution, args.overwrite)
    print(f'{args.checkpoint}: {description}')
    print(f'wrote {args.out}')
    print('\n'.join(advice(config, args.out)))


if __name__ == '__main__':
    # Not at import: other tools and tests may define flags of the same names.
    define_flags()
    cli.run(main)
