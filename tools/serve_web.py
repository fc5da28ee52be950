"""Serves the phone page in web/ and exported ONNX models.

    python tools/serve_web.py --fetch --model=export/migan_pipeline.onnx

Without --model and --fetch it serves `demo`, the model that comes with the clone, which
--model takes as a name, too: its graph is written into the cache folder.

Instead of a file --model takes the name of published weights that the authors have as
such a graph (places2-512), which is fetched once. The page's own menu offers that, too:
on a click the browser fetches it from the authors' address, compares its hash and keeps
it; --nopublished leaves the offer out.

--fetch copies onnxruntime-web, which runs the model in the browser, into web/ort/:
from npm, or with --fetch=FILE.tgz from its npm package at hand. Needed once; without
--model nothing is served then. Several models, separated by commas, make a menu.

The page is for this machine only; --host=0.0.0.0 opens it to the network and prints a
QR code for the phone. Browsers give WebGPU, threads and offline use to https and
localhost only: --certificate=FILE.pem (certificate and key) makes the address https.

Nothing is served but the page's own files, the runtime and the models. Errors go to
stderr, one line each, and the exit code is 1.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
import functools
import hashlib
import http.server
import ipaddress
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import tarfile
import tempfile
from typing import Any, TextIO
import urllib.parse

from absl import flags

from migan_jax import cli
from migan_jax import storage
from migan_jax.weights import bundles
from migan_jax.weights import demo
from migan_jax.weights import fetching
from migan_jax.weights import table

WEB = pathlib.Path(__file__).resolve().parents[1] / 'web'

# The page's own files; '' is the address without a name.
PAGE = {'': 'index.html', **{
    name: name for name in (
        'index.html', 'style.css', 'app.js', 'photo.js', 'sw.js', 'icon.svg')}}

# The clone's own model, in the cache folder.
DEMO_GRAPH = 'demo_pipeline.onnx'

RUNTIME = 'onnxruntime-web'
RUNTIME_VERSION = '1.30.0'
RUNTIME_INTEGRITY = (
    'sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs'
    '1SigqR4CXAfKYQ==')
# WebAssembly alone is half the download: the page loads the other pair on WebGPU only.
RUNTIME_FILES = (
    'ort.wasm.bundle.min.mjs', 'ort-wasm-simd-threaded.wasm',
    'ort.webgpu.bundle.min.mjs', 'ort-wasm-simd-threaded.asyncify.wasm')
# Beside them: which version they are.
VERSION_FILE = 'version.txt'

TYPES = {
    '.html': 'text/html; charset=utf-8', '.css': 'text/css; charset=utf-8',
    '.js': 'text/javascript; charset=utf-8', '.mjs': 'text/javascript; charset=utf-8',
    '.json': 'application/json', '.svg': 'image/svg+xml', '.wasm': 'application/wasm',
    '.onnx': 'application/octet-stream',
}

# Where the addresses of published files lead to besides their own host.
REDIRECTED = {'huggingface.co': ('https://*.huggingface.co', 'https://*.hf.co')}

HEADERS = {
    # Cross-origin isolation, without which browsers give WebAssembly no threads.
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Embedder-Policy': 'require-corp',
    'Cross-Origin-Resource-Policy': 'same-origin',
    # The browser itself sees to it that nothing leaves the device.
    'Content-Security-Policy': (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
        "style-src 'self'; img-src 'self' blob:; connect-src 'self'{origins}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cache-Control': 'no-cache',
}


class ServeError(ValueError):
    """Something that the caller can put right; one line."""


def check_integrity(path: os.PathLike | str, integrity: str) -> None:
    """Compares a file with its npm integrity string, 'sha512-<base64>'.

    Raises:
        ServeError: another file.
    """
    digest = hashlib.sha512(pathlib.Path(path).read_bytes()).digest()
    found = f'sha512-{base64.b64encode(digest).decode()}'
    if found != integrity:
        raise ServeError(
            f'{path}: expected the npm package with integrity {integrity}, got '
            f'{found}; fetch that version again')


def npm_pack(package: str, version: str, folder: os.PathLike | str) -> pathlib.Path:
    """Downloads an npm package with npm.

    Args:
        package, version: of the package.
        folder: an existing folder for the file.

    Returns:
        Path of the .tgz.

    Raises:
        ServeError: npm is missing or failed.
    """
    npm = shutil.which('npm')
    if npm is None:
        raise ServeError(
            f'npm is not installed: install it, or pass the npm package {package} '
            f'{version} as --fetch=FILE.tgz')
    # In a folder of its own: npm reads a package.json it stands beside.
    result = subprocess.run(
        [npm, 'pack', f'{package}@{version}', '--silent'], cwd=folder, check=False,
        stdin=subprocess.DEVNULL, capture_output=True, text=True)
    packed = sorted(pathlib.Path(folder).glob('*.tgz'))
    if result.returncode or len(packed) != 1:
        said = (result.stderr.strip() or result.stdout.strip() or 'no message')
        raise ServeError(
            f'npm pack {package}@{version} failed ({said.splitlines()[-1]}); check the '
            'connection, or pass the package as --fetch=FILE.tgz')
    return packed[0]


def unpack_runtime(package: os.PathLike | str, web: os.PathLike | str = WEB,
                   integrity: str = RUNTIME_INTEGRITY) -> None:
    """Puts the runtime's files into `web`/ort/, all or none.

    Args:
        package: .tgz of onnxruntime-web from npm.
        web: folder of the page.
        integrity: of the package.

    Raises:
        ServeError: not that package.
    """
    if not pathlib.Path(package).is_file():
        raise ServeError(f'{package}: no such file')
    check_integrity(package, integrity)
    target = pathlib.Path(web) / 'ort'
    with tempfile.TemporaryDirectory(prefix='.ort.', dir=web) as scratch:
        partial = pathlib.Path(scratch) / 'ort'
        partial.mkdir()
        with tarfile.open(package) as archive:
            for name in RUNTIME_FILES:
                with archive.extractfile(f'package/dist/{name}') as source:
                    (partial / name).write_bytes(source.read())
        (partial / VERSION_FILE).write_text(f'{RUNTIME} {RUNTIME_VERSION}\n')
        if target.exists():
            os.replace(target, pathlib.Path(scratch) / 'old')
        os.replace(partial, target)


def fetch_runtime(web: os.PathLike | str = WEB) -> None:
    """Gets the pinned runtime from npm into `web`/ort/, unless it is there.

    Raises:
        ServeError: as `npm_pack` and `unpack_runtime`.
    """
    if not runtime_missing(web):
        return
    with tempfile.TemporaryDirectory() as folder:
        unpack_runtime(npm_pack(RUNTIME, RUNTIME_VERSION, folder), web)


def runtime_missing(web: os.PathLike | str = WEB) -> bool:
    """Whether `web`/ort/ lacks the pinned runtime."""
    folder = pathlib.Path(web) / 'ort'
    version = folder / VERSION_FILE
    if not all((folder / name).is_file() for name in (*RUNTIME_FILES, VERSION_FILE)):
        return True
    return version.read_text() != f'{RUNTIME} {RUNTIME_VERSION}\n'


def published_models() -> list[dict[str, Any]]:
    """What the page's menu offers, as published.json has it."""
    return [
        {'title': f'MI-GAN {model.resolution}, {model.data}', 'file': file.name,
         'url': file.url, 'size': file.size, 'sha256': file.sha256,
         'licence': model.licence, 'host': urllib.parse.urlsplit(file.url).hostname}
        for model in table.MODELS.values() for file in model.files
        if is_pipeline(file)]


