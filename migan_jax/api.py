"""The Python API: `load`, `Model` and `evaluate`, as `migan_jax` exports them.

Mask polarity is always said: an argument called `mask` has True, 255 or 1.0 = known,
one called `hole` has True, 255 or 1.0 = hole.
"""

import contextlib
import logging as py_logging
import os
import pathlib
import tempfile
from typing import NamedTuple
import warnings

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from migan_jax import data
from migan_jax import images as image_files
from migan_jax import inpaint
from migan_jax import mask_files
from migan_jax import predictions
from migan_jax import scoring
from migan_jax import state as state_lib
from migan_jax.metrics import inception
from migan_jax.metrics import lpips

# What a suffix means to `Model.export` without a format.
_FORMAT_OF = {'.onnx': 'onnx', '.pt': 'pt', '.tflite': 'tflite'}

_EXIF_ORIENTATION = 0x0112
# Images per batch of an evaluation.
_BATCH = 16
SET_METRICS = ('fid', 'p_ids', 'u_ids')
METRICS = ('hole_psnr', 'mean_fill_hole_psnr', 'psnr', 'ssim', 'lpips', 'hole_l1',
           'hole_share', *SET_METRICS)


class MaskWarning(UserWarning):
    """A mask that can be used, and that looks as if something else was meant."""


class MissingExtra(ImportError):
    """A package that is not installed; the message names the extra that brings it."""


class Figures(NamedTuple):
    """What `evaluate` measured.

    Attributes:
      means: {figure: mean over the images}, of 'fid', 'p_ids' and 'u_ids' the figure of
        the whole set; 'images' is their number.
      intervals: {figure: (low, high)}, bootstrap 95 % confidence intervals of the means
        over images, seed 0.
      per_image: {name: {figure: value}}; nan where an image has nothing to count.
      left_out: {figure: why it is not among them}.
    """
    means: dict
    intervals: dict
    per_image: dict
    left_out: dict


@contextlib.contextmanager
def _extra(name, purpose):
    """Says which extra brings a package that an import in the body does not find."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f'{purpose} needs the package {error.name}, which is not installed: '
            f"pip install 'migan_jax[{name}]' (in a clone: pip install -e "
            f"'.[{name}]').", name=error.name) from error


@contextlib.contextmanager
def _quiet_orbax():
    """Orbax warns twice of each reading that it only reads."""
    def wanted(record):
        return 'orbax' not in record.pathname or record.levelno > py_logging.WARNING

    logger = logging.get_absl_logger()
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


# --- models -------------------------------------------------------------------


def load(path):
    """Opens a trained model.

    Args:
      path: one of
        a training workdir: its best checkpoint, else its latest; the average;
        a folder written by tools/from_torch.py;
        a file of published weights, MI-GAN or Co-Mod-GAN: a state dict (.pt, .pth), a
        TorchScript archive or safetensors.  Only tensors are read, never code.

    Returns:
      `Model`.

    Raises:
      ValueError: nothing there, not a model, damaged; says what it is and what to do.
      MissingExtra: a file needs PyTorch to be read, and it is not installed.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        with _quiet_orbax():
            _, manager, step = state_lib.open_checkpoint(path)
            manager.close()
            deployed = state_lib.load_deployed(path)
        return Model(*deployed, path, step)
    if not os.path.exists(path):
        raise ValueError(
            f'{path}: no such file or folder; expected a training workdir, a folder '
            'written by tools/from_torch.py or a file of published weights.')
    if path.endswith(('.onnx', '.tflite')):
        raise ValueError(
            f'{path} is an exported graph, to be run by its own runtime; load the '
            'checkpoint that it was made from.')
    with _extra('export', 'Reading PyTorch files'):
        from migan_jax.export import importing
    config, variables, description = importing.convert(path)
    logging.info('%s: %s', path, description)
    return Model(config, state_lib.build_generator(config, fused=True), variables, path)


