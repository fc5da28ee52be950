"""Times the training steps of a config, the exported graphs, or two models.

    python tools/benchmark.py --config=configs/ablation_dw_reparam_places256.py \\
        --batch_size=2 --config.model.dtype=float32
    python tools/benchmark.py --what=exports --resolutions=256,512
    python tools/benchmark.py --models=migan,comodgan --resolutions=256,512

The first compiles the G, D and R1 steps, runs each several times and prints medians,
compile times and the process's peak memory.  The images are noise: no step's time
depends on what they show.  The others: see benchmark_exports.py, benchmark_models.py.
The last line is JSON.
"""

import json
import resource
import statistics
import sys
import time

from absl import app
from absl import flags
import jax
from ml_collections import config_flags
import numpy as np

from migan_jax import state as state_lib
from migan_jax import steps as steps_lib
from migan_jax import train


def count(tree):
    """Elements of a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def time_steps(config, repeats):
    """Compile and run times of the steps of a config.

    Args:
      config: ConfigDict; config.train.batch_size images over all devices.
      repeats: runs of each step.

    Returns:
      dict of seconds, bytes and counts.
    """
    batch_size, resolution = config.train.batch_size, config.model.resolution
    train.check_batch(batch_size, 'train.batch_size')
    models = state_lib.build_models(config)
    steps = steps_lib.make_steps(models, train.settings_of(config))
    state = state_lib.replicate(
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
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result['peak_host_memory_gib'] = kilobytes / 2**20
    return result


def main(argv):
    if len(argv) > 1:
        sys.exit(f'error: unexpected argument {argv[1]}; all input is given by flags')
    args = flags.FLAGS
    what = args.what or ('models' if flags.FLAGS['models'].present else 'train')
    # Imported where needed: training steps are timed without onnxruntime, too.
    if what == 'exports':
        import benchmark_exports
        return benchmark_exports.main(argv)
    if what == 'models':
        import benchmark_models
        return benchmark_models.main(argv)
    if args.config is None:
        sys.exit('error: --config is missing; name a config file whose steps to time')
    config = args.config
    config.train.batch_size = args.batch_size or config.train.batch_size
    try:
        result = time_steps(config, args.repeats)
    except ValueError as error:
        sys.exit(f'error: {error}')
    for name, value in result.items():
        print(f'{name:24} {value:.4g}' if isinstance(value, float) else f'{name:24} {value}')
    print(json.dumps(result))


if __name__ == '__main__':
    config_flags.DEFINE_config_file('config', None, 'Config file.', lock_config=True)
    flags.DEFINE_integer('batch_size', 0, 'Images over all devices; default: the config\'s.')
    flags.DEFINE_enum('what', None, ['train', 'exports', 'models'],
                      'What to time; train, or models if --models is given.')
    flags.DEFINE_list('models', ['migan', 'comodgan'], 'Models to compare.')
    flags.DEFINE_list('resolutions', ['256', '512'], 'Of exports and models.')
    flags.DEFINE_integer('threads', 2, 'Of onnxruntime.', lower_bound=1)
    flags.DEFINE_bool('cpu_time', False, 'Exports, models: CPU seconds on one thread.')
    flags.DEFINE_integer('repeats', 5, 'Runs of each.', lower_bound=1)
    app.run(main)
