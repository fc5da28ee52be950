"""The metric networks on composites: Inception features and LPIPS.

What training's evaluation and `tools/evaluate.py` share. The functions of one batch
run inside jit and pmap; statistics over images are taken on the host.
"""

from collections.abc import Collection
import io
import json
import os
from typing import Any, NamedTuple

from flax import traverse_util
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from migan_jax import checkpoint as checkpoint_lib
from migan_jax.evaluation import figures
from migan_jax.data import npz_files
from migan_jax.evaluation.metrics import fid
from migan_jax.evaluation.metrics import inception
from migan_jax.evaluation.metrics import lpips
from migan_jax.evaluation.metrics import weights
from migan_jax.model import io as model_io
from migan_jax import extras
from migan_jax import storage
from migan_jax.weights import table

# In a file of networks the array of this name holds what the file says about itself.
_ABOUT = 'about'
# Room for that and for the headers of all arrays; more than enough.
_ABOUT_BYTES = 2**20
_FORMAT = 'migan_jax metric networks, version 1'


class Networks(NamedTuple):
    """Parameters of the metric networks, a pytree; None where the files are absent."""
    inception: Any = None
    lpips: Any = None


class Loaded(NamedTuple):
    """What `load_networks` found.

    Attributes:
      networks: `Networks`, host arrays.
      files: {file name: sha256} of the files in use.
      missing: {metric: sentence} for those left out.
    """
    networks: Networks
    files: dict[str, str]
    missing: dict[str, str]


def load_networks(protocol: inception.Protocol, folder: str = '',
                  wanted: Collection[str] | None = None, fetch: bool = False) -> Loaded:
    """Reads the weight files that are there.

    Args:
      protocol: of `inception.PROTOCOLS`.
      folder: with the files; `fetching.cache_folder()` if empty.
      wanted: metrics to be computed; all by default. Files that only others need are
        not opened.
      fetch: download the files that are not there.

    Returns:
      `Loaded`.

    Raises:
      ValueError: a file has the wrong hash, or does not hold what it should.
      MissingExtra: files are there and the package that reads them is not installed.
    """
    wanted = figures.NAMES if wanted is None else wanted
    files, missing = {}, {}

    def read(*searches):
        """Tensors and path of the file that each search finds."""
        found, sentences = [], []
        for candidates in searches:
            try:
                found.append(weights.find(candidates, folder, fetch))
            except weights.MissingWeights as error:
                sentences.append(str(error))
        if sentences:
            raise weights.MissingWeights('; and '.join(sentences))
        files.update({os.path.basename(file.path): file.sha256 for file in found})
        return [(_read_tensors(file.path), file.path) for file in found]

    def load_inception():
        ((tensors, path),) = read(weights.INCEPTIONS[protocol.name])
        return inception.from_tensors(tensors, path)

    def load_lpips():
        (trunk, path), (linear, other) = read(
            table.ALEXNETS, (table.LPIPS_LINEAR,))
        return lpips.from_tensors(trunk, linear, f'{path} and {other}')

    params = []
    for network, load in (('inception', load_inception), ('lpips', load_lpips)):
        needed = [name for name in figures.needing(network) if name in wanted]
        try:
            params.append(load() if needed else None)
        except weights.MissingWeights as error:
            params.append(None)
            names = ', '.join(metric.upper().replace('_', '-') for metric in needed)
            sentence = f'{names} left out: {error}'
            missing.update(dict.fromkeys(needed, sentence))
    return Loaded(Networks(*params), files, missing)


def _read_tensors(path):
    """Tensors of a PyTorch file, without running code of it."""
    with extras.needs('eval', f'Reading {path}'):
        from migan_jax.data import torch_files

        return torch_files.read_tensors(path)


def abstract_networks() -> Networks:
    """Shapes and dtypes of `Networks` with nothing missing; nothing is computed."""
    key = jax.random.key(0)
    picture = jax.ShapeDtypeStruct((1, inception.SIDE, inception.SIDE, 3), jnp.float32)
    return Networks(
        inception=jax.eval_shape(inception.Inception().init, key, picture)['params'],
        lpips=jax.eval_shape(lpips.Lpips().init, key, picture, picture)['params'])