class Model:
    """A trained generator, from `load`.

    The network runs in batches of 1, 2, 4 or 8 pictures of R x R pixels and is compiled
    once for each of these that occurs: neither another picture size nor another number
    of pictures compiles anything new.  Pictures are resized on the host.

    Attributes:
      config: ConfigDict that the checkpoint was made with.
      generator: Flax module of the deployed form.
      variables: {'params', 'noise', ...} of it, host arrays.
      resolution: R, the side in pixels of what the network paints.
      source: the path that it was loaded from.
      step: iteration of the checkpoint; None of a file.
    """

    def __init__(self, config, generator, variables, source, step=None):
        self.config = config
        self.generator = generator
        self.variables = variables
        self.resolution = config.model.resolution
        self.source = source
        self.step = step
        self._on_device = jax.device_put(variables)

        def paint(variables, x, seed):
            # The same latent for each picture: its neighbours in a batch don't matter.
            key = jax.random.fold_in(jax.random.key(seed), 0)
            z = generator.latents(jnp.broadcast_to(key, (len(x),)))
            return generator.apply(variables, x, 'const', z)[0]

        self._paint = jax.jit(paint)

    def __repr__(self):
        kind = 'Co-Mod-GAN' if state_lib.is_comodgan(self.config) else 'MI-GAN'
        side = self.resolution
        return f'<migan_jax model {kind}, {side} x {side}, from {self.source}>'

    def inpaint(self, image, mask=None, *, hole=None, mode='resize', seed=0):
        """Paints the holes of a picture, or of several.

        Pictures, any size from 1 x 1:
          NumPy u8 [H, W, 3], [H, W, 1] or [H, W], levels 0 to 255;
          NumPy float16, float32 or float64 of these shapes, values in [0, 1];
          PIL images of any mode.  L stays L; all others come back as RGB, transparency
          composited on white.  EXIF orientation is not applied: a picture that has one
          gives a warning (`PIL.ImageOps.exif_transpose` applies it).
        Grey pictures are painted in colour and become grey again.  An alpha channel in
        an array is refused: pass `image[..., :3]`.

        Masks, of the height and width of their picture: NumPy or jax bool, u8 of 0 and
        255, or float of 0.0 and 1.0, [H, W] or [H, W, 1]; PIL images, black and white.
        Levels in between (JPEG, smooth edges) are split at 128 with a warning; 5 % of
        the pixels or more in the middle of the range are refused, and so is u8 of 0 and
        1 only.

        Args:
          image: a picture; a batch, NumPy [B, H, W, 3] or [B, H, W, 1]; or a list of
            pictures of any sizes and kinds.
          mask: for one picture a mask, True or 255 or 1.0 = known; for a batch NumPy
            [B, H, W] or [B, H, W, 1]; for a list a list.
          hole: instead of `mask`, the opposite: True or 255 or 1.0 = hole.
          mode: 'resize' squashes the picture to R x R and keeps every pixel outside the
            hole; 'pipeline' paints a square crop around the hole, at the picture's own
            scale where it can, and softens the edge by two pixels.
          seed: of a Co-Mod-GAN's latent; MI-GAN has none.

        Returns:
          What `image` was: PIL for PIL, u8 for u8, float of the same dtype for float
          (painted pixels are multiples of 1/255, untouched ones keep their value); a
          batch for a batch, a list for a list.  Always new arrays.

        Warns:
          MaskWarning: all known, all hole, or more than 70 % hole: other polarity?

        Raises:
          ValueError: both or neither of mask and hole, or anything not as above.
        """
        if mode not in inpaint.MODES:
            raise ValueError(f'mode={mode!r}: expected one of '
                             f'{", ".join(map(repr, inpaint.MODES))}.')
        name, masks, inverted = _mask_or_hole(mask, hole)
        pictures, rebuild = _pictures_of(image)
        masks = _masks_of(masks, name, len(pictures)) if _several(image) else [masks]
        known = [_known_of(m, f'{name}{picture.index}', inverted, picture.levels.shape)
                 for m, picture in zip(masks, pictures)]
        _warn_of_polarity(known, name)
        jobs = [(picture.levels, np.where(k, 255, 0).astype(np.uint8))
                for picture, k in zip(pictures, known)]
        seed = np.uint32(seed)
        painted = inpaint.inpaint_many(
            lambda x: self._paint(self._on_device, x, seed), jobs, self.resolution,
            inpaint.MODES[mode])
        return rebuild([
            picture.restore(result, k)
            for picture, result, k in zip(pictures, painted, known)])

    def export(self, path, format=None, *, half=False, drop_noise_at_4x4=False,
               dynamic_size=False, upstream_crop=False, keep_clamps=False,
               tolerance=None):
        """Writes the model for another runtime, runs the file and compares it with JAX.

        Args:
          path: file to be written; an earlier one is replaced when the new one has
            passed.  In a folder (existing, or with a slash at its end) the file gets
            its usual name, such as migan.onnx.
          format: 'onnx', f32 [N, 4, R, R] -> [N, 3, R, R]; 'onnx_pipeline', u8 pictures
            of any size; 'torchscript'; 'pt', the published state dict; 'tflite'.  By
            default the suffix decides: .onnx is 'onnx', .pt 'pt', .tflite 'tflite'.
          half: store weights as float16.
          drop_noise_at_4x4: 'pt': leave out the noise that its layout has no place for.
          dynamic_size: 'onnx': take other sizes than R x R.
          upstream_crop: 'onnx_pipeline': stretch crops as the published pipeline does.
          keep_clamps: 'onnx', 'onnx_pipeline': keep the clamps at 256 also where no
            activation came near them in the pictures tried; a tenth slower.
          tolerance: largest difference to JAX, of outputs about [-1, 1]; 1e-3, or 2e-2
            with `half`.

        Returns:
          dict: 'path', 'format', 'bytes', 'random' (the differences measured),
          'tolerance', 'operators'; of ONNX also 'largest_activation'.

        Raises:
          ValueError: unknown format, not a model that it can hold, or the file differs
            from JAX by more than the tolerance; nothing was written.
          MissingExtra: a package is not installed.
          OSError: the file can't be written.
        """
        path = os.fspath(path)
        folder = os.path.isdir(path) or path.endswith(('/', os.sep))
        suffix = os.path.splitext(path)[1].lower()
        if format is None:
            if folder or suffix not in _FORMAT_OF:
                raise ValueError(
                    f'{path}: the suffix does not tell the format; expected one of '
                    f'{", ".join(_FORMAT_OF)}, or pass format=.')
            format = _FORMAT_OF[suffix]
        with _extra('export', 'Exporting'):
            from migan_jax.export import exporting
        formats = exporting.formats_of(self.config)
        if format not in formats:
            raise ValueError(f'format={format!r}: expected one of '
                             f'{", ".join(map(repr, formats))} for {self!r}.')
        target = pathlib.Path(path)
        if folder:
            target = target / formats[format].file
        target.parent.mkdir(parents=True, exist_ok=True)
        options = exporting.Options(half, drop_noise_at_4x4, dynamic_size,
                                    upstream_crop, keep_clamps, tolerance)
        if state_lib.is_comodgan(self.config):
            exporting.check_comodgan_has([format], options, None)
        # float32 whatever the model was trained in.
        model = exporting.from_deployed(
            self.config, self.variables, self.source,
            'unknown' if self.step is None else str(self.step))
        report = exporting.export_one(format, model, target, options, [])
        return {'path': str(target), **report}