def is_pipeline(file: table.File) -> bool:
    """Whether the page can run a published file: u8 pictures of any size."""
    return file == table.PIPELINE


def model_path(text: str) -> str:
    """The path that --model names: a file, or a published graph that is fetched.

    Raises:
        ServeError: published weights of which there is no graph.
        fetching.FetchError: it is not here and can't be fetched.
    """
    if os.path.exists(text):
        return text
    if text == demo.NAME:
        return demo_graph()
    if text not in table.MODELS:
        return text
    for file in table.MODELS[text].files:
        if is_pipeline(file):
            return fetching.fetch(file)
    raise ServeError(
        f'--model={text}: the authors have no graph of it that the page could run; '
        f'make one: python tools/to_torch.py --checkpoint={text} --out=export '
        '--formats=onnx_pipeline')


def demo_graph() -> str:
    """Path of the pipeline graph of models/demo, written anew."""
    # Only whoever asks for it waits for its packages.
    from migan_jax.export import onnx_pipeline

    bundle = bundles.load_bundle(demo.folder())
    graph = onnx_pipeline.build_pipeline(bundle.config, bundle.variables)
    path = pathlib.Path(fetching.cache_folder(), DEMO_GRAPH)
    path.parent.mkdir(parents=True, exist_ok=True)
    storage.write_atomically(path, graph.SerializeToString())
    return str(path)


