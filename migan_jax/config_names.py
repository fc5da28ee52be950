"""Configs that the package carries, by name, and what is wrong with a --config."""

from collections.abc import Sequence
import difflib
import os
import pathlib
import re

FOLDER = pathlib.Path(__file__).parent / 'configs'


def shipped() -> dict[str, pathlib.Path]:
    """{name: file} of the configs that can be run."""
    return {path.stem: path for path in sorted(FOLDER.glob('*.py'))
            if path.stem not in ('__init__', 'default')}


def with_paths(argv: Sequence[str]) -> list[str]:
    """A command line whose --config names a file.

    Args:
      argv: with --config=NAME or --config=FILE, perhaps followed by :ARGUMENT for the
        config's function; a file that is there comes before a shipped config.

    Returns:
      argv, a shipped config's name replaced by its path.

    Raises:
      ValueError: neither; the message names those that come near.
    """
    argv = list(argv)
    for i, word in enumerate(argv):
        if word in ('--config', '-config') and i + 1 < len(argv):
            argv[i + 1] = _path_of(argv[i + 1])
        elif match := re.match('--?config=', word):
            argv[i] = match[0] + _path_of(word[match.end():])
    return argv


def _path_of(value):
    name, colon, argument = value.partition(':')
    configs = shipped()
    if not os.path.isfile(name):
        if name.removesuffix('.py') not in configs:
            stem = pathlib.PurePath(name).stem
            near = difflib.get_close_matches(stem, configs, n=1)
            raise ValueError(
                f'there is no config file {name}'
                + (f"; did you mean the shipped config '{near[0]}'?" if near else
                   f'; shipped with the package are {", ".join(configs)}'))
        name = str(configs[name.removesuffix('.py')])
    return name + colon + argument


def unknown_field(error: Exception) -> str | None:
    """One sentence of what ml_collections says about a field that a config lacks.

    Args:
      error: raised while a config was read or overridden.

    Returns:
      None if it is about something else.
    """
    text = str(error)
    near = re.search(r'Did you mean "(\w+)"', text)
    # The field alone, in quotes, or in a sentence that goes on to list all others.
    said = re.search(r'Key "(\w+)" does not exist', text) or re.fullmatch(
        r'\W*(\w+)\W*', text.split('Did you mean')[0].replace('\\n', ''))
    if not isinstance(error, (AttributeError, KeyError)) or not said:
        return None
    return f"the config has no field '{said[1]}'" + (
        f"; did you mean '{near[1]}'?" if near else '; configs/default.py has them all')
