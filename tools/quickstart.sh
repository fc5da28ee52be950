#!/usr/bin/env bash
# Trains on the photographs that scikit-image and scikit-learn carry, then inpaints
# regions it has not seen, on a machine that need have nothing but Python 3.11 or
# later:
#
#   tools/quickstart.sh [WORKDIR] [FLAGS OF migan_jax.main]
#
# WORKDIR (runs/quickstart) gets the logs, pictures and checkpoints; a run that was
# stopped goes on from there. Paths are relative to the repository root. The first
# run installs into .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/setup_venv.sh

workdir=runs/quickstart
if [[ $# -gt 0 && $1 != -* ]]; then
  workdir=$1
  shift
fi

# OpenCV's methods are in its table.
setup_venv quickstart -e '.[train,classical]'
"$venv/bin/python" -m migan_jax.main \
  --config configs/quickstart.py --workdir "$workdir" "$@"
echo
echo 'Held-out regions, held-out masks:'
"$venv/bin/python" tools/evaluate.py --checkpoint="$workdir" --out="$workdir/evaluation"
