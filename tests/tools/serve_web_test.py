"""tools/serve_web.py without a browser: what is served, what not, and the runtime."""

import base64
import hashlib
import http.client
import io
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tarfile
import types

import numpy as np
import onnxruntime
import pytest

import loopback
from migan_jax.weights import table
import serve_web

ROOT = pathlib.Path(__file__).parents[2]
MODEL_BYTES = b'model ' * 1000


def running(site, **options):
    """A server on a free port, in a thread."""
    return loopback.in_thread(serve_web.Server(site, port=0, **options))


def ask(server, address, method='GET', **headers):
    """(status, headers, body); the address goes out as it stands."""
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    try:
        connection.putrequest(
            method, address, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace('_', '-'), value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A copy of the page with a runtime of a few bytes, a model, and a secret."""
    folder = tmp_path_factory.mktemp('site')
    web = folder / 'web'
    shutil.copytree(ROOT / 'web', web, ignore=shutil.ignore_patterns('ort'))
    (web / 'ort').mkdir()
    for name in serve_web.RUNTIME_FILES:
        (web / 'ort' / name).write_bytes(b'runtime')
    (folder / 'my model.onnx').write_bytes(MODEL_BYTES)
    (folder / 'secret.txt').write_text('secret')
    (folder / 'other.onnx').write_text('secret')
    return folder


@pytest.fixture(scope='module')
def server(folder):
    site = serve_web.Site([folder / 'my model.onnx'], folder / 'web')
    with running(site) as server:
        yield server


@pytest.mark.parametrize('address, kind', [
    ('/', 'text/html; charset=utf-8'),
    ('/index.html', 'text/html; charset=utf-8'),
    ('/?backend=wasm', 'text/html; charset=utf-8'),
    ('/style.css', 'text/css; charset=utf-8'),
    ('/app.js', 'text/javascript; charset=utf-8'),
    ('/sw.js', 'text/javascript; charset=utf-8'),
    ('/icon.svg', 'image/svg+xml'),
    ('/models.json', 'application/json'),
    ('/models/my%20model.onnx', 'application/octet-stream'),
    ('/ort/ort.wasm.bundle.min.mjs', 'text/javascript; charset=utf-8'),
    ('/ort/ort-wasm-simd-threaded.wasm', 'application/wasm'),
])
def test_types_and_isolation(server, address, kind):
    status, headers, body = ask(server, address)
    assert status == 200 and headers['Content-Type'] == kind
    assert int(headers['Content-Length']) == len(body) > 0
    assert headers['Cross-Origin-Opener-Policy'] == 'same-origin'
    assert headers['Cross-Origin-Embedder-Policy'] == 'require-corp'
    assert headers['X-Content-Type-Options'] == 'nosniff'
    assert "connect-src 'self';" in headers['Content-Security-Policy']
    assert '{' not in headers['Content-Security-Policy']
    status, head, nothing = ask(server, address, 'HEAD')
    assert (status, head['Content-Length'], nothing) == (200, str(len(body)), b'')


def test_models(server):
    assert json.loads(ask(server, '/models.json')[2]) == ['my model.onnx']
    assert ask(server, '/models/my%20model.onnx')[2] == MODEL_BYTES


def test_the_page_names_only_files_that_are_served(folder):
    site = serve_web.Site([], folder / 'web')
    page = ''.join((folder / 'web' / name).read_text()
                   for name in ('index.html', 'app.js', 'sw.js', 'style.css'))
    named = set(re.findall(r'(?:src|href)="([^"]+)"|\'\.?/?([\w./-]+\.m?js)\'', page))
    named = {name for pair in named for name in pair if name}
    assert {'app.js', 'style.css', 'sw.js', 'ort/ort.wasm.bundle.min.mjs'} <= named
    assert [name for name in named if site.find(f'/{name}') is None] == []


def test_unchanged_files_are_not_sent_again(folder, server):
    address = '/models/my%20model.onnx'
    tag = ask(server, address)[1]['ETag']
    status, headers, body = ask(server, address, If_None_Match=tag)
    assert (status, body, headers['ETag']) == (304, b'', tag)
    os.utime(folder / 'my model.onnx', (1, 1))
    assert ask(server, address, If_None_Match=tag)[0] == 200


@pytest.mark.parametrize('address', [
    '/../secret.txt', '/%2e%2e/secret.txt', '/..%2fsecret.txt', '/%2e%2e%2fsecret.txt',
    '/%252e%252e%252fsecret.txt', '/..\\secret.txt', '/..%5csecret.txt',
    '/models/../secret.txt', '/models/..%2fother.onnx', '/models/other.onnx',
    '/ort/../../secret.txt', '/ort/..%2f..%2fsecret.txt', '//secret.txt',
    '//../secret.txt', '/./../secret.txt', '/index.html%00.txt', '/index.html/',
    '/models', '/models/', '/ort', '/ort/', '/ort/version.txt', '/README.md', '/web',
    '/.git/config', '/favicon.ico', '*', 'http://[/', '/%ff', '/' + 'a' * 5000,
])
def test_nothing_else_is_served(folder, server, address):
    secret = str(folder / 'secret.txt')
    for name in (address, secret, f'/{secret}', f'/models/{secret}'):
        status, headers, body = ask(server, name)
        assert (status, body) == (404, b'404 Not Found\n')
        assert headers['Content-Type'] == 'text/plain; charset=utf-8'
    assert ask(server, '/')[0] == 200


def test_links_out_of_the_page_are_not_followed(tmp_path, folder):
    web = tmp_path / 'web'
    shutil.copytree(folder / 'web', web)
    (web / 'style.css').unlink()
    (web / 'style.css').symlink_to(folder / 'secret.txt')
    shutil.rmtree(web / 'ort')
    (web / 'ort').symlink_to(folder / 'web' / 'ort')
    (web / 'app.js').rename(web / 'code.js')
    (web / 'app.js').symlink_to('code.js')
    site = serve_web.Site([], web)
    assert site.find('/style.css') is None
    assert site.find('/ort/ort.wasm.bundle.min.mjs') is None
    assert site.find('/app.js') is not None


@pytest.mark.parametrize('host, status', [
    ('127.0.0.1', 200), ('localhost:8000', 200), ('[::1]:8000', 200), ('192.168.0.7', 200),
    (socket.gethostname(), 200), ('evil.example', 421), ('127.0.0.1.evil.example', 421),
    ('', 421)])
def test_foreign_names_of_this_machine_are_refused(server, host, status):
    answer, _, body = ask(server, '/models/my%20model.onnx', Host=host)
    assert answer == status
    assert (body == MODEL_BYTES) == (status == 200)


def test_a_model_cut_off_while_it_is_sent_ends_the_connection(tmp_path, folder):
    path = tmp_path / 'model.onnx'
    path.write_bytes(bytes(2**26))
    with running(serve_web.Site([path], folder / 'web')) as server:
        with socket.create_connection(server.server_address[:2], timeout=60) as client:
            client.sendall(b'GET /models/model.onnx HTTP/1.1\r\nHost: localhost\r\n\r\n')
            received = len(client.recv(1000))
            os.truncate(path, 0)
            # An end, and no wait for bytes that don't come.
            while part := client.recv(2**20):
                received += len(part)
    assert received < 2**26


@pytest.mark.parametrize('method', ['POST', 'PUT', 'DELETE', 'OPTIONS', 'TRACE'])
def test_only_get_and_head(server, method):
    status, _, body = ask(server, '/', method)
    assert status == 501 and body.count(b'\n') == 1


def test_a_bad_request_is_one_line(server):
    with socket.create_connection(server.server_address[:2], timeout=10) as connection:
        connection.sendall(b'nonsense\r\n\r\n')
        answer = connection.makefile('rb').read()
    assert b'400' in answer and b'<' not in answer
    assert ask(server, '/')[0] == 200


def test_a_silent_connection_stops_nobody(server):
    with socket.create_connection(server.server_address[:2], timeout=10):
        assert ask(server, '/')[0] == 200


def test_models_that_can_not_be_served(tmp_path):
    with pytest.raises(serve_web.ServeError, match='missing.onnx'):
        serve_web.Site([tmp_path / 'missing.onnx'])
    (tmp_path / 'weights.pt').write_bytes(b'x')
    with pytest.raises(serve_web.ServeError, match='ending in .onnx'):
        serve_web.Site([tmp_path / 'weights.pt'])
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'migan.onnx').write_bytes(b'x')
    with pytest.raises(serve_web.ServeError, match='one name'):
        serve_web.Site([tmp_path / 'a/migan.onnx', tmp_path / 'b/migan.onnx'])


def test_addresses(server, capsys):
    assert server.address == f'http://127.0.0.1:{server.server_address[1]}/'
    assert not server.open_to_network
    serve_web.announce(server, sys.stdout)
    said = capsys.readouterr().out
    assert server.address in said and '--host=0.0.0.0' in said
    with serve_web.Server(serve_web.Site([]), '0.0.0.0', 0) as everywhere:
        assert everywhere.open_to_network and '0.0.0.0' not in everywhere.address
        assert '--certificate' in announced(everywhere)
    port = server.server_address[1]
    with pytest.raises(serve_web.ServeError, match=f'port {port}'):
        serve_web.Server(serve_web.Site([]), port=port)
    with pytest.raises(serve_web.ServeError, match='no.such.host.invalid'):
        serve_web.Server(serve_web.Site([]), 'no.such.host.invalid', 0)
    with pytest.raises(serve_web.ServeError, match='99999'):
        serve_web.Server(serve_web.Site([]), port=99999)


def announced(server):
    """What a terminal of UTF-8 shows."""
    out = io.TextIOWrapper(io.BytesIO(), encoding='utf-8')
    serve_web.announce(server, out)
    return out.buffer.getvalue().decode()


def test_qr_code():
    segno = pytest.importorskip('segno')
    address = 'http://192.0.2.17:8000/'
    matrix = segno.make(address, error='l').matrix
    lines = serve_web.qr_code(address).rstrip('\n').splitlines()
    # Two rows of modules a line, with a quiet zone.
    assert len(lines) >= len(matrix) // 2
    assert all(len(line) >= len(matrix) for line in lines if '\x1b' not in line)
    site = types.SimpleNamespace(address=address, open_to_network=True, scheme='https')
    assert serve_web.qr_code(address) in announced(site)


@pytest.mark.skipif(shutil.which('openssl') is None, reason='openssl makes the key')
def test_https(tmp_path):
    pem = tmp_path / 'phone.pem'
    subprocess.run(
        ['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2',
         '-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1',
         '-keyout', pem, '-out', tmp_path / 'certificate.pem'],
        check=True, capture_output=True)
    certificate = (tmp_path / 'certificate.pem').read_text()
    pem.write_text(pem.read_text() + certificate)
    trust = ssl.create_default_context(cadata=certificate)
    with running(serve_web.Site([]), certificate=pem) as server:
        assert server.address.startswith('https://127.0.0.1:')
        host, port = server.server_address[:2]
        # One that never shakes hands must not keep others out.
        with socket.create_connection((host, port), timeout=10):
            connection = http.client.HTTPSConnection(
                host, port, context=trust, timeout=10)
            connection.request('GET', '/')
            assert b'MI-GAN' in connection.getresponse().read()
            connection.close()
    for wrong in (tmp_path / 'missing.pem', tmp_path / 'certificate.pem'):
        with pytest.raises(serve_web.ServeError, match=f'{wrong.name}.*key'):
            serve_web.Server(serve_web.Site([]), port=0, certificate=wrong)


def package(path, names=serve_web.RUNTIME_FILES):
    """An npm package of little files; its integrity."""
    with tarfile.open(path, 'w:gz') as archive:
        for name in (*names, '../../outside'):
            member = tarfile.TarInfo(f'package/dist/{name}')
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    digest = hashlib.sha512(path.read_bytes()).digest()
    return f'sha512-{base64.b64encode(digest).decode()}'


def test_unpacking_the_runtime(tmp_path):
    web = tmp_path / 'web'
    (web / 'ort').mkdir(parents=True)
    (web / 'ort' / 'of-another-version.mjs').write_text('')
    integrity = package(tmp_path / 'ort.tgz')
    assert serve_web.runtime_missing(web)
    with pytest.raises(serve_web.ServeError, match='sha512-.*fetch that version again'):
        serve_web.unpack_runtime(tmp_path / 'ort.tgz', web)
    with pytest.raises(serve_web.ServeError, match='no such file'):
        serve_web.unpack_runtime(tmp_path / 'missing.tgz', web)
    assert (web / 'ort' / 'of-another-version.mjs').exists()
    serve_web.unpack_runtime(tmp_path / 'ort.tgz', web, integrity)
    assert not serve_web.runtime_missing(web)
    files = {path.name: path.read_text() for path in (web / 'ort').iterdir()}
    assert files.pop('version.txt').split() == [
        serve_web.RUNTIME, serve_web.RUNTIME_VERSION]
    assert files == {name: name for name in serve_web.RUNTIME_FILES}
    assert sorted(path.name for path in tmp_path.rglob('*')) == sorted(
        ['ort.tgz', 'web', 'ort', 'version.txt', *files])
    (web / 'ort' / 'version.txt').write_text('onnxruntime-web 1.0.0\n')
    assert serve_web.runtime_missing(web)


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, ROOT / 'tools' / 'serve_web.py', *arguments], check=False,
        capture_output=True, text=True, timeout=60, **options)


def test_npm_missing_or_failing(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(serve_web.ServeError, match='--fetch=FILE.tgz'):
        serve_web.fetch_runtime(tmp_path)
    npm = tmp_path / 'npm'
    npm.write_text('#!/bin/sh\necho no such registry >&2\nexit 1\n')
    npm.chmod(0o755)
    with pytest.raises(serve_web.ServeError, match='no such registry'):
        serve_web.fetch_runtime(tmp_path)
    assert not (tmp_path / 'ort').exists()


@pytest.mark.parametrize('arguments, said', [
    (['--model=missing.onnx'], 'missing.onnx'),
    (['--fetch=missing.tgz'], 'missing.tgz: no such file'),
    (['--nofetch', '--model=folder'], 'folder'),
    (['stray'], 'stray'),
])
def test_errors_are_one_line(arguments, said):
    result = command(*arguments)
    assert result.returncode == 1 and result.stdout == ''
    assert re.fullmatch(r'error: .*\n', result.stderr) and said in result.stderr


def served(*arguments):
    """Models that the command offers, by its own address."""
    with subprocess.Popen(
            [sys.executable, '-u', ROOT / 'tools' / 'serve_web.py', '--port=0',
             *arguments],
            stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(re.match(r'http://127\.0\.0\.1:(\d+)/ ',
                                process.stdout.readline())[1])
            connection = http.client.HTTPConnection('127.0.0.1', port, timeout=10)
            connection.request('GET', '/models.json')
            answer = connection.getresponse().read()
            connection.close()
            return json.loads(answer)
        finally:
            process.terminate()


def test_command_line(folder):
    assert served(f'--model={folder / "my model.onnx"},{folder / "other.onnx"}') == [
        'my model.onnx', 'other.onnx']


def test_no_model_named_serves_the_clones_own(tmp_path, monkeypatch):
    monkeypatch.setenv('MIGAN_JAX_CACHE', str(tmp_path))
    assert served() == served('--nofetch') == [serve_web.DEMO_GRAPH]
    assert (tmp_path / serve_web.DEMO_GRAPH).exists()


def test_the_published_model_is_offered_by_its_address(tmp_path):
    site = serve_web.Site([], published=serve_web.published_models())
    (offer,) = json.loads(site.find('/published.json')[0])
    assert (offer['file'], offer['size'], offer['licence'], offer['host']) == (
        'migan_pipeline_v2.onnx', 28_079_181, 'MIT', 'huggingface.co')
    assert len(offer['sha256']) == 64
    policy = site.headers['Content-Security-Policy']
    assert "connect-src 'self' https://huggingface.co https://" in policy
    plain = serve_web.Site([])
    assert json.loads(plain.find('/published.json')[0]) == []
    assert "connect-src 'self';" in plain.headers['Content-Security-Policy']


def test_a_name_is_served_as_the_published_graph(tmp_path, monkeypatch):
    data = b'a graph'
    monkeypatch.setenv('MIGAN_JAX_CACHE', str(tmp_path))
    with loopback.serving() as authors:
        file = authors.file('theirs.onnx', data, size=len(data),
                            digest=f'sha256:{hashlib.sha256(data).hexdigest()}')
        monkeypatch.setattr(table, 'PIPELINE', file)
        model = table.MODELS['places2-512']._replace(files=(file,))
        monkeypatch.setitem(table.MODELS, 'places2-512', model)
        path = serve_web.model_path('places2-512')
    assert path == str(tmp_path / 'theirs.onnx')
    assert serve_web.model_path('places2-512') == path
    with pytest.raises(serve_web.ServeError, match='--checkpoint=ffhq-256'):
        serve_web.model_path('ffhq-256')
    assert serve_web.model_path('mine.onnx') == 'mine.onnx'


def test_the_clones_own_model_is_served_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv('MIGAN_JAX_CACHE', str(tmp_path))
    path = serve_web.model_path('demo')
    assert pathlib.Path(path).parent == tmp_path
    session = onnxruntime.InferenceSession(path)
    image = np.full((1, 3, 40, 50), 90, np.uint8)
    mask = np.full((1, 1, 40, 50), 255, np.uint8)
    mask[..., 10:20, 10:30] = 0
    painted, = session.run(None, {'image': image, 'mask': mask})
    # One colour goes on in one colour.
    assert painted.shape == image.shape and abs(painted.astype(int) - 90).max() < 24
    assert serve_web.model_path(path) == path
