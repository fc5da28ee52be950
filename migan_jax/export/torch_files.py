"""Reads the tensors of PyTorch files, and never runs what is pickled in them.

State dicts written by torch.save (zip and legacy format), safetensors, and TorchScript
archives.  Files come from strangers: a pickle can name any function and have it called,
so that only tensors, numbers, strings and their containers are let through.
"""

import os
import pickle
import re
from typing import NamedTuple
import warnings
import zipfile

from absl import logging
import numpy as np
import safetensors
import safetensors.torch
import torch


class TorchFileError(ValueError):
    """A file can't be read as tensors; the message names it and says why."""


class TorchFile(NamedTuple):
    """What a file holds.

    Attributes:
      tensors: {name: array}; half and bfloat16 have become float32.
      kind: in words, for messages, such as 'TorchScript archive'.
    """
    tensors: dict[str, np.ndarray]
    kind: str


# Of several state dicts in one file the average is what is evaluated and exported.
_PREFERRED = ('G_ema', 'g_ema', 'ema')

# No generator has a thousand layers; a pickle of a few bytes can unfold to more.
_MAX_NODES = 100_000


def read_tensors(path):
    """The tensors of a PyTorch or safetensors file.

    Args:
      path: a state dict of torch.save, also within one dict such as {'state_dict':
        ...}; a safetensors file; or a TorchScript archive.

    Returns:
      {name: np.ndarray}; names of a TorchScript archive are its attribute paths, as
      in its state dict.  Half and bfloat16 come as float32, all else as it is.

    Raises:
      TorchFileError: the file is missing, empty, truncated or something else; it holds
        pickled code (refused, nothing of it ran), anything but tensors, or NaN or
        infinite values.
    """
    return read_file(path).tensors


def read_file(path):
    """`read_tensors` with a word on the kind of file: `TorchFile`."""
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise TorchFileError(
            f'{path} is a directory; expected one file.' if os.path.isdir(path) else
            f'{path} does not exist.')
    try:
        with open(path, 'rb') as f:
            head = f.read(64)
    except OSError as error:
        raise TorchFileError(f'{path} can not be opened: {error}') from error
    if not head:
        raise TorchFileError(f'{path} is empty: download or write it again.')
    if head[8:9] == b'{' or path.endswith('.safetensors'):
        kind, tensors = 'safetensors file', _read_safetensors(path)
    elif head[:4] == b'PK\x03\x04':
        kind, tensors = _read_zip(path)
    elif head[:1] == b'\x80':
        kind, tensors = 'legacy state dict', _read_state_dict(path)
    else:
        raise TorchFileError(
            f'{path} is no PyTorch or safetensors file, it starts with {head[:16]!r}; '
            'expected a state dict of torch.save (.pt, .pth), a TorchScript archive or '
            'a .safetensors file. A web page or a Git LFS pointer in its place means '
            'that the download has to be repeated.')
    if not tensors:
        raise TorchFileError(
            f'{path} holds no tensors. A frozen TorchScript archive keeps them as '
            'constants without names: use the archive before freezing, or the state '
            'dict.')
    arrays = {name: _to_numpy(path, name, tensor) for name, tensor in tensors.items()}
    damaged = sorted(name for name, array in arrays.items()
                     if array.dtype.kind == 'f' and not np.isfinite(array).all())
    if damaged:
        raise TorchFileError(
            f'{path}: {len(damaged)} tensors have NaN or infinite values: '
            f'{listed(damaged)}. The training diverged or the file is damaged: use an '
            'earlier checkpoint.')
    return TorchFile(arrays, kind)


def listed(names, limit=12):
    """The first few names in one line."""
    more = [f'and {len(names) - limit} more'] if len(names) > limit else []
    return ', '.join([str(name) for name in names[:limit]] + more)


