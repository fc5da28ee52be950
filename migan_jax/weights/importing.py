"""Reads published weights: PyTorch and ONNX files -> a deployed generator.

tools/from_torch.py is the command line; `migan_jax.load` reads such files directly.
"""

from collections.abc import Mapping
import os
import re
from typing import Any, NamedTuple, TYPE_CHECKING

from absl import logging
import jax
import ml_collections
import numpy as np

from migan_jax import extras
from migan_jax.model import build
from migan_jax.model.fill import FLAG as FILL_FLAG
from migan_jax.model.fill import flag_value
from migan_jax.model.layers import channels
from migan_jax.model.layers import check_resolution
from migan_jax.model.layers import resolutions
from migan_jax.model.ops import FIR_TAPS
from migan_jax.storage import listed
from migan_jax.storage import only_on_disk
from migan_jax.weights import folded
from migan_jax.weights import torch_map

if TYPE_CHECKING:
    from migan_jax.data import torch_files
    from migan_jax.weights import onnx_import

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


def deployed_config() -> ml_collections.ConfigDict:
    """ConfigDict of `build.build_generator` for a deployed model; published values."""
    return ml_collections.ConfigDict({
        'deployed': True,
        'model': {
            'kind': 'migan', 'resolution': 256, 'ch_base': 32768, 'ch_max': 512,
            # How kernels were trained; a deployed one no longer shows it.
            'depthwise': True, 'branches': 9, 'materialize_branches': False,
            'noise_at_4x4': False, 'fill': False, 'dtype': 'float32',
            'comodgan': {'z_dim': 512, 'w_dim': 512, 'mapping_layers': 8,
                         'global_dim': 1024, 'dropout': 0.5},
        },
    })


def convert(path: str | os.PathLike, kind: str | None = None, resolution: int | None = None,
            config: ml_collections.ConfigDict | None = None
            ) -> tuple[ml_collections.ConfigDict, dict[str, Any], str]:
    """Reads a file.

    Args:
      path: see `read_file`.
      kind: 'migan' or 'comodgan', what the file is expected to hold; None takes both.
      resolution: what it is expected to have; None takes any.
      config: ConfigDict whose `model` is filled in; `deployed_config` by default.

    Returns:
      config: ConfigDict, with `config.model` as in the file.
      variables: of the deployed generator, for `checkpoint.save_deployed`.
      description: in words.

    Raises:
      ImportFailed: another kind or resolution; names, shapes or constants differ from
        those of the model (all are listed).
      torch_files.TorchFileError, onnx_import.OnnxFileError: not readable.
    """
    file = read_file(path)
    tensors = file.tensors
    if folded.is_folded(tensors):
        tensors = folded.unfold(tensors)
    kind = check_kind(path, tensors, kind)
    found = read_resolution(path, tensors)
    if resolution not in (None, found):
        raise ImportFailed(
            f'--resolution={resolution}, but {path} holds a model of {found} x '
            f'{found}: pass --resolution={found} or leave it out, or name the file of '
            f'the {resolution} model.')
    layout = (migan_layout if kind == 'migan' else comodgan_layout)(found, tensors)

    config = deployed_config() if config is None else config
    config.model.update(layout.model)
    shapes = torch_map.torch_shapes(
        build.abstract_variables(config, fused=True), layout.table)
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


def read_file(path: str | os.PathLike) -> 'torch_files.TorchFile | onnx_import.OnnxFile':
    """Tensors of a file, by what it is: see `torch_files`, and `onnx_import` for .onnx.

    Returns:
      `torch_files.TorchFile` or `onnx_import.OnnxFile`: `tensors` and `kind`.

    Raises:
      ImportFailed: it is on Cloud Storage.
    """
    if error := only_on_disk('checkpoint', path):
        raise ImportFailed(error)
    # Imported here: whoever reads one kind need not have what the other takes.
    if os.fspath(path).endswith('.onnx'):
        from migan_jax.weights import onnx_import

        file = onnx_import.read_file(path)
        for note in file.notes:
            logging.info('%s: %s', path, note)
        return file
    with extras.needs('export', f'Reading {path}'):
        from migan_jax.data import torch_files

    return torch_files.read_file(path)


def check_kind(path: str | os.PathLike, tensors: Mapping[str, np.ndarray], kind: str | None
               ) -> str:
    """The kind that the names are of; ImportFailed unless it is `kind`, where given."""
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
            f'{listed(sorted(tensors), 6)}. Expected names such as '
            'encoder.b256.fromrgb.weight.')
    if kind not in (None, found):
        raise ImportFailed(f'--kind={kind}, but {path} holds {KINDS[found]}: pass '
                           f'--kind={found}, or name another file.')
    return found


def read_resolution(path: str | os.PathLike, tensors: Mapping[str, np.ndarray]) -> int:
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


def width_fields(resolution: int, tensors: Mapping[str, np.ndarray], name: str
                 ) -> dict[str, int]:
    """ch_base and ch_max from the output channels of `name.format(r)` at each r.

    Files of other widths than ch(r) = min(ch_base / r, ch_max) fail later, when
    shapes are compared.
    """
    widths = {r: len(tensors[name.format(r)]) for r in (*resolutions(resolution), 4)
              if np.ndim(tensors.get(name.format(r))) == 4}
    ch_max = max(widths.values(), default=512)
    return {'ch_base': resolution * widths.get(resolution, ch_max), 'ch_max': ch_max}


def migan_layout(resolution: int, tensors: Mapping[str, np.ndarray]) -> Layout:
    """`Layout` of MI-GAN as deployed."""
    noise_at_4x4 = 'synthesis.b4.conv1.noise_const' in tensors
    model = {
        'kind': 'migan', 'resolution': resolution, 'noise_at_4x4': noise_at_4x4,
        'fill': FILL_FLAG in tensors, 'fill_passes': _fill_passes(tensors),
        **width_fields(resolution, tensors, 'encoder.b{}.conv1.conv2.weight'),
    }
    constants = torch_map.deployed_constants(
        resolution, lambda r: channels(r, model['ch_base'], model['ch_max']), FIR_TAPS)
    # The older layout's name for the same mask.
    constants |= {
        name.removesuffix('filter_const') + 'insert_zeros': array
        for name, array in constants.items() if name.endswith('.filter_const')}
    if model['fill']:
        constants[FILL_FLAG] = flag_value(model['fill_passes'])
    table = torch_map.generator_table(
        resolution, branches=0, noise_at_4x4=noise_at_4x4, fused=True)
    return Layout(model, table, constants)


def _fill_passes(tensors):
    """Passes of the starting fill, from its flag's value; 0 where none says so."""
    flag = np.asarray(tensors.get(FILL_FLAG, 0))
    value = float(flag) if flag.ndim == 0 else 0.0
    return int(value) - 1 if value.is_integer() and value >= 1 else 0


def comodgan_layout(resolution: int, tensors: Mapping[str, np.ndarray]) -> Layout:
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


def check_constants(path: str | os.PathLike, tensors: Mapping[str, np.ndarray],
                    constants: Mapping[str, np.ndarray]) -> None:
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
            f'{listed(wrong)}. The first has shape {list(first.shape)} and '
            f'begins with {first.ravel()[:4].tolist()}. The model was trained with '
            'another filter and would paint something else here.')
