"""Published generators by name: fetched, converted and kept, once."""

import importlib.util
import logging
import os
import pathlib
import shutil
from typing import Any
import uuid

from migan_jax.weights import bundles
from migan_jax.weights import fetching
from migan_jax.weights import importing
from migan_jax.weights.table import File
from migan_jax.weights.table import Model
from migan_jax.weights.table import MODELS

# Below the cache folder.  The number changes when older copies are to be made anew.
CONVERTED = 'converted-1'


def is_name(text: str) -> bool:
    """Whether a published generator has this name."""
    return text in MODELS


def load(name: str, folder: str = '', **options: Any) -> bundles.Bundle:
    """A published generator; the first time it is fetched and converted.

    Args:
      name: of `table.MODELS`.
      folder: the cache folder; `fetching.cache_folder()` if empty.
      **options: of `fetching.fetch`.

    Returns:
      `bundles.Bundle`.

    Raises:
      fetching.FetchError: it is not here and can't be fetched; says which file to put
        where.
      ValueError: a file holds something else than this model.
    """
    if name not in MODELS:
        raise fetching.FetchError(
            f'{name!r} is no published model; there are {", ".join(MODELS)}.')
    model, folder = MODELS[name], folder or fetching.cache_folder()
    kept = pathlib.Path(folder, CONVERTED, name)
    if bundles.is_bundle(kept):
        try:
            return bundles.load_bundle(kept)
        except bundles.BundleError as error:
            raise bundles.BundleError(
                f'{error} Remove {kept}, and it is made anew.') from error
    return _converted(model, get(model, folder, **options), kept)


def get(model: Model, folder: str = '', **options: Any) -> tuple[File, str]:
    """One of a generator's files, and its path: what is here, else fetched.

    Args:
      model: of the table.
      folder, **options: of `fetching.fetch`.

    Raises:
      fetching.FetchError: none is here and none can be fetched.
    """
    folder = folder or fetching.cache_folder()
    readable = [file for file in model.files if not _missing_package(file)]
    if not readable:
        packages = sorted({_missing_package(file) for file in model.files})
        raise fetching.FetchError(
            f'reading {model.name} needs the package {" or ".join(packages)}, which is '
            "not installed: pip install -e '.[export]'.")
    for file in readable:
        if (path := fetching.locate(file, folder)) is not None:
            return file, path
    errors = []
    for file in readable:
        try:
            return file, fetching.fetch(file, folder, **options)
        except (fetching.WrongFile, fetching.Unconfirmed):
            raise
        except fetching.FetchError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    others = ', '.join(file.name for file in readable[1:])
    raise fetching.FetchError(f'{errors[0]} As good: {others} from the addresses of '
                              'python tools/fetch.py --list.') from errors[-1]


def state_of(model: Model, folder: str = '') -> str:
    """Whether a generator is here, in a word: 'ready', 'fetched' or 'not here'.

    Nothing is read but names.
    """
    folder = folder or fetching.cache_folder()
    if bundles.is_bundle(os.path.join(folder, CONVERTED, model.name)):
        return 'ready'
    if any(os.path.isfile(os.path.join(folder, file.name)) for file in model.files):
        return 'fetched'
    return 'not here'


def _missing_package(file):
    """What reading a file needs and is not installed, or ''."""
    package = 'onnx' if file.name.endswith('.onnx') else 'torch'
    return '' if importlib.util.find_spec(package) else package


def _converted(model, got, kept):
    """`Bundle` of a file, stored in the folder `kept` if that is possible."""
    file, path = got
    config, variables, description = importing.convert(path, model.kind)
    if config.model.resolution != model.resolution:
        raise fetching.WrongFile(
            f'{path} holds a model of {config.model.resolution} x '
            f'{config.model.resolution}; {model.name} has {model.resolution}.')
    logging.info('%s: %s', path, description)
    card = bundles.Card(
        name=model.name, data=model.data, licence=model.licence,
        source=f'{file.described}, {file.where}',
        remarks=f'Published by the authors of the paper. {model.note}'.strip())
    # Another process may be making the same one: whoever is first puts it there.
    partial = kept.with_name(f'.{uuid.uuid4().hex}.tmp')
    try:
        bundles.save_bundle(partial, config, variables, card)
        if not bundles.is_bundle(kept):
            os.replace(partial, kept)
    except OSError as error:
        if not bundles.is_bundle(kept):
            logging.warning('%s is read anew each time, as %s can not be kept (%s)',
                            file.name, kept, error.strerror or error)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return bundles.Bundle(config, variables, card, half=False)