def _to_numpy(path, name, tensor):
    """A tensor that owns its numbers -> array."""
    if (not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided
            or tensor.is_quantized or tensor.is_complex()
            or tensor.device.type != 'cpu'):
        raise TorchFileError(
            f'{path}: {name} is no plain tensor of numbers but {_describe(tensor)}; '
            'expected dense float or integer tensors.')
    # A view with stride 0 of a few bytes can have any size.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise TorchFileError(
            f'{path}: {name} has shape {list(tensor.shape)}, more numbers than are '
            'stored for it: save a contiguous copy.')
    tensor = tensor.detach()
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    try:
        return tensor.contiguous().numpy()
    except (TypeError, RuntimeError) as error:       # float8 and the like
        raise TorchFileError(f'{path}: {name} has dtype {tensor.dtype}, which NumPy '
                             'lacks: save it as float32.') from error


def _describe(value):
    if isinstance(value, torch.Tensor):
        return f'a {value.layout} {value.dtype} tensor on {value.device}'
    return f'a {type(value).__name__}'


def _read_safetensors(path):
    try:
        return safetensors.torch.load_file(path, device='cpu')
    except (safetensors.SafetensorError, ValueError, RuntimeError) as error:
        raise TorchFileError(
            f'{path} can not be read as a safetensors file, it is truncated or '
            f'something else: {error}') from error


def _read_zip(path):
    """Tells a TorchScript archive from a state dict: (kind, tensors)."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickles = [n for n in names if re.fullmatch('[^/]+/data.pkl', n)]
            if len(pickles) != 1:
                raise TorchFileError(
                    f'{path} is a zip file but no PyTorch file, it has no data.pkl: '
                    f'{listed(names, 5)}.')
            root = pickles[0].removesuffix('data.pkl')
            # PyTorch itself tells the two apart by this record.
            if f'{root}constants.pkl' in names:
                return 'TorchScript archive', _read_torchscript(path, archive, root)
    except (zipfile.BadZipFile, EOFError) as error:
        raise TorchFileError(
            f'{path} is truncated or damaged ({error}): download or write it '
            'again.') from error
    return 'state dict', _read_state_dict(path)


def _read_state_dict(path):
    """The one dict of tensors in a file of torch.save: {name: torch.Tensor}."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')          # of pickle protocols
            content = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises to switch the protection off.
        found = re.search(r'GLOBAL ([\w.]+)', str(error))
        what = found[1] if found else 'an object that is no tensor'
        raise TorchFileError(
            f'{path} pickles {what}: refused, because loading it could run any code. '
            'Where you trust the file, save the tensors alone with the program that '
            'wrote it: torch.save(model.state_dict(), ...).') from error
    # A damaged pickle can raise anything.
    except Exception as error:
        raise TorchFileError(
            f'{path} can not be read, it is truncated or no PyTorch file '
            f'({type(error).__name__}: {error}).') from error
    return _unwrap(path, content)


def _is_tensors(value):
    return (isinstance(value, dict) and bool(value)
            and all(isinstance(v, torch.Tensor) for v in value.values()))


def _unwrap(path, content):
    """{name: tensor} of a state dict, or of the one within a dict of other things."""
    if isinstance(content, dict) and not _is_tensors(content):
        nested = {key: value for key, value in content.items() if _is_tensors(value)}
        preferred = [key for key in _PREFERRED if key in nested]
        if len(nested) == 1 or preferred:
            taken = preferred[0] if preferred else next(iter(nested))
            logging.info('%s holds %s: taking the tensors of %r', path,
                         listed([repr(key) for key in content]), taken)
            content = nested[taken]
        elif nested:
            raise TorchFileError(
                f'{path} holds several state dicts: '
                f'{listed(sorted(map(str, nested)))}; save the one of the generator '
                'alone.')
    if not _is_tensors(content):
        if isinstance(content, dict):
            others = [f'{key!r}: {_describe(value)}' for key, value in content.items()
                      if not isinstance(value, torch.Tensor)]
            found = 'a dict with ' + (listed(others, 5) or 'nothing in it')
        else:
            found = _describe(content)
        raise TorchFileError(f'{path} holds {found}; expected a state dict, '
                             '{name: tensor}.')
    return {str(name): tensor for name, tensor in content.items()}


