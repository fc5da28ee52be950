"""Saved generators on a model hub: 'hf://owner/name', with huggingface_hub."""

import os
import re
from typing import NamedTuple

from migan_jax.weights import bundles
from migan_jax.weights import fetching

PREFIX = 'hf://'


class HubError(ValueError):
    """A model on a hub can't be read or written; says why and what to do."""


class Address(NamedTuple):
    """owner/name and, where given, branch, tag or commit."""
    repository: str
    revision: str | None


def is_address(text: str) -> bool:
    """Whether it begins with hf://."""
    return text.startswith(PREFIX)


def parse(text: str) -> Address:
    """'hf://owner/name[@revision]' as its parts.

    Raises:
      HubError: it is none.
    """
    match = re.fullmatch(r'hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?', text)
    if not match:
        raise HubError(f'{text}: expected hf://owner/name or hf://owner/name@revision.')
    return Address(match[1], match[2])


def load(text: str, *, endpoint: str | None = None) -> bundles.Bundle:
    """The generator of an address; what was fetched before is not fetched again.

    Args:
      text: 'hf://owner/name[@revision]', where `bundles.save_bundle`'s files lie.
      endpoint: address of the hub; $HF_ENDPOINT or huggingface.co by default.

    Returns:
      `bundles.Bundle`.

    Raises:
      HubError: no such repository, nothing answers and no copy is here, or the package
        huggingface_hub is missing.
      bundles.BundleError: the files there are no saved generator.
    """
    address = parse(text)
    hub = _package()
    # Beside the other files that are kept, unless the hub's own variable says where.
    cache = None if 'HF_HOME' in os.environ or 'HF_HUB_CACHE' in os.environ else (
        os.path.join(fetching.cache_folder(), 'hub'))
    try:
        # Nothing else of the repository: it may hold anything.
        folder = hub.snapshot_download(
            address.repository, revision=address.revision, endpoint=endpoint,
            cache_dir=cache,
            allow_patterns=[bundles.WEIGHTS, bundles.CONFIG, bundles.CARD])
    except Exception as error:
        raise _failure(text, error, hub) from error
    if not bundles.is_bundle(folder):
        raise HubError(f'{text} holds no {bundles.WEIGHTS}: expected what '
                       'model.save() and tools/push.py write.')
    return bundles.load_bundle(folder)


def push(folder: str, text: str, *, private: bool = False, endpoint: str | None = None,
         token: str | None = None) -> str:
    """Uploads a folder of `bundles.save_bundle`; it is read, and so checked, first.

    Args:
      folder: with the files.
      text: 'hf://owner/name[@branch]', made if it is not there.
      private: make a new repository private.
      endpoint: as in `load`.
      token: of the hub; what `hf auth login` stored by default.

    Returns:
      The address of the commit, or of the repository.

    Raises:
      HubError: refused, or nothing answers.
      bundles.BundleError: the folder holds no saved generator.
    """
    address = parse(text)
    bundles.load_bundle(folder)
    hub = _package()
    api = hub.HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(address.repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=address.repository, folder_path=folder, revision=address.revision,
            commit_message='Upload a migan_jax generator',
            allow_patterns=[bundles.WEIGHTS, bundles.CONFIG, bundles.CARD])
    except Exception as error:
        raise _failure(text, error, hub) from error
    return str(getattr(commit, 'commit_url', '') or address.repository)


def _package():
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ModuleNotFoundError as error:
        raise HubError(f'{PREFIX} addresses need the package {error.name}: '
                       "pip install -e '.[hub]'.") from error
    return huggingface_hub


def _failure(text, error, hub):
    """`HubError` for what huggingface_hub raises."""
    kinds = hub.errors
    reason = ' '.join(str(error).split())[:160]
    if isinstance(error, kinds.LocalEntryNotFoundError):
        return HubError(
            f'{text} is not here and the hub does not answer: put the three files of '
            'the repository into a folder and name that instead, or try again where '
            'there is a connection.')
    if isinstance(error, kinds.RevisionNotFoundError):
        return HubError(f'{text}: the repository has no such revision.')
    if isinstance(error, kinds.RepositoryNotFoundError):
        return HubError(f'{text}: no such repository, or one that needs a login: '
                        'hf auth login.')
    return HubError(f'{text}: {type(error).__name__}: {reason}')
