"""One evaluation: opened, measured, summarised and written as tables.

`migan_jax.evaluate` and tools/evaluate.py are faces of this module; the evaluation during
training computes the same figures on the device (`step`).
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
import math
from typing import Any, NamedTuple

import numpy as np

from migan_jax.data import images as image_files
from migan_jax.evaluation import classical
from migan_jax.evaluation import figures as figures_lib
from migan_jax.evaluation import methods
from migan_jax.evaluation.metrics import inception
from migan_jax.evaluation.metrics import lpips
from migan_jax.evaluation import networks as networks_lib
from migan_jax.evaluation import published
from migan_jax.evaluation import step as evaluation_step
from migan_jax.meter import Meter
from migan_jax.model import io as model_io
from migan_jax.storage import shown


class Judge(NamedTuple):
    """What measures, from `open_judge`.

    Attributes:
      protocol: of `inception.PROTOCOLS`.
      names: of the figures that will be there.
      scorer: `methods.Scorer`.
      files: {weight file: sha256}.
      left_out: {figure: why it is not among them}.
    """
    protocol: inception.Protocol
    names: tuple[str, ...]
    scorer: methods.Scorer
    files: dict[str, str]
    left_out: dict[str, str]


class Range(NamedTuple):
    """Bounds of the hole share and their label; None and '' for given masks."""
    bounds: tuple[float, float] | None
    label: str

    def title(self) -> str:
        """Such as '(0, 0.2]'; 'value' for given masks."""
        if self.bounds is None:
            return 'value'
        return f'({self.bounds[0]:g}, {self.bounds[1]:g}]'


class Outcome(NamedTuple):
    """What was measured on one set of masks.

    Attributes:
      names: of the images, padding and unreadable ones left out.
      columns: {figure: f64[N]} of single images.
      summary: of `figures.summarize`.
      whole: {figure: value} of the whole set.
    """
    names: list[str]
    columns: dict[str, np.ndarray]
    summary: dict[str, dict[str, Any]]
    whole: dict[str, float]


def check_names(names: Sequence[str], what: str) -> None:
    """Raises ValueError unless all are figures of `figures.FIGURES`."""
    if unknown := [name for name in names if name not in figures_lib.NAMES]:
        raise ValueError(f'{what}: unknown {", ".join(unknown)}; expected some of '
                         f'{", ".join(figures_lib.NAMES)}.')


def too_small(side: int, names: Sequence[str]) -> dict[str, str]:
    """{'lpips': why it is left out} if pictures are too small for AlexNet, else {}."""
    if 'lpips' not in names or side >= lpips.MIN_SIDE:
        return {}
    return {'lpips': f'LPIPS left out: {side} x {side} pixels are too few, AlexNet needs '
                     f'{lpips.MIN_SIDE}.'}


def open_judge(protocol: str, side: int, count: int, asked: Sequence[str] = (),
               weights: str = '', fetch: bool = False) -> Judge:
    """Opens the metric networks that the wanted figures need.

    Args:
      protocol: 'paper' or 'stylegan'.
      side: of the pictures that are measured.
      count: of images.
      asked: names of figures; all that can be had by default.
      weights: folder of the networks' weight files; see `networks.load_networks`.
      fetch: download those that are not there.

    Raises:
      ValueError: an unknown protocol or figure; one asked for by name that so few or so
        small images don't allow, or that needs a file which is not there.
      MissingExtra: a weight file is there and the package that reads it is not.
    """
    if protocol not in inception.PROTOCOLS:
        raise ValueError(f'protocol={protocol!r}: expected one of '
                         f'{", ".join(sorted(inception.PROTOCOLS))}.')
    check_names(asked, 'metrics')
    chosen = inception.PROTOCOLS[protocol]
    names = tuple(asked or figures_lib.NAMES)
    left_out = methods.check_counts(count, names) | too_small(side, names)
    for name in set(names).intersection(figures_lib.CLASSICAL):
        if why := classical.unavailable(count, name in asked):
            left_out[name] = why
    names = tuple(name for name in names if name not in left_out)
    loaded = networks_lib.load_networks(chosen, weights, names, fetch)
    left_out |= loaded.missing
    if refused := [why for name, why in left_out.items() if name in asked]:
        raise ValueError('\n'.join(dict.fromkeys(refused)))
    names = tuple(name for name in names if name not in left_out)
    scorer = methods.make_scorer(
        chosen, loaded, [name for name in figures_lib.CLASSICAL if name in names])
    return Judge(chosen, names, scorer, loaded.files, left_out)


def measure(judge: Judge, batches: Iterable[dict[str, Any]], masks_of: Callable,
            painter: methods.Painter, parts: methods.Parts,
            progress: Meter) -> Outcome:
    """Paints, measures and summarises a set of images with one mask each.

    Args:
      judge: from `open_judge`.
      batches: of `batches.eval_batches`, batch size divisible by the local devices.
      masks_of: stems -> u8[B, R, R, 1], 1 = known, 0 = hole.
      painter, parts, progress: see `methods.measure`.

    Raises:
      ValueError: see `methods.measure`.
    """
    results = methods.measure(batches, masks_of, painter, judge.scorer, parts, progress)
    whole = [name for name in judge.names if name in figures_lib.SET_NAMES]
    return Outcome(
        results.names, results.figures, figures_lib.summarize(results.figures),
        methods.set_figures(results, judge.protocol, whole) if whole else {})


def sample_grid(batch: Mapping[str, Any], masks_of: Callable, painter: methods.Painter,
                rows: int) -> tuple[np.ndarray, float, float]:
    """A picture of the first samples, and how far the output is from the originals.

    Args:
      batch: of `batches.eval_batches`.
      masks_of: stems -> u8[B, R, R, 1], 1 = known, 0 = hole.
      painter: `methods.Painter`.
      rows: at most so many samples.

    Returns:
      u8[rows * R, 5 R, 3], see `step.grid_rows`; mean absolute difference of raw output
      and original where the masks say known, and in holes, range [-1, 1].
    """
    stems = [image_files.stem_of(name) for name in batch['name']]
    masks = masks_of(stems)
    output = np.asarray(painter.paint(stems, batch['image'], masks))
    image, mask = model_io.from_uint8(batch['image']), masks.astype(np.float32)
    valid = batch['valid']
    error = np.abs(output - image)[valid].mean(-1, keepdims=True)
    there = mask[valid]
    known = float((error * there).sum() / max(there.sum(), 1))
    hole = float((error * (1 - there)).sum() / max((1 - there).sum(), 1))
    grid = evaluation_step.stack_rows(
        evaluation_step.grid_rows(image, mask, output), valid, rows)
    return grid, known, hole


# --- written down ---------------------------------------------------------------


def finite(value: Any) -> Any:
    """Numbers that JSON has no word for (nan, inf) become null."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def means(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """{figure: mean over the images of all outcomes}, and 'images', their number.

    Figures of a whole set are among them where there is one outcome only: those of
    several don't add up.
    """
    names = outcomes[0].summary
    together = figures_lib.summarize({
        name: np.concatenate([outcome.columns[name] for outcome in outcomes])
        for name in names}, resamples=0)
    whole = outcomes[0].whole if len(outcomes) == 1 else {}
    return {'images': len(outcomes[0].names),
            **{name: figure['mean'] for name, figure in together.items()}, **whole}


def per_image(ranges: Sequence[Range], outcomes: Sequence[Outcome]
              ) -> dict[str, dict[str, dict[str, float]]]:
    """{image: {label of the range, or 'masks': {figure: value}}}."""
    table = {name: {} for name in outcomes[0].names}
    for hole_range, outcome in zip(ranges, outcomes):
        for i, name in enumerate(outcome.names):
            table[name][hole_range.label or 'masks'] = {
                figure: float(values[i]) for figure, values in outcome.columns.items()}
    return table


def figures_table(names: Sequence[str], ranges: Sequence[Range],
                  outcomes: Sequence[Outcome]) -> str:
    """Markdown: a row for each figure, a column for each range of hole shares.

    Args:
      names: of the figures to print; the share of hole pixels is always there.
      ranges, outcomes: equally many, see `measure`.
    """
    heads = [r.title() for r in ranges]
    lines = ['| figure (mean over images) | ' + ' | '.join(heads) + ' |',
             '|---' * (len(heads) + 1) + '|']
    for figure in figures_lib.FIGURES:
        if figure.name not in (*names, 'hole_share'):
            continue
        if figure.name in outcomes[0].summary:
            cells = [cell(o.summary[figure.name], figure.digits) for o in outcomes]
        elif figure.name in outcomes[0].whole:
            cells = [f'{o.whole[figure.name]:.{figure.digits}f}' for o in outcomes]
        else:
            continue
        lines.append(f'| {figure.title} | ' + ' | '.join(cells) + ' |')
    lines.append('| images | ' + ' | '.join(str(len(o.names)) for o in outcomes) + ' |')
    return '\n'.join(lines)


def cell(figure: Mapping[str, Any], digits: int) -> str:
    """A mean and its interval."""
    if figure['interval'] is None:
        return '-'
    low, high = figure['interval']
    return f'{figure["mean"]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]'


def published_table(number: int, outcomes: Sequence[Outcome], *, name: str,
                    dataset: str, side: int) -> str:
    """Table 2 or 3 of the supplement with this evaluation as a row, as Markdown."""
    if number == 2:
        ours = [o.whole.get('fid') for o in outcomes]
    else:
        known = {k: v['mean'] for k, v in outcomes[0].summary.items()}
        ours = [{**known, **outcomes[0].whole}.get(m) for m in published.METRICS_3]
    return published.table(number, ours, name=name, dataset=dataset,
                           images=f'this set, {side}', mark=published.row_mark(
                               dataset, side, len(outcomes[0].names)))


def notes(what: str, judge: Judge, side: int, masks: str, unreadable: Collection[str],
          outcomes: Sequence[Outcome]) -> list[str]:
    """Sentences under the tables: what they were measured with, what is left out.

    Args:
      what: was evaluated, on which images; the first sentence.
      judge: from `open_judge`.
      side: R.
      masks: where they come from.
      unreadable: names of images that could not be read.
      outcomes: from `measure`.
    """
    files = ', '.join(f'{name} (sha256 {digest})'
                      for name, digest in judge.files.items()) or 'none'
    lines = [
        what,
        'In brackets: 95 % confidence intervals of means over images, bootstrap of '
        '1000 resamples, seed 0.',
        f'Protocol {judge.protocol.name}, {side} x {side} pixels; masks: {masks}.',
        f'Weight files: {files}.']
    infinite = sum(int(np.isinf(o.columns['psnr']).sum()) for o in outcomes)
    if infinite:
        lines.append(f'{infinite} composites equal their originals: PSNR is infinite '
                     'there and left out of the mean.')
    if unreadable:
        lines.append('Left out, unreadable: ' + ', '.join(map(shown, sorted(unreadable))))
    return lines + list(dict.fromkeys(judge.left_out.values()))
