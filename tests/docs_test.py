"""Every snippet of README.md and docs/ is executed, with a tiny model.

Each document gets a folder of its own with small pictures, masks, trained models under the
names that the documents use, and the tools. Its `bash` and `python` blocks run there
one after the other, as a reader would run them.

Commands start in a process that has imported the libraries already and forks
(`serve`): importing them anew would take longer than everything else.
"""

import array
import ast
import graphlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile

import pytest

from processes import QUICK_TO_COMPILE

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = ['README.md', *(f'docs/{path.name}' for path in (ROOT / 'docs').glob('*.md'))]
EXECUTED = ('bash', 'python')
# What the other blocks are: for another machine or device, or nothing to run. web_test.py
# runs the `js` block in a browser.
SHOWN = ('console', 'js', 'kotlin', 'swift', 'text', 'mermaid', 'json')
# It takes minutes: with --slow only.
SLOW = ('docs/your_data.md',)

# Commands whose flags are parsed and checked, and that do no more here.
PARSED_ONLY = {
    'tools/prepare_metrics.py': 'needs published weight files; prepare_metrics_test.py',
    '--config.eval.networks=': 'needs its output, and over 2048 images; '
                               'prepare_metrics_test.py',
    'tools/tpu_compile.py': 'needs the TPU compiler; tpu_compile_test.py',
    '--coordinator_address=': 'two processes of one run; distributed_test.py',
    '--what=data': 'times thousands of pictures again and again; benchmark_data_test.py',
    '--what=exports': 'published widths take minutes; benchmark_exports_test.py',
    '--models=': 'published widths take minutes; benchmark_models_test.py',
}
# Programs that are not run at all: they install, or need an account.
STUBS = {
    'tools/quickstart.sh': 'installs 3 GB, trains 7 minutes',
    'tools/test.sh': 'installs 3 GB, runs this file',
    'pip': 'installs',
}
# Names of a reader's own things -> what the sandbox has.
SUBSTITUTED = {
    '/path/to/photos': 'photos',
    '/path/to/ffhq.zip': 'ffhq.zip',
    'gs://your-bucket/tensorflow_datasets': 'photos --config.data.source=folder',
    '--resolution=256': '--resolution=16',
    '--resolution=512': '--resolution=16',
    '512, 512': '16, 16',
    'python tools/tally_study.py': 'python answer.py; python tools/tally_study.py',
}
# Every config of the sandbox is the published one made small: the network, and how long
# it trains. Nothing that says what is read or where it lies.
_SHRUNK = {
    'model': dict(
        resolution=16, ch_base=64, ch_max=8, branches=9, dtype='float32',
        # As published weights have it: their layout is used below.
        noise_at_4x4=False, fill=False),
    'model.comodgan': dict(z_dim=8, w_dim=8, mapping_layers=2, global_dim=16),
    'teacher': dict(dtype='float32'),
    'mask': dict(hole_range=(0.05, 0.6), brush_width=(1, 4)),
    'train': dict(kimg=0.004, batch_size=4, d_only_kimg=0.0),
    'eval': dict(batch_size=4, limit=4),
    'log': dict(every_kimg=0.004),
    # Alike in all runs, so that what one has compiled serves the others.
    'optim': dict(g_lr=0.001, g_lazy_interval=4, g_b1=0.0, decay_kimg=0.0,
                  warmup_kimg=0.0),
    'ema': dict(kimg=20.0, rampup=0.0),
    'loss': dict(r1_interval=1000, distillation_min_resolution=8,
                 reconstruction_weight=0.0, adversarial_weight=1.0),
}
_CONFIG = '''
import importlib.util
spec = importlib.util.spec_from_file_location({name!r}, {path!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)


def get_config():
    config = module.get_config()
    for group, fields in {shrunk!r}.items():
        part = config
        for name in group.split('.'):
            part = part[name]
        part.update(fields)
    return config
'''
# Program -> flags that make it small, after those of the document.
APPENDED = {'tools/benchmark.py': ['--repeats=1']}
# Without --slow only this training command is run; of the others flags, config, data
# and teacher are opened and checked, and an untrained checkpoint is written.
TRAINED = '--workdir runs/mine'
PATIENCE_S = 900
# Environment variable with which commands have these settings: 'quick' or 'slow'.
_TINY = 'MIGAN_JAX_DOCS_TEST'


