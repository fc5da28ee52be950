# Sourced by .ci/run and tools/try_ranges.sh: what tells quickly whether an environment
# works.
# A file of each wing, one that takes seconds.
few=(tests/triton_guard_test.py tests/model/layers_test.py tests/data/torch_files_test.py
  tests/evaluation/psnr_ssim_test.py tests/training/losses_test.py
  tests/export/torch_module_test.py)
# The quickstart with the smallest model and ten iterations.
tiny=(--config.model.resolution=16 --config.model.ch_base=64 --config.model.ch_max=8
  --config.model.branches=0 '--config.mask.brush_width=(1,4)' --config.train.kimg=0.08
  --config.eval.every_kimg=0.08 --config.eval.limit=8
  --config.checkpoint.every_kimg=0.08)
# Compiled the quick way.
quick=(env XLA_FLAGS=--xla_backend_optimization_level=0 JAX_PLATFORMS=cpu)
