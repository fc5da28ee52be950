"""Turns PyTorch weights into a checkpoint directory.

    python tools/from_torch.py --kind=migan --checkpoint=migan_256.pt --out=imported

Reads MI-GAN as published for inference (also the older layout, whose upsampling has
`insert_zeros`), TorchScript archives of it (migan_traced.pt), what tools/to_torch.py
writes, and Co-Mod-GAN generators (--kind=comodgan); state dicts, safetensors and
TorchScript alike. Only tensors are read: pickled code is refused before any of it runs.

Resolution, channels and noise are read from the file; with --resolution they are
checked against it. The result holds the generator bit for bit. tools/inpaint.py,
tools/evaluate.py and tools/to_torch.py take it as --checkpoint, training as
--config.init_from (fine-tuning) or --config.teacher.checkpoint.

Errors go to stderr, one line each, and the exit code is 1; nothing half-written stays.
"""

import json
import os
import pathlib
import re
import runpy
import shutil
import sys
from typing import NamedTuple

from absl import app
from absl import flags
import jax
import numpy as np

from migan_jax.export import torch_files
from migan_jax.export import torch_module
from migan_jax import state as state_lib
from migan_jax import torch_map
from migan_jax.layers import channels
from migan_jax.layers import check_resolution
from migan_jax.layers import FIR_TAPS
from migan_jax.layers import resolutions

DEFAULT_CONFIG = pathlib.Path(__file__).resolve().parents[1] / 'configs' / 'default.py'

KINDS = {'migan': 'a MI-GAN generator', 'comodgan': 'a Co-Mod-GAN generator'}

# What else people hand over, by a name that nothing else has.
OTHERS = {
    r'b4\.out\.weight': 'a discriminator: only generators are imported',
    r'.*\.(w0|conv[12]\.conv2\.noise_const)':
        'a MI-GAN generator in its training layout: export it for inference first, '
        'with the program that trained it',
}


class ImportFailed(ValueError):
    """The file or the place for the result can't be used; one line for each reason."""


class Layout(NamedTuple):
    """How a model of some size looks in a file.

    Attributes:
      model: fields of config.model.
      table: of `torch_map`.
      constants: {name: array} that files may hold, fixed.
    """
    model: dict
    table: list
    constants: dict[str, np.ndarray]


def convert(path, kind, resolution=None):
    """Reads a file.

    Args:
      path: see `torch_files.read_tensors`.
      kind: 'migan' or 'comodgan', what the file is expected to hold.
      resolution: what it is expected to have; None takes any.

    Returns:
      config: ConfigDict, the defaults with `config.model` filled in from the file.
      variables: of the deployed generator, for `state.save_deployed`.
      description: in words.

    Raises:
      ImportFailed: another kind or resolution; names, shapes or constants differ from
        those of the model (all are listed).
      torch_files.TorchFileError: not readable.
    """
    file = torch_files.read_file(path)
    tensors = file.tensors
    if torch_module.is_folded(tensors):
        tensors = torch_module.unfold(tensors)
    check_kind(path, tensors, kind)
    found = read_resolution(path, tensors)
    if resolution not in (None, found):
        raise ImportFailed(
            f'--resolution={resolution}, but {path} holds a model of {found} x '
            f'{found}: pass --resolution={found} or leave it out, or name the file of '
            f'the {resolution} model.')
    layout = (migan_layout if kind == 'migan' else comodgan_layout)(found, tensors)

    config = runpy.run_path(str(DEFAULT_CONFIG))['get_config']()
    config.model.update(layout.model)
    shapes = torch_map.torch_shapes(state_lib.abstract_deployed(config), layout.table)
    known = {e.torch for e in layout.table} | set(layout.constants)
    stray = [name for name in tensors
             if torch_map.is_constant(name) and name not in known]
    try:
        variables = torch_map.from_torch(
            {k: v for k, v in tensors.items() if k not in layout.constants},
            layout.table, shapes)
    except ValueError as error:
        raise ImportFailed(f'{path}: {error}') from error
    if stray:
        raise ImportFailed(f'{path}: {len(stray)} unexpected constants '
                           f'{sorted(stray)}; expected a model of {found} x {found}.')
    check_constants(path, tensors, layout.constants)
    variables = {name: tree for name, tree in variables.items() if tree}
    count = sum(x.size for x in jax.tree.leaves(variables['params']))
    model = config.model
    widths = [channels(r, model.ch_base, model.ch_max) for r in (found, 4)]
    description = (
        f'{file.kind} of {KINDS[kind]}, {found} x {found}, {count / 1e6:.2f} M '
        f'parameters, {widths[0]} channels at {found} x {found}, {widths[1]} at 4 x 4')
    return config, variables, description


