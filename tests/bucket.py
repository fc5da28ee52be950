"""Cloud Storage on this machine: enough of its interface for what a run does with it.

Three libraries read and write a bucket, and each finds this server in its own way:
TensorFlow (paths, TensorBoard, TFDS) speaks https to fixed hosts, so it comes through a
CONNECT proxy to a certificate of those hosts; TensorStore (arrays) and
google-cloud-storage (Orbax's questions, our checks) come by plain http.
"""

import base64
import collections
import contextlib
import dataclasses
import email.parser
import email.policy
import http.server
import json
import pathlib
import re
import ssl
import threading
import time
import urllib.parse

import google_crc32c
import trustme

TOKEN = 'a-token-for-tests'
_HOSTS = ('storage.googleapis.com', 'www.googleapis.com', 'oauth2.googleapis.com')
# More than a reader of the tests would wait for.
_PAGE = 1000


@dataclasses.dataclass
class Request:
    """What a client asked for.

    Attributes:
      permission: that an account needs for it, such as storage.objects.get.
      bucket, name: of the object; a listing's name is its prefix.
      client: tensorflow, tensorstore or python.
      time: of `time.monotonic`.
      status: of the answer.
    """
    permission: str
    bucket: str
    name: str
    client: str
    time: float
    status: int = 0


@dataclasses.dataclass
class _Object:
    data: bytes
    generation: int
    updated: str


class _Answer(Exception):
    """Ends a request with a status."""

    def __init__(self, status, text=''):
        super().__init__(status, text)
        self.status, self.text = status, text


class Emulator:
    """A server on loopback; a context that is running.

    Attributes:
      requests: list of `Request`, in order.
      refuse: function of a `Request` to the status of a refusal, or None.
    """

    def __init__(self, folder, buckets=('bucket',)):
        """Makes a certificate in a folder, and empty buckets."""
        authority = trustme.CA()
        self.authority_file = str(folder / 'authority.pem')
        authority.cert_pem.write_to_path(self.authority_file)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*_HOSTS).configure_cert(self.tls)
        self.buckets = {name: {} for name in buckets}
        self.sessions = {}
        self.requests = []
        self.refuse = lambda request: None
        self.lock = threading.RLock()
        self._clock = 1
        handler = type('Handler', (_Handler,), {'emulator': self})
        self._server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
        self._server.daemon_threads = True
        self.url = f'http://127.0.0.1:{self._server.server_address[1]}'

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.02,),
                         daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def environment(self):
        """Variables with which a process finds the emulator, as one with an account."""
        return {
            'https_proxy': self.url, 'HTTPS_PROXY': self.url,
            'no_proxy': '127.0.0.1,localhost', 'NO_GCE_CHECK': 'true',
            'CURL_CA_BUNDLE': self.authority_file,
            'REQUESTS_CA_BUNDLE': self.authority_file,
            'GOOGLE_AUTH_TOKEN_FOR_TESTING': TOKEN,
            'TENSORSTORE_GCS_HTTP_URL': self.url,
            'TENSORSTORE_CA_BUNDLE': self.authority_file,
            'STORAGE_EMULATOR_HOST': self.url}

    def names(self, prefix=''):
        """Sorted names of the first bucket's objects."""
        with self.lock:
            objects = next(iter(self.buckets.values()))
            return sorted(name for name in objects if name.startswith(prefix))

    def read(self, name, bucket='bucket'):
        """Bytes of an object."""
        with self.lock:
            return self.buckets[bucket][name].data

    def put(self, name, data, bucket='bucket'):
        """Writes an object; returns it."""
        with self.lock:
            self._clock += 1
            stamp = time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime())
            made = _Object(bytes(data), self._clock, f'{stamp}.000Z')
            self.buckets[bucket][name] = made
            return made

    def upload(self, folder, prefix):
        """What `gcloud storage cp -r` does with a folder on a disk."""
        for path in pathlib.Path(folder).rglob('*'):
            if path.is_file():
                self.put(f'{prefix}/{path.relative_to(folder)}', path.read_bytes())

    def download(self, prefix, folder):
        """The opposite of `upload`; returns the folder."""
        for name in self.names(f'{prefix}/'):
            if not name.endswith('/'):   # in place of an empty folder
                path = pathlib.Path(folder, name.removeprefix(f'{prefix}/'))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self.read(name))
        return folder

    def permissions(self):
        """{permission: requests that were granted by it}."""
        with self.lock:
            return collections.Counter(
                r.permission for r in self.requests if r.status < 400)


