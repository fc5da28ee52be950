"""What JAX traced and lowered, kept for the next process beside what it compiled.

Of a small model, tracing and lowering take longer than loading what was compiled.
"""

from collections.abc import Callable
import functools
import hashlib
import os
import pathlib
from typing import Any

import jax
from jax import export

from migan_jax import storage

# Files that are kept, 0.2 MB each; those written longest ago go first.
MOST = 64
# Of JAX's settings, those that change what is traced.
_SETTINGS = ('jax_enable_x64', 'jax_default_matmul_precision', 'jax_default_prng_impl',
             'jax_threefry_partitionable', 'jax_numpy_dtype_promotion')
_DIGEST = hashlib.sha256().digest_size


def kept(function: Callable[..., Any], name: str, sources: pathlib.Path
         ) -> Callable[..., Any]:
    """A jitted function, or what an earlier process lowered of it.

    Nothing is kept where JAX keeps nothing of what it compiles (see `cli.keep_compiled`),
    or keeps it in a bucket.

    Args:
      function: jitted; its arguments are trees of arrays.
      name: whatever the function depends on but its arguments and its code.
      sources: folder of the modules that the function's code is in. Kept programs of
        other code are not used.

    Returns:
      A function with the same arguments and results.
    """
    folder = jax.config.jax_compilation_cache_dir
    if not folder or storage.is_bucket(folder):
        return function
    settings = [getattr(jax.config, setting) for setting in _SETTINGS]
    common = hashlib.sha256(repr(
        (name, jax.__version__, jax.default_backend(), settings)).encode())
    for path in sorted(sources.rglob('*.py')):
        common.update(path.read_bytes())

    @functools.cache
    def program(structure, shapes):
        digest = common.copy()
        digest.update(repr((structure, shapes)).encode())
        path = pathlib.Path(folder) / 'lowered' / digest.hexdigest()
        content = _read(path)
        if content is None:
            arguments = jax.tree.unflatten(
                structure, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
            content = bytes(export.export(function)(*arguments).serialize())
            _write(path, content)
        exported = export.deserialize(bytearray(content))
        # Called, and logged, like the function.
        return jax.jit(functools.wraps(function)(lambda *args: exported.call(*args)))

    def call(*arguments):
        leaves, structure = jax.tree.flatten(arguments)
        return program(structure, tuple((x.shape, x.dtype) for x in leaves))(*arguments)

    return call


def _read(path):
    """What `_write` wrote; None where it is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, content = content[:_DIGEST], content[_DIGEST:]
    return content if hashlib.sha256(content).digest() == digest else None


def _write(path, content):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.write_atomically(path, hashlib.sha256(content).digest() + content)
        files = sorted(path.parent.iterdir(), key=os.path.getmtime)
        for old in files[:-MOST]:
            old.unlink(missing_ok=True)
    except OSError:
        return   # it would only have saved time