def check_kind(path, tensors, kind):
    """Raises ImportFailed unless the names are those of a `kind`."""
    depthwise = re.compile(r'encoder\.b\d+\.conv1\.conv[12]\.weight')
    if 'mapping.fc0.weight' in tensors:
        found = 'comodgan'
    elif any(depthwise.fullmatch(name) for name in tensors):
        found = 'migan'
    else:
        found = None
    for pattern, what in OTHERS.items():
        if any(re.fullmatch(pattern, name) for name in tensors):
            raise ImportFailed(f'{path} holds {what}.')
    if found is None:
        raise ImportFailed(
            f'{path} holds {len(tensors)} tensors, but neither of the generators: '
            f'{torch_files.listed(sorted(tensors), 6)}. Expected names such as '
            'encoder.b256.fromrgb.weight.')
    if found != kind:
        raise ImportFailed(f'--kind={kind}, but {path} holds {KINDS[found]}: pass '
                           f'--kind={found}, or name another file.')


def read_resolution(path, tensors):
    """R, from the name of the layer that takes the image."""
    found = [int(match[1]) for name in tensors
             if (match := re.fullmatch(r'encoder\.b(\d+)\.fromrgb\.weight', name))]
    if len(found) != 1:
        raise ImportFailed(
            f'{path} does not tell the resolution: expected one name such as '
            f'encoder.b256.fromrgb.weight, found {len(found)}.')
    try:
        check_resolution(found[0])
    except ValueError as error:
        raise ImportFailed(f'{path}: {error}') from error
    return found[0]


def width_fields(resolution, tensors, name):
    """ch_base and ch_max from the output channels of `name.format(r)` at each r.

    Files of other widths than ch(r) = min(ch_base / r, ch_max) fail later, when
    shapes are compared.
    """
    widths = {r: len(tensors[name.format(r)]) for r in (*resolutions(resolution), 4)
              if np.ndim(tensors.get(name.format(r))) == 4}
    ch_max = max(widths.values(), default=512)
    return {'ch_base': resolution * widths.get(resolution, ch_max), 'ch_max': ch_max}


def migan_layout(resolution, tensors):
    """`Layout` of MI-GAN as deployed."""
    noise_at_4x4 = 'synthesis.b4.conv1.noise_const' in tensors
    model = {
        'kind': 'migan', 'resolution': resolution, 'noise_at_4x4': noise_at_4x4,
        **width_fields(resolution, tensors, 'encoder.b{}.conv1.conv2.weight'),
    }
    constants = torch_map.deployed_constants(
        resolution, lambda r: channels(r, model['ch_base'], model['ch_max']), FIR_TAPS)
    # The older layout's name for the same mask.
    constants |= {
        name.removesuffix('filter_const') + 'insert_zeros': array
        for name, array in constants.items() if name.endswith('.filter_const')}
    table = torch_map.generator_table(
        resolution, branches=0, noise_at_4x4=noise_at_4x4, fused=True)
    return Layout(model, table, constants)


def comodgan_layout(resolution, tensors):
    """`Layout` of Co-Mod-GAN."""
    layers = sum(bool(re.fullmatch(r'mapping\.fc\d+\.weight', n)) for n in tensors)
    size = lambda name, axis: (
        tensors[name].shape[axis] if np.ndim(tensors.get(name)) == 2 else 512)
    model = {
        'kind': 'comodgan', 'resolution': resolution,
        'comodgan': {
            'z_dim': size('mapping.fc0.weight', 1),
            'w_dim': size('mapping.fc0.weight', 0), 'mapping_layers': layers,
            'global_dim': size('encoder.b4.fc.weight', 0),
        },
        **width_fields(resolution, tensors, 'encoder.b{}.conv0.weight'),
    }
    taps = np.outer(FIR_TAPS, FIR_TAPS).astype(np.float32)
    constants = {name: taps for name in tensors if name.endswith('.resample_filter')}
    table = torch_map.comodgan_table(resolution, mapping_layers=layers)
    return Layout(model, table, constants)


