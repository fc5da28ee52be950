"""Command line manners: help that fits a screen, errors in one line, exit codes.

Exit codes: 0 fine; 1 refused or failed, and stderr says why; 130 stopped with Ctrl-C.
Nothing is coloured.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
import contextlib
import os
import re
import sys
import tempfile
import textwrap
from typing import NoReturn

from absl import app
from absl import flags

from migan_jax import config_names
from migan_jax import extras
from migan_jax import quiet
from migan_jax.storage import only_on_disk
from migan_jax.storage import shown

INTERRUPTED = 130

# Flags whose path may be on Cloud Storage; a config's fields are checked by its run.
_ON_BUCKETS = ('checkpoint', 'workdir', 'config')

_WIDTH = 96
# Where the descriptions of flags begin.
_COLUMN = 26


class Failed(Exception):
    """Something that the caller can put right; each line of the message is one error."""


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """`extras.needs` around the imports of a program, which ends with that line."""
    try:
        with extras.needs(extra, 'This command'):
            yield
    except extras.MissingExtra as error:
        sys.exit(f'error: {error}')


def run(main: Callable[[list[str]], int | None], arguments: bool = False) -> NoReturn:
    """Runs a tool as a program; does not return.

    ValueError and OSError, which tools raise for what they are given, become lines on
    stderr that begin with 'error:'. Any other exception becomes one line with its
    type. `--debug` shows the traceback of either.

    Args:
      main: function of argv without flags, as of `app.run`; what it returns is the
        exit code, None is 0.
      arguments: whether it takes arguments besides flags.
    """
    flags.DEFINE_bool('debug', False, 'Show the traceback of an error.',
                      module_name=sys.argv[0])
    quiet.logs_of_programs()
    app.run(lambda argv: _guarded(main, argv, arguments), flags_parser=_parse)


def _parse(argv):
    """Parses flags; prints help, or says in one line what is wrong with them."""
    if {'-h', '-help', '--help'} & set(argv[1:]):
        try:
            print(help_text())
        except BrokenPipeError:
            _forget_stdout()
        sys.exit(0)
    if 'config' in flags.FLAGS:
        try:
            argv = config_names.with_paths(argv)
        except ValueError as error:
            sys.exit(f'error: {error}')
    try:
        rest = flags.FLAGS(argv)
    # Not only flags.Error: a config file is Python, and is run by its flag.
    except Exception as error:
        if '--debug' in argv:
            raise
        unknown = config_names.unknown_field(error)
        text = unknown or _one_line(error)
        if missing := re.match(r'flag --(\w+)=None: ', text):
            text = f'--{missing[1]} is missing'
        elif not unknown and not isinstance(error, (flags.Error, OSError)):
            text = f'{type(error).__name__}: {text}'
        sys.exit(f'error: {text} (--help lists the flags)')
    # Before a tool makes a folder of the name gs:.
    for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]):
        if flag.name not in _ON_BUCKETS and (
                error := only_on_disk(f'--{flag.name}', flag.value)):
            sys.exit(f'error: {error}')
    return rest


def _guarded(main, argv, arguments):
    """Calls main; exceptions become lines and an exit code."""
    try:
        if len(argv) > 1 and not arguments:
            raise Failed(f'unexpected argument {argv[1]}; all input is given by flags')
        code = main(argv)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print('error: interrupted', file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does.
        _forget_stdout()
        return 1
    except Exception as error:
        if flags.FLAGS.debug:
            raise
        if isinstance(
                error, (Failed, ValueError, OSError, extras.MissingExtra)) and str(error):
            lines = str(error).splitlines()
        elif isinstance(error, MemoryError):
            lines = ['out of memory: ' + (_one_line(error) or 'use smaller pictures, a '
                                          'smaller batch or fewer images at a time')]
        else:
            lines = [f'{type(error).__name__}: {_one_line(error)} (not foreseen; '
                     '--debug shows the traceback)']
        for line in lines:
            print(f'error: {line}', file=sys.stderr)
        return 1


def _one_line(error):
    return ' '.join(str(error).split())


def _forget_stdout():
    """Keeps the interpreter from complaining at its end that stdout is closed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def help_text() -> str:
    """The program's docstring, and its own flags with a line or two for each."""
    program = sys.modules['__main__']
    lines = [(program.__doc__ or '').strip(), '', 'Flags:']
    for flag in sorted(flags.FLAGS.get_key_flags_for_module(sys.argv[0]),
                       key=lambda flag: (flag.name == 'debug', not _required(flag))):
        lines += _help_of(flag)
    return '\n'.join(lines)


