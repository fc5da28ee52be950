"""Fetching: whole and right, or refused with a sentence; never taken for whole."""

import hashlib
import os
import pathlib
import resource
import subprocess
import sys
import types

import pooch
import pytest

import loopback
from migan_jax.weights import fetching
from migan_jax.weights.table import File

DATA = bytes(range(256)) * 1000
SHA = hashlib.sha256(DATA).hexdigest()
QUICK = {'retries': 0, 'timeout': 5}


@pytest.fixture
def site():
    with loopback.serving() as site:
        yield site


def right(site, **fields):
    return site.file(
        'model.onnx', DATA, digest=f'sha256:{SHA}', size=len(DATA), **fields)


def names(folder):
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def refused(kind, file, folder, **options):
    with pytest.raises(kind) as caught:
        fetching.fetch(file, str(folder), **(QUICK | options))
    assert '\n' not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize('digest', [
    f'sha256:{SHA}', f'md5:{hashlib.md5(DATA).hexdigest()}', f'sha256:{SHA[:8]}'])
def test_fetched_once_and_kept(site, tmp_path, digest):
    file = right(site)._replace(digest=digest)
    folder = tmp_path / 'new' / 'cache'
    path = fetching.fetch(file, str(folder))
    assert pathlib.Path(path).read_bytes() == DATA and names(folder) == ['model.onnx']
    assert fetching.fetch(file, str(folder)) == path
    assert fetching.locate(file, str(folder)) == path
    assert site.asked == ['/model.onnx']


def test_the_folder_is_that_of_the_environment(site, tmp_path, monkeypatch):
    monkeypatch.setenv(fetching.CACHE_VARIABLE, str(tmp_path / 'mine'))
    assert fetching.fetch(right(site)) == str(tmp_path / 'mine' / 'model.onnx')
    monkeypatch.delenv(fetching.CACHE_VARIABLE)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert fetching.cache_folder() == str(tmp_path / '.cache' / 'migan_jax')


def test_a_redirect_is_followed(site, tmp_path):
    file = right(site)
    site.routes['/model.onnx'] = loopback.redirect('/elsewhere')
    site.routes['/elsewhere'] = loopback.whole(DATA)
    assert pathlib.Path(fetching.fetch(file, str(tmp_path))).read_bytes() == DATA


def test_wrong_hash_is_kept_under_another_name(site, tmp_path):
    file = right(site)
    site.routes['/model.onnx'] = loopback.whole(DATA[::-1])
    message = refused(fetching.WrongFile, file, tmp_path, retries=3)
    other = hashlib.sha256(DATA[::-1]).hexdigest()
    assert other in message and SHA in message
    assert names(tmp_path) == [f'model.onnx.refused-{other[:12]}']
    assert (tmp_path / names(tmp_path)[0]).read_bytes() == DATA[::-1]
    # Asking again would bring the same file.
    assert site.asked == ['/model.onnx']


def test_a_wrong_file_put_there_by_hand_is_moved_aside(tmp_path, site):
    (tmp_path / 'model.onnx').write_bytes(b'<html>')
    with pytest.raises(fetching.WrongFile, match='is kept as'):
        fetching.locate(right(site), str(tmp_path))
    assert len(names(tmp_path)) == 1 and 'refused' in names(tmp_path)[0]
    assert fetching.fetch(right(site), str(tmp_path))
    assert 'model.onnx' in names(tmp_path)


def test_truncated_body_leaves_nothing_and_is_tried_again(site, tmp_path, monkeypatch):
    monkeypatch.setattr(pooch.core.time, 'sleep', lambda seconds: None)
    file = right(site)
    site.routes['/model.onnx'] = loopback.truncated(DATA)
    assert 'broke off' in refused(fetching.FetchError, file, tmp_path)
    assert names(tmp_path) == []
    site.routes['/model.onnx'] = loopback.in_turn(
        loopback.truncated(DATA), loopback.status(503), loopback.whole(DATA))
    path = fetching.fetch(file, str(tmp_path), retries=2)
    assert pathlib.Path(path).read_bytes() == DATA
    assert len(site.asked) == 4


def test_404_is_said_at_once(site, tmp_path):
    file = right(site)
    site.routes.clear()
    message = refused(fetching.FetchError, file, tmp_path, retries=3)
    assert '127.0.0.1 answers 404' in message
    for part in (file.url, str(tmp_path), f'{len(DATA):,} bytes', SHA):
        assert part in message
    assert names(tmp_path) == [] and len(site.asked) == 1


def test_a_server_that_stalls(site, tmp_path):
    file = right(site)
    site.routes['/model.onnx'] = loopback.stalling(DATA, site)
    assert 'does not answer in time' in refused(
        fetching.FetchError, file, tmp_path, timeout=0.3)
    assert names(tmp_path) == []


def test_no_network_names_the_file_and_the_place(tmp_path):
    with loopback.serving() as site:
        file = right(site)
    message = refused(fetching.FetchError, file, tmp_path / 'cache')
    assert 'no connection to 127.0.0.1' in message
    assert f'put it into {tmp_path / "cache"}' in message
    assert fetching.CACHE_VARIABLE in message


