# Sourced by tools/quickstart.sh and tools/test.sh, which stand in the repository
# root: makes .venv and installs into it. Both share the one environment.
#
# Environment: PYTHON names the interpreter that makes .venv; MIGAN_JAX_VENV names
# another folder than .venv, for a second Python. pip's own settings (PIP_FIND_LINKS,
# PIP_EXTRA_INDEX_URL, ...) apply as always.
venv=${MIGAN_JAX_VENV:-.venv}

die() {
  printf '%s\n' "$@" >&2
  exit 1
}

# Prints the first interpreter that can make the environment. Each is run, not only
# found: version managers leave launchers on PATH for versions not switched on.
find_python() {
  local candidates=(python3.11 python3.12 python3.13 python3 python)
  local candidate version without_venv=''
  if [[ -n ${PYTHON:-} ]]; then candidates=("$PYTHON"); fi
  for candidate in "${candidates[@]}"; do
    version=$("$candidate" -c 'import sys
if sys.version_info < (3, 11): sys.exit(1)
print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
    without_venv=${without_venv:-$version}
  done
  if [[ -n $without_venv ]]; then
    die "Python $without_venv is here, but cannot make virtual environments: its" \
      "module ensurepip is missing. On Debian and Ubuntu, as root:" \
      "  apt install python$without_venv-venv"
  fi
  die "${PYTHON:+PYTHON=$PYTHON: }Python 3.11 or later is needed, and was not found." \
    'Install it, or name one: PYTHON=/path/to/python3.12'
}

# setup_venv NAME ARGUMENT...: has `pip install ARGUMENT...` done in $venv. What was
# done under NAME is remembered there, and not done again until the arguments, the
# files that list the requirements or the place of the checkout change.
setup_venv() {
  local name=$1 python=$venv/bin/python interpreter stamp wanted
  shift
  if [[ ! -e $venv ]]; then
    interpreter=$(find_python)
    echo "Making $venv with $("$interpreter" --version)" >&2
    "$interpreter" -m venv "$venv" || {
      rm -rf "$venv"
      die "$interpreter could not make $venv; its message is above."
    }
  fi
  "$python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    die "$venv in $PWD has no working Python 3.11 or later with pip in it (an" \
      'interrupted installation leaves one so). Remove that folder, then run again.'

  stamp=$venv/installed-$name
  wanted=$({ printf '%s\n' "$PWD" "$@"
    cat setup.cfg pyproject.toml requirements.txt tools/setup_venv.sh; } |
    "$python" -c 'import hashlib, sys
print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
  if [[ -e $stamp && $(<"$stamp") == "$wanted" ]]; then return; fi

  rm -f "$stamp"
  echo "Installing into $venv: 3 to 9 GB, some minutes the first time" >&2
  "$python" -m pip install -qq --disable-pip-version-check "$@" ||
    die "Installing failed with $("$python" --version); pip's message is above. If it" \
      "found no release of a package for this Python, remove $venv and name another:" \
      '  PYTHON=/path/to/python3.12'
  printf '%s\n' "$wanted" > "$stamp"
}
