"""PyTorch's files: published state dicts and TorchScript, MI-GAN's and Co-Mod-GAN's.

PyTorch is imported when one is written or run: other formats do without it.
"""

import collections
from collections.abc import Callable, Mapping
import json
import os
import pathlib
import re
from typing import Any, TYPE_CHECKING

import ml_collections
import numpy as np

from migan_jax import quiet
from migan_jax.export import comparison
from migan_jax.weights import torch_map
from migan_jax.export.models import drop_noise_at_4x4
from migan_jax.export.models import ExportFailed
from migan_jax.export.models import Format
from migan_jax.export.models import jax_generator
from migan_jax.export.models import lacks_plain_convolutions
from migan_jax.export.models import lacks_starting_fill
from migan_jax.export.models import Model
from migan_jax.export.models import Options
from migan_jax.model import build
from migan_jax.model.layers import channels
from migan_jax.model.ops import FIR_TAPS

if TYPE_CHECKING:
    import torch


def published_layout(config: ml_collections.ConfigDict) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the published deployed layout, constants included."""
    config = config.copy_and_resolve_references()
    config.model.noise_at_4x4 = False
    model = config.model
    table = torch_map.generator_table(model.resolution, branches=0, fused=True)
    shapes = torch_map.torch_shapes(build.abstract_variables(config, fused=True), table)
    return shapes | {name: array.shape for name, array in constants(config).items()}


def constants(config: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
    """The fixed tensors of the published deployed layout."""
    model = config.model
    return torch_map.deployed_constants(
        model.resolution, lambda r: channels(r, model.ch_base, model.ch_max), FIR_TAPS)


def lacks_of_pt(model: Model, options: Options) -> str | None:
    """`Format.lacks` of the published layout."""
    lacks = lacks_plain_convolutions(model) or lacks_starting_fill(model)
    if lacks or options.drop_noise_at_4x4:
        return lacks
    _, _, dropped = drop_noise_at_4x4(model.config, model.variables)
    if not dropped:
        return None
    return ('the published layout has no place for noise in the 4 x 4 blocks, which this '
            f'model has (strength up to {dropped:.3g}): pass --drop_noise_at_4x4 to export '
            'it without.')


def without_noise_at_4x4(model: Model, options: Options) -> tuple[Model, dict[str, Any]]:
    """`Format.reference` of the published layout: what its file can hold."""
    config, variables, dropped = drop_noise_at_4x4(model.config, model.variables)
    if config is model.config:
        return model, {}
    changed = model._replace(config=config, variables=variables,
                             generate=jax_generator(config, variables))
    if not dropped:
        return changed, {}
    resolution = config.model.resolution
    return changed, {'dropped_noise_at_4x4': comparison.differences(
        model.generate, changed.generate, comparison.random_pictures(resolution),
        resolution)}


def write_pt(model: Model, path: pathlib.Path, options: Options) -> None:
    import torch

    table = torch_map.generator_table(
        model.config.model.resolution, branches=0, fused=True)
    dtype = torch.float16 if options.half else torch.float32
    state = {name: torch.from_numpy(array).to(dtype)
             for name, array in torch_map.to_torch(model.variables, table).items()}
    state |= as_views(constants(model.config), dtype)
    torch.save({name: state[name] for name in sorted(state)}, path)


def write_comodgan_pt(model: Model, path: pathlib.Path, options: Options) -> None:
    import torch

    from migan_jax.export import comodgan_torch

    state = comodgan_torch.published_state(model.config, model.variables)
    state |= comodgan_torch.filters(model.config.model.resolution)
    dtype = torch.float16 if options.half else torch.float32
    torch.save({
        name: torch.from_numpy(state[name]).to(dtype) for name in sorted(state)}, path)


def as_views(arrays: Mapping[str, np.ndarray],
             dtype: 'torch.dtype') -> dict[str, 'torch.Tensor']:
    """Constants as tensors, each a corner of the largest of its kind.

    torch.save stores a tensor and its views once: the masks alone are 0.7 MB otherwise
    at 256 x 256.  Filters are equal for all channels, and masks at all resolutions.
    """
    import torch

    kind = lambda name: re.search(r'(down|up)sample\..*', name)[0]
    largest = {}
    for name, array in arrays.items():
        if array.size > np.size(largest.get(kind(name), ())):
            largest[kind(name)] = array
    largest = {key: torch.from_numpy(array).to(dtype)
               for key, array in largest.items()}
    return {name: largest[kind(name)][tuple(slice(n) for n in array.shape)]
            for name, array in arrays.items()}


def run_pt(path: os.PathLike | str,
           config: ml_collections.ConfigDict) -> Callable[[np.ndarray], np.ndarray]:
    """What the published class computes of a file that it loads strictly."""
    from migan_jax.data import torch_files
    from migan_jax.export import torch_module

    state = torch_files.read_tensors(path)
    check_layout(path, state, published_layout(config))
    return run_torch(torch_module.Generator(state, config.model.resolution), config)


def run_comodgan_pt(path: os.PathLike | str,
                    config: ml_collections.ConfigDict) -> Callable[[np.ndarray], np.ndarray]:
    """What the published Co-Mod-GAN computes of a file that it loads strictly."""
    from migan_jax.data import torch_files
    from migan_jax.export import comodgan_torch

    state = torch_files.read_tensors(path)
    model = config.model
    layers = model.comodgan.mapping_layers
    table = torch_map.comodgan_table(model.resolution, mapping_layers=layers)
    check_layout(path, state, torch_map.torch_shapes(
        build.abstract_variables(config, fused=True), table) | {
            name: array.shape
            for name, array in comodgan_torch.filters(model.resolution).items()})
    return run_torch(comodgan_torch.Generator(state, model.resolution, layers), config)


def check_layout(path: os.PathLike | str, state: Mapping[str, np.ndarray],
                 expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ExportFailed unless {name: array} has just the expected {name: shape}."""
    actual = {name: array.shape for name, array in state.items()}
    if actual != expected:
        raise ExportFailed(
            f'{path}: only in the file {sorted(actual.items() - expected.items())}, '
            'only in the published layout '
            f'{sorted(expected.items() - actual.items())}.')