# --- TorchScript --------------------------------------------------------------
#
# torch.jit.load would run no Python, but it compiles the archive's code, executes its
# __setstate__ methods in an interpreter written in C++ and follows whatever else the
# format may hold.  Only tensors and their attribute paths are wanted: an unpickler that
# knows the tensor constructor and makes every other class an inert dict of attributes
# gets them without executing anything.

_STORAGES = {
    'FloatStorage': torch.float32, 'DoubleStorage': torch.float64,
    'HalfStorage': torch.float16, 'BFloat16Storage': torch.bfloat16,
    'LongStorage': torch.int64, 'IntStorage': torch.int32,
    'ShortStorage': torch.int16, 'CharStorage': torch.int8,
    'ByteStorage': torch.uint8, 'BoolStorage': torch.bool,
}


class _Stored(NamedTuple):
    """Where a tensor's numbers are; storage is (dtype, key, count)."""
    storage: tuple
    offset: int
    size: tuple
    stride: tuple


class _Refused(Exception):
    """The pickle names something that is not let through."""


def _read_torchscript(path, archive, root):
    """{attribute path: tensor} of an archive's module; none of its code runs."""
    records = set(archive.namelist())
    if f'{root}byteorder' in records and archive.read(f'{root}byteorder') != b'little':
        raise TorchFileError(f'{path} was written on a big-endian machine: save it '
                             'again on a little-endian one.')

    # Everything a pickle can name lives in this call: what it may do to these (BUILD
    # sets attributes) is gone with them.
    class Inert:
        state = None

        def __setstate__(self, state):
            self.state = state

    def plain_list(values):
        return list(values)

    def tagged(value, _):
        return value

    allowed = {
        ('collections', 'OrderedDict'): lambda: {},
        ('torch._utils', '_rebuild_tensor_v2'): lambda *args: _Stored(*args[:4]),
        ('torch.jit._pickle', 'restore_type_tag'): tagged,
        **{('torch.jit._pickle', f'build_{kind}list'): plain_list
           for kind in ('int', 'double', 'bool', 'tensor')},
        **{('torch', name): dtype for name, dtype in _STORAGES.items()},
    }

    class Unpickler(pickle.Unpickler):
        """Finds nothing but what is allowed; imports nothing."""

        def find_class(self, module, name):
            if module.split('.')[0] == '__torch__':
                return Inert
            if (module, name) not in allowed:
                raise _Refused(f'{module}.{name}')
            return allowed[module, name]

        def persistent_load(self, pid):
            _, dtype, key, _, count = pid
            return dtype, key, count

    try:
        with archive.open(f'{root}data.pkl') as f:
            module = Unpickler(f).load()
        stored = {}
        _collect(module, Inert, '', stored, [0])
        tensors = {}
        for name, (storage, offset, size, stride) in stored.items():
            dtype, key, count = storage
            data = bytearray(archive.read(f'{root}data/{key}'))
            tensors[name] = torch.as_strided(
                torch.frombuffer(data, dtype=dtype, count=count), size, stride, offset)
    except _Refused as error:
        raise TorchFileError(
            f'{path} pickles {error}: refused, because loading it could run any code. '
            'A TorchScript archive needs no such thing.') from error
    # A damaged pickle can raise anything.
    except Exception as error:
        raise TorchFileError(
            f'{path} can not be read as a TorchScript archive, it is truncated or '
            f'damaged ({type(error).__name__}: {error}).') from error
    return tensors


def _collect(node, inert, prefix, stored, nodes):
    """Gathers the tensors below a module as {'a.b.weight': _Stored}."""
    nodes[0] += 1
    if nodes[0] > _MAX_NODES:
        raise ValueError(f'more than {_MAX_NODES} attributes')
    if isinstance(node, _Stored):
        stored[prefix] = node
    elif isinstance(node, inert) and isinstance(node.state, dict):
        for name, value in node.state.items():
            _collect(value, inert, f'{prefix}.{name}' if prefix else str(name), stored,
                     nodes)
