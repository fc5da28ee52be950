"""tools/test.sh ends with an error when a process of it dies or hangs."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize('fate', ['os.abort()', 'time.sleep(1000)'])
def test_its_options_end_a_run_that_lost_a_process(tmp_path, fate):
    (tmp_path / 'lost_test.py').write_text(f'import os, time\ndef test_it(): {fate}\n')
    for other in 'ab':
        (tmp_path / f'{other}_test.py').write_text('def test_it(): pass\n')
    text = (ROOT / 'tools' / 'test.sh').read_text().replace('\\\n', ' ')
    options = re.search(r'-m pytest (.*) "\$@"', text)[1].replace('"$patience"', '3')
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', '-c',
         str(ROOT / 'pyproject.toml'), '--rootdir', str(tmp_path), *options.split(),
         str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith('PYTEST_')})
    assert done.returncode == 1, done.stdout
    assert "crashed while running 'lost_test.py::test_it'" in done.stdout
