"""The Python API: `load`, `Model` and `evaluate`, as `migan_jax` exports them.

Mask polarity is always said: an argument called `mask` has True, 255 or 1.0 = known,
one called `hole` has True, 255 or 1.0 = hole.
"""

from collections.abc import Mapping, Sequence
import os
import pathlib
import tempfile
from typing import Any, NamedTuple, TYPE_CHECKING

from absl import logging
import jax
import numpy as np

from migan_jax import checkpoint as checkpoint_lib
from migan_jax import extras
from migan_jax.extras import MissingExtra  # noqa: F401, part of the API
from migan_jax.data import colour
from migan_jax.data import images as image_files
from migan_jax.data import mask_files
from migan_jax.data import masks as masks_lib
from migan_jax.data import pictures as pictures_lib
from migan_jax import quiet
from migan_jax.model import build
from migan_jax.photo import files as photo_files
from migan_jax import storage
from migan_jax.weights import bundles
from migan_jax.weights import demo
from migan_jax.weights import hub
from migan_jax.weights import importing
from migan_jax.weights import named
from migan_jax.weights import opening
from migan_jax.weights import table

if TYPE_CHECKING:
    import ml_collections

# What a suffix means to `Model.export` without a format.
_FORMAT_OF = {'.onnx': 'onnx', '.pt': 'pt', '.tflite': 'tflite', '.ort': 'ort',
              '.mlpackage': 'coreml', '.pte': 'executorch'}

# Images per batch of an evaluation.
_BATCH = 16

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
    means: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    per_image: dict[str, dict[str, float]]
    left_out: dict[str, str]


def _check_on_disk(what, path):
    """Raises ValueError for a place on Cloud Storage."""
    if error := storage.only_on_disk(what, path):
        raise ValueError(error)


# --- models -------------------------------------------------------------------


