"""Packages that only some users need, and the sentence where one is missing."""

from collections.abc import Iterator
import contextlib


class MissingExtra(ImportError):
    """A package that is not installed; the message names the extra that brings it."""


@contextlib.contextmanager
def needs(extra: str, purpose: str) -> Iterator[None]:
    """Around imports: says which extra brings a package that is not found.

    Args:
      extra: of setup.cfg.
      purpose: what needs the package, the beginning of a sentence.

    Raises:
      MissingExtra: an import in the body found no such package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith('migan_jax'):
            raise
        raise MissingExtra(
            f'{purpose} needs the package {error.name}, which is not installed: '
            f"pip install 'migan_jax[{extra}]' (in a clone: pip install -e "
            f"'.[{extra}]').", name=error.name) from error
