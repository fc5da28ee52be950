"""A server on loopback that answers as servers do, and a folder that is read-only."""

import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import shutil
import tempfile
import threading

from migan_jax.weights.table import File


class Site:
    """What a server has: {path: function of a request handler}, and who asked for it.

    Attributes:
      address: 'http://127.0.0.1:PORT'.
      asked: paths in the order of the requests.
      sent: bodies of the POST requests.
    """

    def __init__(self):
        self.routes, self.asked, self.sent = {}, [], []
        self.stop = threading.Event()
        self.address = ''

    def file(self, name, data, **fields):
        """A `table.File` that the server has whole."""
        self.routes[f'/{name}'] = whole(data)
        return File(name, url=f'{self.address}/{name}', **fields)


def whole(data, **headers):
    def answer(handler):
        handler.send_response(200)
        handler.send_header('Content-Length', str(len(data)))
        for name, value in headers.items():
            handler.send_header(name.replace('_', '-'), value)
        handler.end_headers()
        if handler.command != 'HEAD':
            handler.wfile.write(data)
    return answer


def truncated(data):
    """Promises all of it, sends half, and hangs up."""
    def answer(handler):
        handler.send_response(200)
        handler.send_header('Content-Length', str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:len(data) // 2])
        handler.close_connection = True
    return answer


def status(code):
    def answer(handler):
        handler.send_error(code)
    return answer


def redirect(path):
    def answer(handler):
        handler.send_response(302)
        handler.send_header('Location', path)
        handler.send_header('Content-Length', '0')
        handler.end_headers()
    return answer


def stalling(data, site):
    """Sends a little and then nothing until the server stops."""
    def answer(handler):
        handler.send_response(200)
        handler.send_header('Content-Length', str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:10])
        handler.wfile.flush()
        site.stop.wait(60)
        handler.close_connection = True
    return answer


def in_turn(*answers):
    """One answer for each request; the last one again and again."""
    left = list(answers)

    def answer(handler):
        (left.pop(0) if len(left) > 1 else left[0])(handler)
    return answer


def hub(site, repository, files, commit='c0ffee' + 34 * '0'):
    """Gives a site {name: bytes} as a model hub has them."""
    revision = {'id': repository, 'sha': commit,
                'siblings': [{'rfilename': name} for name in files]}
    tree = [{'type': 'file', 'path': name, 'size': len(data), 'oid': name}
            for name, data in files.items()]
    api = f'/api/models/{repository}'
    for place in ('main', commit):
        site.routes[f'{api}/revision/{place}'] = whole(
            json.dumps(revision).encode(), Content_Type='application/json')
        site.routes[f'{api}/tree/{place}'] = whole(
            json.dumps(tree).encode(), Content_Type='application/json')
        for name, data in files.items():
            site.routes[f'/{repository}/resolve/{place}/{name}'] = whole(
                data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=commit)


def taking_hub(site, repository):
    """Lets a site take what is uploaded to a repository, as a model hub does."""
    def say(**values):
        return whole(json.dumps(values).encode(), Content_Type='application/json')

    api = f'/api/models/{repository}'
    site.routes['/api/repos/create'] = say(url=f'{site.address}/{repository}')
    site.routes[f'{api}/revision/main'] = say(id=repository, sha='0' * 40, siblings=[])

    def preupload(handler):
        files = json.loads(site.sent[-1])['files']
        say(files=[{'path': file['path'], 'uploadMode': 'regular',
                    'shouldIgnore': False} for file in files])(handler)

    site.routes['/api/validate-yaml'] = say(errors=[], warnings=[])
    site.routes[f'{api}/preupload/main'] = preupload
    site.routes[f'{api}/commit/main'] = say(
        commitUrl=f'{site.address}/{repository}/commit/1', commitOid='1' * 40,
        success=True)


@contextlib.contextmanager
def in_thread(server):
    """A server of `socketserver` that serves in a thread meanwhile."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def serving():
    """A `Site` that is being served."""
    site = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def do_GET(self):
            path = self.path.partition('?')[0]
            site.asked.append(path)
            site.routes.get(path, status(404))(self)

        do_HEAD = do_GET

        def do_POST(self):
            length = int(self.headers.get('Content-Length', 0))
            site.sent.append(self.rfile.read(length))
            self.do_GET()

        def log_message(self, *args):
            """Tests read `asked`."""

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.daemon_threads = True
    site.address = f'http://127.0.0.1:{server.server_port}'
    with in_thread(server):
        try:
            yield site
        finally:
            site.stop.set()


@contextlib.contextmanager
def read_only_folder(files):
    """A folder with {name: bytes} that can be read and not written, also by root.

    Root may write anywhere, so that it works under another user's number meanwhile.
    """
    folder = tempfile.mkdtemp(prefix='read_only.')
    for name, data in files.items():
        pathlib.Path(folder, name).write_bytes(data)
    os.chmod(folder, 0o555)
    as_root = os.geteuid() == 0
    if as_root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if as_root:
            os.seteuid(0)
        os.chmod(folder, 0o755)
        shutil.rmtree(folder)
