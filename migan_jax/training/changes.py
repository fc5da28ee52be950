"""What differs between a config and that of the workdir in which it goes on."""

import os

import ml_collections

from migan_jax import checkpoint as checkpoint_lib
from migan_jax.training import checks

# Fields that say what is learnt; of these groups all but some.
_GROUPS = ('data.', 'mask.', 'loss.', 'teacher.')
_HARMLESS = ('data.cache_mb', 'data.max_pixels', 'data.workers', 'data.prefetch',
             'teacher.dtype')


def differing(config: ml_collections.ConfigDict,
              saved: ml_collections.ConfigDict) -> dict[str, str]:
    """{field: 'saved value -> value now'} where two configs differ.

    Fields that only one of them has are left out: another version wrote it.
    """
    ours, theirs = checks.fields_of(config), checks.fields_of(saved)
    return {name: f'{_shown(theirs[name])} -> {_shown(ours[name])}'
            for name in ours if name in theirs
            and checkpoint_lib.as_plain(ours[name]) != checkpoint_lib.as_plain(theirs[name])}


def _shown(value):
    """As a flag takes it; JSON has made lists of the saved tuples."""
    return repr(tuple(value) if isinstance(value, list) else value)


def review(config: ml_collections.ConfigDict, saved: ml_collections.ConfigDict,
           workdir: os.PathLike | str, allow: bool) -> list[str]:
    """Lines 'field: saved value -> value now'.

    Args:
      config: of this run.
      saved: of the workdir, which has checkpoints.
      workdir: for messages.
      allow: whether data, masks and losses may differ.

    Raises:
      checkpoint.CheckpointError: they do and may not.
    """
    changed = differing(config, saved)
    line = lambda name: f'{name}: {changed[name]}'
    grave = [name for name in changed
             if name.startswith(_GROUPS) and name not in _HARMLESS]
    if grave and not allow:
        raise checkpoint_lib.CheckpointError(
            f'{workdir} was trained with other data, masks or losses (saved -> now):\n  '
            + '\n  '.join(map(line, grave))
            + f'\nGive the command that began it, or --config {workdir}/config.json; or '
            '--allow_changes, to go on with these.')
    return list(map(line, changed))
