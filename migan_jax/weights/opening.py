"""What stands for a generator besides checkpoints: names, addresses, saved folders."""

import os

from migan_jax.weights import bundles
from migan_jax.weights import demo
from migan_jax.weights import hub
from migan_jax.weights import named


def open_bundle(source: str | os.PathLike) -> bundles.Bundle | None:
    """The generator that a source stands for; None if it is none of these.

    Args:
      source: the name of a published generator (`table.MODELS`), which is fetched the
        first time; 'demo', the one that comes with the clone; 'hf://owner/name
        [@revision]'; or a folder of `bundles.save_bundle`.
        A file or folder of a published generator's name goes before the name.

    Raises:
      ValueError: it is one of these and can't be had; says why and what to do.
    """
    text = os.fspath(source)
    if hub.is_address(text):
        return hub.load(text)
    if text == demo.NAME and not os.path.exists(text):
        return bundles.load_bundle(demo.folder())
    if named.is_name(text) and not os.path.exists(text):
        return named.load(text)
    return bundles.load_bundle(text) if bundles.is_bundle(text) else None
