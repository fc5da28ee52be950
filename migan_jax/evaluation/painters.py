"""Methods that `tools/evaluate.py` can measure besides checkpoints.

Pictures made earlier, ONNX models (core or pipeline) and TorchScript models of two
contracts.  Mask polarity: 1 (255, white) = known, 0 = hole, except where a contract
says otherwise.
"""

from collections.abc import Mapping
import hashlib
import os
import re
import zipfile

import numpy as np

from migan_jax import quiet
from migan_jax import triton_guard
from migan_jax.data import images as image_files
from migan_jax.evaluation import methods
from migan_jax.model import io as model_io
from migan_jax.storage import shown

# Code of a TorchScript archive beyond this is no model's.
_MAX_CODE = 16 * 2**20

# The two operations of TorchScript that open files, however they are written.
_OPENS_FILES = re.compile(
    r"""\.\W*(save|from_file)\b|getattr\W*\([^)]*["'](\S*\\|save|from_file)""")


def file_hash(path: os.PathLike | str) -> str:
    """sha256 of a file, in hex.

    Raises:
      ValueError: it can not be read.
    """
    if not os.path.isfile(path):
        raise ValueError(f'{shown(path)}: can not be read: no such file')
    try:
        with open(path, 'rb') as f:
            return hashlib.file_digest(f, 'sha256').hexdigest()
    except OSError as error:
        raise ValueError(f'{shown(path)}: can not be read: {error.strerror}') from error


def check_external_data(path: os.PathLike | str) -> None:
    """Refuses an ONNX model whose weights would be read from outside its folder.

    Raises:
      ValueError: no ONNX model, or a tensor is stored elsewhere, links followed.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:   # protobuf's errors have no class in common
        raise ValueError(
            f'{shown(path)}: not an ONNX model ({shown(str(error))})') from error
    folder = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        places = [e.value for e in tensor.external_data if e.key == 'location']
        for place in places or ['']:
            file = os.path.realpath(os.path.join(folder, place))
            inside = not os.path.isabs(place) and file.startswith(
                os.path.join(folder, ''))
            if not inside:
                raise ValueError(
                    f'{shown(path)}: refused, tensor {shown(tensor.name)} is stored in '
                    f'{shown(place)!r}, outside the folder of the model; expected a '
                    'file beside it')
            if not os.path.isfile(file):
                raise ValueError(
                    f'{shown(path)}: tensor {shown(tensor.name)} is stored in '
                    f'{shown(place)!r}, which is missing: put that file beside it')


def _tensors(message):
    """The `TensorProto`s anywhere in an ONNX model."""
    import onnx

    pending = [message]
    while pending:
        message = pending.pop()
        if isinstance(message, onnx.TensorProto):
            yield message
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                pending += [value] if hasattr(value, 'ListFields') else value


def check_torchscript(path: os.PathLike | str) -> None:
    """Refuses a TorchScript archive whose code could open files.

    TorchScript is no Python, but has operations that read and write any file.

    Raises:
      ValueError: no archive, or its code names such an operation.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sources = [i for i in archive.infolist() if i.filename.endswith('.py')]
            found = [i.filename for i in sources if _opens_files(archive, i)]
    except Exception as error:   # zipfile raises whatever a damaged file trips it over
        raise ValueError(f'{shown(path)}: not a TorchScript file: '
                         f'{shown(str(error))}') from error
    if found:
        raise ValueError(
            f'{shown(path)}: refused, its code opens files, or is longer than any '
            f'model\'s ({shown(found[0])}). A model that only computes needs neither.')


