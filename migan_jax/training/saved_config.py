"""A workdir's config.json as a config file: --config WORKDIR/config.json.

ml_collections runs --config files as Python and hands over what stands behind a colon.
"""

from collections.abc import Sequence
import json
import pathlib
import re
import runpy

import ml_collections

from migan_jax import storage

_DEFAULT = pathlib.Path(__file__).resolve().parents[2] / 'configs' / 'default.py'


def with_module(argv: Sequence[str]) -> list[str]:
    """A command line in which --config=FILE.json names this module and the file.

    Args:
      argv: of a program with a flag --config.
    """
    argv = list(argv)
    for i, word in enumerate(argv):
        if word in ('--config', '-config') and i + 1 < len(argv):
            argv[i + 1] = _module_for(argv[i + 1])
        elif match := re.match('--?config=', word):
            argv[i] = match[0] + _module_for(word[match.end():])
    return argv


def _module_for(path):
    return f'{__file__}:{path}' if path.endswith('.json') else path


def get_config(path: str) -> ml_collections.ConfigDict:
    """The default config with the fields that a config.json has.

    Raises:
      OSError: the file can't be read.
      ValueError: it is no config, or has fields that there are none of.
      storage.StorageError: the bucket that it should be in does not answer.
    """
    storage.check_readable(path)
    config = runpy.run_path(str(_DEFAULT))['get_config']()
    try:
        saved = json.loads(storage.path_of(path).read_text())
    except ValueError as error:
        raise ValueError(f'{path} is not valid JSON: {error}') from error
    if not isinstance(saved, dict):
        raise ValueError(f'{path} is no config of a run: it holds no fields')
    if saved.get('deployed'):
        raise ValueError(f'{path} is of weights read by from_torch, not of a run; name '
                         'its folder with --config.init_from and another config')
    try:
        config.update(saved)
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(f'{path} is no config of this version: {error}') from error
    return config
