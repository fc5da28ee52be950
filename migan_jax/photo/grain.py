"""Grain and fine texture of a hole's surroundings, for fills that lack them.

A mask has 1 (or True) = known, 0 (or False) = hole.
"""

from etils import epy
import numpy as np

with epy.lazy_imports():   # a fifth of a second, and squashed pictures do without
    from scipy import fft
    from scipy import ndimage

# Blocks round points of a hole's edge in which surroundings and fill are measured: their
# side in pixels, and how many, a square number.
_BLOCK, _BLOCKS = 48, 16
# How far the surroundings reach that matter.
REACH = _BLOCK // 2
# Standard deviation of the Gaussian beyond which nothing counts as texture: this times the
# factor by which a fill was enlarged, at most the second.
_COARSEST = 2., 6.
# Side of the tile that is repeated in larger holes, at most.
_LARGEST = 1024
# Of what is missing. Noise is not the texture that was there: seven tenths of it look as
# whole as all of it, and cost half as much where the loss is counted.
STRENGTH = .7
# Pixels over which the strength of noise is one.
_STEP = 4
_SQUARE = np.ones((3, 3), bool)


def texture(painted: np.ndarray, hole: np.ndarray, picture: np.ndarray, known: np.ndarray,
            factor: float, rng: np.random.Generator) -> np.ndarray:
    """What the surroundings have and a fill lacks, as noise of the same spectrum.

    White noise is convolved with what a Gaussian leaves of the surroundings (spot noise): it
    gets their spectrum in each channel and the likeness of channels. Of the blocks round
    the hole the quieter half counts, so that edges do not.

    Args:
      painted: f32[H, W, 3], 0 to 255, the fill.
      hole: bool[H, W], where it is measured.
      picture: u8 or f32 [H, W, 3]; `REACH` pixels round the hole matter.
      known: bool[H, W].
      factor: by which the fill was enlarged.
      rng: of the noise.

    Returns:
      f32[H, W, 3], to be added; 0 where too little is known.
    """
    rim = np.argwhere(hole & ndimage.binary_dilation(known, _SQUARE))
    nothing = np.zeros(painted.shape, np.float32)
    if not len(rim):
        return nothing
    centres = rim[np.linspace(0, len(rim) - 1, min(_BLOCKS, len(rim))).astype(int)]
    sigma = min(_COARSEST[0] * max(factor, 1), _COARSEST[1])
    there, count = _detail(picture, known, centres, sigma)
    here, painted_count = _detail(painted, hole, centres, sigma)
    enough = count > _BLOCK ** 2 / 8
    if not enough.any():
        return nothing
    energy = (there ** 2).sum((1, 2, 3)) / np.maximum(count, 1)
    quiet = enough & (energy <= np.median(energy[enough]))
    gain = _gain(centres[enough], np.sqrt(energy[enough] / max(energy[quiet].max(), 1e-6)),
                 hole.shape)
    there, count = there[quiet], count[quiet].sum()
    strength = (there ** 2).sum((0, 1, 2)) / count
    has = (here[quiet] ** 2).sum((0, 1, 2)) / np.maximum(painted_count[quiet].sum(), 1)
    missing = STRENGTH * np.sqrt(np.clip(1 - has / np.maximum(strength, 1e-6), 0, 1))
    spots = np.zeros((_BLOCKS, _BLOCK, _BLOCK, 3), np.float32)
    spots[:len(there)] = there * missing / np.sqrt(np.float32(count))
    return _noise(spots, hole.shape, rng) * gain[..., None]


def _detail(levels, where, centres, sigma):
    """What a Gaussian leaves in blocks round centres, f32[n, S, S, 3], 0 elsewhere than
    `where`; pixels of each that count, i64[n]."""
    blocks = np.zeros((len(centres), _BLOCK, _BLOCK, 3), np.float32)
    share = np.zeros(blocks.shape[:3], np.float32)
    for i, centre in enumerate(centres):
        part = tuple(slice(max(at - REACH, 0), at + REACH) for at in centre)
        inside = where[part]
        rows, columns = inside.shape
        share[i, :rows, :columns] = inside
        blocks[i, :rows, :columns] = levels[part] * inside[..., None]
    # A Gaussian of short rows is a product of matrices, a tenth of the filter's time.
    along = ndimage.gaussian_filter1d(np.eye(_BLOCK, dtype=np.float32), sigma, axis=0)
    near = np.maximum(along @ share @ along.T, 1e-4)
    planes = np.moveaxis(blocks, -1, 0)
    mean = np.moveaxis(along @ planes @ along.T / near, 0, -1)
    return (blocks - mean) * share[..., None], np.count_nonzero(share, (1, 2))


def _gain(centres, strengths, shape):
    """Strengths at centres, at most 1, between them by the inverse squared distance, in
    steps of a few pixels: f32[*shape]. Fog above a pier gets none of the pier's."""
    rows, columns = (np.arange(0, length, _STEP) for length in shape)
    total = weight = 0.
    for (row, column), strength in zip(centres, np.minimum(strengths, 1)):
        near = 1 / ((rows[:, None] - row) ** 2 + (columns - column) ** 2 + _STEP ** 2)
        total, weight = total + near * strength, weight + near
    gain = np.repeat(np.repeat(total / weight, _STEP, 0), _STEP, 1)
    return gain[:shape[0], :shape[1]].astype(np.float32)


def _noise(spots, shape, rng):
    """Noise of the sum of the spots' spectra: f32[*shape, 3], a tile repeated."""
    along = int(np.sqrt(_BLOCKS))
    # Side by side in one spot.
    spot = spots.reshape(along, along, _BLOCK, _BLOCK, 3).transpose(0, 2, 1, 3, 4).reshape(
        along * _BLOCK, along * _BLOCK, 3)
    side = fft.next_fast_len(min(max(*shape, len(spot)), _LARGEST), real=True)
    white = fft.rfft2(rng.standard_normal((side, side), np.float32))
    # Channels first, so that rows lie in one piece.
    spectrum = fft.rfft2(np.moveaxis(spot, -1, 0), (side, side))
    spectrum *= white
    tile = np.moveaxis(fft.irfft2(spectrum, (side, side), overwrite_x=True), 0, -1)
    if side < max(shape):
        tile = np.tile(tile, (-(-shape[0] // side), -(-shape[1] // side), 1))
    return tile[:shape[0], :shape[1]]