# --- documents ------------------------------------------------------------------


def blocks_of(document):
    """[(language, first line's number, text)] of the fenced blocks."""
    found, language = [], None
    for number, line in enumerate((ROOT / document).read_text().splitlines(), 1):
        if line.startswith('```') and language is None:
            language, begin, lines = line[3:].strip(), number, []
        elif line.startswith('```'):
            found.append((language, begin, '\n'.join(lines) + '\n'))
            language = None
        elif language is not None:
            lines.append(line)
    assert language is None, f'{document}: the block of line {begin} has no end'
    return found


@pytest.mark.parametrize('document', DOCUMENTS)
def test_blocks_say_what_they_are(document):
    for language, line, _ in blocks_of(document):
        assert language in (*EXECUTED, *SHOWN), f'{document}:{line}: {language!r}'


def text_of_all():
    return '\n'.join((ROOT / document).read_text() for document in DOCUMENTS)


@pytest.mark.parametrize('name', [*PARSED_ONLY, *STUBS, *SUBSTITUTED])
def test_exceptions_are_still_needed(name):
    end = '' if name.endswith('=') else r'(?!\w)'
    assert any(re.search(rf'(?<!\w){re.escape(name)}{end}', text)
               for document in DOCUMENTS for language, _, text in blocks_of(document)
               if language in EXECUTED)


@pytest.mark.parametrize('document', DOCUMENTS)
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text()
    for target in re.findall(r'\]\(([^)#\s]+)', text):
        if '://' not in target:
            assert ((ROOT / document).parent / target).exists(), f'{document}: {target}'


def test_pictures_are_small_and_used():
    for picture in (ROOT / 'docs' / 'images').iterdir():
        assert picture.stat().st_size < 250_000, picture.name
        assert f'images/{picture.name}' in text_of_all(), picture.name


def test_imports_point_down():
    """The floors of docs/architecture.md are those of the code, without circles."""
    text = (ROOT / 'docs' / 'architecture.md').read_text()
    floors = {name: int(floor) for floor, name in re.findall(
        r'^\| (\d+) \| `(\w+)` \|', text, re.M)}
    package = ROOT / 'migan_jax'
    wings = {}
    for path in package.rglob('*.py'):
        wing = path.relative_to(package).parts[0].removesuffix('.py')
        wings.setdefault(wing, []).append(path)
    del wings['__init__']
    wings.setdefault('configs', [])     # a link, which is not followed everywhere
    assert sorted(floors) == sorted(wings)
    inside = {}
    for wing, paths in wings.items():
        for path in paths:
            name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
            inside[name] = set()
            for imported in imports_of(path):
                other = imported.split('.')[1]
                if other == wing:
                    inside[name].add(imported)
                else:
                    assert floors[other] < floors[wing], f'{name} imports {imported}'
    # Raises CycleError.
    assert set(graphlib.TopologicalSorter(inside).static_order()) >= set(inside)


