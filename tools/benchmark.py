"""Times training steps, exported graphs, two models or reading; measures photographs.

    python tools/benchmark.py --config=configs/ablation_dw_reparam_places256.py \\
        --batch_size=2 --config.model.dtype=float32
    python tools/benchmark.py --what=exports --resolutions=256,512
    python tools/benchmark.py --models=migan,comodgan --resolutions=256,512
    python tools/benchmark.py --what=data --resolutions=256,512
    python tools/benchmark.py --what=photo --images=photos --checkpoint=demo
    python tools/benchmark.py --what=all --out=benchmarks.json

The first compiles the G, D and R1 steps, runs each several times and prints medians,
compile times and the process's peak memory.  The images are noise: no step's time
depends on what they show.  The others: see benchmark_exports.py, benchmark_models.py,
benchmark_data.py, benchmark_photo.py.  The last line is JSON.  `all` runs each but the
last in a process of its own and writes one file, an hour's work for two cores.
"""

from collections.abc import Sequence
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from typing import Any

from absl import flags
import jax
import ml_collections
from ml_collections import config_flags
import numpy as np

from migan_jax import cli
from migan_jax.devices import replicate
from migan_jax import storage
from migan_jax.training import inputs
from migan_jax.training import loop
from migan_jax.training.progress import memory_gib
from migan_jax.training import state as state_lib
from migan_jax.training import steps as steps_lib


def count(tree: Any) -> int:
    """Elements of a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def time_steps(config: ml_collections.ConfigDict, repeats: int) -> dict[str, Any]:
    """Compile and run times of the steps of a config.

    Args:
      config: ConfigDict; config.train.batch_size images over all devices.
      repeats: runs of each step.

    Returns:
      dict of seconds, bytes and counts.
    """
    batch_size, resolution = config.train.batch_size, config.model.resolution
    inputs.check_batch(batch_size, 'train.batch_size')
    models = state_lib.build_models(config)
    steps = steps_lib.make_steps(models, loop.settings_of(config))
    state = replicate(
        state_lib.init_state(models, resolution, jax.random.key(0)))
    result = {
        'resolution': resolution, 'batch_size': batch_size, 'dtype': config.model.dtype,
        'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
        'parameters_g': count(jax.tree.map(lambda x: x[0], state.params_g)),
        'parameters_d': count(jax.tree.map(lambda x: x[0], state.params_d)),
    }
    images = np.random.default_rng(0).integers(
        0, 256, (jax.local_device_count(), batch_size // jax.device_count(),
                 resolution, resolution, 3), np.uint8)
    batch = steps.prepare(state, images)
    for name in ('g', 'd', 'r1'):
        function = getattr(steps, name)
        extra = (None,) if name == 'g' else ()
        began = time.perf_counter()
        state, _ = jax.block_until_ready(function(state, batch, *extra))
        result[f'{name}_first_call_s'] = time.perf_counter() - began
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            state, _ = jax.block_until_ready(function(state, batch, *extra))
            seconds.append(time.perf_counter() - began)
        result[f'{name}_median_s'] = statistics.median(seconds)
        result[f'{name}_min_s'] = min(seconds)
    result['peak_host_memory_gib'] = memory_gib()['host_gib']
    return result


# What `all` runs: name, arguments.  The published batch of 32 is too much for a small
# machine; 2 is what the figures of the published code were measured with.
_ALL = {
    'train': ['--what=train', '--config=configs/ablation_dw_reparam_places256.py',
              '--batch_size=2', '--config.model.dtype=float32'],
    'exports': ['--what=exports'],
    'models': ['--what=models'],
    'data': ['--what=data'],
}


def machine() -> dict[str, Any]:
    """{name: what the figures belong to}."""
    packages = ('jax', 'jaxlib', 'flax', 'optax', 'tensorflow', 'onnxruntime', 'torch')
    return {'cores': os.cpu_count(), 'machine': platform.machine(),
            'python': platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages}}


def run_all(out: os.PathLike | str) -> bool:
    """Runs every benchmark in a process of its own; one JSON file.

    Args:
      out: path; what failed is in it with its exit code and last words.

    Returns:
      whether all succeeded.
    """
    with cli.needs('export'):
        results = {'machine': machine()}
    for name, arguments in _ALL.items():
        print(f'--- {name}', flush=True)
        done = subprocess.run([sys.executable, __file__, *arguments],
                              stdout=subprocess.PIPE, text=True)
        print(done.stdout, flush=True)
        lines = done.stdout.splitlines() or ['']
        results[name] = (json.loads(lines[-1]) if done.returncode == 0 else
                         {'exit_code': done.returncode, 'last_line': lines[-1]})
        # After each: hours of work must not wait for the last.
        storage.write_atomically(out, (json.dumps(results, indent=1) + '\n').encode())
    return not any('exit_code' in result for result in results.values())


def main(argv: Sequence[str]) -> int | None:
    args = flags.FLAGS
    what = args.what or ('models' if flags.FLAGS['models'].present else 'train')
    # Imported where needed: training steps are timed without onnxruntime, too.
    if what == 'exports':
        with cli.needs('export'):
            import benchmark_exports
        return benchmark_exports.main(argv)
    if what == 'models':
        with cli.needs('export'):
            import benchmark_models
        return benchmark_models.main(argv)
    if what == 'data':
        import benchmark_data
        return benchmark_data.main(argv)
    if what == 'photo':
        with cli.needs('classical'):
            import benchmark_photo
        return benchmark_photo.main(argv)
    if what == 'all':
        if not args.out:
            raise cli.Failed('--out is missing; name the JSON file for --what=all')
        return 0 if run_all(args.out) else 1
    if args.config is None:
        raise cli.Failed('--config is missing; name a config file whose steps to time')
    config = args.config
    config.train.batch_size = args.batch_size or config.train.batch_size
    result = time_steps(config, args.repeats)
    for name, value in result.items():
        print(f'{name:24} {value:.4g}' if isinstance(value, float) else f'{name:24} {value}')
    print(json.dumps(result))


if __name__ == '__main__':
    config_flags.DEFINE_config_file('config', None, 'Config file.', lock_config=True)
    flags.DEFINE_integer('batch_size', 0, 'Images over all devices; default: the config\'s.')
    flags.DEFINE_enum('what', None, ['train', 'exports', 'models', 'data', 'photo', 'all'],
                      'What to time; train, or models if --models is given.')
    flags.DEFINE_string('out', None, 'JSON file for --what=all.')
    flags.DEFINE_list('models', ['migan', 'comodgan'], 'Models to compare.')
    flags.DEFINE_list('resolutions', ['256', '512'], 'Of exports, models and data.')
    flags.DEFINE_integer('threads', 2, 'Of onnxruntime.', lower_bound=1)
    flags.DEFINE_bool('cpu_time', False, 'Exports, models: CPU seconds on one thread.')
    flags.DEFINE_integer('repeats', 5, 'Runs of each.', lower_bound=1)
    flags.DEFINE_string('images', '', 'Photo: folder of photographs.')
    flags.DEFINE_string('checkpoint', 'demo', 'Photo: workdir, published name or folder.')
    flags.DEFINE_integer('count', 20, 'Photo: how many photographs.', lower_bound=2)
    flags.DEFINE_float('least_megapixels', 2, 'Photo: of each photograph.', 0)
    flags.DEFINE_integer('seed', 0, 'Photo: of the holes.')
    flags.DEFINE_string('weights', '', 'Photo: folder of the weight files of LPIPS.')
    cli.run(main)
