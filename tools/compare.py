"""Sets two results of tools/evaluate.py side by side: is the second better?

    python tools/evaluate.py --checkpoint=runs/mine --step=latest --out=latest
    python tools/evaluate.py --checkpoint=runs/mine --step=best --out=best
    python tools/compare.py --first=latest --second=best --out=compared

Each figure per image is compared on the same image under the same mask: the mean of
the differences, with a paired bootstrap interval. What has no value per image (FID,
P-IDS, U-IDS) has no interval.

Writes OUT.json, OUT.md (the table that it prints) and OUT.png: input, first, second,
original.
"""

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any

from absl import flags
import numpy as np

from migan_jax import cli
from migan_jax.data import images as image_files
from migan_jax.evaluation.figures import Figure
from migan_jax.evaluation.figures import FIGURES
from migan_jax.evaluation.metrics import bootstrap
from migan_jax import storage

# What two results must have in common.
_ALIKE = ('protocol', 'resolution', 'image_source', 'masks', 'seeds')


def read(path: str) -> dict[str, Any]:
    """The report of an evaluation, OUT or OUT.json.

    Raises:
      ValueError: it is none.
    """
    path = path if path.endswith('.json') else f'{path}.json'
    try:
        with open(path, encoding='utf-8') as file:
            report = json.load(file)
        missing = {'images', 'ranges', 'method', *_ALIKE} - set(report)
    except FileNotFoundError as error:
        raise ValueError(f'{path}: no such file; expected the --out of '
                         'tools/evaluate.py.') from error
    except (ValueError, TypeError) as error:
        raise ValueError(f'{path} is no result of tools/evaluate.py: {error}') from error
    if missing:
        raise ValueError(f'{path} is no result of tools/evaluate.py: it lacks '
                         f'{", ".join(sorted(missing))}.')
    report['images'] = {image_files.composed(name): row
                        for name, row in report['images'].items()}
    return report


def check_alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Raises ValueError unless both were measured on the same images and masks."""
    lines = [f'{name}: {first[name]} and {second[name]}' for name in _ALIKE
             if first[name] != second[name]]
    if set(first['images']) != set(second['images']):
        both = set(first['images']) & set(second['images'])
        lines.append(f'images: {len(first["images"])} and {len(second["images"])}, '
                     f'{len(both)} of them the same')
    if [r['hole_range'] for r in first['ranges']] != [
            r['hole_range'] for r in second['ranges']]:
        lines.append('hole ranges differ')
    if lines:
        raise ValueError('the two were not measured alike, so nothing can be said:\n'
                         + '\n'.join(lines))


def differences(first: Mapping[str, Any],
                second: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """{label of the range: {figure: {first, second, difference, low, high}}}."""
    found = {}
    labels = next(iter(first['images'].values()), {})
    for i, label in enumerate(labels):
        rows = found[label] = {}
        for figure in FIGURES:
            pairs = [
                (a[label].get(figure.name), second['images'][name][label].get(figure.name))
                for name, a in first['images'].items()]
            pairs = np.asarray([p for p in pairs if None not in p], float)
            if len(pairs) and figure.better:
                gain = pairs[:, 1] - pairs[:, 0]
                low, high = bootstrap.confidence_interval(gain)
                rows[figure.name] = {
                    'first': float(pairs[:, 0].mean()), 'second': float(pairs[:, 1].mean()),
                    'difference': float(gain.mean()), 'low': low, 'high': high,
                    'images': len(pairs)}
                continue
            ours = [report['ranges'][i].get(figure.name) for report in (first, second)]
            if figure.better and all(isinstance(x, (int, float)) for x in ours):
                rows[figure.name] = {'first': ours[0], 'second': ours[1],
                                     'difference': ours[1] - ours[0]}
    return found


def verdict(figure: Figure, row: Mapping[str, float]) -> str:
    """'better', 'worse', or '' where the interval has 0 in it or there is none."""
    if 'low' not in row or row['low'] <= 0 <= row['high']:
        return ''
    return 'better' if (row['difference'] > 0) == (figure.better == 'higher') else 'worse'


def markdown(found: Mapping[str, Mapping[str, Mapping[str, float]]],
             names: Sequence[str]) -> str:
    """A table for each range."""
    by_name = {figure.name: figure for figure in FIGURES}
    blocks = []
    for label, rows in found.items():
        lines = [f'| {label} | {names[0]} | {names[1]} | difference (95 %) | second is |',
                 '|---' * 5 + '|']
        for name, row in rows.items():
            digits = by_name[name].digits
            shown = lambda value, digits=digits: f'{value:.{digits}f}'
            interval = (f' ({row["low"]:+.{digits}f} to {row["high"]:+.{digits}f})'
                        if 'low' in row else '')
            lines.append(
                f'| {by_name[name].title} | {shown(row["first"])} | '
                f'{shown(row["second"])} | {row["difference"]:+.{digits}f}{interval} | '
                f'{verdict(by_name[name], row)} |')
        blocks.append('\n'.join(lines))
    return '\n\n'.join(blocks) + '\n'


def sheet(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Input, first composite, second composite, original, from two sample pictures."""
    side = first.shape[1] // 5
    rows = min(len(first), len(second))
    column = lambda picture, i: picture[:rows, i * side:(i + 1) * side]
    return np.hstack([column(first, 0), column(first, 3), column(second, 3),
                      column(first, 4)])


def run(first: str, second: str, out: str) -> dict[str, dict[str, dict[str, float]]]:
    """Compares, writes OUT.json, OUT.md and OUT.png.

    Args:
      first, second: --out of tools/evaluate.py.
      out: path without suffix.

    Returns:
      see `differences`.

    Raises:
      ValueError: no such results, or measured on other images or masks.
    """
    paths = [path.removesuffix('.json') for path in (first, second)]
    reports = [read(path) for path in paths]
    check_alike(*reports)
    files = [f'{out}.{suffix}' for suffix in ('json', 'md', 'png')]
    cli.check_apart(f'--out={out}', files, {
        flag: f'{path}.json' for flag, path in zip(('first', 'second'), paths)})
    cli.check_files(files)
    found = differences(*reports)
    names = [report['method']['name'] + (
        f', iteration {report["method"]["step"]}' if 'step' in report['method'] else '')
        for report in reports]
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    storage.write_atomically(f'{out}.json', json.dumps(
        {'first': reports[0]['method'], 'second': reports[1]['method'],
         'differences': found}, indent=1).encode())
    storage.write_atomically(f'{out}.md', markdown(found, names).encode())
    samples = [image_files.decode(f'{path}.png') for path in paths]
    image_files.write_png(sheet(*samples), f'{out}.png')
    return found


def define_flags() -> None:
    flags.DEFINE_string('first', None, '--out of tools/evaluate.py.', required=True)
    flags.DEFINE_string('second', None, 'Another one, on the same images and masks.',
                        required=True)
    flags.DEFINE_string('out', None, 'Path of the results, without suffix.', required=True)


def main(argv: Sequence[str]) -> None:
    del argv
    args = flags.FLAGS
    run(args.first, args.second, args.out)
    with open(f'{args.out}.md', encoding='utf-8') as file:
        print(file.read(), end='')


if __name__ == '__main__':
    define_flags()
    cli.run(main)