def imports_of(path):
    """Modules of the package that a file imports, with their dots."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f'{node.module}.{alias.name}'
                file = ROOT / full.replace('.', '/')
                module = full if file.with_suffix('.py').exists() or file.is_dir() else (
                    node.module)
                if module.startswith('migan_jax.'):
                    found.add(module)
    return found


# --- a process that forks -------------------------------------------------------

# What `python` is in a sandbox: hands its arguments over and waits for the exit code.
_CLIENT = '''#!{python} -SE
import array, json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    message = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    server.sendmsg([len(message).to_bytes(8, 'big')], [
        (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0, 1, 2]))])
    server.sendall(message)
    code = server.recv(1)
sys.exit(code[0] if code else 139)
'''


def serve(address):
    """Runs python commands in forks of this process, for ever."""
    import warnings

    # First: it makes TensorFlow and PyTorch bear each other.
    import migan_jax
    # pylint: disable=unused-import
    import clu.metric_writers
    import jax
    import onnxruntime
    import orbax.checkpoint
    import skimage.data
    import tensorflow
    import torch

    from migan_jax import api
    from migan_jax.training import loop
    from migan_jax.export import exporting
    import tiny

    # Nobody asks this process for exit codes: forks that have ended leave nothing.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # JAX warns of any fork; nothing has run here that would have threads.
    warnings.filterwarnings('ignore', message=r'os\.fork\(\) was called')
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    while True:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        listener.close()
        code = 1
        try:
            code = _command(connection)
        finally:
            try:
                connection.sendall(bytes([code & 255]))
            finally:
                os._exit(code)


def _command(connection):
    """Runs one command of a client in this fork; returns its exit code."""
    import atexit
    import runpy
    import threading
    import traceback

    descriptors = array.array('i')
    begin, ancillary, *_ = connection.recvmsg(8, socket.CMSG_SPACE(3 * 4))
    for _, _, data in ancillary:
        descriptors.frombytes(data)
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    length, message = int.from_bytes(begin, 'big'), b''
    while len(message) < length:
        message += connection.recv(length - len(message))
    arguments, folder, environment = json.loads(message)
    # Commands have children of their own.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)

    module = arguments[0] == '-m'
    program, *flags = arguments[module:]
    line = ' '.join([program, *flags])
    if _TINY in environment:
        if any(text in line for text in PARSED_ONLY):
            _parse_flags_only()
        else:
            flags += APPENDED.get(program, [])
            if environment[_TINY] == 'quick' and TRAINED not in line:
                _check_inputs_only()
    code = 0
    try:
        if module:
            sys.argv = [program, *flags]
            sys.path[0] = folder
            runpy.run_module(program, run_name='__main__', alter_sys=True)
        else:
            sys.argv = [program, *flags]
            sys.path[0] = os.path.dirname(os.path.realpath(program))
            runpy.run_path(program, run_name='__main__')
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:   # what the interpreter itself would do
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _parse_flags_only():
    """Makes absl's `app.run` check the flags and do no more."""
    from absl import app
    from absl import flags

    app.run = lambda main, flags_parser=flags.FLAGS: flags_parser(sys.argv)


def _check_inputs_only():
    """Makes training end where its first compilation would begin."""
    from migan_jax import checkpoint as checkpoint_lib
    from migan_jax.training import checks
    from migan_jax.training import inputs
    from migan_jax.training import loop
    import jax
    import numpy as np
    import tiny

    def normalised(w):
        """Kernels as training makes them, so that outputs stay near [-1, 1]."""
        axes = tuple(range(w.ndim - 1))
        return w / np.sqrt(np.sum(w * w, axes, keepdims=True) + 1e-8) if axes else w

    def check(config, workdir, allow_changes):
        del allow_changes
        checks.check(config)
        inputs.divide(config, workdir)
        inputs.open_teacher(config)
        if config.init_from:
            started = checkpoint_lib.load_config(config.init_from)
            assert started.model.resolution == config.model.resolution
        if not os.path.exists(workdir):
            variables = tiny.random_deployed(config)
            variables['params'] = jax.tree.map(normalised, variables['params'])
            checkpoint_lib.save_deployed(workdir, config, variables)

    loop.train = check


# --- sandboxes ------------------------------------------------------------------


