"""What is said of storage that can't be used: one sentence, within half a minute."""

import socket
import subprocess
import sys
import threading

import pytest

import bucket as bucket_lib
from migan_jax import checkpoint as checkpoint_lib
from migan_jax import storage


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """An emulator that this process finds."""
    with bucket_lib.Emulator(tmp_path) as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        yield emulator


def of_objects(bucket):
    """The requests for objects; newer clients ask for the bucket besides."""
    return [r for r in bucket.requests if r.permission.startswith('storage.objects')]


def test_the_emulator_sends_no_body_where_there_is_none(bucket):
    """A client would take one for the head of its next answer."""
    made = bucket.put('a', b'bytes')
    head = f'HTTP/1.1\r\nHost: bucket\r\nAuthorization: Bearer {bucket_lib.TOKEN}\r\n'
    path = 'GET /storage/v1/b/bucket/o/a?alt=media'
    host, port = bucket.url.removeprefix('http://').split(':')
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall((
            f'{path}&ifGenerationNotMatch={made.generation} {head}\r\n'
            f'{path} {head}Connection: close\r\n\r\n').encode())
        answers = connection.makefile('rb').read()
    first, _, second = answers.partition(b'\r\n\r\n')
    assert first.startswith(b'HTTP/1.1 304 ') and second.startswith(b'HTTP/1.1 200 ')
    assert second.endswith(b'\r\n\r\nbytes')


def test_a_bucket_that_works_is_written_read_and_left_as_it_was(bucket):
    storage.check_writable('gs://bucket/runs/a')
    assert [r.permission for r in of_objects(bucket)] == [
        'storage.objects.create', 'storage.objects.get', 'storage.objects.delete']
    assert all(r.name.startswith('runs/a/.') for r in of_objects(bucket))
    assert bucket.names() == []


def test_reading_takes_one_listing(bucket):
    storage.check_readable('gs://bucket/runs/a')
    assert [r.permission for r in of_objects(bucket)] == ['storage.objects.list']


@pytest.mark.parametrize('check', [storage.check_writable, storage.check_readable])
def test_a_bucket_that_does_not_exist_is_named_after_one_request(bucket, check):
    with pytest.raises(storage.StorageError, match='bucket elsewhere does not exist'):
        check('gs://elsewhere/runs')
    assert len(of_objects(bucket)) == 1


@pytest.mark.parametrize('permission', [
    'storage.objects.create', 'storage.objects.get', 'storage.objects.delete'])
def test_what_an_account_may_not_do_is_named(bucket, permission):
    refuse = lambda request: 403 if request.permission == permission else None
    with bucket_lib.refusing(bucket, refuse), pytest.raises(
            storage.StorageError, match=rf'may not do that: .*{permission}.*objectUser'):
        storage.check_writable('gs://bucket/runs')


def test_no_credentials_are_one_sentence(bucket, monkeypatch, tmp_path):
    # As on a machine without an account: the client looks for one.
    for name in ('STORAGE_EMULATOR_HOST', 'GOOGLE_AUTH_TOKEN_FOR_TESTING',
                 'GOOGLE_APPLICATION_CREDENTIALS'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('CLOUDSDK_CONFIG', str(tmp_path / 'none'))
    with pytest.raises(storage.StorageError, match='no credentials .*service account'):
        storage.check_writable('gs://bucket/runs')
    assert bucket.requests == []


def test_a_bucket_that_is_always_unavailable_is_given_up(bucket, monkeypatch):
    monkeypatch.setattr(storage, '_REPEATS_S', 1)
    with bucket_lib.refusing(bucket, lambda request: 503), pytest.raises(
            storage.StorageError, match='no usable answer from Cloud Storage'):
        storage.check_writable('gs://bucket/runs')
    assert 1 <= len(of_objects(bucket)) < 10


def test_unavailable_twice_is_repeated(bucket):
    refuse = lambda request: 503 if len(of_objects(bucket)) <= 2 else None
    with bucket_lib.refusing(bucket, refuse):
        storage.check_readable('gs://bucket/runs')
    assert [r.status for r in of_objects(bucket)] == [503, 503, 200]


def test_silence_is_given_up(monkeypatch):
    silent = threading.Event()
    monkeypatch.setattr(storage, 'ANSWER_S', 0.1)
    monkeypatch.setattr(storage, '_try_bucket', lambda *_, **__: silent.wait())
    with pytest.raises(storage.StorageError, match='has not answered within 0.1 s'):
        storage.check_writable('gs://bucket/runs')
    silent.set()


@pytest.mark.parametrize('missing', [
    ['google.cloud', 'google.cloud.storage'], ['tensorflow']])
def test_without_a_package_the_extra_is_named(monkeypatch, missing):
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(storage.StorageError,
                       match=r"google-cloud-storage: pip install -e '\.\[gcs\]'"):
        storage.check_readable('gs://bucket/runs')
    with pytest.raises(storage.StorageError, match='google-cloud-storage'):
        checkpoint_lib.load_config('gs://bucket/runs')


def test_a_disk_is_checked_without_the_package(tmp_path):
    # The import of the client takes a second that only buckets need.
    code = ('import sys; from migan_jax import storage; '
            f'storage.check_writable({str(tmp_path / "run")!r}); '
            'sys.exit("google.cloud.storage" in sys.modules)')
    subprocess.run([sys.executable, '-c', code], check=True)
    assert list((tmp_path / 'run').iterdir()) == []


def test_a_file_in_the_folders_place_is_named(tmp_path):
    (tmp_path / 'run').write_bytes(b'a file')
    with pytest.raises(storage.StorageError, match='run: cannot write, read and delete'):
        storage.check_writable(tmp_path / 'run')