def check_constants(path, tensors, constants):
    """Raises ImportFailed where filters or masks of the file are not ours."""
    wrong = []
    for name in sorted(constants.keys() & tensors.keys()):
        array, expected = tensors[name], constants[name]
        # The masks came in several shapes; what counts is where their ones are.
        if name.endswith(('.filter_const', '.insert_zeros')) and array.ndim >= 2:
            expected = expected[0, 0, :array.shape[-2], :array.shape[-1]]
            same = array.shape[-2:] == expected.shape and np.all(array == expected)
        else:
            same = (array.shape == expected.shape
                    and np.allclose(array, expected, 0, 1e-6))
        if not same:
            wrong.append(name)
    if wrong:
        first = tensors[wrong[0]]
        raise ImportFailed(
            f'{path}: {len(wrong)} constants differ from the FIR filter '
            'outer([1, 3, 3, 1]) / 64 and the mask that puts a zero after every pixel: '
            f'{torch_files.listed(wrong)}. The first has shape {list(first.shape)} and '
            f'begins with {first.ravel()[:4].tolist()}. The model was trained with '
            'another filter and would paint something else here.')


def check_out(out, overwrite):
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
            f'{torch_files.listed(names, 5)}): name a new directory.')
    if not overwrite:
        raise ImportFailed(f'--out={out} exists: pass --overwrite to replace it, or '
                           'name a new directory.')


def write(out, config, variables):
    """Writes a checkpoint directory: complete, or `out` is what it was before."""
    temporary = out.with_name(f'.{out.name}.{os.getpid()}.tmp')
    previous = out.with_name(f'.{out.name}.{os.getpid()}.old')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        state_lib.save_deployed(str(temporary), config, variables)
        if out.exists():
            os.replace(out, previous)
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


def run(path, kind, out, resolution=None, overwrite=False):
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


def advice(config, out):
    """What is missing in the result, and what to do with it: lines."""
    model = config.model
    size = model.resolution if model.resolution in (256, 512) else 256
    lines = []
    if model.kind == 'migan':
        fields = ''.join(
            f' --config.model.{name}={model[name]}'
            for name in ('resolution', 'ch_base', 'ch_max', 'noise_at_4x4')
            if model[name] != {'resolution': size, 'ch_base': 32768, 'ch_max': 512,
                               'noise_at_4x4': True}[name])
        lines += [
            'Not in such a file: the discriminator, the optimiser states, the split of '
            'kernels into branches and the size they had before normalisation. '
            'Fine-tuning starts those anew; the generator paints the same.',
            'Next:',
            f'  python tools/to_torch.py --checkpoint={out} --out=export',
            f'  python -m migan_jax.main --config=configs/places{size}.py '
            f'--workdir=runs/tuned --config.init_from={out}{fields}',
        ]
    else:
        lines += [
            'Not in such a file: the discriminator and the optimiser states.', 'Next:',
            f'  python -m migan_jax.main --config=configs/places{size}.py '
            f'--workdir=runs/student --config.teacher.checkpoint={out}',
        ]
    lines.append(f'  python tools/inpaint.py --checkpoint={out} --images=IMAGES '
                 '--masks=MASKS --out=RESULTS')
    return lines


def define_flags():
    flags.DEFINE_enum(
        'kind', None, sorted(KINDS), 'What the file holds.', required=True)
    flags.DEFINE_integer(
        'resolution', None, 'Side that the model paints, px; any by default.')
    flags.DEFINE_string('checkpoint', None, 'File of PyTorch weights.', required=True)
    flags.DEFINE_string('out', None, 'Checkpoint directory to be made.', required=True)
    flags.DEFINE_bool('overwrite', False, 'Replace an earlier result of this tool.')


def main(argv):
    if len(argv) > 1:
        sys.exit(f'error: unexpected argument {argv[1]}; all input is given by flags')
    args = flags.FLAGS
    state_lib.quiet_logs()
    try:
        config, description = run(
            args.checkpoint, args.kind, args.out, args.resolution, args.overwrite)
    except (ValueError, OSError) as error:
        sys.exit('\n'.join(f'error: {line}' for line in str(error).splitlines()))
    print(f'{args.checkpoint}: {description}')
    print(f'wrote {args.out}')
    print('\n'.join(advice(config, args.out)))


if __name__ == '__main__':
    # Not at import: other tools and tests may define flags of the same names.
    define_flags()
    app.run(main)