def security_policy(published: Iterable[Mapping[str, Any]]) -> str:
    """The page's Content-Security-Policy: it may ask for what it offers, no more."""
    origins = []
    for entry in published:
        place = urllib.parse.urlsplit(entry['url'])
        origins += [f'{place.scheme}://{place.netloc}',
                    *REDIRECTED.get(place.hostname, ())]
    return HEADERS['Content-Security-Policy'].format(
        origins=''.join(f' {origin}' for origin in dict.fromkeys(origins)))


class Site:
    """What is served: names, and nothing that could be a path.

    A name that is not listed does not exist, so no spelling of `..` leads anywhere.

    Attributes:
        models: {name: path} in the order of the menu.
        headers: of every answer.
    """

    def __init__(self, models: Iterable[os.PathLike | str], web: os.PathLike | str = WEB,
                 published: Iterable[dict[str, Any]] = ()) -> None:
        """
        Args:
            models: paths of .onnx files; the first is the one the page opens with.
            web: folder of the page.
            published: what the menu offers besides, see `published_models`.

        Raises:
            ServeError: a file is missing, or two have one name.
        """
        self._published = list(published)
        self.headers = HEADERS | {
            'Content-Security-Policy': security_policy(self._published)}
        self.models = {}
        for path in map(pathlib.Path, models):
            if path.suffix != '.onnx' or not path.is_file():
                raise ServeError(
                    f'--model={path}: expected a file ending in .onnx, as '
                    'tools/to_torch.py writes it')
            if path.name in self.models:
                raise ServeError(
                    f'--model: {self.models[path.name]} and {path} have one name; '
                    'rename one')
            self.models[path.name] = path
        self._web = pathlib.Path(web).resolve()
        self._files = {name: self._web / file for name, file in PAGE.items()}
        self._files |= {
            f'ort/{name}': self._web / 'ort' / name for name in RUNTIME_FILES}

    def find(self, address: str) -> tuple[pathlib.Path | bytes, str] | None:
        """What an address names.

        Args:
            address: of the request, '/...', with or without a query.

        Returns:
            (content, suffix): a path or bytes; None if there is no such thing.
        """
        name = urllib.parse.unquote(address.partition('?')[0]).removeprefix('/')
        if name == 'models.json':
            return json.dumps(list(self.models)).encode(), '.json'
        if name == 'published.json':
            return json.dumps(self._published).encode(), '.json'
        folder, _, model = name.rpartition('/')
        if folder == 'models' and model in self.models:
            return self.models[model], '.onnx'
        file = self._files.get(name)
        # A link in the page's folder must not lead out of it.
        if file and file.is_file() and file.resolve().is_relative_to(self._web):
            return file, file.suffix
        return None


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET and HEAD for the names of a `Site`."""

    protocol_version = 'HTTP/1.1'
    # A connection that says nothing must not hold its thread for ever.
    timeout = 60

    def __init__(self, site: Site, *args: Any) -> None:
        self.site = site
        super().__init__(*args)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def version_string(self) -> str:
        return 'migan_jax'

    def log_message(self, *args: Any) -> None:
        """Requests are not logged: a page and a model are some ten of them."""

    def send_error(self, code: int, message: str | None = None,
                   explain: str | None = None) -> None:
        text = f'{code} {message or self.responses[code][0]}\n'.encode()
        self._head(
            code, len(text), 'text/plain; charset=utf-8', {'Connection': 'close'})
        if self.command != 'HEAD':
            self.wfile.write(text)

    def _is_meant(self):
        """Whether a browser was sent here under a name of this machine.

        A page elsewhere may give its own name this machine's address, and then count as
        one of ours. Addresses can not be given away like that.
        """
        host = self.headers.get('Host')
        if host is None:   # no browser
            return True
        name = urllib.parse.urlsplit(f'//{host}').hostname or ''
        try:
            ipaddress.ip_address(name)
            return True
        except ValueError:
            own = socket.gethostname().lower()
            return name in ('localhost', own, own.partition('.')[0],
                            f'{own.partition(".")[0]}.local')

    def _answer(self, with_body):
        try:
            if not self._is_meant():
                self.send_error(421, 'This machine has another name')
                return
            found = self.site.find(self.path)
            if found is None:
                self.send_error(404)
                return
            content, suffix = found
            if isinstance(content, bytes):
                self._head(200, len(content), TYPES[suffix])
                if with_body:
                    self.wfile.write(content)
                return
            with content.open('rb') as file:
                status = os.fstat(file.fileno())
                tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
                if self.headers.get('If-None-Match') == tag:
                    self._head(304, 0, TYPES[suffix], {'ETag': tag})
                    return
                self._head(200, status.st_size, TYPES[suffix], {'ETag': tag})
                left = status.st_size if with_body else 0
                while left and (part := file.read(min(left, 1 << 20))):
                    self.wfile.write(part)
                    left -= len(part)
                if left:
                    # Cut off meanwhile. The browser must not wait for the rest, nor take
                    # the next answer for it.
                    print(f'error: {self.path}: the file became shorter while it was '
                          'sent', file=sys.stderr)
                    self.close_connection = True
        except (ConnectionError, TimeoutError):
            # The browser went away; there is nobody to tell.
            self.close_connection = True
        except OSError as error:
            print(f'error: {self.path}: {error.strerror or error}', file=sys.stderr)
            self.close_connection = True

    def _head(self, code, length, kind, more=None):
        self.send_response(code)
        own = {'Content-Type': kind, 'Content-Length': str(length)}
        for name, value in (own | self.site.headers | (more or {})).items():
            self.send_header(name, value)
        self.end_headers()


class Server(http.server.ThreadingHTTPServer):
    """A `Site` on one address of this machine."""

    daemon_threads = True

    def __init__(self, site: Site, host: str = '127.0.0.1', port: int = 8000,
                 certificate: os.PathLike | str | None = None) -> None:
        """
        Args:
            site: `Site`.
            host: address to listen on; '0.0.0.0' for all of this machine's.
            port: 0 for any that is free.
            certificate: PEM file with certificate chain and key: https.

        Raises:
            ServeError: the address or the certificate cannot be used.
        """
        self.address_family = socket.AF_INET6 if ':' in host else socket.AF_INET
        self.scheme = 'https' if certificate else 'http'
        context = None
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            try:
                context.load_cert_chain(certificate)
            except OSError as error:
                raise ServeError(
                    f'--certificate={certificate}: {error.strerror or error}; expected '
                    'a PEM file with a certificate and its key') from error
        try:
            super().__init__((host, port), functools.partial(Handler, site))
        except (OSError, OverflowError) as error:
            raise ServeError(
                f'cannot listen on {host} port {port}: '
                f'{getattr(error, "strerror", None) or error}; '
                'choose another --host or --port') from error
        if context:
            # The handshake is the first read's: it must not block other connections.
            self.socket = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One line; what a stranger's bytes do to a connection is its own affair."""
        error = sys.exception()
        if not isinstance(error, (ConnectionError, TimeoutError, ssl.SSLError)):
            print(f'error: {type(error).__name__}: {error}', file=sys.stderr)

    @property
    def address(self) -> str:
        """For a browser: http://127.0.0.1:8000/."""
        host, port = self.server_address[:2]
        if host in ('0.0.0.0', '::'):
            host = _network_address(self.address_family)
        host = f'[{host}]' if ':' in host else host
        return f'{self.scheme}://{host}:{port}/'

    @property
    def open_to_network(self) -> bool:
        host = self.server_address[0]
        return not (host.startswith('127.') or host == '::1')


