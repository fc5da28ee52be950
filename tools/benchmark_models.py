"""Size and speed of MI-GAN and Co-Mod-GAN, as the supplement's Table S.1 compares them.

    python tools/benchmark_models.py --resolutions=256,512 --threads=2

For each model, at its published width and with random weights (no operator's time
depends on them):

* parameters, without the fixed filters;
* multiply-adds of the convolutions and dense layers, by hand, and of everything, as
  XLA counts the function it compiled: half its flops, with filters and activations,
  and on CPU with the zeros that pad the phases of Co-Mod-GAN's upsampling;
* the time of one image in JAX and of the ONNX export in onnxruntime, in turns, so that
  whatever else the machine does hits all alike: mean, standard deviation, median.

Then Co-Mod-GAN's figures over MI-GAN's. Table S.1 has 3.5 on phones at 512; below that
in onnxruntime, the operators that take the two models' time are listed. The last line
is JSON.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import functools
import json
import os
import statistics
import tempfile
import time
from typing import Any, NamedTuple

from absl import flags
import jax
import ml_collections
import numpy as np
import onnx

import benchmark_exports
from migan_jax.configs import default
from migan_jax import cli
from migan_jax.export import clamps
from migan_jax.export import comodgan_onnx
from migan_jax.model import topology
from migan_jax.model import build
from migan_jax.model.layers import channels
from migan_jax.model.layers import resolutions

MODELS = ('migan', 'comodgan')
TITLES = {'migan': 'MI-GAN', 'comodgan': 'Co-Mod-GAN'}

# Mean over the phones of Table S.1 that run both, 512 x 512.
PUBLISHED_RATIO = 3.5


class Layer(NamedTuple):
    """A convolution or dense layer and its multiply-adds for one image."""
    name: str
    multiply_adds: int


# --- models -------------------------------------------------------------------


def published_config(kind: str, resolution: int) -> ml_collections.ConfigDict:
    """ConfigDict of a model at its published width."""
    config = default.get_config()
    config.model.kind = kind
    config.model.resolution = resolution
    # As in the published weights.
    config.model.noise_at_4x4 = False
    return config


def counted_by_xla(compiled: jax.stages.Compiled) -> float:
    """Multiply-adds that XLA counts in a compiled function: half its flops."""
    return compiled.cost_analysis()['flops'] / 2


# --- by hand ------------------------------------------------------------------


def migan_layers(config: ml_collections.ConfigDict) -> list[Layer]:
    """The convolutions of the deployed MI-GAN (Table S.4).

    Args:
      config: ConfigDict; `config.model` is read.

    Returns:
      list of `Layer`.
    """
    model = config.model
    ch = lambda r: channels(r, model.ch_base, model.ch_max)
    counts = []
    for layer in topology.layers(model.resolution):
        ci = 4 if layer.name == 'fromrgb' else ch(layer.read)
        co = 3 if layer.name == 'torgb' else ch(layer.written)
        if layer.name.startswith('conv'):
            counts.append(Layer(f'{layer}.depthwise', 9 * ci * layer.read**2))
        # Before upsampling, and after downsampling.
        side = min(layer.read, layer.written)
        counts.append(Layer(f'{layer}.pointwise', ci * co * side**2))
    return counts


def comodgan_layers(config: ml_collections.ConfigDict, up_taps: int = 9) -> list[Layer]:
    """The convolutions and dense layers of Co-Mod-GAN.

    Args:
      config: ConfigDict; `config.model` is read.
      up_taps: multiplications of an upsampling 3x3 convolution for each pixel that it
        reads: 9, or 16 as `ops.conv3x3_resampled` computes it on CPU, where it pads
        the kernels of the four phases to 2x2.

    Returns:
      list of `Layer`.
    """
    model, sizes = config.model, config.model.comodgan
    ch = lambda r: channels(r, model.ch_base, model.ch_max)
    layers = []
    add = lambda name, count: layers.append(Layer(name, count))

    def modulated(name, ci, co, taps, side):
        add(f'{name}.affine', (sizes.w_dim + sizes.global_dim) * ci)
        if not name.endswith('torgb'):
            add(f'{name}.norms', ci * co)
        add(name, taps * ci * co * side**2)

    for i in range(sizes.mapping_layers):
        add(f'mapping.fc{i}', sizes.w_dim * (sizes.w_dim if i else sizes.z_dim))
    top = model.resolution
    add(f'encoder.b{top}.fromrgb', 4 * ch(top) * top**2)
    for r in resolutions(top):
        add(f'encoder.b{r}.conv0', 9 * ch(r)**2 * r**2)
        add(f'encoder.b{r}.conv1', 9 * ch(r) * ch(r // 2) * (r // 2)**2)
    add('encoder.b4.conv', 9 * ch(4)**2 * 16)
    add('encoder.b4.fc', 16 * ch(4) * sizes.global_dim)
    add('decoder.b4.fc', 16 * ch(4) * sizes.global_dim)
    modulated('decoder.b4.conv', ch(4), ch(4), 9, 4)
    modulated('decoder.b4.torgb', ch(4), 3, 1, 4)
    for r in reversed(tuple(resolutions(top))):
        modulated(f'decoder.b{r}.conv0', ch(r // 2), ch(r), up_taps, r // 2)
        modulated(f'decoder.b{r}.conv1', ch(r), ch(r), 9, r)
        modulated(f'decoder.b{r}.torgb', ch(r), 3, 1, r)
    return layers


def counted_by_hand(config: ml_collections.ConfigDict, **options: int) -> int:
    """Multiply-adds of all convolutions and dense layers for one image."""
    count = comodgan_layers if build.is_comodgan(config) else migan_layers
    return sum(layer.multiply_adds for layer in count(config, **options))


# --- time ---------------------------------------------------------------------


def onnx_feed(config: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
    """{input name: array} of the export."""
    x, *z = benchmark_exports.network_inputs(config)
    return {'input': np.ascontiguousarray(x.transpose(0, 3, 1, 2)), **dict(zip(['z'], z))}


def statistics_of(seconds: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation (0 of one value) and median."""
    return {'mean_s': statistics.fmean(seconds),
            'std_s': statistics.stdev(seconds) if len(seconds) > 1 else 0.0,
            'median_s': statistics.median(seconds)}