_FETCH = '''
import sys
from migan_jax.weights import fetching
from migan_jax.weights.table import File
file = File('model.onnx', sys.argv[2], url=sys.argv[1])
try:
    print(fetching.fetch(file, sys.argv[3], retries=0))
except fetching.FetchError as error:
    sys.exit(str(error))
'''


def start(file, folder, **options):
    return subprocess.Popen(
        [sys.executable, '-c', _FETCH, file.url, file.digest, str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_two_processes_at_once(site, tmp_path):
    file = right(site)
    both = [start(file, tmp_path) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.strip() == str(tmp_path / 'model.onnx')
    assert names(tmp_path) == ['model.onnx']
    assert (tmp_path / 'model.onnx').read_bytes() == DATA


def test_full_disk(site, tmp_path):
    """No file of the process may grow beyond a part of the download."""
    limit = len(DATA) // 2
    process = start(right(site), tmp_path, preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_FSIZE, (limit, limit)))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert 'no room for model.onnx' in err and fetching.CACHE_VARIABLE in err
    assert names(tmp_path) == []


def test_read_only_cache(site):
    file = right(site)
    with loopback.read_only_folder({}) as folder:
        message = refused(fetching.FetchError, file, folder)
        assert f'{folder} can not be written to' in message
    # What an administrator put there is used.
    with loopback.read_only_folder({'model.onnx': DATA}) as folder:
        assert fetching.fetch(file, folder) == os.path.join(folder, 'model.onnx')


def test_a_hash_that_nobody_published_is_confirmed_once(site, tmp_path):
    file = right(site)._replace(digest='', size=None)
    with pytest.raises(fetching.Unconfirmed) as caught:
        fetching.fetch(file, str(tmp_path), **QUICK)
    assert caught.value.digest == SHA and f'--confirm={SHA}' in str(caught.value)
    assert names(tmp_path) == ['model.onnx.unconfirmed']
    with pytest.raises(fetching.FetchError, match='it is another file'):
        fetching.confirm(file, '0' * 64, str(tmp_path))
    path = fetching.confirm(file, SHA, str(tmp_path))
    assert fetching.fetch(file, str(tmp_path), **QUICK) == path
    assert names(tmp_path) == ['model.onnx', 'model.onnx.sha256']
    # From now on the hash decides.
    pathlib.Path(path).write_bytes(b'other')
    with pytest.raises(fetching.WrongFile):
        fetching.locate(file, str(tmp_path))


def test_a_file_put_there_by_hand_without_a_hash(tmp_path):
    file = File('model.pt', drive='folder')
    (tmp_path / 'model.pt').write_bytes(DATA)
    with pytest.raises(fetching.Unconfirmed, match=SHA):
        fetching.locate(file, str(tmp_path))
    fetching.confirm(file, SHA, str(tmp_path))
    assert fetching.locate(file, str(tmp_path)) == str(tmp_path / 'model.pt')


def test_nothing_to_confirm(site, tmp_path):
    with pytest.raises(fetching.FetchError, match='its hash is published'):
        fetching.confirm(right(site), SHA, str(tmp_path))
    with pytest.raises(fetching.FetchError, match='does not hold'):
        fetching.confirm(right(site)._replace(digest=''), SHA, str(tmp_path))


DRIVE = File('model.pt', f'sha256:{SHA}', drive='folder')


def test_google_drive_without_its_package_says_what_to_click(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gdown', None)
    message = refused(fetching.FetchError, DRIVE, tmp_path)
    assert 'https://drive.google.com/drive/folders/folder' in message
    assert "pip install -e '.[drive]'" in message and str(tmp_path) in message


def test_google_drive_by_its_package(tmp_path, monkeypatch):
    """The package's two functions as it documents them; Drive was never reached."""
    def download_folder(*, id, skip_download, quiet):
        assert (id, skip_download, quiet) == ('folder', True, True)
        return [types.SimpleNamespace(id='1', path='a/other.pt'),
                types.SimpleNamespace(id='2', path='a/model.pt')]

    def download(*, id, output, quiet):
        assert id == '2' and quiet
        pathlib.Path(output).write_bytes(DATA)
    package = types.SimpleNamespace(download_folder=download_folder, download=download)
    monkeypatch.setitem(sys.modules, 'gdown', package)
    assert pathlib.Path(fetching.fetch(DRIVE, str(tmp_path))).read_bytes() == DATA
    package.download_folder = lambda **_: []
    os.remove(tmp_path / 'model.pt')
    assert 'holds 0 files of that name' in refused(fetching.FetchError, DRIVE, tmp_path)


def test_a_file_of_a_package(tmp_path, monkeypatch):
    file = File('data.bin', f'sha256:{SHA}', package='carrier/inside')
    assert fetching.locate(file, str(tmp_path / 'cache')) is None
    assert 'comes with the Python package carrier' in refused(
        fetching.FetchError, file, tmp_path / 'cache')
    (tmp_path / 'carrier' / 'inside').mkdir(parents=True)
    (tmp_path / 'carrier' / '__init__.py').write_text('raise SystemExit')
    (tmp_path / 'carrier' / 'inside' / 'data.bin').write_bytes(DATA)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert fetching.locate(file, str(tmp_path / 'cache')).startswith(str(tmp_path))