def _required(flag):
    # absl keeps `required=True` in the validators of FLAGS, not in the flag.
    return any('must have a value other than None' in str(validator.message)
               for validator in flag.validators)


def _help_of(flag):
    """Lines of one flag."""
    kind = flag.flag_type()
    name = f'  --[no]{flag.name}' if flag.boolean else f'  --{flag.name}='
    text = ' '.join((flag.help or '').split())
    if _required(flag):
        text = f'(required) {text}'
    elif not flag.boolean and flag.default not in (None, '', []) and kind != 'config object':
        shown = ','.join(flag.default) if isinstance(flag.default, list) else flag.default
        text += f' [{shown}]'
    wrapped = textwrap.wrap(text, _WIDTH - _COLUMN) or ['']
    if len(name) >= _COLUMN:
        return [name, *(' ' * _COLUMN + line for line in wrapped)]
    return [name.ljust(_COLUMN) + wrapped[0],
            *(' ' * _COLUMN + line for line in wrapped[1:])]


# So much of what was compiled is kept; what was used longest ago goes first.
_COMPILED_BYTES = 2**28


def keep_compiled(folder: str) -> None:
    """Keeps what JAX compiles, for the next process to find.

    $JAX_COMPILATION_CACHE_DIR goes before; it is read by JAX. For the programs to call,
    not for the library.

    Args:
      folder: compiled functions go into `compiled` in it. Where it can't be written to,
        nothing is kept.
    """
    import jax

    if os.environ.get('JAX_COMPILATION_CACHE_DIR'):
        return
    folder = os.path.join(folder, 'compiled')
    try:
        check_folder(folder)
    except ValueError:
        return   # it would only have saved time
    jax.config.update('jax_compilation_cache_dir', folder)
    # With a limit, JAX locks the folder: half-written entries can end who reads them.
    jax.config.update('jax_compilation_cache_max_size', _COMPILED_BYTES)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


# --- where results may go ----------------------------------------------------


def check_apart(what: str, files: Iterable[str | os.PathLike],
                inputs: Mapping[str, str | os.PathLike | None], overwrite: bool = False
                ) -> None:
    """Refuses results that would lie among the inputs, links followed.

    There they would replace inputs, or pass for inputs the next time.

    Args:
      what: the flag that says where results go, such as '--out=DIR', for messages.
      files: paths that will be written.
      inputs: {flag: path of a file or folder that is read}; '' is none.
      overwrite: True allows it.

    Raises:
      ValueError: one line for each input that has results in it.
    """
    if overwrite:
        return
    errors = []
    targets = [os.path.realpath(file) for file in files]
    for flag, path in inputs.items():
        if not path:
            continue
        root = os.path.realpath(path)
        inside = [file for file in targets
                  if file == root or file.startswith(os.path.join(root, ''))]
        if root in inside:
            errors.append(f'{shown(what)}: a result would replace the input '
                          f'{shown(path)}; choose a place outside, or pass --overwrite')
        elif inside:
            errors.append(
                f'{shown(what)}: {shown(inside[0])} would lie in --{flag}={shown(path)}'
                ', replace a file there or pass for one the next time; choose a place '
                'outside, or pass --overwrite')
    if errors:
        raise ValueError('\n'.join(errors))


def check_folder(path: str | os.PathLike) -> None:
    """Makes a folder and finds out, before the work, whether it can be written to.

    Raises:
      ValueError: it can not be made or written to.
    """
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(f'{shown(path)}: cannot write into this folder '
                         f'({error.strerror})') from error


def check_files(paths: Collection[str | os.PathLike]) -> None:
    """As `check_folder`, for the folders of files that will be written.

    Raises:
      ValueError: also where a folder has the name of such a file.
    """
    for folder in dict.fromkeys(os.path.dirname(os.path.abspath(p)) for p in paths):
        check_folder(folder)
    for path in paths:
        if os.path.isdir(path):
            raise ValueError(
                f'{shown(path)} is a folder; a file is to be written there')
