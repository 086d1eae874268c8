#!/usr/bin/env bash
# Checks the repository: style, types, shell scripts, tests.
#   launch/test.sh                  the tests that take seconds
#   launch/test.sh --all            all of them
#   launch/test.sh tests/ops -k fft   what follows goes to pytest
# Without an active virtual environment it makes .venv here; PYTHON=python3.12 chooses the Python for it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
help_if_asked "$@"

tests="not slow"
if [[ ${1:-} == --all ]]; then
  tests=""
  shift
fi
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"

enter_environment
install_package "[test]"
cd "$repository"
ruff check .
ruff format --check .
mypy
shellcheck --external-sources launch/*.sh launch/*.sbatch .ci/run
python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m "$tests" "$@"