def load(path: str | os.PathLike, step: str | int = 'best') -> 'Model':
    """Opens a trained model.

    Args:
      path: one of
        a training workdir, whose average is taken;
        a folder written by tools/from_torch.py or by `Model.save`;
        'demo', a small model that comes with the clone (models/demo);
        the name of published weights, such as 'places2-512' (tools/fetch.py --list
        shows them all): fetched the first time, then kept in the cache folder;
        'hf://owner/name' or 'hf://owner/name@revision': a folder of `Model.save` on a
        model hub;
        a file of published weights, MI-GAN or Co-Mod-GAN: a state dict (.pt, .pth), a
        TorchScript archive, safetensors, or an ONNX graph of a MI-GAN.  Only tensors
        are read, never code.
      step: of a workdir: 'best', the latest where none was evaluated; 'latest'; or an
        iteration.

    Returns:
      `Model`.

    Raises:
      ValueError: nothing there, not a model, damaged, or a name or address that can't
        be reached; says what it is and what to do.
      MissingExtra: a file needs a package to be read, and it is not installed.
    """
    path = os.fspath(path)
    if storage.is_bucket(path) or os.path.isdir(path) or not os.path.exists(path) and (
            path == demo.NAME or named.is_name(path) or hub.is_address(path)):
        bundle = opening.open_bundle(path)
        if bundle is not None:
            return Model(
                bundle.config, build.build_generator(bundle.config, fused=True),
                bundle.variables, path, bundle.card.step, bundle.card)
        with quiet.orbax_warnings():
            *deployed, step = checkpoint_lib.load_deployed_step(path, step)
        return Model(*deployed, path, step)
    if not os.path.exists(path):
        raise ValueError(
            f'{path}: no such file or folder; expected a training workdir, a folder '
            'written by tools/from_torch.py, a file of published weights, '
            f'hf://owner/name or one of the names {demo.NAME}, '
            f'{", ".join(table.MODELS)}.')
    if path.endswith('.tflite'):
        raise ValueError(
            f'{path} is an exported graph, to be run by its own runtime; load the '
            'checkpoint that it was made from.')
    with extras.needs('export', f'Reading {path}'):
        config, variables, description = importing.convert(path)
    logging.info('%s: %s', path, description)
    return Model(config, build.build_generator(config, fused=True), variables, path)


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
      card: `bundles.Card`, what is known of it besides.
    """

    def __init__(self, config: 'ml_collections.ConfigDict', generator: build.AnyGenerator,
                 variables: dict[str, Any], source: str, step: int | None = None,
                 card: bundles.Card | None = None) -> None:
        self.config = config
        self.generator = generator
        self.variables = variables
        self.resolution = config.model.resolution
        self.source = source
        self.step = step
        self.card = card or bundles.card_of(config)
        self._on_device = jax.device_put(variables)
        self._paint = build.make_painter(generator)

    def __repr__(self) -> str:
        kind = 'Co-Mod-GAN' if build.is_comodgan(self.config) else 'MI-GAN'
        side = self.resolution
        return f'<migan_jax model {kind}, {side} x {side}, from {self.source}>'

    def inpaint(self, image: pictures_lib.OnePicture | Sequence[pictures_lib.OnePicture],
                mask: pictures_lib.Masks | None = None, *,
                hole: pictures_lib.Masks | None = None, mode: str | None = None,
                soft: bool = False, feather: float = 2, grain: bool = True, seed: int = 0
                ) -> pictures_lib.OnePicture | list[pictures_lib.OnePicture]:
        """Paints the holes of a picture, or of several.

        Pictures, any size from 1 x 1:
          NumPy u8 (0 to 255) or u16 (0 to 65535), [H, W, 3], grey [H, W, 1] or [H, W],
            with alpha [H, W, 4] or [H, W, 2];
          NumPy float16, float32 or float64 of these shapes, values in [0, 1];
          PIL images of any mode.  Grey, transparency and 16 bits stay; 1 comes back as
            L, palettes as RGB or RGBA, CMYK and all others as RGB.  EXIF orientation is
            applied, and reset in the result.  The network sees sRGB, and what it paints
            is converted into the image's profile; `info` of the result has profile,
            EXIF, XMP, dpi and text.
        Transparency is seen on white, and is not painted.

        Masks, of the height and width of their picture: NumPy or jax bool, u8 of 0 and
        255, or float of 0.0 and 1.0, [H, W] or [H, W, 1]; PIL images, which are
        understood as tools/inpaint.py understands files.  With a picture's EXIF
        orientation, a mask of its stored size is turned, too.
        Levels in between (JPEG, smooth edges) are split at 128 with a warning; 5 % of
        the pixels or more in the middle of the range are refused, and so are arrays of
        u8 of 0 and 1 only.

        Args:
          image: a picture; a batch, NumPy [B, H, W, C]; or a list of
            pictures of any sizes and kinds.
          mask: for one picture a mask, True or 255 or 1.0 = known; for a batch NumPy
            [B, H, W] or [B, H, W, 1]; for a list a list.
          hole: instead of `mask`, the opposite: True or 255 or 1.0 = hole.
          mode: 'resize' squashes the picture to R x R and keeps every pixel outside the
            hole; 'pipeline' paints one square crop around all holes, at the picture's
            own scale where it can, and softens the edge by two pixels; 'photo' paints
            each hole at a scale of its own.  None is 'photo' for pictures with a side
            longer than R and 'resize' for all others.
          soft: levels of masks in between are soft edges ('photo', also of None).
          feather: 'photo': pixels outside a hole over which its fill fades; 0 keeps
            every known pixel.
          grain: 'photo': whether the grain of the surroundings is matched.
          seed: of a Co-Mod-GAN's latent (MI-GAN has none) and of the grain.

        Returns:
          What `image` was: PIL for PIL, an array of the same shape and dtype for an
          array; a batch for a batch, a list for a list.  What is not painted keeps its
          bits.  Always new arrays.

        Warns:
          MaskWarning: all known, all hole, or more than 70 % hole: other polarity?  A
            mask that was not understood in the plain way.

        Raises:
          ValueError: both or neither of mask and hole, or anything not as above.
        """
        if mode not in (None, *photo_files.MODES):
            raise ValueError(f'mode={mode!r}: expected one of '
                             f'{", ".join(map(repr, photo_files.MODES))}.')
        if not feather >= 0:
            raise ValueError(f'feather={feather}: expected 0 pixels or more.')
        options = photo_files.Options(
            mode=mode or '', soft=soft, feather=feather, grain=grain)
        name, masks, inverted = pictures_lib.mask_or_hole(mask, hole)
        pictures, rebuild = pictures_lib.pictures_of(image)
        masks = (pictures_lib.masks_of(masks, name, len(pictures))
                 if pictures_lib.several(image) else [masks])
        # No comprehension: until Python 3.12 a warning's level counts it.
        levels = []
        for m, picture in zip(masks, pictures):
            levels.append(pictures_lib.levels_of(
                m, f'{name}{picture.index}', inverted, picture.photograph.size, soft,
                picture.photograph))
        pictures_lib.warn_of_polarity([one == 255 for one in levels], name)
        latent = np.uint32(seed)
        painted = photo_files.painted_many(
            lambda x: self._paint(self._on_device, x, latent), self.resolution,
            [(picture.photograph, one) for picture, one in zip(pictures, levels)],
            options, int(seed))
        return rebuild([
            picture.restore(result) for picture, result in zip(pictures, painted)])

    def save(self, path: str | os.PathLike, *, data: str | None = None,
             licence: str | None = None, metrics: Mapping[str, float] | None = None,
             remarks: str | None = None, name: str = '', half: bool = False,
             overwrite: bool = False) -> pathlib.Path:
        """Writes the model as a folder for others, which `load` reads back.

        model.safetensors has the published names of tensors, config.json the fields of
        the model without any path of this machine, README.md is a model card.

        Args:
          path: folder to be made.
          data: what the model was trained on, in words, for the card.
          licence: of the weights, an SPDX name such as 'MIT', for the card.
          metrics: {figure: value} for the card, such as `evaluate(...).means`.
          remarks: sentences for the end of the card.
          name: the card's title; the folder's name by default.
          half: store float16, half the size.
          overwrite: replace an earlier result of this method.

        Returns:
          Path of the folder.

        Raises:
          ValueError: something else is there, it is on Cloud Storage, or a value is not
            finite or too large for float16.
          OSError: it can't be written.
        """
        path = os.fspath(path)
        _check_on_disk('path', path)
        given = {'data': data, 'licence': licence, 'remarks': remarks,
                 'metrics': metrics if metrics is None else {
                     key: float(value) for key, value in metrics.items()}}
        card = self.card._replace(
            name=name or os.path.basename(os.path.abspath(path)),
            step=None if self.step is None else int(self.step),
            **{field: value for field, value in given.items() if value is not None})
        return bundles.save_bundle(
            path, self.config, self.variables, card, half=half, overwrite=overwrite)

    def export(self, path: str | os.PathLike, format: str | None = None, *, half: bool = False,
               drop_noise_at_4x4: bool = False, dynamic_size: bool = False,
               upstream_crop: bool = False, keep_clamps: bool = False,
               tolerance: float | None = None) -> dict[str, Any]:
        """Writes the model for another runtime, runs the file and compares it with JAX.

        Args:
          path: file to be written; an earlier one is replaced when the new one has
            passed.  In a folder (existing, or with a slash at its end) the file gets
            its usual name, such as migan.onnx.
          format: 'onnx', f32 [N, 4, R, R] -> [N, 3, R, R]; 'onnx_pipeline', u8 pictures
            of any size; 'torchscript'; 'pt', the published state dict; 'tflite'; 'ort',
            'ort_pipeline', 'openvino', 'coreml', 'coreml_image', 'executorch',
            'executorch_vulkan', 'executorch_coreml', 'ncnn', which docs/converting.md
            describes.  By default the suffix decides: .onnx is 'onnx', .pt 'pt',
            .tflite 'tflite', .ort 'ort', .mlpackage 'coreml', .pte 'executorch'.
          half: store weights as float16.
          drop_noise_at_4x4: 'pt': leave out the noise that its layout has no place for.
          dynamic_size: 'onnx': take other sizes than R x R.
          upstream_crop: 'onnx_pipeline': stretch crops as the published pipeline does.
          keep_clamps: all but 'pt' and 'torchscript': keep the clamps at 256 also where
            no activation came near them in the pictures tried; a tenth slower.
          tolerance: largest difference to JAX, of outputs about [-1, 1]; 1e-3, or 2e-2
            with `half`.

        Returns:
          dict: 'path', 'format', 'bytes', 'random' (the differences measured; of what
          nothing here can run 'handed_over'), 'tolerance', 'operators'; of ONNX also
          'largest_activation'.

        Raises:
          ValueError: unknown format, not a model that it can hold, a place on Cloud
            Storage, or the file differs from JAX by more than the tolerance; nothing was
            written.
          MissingExtra: a package is not installed.
          OSError: the file can't be written.
        """
        path = os.fspath(path)
        _check_on_disk('path', path)
        folder = os.path.isdir(path) or path.endswith(('/', os.sep))
        suffix = os.path.splitext(path)[1].lower()
        if format is None:
            if folder or suffix not in _FORMAT_OF:
                raise ValueError(
                    f'{path}: the suffix does not tell the format; expected one of '
                    f'{", ".join(_FORMAT_OF)}, or pass format=.')
            format = _FORMAT_OF[suffix]
        from migan_jax.export import exporting
        from migan_jax.export import models

        formats = exporting.formats_of(self.config)
        if format not in formats:
            raise ValueError(f'format={format!r}: expected one of '
                             f'{", ".join(map(repr, formats))} for {self!r}.')
        target = pathlib.Path(path)
        if folder:
            target = target / formats[format].file
        target.parent.mkdir(parents=True, exist_ok=True)
        options = models.Options(half, drop_noise_at_4x4, dynamic_size,
                                 upstream_crop, keep_clamps, tolerance)
        if build.is_comodgan(self.config):
            exporting.check_comodgan_has([format], options)
        # float32 whatever the model was trained in.
        model = models.from_deployed(
            self.config, self.variables,
            'unknown' if self.step is None else str(self.step))
        with extras.needs('export', f'Writing {target}'):
            report = exporting.export_one(format, model, target, options, [])
        return {'path': str(target), **report}


# --- evaluation ---------------------------------------------------------------


def evaluate(model: Model | str | os.PathLike,
             images: str | os.PathLike | np.ndarray | Sequence[pictures_lib.OnePicture],
             masks: str | os.PathLike | pictures_lib.Masks | None = None, *,
             holes: pictures_lib.Masks | None = None, hole_range: Sequence[float] | None = None,
             brush_width: Sequence[int] | None = None, seed: int | None = None,
             limit: int | None = None, protocol: str = 'paper',
             metrics: Sequence[str] | None = None, weights: str = '',
             parts: str | os.PathLike | None = None, fetch: bool = False) -> Figures:
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
        default, else (0, 1) and `masks.stroke_widths`.
      seed: of drawn masks; the config's by default, else 0.
      limit: only the first so many images of a folder.
      protocol: 'paper' or 'stylegan', of FID and LPIPS (and rounding).
      metrics: names of figures (`evaluation.figures.FIGURES`); by default all that
        can be had.
      weights: folder of the metric networks' weight files; $MIGAN_JAX_CACHE or
        ~/.cache/migan_jax by default.
      parts: folder for stored figures, from where an interrupted evaluation goes on;
        None keeps nothing.
      fetch: download the networks' weight files that are not there, before the work.

    Returns:
      `Figures`.

    Raises:
      ValueError: what was handed over can't be used; a metric asked for by name can't
        be computed.
      MissingExtra: weight files are there and a package that reads them is not.
    """
    # Imported here: who only paints does without.
    from migan_jax.evaluation import methods
    from migan_jax.evaluation import report
    from migan_jax.meter import Meter

    _check_on_disk('parts', parts)
    if not isinstance(model, Model):
        model = load(model)
    side, config = model.resolution, model.config
    if seed is None:
        seed = config.eval.seed if 'eval' in config else 0
    names, batches = _batches_of(images, side, limit)
    if masks is not None or holes is not None:
        folder = os.fspath(images) if isinstance(images, (str, os.PathLike)) else ''
        masks_of = _given_masks(masks, holes, folder,
                                [image_files.stem_of(name) for name in names], side)
    else:
        drawn = config.mask if 'mask' in config else {
            'hole_range': (0.0, 1.0), 'brush_width': masks_lib.stroke_widths(side)}
        masks_of = methods.mask_maker(
            side, tuple(hole_range or drawn['hole_range']),
            tuple(brush_width or drawn['brush_width']), seed)

    judge = report.open_judge(
        protocol, side, len(names), metrics or (), weights, fetch)
    painter = methods.from_generator(
        config, model.generator, model.variables, seed)
    with (tempfile.TemporaryDirectory(prefix='migan_jax.') as temporary,
          Meter(len(names), 'images', title=str(model.source), say=logging.info) as progress):
        outcome = report.measure(
            judge, batches, masks_of, painter, methods.Parts(parts or temporary), progress)
    return _figures_of(outcome, judge)


