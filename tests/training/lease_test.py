"""A second run in a workdir is refused; what a crash left is not in the way."""

import json
import os
import subprocess
import sys
import time

import pytest

import bucket as bucket_lib
from migan_jax.training import lease as lease_lib

# Another host's lease is watched for so long.
BRIEF = dict(renew_s=0.05, stale_s=0.5)


def written_by(path, **changes):
    """A lease file as another process would leave it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    other = {**lease_lib._process(), 'token': 'other', 'renewals': 0,
             'started': '2026-01-01 00:00:00 UTC', **changes}
    path.write_text(json.dumps(other))


def test_a_second_run_is_refused_and_told_about_the_first(tmp_path):
    with lease_lib.Lease(tmp_path):
        held = json.loads((tmp_path / 'run.json').read_text())
        with pytest.raises(lease_lib.InUse) as refused:
            lease_lib.Lease(tmp_path)
    for part in (str(held['pid']), held['host'], held['started'], str(tmp_path)):
        assert part in str(refused.value)
    assert list(tmp_path.iterdir()) == []
    lease_lib.Lease(tmp_path).close()


def test_a_crashed_run_of_this_host_is_no_obstacle(tmp_path):
    gone = subprocess.Popen([sys.executable, '-c', 'pass'])
    gone.wait()
    written_by(tmp_path / 'run.json', pid=gone.pid, born='1')
    # Without watching: it would take longer than the test.
    lease_lib.Lease(tmp_path, stale_s=3600).close()
    assert list(tmp_path.iterdir()) == []


def test_a_process_number_that_was_used_again_is_no_obstacle(tmp_path):
    written_by(tmp_path / 'run.json', born='1')   # this process is alive, and not it
    with lease_lib.Lease(tmp_path, stale_s=3600) as lease:
        lease.check()
        assert json.loads((tmp_path / 'run.json').read_text())['born'] != '1'
    assert list(tmp_path.iterdir()) == []


def test_another_hosts_lease_goes_stale_by_itself(tmp_path):
    written_by(tmp_path / 'run.json', host='elsewhere')
    with lease_lib.Lease(tmp_path, **BRIEF):
        assert json.loads((tmp_path / 'run.json').read_text())['host'] != 'elsewhere'


def test_another_hosts_lease_that_is_renewed_is_respected(tmp_path, monkeypatch):
    path = tmp_path / 'run.json'
    written_by(path, host='elsewhere')
    sleep, slept = time.sleep, []

    def renewed(seconds):
        slept.append(seconds)
        written_by(path, host='elsewhere', renewals=len(slept))
        sleep(0)
    monkeypatch.setattr(lease_lib.time, 'sleep', renewed)
    with pytest.raises(lease_lib.InUse, match='elsewhere, started 2026-01-01'):
        lease_lib.Lease(tmp_path, stale_s=3600)
    assert len(slept) == 1


def test_a_run_notices_that_it_was_taken_over(tmp_path):
    with lease_lib.Lease(tmp_path, **BRIEF) as lease:
        lease.check()
        written_by(tmp_path / 'run.json', host='elsewhere')
        lease._thread.join(60)
        with pytest.raises(lease_lib.InUse, match='elsewhere'):
            lease.check()
    # It is not this run's to remove.
    assert json.loads((tmp_path / 'run.json').read_text())['token'] == 'other'


@pytest.mark.parametrize('text', ['', '[1]', '{}', '{"pid": 1', 'null'])
def test_a_file_that_is_no_lease_is_replaced(tmp_path, text):
    (tmp_path / 'run.json').write_text(text)
    with lease_lib.Lease(tmp_path):
        assert 'token' in json.loads((tmp_path / 'run.json').read_text())


def test_trouble_in_a_renewal_is_reported_and_passes(tmp_path, monkeypatch, caplog):
    failures = iter([OSError('No space left on device')])
    done = []
    write = lease_lib.Lease._write

    def failing(self):
        for error in failures:
            raise error
        write(self)
        done.append(self._mine['renewals'])
    with lease_lib.Lease(tmp_path, **BRIEF):
        monkeypatch.setattr(lease_lib.Lease, '_write', failing)
        end = time.monotonic() + 60
        while not done and time.monotonic() < end:
            time.sleep(0.01)
    assert done and 'could not be renewed: No space left' in caplog.text


def test_a_lease_in_a_bucket(tmp_path):
    # In a process of its own: TensorFlow finds the emulator by its environment.
    with bucket_lib.Emulator(tmp_path) as emulator:
        code = '''
from migan_jax.training import lease
with lease.Lease('gs://bucket/run'):
    try:
        lease.Lease('gs://bucket/run')
    except lease.InUse as error:
        print(error)
'''
        printed = subprocess.run(
            [sys.executable, '-c', code], env=os.environ | emulator.environment(),
            check=True, capture_output=True, text=True).stdout
        assert 'gs://bucket/run is in use by a run of process' in printed
        assert 'run/run.json' not in emulator.names()