# --- what people hand over ----------------------------------------------------


class _Picture(NamedTuple):
    """A picture as the inpainting takes it, and the way back.

    Attributes:
      levels: u8[H, W, 3].
      index: '' or '[i]', for messages.
      restore: u8[H, W, 3] result, bool[H, W] known -> what the picture was.
    """
    levels: np.ndarray
    index: str
    restore: object


def _mask_or_hole(mask, hole):
    """Name, value, and whether its True is hole; ValueError unless one is given."""
    if (mask is None) == (hole is None):
        given = 'neither' if mask is None else 'both'
        raise ValueError(
            f'expected either mask= (True or 255 = known) or hole= (True or 255 = '
            f'hole), got {given}.')
    return ('mask', mask, False) if hole is None else ('hole', hole, True)


def _describe(value):
    """A word on a value for messages."""
    if isinstance(value, (np.ndarray, jax.Array)):
        return f'{value.dtype}{list(value.shape)}'
    if isinstance(value, Image.Image):
        return f'a PIL image of mode {value.mode}, {value.width} x {value.height}'
    return f'a {type(value).__name__}'


def _several(image):
    """Whether it is a list or a batch of pictures."""
    return isinstance(image, (list, tuple)) or (
        isinstance(image, np.ndarray) and image.ndim == 4)


def _pictures_of(image):
    """`_Picture`s, and the function that makes what `image` was of their results."""
    if not _several(image):
        return [_picture(image, '')], lambda results: results[0]
    if not len(image):
        raise ValueError('image: expected at least one picture, got none.')
    pictures = [_picture(one, f'[{i}]') for i, one in enumerate(image)]
    return pictures, np.stack if isinstance(image, np.ndarray) else list


def _masks_of(masks, name, count):
    """One mask for each of `count` pictures."""
    several = isinstance(masks, (list, tuple)) or (
        isinstance(masks, (np.ndarray, jax.Array)) and masks.ndim > 2)
    if not several or len(masks) != count:
        got = f'{len(masks)} of them' if several else _describe(masks)
        raise ValueError(f'{name}: expected {count}, one for each picture, got {got}.')
    return list(masks)