class Sandbox:
    """A folder in which commands of documents run."""

    def __init__(self, folder, shims, environment, tiny=None):
        self.folder = folder
        self._environment = environment | ({_TINY: tiny} if tiny else {}) | {
            'PATH': f'{shims}:{os.environ["PATH"]}', 'HOME': str(folder / 'home')}

    def bash(self, text, what):
        script = f'set -eu\n{text}\nfor job in $(jobs -p); do wait "$job"; done\n'
        self._run(['bash', '-c', script], what)

    def python(self, text, what):
        block = self.folder / 'block.py'
        block.write_text(text)
        self._run(['python', str(block)], what)

    def ask(self, line):
        """Exit code, stdout and stderr of a command."""
        result = subprocess.run(
            ['bash', '-c', line], cwd=self.folder, env=self._environment, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S)
        return result.returncode, result.stdout, result.stderr

    def _run(self, command, what):
        # The path in which the program is looked for is the sandbox's.
        program = shutil.which(command[0], path=self._environment['PATH'])
        result = subprocess.run(
            [program, *command[1:]], cwd=self.folder, env=self._environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=PATIENCE_S)
        assert result.returncode == 0, (
            f'{what}: exit code {result.returncode}\n{result.stdout[-6000:]}')
        return result.stdout


def substituted(text):
    for name, replacement in SUBSTITUTED.items():
        text = text.replace(name, replacement)
    return text


def write_executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture(scope='module')
def shims(tmp_path_factory):
    """Folder with `python` and stubs, and a server behind it."""
    folder = tmp_path_factory.mktemp('shims')
    # Short: addresses of sockets may have about 100 characters.
    address = f'/tmp/migan_jax_docs.{os.getpid()}'
    environment = os.environ | {
        'XLA_FLAGS': QUICK_TO_COMPILE,
        'JAX_PLATFORMS': 'cpu', 'TF_CPP_MIN_LOG_LEVEL': '3', 'PYTHONPATH': str(ROOT),
        'JAX_COMPILATION_CACHE_DIR': str(folder / 'xla'),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
        'MIGAN_JAX_CACHE': str(folder / 'no_weights')}
    server = subprocess.Popen([sys.executable, __file__, address], env=environment)
    try:
        while not os.path.exists(address):
            assert server.poll() is None, 'the server has ended'
            time.sleep(0.1)
        write_executable(folder / 'python',
                         _CLIENT.format(python=sys.executable, address=address))
        for name in STUBS:
            if '/' not in name:
                write_executable(folder / name, '#!/bin/sh\nexit 0\n')
        yield folder, environment
    finally:
        server.kill()
        server.wait()
        pathlib.Path(address).unlink(missing_ok=True)


def place_tools(folder):
    """The parts of a clone that commands name."""
    (folder / 'home').mkdir(parents=True)
    (folder / 'configs').mkdir()
    for path in (ROOT / 'configs').glob('[!_]*.py'):
        (folder / 'configs' / path.name).write_text(_CONFIG.format(
            name=path.stem, path=str(path), shrunk=_SHRUNK))
    (folder / 'docs').mkdir()
    (folder / 'docs/images').symlink_to(ROOT / 'docs/images')
    (folder / 'tools').mkdir()
    for path in (ROOT / 'tools').glob('*.*'):
        if f'tools/{path.name}' not in STUBS:
            (folder / 'tools' / path.name).symlink_to(path)
    for name in STUBS:
        if '/' in name:
            assert (ROOT / name).exists()
            write_executable(folder / name, '#!/bin/sh\nexit 0\n')
    write_executable(folder / '.venv' / 'bin' / 'activate', '')


_PICTURES = '''
import os
import skimage.data
from PIL import Image
from PIL import ImageDraw

side = 16
for folder in ('photos', 'masks', 'masks_white_is_hole', 'lama', 'migan', 'places_val'):
    os.makedirs(folder)
for i, name in enumerate(('astronaut', 'cat', 'coffee', 'rocket')):
    picture = getattr(skimage.data, {'cat': 'chelsea'}.get(name, name))()
    picture = Image.fromarray(picture).resize((side, side))
    for folder in ('photos', 'lama', 'migan', 'places_val'):
        picture.save(f'{folder}/{name}.png')
    for folder, known in (('masks', 255), ('masks_white_is_hole', 0)):
        mask = Image.new('L', (side, side), known)
        ImageDraw.Draw(mask).rectangle((4, 3 + i, 9, 9), fill=255 - known)
        mask.save(f'{folder}/{name}.png')
'''

