"""Fetches published files into the cache folder, once, and lets only right ones pass.

pooch downloads, tries again, and moves a file to its name when it is whole.  Before
that its size and hash are compared with the table; a file that differs keeps lying
beside it under another name.  Where no hash is published, a person has to confirm the
one that the first download has; it is stored and compared from then on.
"""

import errno
import hashlib
import importlib.util
import os
import shutil
import urllib.parse

from migan_jax.meter import Meter
from migan_jax import quiet
from migan_jax import storage
from migan_jax.weights.table import File

# The environment variable that names the cache folder.
CACHE_VARIABLE = 'MIGAN_JAX_CACHE'

# Seconds without a byte after which a connection has failed, and tries after that.
TIMEOUT, RETRIES = 30, 2

_CHUNK = 2**18
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FetchError(ValueError):
    """A file can't be had; the message says which one, from where, and what to do."""


class WrongFile(FetchError):
    """A file is not the published one; it lies beside its place under another name."""


class Unconfirmed(FetchError):
    """Nobody has published the file's hash; the message says the one it has.

    Attributes:
      digest: sha256, hex.
    """

    def __init__(self, message: str, digest: str) -> None:
        super().__init__(message)
        self.digest = digest


def cache_folder() -> str:
    """Where weight files are kept: $MIGAN_JAX_CACHE or ~/.cache/migan_jax."""
    return os.environ.get(CACHE_VARIABLE) or os.path.join(
        os.path.expanduser('~'), '.cache', 'migan_jax')


def locate(file: File, folder: str = '') -> str | None:
    """The path of a file that is here, its hash checked; None if it is not here.

    Args:
      file: of the table.
      folder: where it lies; `cache_folder()` if empty.

    Raises:
      WrongFile: another file lies there; it has been moved aside.
      Unconfirmed: its hash is not published and nobody has confirmed it.
    """
    folder = folder or cache_folder()
    for place in (folder, *package_folders(file.package)):
        path = os.path.join(place, file.name)
        if os.path.isfile(path):
            _check(file, path, folder)
            return path
    return None


def fetch(file: File, folder: str = '', *, timeout: float = TIMEOUT,
          retries: int = RETRIES) -> str:
    """The path of a file that is fetched first, unless it is here.

    Args:
      file: of the table.
      folder: to put it into; `cache_folder()` if empty.
      timeout: seconds without a byte after which a connection has failed.
      retries: how often a failed download is begun again.

    Returns:
      Path of the file in the folder, its hash checked.

    Raises:
      FetchError: there is no address, nothing answers, the download broke off, the
        folder can't be written to or is full.
      WrongFile, Unconfirmed: as `locate`.
    """
    folder = folder or cache_folder()
    if (path := locate(file, folder)) is not None:
        return path
    if not (file.url or file.drive):
        raise FetchError(f'{file.described} comes with {file.where}: install it.')
    # Imported here: whoever has the file already need not wait for it.
    import pooch
    import requests

    download = (_Http(file, folder, timeout) if file.url else _Drive(file, folder))
    shelf = pooch.create(
        folder, base_url='', registry={file.name: None}, retry_if_failed=retries,
        urls={file.name: file.url or file.where})
    try:
        with quiet.below_errors(pooch.get_logger()):
            return shelf.fetch(file.name, downloader=download)
    except _Refused as refused:
        raise refused.error from refused
    except requests.exceptions.RequestException as error:
        raise FetchError(instead(file, folder, reason_of(error))) from error
    except OSError as error:
        if error.errno in _FULL:
            raise FetchError(
                f'{folder}: no room for {file.described} ({error.strerror}); make some '
                f'or name another folder in {CACHE_VARIABLE}.') from error
        raise FetchError(
            f'{folder} can not be written to ({error.strerror or error}): make it '
            f'writable, or name another folder in {CACHE_VARIABLE}.') from error


def confirm(file: File, digest: str, folder: str = '') -> str:
    """Accepts a file without a published hash, by the hash that it has.

    Args:
      file: of the table, without digest.
      digest: sha256 as `Unconfirmed` said it.
      folder: `cache_folder()` if empty.

    Returns:
      Path of the file.

    Raises:
      FetchError: its hash is published, it is not here, or it has another one.
    """
    folder = folder or cache_folder()
    path = os.path.join(folder, file.name)
    waiting = path + '.unconfirmed'
    if file.digest:
        raise FetchError(f'{file.described}: its hash is published; there is nothing '
                         'to confirm.')
    found = waiting if os.path.isfile(waiting) else path
    if not os.path.isfile(found):
        raise FetchError(f'{folder} does not hold {file.name}: fetch it first, or put '
                         'it there.')
    actual = _digest(found, 'sha256')
    if actual != digest.strip().lower():
        raise FetchError(f'{found} has sha256 {actual}, not {digest}: it is another '
                         'file.')
    storage.write_atomically(f'{path}.sha256', f'{actual}\n'.encode())
    if found == waiting:
        os.replace(waiting, path)
    return path


def instead(file: File, folder: str, reason: str) -> str:
    """One sentence: why a file could not be fetched, and which one to put where."""
    return (f'{file.name} could not be fetched ({reason}): download {file.described} '
            f'from {file.where} where there is a connection, and put it into {folder}; '
            f'{CACHE_VARIABLE} names another folder.')


