"""Which images of a source are trained on, and which are kept for evaluation."""

from collections.abc import Callable, Sequence
import posixpath
from typing import Any, NamedTuple

from absl import logging

from migan_jax.data import images
from migan_jax.data import sources

# Names of folders and of TFDS splits, the likeliest first; any case.
TRAINING = ('train', 'training')
EVALUATION = ('validation', 'valid', 'val', 'eval', 'test')


class Division(NamedTuple):
    """A source in two parts that share no image, unless both were named.

    Attributes:
      train, evaluation: sources of `sources.open_source`.
      how: a sentence for people.
      held_out: names of the evaluation images where they were drawn, else None.
    """
    train: Any
    evaluation: Any
    how: str
    held_out: list | None = None


def divide(opened: Callable[[str], Any], kind: str, *, train_split: str = '',
           eval_split: str = '', share: float = 0.05, first: int = 0, seed: int = 0,
           known: Sequence[str] = (), by_name: bool = False) -> Division:
    """Divides a source; a split that isn't named is what the source has.

    The embedded photographs have regions of their own, TFDS has splits, a folder or zip
    file may have sub-folders train/ and val/ (or another name of `EVALUATION`), below
    one folder or none. Otherwise images are held out: the first `first` by name, where
    more than that are left to train on, else a share drawn by the seed.

    Args:
      opened: split -> source.
      kind: of `sources.KINDS`.
      train_split, eval_split: of `sources.open_source`; '' leaves it to the source.
      share: of the images held out, 0 to 1; at least one.
      first: held out by name instead, as of FFHQ; 0 is never.
      seed: of the draw.
      known: names drawn before; those still there are held out again.
      by_name: the share is the first by name, as of runs of version 0.1.

    Raises:
      ValueError: of `opened`; or too few images to hold one out.
    """
    if kind == 'embedded':
        return _named(opened, train_split or 'train', eval_split or 'test')
    if kind == 'tfds':
        return _of_tfds(opened, train_split, eval_split, share)
    if train_split and eval_split:
        return _named(opened, train_split, eval_split)
    # Listed once: a folder of millions takes seconds.
    whole = opened('')
    layout = layout_of(whole.names)
    if layout:
        train_split, eval_split = train_split or layout[0], eval_split or layout[1]
        return _named(whole.part, train_split, eval_split)
    if eval_split:
        evaluation = whole.part(eval_split)
        return _without(whole, evaluation, f'training on all but {eval_split}')
    if train_split:
        whole = whole.part(train_split)
    return _held_out(whole, share, first, seed, known, by_name)


def layout_of(names: Sequence[str]) -> tuple[str, str] | None:
    """The sub-folders for training and evaluation among sorted names, or None."""
    # What the first and the last begin with, all do.
    root = posixpath.commonpath([posixpath.dirname(n) for n in (names[0], names[-1])])
    skip = len(root) + 1 if root else 0
    folders = {name[skip:].split('/')[0] for name in names if '/' in name[skip:]}
    found = [
        next((posixpath.join(root, folder) for wanted in among
              for folder in sorted(folders) if folder.lower() == wanted), None)
        for among in (TRAINING, EVALUATION)]
    return tuple(found) if all(found) else None


def _named(opened, train_split, eval_split):
    train, evaluation = opened(train_split), opened(eval_split)
    shared = set(getattr(train, 'names', ())) & set(getattr(evaluation, 'names', ()))
    if shared:
        logging.warning(
            '%d of %d evaluation images are trained on too, as the splits %r and %r '
            'overlap: figures will flatter.', len(shared), len(evaluation), train_split,
            eval_split)
    return Division(train, evaluation,
                    f'training on {train_split}, evaluation on {eval_split}')


def _of_tfds(opened, train_split, eval_split, share):
    if not train_split or not eval_split:
        sizes = opened('').sizes
        find = lambda among: next((s for s in among if sizes.get(s)), '')
        train_split = train_split or find(TRAINING)
        eval_split = eval_split or find(EVALUATION)
        if not train_split:
            raise ValueError(
                f'the data set has no split train, but {sizes}: name one with '
                '--config.data.train_split and --config.data.eval_split.')
        if not eval_split:
            if '[' in train_split or '+' in train_split:
                raise ValueError(
                    f'the data set has the splits {sizes}, none of them for '
                    'evaluation: name a part with --config.data.eval_split.')
            count = _count(len(opened(train_split)), share, train_split)
            # Records are shuffled when a data set is prepared.
            train_split, eval_split = (
                f'{train_split}[{count}:]', f'{train_split}[:{count}]')
    return _named(opened, train_split, eval_split)


def _count(images, share, where):
    if images < 2:
        raise ValueError(f'{where} holds {images} image; one is held out for '
                         'evaluation, so training needs at least two.')
    return min(images - 1, max(1, int(images * share)))


def _held_out(whole, share, first, seed, known, by_name):
    names = whole.names
    count = _count(len(names), share, whole.where)
    known = {images.composed(name) for name in known}
    there = {name for name in names if images.composed(name) in known}
    if there and len(there) < len(names):
        if gone := len(known) - len(there):
            logging.warning('%d of the %d images held out before are no longer in %s',
                            gone, len(known), whole.where)
        chosen, how = there, 'those held out before'
    elif 2 * first < len(names) and first:
        chosen, how = set(names[:first]), f'the first {first} by name'
    elif by_name:
        chosen, how = set(names[:count]), 'the first by name, as this run began'
    else:
        order = sources.random_stream(seed, sources.HELD_OUT_STREAM).permutation(
            len(names))
        chosen = {names[i] for i in order[:count]}
        how = f'{share:.3g} of all, drawn by seed {seed}'
    evaluation = whole.only([name for name in names if name in chosen])
    return _without(whole, evaluation, f'held out for evaluation: {how}')


def _without(whole, evaluation, how):
    kept = set(evaluation.names)
    train = whole.only([name for name in whole.names if name not in kept])
    if not len(train):
        raise ValueError(f'{whole.where}: evaluation takes all {len(whole)} images, '
                         'none is left to train on; name a smaller '
                         '--config.data.eval_split.')
    return Division(train, evaluation, how, evaluation.names)
