#!/usr/bin/env bash
# Tries both ends of the ranges in setup.cfg: installs the lowest versions that it
# admits, on Python 3.11, and the newest ones, on Python 3.13, and with each runs some
# tests, a short quickstart and the export of its result:
#
#   tools/try_ranges.sh FOLDER [lowest] [newest]
#
# FOLDER gets the environments, about 9 GB each, the versions in them and what was
# said; docs/installing.md has the result. Needs uv (pip install uv), whose settings
# (UV_FIND_LINKS, UV_PYTHON_PREFERENCE, ...) apply. LOWEST_PYTHON and NEWEST_PYTHON name
# other interpreters.
set -euo pipefail
if [[ $# -eq 0 ]]; then
  sed -n '/^#!/d; /^#/!q; s/^# \{0,1\}//p' "$0" >&2
  exit 1
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source .ci/few.sh

# All extras but those of devices, which jax itself bounds, and executorch, each release
# of which wants its own PyTorch.
extras=train,export,eval,photo,classical,hub,drive,web,notebook,gcs,coreml,ncnn,runtimes,dev
# Besides the few: checkpoints, and each package that one module alone needs.
more=(tests/checkpoint_test.py tests/data/photographs_test.py
  tests/evaluation/classical_test.py tests/evaluation/ids_test.py
  tests/evaluation/lpips_test.py tests/export/coreml_test.py tests/export/ncnn_test.py
  tests/weights/fetching_test.py tests/weights/routes_test.py)
# PyTorch 2.6 can not convolve on the device that this test moves a module to.
except=(--deselect
  tests/export/torch_module_test.py::test_every_number_moves_with_the_module)

# try_end NAME INTERPRETER RESOLUTION
try_end() {
  local place=$folder/$1 python=$folder/$1/venv/bin/python
  uv venv -q --clear --python "$2" "$place/venv" &&
    uv pip install -q --python "$python" --resolution "$3" -e ".[$extras]" &&
    uv pip freeze -q --python "$python" > "$place/versions.txt" &&
    "$python" -m pytest -q "${few[@]}" "${more[@]}" "${except[@]}" &&
    "${quick[@]}" "$python" -m migan_jax.main --config configs/quickstart.py \
      --workdir "$place/run" "${tiny[@]}" &&
    "$python" tools/to_torch.py --checkpoint="$place/run" --out="$place/export"
}

outcome=0
[[ $# -gt 0 ]] || set -- lowest newest
for name in "$@"; do
  case $name in
    lowest) arguments=("${LOWEST_PYTHON:-3.11}" lowest-direct) ;;
    newest) arguments=("${NEWEST_PYTHON:-3.13}" highest) ;;
    *) echo "error: $name is neither lowest nor newest" >&2; exit 1 ;;
  esac
  rm -rf "${folder:?}/$name"
  mkdir "$folder/$name"
  if try_end "$name" "${arguments[@]}" > "$folder/$name/log" 2>&1; then
    echo "$name: works"
  else
    echo "$name: FAILED, see $folder/$name/log"
    outcome=1
  fi
  tail -3 "$folder/$name/log"
done
exit $outcome
