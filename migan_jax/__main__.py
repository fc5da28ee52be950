"""The commands of migan_jax, wherever it is installed:  migan COMMAND FLAGS.

{commands}

migan COMMAND --help lists the flags of one; migan --version tells which this is.
`python -m migan_jax COMMAND` is the same, and so is the file of that name in tools/.
"""

import pathlib
import runpy
import sys

from migan_jax.version import __version__

TOOLS = pathlib.Path(__file__).parent / 'tools'
COMMANDS = {
    'train': 'trains a model, from a config',
    'inpaint': 'fills the holes of pictures',
    'evaluate': 'measures a model, or pictures that any method painted',
    'make_masks': 'draws masks for pictures',
    'from_torch': 'turns published weights into a checkpoint',
    'to_torch': 'exports a checkpoint to ONNX, PyTorch and LiteRT',
    'fetch': 'fetches published weights by name, or lists them',
    'push': 'uploads a saved model to a hub',
    'compare': 'sets two evaluations side by side',
    'serve_web': 'serves the page that inpaints in a browser',
    'prepare_metrics': 'puts the networks of FID and LPIPS into one file',
}


def main() -> None:
    """Runs the command that sys.argv names, as a program of its own."""
    name = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if name == '--version':
        print(f'migan_jax {__version__}')
    elif name in ('-h', '-help', '--help'):
        print(__doc__.strip().format(commands='\n'.join(
            f'  {command:<16} {text}' for command, text in COMMANDS.items())))
    elif name not in COMMANDS:
        sys.exit(f'error: no command {name}; there are {", ".join(COMMANDS)}')
    elif name == 'train':
        del sys.argv[1]
        runpy.run_module('migan_jax.main', run_name='__main__', alter_sys=True)
    else:
        # As python does for a script, so that tools find each other.
        sys.path.insert(0, str(TOOLS))
        sys.argv[:2] = [str(TOOLS / f'{name}.py')]
        runpy.run_path(sys.argv[0], run_name='__main__')


if __name__ == '__main__':
    main()
