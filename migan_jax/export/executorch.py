"""The deployed generator for ExecuTorch, lowered to one backend as a whole.

Each backend takes all operators of `static_module`: XNNPACK for CPUs, Vulkan for the GPUs
of Android, Core ML for Apple's neural engine and GPUs.
"""

import collections
from collections.abc import Callable, Mapping
import os
from typing import Any
import warnings

import ml_collections
import numpy as np
import torch

from migan_jax import quiet
from migan_jax.export.static_module import StaticGenerator
# PyTorch reports what ExecuTorch's quantisation will have to change.
with quiet.stderr_unless_it_fails():
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir._serialize._program import deserialize_pte_binary
    from executorch.exir.backend.partitioner import Partitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime


def program_of(module: torch.nn.Module, partitioner: Partitioner | None = None
               ) -> tuple[bytes, Callable[[torch.Tensor], torch.Tensor]]:
    """A module, exported and handed to a backend.

    Args:
      module: nn.Module with a `resolution` R, f32[1, 4, R, R] -> f32[1, 3, R, R].
      partitioner: chooses what the backend gets; XNNPACK's by default.

    Returns:
      bytes of the file, and the function f32[1, 4, R, R] -> f32[1, 3, R, R] that was
      handed over, for PyTorch to run.
    """
    side = module.resolution
    with warnings.catch_warnings(), torch.no_grad():
        # It advises those who write its own passes.
        warnings.simplefilter('ignore')
        program = torch.export.export(
            module.eval(), (torch.zeros(1, 4, side, side),))
        handed_over = program.module()
        lowered = to_edge_transform_and_lower(
            program, partitioner=[partitioner or XnnpackPartitioner()])
    return bytes(lowered.to_executorch().buffer), handed_over


def build_executorch(config: ml_collections.ConfigDict, variables: Mapping[str, Any],
                     largest: Mapping[str, float] | None = None) -> bytes:
    """The generator as an ExecuTorch program.

    One method `forward`, f32[1, 4, R, R] -> f32[1, 3, R, R]: [mask - 0.5,
    image * mask], mask first, 1 = known and 0 = hole, image RGB in [-1, 1]; the output
    is about [-1, 1], neither clipped nor composited. Noise is the stored planes.

    Args:
      config: ConfigDict; `config.model` is read.
      variables: {'params', 'noise'} of the deployed generator.
      largest: see `onnx_core.build_core`; None keeps all clamps.

    Returns:
      bytes of the file.

    Raises:
      ValueError: the model is the ablation with plain 3x3 convolutions, or a parameter
        is not finite.
    """
    program, _ = program_of(StaticGenerator(config, variables, largest))
    return program


def build_delegated(
        config: ml_collections.ConfigDict, variables: Mapping[str, Any],
        partitioner: Partitioner, largest: Mapping[str, float] | None = None
        ) -> tuple[bytes, Callable[[np.ndarray], np.ndarray]]:
    """The generator as a program for a backend that can't run here.

    Args:
      config, variables, largest: as for `build_executorch`, whose method this has.
      partitioner: of that backend.

    Returns:
      bytes of the file, and f32[N, R, R, 4] -> f32[N, R, R, 3]: what was handed to the
      backend, run by PyTorch.

    Raises:
      ValueError: as `build_executorch`, or the backend did not take the whole network.
    """
    program, handed_over = program_of(
        StaticGenerator(config, variables, largest), partitioner)
    calls = _calls_of(program)
    if sum(calls.values()) != 1 or not next(iter(calls)).endswith('Backend'):
        raise ValueError('its backend took only a part of the network: '
                         f'{dict(sorted(calls.items()))}.')

    def generate(x):
        with torch.no_grad():
            return np.concatenate([
                handed_over(torch.from_numpy(np.ascontiguousarray(
                    sample.transpose(2, 0, 1)[None]))).numpy()
                for sample in x]).transpose(0, 2, 3, 1)
    return program, generate


def load_generator(path: os.PathLike | str) -> Callable[[np.ndarray], np.ndarray]:
    """A program as a function, run by ExecuTorch's own runtime.

    Returns:
      f32[N, R, R, 4] -> f32[N, R, R, 3], one image at a time.
    """
    program = Runtime.get().load_program(os.fspath(path))
    # The first looks for files on the processor that only phones have, and reports each.
    with quiet.stderr_unless_it_fails():
        method = program.load_method('forward')

    def generate(x):
        images = []
        for sample in x:
            sample = np.ascontiguousarray(sample.transpose(2, 0, 1)[None])
            y, = method.execute([torch.from_numpy(sample)])
            # The next call writes into the same memory.
            images.append(y.numpy().copy())
        return np.concatenate(images).transpose(0, 2, 3, 1)
    # The method uses the program's memory.
    generate.program = program
    return generate


def operators(path: os.PathLike | str) -> collections.Counter[str]:
    """{operator: how often} that a program calls; a backend's parts count as one each."""
    with open(path, 'rb') as file:
        return _calls_of(file.read())


def _calls_of(program):
    plan, = deserialize_pte_binary(program).program.execution_plan
    names = [operator.name for operator in plan.operators]
    parts = [delegate.id for delegate in plan.delegates]
    calls = [instruction.instr_args for chain in plan.chains
             for instruction in chain.instructions]
    return collections.Counter(
        names[call.op_index] if hasattr(call, 'op_index')
        else parts[call.delegate_index]
        for call in calls
        if hasattr(call, 'op_index') or hasattr(call, 'delegate_index'))