def _opens_files(archive, info):
    """Whether a source file of a TorchScript archive names what opens files."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return True   # PyTorch writes no other, and zipfile expands them without bound
    with archive.open(info) as f:
        code = f.read(_MAX_CODE + 1).decode('utf-8', 'replace')
    # A comment may stand where space may; a string may look like one.
    return (len(code) > _MAX_CODE or _OPENS_FILES.search(code) is not None
            or _OPENS_FILES.search(re.sub('#.*', '', code)) is not None)


def first_size(folder: os.PathLike | str) -> int:
    """The side of the first picture of a folder.

    Raises:
      ValueError: it is not square, or no picture is there.
    """
    path = next(iter(image_files.by_stem(folder).values()))
    height, width = image_files.decode(path).shape[:2]
    if height != width:
        raise ValueError(
            f'{path} has {width} x {height} pixels; predictions must be square, made '
            'from images squashed to R x R, as the published protocol does.')
    return height


def from_folder(files: Mapping[str, os.PathLike | str]) -> methods.Painter:
    """Painter of pictures made earlier.

    Args:
      files: {stem: path}, all R x R; without those of unreadable originals, for which
        0 is painted.
    """
    def paint(stems, images, masks):
        del masks
        output = np.zeros(images.shape, np.uint8)
        for i, s in enumerate(stems):
            if s in files:
                output[i] = image_files.decode(files[s])
        return model_io.from_uint8(output)

    def identity(stems):
        return methods.key_of(*(file_hash(files[s]) for s in stems if s in files))

    return methods.Painter(paint, identity)


def from_onnx(path: str, resolution: int = 0) -> tuple[methods.Painter, int]:
    """Painter of an ONNX model, core or pipeline, told apart by its inputs.

    Core: one float input [N, 4, R, R], `[mask - 0.5, image * mask]`; output
    [N, 3, R, R] in [-1, 1].  Pipeline: image u8 [1, 3, H, W] and mask u8 [1, 1, H, W],
    255 = known, in this order unless their channels say otherwise; output u8.

    Args:
      path: the file.
      resolution: R where the model leaves it open.

    Returns:
      `Painter`, R.

    Raises:
      ValueError: unreadable, another contract, or R is open.
    """
    import onnxruntime

    digest = file_hash(path)
    check_external_data(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            path, options, providers=onnxruntime.get_available_providers())
    except Exception as error:
        # onnxruntime raises classes of its own that share no base but Exception.
        raise ValueError(f'{shown(path)}: onnxruntime can not load it: '
                         f'{shown(str(error))}') from error
    inputs = session.get_inputs()
    said = ', '.join(f'{i.name} {i.type} {i.shape}' for i in inputs)
    types = [i.type for i in inputs]
    channels = [i.shape[1] if len(i.shape) == 4 else None for i in inputs]
    floats = {'tensor(float)': np.float32, 'tensor(float16)': np.float16}
    if len(inputs) == 1 and types[0] in floats and channels[0] == 4:
        kind = floats[types[0]]
        one = lambda image, mask: _core(
            lambda x: session.run(None, {inputs[0].name: x.astype(kind)})[0],
            image, mask)
    elif types == ['tensor(uint8)'] * 2:
        order = [0, 1] if channels[0] != 1 else [1, 0]
        image_name, mask_name = (inputs[i].name for i in order)

        def one(image, mask):
            (output, *_) = session.run(None, {
                image_name: image.transpose(2, 0, 1)[None],
                mask_name: (mask * np.uint8(255)).transpose(2, 0, 1)[None]})
            return model_io.from_uint8(_nhwc(output, image.shape, path))
    else:
        raise ValueError(
            f'{path}: inputs are {said}; expected one float [N, 4, R, R] (core) or '
            'image and mask in uint8 (pipeline). For another contract paint with your '
            'own script and pass the pictures as --predictions.')
    fixed = {side for i in inputs for side in i.shape[2:] if isinstance(side, int)}
    resolution = _agree(path, fixed, resolution)
    return methods.Painter(_one_by_one(one), lambda stems: digest), resolution


def from_torchscript(path: str, contract: str,
                     resolution: int = 0) -> tuple[methods.Painter, int]:
    """Painter of a TorchScript model.

    Contracts: 'iopaint_lama' takes image f32 [1, 3, R, R] in [0, 1] and mask
    f32 [1, 1, R, R], 1 = *hole*, and gives an image in [0, 1]; 'iopaint_migan' takes
    f32 [1, 4, 512, 512], `[mask - 0.5, image * mask]` with 1 = known, and gives an
    image in [-1, 1].

    Args:
      path: the file.
      contract: one of the two.
      resolution: R; 512 by default.

    Returns:
      `Painter`, R.

    Raises:
      ValueError: unreadable, unknown contract, or the model can not run at R.
    """
    triton_guard.load_beside_tensorflow()
    import torch

    if contract not in ('iopaint_lama', 'iopaint_migan'):
        raise ValueError(f'--contract={contract}: expected iopaint_lama or '
                         'iopaint_migan, what the TorchScript model takes and gives')
    digest = file_hash(path)
    check_torchscript(path)
    try:
        with quiet.torchscript_is_deprecated():
            model = torch.jit.load(path, map_location='cpu').eval()
    except Exception as error:   # a damaged archive raises anything
        raise ValueError(f'{shown(path)}: not a TorchScript file: '
                         f'{shown(str(error))[:500]}') from error

    def call(*arrays):
        try:
            with torch.inference_mode():
                return model(*(torch.from_numpy(x) for x in arrays)).float().numpy()
        except RuntimeError as error:
            raise ValueError(
                f'{path}: the model failed as {contract} at {resolution} x {resolution}'
                f': {str(error).strip().splitlines()[-1]}') from error

    def lama(image, mask):
        unit = image.astype(np.float32).transpose(2, 0, 1)[None] / 255
        hole = 1 - mask.astype(np.float32).transpose(2, 0, 1)[None]
        return _nhwc(call(unit, hole), image.shape, path) * 2 - 1

    def migan(image, mask):
        return _core(call, image, mask)

    resolution = resolution or 512
    one = lama if contract == 'iopaint_lama' else migan
    return methods.Painter(
        _one_by_one(one), lambda stems: f'{contract} {digest}'), resolution


def _core(call, image, mask):
    """Runs f32 [1, 4, R, R] -> [1, 3, R, R] on u8[R, R, 3] and u8[R, R, 1]."""
    x = model_io.model_input(model_io.from_uint8(image), mask.astype(np.float32))
    output = call(np.ascontiguousarray(x.transpose(2, 0, 1)[None]))
    return _nhwc(output, image.shape, 'the model').astype(np.float32)


def _nhwc(output, shape, what):
    """[1, 3, H, W] -> [H, W, 3]."""
    if output.shape != (1, shape[2], *shape[:2]):
        raise ValueError(f'{what}: output has shape {list(output.shape)}, expected '
                         f'{[1, shape[2], *shape[:2]]}')
    return output[0].transpose(1, 2, 0)


def _one_by_one(one):
    """`Painter.paint` of a function of single pictures; padding is not painted."""
    def paint(stems, images, masks):
        output = np.zeros(images.shape, np.float32)
        for i, s in enumerate(stems):
            if s:
                output[i] = one(images[i], masks[i])
        return output

    return paint


def _agree(path, fixed, resolution):
    """R of a model with some fixed sides and what --resolution says (0: nothing)."""
    if len(fixed) > 1:
        raise ValueError(f'{os.fspath(path)}: sides {sorted(fixed)} in its inputs; '
                         'expected square ones of one size')
    if fixed and resolution not in (0, *fixed):
        raise ValueError(f'{os.fspath(path)}: takes {min(fixed)} x {min(fixed)} '
                         f'pixels, but --resolution is {resolution}')
    if not fixed and not resolution:
        raise ValueError(
            f'{os.fspath(path)}: takes any size: name one with --resolution')
    return min(fixed) if fixed else resolution
