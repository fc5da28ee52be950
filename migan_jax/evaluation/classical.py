"""Classical inpainting of OpenCV, to compare with: Telea's and Navier-Stokes.

The extra `classical` brings OpenCV.  Both continue what surrounds a hole and know no
picture besides the one they mend.
"""

from collections.abc import Callable
import importlib.util

import numpy as np

from migan_jax import extras

# Pixels around each point that they look at; OpenCV's own examples have 3, too.
RADIUS = 3
# On more images they are measured only where asked for: 0.03 s each at 256, 0.12 s at 512.
MOST = 2000


def telea(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fills holes by fast marching (Telea, An image inpainting technique based on the
    fast marching method, 2004).

    Args:
      image: u8[H, W, 3].
      mask: u8[H, W] or u8[H, W, 1], 255 = known, anything else = hole.

    Returns:
      u8[H, W, 3]; known pixels are the image's.

    Raises:
      ValueError: other shapes or dtypes.
      MissingExtra: OpenCV is not installed.
    """
    return _inpaint(image, mask, 'INPAINT_TELEA')


def navier_stokes(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fills holes by fluid dynamics (Bertalmio et al., Navier-Stokes, fluid dynamics,
    and image and video inpainting, 2001).

    Arguments, result and errors are those of `telea`.
    """
    return _inpaint(image, mask, 'INPAINT_NS')


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    'telea': telea, 'navier_stokes': navier_stokes}


def unavailable(count: int, asked: bool = False) -> str:
    """Why they are not measured on so many images, in a sentence; '' if they are.

    Args:
      count: of images.
      asked: by name; then any number will do.
    """
    if importlib.util.find_spec('cv2') is None:
        return str(extras.missing('classical', "Figures of OpenCV's methods", 'cv2'))
    if count > MOST and not asked:
        return (f"OpenCV's methods are left out, as {count:,} images are more than "
                f'{MOST:,}; they are measured when asked for by name.')
    return ''


def _inpaint(image, mask, flag):
    with extras.needs('classical', 'A classical method'):
        import cv2
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f'image is {image.dtype}{list(image.shape)}; expected '
                         'uint8[H, W, 3].')
    if mask.dtype != np.uint8 or mask.shape not in (
            image.shape[:2], (*image.shape[:2], 1)):
        raise ValueError(
            f'mask is {mask.dtype}{list(mask.shape)}; expected uint8'
            f'{list(image.shape[:2])}, 255 = known, for this image.')
    hole = mask.reshape(image.shape[:2]) != 255
    painted = cv2.inpaint(np.ascontiguousarray(image), hole.astype(np.uint8), RADIUS,
                          getattr(cv2, flag))
    # OpenCV smooths a few known pixels at the rim, too.
    return np.where(hole[..., None], painted, image)
