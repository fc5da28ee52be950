#!/usr/bin/env bash
# Trains the model that comes with a clone (models/demo), or goes on with it:
#
#   tools/train_demo.sh [FOLDER] [FLAGS OF migan_jax.main]
#
# FOLDER (/var/tmp/migan_demo) gets packages, photographs, the log train.log and the
# workdir run/; give the same command again after a stop, and it goes on from the last
# checkpoint.  On a CPU it takes one thread at the lowest priority, for tens of hours
# beside other work; on an accelerator add --config.train.batch_size=64 or so.
#
# The photographs come from packages of Debian 12, whose authors and licences
# `tools/demo_photos.py --list` prints; apt-get fetches them without root.  Where there is
# no apt-get, put the unpacked packages into FOLDER/packages.  PYTHON names the
# interpreter (.venv/bin/python), NICE a priority other than 19.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=/var/tmp/migan_demo
if [[ $# -gt 0 && $1 != -* ]]; then
  folder=$1
  shift
fi
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
# A resumed run need not compile again.
export JAX_COMPILATION_CACHE_DIR=$folder/compiled
# One thread: what a machine that does other work can spare.
export XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1 ${XLA_FLAGS:-}"

packages='lomiri-wallpapers-16.04 lomiri-wallpapers-20.04
  mate-backgrounds plasma-workspace-wallpapers'
mkdir -p "$folder/packages"
for package in $packages; do
  if [[ ! -d $folder/packages/$package ]]; then
    (cd "$folder/packages" && apt-get download "$package")
    dpkg -x "$folder/packages/$package"_*.deb "$folder/packages/$package.part"
    mv "$folder/packages/$package.part" "$folder/packages/$package"
  fi
done
if [[ ! -d $folder/photos ]]; then
  "$python" tools/demo_photos.py --packages="$folder/packages" --out="$folder/photos.part"
  mv "$folder/photos.part" "$folder/photos"
fi

exec nice -n "${NICE:-19}" "$python" -m migan_jax.main --config configs/demo.py \
  --workdir "$folder/run" --config.data.path="$folder/photos" "$@" \
  >> "$folder/train.log" 2>&1
