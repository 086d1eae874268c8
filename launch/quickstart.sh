#!/usr/bin/env bash
# The first run, minutes on a laptop's CPU: trains a small UniRepLKNet on scikit-learn's digits, evaluates it, merges it into
# its inference form, evaluates that and draws predictions.
#   launch/quickstart.sh [WORKDIR] [-- TRAIN_FLAGS]     launch/quickstart.sh runs/seed1 -- --config.seed=1
# Without an active virtual environment it makes .venv here; PYTHON=python3.12 chooses the Python for it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
help_if_asked "$@"

workdir="$repository/runs/digits"
if [[ $# -gt 0 && $1 != -* ]]; then
  workdir="$1"
  shift
  if [[ $workdir != /* ]]; then
    workdir="$PWD/$workdir"
  fi
fi
if [[ ${1:-} == -- ]]; then
  shift
elif [[ $# -gt 0 ]]; then
  fail "unexpected argument '$1': write $0 [WORKDIR] [-- TRAIN_FLAGS]."
fi

run() {
  echo
  echo "\$ $*"
  "$@"
}

enter_environment
install_package ""
cd "$repository"

run unireplknet train --config configs/small_images.py:digits --workdir "$workdir" "$@"
run unireplknet evaluate "$workdir/model"
run unireplknet reparameterize "$workdir/model" "$workdir/merged" --overwrite
run unireplknet evaluate "$workdir/merged"

python - "$workdir/images" <<'PYTHON'
import sys
from pathlib import Path

from PIL import Image

from unireplknet_jax.data.pictures.sets import open_source

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
digits = open_source("digits", "test")
for number in range(12):
    digit = digits[number]
    Image.fromarray(digit["image"][:, :, 0]).save(folder / f"{number:02d}_is_a_{digit['label']}.png")
PYTHON
run unireplknet predict "$workdir/merged" "$workdir"/images/*.png --top 3 --draw "$workdir/predictions.png"

cat <<END

Everything is in $workdir:
  model             the trained network
  merged            the same network in its inference form
  curves.png        loss and accuracy over the steps; the numbers are in metrics.jsonl, for TensorBoard: tensorboard --logdir $workdir
  images            twelve test digits; the file names tell the true labels
  predictions.png   the same digits with what the merged network sees in them
END