def _picture(image, index):
    """Checks one picture: `_Picture`."""
    name = f'image{index}'
    if isinstance(image, Image.Image):
        return _pil_picture(image, name, index)
    expected = ('expected NumPy u8 (0 to 255) or float (0 to 1) of shape [H, W, 3], '
                '[H, W, 1] or [H, W] with H, W >= 1, or a PIL image')
    if not isinstance(image, np.ndarray):
        raise ValueError(f'{name}: {expected}, got {_describe(image)}.')
    shape, grey = image.shape, image.ndim == 2 or image.shape[2:] == (1,)
    if not (grey or image.ndim == 3 and shape[2] == 3) or not image.size:
        hint = ''
        if image.ndim == 3 and shape[2] in (2, 4):
            hint = ' An alpha channel has to be left out: pass image[..., :3].'
        elif image.ndim == 3:
            hint = ' A batch of grey pictures has the shape [B, H, W, 1].'
        raise ValueError(f'{name}: {expected}, got {_describe(image)}.{hint}')
    if image.dtype == np.uint8:
        levels = image
    elif image.dtype in (np.float16, np.float32, np.float64):
        low, high = float(image.min()), float(image.max())
        # Written so that NaN fails.
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f'{name}: float pictures have values in [0, 1], got {low:g} to '
                f'{high:g}; rescale it, or pass levels 0 to 255 as u8.')
        levels = np.rint(image.astype(np.float32) * 255).astype(np.uint8)
    else:
        raise ValueError(f'{name}: {expected}, got {_describe(image)}; convert it with '
                         '.astype(np.uint8) if its levels are 0 to 255.')
    rgb = np.repeat(levels.reshape(*shape[:2], 1), 3, 2) if grey else levels

    def restore(result, known):
        if grey:
            result = mask_files.luma(result).astype(np.uint8).reshape(shape)
        if image.dtype == np.uint8:
            return result
        # Untouched pixels keep what lies between two levels.
        kept = (result == levels) & known.reshape(
            *known.shape, *(1,) * (image.ndim - 2))
        return np.where(kept, image, (result / 255).astype(image.dtype))

    return _Picture(np.ascontiguousarray(rgb), index, restore)


def _pil_picture(image, name, index):
    """`_Picture` of a PIL image."""
    if not (image.width and image.height):
        raise ValueError(f'{name}: the picture has no pixels.')
    if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
        warnings.warn(
            f'{name} has an EXIF orientation, which is not applied: pass '
            'PIL.ImageOps.exif_transpose(image) and a mask of that.', stacklevel=5)
    try:
        levels = np.array(image_files.to_rgb(image))
    except ValueError as error:
        raise ValueError(f'{name}: {error}') from error

    def restore(result, known):
        del known
        result = Image.fromarray(result)
        return result.convert('L') if image.mode == 'L' else result

    return _Picture(levels, index, restore)


def _known_of(mask, name, inverted, shape):
    """Checks one mask or hole: bool[H, W], True = known.

    Args:
      mask: what was handed over.
      name: for messages.
      inverted: True = hole.
      shape: of the picture.
    """
    meaning = 'hole' if inverted else 'known'
    expected = (f'expected bool, u8 of 0 and 255 or float of 0.0 and 1.0 (True, 255, '
                f'1.0 = {meaning}) of shape {list(shape[:2])}, as its picture has')
    if isinstance(mask, Image.Image):
        try:
            levels = mask_files.luma(np.asarray(image_files.to_rgb(mask)))
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from error
    elif isinstance(mask, (np.ndarray, jax.Array)):
        levels = np.asarray(mask)
        if levels.ndim == 3 and levels.shape[2] == 1:
            levels = levels[..., 0]
    else:
        raise ValueError(f'{name}: {expected}, got {_describe(mask)}.')
    if levels.shape != shape[:2]:
        raise ValueError(f'{name}: {expected}; got {_describe(mask)}.')
    if levels.dtype == bool:
        return levels != inverted
    if levels.dtype.kind == 'f':
        if not (levels.min() >= 0 and levels.max() <= 1):
            raise ValueError(f'{name}: {expected}; got {_describe(mask)} with values '
                             f'{levels.min():g} to {levels.max():g}.')
        levels = np.rint(levels.astype(np.float32) * 255).astype(np.uint8)
    elif levels.dtype != np.uint8 and not isinstance(mask, Image.Image):
        raise ValueError(f'{name}: {expected}; got {_describe(mask)}; pass '
                         f'{name} > 0 or {name} == 255, whichever says it.')
    elif levels.max() == 1:
        raise ValueError(f'{name}: u8 with no level above 1; expected 0 and 255. Pass '
                         f'{name}.astype(bool), where 1 means {meaning}.')
    try:
        high, between = mask_files.known_of(levels)
    except mask_files.NotAMask as error:
        raise ValueError(f'{name}: {error}') from error
    if between:
        warnings.warn(
            f'{name}: {between} pixels ({between / levels.size:.2%}) are neither 0 nor '
            '255; 128 and above is taken as 255.', MaskWarning, stacklevel=4)
    return high != inverted


