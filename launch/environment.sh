# Sourced by launch/*.sh and .ci/run, which share one Python environment.
# Sets $repository; enter_environment activates an environment, install_package EXTRAS puts this package into it.
# shellcheck shell=bash

repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
  echo "error: $*" >&2
  exit 1
}

# Where the first argument asks for help, prints the comment that the script $0 begins with, and ends it.
help_if_asked() {
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    sed -n '2,/^[^#]/ { s/^# \{0,1\}//p; }' "$0"
    exit
  fi
}

# Prints the version of the Python in $1 as "3.12", or nothing if it does not run; succeeds only from 3.11 on.
python_version() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  local candidate version
  if [[ -n ${PYTHON:-} ]]; then
    version="$(python_version "$PYTHON")" ||
      fail "PYTHON=$PYTHON is ${version:+Python $version, }not a working Python 3.11 or newer; set PYTHON to one, for example PYTHON=python3.12."
    echo "$PYTHON"
    return
  fi
  for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if python_version "$candidate" >/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python 3.11 or newer was found: install one, or name it as in PYTHON=/path/to/python3.12 $0."
}

# Makes .venv with the Python in $1, or .venv-X.Y where .venv is of another version, and prints its folder.
make_environment() {
  local python="$1" version folder="$repository/.venv"
  version="$(python_version "$python")"
  if [[ -x $folder/bin/python && "$(python_version "$folder/bin/python")" != "$version" ]]; then
    folder="$repository/.venv-$version"
  fi
  if [[ ! -e $folder ]]; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
      fail "Python $version here cannot make virtual environments: install its venv module (on Debian and Ubuntu: apt install python$version-venv)."
    echo "making the virtual environment $folder" >&2
    "$python" -m venv "$folder" >&2 || {
      rm -rf "$folder"
      fail "the virtual environment $folder could not be made with $python; see the message above."
    }
  fi
  echo "$folder"
}

# Activates the environment that is already active, else the repository's own, which it makes when missing.
enter_environment() {
  local python version
  if [[ -z ${VIRTUAL_ENV:-} ]]; then
    python="$(find_python)"
    VIRTUAL_ENV="$(make_environment "$python")"
  fi
  python="$VIRTUAL_ENV/bin/python"
  version="$(python_version "$python")" ||
    fail "the virtual environment $VIRTUAL_ENV has ${version:+Python $version, }no working Python 3.11 or newer: deactivate or delete it, and run this again."
  "$python" -m pip --version >/dev/null 2>&1 ||
    fail "the virtual environment $VIRTUAL_ENV has no pip: run '$python -m ensurepip', or delete it, and run this again."
  export VIRTUAL_ENV PATH="$VIRTUAL_ENV/bin:$PATH"
  unset PYTHONHOME
  hash -r
}

# Installs the package as an editable one with the extras in $1 ("" or "[test]"), unless the stamp of an earlier install still holds.
install_package() {
  local extras="$1" stamp="$VIRTUAL_ENV/unireplknet_jax.stamp" wanted
  wanted="$repository $(cat "$repository/requirements.txt" "$repository/pyproject.toml" | cksum) "
  # A stamp that ends in "[test]" also serves "": the comparison is with its beginning.
  if [[ -f $stamp && "$(<"$stamp")" == "$wanted$extras"* ]]; then
    return
  fi
  echo "installing unireplknet_jax$extras into $VIRTUAL_ENV (minutes the first time)"
  "$VIRTUAL_ENV/bin/python" -m pip install --quiet --editable "$repository$extras" ||
    fail "pip could not install unireplknet_jax$extras; see its message above."
  echo "$wanted$extras" >"$stamp"
}
