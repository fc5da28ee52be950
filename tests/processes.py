"""Training runs in processes of their own, for tests that stop, kill and restart them."""

import os
import pathlib
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
# Flags for quicker compilation, the best first: value, and what undoes it. jax 0.12 no
# longer knows the first; the second, new since, is worth two thirds as much.
_EMITTERS = {
    'xla_cpu_use_fusion_emitters': ('false', True),
    'xla_cpu_opt_preset': ('CPU_OPT_PRESET_FAST_COMPILE', 'CPU_OPT_PRESET_DEFAULT')}


def _known_emitters():
    """Name of the first flag in `_EMITTERS` that the installed compiler knows, or ''.

    A process that has a flag which it does not know is ended, so the question costs
    one. The answer is kept in the environment, for the children of this process.
    """
    kept = 'MIGAN_JAX_TESTS_EMITTERS'
    if kept not in os.environ:
        ask = 'from jaxlib import xla_client; xla_client.CompileOptions()'
        os.environ[kept] = next(
            (flag for flag, (value, _) in _EMITTERS.items() if not subprocess.run(
                [sys.executable, '-c', ask], capture_output=True,
                env=os.environ | {'XLA_FLAGS': f'--{flag}={value}'}).returncode), '')
    return os.environ[kept]


# Most of the tests' time is compilation of what then runs a few times: code that is not
# optimised is ready in a quarter of the time.
QUICK_TO_COMPILE = '--xla_backend_optimization_level=0'
# `compiler_options` of jax.jit that undo it.
OPTIMISED = {'xla_backend_optimization_level': 3}
if _emitters := _known_emitters():
    QUICK_TO_COMPILE += f' --{_emitters}={_EMITTERS[_emitters][0]}'
    OPTIMISED[_emitters] = _EMITTERS[_emitters][1]
# A run that takes longer hangs.
PATIENCE_S = 900


class Run:
    """`python -m migan_jax.main` on a tiny config (tiny_run.py)."""

    def __init__(self, workdir, steps, *arguments, devices=1, cache=None, x64=False,
                 optimised=False, config='', keeps=True):
        """Starts it.

        Args:
          workdir: of the run.
          steps: iterations.
          arguments: more of the command line.
          devices: virtual ones of this process.
          cache: folder of compiled functions, kept between processes.
          x64: 64-bit floats.
          optimised: compiles as a user's run does, for minutes.
          config: instead of tiny_run.py.
          keeps: compiled functions in `cache`; otherwise where a run keeps them by itself.
        """
        environment = os.environ | {
            'JAX_PLATFORMS': 'cpu', 'TF_CPP_MIN_LOG_LEVEL': '3',
            'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices} '
                         + ('' if optimised else QUICK_TO_COMPILE),
            'JAX_ENABLE_X64': str(int(x64)),
            'JAX_COMPILATION_CACHE_DIR': str(cache or f'{workdir}.cache') if keeps else ''}
        # Not beside the workdir if there is another place: that may be in a bucket, or full.
        self._log = pathlib.Path(f'{cache or workdir}.{time.monotonic_ns()}.log')
        with open(self._log, 'w') as log:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'migan_jax.main',
                 f'--config={config or f"{ROOT}/tests/tiny_run.py:{steps}"}',
                 f'--workdir={workdir}',
                 *arguments],
                cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def text(self):
        """What it has printed so far."""
        # Opened anew: the process would go on writing where we stopped reading.
        return self._log.read_text()

    def wait_for(self, happened):
        """Until `happened(text)` is true.

        Raises:
          AssertionError: it ended before, or took too long.
        """
        end = time.monotonic() + PATIENCE_S
        while not happened(self.text()):
            assert self.process.poll() is None and time.monotonic() < end, self.text()
            time.sleep(0.005)

    def wait(self, code=0):
        """Until it ends with an exit code; returns what it printed."""
        try:
            actual = self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
        assert actual == code, self.text()
        return self.text()


def start_group(count, workdir, steps, *arguments, flags_of_last=(),
                devices_of_last=None, **options):
    """Several processes of one run on this machine; list of `Run`.

    Args:
      flags_of_last: more arguments of the last one.
      devices_of_last: instead of `devices`.
    """
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    runs = []
    for i in range(count):
        last = i == count - 1
        devices = devices_of_last if last and devices_of_last else options.get('devices', 1)
        runs.append(Run(
            workdir, steps, f'--coordinator_address=localhost:{port}',
            f'--num_processes={count}', f'--process_id={i}', *arguments,
            *(flags_of_last if last else ()), **{**options, 'devices': devices}))
    return runs