def write_networks(path: os.PathLike | str, protocol: inception.Protocol,
                   loaded: Loaded) -> None:
    """Writes networks as plain arrays, to be read where there is no PyTorch.

    An .npz file: the parameters under names such as 'inception/Conv2d_1a_3x3/kernel'
    and, as 'about', JSON with the protocol, the source files and what is missing.

    Args:
      path: of the file, written atomically.
      protocol: of `inception.PROTOCOLS`, which the networks were loaded for.
      loaded: `Loaded`.
    """
    arrays = traverse_util.flatten_dict(
        {name: params for name, params in loaded.networks._asdict().items()
         if params is not None}, sep='/')
    about = {'format': _FORMAT, 'protocol': protocol.name, 'files': loaded.files,
             'missing': loaded.missing}
    buffer = io.BytesIO()
    np.savez(buffer, **{_ABOUT: json.dumps(about)}, **arrays)
    storage.write_atomically(path, buffer.getvalue())


def _max_bytes():
    """That a file of all networks may expand to."""
    return _ABOUT_BYTES + sum(
        x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract_networks()))


def read_networks(path: os.PathLike | str) -> tuple[inception.Protocol, Loaded]:
    """What `write_networks` wrote.

    Returns:
      protocol of `inception.PROTOCOLS`, `Loaded`.

    Raises:
      ValueError: there is no such file, it is another kind of file or damaged, or the
        arrays in it are not those of the networks; both sides are listed.
    """
    if not os.path.isfile(path):
        raise ValueError(f'{path}: no such file of metric networks; '
                         'tools/prepare_metrics.py writes one.')
    try:
        arrays = npz_files.read(path, _max_bytes())
        about = json.loads(arrays.pop(_ABOUT).item())
        if about['format'] != _FORMAT:
            raise ValueError(f'its format is {about["format"]!r}, not {_FORMAT!r}')
        protocol = inception.PROTOCOLS[about['protocol']]
        files, missing = dict(about['files']), dict(about['missing'])
    except (OSError, ValueError, KeyError, TypeError, AttributeError,
            RecursionError) as error:
        raise ValueError(
            f'{path}: cannot be read as metric networks ({type(error).__name__}: '
            f'{error}); expected a file written by '
            'tools/prepare_metrics.py.') from error
    params = traverse_util.unflatten_dict(arrays, sep='/')
    expected = abstract_networks()._asdict()
    checkpoint_lib.check_same_arrays(
        {name: expected.get(name) for name in params}, params, 'the networks', path)
    wrong = sorted(name for name, x in arrays.items() if x.dtype != np.float32)
    if wrong or not params:
        raise ValueError(f'{path}: expected networks of float32 arrays, got '
                         + (', '.join(f'{name} {arrays[name].dtype}' for name in wrong)
                            or 'no network'))
    return protocol, Loaded(Networks(**params), files, missing)


def as_judged(image: jax.typing.ArrayLike,
              protocol: inception.Protocol) -> jax.typing.ArrayLike:
    """The picture that a protocol measures: rounded to 8 bits by 'stylegan'.

    Args:
      image: f32[B, H, W, 3] in [-1, 1].
      protocol: of `inception.PROTOCOLS`.

    Returns:
      f32[B, H, W, 3].
    """
    if protocol.quantized:
        return model_io.from_uint8(model_io.to_uint8(image))
    return image


def features(networks: Networks, protocol: inception.Protocol,
             image: jax.typing.ArrayLike) -> jax.Array:
    """Inception features of pictures.

    Args:
      networks: `Networks` with an Inception.
      protocol: of `inception.PROTOCOLS`.
      image: f32[B, H, W, 3] in [-1, 1]; clipped.

    Returns:
      f32[B, 2048].
    """
    if protocol.quantized:
        pixels = model_io.to_uint8(image)
    else:
        pixels = jnp.clip(image, -1, 1) * 0.5 + 0.5
    return inception.features(networks.inception, pixels, protocol)


def over_hosts(statistics: fid.Statistics) -> fid.Statistics:
    """`fid.Statistics` of all hosts together, the same on each."""
    if jax.process_count() == 1:
        return statistics
    packed = multihost_utils.process_allgather(fid.pack(statistics))
    return fid.merge(*(fid.unpack(words) for words in packed))
