"""Paths on disks and on Cloud Storage; files that are whole or not there."""

from collections.abc import Iterable
import importlib.util
import os
import threading
import uuid

from etils import epath

# What is asked of storage before a run or a tool relies on it is answered in this time,
# or counts as not answered: the libraries below repeat themselves for minutes.
ANSWER_S = 25
# Within that time: seconds for one request, and for its repetitions.
_REQUEST_S, _REPEATS_S = 8, 18


# What storage says through TensorStore, which raises ValueError for everything, and
# through TensorFlow.
_TROUBLE = ('RESOURCE_EXHAUSTED', 'UNAVAILABLE', 'DEADLINE_EXCEEDED', 'os_error_code',
            'PERMISSION_DENIED', 'UNAUTHENTICATED', 'ABORTED', 'HTTP response code',
            'CURL error', 'libcurl code')
# Classes of the same, which are not imported here, nor derived from OSError.
_TROUBLE_FROM = ('tensorflow.python.framework.errors_impl', 'google.api_core.exceptions',
                 'google.auth.exceptions', 'requests.exceptions')


class StorageError(ValueError):
    """A disk or a bucket can't be used; the message says which, why and what to do."""


def is_trouble(error: BaseException) -> bool:
    """Whether an error is storage's, which may pass, and not one of the program."""
    return (isinstance(error, (OSError, StorageError))
            or type(error).__module__ in _TROUBLE_FROM
            or any(sign in str(error) for sign in _TROUBLE))


def path_of(directory: str | os.PathLike, *names: str) -> epath.Path:
    """A path below a directory, local or on Cloud Storage (gs://)."""
    if '://' not in os.fspath(directory):
        directory = os.path.abspath(directory)
    return epath.Path(directory).joinpath(*names)


def is_bucket(path: str | os.PathLike) -> bool:
    """Whether a path is on Cloud Storage."""
    return os.fspath(path).startswith('gs://')