def _network_address(family):
    """This machine's address as others on its network see it."""
    probe = '2001:db8::1' if family == socket.AF_INET6 else '192.0.2.1'
    with socket.socket(family, socket.SOCK_DGRAM) as route:
        try:
            # Sends nothing: it only picks the interface.
            route.connect((probe, 9))
        except OSError:
            return socket.gethostname()
        return route.getsockname()[0]


def qr_code(text: str) -> str | None:
    """A QR code of block characters, or None without the package segno."""
    try:
        import segno
    except ImportError:
        return None
    import io
    drawn = io.StringIO()
    segno.make(text, error='l').terminal(drawn, compact=True)
    return drawn.getvalue()


def announce(server: Server, out: TextIO) -> None:
    """Tells a person where the page is."""
    print(f'{server.address}  (Ctrl+C stops)', file=out)
    if not server.open_to_network:
        print('For this machine only; --host=0.0.0.0 lets a phone in.', file=out)
        return
    code = qr_code(server.address)
    if code is None:
        print('For a QR code of this address: pip install segno', file=out)
    elif 'utf' in (getattr(out, 'encoding', None) or '').lower():
        print(code, file=out)
    if server.scheme == 'http':
        print('Over http a phone gets one thread and no WebGPU: see --certificate, or '
              'adb reverse in web/README.md.', file=out)
    out.flush()


