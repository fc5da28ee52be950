#!/usr/bin/env bash
# Runs the tests, on a machine that need have nothing but Python 3.11 or later:
#
#   tools/test.sh [PYTEST ARGUMENTS]     e.g. tools/test.sh tests/model/layers_test.py
#   tools/test.sh --slow                 with the tests that take minutes each
#
# Paths are relative to the repository root. The first run installs into .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/setup_venv.sh

# The version that the comparisons with PyTorch were made with, chosen by pip in one
# go with the rest so that nothing brings another. Where pip can see a build for CPU
# only (2.13.0+cpu), it takes that one; any other is run on CPU too.
setup_venv test torch==2.13.0 -e '.[dev,train,export,tpu-compile]'
# Two processes, a file each: most of the time is compilation. One that dies ends the
# run: pytest-xdist gives a replacement no work and waits for it for ever.
patience=900
if [[ " $* " == *' --slow '* ]]; then patience=3600; fi
exec "$venv/bin/python" -m pytest -n 2 --dist loadfile --max-worker-restart=0 \
  -o faulthandler_timeout="$patience" "$@"
