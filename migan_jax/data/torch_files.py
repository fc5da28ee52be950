"""Reads the tensors of PyTorch files, and never runs what is pickled in them.

State dicts written by torch.save (zip and legacy format), safetensors, and TorchScript
archives.  Files come from strangers: a pickle can name any function and have it called,
so that only tensors, numbers, strings and their containers are let through.  Nor may a
small file fill the memory or the stack: what it unfolds to is bounded beforehand.
"""

import io
import os
import pickle
import pickletools
import re
from typing import NamedTuple
import warnings
import zipfile

from absl import logging
import numpy as np
import safetensors
import safetensors.torch
import torch

from migan_jax.storage import listed
from migan_jax import triton_guard
from migan_jax.storage import shown

triton_guard.load_beside_tensorflow()


class TorchFileError(ValueError):
    """A file can't be read as tensors; the message names it and says why."""

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


class TorchFile(NamedTuple):
    """What a file holds.

    Attributes:
      tensors: {name: array}; half and bfloat16 have become float32.
      kind: in words, for messages, such as 'TorchScript archive'.
    """
    tensors: dict[str, np.ndarray]
    kind: str


# Where a file holds several state dicts, the one of the average is read: it is what is
# evaluated and exported.
_PREFERRED = ('G_ema', 'g_ema', 'ema')

# No generator has a thousand layers; a pickle of a few bytes can unfold to more.
_MAX_NODES = 100_000

# PyTorch stores tensors as they are and compresses nothing but code, which is little.
_MAX_UNFOLDING, _SMALL = 16, 2**20
# Tensors may share memory (tied weights, views), but not all of it many times over.
_MAX_SHARING = 4
# Containers within containers of a pickle.  Python follows them on the stack, without
# a bound where it hashes them.
_MAX_DEPTH = 500


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
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


def read_file(path: str | os.PathLike) -> TorchFile:
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
        kind, tensors = 'legacy state dict', _read_legacy(path)
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
    _check_sharing(path, tensors)
    arrays = {name: _to_numpy(path, name, tensor) for name, tensor in tensors.items()}
    damaged = sorted(name for name, array in arrays.items()
                     if array.dtype.kind == 'f' and not np.isfinite(array).all())
    if damaged:
        raise TorchFileError(
            f'{path}: {len(damaged)} tensors have NaN or infinite values: '
            f'{listed(damaged)}. The training diverged or the file is damaged: use an '
            'earlier checkpoint.')
    return TorchFile(arrays, kind)


def _check_sharing(path, tensors):
    """Refuses what could not be dense arrays of about the size of the file."""
    stored, numbers = {}, 0
    for name, tensor in tensors.items():
        if (not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided
                or tensor.is_quantized or tensor.is_complex()
                or tensor.device.type != 'cpu'):
            raise TorchFileError(
                f'{path}: {name} is no plain tensor of numbers but '
                f'{_describe(tensor)}; expected dense float or integer tensors.')
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        stored[place] = max(stored.get(place, 0), storage.nbytes())
        size = tensor.numel() * tensor.element_size()
        # A view with stride 0 of a few bytes can have any size.
        if size > storage.nbytes():
            raise TorchFileError(
                f'{path}: {name} has shape {list(tensor.shape)}, more numbers than are '
                'stored for it: save a contiguous copy.')
        numbers += size
    if numbers > _MAX_SHARING * sum(stored.values()) + _SMALL:
        raise TorchFileError(
            f'{path}: its {len(tensors)} tensors would take {numbers:,} bytes, but '
            f'share {sum(stored.values()):,}: save contiguous copies.')


def _to_numpy(path, name, tensor):
    """A dense tensor that owns its numbers -> array."""
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
    # Headers that are valid JSON but nonsense raise KeyError, TypeError and others.
    except Exception as error:
        raise TorchFileError(
            f'{path} can not be read as a safetensors file, it is truncated or '
            f'something else: {error}') from error