def main(argv: Sequence[str]) -> None:
    del argv
    args = flags.FLAGS
    # `--fetch` alone reads as true.
    fetch = None if args.fetch == 'false' else args.fetch
    if fetch == 'true':
        fetch_runtime()
    elif fetch:
        unpack_runtime(fetch)
    if fetch and not args.model:
        return
    site = Site([model_path(each) for each in args.model or [demo.NAME]],
                published=published_models() if args.published else ())
    server = Server(site, args.host, args.port, args.certificate)
    if runtime_missing():
        print(f'warning: {WEB / "ort"} lacks {RUNTIME} {RUNTIME_VERSION}, without '
              'which the page runs no model; run once with --fetch', file=sys.stderr)
    with server:
        announce(server, sys.stdout)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def define_flags() -> None:
    flags.DEFINE_list('model', None, 'ONNX files from tools/to_torch.py, or '
                      'demo or places2-512; the first is what the page opens with.')
    flags.DEFINE_bool('published', True, 'Offer the published model in the menu.')
    flags.DEFINE_string('host', '127.0.0.1', 'Address to listen on; 0.0.0.0 for all.')
    flags.DEFINE_integer('port', 8000, 'Port; 0 for any.')
    flags.DEFINE_string('certificate', None,
                        'PEM file with certificate and key: serves https.')
    flags.DEFINE_flag(flags.Flag(
        flags.ArgumentParser(), flags.ArgumentSerializer(), 'fetch', None,
        f'Copy {RUNTIME} {RUNTIME_VERSION} into web/ort/, from npm or '
        '--fetch=FILE.tgz.', boolean=True))


if __name__ == '__main__':
    # Not at import: other tools and tests may define flags of the same names.
    define_flags()
    cli.run(main)
