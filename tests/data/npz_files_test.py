"""NumPy archives from outside: what is enormous, deep or damaged costs a sentence."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from migan_jax.data import npz_files

LIMIT = 2**20


def header(text):
    """An .npy file of version 1 whose header is a text, without data."""
    body = text.encode() + b'\n'
    return b'\x93NUMPY\x01\x00' + len(body).to_bytes(2, 'little') + body


def archive(path, content, **options):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, **options) as file:
        file.writestr('a.npy', content)
    return path


def refused(path, words):
    """Reads with a bounded peak of memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=words):
            npz_files.read(path, LIMIT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * LIMIT


def test_arrays_come_back(tmp_path):
    path = tmp_path / 'a.npz'
    np.savez(path, x=np.arange(6.0).reshape(2, 3), about='{}')
    read = npz_files.read(path, LIMIT)
    np.testing.assert_array_equal(read['x'], np.arange(6.0).reshape(2, 3))
    assert read['about'].item() == '{}'


def test_a_bomb_is_refused_before_it_expands(tmp_path):
    path = tmp_path / 'bomb.npz'
    np.savez_compressed(path, x=np.zeros(2**26, np.uint8))
    assert path.stat().st_size < 2**17
    refused(path, 'expand to 67,108,992 bytes; expected at most 1,048,576')


def test_a_header_that_claims_more_than_there_is(tmp_path):
    claim = header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}")
    refused(archive(tmp_path / 'a.npz', claim), 'a.npy claims 4,000,000,000,000 bytes')


def test_a_deep_header(tmp_path):
    refused(archive(tmp_path / 'a.npz', header('(' * 9000)), 'header|deep')


def test_python_objects(tmp_path):
    path = tmp_path / 'a.npz'
    np.savez(path, x=np.array([{}], dtype=object))
    refused(path, 'holds Python objects')


@pytest.mark.parametrize('damage', [
    lambda data: data[:len(data) // 2], lambda data: b'', lambda data: b'\x80\x04N.',
    lambda data: data.replace(b'NUMPY', b'MUMPY')])
def test_damage(tmp_path, damage):
    buffer = io.BytesIO()
    np.savez(buffer, x=np.arange(100))
    path = tmp_path / 'a.npz'
    path.write_bytes(damage(buffer.getvalue()))
    refused(path, 'not an .npz archive|magic string|Bad CRC')