def _figures_of(outcome, judge):
    """`Figures` of a `report.Outcome`."""
    summary = {name: figure for name, figure in outcome.summary.items()
               if name in judge.names}
    means = {name: figure['mean'] for name, figure in summary.items()} | outcome.whole
    per_image = {
        image: {name: float(outcome.columns[name][i]) for name in summary}
        for i, image in enumerate(outcome.names)}
    intervals = {name: tuple(figure['interval'])
                 for name, figure in summary.items() if figure['interval']}
    return Figures({**means, 'images': len(outcome.names)}, intervals, per_image,
                   judge.left_out)


def _batches_of(images, side, limit):
    """Names, and batches as of `batches_lib.eval_batches`."""
    devices = jax.local_device_count()
    size = -(-_BATCH // devices) * devices
    if isinstance(images, (str, os.PathLike)):
        from migan_jax.data import batches as batches_lib
        from migan_jax.data import sources

        source = sources.open_source('folder', path=os.fspath(images))
        names = source.names[:limit]
        return names, batches_lib.eval_batches(
            source, resolution=side, batch_size=size, limit=limit)
    if isinstance(images, np.ndarray) and images.ndim != 4 or not len(images):
        raise ValueError('images: expected a folder, a list of pictures or NumPy '
                         f'[N, H, W, 3], got {pictures_lib.describe(images)}.')
    pictures, _ = pictures_lib.pictures_of(list(images)[:limit])
    names = [str(i) for i in range(len(pictures))]

    def batches():
        for start in range(0, len(pictures), size):
            group = pictures[start:start + size]
            squashed = np.zeros((size, side, side, 3), np.uint8)
            squashed[:len(group)] = [
                image_files.squash(colour.to_srgb(picture.photograph), side)
                for picture in group]
            padding = size - len(group)
            yield {'image': squashed,
                   'valid': np.arange(size) < len(group),
                   'name': names[start:start + size] + [''] * padding}

    return names, batches()


def _given_masks(masks, holes, folder, stems, side):
    """Function stems -> u8[B, R, R, 1], 1 = known, of masks handed over.

    Args:
      masks, holes: of `evaluate`.
      folder: of the images; '' of pictures handed over.
      stems: of the images.
      side: R.
    """
    if folder:
        if holes is not None or not isinstance(masks, (str, os.PathLike)):
            raise ValueError('masks: expected a folder (white = known) for a folder of '
                             f'images, got {pictures_lib.describe(masks)}.')
        files = mask_files.files_of(
            masks, mask_files.needed(folder, masks, stems), 'mask')
        mask_files.check_sizes(files, side, 'mask')
        return lambda stems: mask_files.read_masks(files, stems, side)
    name, values, inverted = pictures_lib.mask_or_hole(masks, holes)
    values = pictures_lib.masks_of(values, f'{name}s', len(stems))
    known = [pictures_lib.levels_of(value, f'{name}s[{i}]', inverted, (side, side)) == 255
             for i, value in enumerate(values)]
    pictures_lib.warn_of_polarity(known, name)
    known = dict(zip(stems, known))
    everything = np.ones((side, side), bool)
    return lambda stems: np.stack([
        known.get(stem, everything) for stem in stems])[..., None].astype(np.uint8)
