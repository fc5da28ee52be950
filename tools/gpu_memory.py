"""Counts the memory of the training steps on a GPU, on a machine without one.

    python tools/gpu_memory.py --config=configs/places256.py --batch=8,32 \\
        --teacher_config=configs/comodgan_places256.py --config.train.accumulate=1

Compiles G, D and R1 for an NVIDIA A100 and prints what the compiler counted for one GPU
that takes so many images of a batch: GB of arguments (parameters, optimiser, batch) and
of temporaries. What cuDNN takes for itself is not in it, nor what another card's
compiler would do otherwise. Needs the plugin (pip install -e '.[cuda12]'), no driver.
The last line is JSON.
"""

import json
import os
import time

# Nothing can be timed here to choose the fastest of several kernels, and code that
# nobody runs need not be optimised.
os.environ['XLA_FLAGS'] = ' '.join((
    os.environ.get('XLA_FLAGS', ''), '--xla_gpu_autotune_level=0',
    '--xla_backend_optimization_level=0', '--xla_llvm_disable_expensive_passes=true'))
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from absl import flags
from jax.experimental import topologies
from ml_collections import config_flags

from migan_jax import cli
from migan_jax.training import loop
from migan_jax.training import state as state_lib
from migan_jax.training import steps as steps_lib
import tpu_compile

STEPS = ('g', 'd', 'r1')

# What the compiler asks a device for; the numbers of NVIDIA's A100 with 80 GB.
A100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 167936
  shared_memory_per_block_optin: 166912
  threads_per_core_limit: 2048
  core_count: 108
  fpus_per_core: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 2039000000000
  l2_cache_size: 41943040
  clock_rate_ghz: 1.41
  device_memory_size: 85899345920
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability { major: 8 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 8 }
device_description_str: "NVIDIA A100-SXM4-80GB"
"""


def run(config, batches, names, teacher_config=None):
    """Compiles steps of a config for one A100.

    Args:
      config: ConfigDict of the run.
      batches: images that the GPU takes of a batch, one count after another.
      names: of STEPS.
      teacher_config: ConfigDict of the Co-Mod-GAN, if the run distils.

    Yields:
      {'step', 'batch', 'arguments_gb', 'temporaries_gb', 'compile_s'}.

    Raises:
      ValueError: the plugin or a teacher is missing, unknown steps, or a batch that
        train.accumulate does not divide.
    """
    if unknown := sorted(set(names) - set(STEPS)):
        raise ValueError(f'--steps: unknown {unknown}; expected some of {list(STEPS)}.')
    teacher, variables = None, None
    if config.loss.distillation_weight and 'g' in names:
        teacher, variables = tpu_compile.abstract_teacher(config, teacher_config)
    try:
        devices = topologies.get_topology_desc(
            platform='cuda', topology='1x1x1', target_config=A100).devices
    except Exception as error:   # of the plugin
        raise ValueError(f"no compiler for GPUs ({error}): pip install -e '.[cuda12]'."
                         ) from error
    models = state_lib.build_models(config)
    steps = steps_lib.make_steps(models, loop.settings_of(config), teacher, devices)
    for batch in batches:
        arguments = tpu_compile.abstract_arguments(
            config, models, devices, batch, variables)
        for name in names:
            began = time.perf_counter()
            memory = getattr(steps, name).lower(
                *arguments[name]).compile().memory_analysis()
            yield {
                'step': name, 'batch': batch,
                'arguments_gb': memory.argument_size_in_bytes / 1e9,
                'temporaries_gb': (memory.temp_size_in_bytes + memory.output_size_in_bytes
                                   - memory.alias_size_in_bytes) / 1e9,
                'compile_s': time.perf_counter() - began}


def main(argv):
    del argv
    args = flags.FLAGS
    results = []
    for figures in run(args.config, [int(n) for n in args.batch], args.steps,
                       args.teacher_config):
        results.append(figures)
        print('{step:3} of {batch} images: {arguments_gb:.2f} GB of arguments, '
              '{temporaries_gb:.2f} GB of temporaries'.format(**figures), flush=True)
    print(json.dumps(results))


if __name__ == '__main__':
    config_flags.DEFINE_config_file('config', None, 'Config file.', lock_config=True)
    config_flags.DEFINE_config_file('teacher_config', None, 'Config of the teacher.')
    flags.DEFINE_list('batch', ['32'], 'Images that one GPU takes of a batch.')
    flags.DEFINE_list('steps', list(STEPS), 'Which steps.')
    flags.mark_flags_as_required(['config'])
    cli.run(main)
