"""Compilations are announced, with a guess from the one before, and kept."""

import jax
# Not public: what XLA is told to keep is seen nowhere else.
from jax._src import compiler
import pytest

from migan_jax.training import compiling


def test_first_calls_are_announced_and_later_ones_not(monkeypatch):
    clock = iter([0.0, 28.0, 30.0, 140.0])
    monkeypatch.setattr(compiling.time, 'perf_counter', lambda: next(clock))
    said = []
    monkeypatch.setattr(
        compiling.logging, 'info', lambda text, *args: said.append(text % args))
    announced = compiling.Compilations().announced
    initial = announced('the initial state', lambda x: x + 1)
    step = announced('G', lambda x: x * 2)
    assert initial(1) == 2
    assert (step(2), step(3)) == (4, 6)
    assert said == ['compiling the initial state', 'compiled the initial state in 28.0 s',
                    'compiling G, about 100 s', 'compiled G in 110.0 s']


@pytest.fixture
def kept(monkeypatch):
    """Settings of JAX that are put back, in a process that nobody told where to keep."""
    names = ('jax_compilation_cache_dir', 'jax_persistent_cache_enable_xla_caches')
    before = {name: getattr(jax.config, name) for name in names}
    for name in names:
        monkeypatch.delenv(name.upper(), raising=False)
    yield lambda: tuple(getattr(jax.config, name) for name in names)
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.parametrize('workdir, folder', [
    ('gs://bucket/runs/a', 'gs://bucket/runs/.jax_cache'),
    ('gs://bucket/a', 'gs://bucket/.jax_cache'), ('gs://bucket', 'gs://bucket/.jax_cache')])
def test_in_a_bucket_jax_keeps_what_it_compiles_and_xla_does_not(kept, workdir, folder):
    compiling.keep(workdir)
    assert kept() == (folder, 'none')
    options = compiler.get_compile_options(num_replicas=1, num_partitions=1)
    debug = options.executable_build_options.debug_options
    assert debug.xla_gpu_per_fusion_autotune_cache_dir == ''


def test_on_a_disk_both_keep_it_beside_the_workdir(kept, tmp_path):
    xla = kept()[1]
    compiling.keep(tmp_path / 'run')
    assert kept() == (str(tmp_path / '.jax_cache'), xla)
    options = compiler.get_compile_options(num_replicas=1, num_partitions=1)
    assert options.executable_build_options.debug_options \
        .xla_gpu_per_fusion_autotune_cache_dir.startswith(str(tmp_path))


def test_where_to_keep_it_may_be_said(kept, monkeypatch, tmp_path):
    before = kept()
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path))
    compiling.keep('gs://bucket/runs/a')
    assert kept() == before   # JAX has read the variable
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'gs://bucket/compiled')
    compiling.keep(tmp_path / 'run')
    assert kept() == (before[0], 'none')
