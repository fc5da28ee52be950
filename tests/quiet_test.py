"""What libraries write to stderr past Python is kept, and shown when work fails."""

import os
import subprocess
import sys

import pytest

from migan_jax import quiet


def test_nothing_is_shown_when_all_goes_well(capfd):
    with quiet.stderr_unless_it_fails():
        os.write(2, b'remark')
    os.write(2, b'after')
    assert capfd.readouterr().err == 'after'


def test_everything_is_shown_when_it_fails(capfd):
    with pytest.raises(ValueError, match='why'):
        with quiet.stderr_unless_it_fails():
            os.write(2, b'remark')
            raise ValueError('why')
    assert capfd.readouterr().err == 'remark'


@pytest.mark.parametrize('before, level', [('', '3'), ('0', '0')])
def test_tensorflow_is_quiet_behind_jax_unless_its_level_is_set(before, level):
    environment = {name: value for name, value in os.environ.items()
                   if name != 'TF_CPP_MIN_LOG_LEVEL'}
    if before:
        environment['TF_CPP_MIN_LOG_LEVEL'] = before
    code = ('import os\nimport jax\nfrom migan_jax import quiet\n'
            'with quiet.importing_tensorflow():\n'
            '    print(os.environ["TF_CPP_MIN_LOG_LEVEL"])')
    result = subprocess.run([sys.executable, '-c', code], env=environment,
                            stdout=subprocess.PIPE, text=True, check=True)
    assert result.stdout == f'{level}\n'


NAMES = ('TPU_WORKER_HOSTNAMES', 'TPU_HOST_BOUNDS')


@pytest.fixture
def tpu_files(monkeypatch, tmp_path):
    """A folder whose files are what a process can reach of TPUs; the variables are unset."""
    monkeypatch.setattr(quiet, '_TPU_FILES', (str(tmp_path / '*'),))
    for name in NAMES:
        monkeypatch.setenv(name, '')   # for its value to be put back afterwards
        monkeypatch.delenv(name)
    return tmp_path


def test_libtpu_is_answered_where_there_is_no_tpu(tpu_files, monkeypatch):
    del tpu_files
    monkeypatch.setenv('TPU_HOST_BOUNDS', '2,2,1')
    quiet._libtpu_without_a_tpu()
    assert [os.environ[name] for name in NAMES] == ['localhost', '2,2,1']


def test_a_tpu_is_asked_for_its_own_answers(tpu_files):
    (tpu_files / 'accel0').touch()
    quiet._libtpu_without_a_tpu()
    assert not any(name in os.environ for name in NAMES)


def test_a_program_starts_without_a_word_of_missing_accelerators():
    """Of libtpu only where it is installed; of JAX's other platforms anywhere."""
    environment = {name: value for name, value in os.environ.items()
                   if name != 'JAX_PLATFORMS' and name not in NAMES}
    code = 'from migan_jax import cli; import jax; cli.run(lambda argv: jax.devices() and 0)'
    result = subprocess.run(
        [sys.executable, '-c', code], env=environment | {'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'},
        capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, '')


def test_openvino_is_imported_without_its_telemetry(tmp_path):
    pytest.importorskip('openvino', reason='openvino is not installed')
    code = ('import sys\nfrom migan_jax import quiet\n'
            'with quiet.importing_openvino():\n    import openvino\n'
            'assert openvino.Core().available_devices\n'
            'assert "openvino_telemetry" not in sys.modules')
    # Where it keeps how often it was used, before it tells.
    result = subprocess.run(
        [sys.executable, '-c', code], env=os.environ | {'HOME': str(tmp_path)},
        capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, '')
    assert not list(tmp_path.iterdir())
