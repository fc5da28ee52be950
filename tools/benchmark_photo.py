"""Holes of whole photographs filled by each mode and by classical methods.

    python tools/benchmark.py --what=photo --images=photos --checkpoint=demo

Takes the first --count photographs of --images, searched with the folders in it, that
have --least_megapixels or more, and cuts holes into them whose size goes with the shorter
side: spots, strokes, one blob, several blobs, and spots, strokes and blobs at once.  Each
is filled by `resize`, `pipeline`, `photo` and `photo` without grain with one model, and by
the methods of Telea and of Navier and Stokes (OpenCV), and compared with what was there. No
method gets to see that: its holes show another part of the picture (see `hidden`). The
figures:

* PSNR over the pixels of the holes;
* SSIM, the mean over the pixels of the holes;
* LPIPS where its weights are, the mean over tiles of 256 x 256 that have holes.

A row is a kind of holes: means over the photographs, and paired differences with their
95 % bootstrap intervals over photographs.  The last line is JSON.
"""

from collections.abc import Callable, Sequence
import functools
import json
import os
import pathlib
from typing import NamedTuple
import zlib

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from PIL import ImageDraw

from migan_jax import checkpoint as checkpoint_lib
from migan_jax import cli
from migan_jax.data import images as image_files
from migan_jax.evaluation import classical
from migan_jax.evaluation import networks as networks_lib
from migan_jax.evaluation.metrics import lpips
from migan_jax.evaluation.metrics.bootstrap import confidence_interval
from migan_jax.evaluation.metrics import inception
from migan_jax.evaluation.metrics.ssim import ssim_map
from migan_jax import inpaint
from migan_jax.meter import Meter
from migan_jax.photo import paint

# Kinds of holes: how many spots, strokes and blobs.
KINDS = {'spots': (12, 0, 0), 'strokes': (0, 3, 0), 'one blob': (0, 0, 1),
         'blobs': (0, 0, 2), 'all at once': (12, 3, 2)}
# Percent of the shorter side.
_SPOT_RADIUS = (.3, 1.2)
_STROKE_WIDTH = (.4, 1.)
_STROKE_LENGTH = (30., 80.)
_BLOB_RADIUS = (4., 9.)
_TILE = 256
# Tiles that are measured at once.
_TILES = 8

Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Figures(NamedTuple):
    """Of one photograph filled by one method; lpips is nan where its weights are not."""
    psnr: float
    ssim: float
    lpips: float


def draw_holes(height: int, width: int, kind: str, rng: np.random.Generator
               ) -> np.ndarray:
    """Holes in places that do not depend on the picture.

    Args:
      height, width: in pixels.
      kind: one of `KINDS`.
      rng: of sizes and places.

    Returns:
      u8[H, W], 255 = known, 0 = hole.
    """
    unit = min(height, width) / 100
    mask = Image.new('L', (width, height), 255)
    draw = ImageDraw.Draw(mask)
    spots, strokes, blobs = KINDS[kind]
    for _ in range(spots):
        radius = unit * rng.uniform(*_SPOT_RADIUS)
        _ellipse(draw, rng.uniform((0, 0), (width, height)),
                 radius * rng.uniform(.7, 1.3, 2))
    for _ in range(strokes):
        _stroke(draw, rng, (width, height), unit)
    for _ in range(blobs):
        # Three ellipses that lie over each other.
        radius = unit * rng.uniform(*_BLOB_RADIUS)
        middle = rng.uniform((radius, radius), (width - radius, height - radius))
        for _ in range(3):
            _ellipse(draw, middle + radius * rng.uniform(-.7, .7, 2),
                     radius * rng.uniform(.6, 1.2, 2))
    return np.array(mask)


def _ellipse(draw, middle, radii):
    draw.ellipse((*(middle - radii), *(middle + radii)), fill=0)


def _stroke(draw, rng, size, unit):
    """A line that bends a little at each of its steps."""
    length = unit * rng.uniform(*_STROKE_LENGTH)
    thickness = max(1, round(unit * rng.uniform(*_STROKE_WIDTH)))
    steps = 24
    angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, .15, steps))
    way = np.stack([np.cos(angles), np.sin(angles)], 1).cumsum(0) * length / steps
    points = rng.uniform((0, 0), size) + way - way.mean(0)
    draw.line([tuple(map(float, point)) for point in points], fill=0, width=thickness,
              joint='curve')


