"""Compiles the training steps of a config for a TPU slice, on a machine without one.

    python tools/tpu_compile.py --config=configs/places512.py --topology=v5e:2x4 \\
        --per_device_batch=2 --teacher_config=configs/comodgan_places512.py

Needs libtpu (pip install -e '.[tpu-compile]'). For every step it prints what the
compiler counted for one core: FLOPs and bytes accessed per image, bytes of arguments
and temporaries and whether they fit the chip's memory, all-reduced bytes, and the two
roofline times that follow. The last line is JSON. The first step takes minutes; one
process at a time, and a killed one leaves `libtpu_lockfile` in the temporary folder.
"""

import json
import os
import re
import sys
import time
from typing import NamedTuple

# Read by libtpu when it is loaded: there is no TPU machine to ask.
os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from absl import app
from absl import flags
import jax
from jax.experimental import topologies
import jax.numpy as jnp
from ml_collections import config_flags

from migan_jax import state as state_lib
from migan_jax import steps as steps_lib
from migan_jax import train

STEPS = ('prepare', 'g', 'd', 'r1')


class Chip(NamedTuple):
    """Published peaks of one chip (Google Cloud's TPU system architecture pages).

    Attributes:
      flops: bfloat16, per second.
      bandwidth: of the memory, bytes per second.
      memory: bytes.
    """
    flops: float
    bandwidth: float
    memory: float


CHIPS = {
    'v4': Chip(275e12, 1228e9, 32 * 2**30),
    'v5e': Chip(197e12, 819e9, 16 * 2**30),
    'v5p': Chip(459e12, 2765e9, 95 * 2**30),
    'v6e': Chip(918e12, 1640e9, 32 * 2**30),
}

BITS = {'pred': 8, 's8': 8, 'u8': 8, 'bf16': 16, 'f16': 16, 's16': 16, 'u16': 16,
        'f32': 32, 's32': 32, 'u32': 32, 'f64': 64, 's64': 64, 'u64': 64}


def all_reduced_bytes(hlo):
    """Bytes of all results of all-reduce instructions in HLO text."""
    total = 0
    for result in re.findall(r'= (.*?) all-reduce(?:-start)?\(', hlo):
        for dtype, shape in re.findall(r'(\w+)\[([\d,]*)\]', result):
            size = 1
            for side in filter(None, shape.split(',')):
                size *= int(side)
            total += size * BITS[dtype] // 8
    return total


def abstract_arguments(config, models, devices, per_device_batch, teacher_variables):
    """{step: abstract arguments with the device axis}."""
    r, count = config.model.resolution, len(devices)
    lead = lambda tree: jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), tree)
    array = lambda channels, dtype: jax.ShapeDtypeStruct(
        (count, per_device_batch, r, r, channels), dtype)
    state = lead(state_lib.abstract_state(models, r))
    batch = {'image': array(3, jnp.float32), 'mask': array(1, jnp.float32)}
    return {'prepare': (state, array(3, jnp.uint8)),
            'g': (state, batch, lead(teacher_variables)),
            'd': (state, batch), 'r1': (state, batch)}


def measure(function, arguments, images, chip):
    """Compiles one step and reads the compiler's counts.

    Args:
      function: pmapped.
      arguments: abstract.
      images: per core.
      chip: `Chip`.

    Returns:
      {name: number}; bytes are of one core.
    """
    began = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    counts = compiled.cost_analysis()
    counts = counts[0] if isinstance(counts, list) else counts
    memory = compiled.memory_analysis()
    peak = (memory.temp_size_in_bytes + memory.argument_size_in_bytes
            + memory.output_size_in_bytes - memory.alias_size_in_bytes)
    return {
        'compile_s': time.perf_counter() - began,
        'gflop_per_image': counts['flops'] / images / 1e9,
        'gb_per_image': counts['bytes accessed'] / images / 1e9,
        'argument_gb': memory.argument_size_in_bytes / 1e9,
        'temp_gb': memory.temp_size_in_bytes / 1e9,
        'memory_share': peak / chip.memory,
        'all_reduced_mb': all_reduced_bytes(compiled.as_text()) / 1e6,
        'compute_ms': counts['flops'] / chip.flops * 1e3,
        'memory_ms': counts['bytes accessed'] / chip.bandwidth * 1e3,
    }


