"""What was traced and lowered is kept for the next process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from migan_jax import lowered


@pytest.fixture
def kept(tmp_path):
    """() -> `lowered.kept` of a function as a new process makes it, which counts its
    traces in `kept.traces`; the code is in `kept.sources`, files in `kept.folder`."""
    sources = tmp_path / 'sources'
    sources.mkdir()
    (sources / 'layers.py').write_text('a = 1\n')

    def make(name='model'):
        def paint(variables, x):
            make.traces += 1
            return {'painted': variables['scale'] * x + 1}

        return lowered.kept(jax.jit(paint), name, sources)

    make.traces, make.sources = 0, sources
    make.folder = tmp_path / 'compiled' / 'lowered'
    before = jax.config.jax_compilation_cache_dir
    jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'compiled'))
    yield make
    jax.config.update('jax_compilation_cache_dir', before)


VARIABLES = {'scale': np.array([2, 3], np.float32)}


def check(function, rows=1):
    x = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    result = function(VARIABLES, jnp.asarray(x))
    np.testing.assert_array_equal(result['painted'], x * VARIABLES['scale'] + 1)


def test_the_next_process_does_not_trace(kept):
    first = kept()
    check(first)
    check(first)
    assert kept.traces == 1
    check(kept())
    assert kept.traces == 1
    # Another size of batch is another program.
    check(kept(), rows=3)
    assert kept.traces == 2
    assert len(list(kept.folder.iterdir())) == 2


def test_another_model_or_other_code_is_traced(kept):
    check(kept())
    check(kept('another model'))
    assert kept.traces == 2
    (kept.sources / 'layers.py').write_text('a = 2\n')
    check(kept())
    assert kept.traces == 3


@pytest.mark.parametrize('damage', [
    lambda content: b'', lambda content: content[:-1],
    lambda content: content[:-1] + bytes([content[-1] ^ 1])])
def test_damaged_files_are_written_anew(kept, damage):
    check(kept())
    (path,) = kept.folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    check(kept())
    assert kept.traces == 2
    check(kept())
    assert kept.traces == 2


def test_old_files_go(kept, monkeypatch):
    monkeypatch.setattr(lowered, 'MOST', 2)
    for rows in (1, 2, 3):
        check(kept(), rows)
    assert len(list(kept.folder.iterdir())) == 2
    check(kept(), 3)
    assert kept.traces == 3


def test_where_nothing_can_be_written_it_works(kept):
    kept.folder.parent.mkdir()
    kept.folder.write_text('in the way')
    check(kept())
    check(kept())
    assert kept.traces == 2


@pytest.mark.parametrize('folder', [None, 'gs://bucket/compiled'])
def test_nothing_is_kept_where_jax_keeps_nothing_or_in_a_bucket(kept, folder):
    jax.config.update('jax_compilation_cache_dir', folder)
    check(kept())
    check(kept())
    assert kept.traces == 2
    assert not kept.folder.exists()
