"""MI-GAN image inpainting: load, inpaint, export and evaluate from Python.

    import migan_jax

    model = migan_jax.load('runs/mine')              # or migan_512_places2.pt
    result = model.inpaint(picture, mask)            # mask: True or 255 = known
    result = model.inpaint(picture, hole=hole)       # hole: True or 255 = hole
    model.export('migan.onnx')
    migan_jax.evaluate(model, 'photos').means['psnr']
    mask = migan_jax.masks.free_form(0, picture.shape)

All names are imported when they are first used: `import migan_jax` costs nothing, and
neither TensorFlow nor PyTorch nor ONNX is imported before something needs it.
"""

import sys
import typing

from migan_jax.version import __version__

# TensorFlow 2.20 and 2.21 load their libraries with all symbols in sight of what is
# loaded later; triton, which the CUDA build of PyTorch imports, then takes TensorFlow's
# LLVM for its own and the process dies. Without this module of theirs, as in later
# releases, they keep the symbols to themselves.
sys.modules.setdefault('tensorflow.python.pywrap_dlopen_global_flags', None)

if typing.TYPE_CHECKING:
    from migan_jax.api import evaluate
    from migan_jax.api import load
    from migan_jax.data import masks

__all__ = ['__version__', 'evaluate', 'load', 'masks']


def __getattr__(name: str) -> typing.Any:
    if name == 'masks':
        from migan_jax.data import masks

        return masks
    if name in ('evaluate', 'load'):
        from migan_jax import api

        return {'evaluate': api.evaluate, 'load': api.load}[name]
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