def reason_of(error: Exception) -> str:
    """What went wrong with a connection, in a few words."""
    from requests import exceptions

    response = getattr(error, 'response', None)
    if response is not None:
        host = urllib.parse.urlsplit(response.url).hostname
        return f'{host} answers {response.status_code} {response.reason}'
    request = getattr(error, 'request', None)
    host = urllib.parse.urlsplit(getattr(request, 'url', '') or '').hostname
    at = f'{host} ' if host else ''
    if isinstance(error, exceptions.Timeout):
        return f'{at}does not answer in time'
    if isinstance(error, exceptions.ChunkedEncodingError):
        return 'the download broke off'
    if isinstance(error, exceptions.ConnectionError):
        if 'timed out' in str(error):
            return f'{at}does not answer in time'
        return f'no connection to {host}' if host else 'no connection'
    return ' '.join(str(error).split())[:120]


# --- what pooch calls -----------------------------------------------------------------


class _Refused(Exception):
    """Carries an error past pooch, which tries again after ValueErrors."""

    def __init__(self, error):
        super().__init__(str(error))
        self.error = error


class _Http:
    """Downloads over HTTP for pooch, and compares what came with the table."""

    def __init__(self, file, folder, timeout):
        self._file, self._folder, self._timeout = file, folder, timeout

    def __call__(self, url, output, shelf):
        import pooch
        import requests

        # pooch takes a meter without a total for none, and resets it at the end.
        with Meter(self._file.size or 1, 'B', title=self._file.name,
                   unit_scale=True, delay=0) as progress:
            download = pooch.HTTPDownloader(
                progressbar=progress, chunk_size=_CHUNK, timeout=self._timeout)
            try:
                download(url, output, shelf)
            except requests.exceptions.HTTPError as error:
                # Asking again does not help where something is not, or not allowed.
                if error.response is not None and error.response.status_code < 500:
                    raise _Refused(FetchError(instead(
                        self._file, self._folder, reason_of(error)))) from error
                raise
        _keep_only_right(self._file, output, self._folder)


class _Drive:
    """Downloads from a shared folder of Google Drive, with the package gdown."""

    def __init__(self, file, folder):
        self._file, self._folder = file, folder

    def __call__(self, url, output, shelf):
        del url, shelf
        try:
            import gdown
        except ModuleNotFoundError as error:
            raise _Refused(FetchError(instead(
                self._file, self._folder, 'Google Drive gives it to browsers, or with '
                "pip install -e '.[drive]'"))) from error
        try:
            listed = gdown.download_folder(
                id=self._file.drive, skip_download=True, quiet=True)
            ids = [entry.id for entry in listed
                   if os.path.basename(entry.path) == self._file.name]
            if len(ids) != 1:
                raise LookupError(f'the folder holds {len(ids)} files of that name')
            gdown.download(id=ids[0], output=output, quiet=True)
        # Its own errors, those of the connection, and those of pages that changed.
        except Exception as error:
            reason = f'Google Drive: {" ".join(str(error).split())[:120]}'
            raise _Refused(FetchError(instead(
                self._file, self._folder, reason))) from error
        _keep_only_right(self._file, output, self._folder)


# --- hashes ---------------------------------------------------------------------------


def _digest(path, kind):
    with open(path, 'rb') as f:
        return hashlib.file_digest(f, kind).hexdigest()


def is_right(file: File, path: str) -> tuple[bool, str]:
    """Whether a file has the published size and hash; and the hash that it has."""
    kind, _, digits = file.digest.partition(':')
    actual = _digest(path, kind)
    size = os.path.getsize(path)
    return actual.startswith(digits) and file.size in (None, size), f'{kind} {actual}'


def _wrong(file, path, found, kept):
    return WrongFile(
        f'{path} is not the published file: it has {os.path.getsize(kept):,} bytes, '
        f'{found}; expected {file.described}. It is kept as {kept}.')


def _check(file, path, folder):
    """Compares a file that is here; raises as `locate`."""
    if not file.digest:
        try:
            with open(os.path.join(folder, f'{file.name}.sha256')) as f:
                file = file._replace(digest=f'sha256:{f.read().strip()}')
        except FileNotFoundError:
            raise _unconfirmed(file, path, folder) from None
    right, found = is_right(file, path)
    if right:
        return
    kept = f'{path}.refused-{found.split()[1][:12]}'
    try:
        os.replace(path, kept)
    except OSError:
        kept = path
    raise _wrong(file, path, found, kept)


def _keep_only_right(file, partial, folder):
    """Compares a download; one that differs is kept under another name."""
    path = os.path.join(folder, file.name)
    if not file.digest:
        stored = f'{path}.sha256'
        if not os.path.isfile(stored):
            waiting = f'{path}.unconfirmed'
            shutil.copyfile(partial, waiting)
            raise _Refused(_unconfirmed(file, waiting, folder))
        with open(stored) as f:
            file = file._replace(digest=f'sha256:{f.read().strip()}')
    right, found = is_right(file, partial)
    if not right:
        kept = f'{path}.refused-{found.split()[1][:12]}'
        shutil.copyfile(partial, kept)
        raise _Refused(_wrong(file, f'What {file.where} sent', found, kept))


def _unconfirmed(file, path, folder):
    digest = _digest(path, 'sha256')
    return Unconfirmed(
        f'{path}: nobody has published the hash of {file.name}, and this file has '
        f'sha256 {digest} ({os.path.getsize(path):,} bytes). If you have it from '
        f'{file.where}, say so once: python tools/fetch.py {file.name} '
        f'--confirm={digest}', digest)


def package_folders(package: str) -> list[str]:
    """Where 'PACKAGE/folder/in/it' is, if it is installed; it isn't imported."""
    name, _, inside = package.partition('/')
    spec = importlib.util.find_spec(name) if name else None
    if spec is None or not spec.submodule_search_locations:
        return []
    return [os.path.join(place, inside) for place in spec.submodule_search_locations]
