"""Counts the answers to a study made by tools/make_study.py.

    python tools/tally_study.py --key=study.key.json answers-*.json

Prints one row per pair of methods: how often the first was preferred, and the 95 %
Wilson interval of that share (Wilson, Probable Inference, the Law of Succession, and
Statistical Inference, 1927).  Answers of one person to several images are counted as
independent.
"""

import collections
from collections.abc import Mapping, Sequence
import json
import math
import os
from typing import Any

from absl import flags

from migan_jax import cli

_Z95 = 1.959963984540054


def wilson(wins: int, count: int, z: float = _Z95) -> tuple[float, float]:
    """The interval of a share.

    Args:
      wins, count: integers, 0 <= wins <= count, count >= 1.
      z: quantile of the normal distribution.

    Returns:
      (low, high) in [0, 1].
    """
    share = wins / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def read(path: os.PathLike | str) -> Any:
    """A JSON file.

    Raises:
      ValueError: unreadable.
    """
    try:
        with open(path, encoding='utf-8') as f:
            return json.load(f)
    except (OSError, ValueError) as error:
        raise ValueError(f'{path}: cannot read it as JSON ({error})') from error
    except RecursionError as error:
        raise ValueError(f'{path}: nested too deeply for a study') from error


def read_key(path: os.PathLike | str) -> dict[str, Any]:
    """A file OUT.key.json.

    Raises:
      ValueError: it is not one.
    """
    key = read(path)
    pairs = key.get('pairs') if isinstance(key, dict) else None
    if not (isinstance(pairs, dict) and isinstance(key.get('study'), str) and all(
            isinstance(pair, dict) and isinstance(pair.get('left'), str)
            and isinstance(pair.get('right'), str) for pair in pairs.values())):
        raise ValueError(f'{path}: expected the key that tools/make_study.py wrote: an '
                         'object with "study" and "pairs", each with "left" and "right"')
    return key


def tally(key: Mapping[str, Any],
          answer_files: Mapping[str, Any]) -> dict[tuple[str, str], tuple[int, int]]:
    """Counts preferences.

    Args:
      key: content of OUT.key.json.
      answer_files: {path: content}.

    Returns:
      {(first, second): (times the first was preferred, answers)}, names in order.

    Raises:
      ValueError: answers to another study, to unknown pairs, or of another form.
    """
    pairs = key['pairs']
    counts = collections.Counter()
    wins = collections.Counter()
    for path, content in answer_files.items():
        answers = content.get('answers') if isinstance(content, dict) else None
        if not isinstance(answers, dict):
            raise ValueError(f'{path}: expected what the page of a study saves: an '
                             'object with "study" and "answers"')
        if content.get('study') != key['study']:
            raise ValueError(f'{path}: answers to study {content.get("study")!r}, but '
                             f'the key is of {key["study"]!r}')
        for name, side in answers.items():
            if name not in pairs or side not in ('left', 'right'):
                raise ValueError(f'{path}: answer {name!r}: {side!r}; expected a pair '
                                 'of the key and left or right')
            first, second = sorted((pairs[name]['left'], pairs[name]['right']))
            counts[first, second] += 1
            wins[first, second] += pairs[name][side] == first
    return {pair: (wins[pair], counts[pair]) for pair in sorted(counts)}


def table(result: Mapping[tuple[str, str], tuple[int, int]]) -> str:
    """Markdown of `tally`'s result."""
    lines = ['| first | second | first preferred | answers | 95 % interval |',
             '|---|---|---|---|---|']
    for (first, second), (wins, count) in result.items():
        low, high = wilson(wins, count)
        lines.append(f'| {first} | {second} | {wins / count:.1%} | {count} | '
                     f'{low:.1%} to {high:.1%} |')
    return '\n'.join(lines)


def figures(result: Mapping[tuple[str, str], tuple[int, int]]) -> list[dict[str, Any]]:
    """`tally`'s result as a list of dicts, for --json."""
    return [{'first': first, 'second': second, 'answers': count,
             'first_preferred': wins / count, 'interval': wilson(wins, count)}
            for (first, second), (wins, count) in result.items()]


def main(argv: Sequence[str]) -> None:
    args = flags.FLAGS
    if len(argv) < 2:
        raise cli.Failed('name the answer files')
    result = tally(read_key(args.key), {path: read(path) for path in argv[1:]})
    print(json.dumps(figures(result)) if args.json else table(result))


if __name__ == '__main__':
    # Not at import: the tools share flag names, and tests import several of them.
    flags.DEFINE_string('key', None, 'OUT.key.json of the study.', required=True)
    flags.DEFINE_bool('json', False, 'Print JSON instead of a table.')
    cli.run(main, arguments=True)