def run(config, topology, per_device_batch, names, teacher_config=None):
    """Compiles steps of a config for a TPU topology.

    Args:
      config: ConfigDict of the run.
      topology: such as 'v5e:2x4'.
      per_device_batch: images per core; 0: the config's batch over all cores.
      names: of STEPS.
      teacher_config: ConfigDict of the Co-Mod-GAN, if the run distils.

    Yields:
      (step, {name: number}), see `measure`.

    Raises:
      ValueError: unknown topology, chip or step, or a teacher is missing.
    """
    chip = CHIPS.get(topology.split(':')[0])
    if chip is None:
        raise ValueError(f'--topology={topology}: expected one of {sorted(CHIPS)} and a '
                         'shape, such as v5e:2x4.')
    unknown = sorted(set(names) - set(STEPS))
    if unknown:
        raise ValueError(f'--steps: unknown {unknown}; expected some of {list(STEPS)}.')
    try:
        devices = topologies.get_topology_desc(
            platform='tpu', topology_name=topology).devices
    except Exception as error:  # of the plugin: no libtpu, or a slice that is not sold
        raise ValueError(
            f"--topology={topology}: {error}. Is libtpu installed (pip install -e "
            "'.[tpu-compile]')?") from error
    batch = per_device_batch or config.train.batch_size // len(devices)
    if not batch:
        raise ValueError(f'train.batch_size={config.train.batch_size} is less than one '
                         f'image for each of {len(devices)} cores: pass '
                         '--per_device_batch.')
    teacher, variables = None, None
    if config.loss.distillation_weight:
        if teacher_config is None:
            raise ValueError('this config distils from a teacher: pass its config as '
                             '--teacher_config, or --config.loss.distillation_weight=0.')
        teacher_config.model.dtype = config.teacher.dtype
        teacher = state_lib.teacher_function(state_lib.build_generator(teacher_config))
        variables = state_lib.abstract_deployed(teacher_config)
    models = state_lib.build_models(config)
    steps = steps_lib.make_steps(models, train.settings_of(config), teacher, devices)
    functions = dict(zip(STEPS, (steps.prepare, steps.g, steps.d, steps.r1)))
    arguments = abstract_arguments(config, models, devices, batch, variables)
    for name in names:
        yield name, {'images_per_core': batch, 'cores': len(devices),
                     **measure(functions[name], arguments[name], batch, chip)}


def main(argv):
    if len(argv) > 1:
        sys.exit(f'error: unexpected argument {argv[1]}; all input is given by flags')
    args = flags.FLAGS
    results = {}
    try:
        for name, figures in run(args.config, args.topology, args.per_device_batch,
                                 args.steps, args.teacher_config):
            results[name] = figures
            print(name)
            for field, value in figures.items():
                print(f'  {field:16} {value:.4g}', flush=True)
            if figures['memory_share'] > 1:
                print('  does NOT fit: use fewer images per core')
    except ValueError as error:
        sys.exit(f'error: {error}')
    print(json.dumps({'topology': args.topology, 'steps': results}))


if __name__ == '__main__':
    config_flags.DEFINE_config_file('config', None, 'Config file.', lock_config=True)
    config_flags.DEFINE_config_file('teacher_config', None, 'Config of the teacher.')
    flags.DEFINE_string('topology', 'v5e:2x4', 'Chip and slice.')
    flags.DEFINE_integer('per_device_batch', 0,
                         "Images per core; default: the config's batch over all cores.")
    flags.DEFINE_list('steps', list(STEPS), 'Which steps.')
    flags.mark_flags_as_required(['config'])
    app.run(main)