def methods_of(generate: Callable, resolution: int) -> dict[str, Method]:
    """{name: u8[H, W, 3], u8[H, W] -> u8[H, W, 3]}, mask 255 = known.

    Args:
      generate, resolution: see `inpaint.inpaint_resize`.
    """
    return {
        'resize': lambda image, mask: inpaint.inpaint_resize(
            generate, image, mask, resolution),
        'pipeline': lambda image, mask: inpaint.inpaint_pipeline(
            generate, image, mask, resolution),
        'photo': lambda image, mask: paint.inpaint_photo(
            generate, image, mask, resolution),
        # As `--grain=off`: random grain is for the eye, and costs figures.
        'photo, no grain': lambda image, mask: paint.inpaint_photo(
            generate, image, mask, resolution, paint.Settings(grain=False)),
        **classical.METHODS,
    }


def hidden(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture as a method gets it: something else lies in its holes.

    `pipeline` paints neither the outermost pixel of a hole nor all of the next ones, and
    mixes what lies there into what its network sees, so that with the
    truth there it would gain by what it fails to paint.  In use there is what is to be
    removed; here, the picture turned by 180 degrees.

    Args:
      image: u8[H, W, 3].
      mask: u8[H, W], 255 = known, 0 = hole.

    Returns:
      u8[H, W, 3].
    """
    return np.where(mask[..., None] == 255, image, image[::-1, ::-1])


class Judge:
    """Measures what was painted.

    Attributes:
      left_out: why there is no LPIPS, '' where there is.
    """

    def __init__(self, networks: networks_lib.Loaded) -> None:
        params = networks.networks.lpips
        self.left_out = networks.missing.get('lpips', '')
        self._ssim = jax.jit(_hole_ssim)
        self._lpips = None if params is None else jax.jit(
            functools.partial(lpips.lpips, params))

    def __call__(self, painted: np.ndarray, image: np.ndarray, mask: np.ndarray
                 ) -> Figures:
        """Figures of u8[H, W, 3], u8[H, W, 3] and u8[H, W], 255 = known."""
        hole = mask != 255
        errors = painted[hole].astype(np.float64) - image[hole]
        mean = np.mean(errors ** 2) / 255 ** 2
        similar, distances = 0., []
        for ours, theirs, holes in _tiles(painted, image, hole):
            similar += float(self._ssim(ours, theirs, holes))
            if self._lpips is not None:
                count = np.count_nonzero(holes.any((1, 2)))
                distances.extend(np.asarray(
                    self._lpips(ours * 2 - 1, theirs * 2 - 1))[:count])
        return Figures(
            float(-10 * np.log10(mean)) if mean else float('inf'),
            similar / np.count_nonzero(hole),
            float(np.mean(distances)) if distances else float('nan'))


def _hole_ssim(a, b, hole):
    """Sum of the SSIM of the pixels of the holes, the mean of their channels."""
    return jnp.sum(ssim_map(a, b).mean(-1), where=hole)


def _tiles(painted, image, hole):
    """Batches of the tiles that have holes: two f32[8, S, S, 3] in [0, 1], bool[8, S, S].

    Tiles have a margin, so that SSIM has all of its window; holes are those inside it,
    and each pixel of a hole is in one tile.
    """
    margin = 5
    height, width = hole.shape
    places = [(top, left) for top in range(0, height, _TILE)
              for left in range(0, width, _TILE)
              if hole[top:top + _TILE, left:left + _TILE].any()]
    side = _TILE + 2 * margin
    for start in range(0, len(places), _TILES):
        batch = [np.zeros((_TILES, side, side, 3), np.float32) for _ in range(2)]
        holes = np.zeros((_TILES, side, side), bool)
        for i, (top, left) in enumerate(places[start:start + _TILES]):
            rows = np.clip(np.arange(top - margin, top - margin + side), 0, height - 1)
            columns = np.clip(np.arange(left - margin, left - margin + side), 0,
                              width - 1)
            for target, source in zip(batch, (painted, image)):
                target[i] = source[rows][:, columns] / np.float32(255)
            inside = hole[top:top + _TILE, left:left + _TILE]
            holes[i, margin:margin + inside.shape[0],
                  margin:margin + inside.shape[1]] = inside
        yield *batch, holes


def photographs_of(folder: str, count: int, least: float) -> list[str]:
    """Paths of the first photographs that are large enough, sorted.

    Args:
      folder: searched with the folders in it.
      count: how many.
      least: megapixels.

    Raises:
      ValueError: there are fewer.
    """
    paths = []
    for path in image_files.by_stem(folder).values():
        height, width = image_files.stored_size(path)
        if height * width >= least * 1e6:
            paths.append(str(path))
        if len(paths) == count:
            return paths
    raise ValueError(f'{folder}: expected {count} photographs of {least:g} megapixels or '
                     f'more, found {len(paths)}; see --count and --least_megapixels')


def measure(methods: dict[str, Method], photographs: list[str], judge: Judge,
            kinds: tuple[str, ...] = tuple(KINDS), seed: int = 0
            ) -> dict[str, dict[str, list[Figures]]]:
    """Fills the same holes of the same photographs by each method.

    Args:
      methods: see `methods_of`.
      photographs: paths; places of holes depend on the seed, the name and the kind.
      judge: what measures.
      kinds: of `KINDS`.
      seed: of the holes.

    Returns:
      {kind: {method: `Figures` of each photograph}}.
    """
    figures = {kind: {name: [] for name in methods} for kind in kinds}
    for path in Meter.over(photographs, 'photographs'):
        image = image_files.decode(path)
        for kind in kinds:
            rng = np.random.default_rng(
                [seed, zlib.crc32(f'{pathlib.Path(path).stem} {kind}'.encode())])
            mask = draw_holes(*image.shape[:2], kind, rng)
            given = hidden(image, mask)
            for name, method in methods.items():
                figures[kind][name].append(judge(method(given, mask), image, mask))
    return figures


def compared(ours: list[float], theirs: list[float]) -> dict:
    """Mean of paired differences and its bootstrap 95 % interval over photographs."""
    differences = np.subtract(ours, theirs)
    return {'mean': float(differences.mean()), 'interval': confidence_interval(differences)}


def summary(figures: dict[str, dict[str, list[Figures]]]) -> dict:
    """Means of what `measure` gives, and what `photo` has more than each other method.

    Returns:
      {kind: {'means': {method: {figure: mean}}, 'photo_over': {method: {figure:
      `compared`}}}}, without LPIPS where it was not measured.
    """
    result = {}
    for kind, by_method in figures.items():
        columns = {
            method: {name: [getattr(one, name) for one in rows]
                     for name in Figures._fields
                     if not any(np.isnan(getattr(one, name)) for one in rows)}
            for method, rows in by_method.items()}
        result[kind] = {
            'means': {method: {name: float(np.mean(values))
                               for name, values in figures_of.items()}
                      for method, figures_of in columns.items()},
            'photo_over': {method: {name: compared(columns['photo'][name], values)
                                    for name, values in figures_of.items()}
                           for method, figures_of in columns.items()
                           if method != 'photo'},
        }
    return result


def table(result: dict) -> list[str]:
    """A result of `summary` as lines of Markdown."""
    methods = list(next(iter(result.values()))['means'])
    names = list(next(iter(result.values()))['means']['photo'])
    digits = {'psnr': '.2f', 'ssim': '.4f', 'lpips': '.4f'}

    def cells(values):
        return ' / '.join(f'{values[name]:{digits[name]}}' for name in names)

    def gain(values):
        low, high = values['psnr']['interval']
        return f'{values["psnr"]["mean"]:+.2f} ({low:.2f} to {high:.2f})'

    others = [method for method in methods if method != 'photo']
    heading = [f'PSNR / SSIM{" / LPIPS" * ("lpips" in names)} of holes', *methods,
               *(f'`photo` over {method}, dB' for method in others)]
    lines = ['| ' + ' | '.join(heading) + ' |', '|---' * len(heading) + '|']
    for kind, row in result.items():
        lines.append('| ' + ' | '.join([
            kind, *(cells(row['means'][method]) for method in methods),
            *(gain(row['photo_over'][method]) for method in others)]) + ' |')
    return lines


def main(argv: Sequence[str]) -> None:
    del argv
    args = flags.FLAGS
    if not args.images:
        raise cli.Failed('--images is missing; name a folder of photographs')
    photographs = photographs_of(args.images, args.count, args.least_megapixels)
    # Before the long work: a method that misses its package says so.
    classical.telea(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8))
    config, generate = checkpoint_lib.load_generator(args.checkpoint)
    judge = Judge(networks_lib.load_networks(
        inception.PROTOCOLS['paper'], args.weights, ('lpips',)))
    figures = measure(methods_of(generate, config.model.resolution), photographs, judge,
                      seed=args.seed)
    result = summary(figures)
    print('\n'.join(table(result)))
    if judge.left_out:
        print(judge.left_out)
    print(json.dumps({
        'checkpoint': args.checkpoint, 'resolution': config.model.resolution,
        'seed': args.seed,
        'photographs': [os.path.relpath(path, args.images) for path in photographs],
        'kinds': result}))