def _warn_of_polarity(known, name):
    """Warns where masks look as if the other polarity was meant."""
    other = 'mask' if name == 'hole' else 'hole'
    meaning = {'mask': 'known', 'hole': 'hole'}[name]
    remedy = (f'{name}= has True or 255 = {meaning}; if it is the other way round, '
              f'pass it as {other}=')
    share = 1 - sum(k.sum() for k in known) / sum(k.size for k in known)
    if any(k.all() for k in known):
        warnings.warn('nothing to inpaint, the picture is returned as it is: all is '
                      f'known. {remedy}.', MaskWarning, stacklevel=3)
    elif not all(k.any() for k in known):
        warnings.warn(f'nothing is known, the model paints freely. {remedy}.',
                      MaskWarning, stacklevel=3)
    elif share > mask_files.SUSPICIOUS_HOLE:
        warnings.warn(f'{share:.0%} of the pixels are hole. {remedy}.', MaskWarning,
                      stacklevel=3)


# --- evaluation ---------------------------------------------------------------


def evaluate(model, images, masks=None, *, holes=None, hole_range=None,
             brush_width=None, seed=None, limit=None, protocol='paper', metrics=None,
             weights='', parts=None):
    """Measures a model on pictures, as tools/evaluate.py does.

    Pictures are squashed to R x R (bicubic), holes painted, known pixels always come
    from the original, and composites are compared with originals.

    Args:
      model: `Model`, or a path for `load`.
      images: a folder, searched with the folders in it; or a list of pictures as
        `Model.inpaint` takes them, or NumPy [N, H, W, 3], then called '0', '1', ...
      masks: for a folder a folder of R x R masks of the same names, white = known; for
        pictures as many masks of R x R, True or 255 or 1.0 = known.  None: free-form
        masks are drawn, one for each name and seed, the same as in tools/evaluate.py.
      holes: instead of masks of pictures, True or 255 or 1.0 = hole.
      hole_range, brush_width: of drawn masks, see `masks.free_form`; the config's by
        default, else (0, 1) and (12, 48).
      seed: of drawn masks; the config's by default, else 0.
      limit: only the first so many images of a folder.
      protocol: 'paper' or 'stylegan', of FID and LPIPS (and rounding).
      metrics: some of `METRICS`; by default all that can be had.
      weights: folder of the metric networks' weight files; $MIGAN_JAX_CACHE or
        ~/.cache/migan_jax by default.  Nothing is downloaded.
      parts: folder for stored figures, from where an interrupted evaluation goes on;
        None keeps nothing.

    Returns:
      `Figures`.

    Raises:
      ValueError: what was handed over can't be used; a metric asked for by name can't
        be computed.
      MissingExtra: weight files are there and a package that reads them is not.
    """
    if not isinstance(model, Model):
        model = load(model)
    if protocol not in inception.PROTOCOLS:
        raise ValueError(f'protocol={protocol!r}: expected one of '
                         f'{", ".join(sorted(inception.PROTOCOLS))}.')
    if unknown := sorted(set(metrics or ()) - set(METRICS)):
        raise ValueError(f'metrics: unknown {", ".join(unknown)}; expected some of '
                         f'{", ".join(METRICS)}.')
    side, config = model.resolution, model.config
    if seed is None:
        seed = config.eval.seed if 'eval' in config else 0
    names, batches = _batches_of(images, side, limit)
    if masks is not None or holes is not None:
        masks_of = _given_masks(masks, holes, isinstance(images, (str, os.PathLike)),
                                [predictions.stem(name) for name in names], side)
    else:
        drawn = config.mask if 'mask' in config else {
            'hole_range': (0.0, 1.0), 'brush_width': (12, 48)}
        masks_of = predictions.mask_maker(
            side, tuple(hole_range or drawn['hole_range']),
            tuple(brush_width or drawn['brush_width']), seed)

    wanted = tuple(metrics or METRICS)
    left_out = predictions.check_counts(len(names), wanted)
    if 'lpips' in wanted and side < lpips.MIN_SIDE:
        left_out['lpips'] = (f'LPIPS left out: {side} x {side} pixels are too few, '
                             f'AlexNet needs {lpips.MIN_SIDE}.')
    wanted = [name for name in wanted if name not in left_out]
    protocol = inception.PROTOCOLS[protocol]
    loaded = scoring.load_networks(protocol, _read_tensors, weights, wanted)
    left_out |= loaded.missing
    refused = [why for name, why in left_out.items() if name in (metrics or ())]
    if refused:
        raise ValueError('\n'.join(dict.fromkeys(refused)))

    painter = predictions.from_generator(
        config, model.generator, model.variables, seed)
    with tempfile.TemporaryDirectory(prefix='migan_jax.') as temporary:
        results = predictions.measure(
            batches, masks_of, painter, predictions.make_scorer(protocol, loaded),
            predictions.Parts(parts or temporary),
            predictions.Progress(str(model.source), len(names), logging.info))
    return _figures_of(results, protocol, wanted, left_out)


