"""Manners of every tool: help that fits a screen, one-line errors, exit codes."""

import pathlib

import pytest

from docs_test import Sandbox
from docs_test import shims   # a fixture: pylint: disable=unused-import
from migan_jax import cli

ROOT = pathlib.Path(__file__).parents[1]
# Every program: a new tool is covered as soon as it is there.
TOOLS = sorted(path.name for path in (ROOT / 'tools').glob('*.py')
               if "__name__ == '__main__'" in path.read_text())
PROGRAMS = ['-m migan_jax.main', *(f'{ROOT}/tools/{name}' for name in TOOLS)]
HEIGHT, WIDTH = 50, 100


@pytest.fixture(scope='module')
def sandbox(tmp_path_factory, shims):
    return Sandbox(tmp_path_factory.mktemp('cli'), *shims)


@pytest.mark.parametrize('program', PROGRAMS)
def test_help_fits_a_screen(program, sandbox):
    code, out, err = sandbox.ask(f'python {program} --help')
    assert (code, err) == (0, '')
    lines = out.splitlines()
    assert len(lines) <= HEIGHT, len(lines)
    assert max(map(len, lines)) <= WIDTH
    shown = program.removeprefix(f'{ROOT}/')
    assert f'python {shown} ' in out, 'no example'
    assert '--[no]debug' in out
    # Flags of libraries are not shown, colours neither.
    assert '--[no]alsologtostderr' not in out and '\x1b' not in out


@pytest.mark.parametrize('program', PROGRAMS)
def test_a_wrong_flag_is_one_line(program, sandbox):
    code, out, err = sandbox.ask(f'python {program} --no_such_flag=1')
    assert (code, out) == (1, '')
    line, = err.splitlines()
    assert line.startswith("error: Unknown command line flag 'no_such_flag'")
    assert '--help' in line


@pytest.mark.parametrize('program', PROGRAMS)
def test_a_wrong_value_is_one_line(program, sandbox):
    code, out, err = sandbox.ask(f'python {program} --debug=perhaps')
    assert (code, out) == (1, '')
    # The value is wrong, and so --debug is not on.
    line, = err.splitlines()
    assert line.startswith('error: flag --debug=perhaps: ')


_TOOL = '''
"""Fails as told.

    python fail.py --how=ValueError
"""
import sys
from absl import flags
from migan_jax import cli
from migan_jax import extras

def main(argv):
    how = flags.FLAGS.how
    if how == 'number':
        return 3
    if how == 'much':
        for i in range(100_000):
            print(i)
        return
    if how == 'nothing':
        return
    errors = {'ValueError': ValueError, 'OSError': OSError, 'KeyError': KeyError,
              'MemoryError': MemoryError, 'Failed': cli.Failed,
              'MissingExtra': extras.MissingExtra,
              'KeyboardInterrupt': KeyboardInterrupt}
    raise errors[how]('one\\ntwo')

if __name__ == '__main__':
    flags.DEFINE_string('how', None, 'What happens.', required=True)
    cli.run(main)
'''


@pytest.fixture(scope='module')
def failing(sandbox):
    (sandbox.folder / 'fail.py').write_text(_TOOL)
    return lambda flags: sandbox.ask(f'python fail.py {flags}')


@pytest.mark.parametrize('how, code, lines', [
    ('ValueError', 1, ['error: one', 'error: two']),
    ('OSError', 1, ['error: one', 'error: two']),
    ('Failed', 1, ['error: one', 'error: two']),
    ('MissingExtra', 1, ['error: one', 'error: two']),
    ('MemoryError', 1, ['error: out of memory: one two']),
    ('KeyError', 1, ["error: KeyError: 'one\\ntwo' (not foreseen; --debug shows the "
                     'traceback)']),
    ('KeyboardInterrupt', cli.INTERRUPTED, ['error: interrupted']),
    ('number', 3, []), ('nothing', 0, [])])
def test_exit_codes(how, code, lines, failing):
    assert failing(f'--how={how}') == (code, '', ''.join(f'{line}\n' for line in lines))


def test_debug_shows_the_traceback(failing):
    code, _, err = failing('--how=ValueError --debug')
    assert code == 1 and 'Traceback' in err and "ValueError: one" in err


def test_required_and_unexpected_arguments(failing):
    assert failing('') == (1, '', 'error: --how is missing (--help lists the flags)\n')
    assert failing('--how=nothing more') == (
        1, '', 'error: unexpected argument more; all input is given by flags\n')


def test_places_on_a_bucket_are_refused_where_nothing_would_be_found(failing):
    code, out, err = failing('--how=gs://bucket/results')
    assert (code, out) == (1, '')
    only, = err.splitlines()
    assert only.startswith('error: --how=gs://bucket/results: expected a path on a disk')


def test_a_reader_that_goes_away(failing):
    """`tool | head -1` ends without a word."""
    code, out, err = failing('--how=much | head -1')
    assert (code, out, err) == (0, '0\n', '')


_CONFIG = '''
from configs import default


def get_config():
    config = default.get_config()
    {line}
    return config
'''


@pytest.mark.parametrize('line, arguments, field', [
    ('config.train.batchsize = 8', '', 'batchsize'),
    ('config.loss.distilation_weight = 0.0', '', 'distilation_weight'),
    ('config.optimizer = None', '', 'optimizer'),
    ('pass', '--config.data.pth=photos', 'pth'),
])
def test_unknown_config_fields_are_refused(line, arguments, field, sandbox):
    (sandbox.folder / 'mine.py').write_text(_CONFIG.format(line=line))
    workdir = sandbox.folder / 'refused'
    code, out, err = sandbox.ask(
        f'python -m migan_jax.main --config=mine.py --workdir={workdir} {arguments}')
    assert (code, out) == (1, '')
    only, = err.splitlines()
    assert only.startswith('error: ') and field in only
    assert not workdir.exists()


def test_a_missing_extra_is_named():
    with pytest.raises(SystemExit, match=r'needs the package no_such_module, which is '
                                         r'not installed: .*\[export\]'):
        with cli.needs('export'):
            import no_such_module   # pylint: disable=unused-import
    with pytest.raises(ModuleNotFoundError):
        with cli.needs('export'):
            import migan_jax.no_such_module   # a bug, not an extra
