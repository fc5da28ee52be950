"""Compiles the training steps of a config for a TPU slice, on a machine without one.

    python tools/tpu_compile.py --config=configs/places512.py --topology=v5e:2x4 \\
        --per_device_batch=2 --teacher_config=configs/comodgan_places512.py --top=10

Needs libtpu (pip install -e '.[tpu-compile]'). For every step it prints what the
compiler counted for one core: FLOPs and bytes accessed per image, those of them that go
to HBM (the compiler counts what it has copied into the core's own memory twice), bytes
of arguments and temporaries and whether they fit the chip's memory, all-reduced bytes,
the roofline times that follow, and with --top the instructions that move most bytes. Of
g, d and r1 together: the images per second, and days for the config's images, that
compute and HBM allow at best. Step `generator` is the deployed generator's forward
pass. The last line is JSON. A step at 256 takes minutes and 3 GB of memory.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import json
import math
import os
import re
import time
from typing import Any, NamedTuple

# Read by libtpu when it is loaded: there is no TPU machine to ask, and no TPU that two
# processes, or one and the lock file of a killed one, could fight for.
os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from absl import flags
import jax
from jax.experimental import topologies
import jax.numpy as jnp
import ml_collections
from ml_collections import config_flags

from migan_jax import cli
from migan_jax.devices import AXIS
from migan_jax.model import build
from migan_jax.training import loop
from migan_jax.training import state as state_lib
from migan_jax.training import steps as steps_lib

STEPS = ('prepare', 'g', 'd', 'r1', 'generator')


class Chip(NamedTuple):
    """Published peaks of one core (Google Cloud's pages on each TPU version).

    Attributes:
      flops: bfloat16, per second.
      bandwidth: of the memory, bytes per second.
      memory: bytes.
    """
    flops: float
    bandwidth: float
    memory: float


# A v4 chip has two cores, which JAX may use apart; of all others a chip is one device.
CHIPS = {
    'v4': Chip(275e12 / 2, 1228e9 / 2, 16 * 2**30),
    'v5e': Chip(197e12, 819e9, 16 * 2**30),
    'v5p': Chip(459e12, 2765e9, 95 * 2**30),
    'v6e': Chip(918e12, 1640e9, 32 * 2**30),
}

BITS = {'pred': 8, 's4': 4, 'u4': 4, 's8': 8, 'u8': 8, 'bf16': 16, 'f16': 16, 's16': 16,
        'u16': 16, 'f32': 32, 's32': 32, 'u32': 32, 'f64': 64, 's64': 64, 'u64': 64}


class Instruction(NamedTuple):
    """One instruction of HLO text.

    Attributes:
      name, opcode, operands: as written; operands are names.
      shape: of its result, with layouts.
      op_name: the JAX operation that it came from, '' if unknown.
      called: computations that it runs one after another (while, call, conditional).
      trips: how often a while loop runs, 1 if unknown.
    """
    name: str
    opcode: str
    operands: tuple
    shape: str
    op_name: str
    called: tuple
    trips: int


_LAYOUT = re.compile(r'(?<=\])\{[^{}]*\}')


def without_layouts(shape: str) -> str:
    """f32[8,3]{1,0:T(8,128)} -> f32[8,3]."""
    return re.sub(r'/\*.*?\*/', '', _LAYOUT.sub('', shape))


def bytes_of(shape: str, hbm_only: bool = False) -> int:
    """Bytes of all arrays of a shape as HLO text writes it; unknown types have none.

    Arrays consist of whole tiles: f32[8,3]{1,0:T(8,128)}, whose last side is in the 128
    lanes, takes as many bytes as f32[8,128].

    Args:
      shape: with or without layouts.
      hbm_only: leave out what lies in the core's own memory: S(..) in its layout.
    """
    total = 0
    for dtype, sides, layout in re.findall(
            r'\b(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?', shape):
        if hbm_only and 'S(' in layout:
            continue
        sides = [int(side) for side in sides.split(',') if side]
        # Dimensions from the innermost on; the tile's last side is the innermost one's.
        tiled = re.match(r'([\d,]+):.*?T\(([\d,]+)\)', layout)
        if tiled:
            for dimension, step in zip(
                    tiled[1].split(','), reversed(tiled[2].split(','))):
                sides[int(dimension)] += -sides[int(dimension)] % int(step)
        total += (math.prod(sides) * BITS.get(dtype, 0) + 7) // 8
    return total


def parse_hlo(text: str) -> tuple[dict[str, list[Instruction]], str | None]:
    """Reads the text of a compiled module.

    Returns:
      {computation: [Instruction]}, and the name of the entry computation.
    """
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        header = re.match(r'(ENTRY )?%?(\S+) \(.*\{$', line)
        if header:
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
            continue
        found = re.match(r'\s+(?:ROOT )?%?(\S+) = (.*?) ([a-z][\w-]*)\((.*)', line)
        if current is None or not found:
            continue
        name, shape, opcode, rest = found.groups()
        rest = _LAYOUT.sub('', rest)
        if 'custom_call_target="ConcatBitcast"' in rest:
            opcode = 'bitcast'  # names parts that were copied one by one as one array
        called = re.findall(r'(?:body|to_apply|true_computation|false_computation)'
                            r'=%?([\w.-]+)', rest)
        for branches in re.findall(r'branch_computations=\{(.*?)\}', rest):
            called += re.findall(r'%?([\w.-]+)', branches)
        op_name = re.search(r'op_name="([^"]*)"', rest)
        trips = re.search(r'known_trip_count\W+n\W+(\d+)', rest)
        current.append(Instruction(
            name, opcode, tuple(re.findall(r'%([\w.-]+)', rest.split(')')[0])),
            shape, op_name[1] if op_name else '',
            tuple(called) if opcode in ('while', 'call', 'conditional') else (),
            int(trips[1]) if trips else 1))
    return computations, entry


# They move nothing, or are counted where they end.
_FREE = ('parameter', 'constant', 'bitcast', 'tuple', 'get-tuple-element')


def traffic(text: str, hbm_only: bool = False) -> list[tuple[int, Instruction]]:
    """Which instructions of a compiled program move how many bytes.

    An instruction moves its operands and its result, a fusion as a whole; what an
    asynchronous pair copies is counted once read, once written. Loops count as often
    as they run. The compiler's own count is a little larger: it counts an operand
    anew for some of the uses within a fusion.

    Args:
      text: HLO, of a compiled program.
      hbm_only: leave out what is read from or written to the core's own memory, into
        which the compiler copies some arrays ahead of their use.

    Returns:
      [(bytes, Instruction)], most bytes first.
    """
    computations, entry = parse_hlo(text)
    size_of = lambda instruction: bytes_of(instruction.shape, hbm_only)

    def visit(computation, times):
        by_name = {}
        for instruction in computations[computation]:
            by_name[instruction.name] = instruction
            operands = [by_name[name] for name in instruction.operands if name in by_name]
            if instruction.called:
                for name in instruction.called:
                    yield from visit(name, times * instruction.trips)
            elif instruction.opcode.endswith('-done'):
                # Of the pair's beginning: what it reads; the result is that of its end.
                read = [source for start in operands for name in start.operands
                        if (source := by_name.get(name))]
                moved = bytes_of(instruction.shape)
                from_hbm = not hbm_only or any(bytes_of(s.shape, True) for s in read)
                yield (moved * from_hbm + size_of(instruction)) * times, instruction
            elif instruction.opcode not in _FREE and not instruction.opcode.endswith(
                    '-start'):
                yield (size_of(instruction) + sum(map(size_of, operands))) * times, (
                    instruction)

    return sorted(visit(entry, 1), key=lambda pair: -pair[0])


def traffic_table(text: str, images: int, top: int) -> list[str]:
    """Lines: megabytes per image, instruction, result and JAX operation of the top."""
    moved = traffic(text)
    lines = [f'  {sum(size for size, _ in moved) / images / 1e6:.1f} MB per image by '
             f'{len(moved)} instructions; the {min(top, len(moved))} that move most:']
    for size, instruction in moved[:top]:
        # The transformations around an operation say little: its path says most.
        op_name = re.sub(r'^(jit|pmap)\(.*?\)/', '', instruction.op_name)
        lines.append(f'  {size / images / 1e6:8.2f}  {instruction.name:32} '
                     f'{without_layouts(instruction.shape)[:44]:44}  {op_name}')
    return lines


def all_reduced_bytes(hlo: str) -> int:
    """Bytes of all results of all-reduce instructions in HLO text."""
    return sum(bytes_of(without_layouts(result)) for result in re.findall(
        r'= (.*?) all-reduce(?:-start)?\(', hlo))


def abstract_arguments(config: ml_collections.ConfigDict, models: state_lib.Models,
                       devices: Sequence, per_device_batch: int,
                       teacher_variables: Any) -> dict[str, tuple]:
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
            'd': (state, batch), 'r1': (state, batch),
            'generator': (lead(build.abstract_variables(config, fused=True)),
                          array(4, jnp.float32))}


def abstract_teacher(config: ml_collections.ConfigDict,
                     teacher_config: ml_collections.ConfigDict | None) -> tuple[Callable, Any]:
    """The teacher that a config distils from, and its abstract variables.

    Raises:
      ValueError: `teacher_config` is None.
    """
    if teacher_config is None:
        raise ValueError('this config distils from a teacher: pass its config as '
                         '--teacher_config, or --config.loss.distillation_weight=0.')
    teacher_config.model.dtype = config.teacher.dtype
    return (state_lib.teacher_function(build.build_generator(teacher_config)),
            build.abstract_variables(teacher_config, fused=True))


def deployed_forward(config: ml_collections.ConfigDict, devices: Sequence) -> Callable:
    """The deployed generator with its constant noise: pmapped (variables, x) -> image."""
    generator = build.build_generator(config, fused=True)

    def forward(variables, x):
        z = generator.latents(jax.random.split(jax.random.key(0), len(x)))
        return build.deployed_forward(generator, variables, x, z)

    return jax.pmap(forward, AXIS, devices=devices)


def measure(compiled: jax.stages.Compiled, images: int, chip: Chip) -> dict[str, float]:
    """Reads the compiler's counts of one step.

    Args:
      compiled: from `lower(...).compile()`.
      images: per core.
      chip: `Chip`.

    Returns:
      {name: number}; bytes are of one core.
    """
    counts = compiled.cost_analysis()
    counts = counts[0] if isinstance(counts, list) else counts
    memory, text = compiled.memory_analysis(), compiled.as_text()
    hbm = sum(size for size, _ in traffic(text, hbm_only=True))
    peak = (memory.temp_size_in_bytes + memory.argument_size_in_bytes
            + memory.output_size_in_bytes - memory.alias_size_in_bytes)
    return {
        'gflop_per_image': counts['flops'] / images / 1e9,
        'gb_per_image': counts['bytes accessed'] / images / 1e9,
        'hbm_gb_per_image': hbm / images / 1e9,
        'argument_gb': memory.argument_size_in_bytes / 1e9,
        'temp_gb': memory.temp_size_in_bytes / 1e9,
        'memory_share': peak / chip.memory,
        'all_reduced_mb': all_reduced_bytes(text) / 1e6,
        'compute_ms': counts['flops'] / chip.flops * 1e3,
        'memory_ms': counts['bytes accessed'] / chip.bandwidth * 1e3,
        'hbm_ms': hbm / chip.bandwidth * 1e3,
    }


def run(config: ml_collections.ConfigDict, topology: str, per_device_batch: int,
        names: Sequence[str], teacher_config: ml_collections.ConfigDict | None = None,
        top: int = 0) -> Iterator[tuple[str, dict[str, float], list[str]]]:
    """Compiles steps of a config for a TPU topology.

    Args:
      config: ConfigDict of the run.
      topology: such as 'v5e:2x4'.
      per_device_batch: images per core; 0: the config's batch over all cores.
      names: of STEPS.
      teacher_config: ConfigDict of the Co-Mod-GAN, if the run distils.
      top: how many instructions to list.

    Yields:
      (step, {name: number}, lines): see `measure` and `traffic_table`.

    Raises:
      ValueError: unknown topology, chip or step, or a teacher is missing.
    """
    version, _, shape = topology.partition(':')
    if version not in CHIPS or not re.fullmatch(r'\d+(x\d+){1,2}', shape):
        raise ValueError(f'--topology={topology}: expected one of {sorted(CHIPS)} and a '
                         'shape, such as v5e:2x4.')
    chip = CHIPS[version]
    unknown = sorted(set(names) - set(STEPS))
    if unknown:
        raise ValueError(f'--steps: unknown {unknown}; expected some of {list(STEPS)}.')
    sides = [int(side) for side in shape.split('x')]
    # Machines have four chips, 2 x 2, unless the slice itself is smaller.
    host = {} if math.prod(sides) >= 4 else {
        'chips_per_host_bounds': (sides + [1, 1])[:3]}
    try:
        devices = topologies.get_topology_desc(
            platform='tpu', topology_name=topology, **host).devices
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
    if config.loss.distillation_weight and 'g' in names:
        teacher, variables = abstract_teacher(config, teacher_config)
    models = state_lib.build_models(config)
    steps = steps_lib.make_steps(models, loop.settings_of(config), teacher, devices)
    functions = dict(zip(STEPS, (steps.prepare, steps.g, steps.d, steps.r1,
                                 deployed_forward(config, devices))))
    arguments = abstract_arguments(config, models, devices, batch, variables)
    for name in names:
        began = time.perf_counter()
        compiled = functions[name].lower(*arguments[name]).compile()
        figures = {'images_per_core': batch, 'cores': len(devices),
                   'compile_s': time.perf_counter() - began,
                   **measure(compiled, batch, chip)}
        yield name, figures, (
            traffic_table(compiled.as_text(), batch, top) if top else [])


def training_bound(steps: Mapping[str, Mapping[str, float]], r1_interval: int,
                   kimg: float) -> dict[str, float]:
    """What the rooflines of the steps allow at best.

    Every iteration takes one G and one D step (and the masks, if measured), every
    r1_interval-th an R1 step; each takes the longer of its compute and HBM times.

    Args:
      steps: {step: figures}, see `measure`.
      r1_interval: of the config.
      kimg: thousands of images of the whole training.

    Returns:
      {'iteration_ms', 'images_per_s', 'days'}; {} unless g, d and r1 were measured.
    """
    if not {'g', 'd', 'r1'} <= steps.keys():
        return {}
    share = {'prepare': 1, 'g': 1, 'd': 1, 'r1': 1 / r1_interval}
    time_ms = sum(share[name] * max(figures['compute_ms'], figures['hbm_ms'])
                  for name, figures in steps.items() if name in share)
    images = steps['g']['images_per_core'] * steps['g']['cores']
    images_per_s = images / time_ms * 1e3
    return {'iteration_ms': time_ms, 'images_per_s': images_per_s,
            'days': kimg * 1e3 / images_per_s / 86400}


def print_figures(title: str, figures: Mapping[str, float]) -> None:
    print(title)
    for field, value in figures.items():
        print(f'  {field:16} {value:.4g}', flush=True)


def main(argv: Sequence[str]) -> None:
    del argv
    args = flags.FLAGS
    results = {}
    for name, figures, lines in run(
            args.config, args.topology, args.per_device_batch, args.steps,
            args.teacher_config, args.top):
        results[name] = figures
        print_figures(name, figures)
        if figures['memory_share'] > 1:
            print('  does NOT fit: use fewer images per core')
        print(*lines, sep='\n', end='\n' if lines else '', flush=True)
    bound = training_bound(results, args.config.loss.r1_interval, args.config.train.kimg)
    if bound:
        print_figures('training, at best', bound)
    print(json.dumps({'topology': args.topology, 'steps': results, 'bound': bound}))


if __name__ == '__main__':
    config_flags.DEFINE_config_file('config', None, 'Config file.', lock_config=True)
    config_flags.DEFINE_config_file('teacher_config', None, 'Config of the teacher.')
    flags.DEFINE_string('topology', 'v5e:2x4', 'Chip and slice.')
    flags.DEFINE_integer('per_device_batch', 0,
                         "Images per core; default: the config's batch over all cores.")
    flags.DEFINE_list('steps', list(STEPS), 'Which steps.')
    flags.DEFINE_integer('top', 0, 'How many instructions to list, most bytes first.')
    flags.mark_flags_as_required(['config'])
    cli.run(main)
