"""More pictures out of few: turned, in other colours, darker or brighter.

For training on tens of photographs, which a network soon knows by heart.  What may follow
from its surroundings stays so: edges go on, textures repeat, colours fade, whatever way is
up and whatever is red.  Faces and skies lose what makes them such, so it is no use where
images are many.
"""

import numpy as np

# Largest |log of the exponent|: levels to the power of .61 to 1.65.
_MAX_LOG_GAMMA = 0.5


def augmented(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture turned by chance, with other colours and another brightness.

    Turned by 0, 90, 180 or 270 degrees, channels in one of their six orders, negative
    half of the times, and levels v in [0, 1] to v^g, where log g is even in
    [-0.5, 0.5].

    Args:
      image: u8[R, R, 3].
      rng: drawn from equally often for every picture.

    Returns:
      u8[R, R, 3].
    """
    turns, channels = rng.integers(4), rng.permutation(3)
    negative = rng.random() < 0.5
    gamma = np.exp(rng.uniform(-_MAX_LOG_GAMMA, _MAX_LOG_GAMMA))
    levels = np.linspace(0.0, 1.0, 256)
    if negative:
        levels = levels[::-1]
    table = np.rint(levels**gamma * 255).astype(np.uint8)
    return table[np.rot90(image, turns)[..., channels]]