_LAMA = '''
import torch

class Lama(torch.nn.Module):
    def forward(self, image, mask):
        return image * (1 - mask) + 0.5 * mask

torch.jit.script(Lama()).save('big-lama.pt')
'''

# A participant of a study, who always prefers what is on the left.
_ANSWER = '''
import json

key = json.load(open('study.key.json'))
answers = {'study': key['study'], 'answers': {pair: 'left' for pair in key['pairs']}}
json.dump(answers, open('answers-1.json', 'w'))
'''


@pytest.fixture(scope='module')
def template(tmp_path_factory, shims):
    """A folder with everything that the documents take for granted."""
    folder = tmp_path_factory.mktemp('template')
    place_tools(folder)
    sandbox = Sandbox(folder, *shims, tiny='quick')
    sandbox.python(_PICTURES, 'pictures')
    sandbox.python(_LAMA, 'LaMa')
    with zipfile.ZipFile(folder / 'ffhq.zip', 'w') as archive:
        for path in sorted((folder / 'photos').iterdir()):
            archive.write(path, path.name)
    sandbox.bash('''
        python -m migan_jax.main --config configs/quickstart.py --workdir runs/quickstart
        python tools/to_torch.py --checkpoint=runs/quickstart --out=export
        python -m migan_jax.main --config configs/quickstart_adversarial.py \\
            --workdir runs/published
        python tools/to_torch.py --checkpoint=runs/published --formats=pt --out=published
        mv published/migan.pt migan_256_places2.pt
        cp export/migan.onnx .
        python -m migan_jax.main --config configs/comodgan_quickstart.py \\
            --workdir runs/comodgan_quickstart
        python tools/to_torch.py --checkpoint=runs/comodgan_quickstart --formats=pt \\
            --out=teacher
        mv teacher/comodgan.pt comodgan_256_places2.pt
        for name in mine places512; do cp -r runs/quickstart runs/$name; done
        python tools/from_torch.py --kind=migan --checkpoint=migan_256_places2.pt \\
            --out=models/places256
    ''', 'template')
    (folder / 'block.py').unlink()
    (folder / 'answer.py').write_text(_ANSWER)
    return folder


# What a document's readers have before they begin: the rest of the template is moved out
# of the way, as its commands are to make it.
_MADE_BY = {
    'README.md': ['models', 'runs/mine'],
    'docs/your_data.md': ['runs/mine'],
    'docs/getting_started.md': ['photos', 'masks', 'models', 'export'],
    'docs/converting.md': ['models', 'export', 'migan.onnx'],
    'docs/teachers.md': ['models', 'runs/comodgan_quickstart'],
}


@pytest.mark.parametrize('document', [
    pytest.param(document, marks=pytest.mark.slow) if document in SLOW else document
    for document in DOCUMENTS
    if any(language in EXECUTED for language, *_ in blocks_of(document))])
def test_snippets(document, tmp_path, template, shims, request):
    folder = tmp_path / 'clone'
    shutil.copytree(template, folder, symlinks=True)
    for name in _MADE_BY.get(document, ()):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    slow = request.config.getoption('--slow')
    sandbox = Sandbox(folder, *shims, tiny='slow' if slow else 'quick')
    for language, line, text in blocks_of(document):
        what = f'{document}:{line}'
        if language == 'bash':
            sandbox.bash(substituted(text), what)
        elif language == 'python':
            sandbox.python(substituted(text), what)


if __name__ == '__main__':
    serve(sys.argv[1])