def operator_shares(model: onnx.ModelProto, feed: Mapping[str, np.ndarray], threads: int,
                    runs: int = 3) -> dict[str, float]:
    """Which operators an export's time goes to.

    Args:
      model: onnx.ModelProto.
      feed: {input name: array}.
      threads: of onnxruntime.
      runs: after a first one, which is not counted.

    Returns:
      {operator type after onnxruntime's optimisation: share of the operators' time},
      largest first.
    """
    with tempfile.TemporaryDirectory() as folder:
        session, _ = benchmark_exports.session(
            model, threads, os.path.join(folder, 'profile'))
        for _ in range(runs + 1):
            session.run(None, feed)
        with open(session.end_profiling()) as file:
            events = json.load(file)
    starts = sorted(event['ts'] for event in events if event['name'] == 'model_run')
    total = collections.Counter()
    for event in events:
        if event.get('cat') == 'Node' and event['name'].endswith('_kernel_time'):
            if event['ts'] >= starts[1]:
                total[event['args']['op_name']] += event['dur']
    every = sum(total.values())
    return {name: value / every for name, value in total.most_common()}


# --- the table ----------------------------------------------------------------


def measure(configs: Mapping[str, ml_collections.ConfigDict], threads: int, repeats: int,
            clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """Sizes and times of models at one resolution.

    Args:
      configs: {kind: ConfigDict}.
      threads: of onnxruntime; JAX takes all processors.
      repeats: runs of each.
      clock: of seconds.

    Returns:
      {'resolution', 'threads', 'cpu_time', 'models': {kind: figures}, and of both
      models 'ratios': {'jax', 'onnx'} of medians}; with a small ratio also
      'operators': see `operator_shares`.
    """
    figures, exports, jobs = {}, {}, {}
    for kind, config in configs.items():
        variables = benchmark_exports.random_variables(config)
        compiled = benchmark_exports.compile_jax(config, variables)
        jobs[kind, 'jax'] = benchmark_exports.jax_job(config, compiled, variables)
        exports[kind] = onnx_graph(config, variables)
        session, megabytes = benchmark_exports.session(exports[kind], threads)
        figures[kind] = {
            'parameters': sum(x.size for x in jax.tree.leaves(variables['params'])),
            'multiply_adds': counted_by_hand(config),
            'multiply_adds_xla': counted_by_xla(compiled),
            'onnx_mb': megabytes,
        }
        jobs[kind, 'onnx'] = functools.partial(session.run, None, onnx_feed(config))
    for (kind, runtime), seconds in benchmark_exports.time_in_turns(
            jobs, repeats, clock).items():
        figures[kind][runtime] = statistics_of(seconds)
    result = {'resolution': next(iter(configs.values())).model.resolution,
              'threads': threads, 'cpu_time': clock is time.process_time,
              'models': figures}
    if set(configs) >= set(MODELS):
        result['ratios'] = {
            runtime: (figures['comodgan'][runtime]['median_s']
                      / figures['migan'][runtime]['median_s'])
            for runtime in ('jax', 'onnx')}
        if result['ratios']['onnx'] < PUBLISHED_RATIO:
            result['operators'] = {
                kind: operator_shares(exports[kind], onnx_feed(config), threads)
                for kind, config in configs.items()}
    return result


def onnx_graph(config: ml_collections.ConfigDict,
               variables: Mapping[str, Any]) -> onnx.ModelProto:
    """The ONNX export of a model, as tools/to_torch.py writes it."""
    return comodgan_onnx.builder_of(config)(
        config, variables, largest=clamps.measure(config, variables))


def table(result: Mapping[str, Any]) -> list[str]:
    """A result of `measure` as lines of Markdown."""
    r = result['resolution']
    times = 'CPU time' if result['cpu_time'] else 'latency'
    lines = [
        f'{r} x {r}, {times}, threads of onnxruntime: {result["threads"]}, JAX on '
        f'{jax.devices()[0].device_kind}', '',
        '| | parameters | multiply-adds | counted by XLA | ONNX file '
        '| JAX ms, mean / std (median) | onnxruntime ms, mean / std (median) |',
        '|---|---|---|---|---|---|---|']
    for kind, row in result['models'].items():
        times = ' | '.join(
            f'{1e3 * row[runtime]["mean_s"]:.1f} / {1e3 * row[runtime]["std_s"]:.1f} '
            f'({1e3 * row[runtime]["median_s"]:.1f})' for runtime in ('jax', 'onnx'))
        lines.append(
            f'| {TITLES[kind]} | {row["parameters"] / 1e6:.2f} M '
            f'| {row["multiply_adds"] / 1e9:.2f} G '
            f'| {row["multiply_adds_xla"] / 1e9:.2f} G '
            f'| {row["onnx_mb"]:.1f} MB | {times} |')
    if 'ratios' in result:
        rows = result['models']
        over = lambda key: rows['comodgan'][key] / rows['migan'][key]
        lines.append(
            f'| Co-Mod-GAN / MI-GAN | {over("parameters"):.1f} '
            f'| {over("multiply_adds"):.1f} | {over("multiply_adds_xla"):.1f} '
            f'| {over("onnx_mb"):.1f} | {result["ratios"]["jax"]:.2f} '
            f'| {result["ratios"]["onnx"]:.2f} |')
        lines += ['', f'Table S.1 (phones, 512 x 512): {PUBLISHED_RATIO}']
    for kind, shares in result.get('operators', {}).items():
        largest = ', '.join(f'{name} {100 * share:.0f} %'
                            for name, share in list(shares.items())[:8])
        lines.append(f'{TITLES[kind]} in onnxruntime: {largest}')
    return lines


def chosen(models: Sequence[str],
           resolution_names: Sequence[str]) -> tuple[list[str], list[int]]:
    """The flags' values, checked.

    Returns:
      list of kinds, list of ints.
    """
    unknown = [name for name in models if name not in MODELS]
    if unknown or not models:
        raise ValueError(f'--models: {", ".join(unknown) or "none given"}; expected '
                         f'some of {", ".join(MODELS)}.')
    wrong = [name for name in resolution_names if not name.isdecimal()]
    if wrong or not resolution_names:
        raise ValueError(f'--resolutions: {", ".join(wrong) or "none given"}; expected '
                         'numbers such as 256,512.')
    return list(dict.fromkeys(models)), [int(name) for name in resolution_names]


def main(argv: Sequence[str]) -> None:
    del argv
    args = flags.FLAGS
    results = []
    models, sides = chosen(args.models, args.resolutions)
    clock = time.process_time if args.cpu_time else time.perf_counter
    threads = 1 if args.cpu_time else args.threads
    for resolution in sides:
        results.append(measure(
            {kind: published_config(kind, resolution) for kind in models},
            threads, args.repeats, clock))
        print('\n'.join(table(results[-1])), end='\n\n', flush=True)
    print(json.dumps(results))


if __name__ == '__main__':
    flags.DEFINE_list('models', list(MODELS), f'Some of {", ".join(MODELS)}.')
    flags.DEFINE_list('resolutions', ['256', '512'], 'Resolutions of the models.')
    flags.DEFINE_integer('threads', 2, 'Threads of onnxruntime.', lower_bound=1)
    flags.DEFINE_integer('repeats', 9, 'Runs of each.', lower_bound=1)
    flags.DEFINE_bool(
        'cpu_time', False,
        'Seconds of CPU time, onnxruntime on one thread: for machines that do other '
        'work besides.')
    cli.run(main)