@contextlib.contextmanager
def refusing(emulator, refuse):
    """A context in which requests are refused, see `Emulator.refuse`."""
    before, emulator.refuse = emulator.refuse, refuse
    try:
        yield
    finally:
        emulator.refuse = before


# Method, pattern of the path, permission, name of the function that answers.
_ROUTES = [(method, re.compile(pattern), permission, function)
           for method, pattern, permission, function in (
    ('GET', '/storage/v1/b/([^/]+)', 'storage.buckets.get', 'bucket'),
    ('GET', '/storage/v1/b/([^/]+)/storageLayout', 'storage.objects.list', 'layout'),
    ('GET', '/storage/v1/b/([^/]+)/o/?', 'storage.objects.list', 'listing'),
    ('GET', '/(?:download/)?storage/v1/b/([^/]+)/o/([^/]+)', 'storage.objects.get',
     'get'),
    ('DELETE', '/storage/v1/b/([^/]+)/o/([^/]+)', 'storage.objects.delete', 'delete'),
    ('POST', '/storage/v1/b/([^/]+)/o/([^/]+)/(?:rewriteTo|copyTo)/b/([^/]+)/o/([^/]+)',
     'storage.objects.create', 'copy'),
    ('POST', '/(?:resumable/)?upload/storage/v1/b/([^/]+)/o', 'storage.objects.create',
     'upload'),
    ('PUT', '/(?:resumable/)?upload/storage/v1/b/([^/]+)/o', 'storage.objects.create',
     'resume'),
    # As TensorFlow reads: the older interface.
    ('GET', '/([^/]+)/(.+)', 'storage.objects.get', 'media'))]


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = 'HTTP/1.1'
    emulator = None
    disable_nagle_algorithm = True

    def log_message(self, *_):
        """Says nothing: `Emulator.requests` is the log."""

    def do_CONNECT(self):
        """The proxy: whatever host was meant, it is this one, behind TLS."""
        self.wfile.write(b'HTTP/1.1 200 Connected\r\n\r\n')
        self.wfile.flush()
        try:
            secure = self.emulator.tls.wrap_socket(self.connection, server_side=True)
            type(self)(secure, self.client_address, self.server)
            secure.close()
        except (OSError, ssl.SSLError):
            self.connection.close()   # a client that went away
        self.close_connection = True

    def handle(self):
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            super().handle()

    def do_GET(self):
        self._route()

    do_POST = do_PUT = do_DELETE = do_GET

    def _route(self):
        self.body = self._read_body()
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        for method, pattern, permission, function in _ROUTES:
            found = pattern.fullmatch(url.path)
            if found and method == self.command:
                break
        else:
            self._send(404, b'no such method')
            return
        groups = [urllib.parse.unquote(group) for group in found.groups()]
        request = Request(
            permission, groups[0],
            groups[-1] if len(groups) > 1 else self.query.get(
                'name', self.query.get('prefix', '')),
            self._client(), time.monotonic())
        emulator = self.emulator
        with emulator.lock:
            emulator.requests.append(request)
            try:
                self._check_token()
                if status := emulator.refuse(request):
                    raise _Answer(status, f'{permission} refused by the test')
                if groups[0] not in emulator.buckets:
                    raise _Answer(404, 'The specified bucket does not exist.')
                self.request_log = request
                status, data, headers = getattr(self, f'_{function}')(*groups)
            except _Answer as answer:
                status, headers = answer.status, {'Content-Type': 'application/json'}
                data = json.dumps({'error': {
                    'code': status, 'message': answer.text,
                    'errors': [{'reason': 'test', 'message': answer.text}]}}).encode()
            request.status = status
        self._send(status, data, headers)

    def _client(self):
        agent = self.headers.get('User-Agent', '').lower()
        for name, sign in (('tensorstore', 'tensorstore'), ('python', 'python')):
            if sign in agent:
                return name
        return 'tensorflow'

    def _check_token(self):
        # google-cloud-storage sends no token to an emulator.
        if self._client() != 'python' and (
                self.headers.get('Authorization') != f'Bearer {TOKEN}'):
            raise _Answer(401, 'Anonymous caller')

    def _read_body(self):
        if 'chunked' in self.headers.get('Transfer-Encoding', ''):
            body = b''
            while size := int(self.rfile.readline().split(b';')[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        if self.headers.get('Expect', '').lower() == '100-continue':
            self.wfile.flush()
        return self.rfile.read(int(self.headers.get('Content-Length') or 0))

    def _send(self, status, data=b'', headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        # These have no body: a client would take one for the head of its next answer.
        if status in (204, 304):
            self.end_headers()
            return
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _json(self, value):
        return 200, json.dumps(value).encode(), {'Content-Type': 'application/json'}

    def _found(self, bucket, name):
        try:
            return self.emulator.buckets[bucket][name]
        except KeyError:
            raise _Answer(404, f'No such object: {bucket}/{name}') from None

    def _check_conditions(self, bucket, name):
        found = self.emulator.buckets[bucket].get(name)
        generation, meta = (found.generation, 1) if found else (0, 0)
        for field, actual in (('Generation', generation), ('Metageneration', meta)):
            wanted = self.query.get(f'if{field}Match')
            if wanted is not None and int(wanted) != actual:
                raise _Answer(412, 'At least one of the pre-conditions did not hold.')
            refused = self.query.get(f'if{field}NotMatch')
            if refused is not None and int(refused) == actual:
                raise _Answer(304 if self.command == 'GET' else 412)

    def _meta(self, bucket, name, found):
        checksum = google_crc32c.Checksum(found.data).digest()
        return {
            'kind': 'storage#object', 'bucket': bucket, 'name': name,
            'id': f'{bucket}/{name}/{found.generation}',
            'generation': str(found.generation), 'metageneration': '1',
            'size': str(len(found.data)), 'updated': found.updated,
            'timeCreated': found.updated, 'storageClass': 'STANDARD', 'etag': 'test',
            'crc32c': base64.b64encode(checksum).decode(),
            'contentType': 'application/octet-stream'}

    def _bucket(self, bucket):
        return self._json({'kind': 'storage#bucket', 'id': bucket, 'name': bucket,
                           'location': 'TEST', 'storageClass': 'STANDARD'})

    def _layout(self, bucket):
        return self._json({'kind': 'storage#storageLayout', 'bucket': bucket,
                           'location': 'TEST', 'locationType': 'region',
                           'hierarchicalNamespace': {'enabled': False}})

    def _listing(self, bucket):
        query = self.query
        prefix, delimiter = query.get('prefix', ''), query.get('delimiter', '')
        start = query.get('startOffset', '')
        limit = min(int(query.get('maxResults') or _PAGE), _PAGE)
        after = urllib.parse.unquote(query.get('pageToken', ''))
        items, prefixes, last, more = [], [], '', False
        for name, found in sorted(self.emulator.buckets[bucket].items()):
            if not name.startswith(prefix) or name < start or (
                    query.get('endOffset') and name >= query['endOffset']):
                continue
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            key = name if cut < 0 else name[:cut + len(delimiter)]
            if key <= after or key == last:
                continue
            if len(items) + len(prefixes) == limit:
                more = True
                break
            last = key
            if cut < 0:
                items.append(self._meta(bucket, name, found))
            else:
                prefixes.append(key)
        value = {'kind': 'storage#objects', 'items': items, 'prefixes': prefixes}
        if more:
            value['nextPageToken'] = urllib.parse.quote(last)
        return self._json({key: part for key, part in value.items() if part})

    def _get(self, bucket, name):
        if self.query.get('alt') == 'media':
            return self._media(bucket, name)
        found = self._found(bucket, name)
        self._check_conditions(bucket, name)
        return self._json(self._meta(bucket, name, found))

    def _media(self, bucket, name):
        found = self._found(bucket, name)
        self._check_conditions(bucket, name)
        headers = {'Content-Type': 'application/octet-stream',
                   'x-goog-generation': str(found.generation),
                   'x-goog-stored-content-length': str(len(found.data))}
        wanted = re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range', ''))
        if not wanted:
            return 200, found.data, headers
        start, size = int(wanted[1]), len(found.data)
        if start >= size:
            raise _Answer(416, 'The range is not in the object.')
        end = min(int(wanted[2] or size - 1), size - 1)
        headers['Content-Range'] = f'bytes {start}-{end}/{size}'
        return 206, found.data[start:end + 1], headers

    def _delete(self, bucket, name):
        self._found(bucket, name)
        self._check_conditions(bucket, name)
        del self.emulator.buckets[bucket][name]
        return 204, b'', {}

    def _copy(self, bucket, name, to_bucket, to_name):
        made = self._store(to_bucket, to_name, self._found(bucket, name).data)
        size = len(made.data)
        meta = self._meta(to_bucket, to_name, made)
        if 'copyTo' in self.path:
            return self._json(meta)
        return self._json({
            'kind': 'storage#rewriteResponse', 'totalBytesRewritten': str(size),
            'objectSize': str(size), 'done': True, 'resource': meta})

    def _store(self, bucket, name, data):
        self._check_conditions(bucket, name)
        if name in self.emulator.buckets[bucket]:
            # Overwriting needs this besides.
            self.request_log.permission = 'storage.objects.create and .delete'
        return self.emulator.put(name, data, bucket)

    def _upload(self, bucket):
        kind, name = self.query['uploadType'], self.query.get('name')
        if kind == 'multipart':
            message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
                b'Content-Type: ' + self.headers['Content-Type'].encode() + b'\r\n\r\n'
                + self.body)
            meta, data = (part.get_payload(decode=True) for part in message.iter_parts())
            name = name or json.loads(meta)['name']
            self.request_log.name = name
            # The parser takes the line's end before the boundary off, and no more.
            return self._json(self._meta(bucket, name, self._store(bucket, name, data)))
        if kind == 'media':
            return self._json(self._meta(
                bucket, name, self._store(bucket, name, self.body)))
        name = name or json.loads(self.body or b'{}')['name']
        session = str(len(self.emulator.sessions))
        self.emulator.sessions[session] = (name, bytearray())
        self.request_log.name = name
        # At the host that was asked, by the way that was come.
        scheme = 'https' if isinstance(self.connection, ssl.SSLSocket) else 'http'
        return 200, b'', {'Location': (
            f'{scheme}://{self.headers["Host"]}/upload/storage/v1/b/'
            f'{urllib.parse.quote(bucket)}/o?uploadType=resumable&upload_id={session}')}

    def _resume(self, bucket):
        name, data = self.emulator.sessions[self.query['upload_id']]
        self.request_log.name = name
        asked = re.fullmatch(r'bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)',
                             self.headers.get('Content-Range') or 'bytes */*')
        if asked[1] is not None:
            data[int(asked[1]):] = self.body
        elif self.body:
            data[:] = self.body
        if asked[3] == '*' and asked[1] is not None or (
                asked[3] != '*' and len(data) < int(asked[3])):
            headers = {'Range': f'bytes=0-{len(data) - 1}'} if data else {}
            return 308, b'', headers
        return self._json(self._meta(bucket, name, self._store(bucket, name, data)))
