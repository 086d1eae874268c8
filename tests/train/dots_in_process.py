"""One process that trains and evaluates the made-up task: python dots_in_process.py WORKDIR. Prints the metrics."""

import json
import sys

from dots import Dots
from ml_collections import ConfigDict

from unireplknet_jax.tasks import base
from unireplknet_jax.train.distributed import join
from unireplknet_jax.train.loop import train

RECIPE = {
    "task": {"name": "dots"},
    "data": {"name": "pictures", "train_split": "train", "eval_split": "test"},
    # Logged at every step, so that of CPU devices, which share threads, no step waits for one before it.
    **{"batch_size": 16, "eval_batch_size": 8, "epochs": 25, "eval_every_epochs": 25, "log_every": 1},
    "optim": {"lr": 0.5, "weight_decay": 0.0, "min_lr": 0.0, "warmup_epochs": 1},
}


def main(workdir):
    join()
    base.TASKS["dots"] = f"{Dots.__module__}:Dots"
    print(json.dumps(train(ConfigDict(RECIPE), workdir)))


if __name__ == "__main__":
    main(sys.argv[1])
