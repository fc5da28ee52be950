"""Measures a checkpoint, another method's model, or pictures that a method painted.

    python tools/evaluate.py --checkpoint=runs/mine --out=runs/mine/evaluation
    python tools/evaluate.py --predictions=lama --images=photos --masks=masks --out=lama
    python tools/evaluate.py --onnx=migan.onnx --images=places --table=2 --out=places

Images are squashed to R x R (bicubic). Masks are one per image name, range of hole
shares and seed, or come from --masks; 1 (255, white) = known, or with --invert_mask
hole. Known pixels always come from the original. With several --hole_ranges, such as
"0,.2;.2,.4", --masks, --save_masks and --predictions have one folder for each: 0-0.2.

PSNR, SSIM and L1 need nothing else. FID, P-IDS, U-IDS and LPIPS need weight files in
--weights (default: $MIGAN_JAX_CACHE or ~/.cache/migan_jax); where one is absent, the
metric is left out and said; --fetch downloads it.
--protocol=paper is the paper's, --protocol=stylegan truncates to 8 bits first.

Writes OUT.json (everything), OUT.md (its tables), OUT.png (samples) and OUT.parts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import contextlib
import functools
import json
import os
import sys
from typing import Any, NamedTuple

from absl import flags
import jax
import ml_collections
import numpy as np

import make_masks
from migan_jax import checkpoint as checkpoint_lib
from migan_jax import cli
from migan_jax.data import batches as batches_lib
from migan_jax.data import images as image_files
from migan_jax.data import mask_files
from migan_jax.data import masks as masks_lib
from migan_jax.data import sources
from migan_jax.evaluation import methods
from migan_jax.evaluation.metrics import inception
from migan_jax.evaluation import painters
from migan_jax.evaluation import published
from migan_jax.evaluation import report
from migan_jax.evaluation.figures import BASELINES
from migan_jax.evaluation.figures import FIGURES
from migan_jax.evaluation.figures import NAMES
from migan_jax.meter import Meter
from migan_jax.model import io as model_io
from migan_jax import storage
from migan_jax.training import inputs

# Images per batch of methods that do not say.
_BATCH = 16
_GRID_ROWS = 8
# Masks of a folder whose polarity is looked at before the work.
_LOOKED_AT = 32


class Options(NamedTuple):
    """What the flags of the same names say; empty: not given."""
    predictions: str = ''
    onnx: str = ''
    torchscript: str = ''
    contract: str = ''
    masks: str = ''
    invert_mask: bool = False
    save_masks: str = ''
    save_predictions: str = ''
    step: str = 'best'
    hole_ranges: tuple = ()
    brush_width: tuple = ()
    resolution: int = 0
    protocol: str = 'paper'
    metrics: tuple = ()
    table: int = 0
    dataset: str = ''
    name: str = ''
    weights: str = ''
    fetch: bool = False
    parts: str = ''
    overwrite: bool = False


class Method(NamedTuple):
    """What is evaluated.

    Attributes:
      name: in tables.
      what: {field: value} of the report.
      resolution: R.
      painter_of: label of a hole range, stems -> `methods.Painter`.
      config: of a training's checkpoint, else None.
      mask: of the config that any checkpoint has, else None.
    """
    name: str
    what: dict
    resolution: int
    painter_of: Any
    config: Any = None
    mask: Any = None


def say(text: str) -> None:
    """Progress, on stderr: stdout is the result."""
    print(text, file=sys.stderr, flush=True)


def parse_ranges(text: str) -> tuple[tuple[float, ...], ...]:
    """'0,.2;.2,.4' -> ((0.0, 0.2), (0.2, 0.4)).

    Raises:
      ValueError: not pairs with 0 <= low < high <= 1.
    """
    try:
        ranges = tuple(tuple(float(x) for x in pair.split(','))
                       for pair in text.split(';') if pair.strip())
        good = all(0 <= low < high <= 1 for low, high in ranges)
    except ValueError:
        good = False
    if not good:
        raise ValueError(f'--hole_ranges={text!r}: expected pairs low,high with 0 <= '
                         'low < high <= 1, semicolons between, such as "0,.2;.2,.4"')
    return ranges


def parse_brush_width(text: str) -> tuple[int, ...]:
    """'12,48' -> (12, 48); '' -> ().

    Raises:
      ValueError: not two whole numbers.
    """
    parts = tuple(part.strip() for part in text.split(',')) if text else ()
    if parts and not (len(parts) == 2 and all(part.isdigit() for part in parts)):
        raise ValueError(f'--brush_width={text!r}: expected two whole numbers of '
                         'pixels, such as 12,48')
    return tuple(int(part) for part in parts)


def parse_metrics(text: str) -> tuple[str, ...]:
    """'psnr,fid' -> ('psnr', 'fid').

    Raises:
      ValueError: unknown metrics, listed.
    """
    metrics = tuple(name.strip() for name in text.split(',') if name.strip())
    report.check_names(metrics, '--metrics')
    return metrics


def open_method(checkpoint: str, options: Options, seed: int | None, images: str) -> Method:
    """The one method that the options name.

    Raises:
      ValueError: none or several are named, or it can not be opened.
    """
    given = {'checkpoint': checkpoint, 'predictions': options.predictions,
             'onnx': options.onnx, 'torchscript': options.torchscript}
    named = {kind: path for kind, path in given.items() if path}
    if len(named) != 1:
        raise ValueError(
            'expected one of ' + ', '.join(f'--{kind}' for kind in given) + '; got '
            + (', '.join(f'--{kind}={path}' for kind, path in named.items()) or 'none'))
    ((kind, path),) = named.items()
    if options.contract and kind != 'torchscript':
        raise ValueError('--contract says what a --torchscript model takes and gives; '
                         f'it means nothing for --{kind}.')
    name = options.name or os.path.basename(os.path.normpath(path))
    what = {'kind': kind, 'path': path, 'name': name}
    if kind == 'checkpoint':
        return open_checkpoint(path, what, name, options, seed)

    if kind == 'predictions':
        several = len(options.hole_ranges) > 1

        def folder(label):
            return os.path.join(path, label) if several else path

        first = label_of(options.hole_ranges[0]) if several else ''
        resolution = options.resolution or painters.first_size(folder(first))

        def painter_of(label, stems):
            files = mask_files.files_of(
                folder(label), mask_files.needed(images, folder(label), stems),
                'prediction')
            mask_files.check_sizes(files, resolution, 'prediction')
            return painters.from_folder(files)

        return Method(name, what, resolution, painter_of)

    what['sha256'] = painters.file_hash(path)
    if kind == 'onnx':
        painter, resolution = painters.from_onnx(path, options.resolution)
    else:
        what['contract'] = options.contract
        painter, resolution = painters.from_torchscript(
            path, options.contract, options.resolution)
    return Method(name, what, resolution, lambda label, stems: painter)


def label_of(bounds: tuple[float, float]) -> str:
    """(0.0, 0.2) -> '0-0.2'."""
    return f'{bounds[0]:g}-{bounds[1]:g}'


def open_checkpoint(path: str, what: dict[str, Any], name: str, options: Options,
                    seed: int | None) -> Method:
    """`Method` of a checkpoint directory; its generator runs on all local devices."""
    of_generator, generator, variables, step = checkpoint_lib.load_deployed_step(
        path, options.step)
    if checkpoint_lib.is_iteration(of_generator, step):
        what['step'] = step
    own = of_generator.model.resolution
    if options.resolution not in (0, own):
        raise ValueError(f'{path}: the model paints {own} x {own} pixels, but '
                         f'--resolution is {options.resolution}.')
    # Published and saved generators have no settings of an evaluation.
    config = of_generator if 'eval' in of_generator else None
    if config is not None:
        inputs.check_batch(config.eval.batch_size, 'eval.batch_size of the checkpoint')
    painter = methods.from_generator(
        of_generator, generator, variables, seed_of(config, seed))
    return Method(name, what, own, lambda label, stems: painter, config,
                  of_generator.get('mask'))


def seed_of(config: ml_collections.ConfigDict | None, seed: int | None) -> int:
    """The seed of the masks: the flag's, else the config's, else 0."""
    if seed is not None:
        return seed
    return 0 if config is None else config.eval.seed


def ranges_of(options: Options, mask: ml_collections.ConfigDict | None) -> list[report.Range]:
    """The hole ranges to evaluate; `mask` is the config's.

    Raises:
      ValueError: ranges that do not go with the table.
    """
    if options.table == 2:
        if options.hole_ranges and options.hole_ranges != published.HOLE_RANGES:
            raise ValueError(
                '--table=2 has hole ranges of its own; drop --hole_ranges.')
        bounds = published.HOLE_RANGES
    elif options.table == 3 and len(options.hole_ranges) > 1:
        raise ValueError('--table=3 has one column per metric: name one range at most '
                         'with --hole_ranges.')
    elif options.hole_ranges:
        bounds = options.hole_ranges
    elif options.masks:
        return [report.Range(None, '')]
    elif mask is not None and options.table != 3:
        bounds = (tuple(mask.hole_range),)
    else:
        bounds = ((0.0, 1.0),)
    return [report.Range(pair, label_of(pair)) for pair in bounds]


def strokes_of(options: Options, method: Method) -> tuple[int, int]:
    """Narrowest and widest stroke of generated masks: as said, as trained, or as fits R."""
    if options.brush_width or method.mask is None:
        return options.brush_width or masks_lib.stroke_widths(method.resolution)
    return tuple(method.mask.brush_width)


def masks_for(options: Options, hole_range: report.Range, several: bool, stems: Sequence[str],
              method: Method, seed: int, images: str, source: Any
              ) -> Callable[[Sequence[str]], np.ndarray]:
    """Function stems -> u8[B, R, R, 1], read or generated, stored if wanted."""
    place = hole_range.label if several else ''
    if options.masks:
        folder = os.path.join(options.masks, place)
        files = mask_files.files_of(
            folder, mask_files.needed(images, folder, stems), 'mask')
        mask_files.check_sizes(files, method.resolution, 'mask')
        make = functools.partial(
            mask_files.read_masks, files, resolution=method.resolution,
            invert=options.invert_mask)
        first = make(list(files)[:_LOOKED_AT])
        for sentence in mask_files.mostly_hole(
                f'the first {len(first)} masks', 1 - first.mean(), options.invert_mask):
            say(f'warning: {sentence}')
    else:
        make = methods.mask_maker(
            method.resolution, hole_range.bounds, strokes_of(options, method), seed)
    if not options.save_masks:
        return make
    folder = os.path.join(options.save_masks, place)

    def make_and_store(stems):
        masks = make(stems)
        # Known by now: the batch was read before its masks are made.
        unreadable = {image_files.stem_of(name) for name in source.unreadable}
        for s, mask in zip(stems, masks):
            if s and s not in unreadable:
                make_masks.write_mask(os.path.join(folder, f'{s}.png'), mask)
        return masks

    return make_and_store


def save_predictions(folder: str, stream: Iterable[Mapping[str, Any]],
                     masks_of: Callable[[Sequence[str]], np.ndarray],
                     painter: methods.Painter) -> None:
    """Writes composites, R x R, as PNG files that --predictions reads."""
    for batch in stream:
        stems = [image_files.stem_of(name) for name in batch['name']]
        masks = masks_of(stems)
        output = painter.paint(stems, batch['image'], masks)
        composites = np.asarray(model_io.to_uint8(model_io.composite(
            output, model_io.from_uint8(batch['image']), masks.astype(np.float32))))
        for s, picture, valid in zip(stems, composites, batch['valid']):
            if valid:
                path = os.path.join(folder, f'{s}.png')
                os.makedirs(os.path.dirname(path), exist_ok=True)
                image_files.write_png(picture, path)


def run(checkpoint: str, images: str, out: str, seed: int | None = None,
        limit: int | None = None, options: Options = Options()) -> dict[str, float]:
    """Evaluates and writes OUT.json, OUT.md, OUT.png and OUT.parts.

    Args:
      checkpoint: a checkpoint directory, or '' if `options` names another method.
      images: a folder, or '' for the evaluation images of the checkpoint's config.
      out: path without suffix.
      seed: of the masks; the config's by default.
      limit: only the first images.
      options: `Options`.

    Returns:
      {figure: mean over all images and ranges}, 'images' the number of images.

    Raises:
      ValueError: see the modules that open what is named; no images, or none readable.
    """
    if options.table == 2:
        options = options._replace(
            hole_ranges=options.hole_ranges or published.HOLE_RANGES)
    method = open_method(checkpoint, options, seed, images)
    config, resolution = method.config, method.resolution
    seed = seed_of(config, seed)
    ranges = ranges_of(options, method.mask)

    crop = 'squash'
    if images:
        source = sources.open_source('folder', path=images)
    elif config is not None:
        source = inputs.divide(config, checkpoint).evaluation
        crop = config.data.eval_crop
    else:
        raise ValueError('--images is missing: the folder of the originals.')
    limit = limit or (config.eval.limit if config is not None else 0) or None
    count = min(limit or len(source), len(source))
    stems = []
    if options.masks or options.predictions:
        if not hasattr(source, 'names'):
            raise ValueError('--masks and --predictions need --images, a folder.')
        stems = [image_files.stem_of(name) for name in source.names[:count]]
    check_out(out, images, stems or getattr(source, 'names', [])[:1], options)
    devices = jax.local_device_count()
    batch_size = (config.eval.batch_size if config is not None
                  else -(-_BATCH // devices) * devices)
    batches = lambda: batches_lib.eval_batches(
        source, resolution=resolution, batch_size=batch_size, crop=crop, limit=limit)

    judge = report.open_judge(
        options.protocol, resolution, count, options.metrics, options.weights,
        options.fetch)
    parts = methods.Parts(options.parts or f'{out}.parts')

    # Before the long work, so that a name that does not fit shows at once.
    several = len(ranges) > 1
    makers = [masks_for(options, r, several, stems, method, seed, images, source)
              for r in ranges]
    painters_of = [method.painter_of(r.label, stems) for r in ranges]

    with contextlib.closing(batches()) as first:
        rows = config.eval.grid_rows if config is not None else _GRID_ROWS
        grid, known, hole = report.sample_grid(
            next(first), makers[0], painters_of[0], rows)
    if method.what['kind'] == 'predictions' and known > hole:
        say('warning: the predictions differ from the originals more where the masks say '
            'known than in the holes: masks of other predictions, or inverted (white = '
            'known)?')
    outcomes = []
    for hole_range, masks_of, painter in zip(ranges, makers, painters_of):
        title = hole_range.title() if several else method.name
        progress = Meter(count, 'images', title=title,
                         say=None if sys.stderr.isatty() else say)
        with contextlib.closing(batches()) as stream, progress:
            outcomes.append(report.measure(
                judge, stream, masks_of, painter, parts, progress))
        if options.save_predictions:
            place = hole_range.label if several else ''
            with contextlib.closing(batches()) as stream:
                save_predictions(os.path.join(options.save_predictions, place), stream,
                                 masks_of, painter)

    summary = report.means(outcomes)
    written = report_of(method, options, judge, seed, images, source, ranges, outcomes)
    text = markdown(method, options, judge, written, ranges, outcomes)
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    storage.write_atomically(f'{out}.json', json.dumps(
        report.finite(written | {'summary': summary}), indent=1,
        allow_nan=False).encode())
    storage.write_atomically(f'{out}.md', text.encode(errors='backslashreplace'))
    image_files.write_png(grid, f'{out}.png')
    return summary


def check_out(out: str, images: str, stems: Sequence[str], options: Options) -> None:
    """Refuses results among the inputs, or where nothing can be written.

    Args:
      out, images, options: as for `run`.
      stems: of images whose masks would be saved.

    Raises:
      ValueError: see `cli.check_apart`, `cli.check_files` and `cli.check_folder`.
    """
    inputs_of = {'images': images, 'masks': options.masks,
                 'predictions': options.predictions}
    files = [f'{out}.{suffix}' for suffix in ('json', 'md', 'png')]
    cli.check_apart(f'--out={out}', files, inputs_of, options.overwrite)
    cli.check_files(files)
    for flag in ('save_masks', 'save_predictions'):
        if folder := getattr(options, flag):
            cli.check_apart(f'--{flag}={folder}',
                            [os.path.join(folder, f'{s}.png') for s in stems],
                            inputs_of, options.overwrite)
            cli.check_folder(folder)


def report_of(method: Method, options: Options, judge: report.Judge, seed: int, images: str,
              source: Any, ranges: Sequence[report.Range],
              outcomes: Sequence[report.Outcome]) -> dict[str, Any]:
    """What OUT.json says besides the summary."""
    return {
        'method': method.what,
        'protocol': judge.protocol.name,
        'resolution': method.resolution,
        'image_source': images or 'the evaluation images of the checkpoint\'s config',
        'n': len(outcomes[0].names),
        'unreadable': dict(source.unreadable),
        'seeds': {'masks': None if options.masks else seed, 'bootstrap': 0},
        'masks': options.masks or 'generated, one per image name, range and seed',
        'brush_width': None if options.masks else list(strokes_of(options, method)),
        'invert_mask': options.invert_mask,
        'weight_files': judge.files,
        'left_out': judge.left_out,
        'ranges': [{'hole_range': r.bounds, 'n': len(o.names), **o.whole, **o.summary}
                   for r, o in zip(ranges, outcomes)],
        'images': report.per_image(ranges, outcomes),
    }


def markdown(method: Method, options: Options, judge: report.Judge, written: Mapping[str, Any],
             ranges: Sequence[report.Range], outcomes: Sequence[report.Outcome]) -> str:
    """The tables and what they were measured with."""
    blocks = [report.figures_table(judge.names, ranges, outcomes)]
    if options.table:
        blocks.append(report.published_table(
            options.table, outcomes, name=method.name, dataset=options.dataset,
            side=method.resolution))
    low, high = strokes_of(options, method)
    masks = options.masks or (
        f'generated, seed {written["seeds"]["masks"]}, one per image name and range, '
        f'strokes of {low} to {high} pixels')
    step = f' (iteration {method.what["step"]})' if 'step' in method.what else ''
    what = (f'Of {method.name}, {method.what["kind"]} {method.what["path"]}{step}, on '
            f'{written["image_source"]}.')
    notes = report.notes(what, judge, method.resolution, masks, written['unreadable'],
                         outcomes)
    return '\n\n'.join(blocks + ['\n'.join(f'- {note}' for note in notes)]) + '\n'


def gains(summary: Mapping[str, float]) -> str:
    """How far the holes are from those that are filled without a network, in words."""
    titles = {figure.name: figure.title.partition(': ')[2] for figure in FIGURES}
    return 'Hole PSNR of the model against ' + ', '.join(
        f'{titles[name]} {summary["hole_psnr"] - summary[name]:+.2f} dB'
        for name in BASELINES if name in summary) + '.'


def main(argv: Sequence[str]) -> None:
    del argv
    args = flags.FLAGS
    options = Options(
        hole_ranges=parse_ranges(args.hole_ranges),
        metrics=parse_metrics(args.metrics),
        brush_width=parse_brush_width(args.brush_width),
        table=int(args.table or 0),
        **{name: getattr(args, name) for name in (
            'predictions', 'onnx', 'torchscript', 'contract', 'masks', 'invert_mask',
            'save_masks', 'save_predictions', 'step', 'resolution', 'protocol', 'dataset',
            'name', 'weights', 'fetch', 'parts', 'overwrite')})
    summary = run(args.checkpoint, args.images, args.out, args.seed, args.limit, options)
    if args.json:
        print(json.dumps(report.finite(summary)))
        return
    with open(f'{args.out}.md', encoding='utf-8') as f:
        print(f.read())
    print(gains(summary))
    print(f'Samples: {args.out}.png   every image: {args.out}.json')


def define_flags() -> None:
    flags.DEFINE_string('checkpoint', '', 'Workdir of a training or from_torch output.')
    flags.DEFINE_string('predictions', '', 'Folder of painted pictures, R x R.')
    flags.DEFINE_string('onnx', '', 'ONNX model, core or pipeline.')
    flags.DEFINE_string('torchscript', '', 'TorchScript model, see --contract.')
    flags.DEFINE_enum('contract', '', ['', 'iopaint_lama', 'iopaint_migan'],
                      'What the --torchscript model takes and gives.')
    flags.DEFINE_string('images', '', 'Folder; default: what the config evaluates.')
    flags.DEFINE_string('masks', '', 'Folder, white = known; default: generated.')
    flags.DEFINE_bool('invert_mask', False, 'The masks of --masks have white = hole.')
    flags.DEFINE_string('save_masks', '', 'Folder to store the masks in.')
    flags.DEFINE_string('save_predictions', '', 'Folder to store the composites in.')
    flags.DEFINE_string('step', 'best', 'Of --checkpoint: best, latest or an iteration.')
    flags.DEFINE_string('hole_ranges', '',
                        'Such as "0,.2;.2,.4"; default: the config\'s.')
    flags.DEFINE_string('brush_width', '', 'Least and greatest stroke, px; default: '
                        'the config\'s, else that of R.')
    flags.DEFINE_integer('resolution', 0, 'R, where the method leaves it open.')
    flags.DEFINE_enum('protocol', 'paper', sorted(inception.PROTOCOLS), 'See above.')
    flags.DEFINE_string('metrics', '', f'Some of {", ".join(NAMES)}; default: all.')
    flags.DEFINE_enum('table', '', ['', '2', '3'],
                      'Of the supplement, printed with this run in it.')
    flags.DEFINE_enum('dataset', '', ['', 'places2', 'ffhq'],
                      'Under which columns of the table this run belongs.')
    flags.DEFINE_string('name', '', 'Of the method in tables; default: its file name.')
    flags.DEFINE_string('weights', '', 'Folder of the metric networks\' weight files.')
    flags.DEFINE_bool('fetch', False, 'Download those that are not there.')
    flags.DEFINE_string('parts', '', 'Folder of stored figures; default: OUT.parts.')
    flags.DEFINE_string('out', None, 'Path of the results, without suffix.')
    flags.DEFINE_bool('overwrite', False, 'Results may lie among the inputs.')
    flags.DEFINE_integer('seed', None, 'Of the masks; default: the config\'s, else 0.')
    flags.DEFINE_integer('limit', None, 'Only the first so many images.')
    flags.DEFINE_bool('json', False, 'Print the means as JSON instead of tables.')
    flags.mark_flag_as_required('out')


if __name__ == '__main__':
    # Not at import: tests import this file, and tools share flag names.
    define_flags()
    cli.run(main)