def _read_zip(path):
    """Tells a TorchScript archive from a state dict: (kind, tensors)."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            unfolded = sum(info.file_size for info in archive.infolist())
            if unfolded > _MAX_UNFOLDING * os.path.getsize(path) + _SMALL:
                raise TorchFileError(
                    f'{path}: refused, its records claim {unfolded:,} bytes, far more '
                    'than the file can hold uncompressed, as PyTorch writes them.')
            pickles = [n for n in names if re.fullmatch('[^/]+/data.pkl', n)]
            if len(pickles) != 1:
                raise TorchFileError(
                    f'{path} is a zip file but no PyTorch file, it has no data.pkl: '
                    f'{listed(names, 5)}.')
            root = pickles[0].removesuffix('data.pkl')
            # PyTorch itself tells the two apart by this record.
            if f'{root}constants.pkl' in names:
                return 'TorchScript archive', _read_torchscript(path, archive, root)
            _check_pickle(_record(archive, pickles[0]))
    except TorchFileError:
        raise
    except _TooDeep as error:
        raise _nested(path) from error
    # On a damaged directory zipfile raises whatever it trips over.
    except Exception as error:
        raise TorchFileError(
            f'{path} is truncated or damaged ({type(error).__name__}: {error}): '
            'download or write it again.') from error
    return 'state dict', _read_state_dict(path)


def _record(archive, name):
    """The bytes of a record, no more than the directory claims, see `_read_zip`."""
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(
            f'{name} has compression method {info.compress_type}, PyTorch writes none')
    with archive.open(info) as f:
        # Not read(), which expands everything before it compares with the claim.
        return f.read(info.file_size + 1)


def _read_legacy(path):
    """Tensors of a file that is pickles one after the other, and the numbers."""
    with open(path, 'rb') as f:
        try:
            for _ in range(5):
                _check_pickle(f)
        except _TooDeep as error:
            raise _nested(path) from error
        # Not a pickle, or not all of one: torch.load comes no further and says so.
        except Exception:
            logging.debug('%s: no valid pickle', path, exc_info=True)
    return _read_state_dict(path)


class _TooDeep(Exception):
    """A pickle nests its containers too deep, or numbers its objects absurdly."""


def _nested(path):
    return TorchFileError(f'{path}: refused, its pickle has containers nested over '
                          f'{_MAX_DEPTH} deep, which no state dict has.')


# What changes a container already on the stack.
_CHANGES = ('APPEND', 'APPENDS', 'SETITEM', 'SETITEMS', 'ADDITEMS', 'BUILD')


def _check_pickle(file):
    """Reads one pickle up to its end without loading it; raises `_TooDeep`.

    Follows how deep the object in each place of the unpickler's stack is nested.
    Anything that is no pickle raises any exception.
    """
    stack, marks, memo = [], [], {}
    for count, (op, arg, _) in enumerate(pickletools.genops(file)):
        if op.name == 'MARK':
            marks.append(len(stack))
        elif op.name in ('PUT', 'BINPUT', 'LONG_BINPUT', 'MEMOIZE'):
            index = len(memo) if arg is None else arg
            # The memo is an array as long as its greatest index.
            if index > count + 1000:
                raise _TooDeep
            memo[index] = stack[-1]
        elif op.name in ('GET', 'BINGET', 'LONG_BINGET'):
            stack.append(memo[arg])
        else:
            before = op.stack_before
            marked = pickletools.markobject in before
            fixed = before.index(pickletools.markobject) if marked else len(before)
            start = (marks.pop() if marked else len(stack)) - fixed
            taken = stack[start:]
            del stack[start:]
            if op.name in _CHANGES:
                depth = max([taken[0], *(d + 1 for d in taken[1:])])
            else:
                depth = 1 + max(taken, default=0)
            if depth > _MAX_DEPTH:
                raise _TooDeep
            stack += [depth] * len(op.stack_after)


def _read_state_dict(path):
    """The one dict of tensors in a file of torch.save: {name: torch.Tensor}."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')   # about pickle protocols
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
    order = f'{root}byteorder'
    if order in records and _record(archive, order) != b'little':
        raise TorchFileError(f'{path} was written on a big-endian machine: save it '
                             'again on a little-endian one.')

    # Everything a pickle can name lives in this call: what it may do to these (BUILD
    # sets attributes) is gone with them.
    class Inert:
        state = None

        def __setstate__(self, state):
            self.state = state

    def plain_list(values):
        return values

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
        data = _record(archive, f'{root}data.pkl')
        _check_pickle(data)
        module = Unpickler(io.BytesIO(data)).load()
        stored = {}
        _collect(module, Inert, '', stored, [0])
        tensors, storages = {}, {}
        for name, (storage, offset, size, stride) in stored.items():
            dtype, key, count = storage
            if key not in storages:
                storages[key] = bytearray(_record(archive, f'{root}data/{key}'))
            tensors[name] = torch.as_strided(
                torch.frombuffer(storages[key], dtype=dtype, count=count), size, stride,
                offset)
    except _TooDeep as error:
        raise _nested(path) from error
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