def _figures_of(results, protocol, wanted, left_out):
    """`Figures` of `predictions.Results`."""
    summary = {name: figure for name, figure in predictions.summarize(results).items()
               if name in wanted}
    means = {name: figure['mean'] for name, figure in summary.items()}
    whole = [name for name in SET_METRICS if name in wanted and name not in left_out]
    if whole:
        means |= predictions.set_figures(results, protocol, whole)
    per_image = {
        image: {name: float(results.figures[name][i]) for name in summary}
        for i, image in enumerate(results.names)}
    intervals = {name: tuple(figure['interval'])
                 for name, figure in summary.items() if figure['interval']}
    return Figures({**means, 'images': len(results.names)}, intervals, per_image,
                   left_out)


def _read_tensors(path):
    """Tensors of a PyTorch file, without running code of it."""
    with _extra('eval', f'Reading {path}'):
        from migan_jax.export import torch_files
    return torch_files.read_tensors(path)


def _batches_of(images, side, limit):
    """Names, and batches as of `data.eval_batches`."""
    devices = jax.local_device_count()
    size = -(-_BATCH // devices) * devices
    if isinstance(images, (str, os.PathLike)):
        source = data.open_source('folder', path=os.fspath(images))
        names = source.names[:limit]
        return names, data.eval_batches(
            source, resolution=side, batch_size=size, limit=limit)
    if isinstance(images, np.ndarray) and images.ndim != 4 or not len(images):
        raise ValueError('images: expected a folder, a list of pictures or NumPy '
                         f'[N, H, W, 3], got {_describe(images)}.')
    pictures, _ = _pictures_of(list(images)[:limit])
    names = [str(i) for i in range(len(pictures))]

    def batches():
        for start in range(0, len(pictures), size):
            group = pictures[start:start + size]
            squashed = np.zeros((size, side, side, 3), np.uint8)
            squashed[:len(group)] = [
                image_files.squash(picture.levels, side) for picture in group]
            padding = size - len(group)
            yield {'image': squashed,
                   'valid': np.arange(size) < len(group),
                   'name': names[start:start + size] + [''] * padding}

    return names, batches()


def _given_masks(masks, holes, in_folder, stems, side):
    """Function stems -> u8[B, R, R, 1], 1 = known, of masks handed over."""
    if in_folder:
        if holes is not None or not isinstance(masks, (str, os.PathLike)):
            raise ValueError('masks: expected a folder (white = known) for a folder of '
                             f'images, got {_describe(masks)}.')
        files = mask_files.files_of(masks, stems, 'mask')
        mask_files.check_sizes(files, side, 'mask')
        return lambda stems: mask_files.read_masks(files, stems, side)
    name, values, inverted = _mask_or_hole(masks, holes)
    values = _masks_of(values, f'{name}s', len(stems))
    known = [_known_of(value, f'{name}s[{i}]', inverted, (side, side))
             for i, value in enumerate(values)]
    _warn_of_polarity(known, name)
    known = dict(zip(stems, known))
    everything = np.ones((side, side), bool)
    return lambda stems: np.stack([
        known.get(stem, everything) for stem in stems])[..., None].astype(np.uint8)