def only_on_disk(what: str, path: object) -> str:
    """What is wrong with a path that can't be on Cloud Storage, one sentence; else ''.

    Args:
      what: the flag, field or argument that it was given by.
      path: anything; what is no text is no such path.
    """
    if not isinstance(path, (str, os.PathLike)) or not is_bucket(path):
        return ''
    return (f'{what}={shown(path)}: expected a path on a disk; on Cloud Storage there may be '
            'workdirs, checkpoints and TFDS data only. Copy the rest with `gcloud storage '
            'cp -r`.')


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Writes bytes so that `path` is never seen half-written."""
    path = path_of(path)
    if is_bucket(path):
        # An object is there once all of it is.
        path.write_bytes(data)
        return
    # Not from the file's name, which may be as long as names can be, nor from a process's
    # number, which another host on the same storage may have too.
    temporary = path.with_name(f'.{uuid.uuid4().hex}.tmp')
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(directory: str | os.PathLike) -> None:
    """Writes, reads and deletes a small file in a directory, which is made.

    Raises:
      StorageError: one of these is not possible, or not within half a minute.
    """
    if is_bucket(directory):
        _within(ANSWER_S, directory, lambda: _try_bucket(directory, write=True))
        return
    probe = path_of(directory, f'.{uuid.uuid4().hex}.probe')
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b'migan_jax')
        probe.read_bytes()
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f'{shown(directory)}: cannot write, read and delete a file there '
            f'({error.strerror or error}); results would be lost. Make room, get the '
            'right to write there, or name another folder.') from error


def check_readable(directory: str | os.PathLike) -> None:
    """Finds out whether a bucket answers; on a disk nothing needs to be known before.

    Raises:
      StorageError: it does not, or not within half a minute.
    """
    if is_bucket(directory):
        _within(ANSWER_S, directory, lambda: _try_bucket(directory, write=False))


def _within(seconds, path, function):
    """Calls a function in a thread that is left behind when it takes too long."""
    failures = []

    def call():
        try:
            function()
        except Exception as error:   # raised again below, in the caller's thread
            failures.append(error)
    # One that has not answered must not keep the program from ending.
    thread = threading.Thread(target=call, daemon=True, name='storage check')
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise StorageError(
            f'{shown(path)}: Cloud Storage has not answered within {seconds} s; is the '
            'network there, and may this machine reach it?')
    if failures:
        raise failures[0]


def _try_bucket(directory, write):
    """A listing, or a write, a read and a delete, by Google's own client.

    TensorFlow and TensorStore, which do a run's work, say of some failures nothing at
    all, and of none whose fault it is.
    """
    try:
        # TensorFlow reads and writes the files there.
        if importlib.util.find_spec('tensorflow') is None:
            raise ImportError
        from google.cloud import storage
        from google.cloud.storage.retry import DEFAULT_RETRY
    # Not ModuleNotFoundError only: other packages bring google.cloud without storage.
    except ImportError as error:
        raise StorageError(
            f'{shown(directory)} is on Cloud Storage, which needs the packages tensorflow '
            "and google-cloud-storage: pip install -e '.[gcs]' (the extras train and tpu "
            'bring them too).') from error
    from google.api_core import exceptions
    from google.auth import exceptions as auth_exceptions

    bucket_name, _, prefix = os.fspath(directory)[len('gs://'):].partition('/')
    retry = DEFAULT_RETRY.with_timeout(_REPEATS_S)
    options = {'timeout': _REQUEST_S, 'retry': retry}
    try:
        client = storage.Client(project=os.environ.get('GOOGLE_CLOUD_PROJECT', 'none'))
        bucket = client.bucket(bucket_name)
        if not write:
            next(iter(client.list_blobs(bucket, prefix=prefix, max_results=1, **options)),
                 None)
            return
        blob = bucket.blob('/'.join(filter(None, (
            prefix.strip('/'), f'.{uuid.uuid4().hex}.probe'))))
        blob.upload_from_string(b'migan_jax', **options)
        blob.download_as_bytes(**options)
        blob.delete(**options)
    except exceptions.NotFound as error:
        why = (f'the bucket {bucket_name} does not exist; make it, or name another '
               '(docs/tpu_pod.md)')
        raise _bucket_error(directory, why) from error
    except exceptions.Forbidden as error:
        needed = 'roles/storage.objectUser' if write else 'roles/storage.objectViewer'
        why = (f'this account may not do that: {_reason(error)}. Give it {needed} and '
               'roles/storage.bucketViewer on the bucket (docs/tpu_pod.md)')
        raise _bucket_error(directory, why) from error
    except (exceptions.Unauthorized, auth_exceptions.GoogleAuthError) as error:
        why = ('this machine has no credentials for it: give it a service account, or '
               f'run `gcloud auth application-default login` ({_reason(error)})')
        raise _bucket_error(directory, why) from error
    # What else the client, requests below it and urllib3 below that can raise is theirs
    # to say, and means the same here: no answer that could be used.
    except Exception as error:
        why = f'no usable answer from Cloud Storage ({_reason(error)})'
        raise _bucket_error(directory, why) from error


def _bucket_error(directory, why):
    return StorageError(f'{shown(directory)}: {why}.')


def _reason(error):
    """The first sentence of an error, without the URLs of its requests."""
    text = getattr(error, 'message', None) or str(error) or type(error).__name__
    text = text.split('): ')[-1] if 'http' in text and '): ' in text else text
    return ' '.join(text.split())[:200].rstrip('. ')


def shown(name: str | os.PathLike) -> str:
    """A file's name or any text for a message: one printable line, else escaped."""
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in os.fspath(name))


def listed(names: Iterable[object], limit: int = 12) -> str:
    """The first few names in one printable line."""
    names = list(names)
    more = [f'and {len(names) - limit} more'] if len(names) > limit else []
    return ', '.join([shown(str(name)) for name in names[:limit]] + more)
