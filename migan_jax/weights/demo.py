"""The model that comes with a clone, and with the installed package."""

import pathlib

from migan_jax.weights import bundles

# What `migan_jax.load` and --checkpoint call it.
NAME = 'demo'


def folder() -> pathlib.Path:
    """Where it lies: a folder of `bundles.save_bundle`, with the photographs' authors.

    Raises:
      bundles.BundleError: neither the clone nor the package has it.
    """
    package = pathlib.Path(__file__).parents[1]
    for place in (package / 'models' / NAME, package.parent / 'models' / NAME):
        if place.is_dir():
            return place
    raise bundles.BundleError(
        f'models/{NAME} is missing beside {package}: it comes with a clone of the '
        'repository and with the installed package; get one of them anew.')
