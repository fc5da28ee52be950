"""Where a tool may write: not among what it reads, and only where it can."""

import os
import tempfile

from migan_jax.images import shown


def check_apart(what, files, inputs, overwrite=False):
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


def check_folder(path):
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


def check_files(paths):
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