def run_torch(module: Callable,
              config: ml_collections.ConfigDict) -> Callable[[np.ndarray], np.ndarray]:
    """A torch module or TorchScript function for NHWC arrays."""
    import torch

    def generate(x):
        x, *z = comparison.network_inputs(config, x)
        with torch.inference_mode():
            y = module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()),
                       *map(torch.from_numpy, z))
        return y.numpy().transpose(0, 2, 3, 1)
    return generate


def write_torchscript(model: Model, path: pathlib.Path, options: Options) -> None:
    from migan_jax.export import comodgan_torch
    from migan_jax.export import torch_module

    if build.is_comodgan(model.config):
        module = comodgan_torch.build_comodgan_module(model.config, model.variables)
        trace = comodgan_torch.trace
    else:
        module = torch_module.build_module(model.config, model.variables)
        trace = torch_module.trace
    if options.half:
        module = module.half()
    with quiet.torchscript_is_deprecated():
        trace(module).save(
            str(path), _extra_files={'metadata.json': json.dumps(model.metadata)})


def run_torchscript(path: os.PathLike | str,
                    config: ml_collections.ConfigDict) -> Callable[[np.ndarray], np.ndarray]:
    return run_torch(torch_script(path), config)


def torch_script(path: os.PathLike | str) -> 'torch.jit.ScriptModule':
    import torch

    with quiet.torchscript_is_deprecated():
        return torch.jit.load(str(path))


def count_torchscript(path: os.PathLike | str) -> collections.Counter[str]:
    kinds = (node.kind() for node in torch_script(path).inlined_graph.nodes())
    return collections.Counter(kind for kind in kinds if kind.startswith('aten::'))


PT = Format('migan.pt', write_pt, run_pt, lacks=lacks_of_pt,
            reference=without_noise_at_4x4)
TORCHSCRIPT = Format('migan_traced.pt', write_torchscript, run_torchscript,
                     count_torchscript, lacks=lacks_plain_convolutions)
COMODGAN_PT = Format('comodgan.pt', write_comodgan_pt, run_comodgan_pt)
COMODGAN_TORCHSCRIPT = Format('comodgan_traced.pt', write_torchscript, run_torchscript,
                              count_torchscript)
