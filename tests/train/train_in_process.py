"""A run of its own process, for tests that kill it or need several: python train_in_process.py WORKDIR JSON.

JSON: {"recipe": "NAME.py:ARGUMENT" (a small network on digits), "fields": recipe fields, "kill_at": how many
pairs of micro-batches it takes}. Appends the ids of every micro-batch to WORKDIR/ids_PROCESS.jsonl.
"""

import json
import os
import signal
import sys
from pathlib import Path

import jax

from unireplknet_jax.cli.train import load_config
from unireplknet_jax.train import loop
from unireplknet_jax.train.distributed import join

CONFIGS = Path(__file__).parents[2] / "configs"
MODEL = {
    "depths": (1, 1, 0, 0),
    "dims": (16, 32, 8, 8),
    "kernel_sizes": ((3,), (7,), (), ()),
    "drop_path_rate": 0.2,
    "bn_group": 32,
}


def main(workdir, wishes):
    join()
    config = load_config(f"{CONFIGS}/{wishes['recipe']}", []) if "recipe" in wishes else _on_digits()
    config.update(wishes.get("fields", {}))
    _record(workdir, wishes.get("kill_at"))
    loop.train(config, workdir)


def _on_digits():
    config = load_config(f"{CONFIGS}/small_images.py:digits", [])
    config.task.options.model.update(MODEL)
    config.task.options.update({"image_size": 16, "mixup": 0.8, "random_erasing": 0.25})
    config.update({"batch_size": 128, "accumulate": 2, "eval_batch_size": 120, "epochs": 1.0, "log_every": 1})
    config.update({"recalibrate": 3})
    config.ema.decay = 0.5
    config.checkpoint.every_steps = 2
    config.optim.warmup_epochs = 0.2
    return config


def _record(workdir, kill_at):
    real, count = loop.micro_batches, [0]

    def micro_batches(*args):
        for batch in real(*args):
            if kill_at is not None and count[0] == 2 * kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1
            with open(f"{workdir}/ids_{jax.process_index()}.jsonl", "a") as file:
                file.write(json.dumps(list(map(int, batch["id"]))) + "\n")
            yield batch

    loop.micro_batches = micro_batches


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
