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
        raise missing(extra, purpose, error.name) from error


def missing(extra: str, purpose: str, package: str) -> MissingExtra:
    """The error for a package that is not installed; arguments as of `needs`."""
    return MissingExtra(
        f'{purpose} needs the package {package}, which is not installed: '
        f"pip install 'migan_jax[{extra}]' (in a clone: pip install -e '.[{extra}]').",
        name=package)
