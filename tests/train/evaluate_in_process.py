"""One process of evaluations whose task makes records: python evaluate_in_process.py BATCH_SIZE EXAMPLES...

Evaluates sets of so many examples and prints the metrics of each as a line of JSON. They count the records whose
prediction is that of their own example.
"""

import dataclasses
import json
import sys
from typing import ClassVar

import grain
import jax
import jax.numpy as jnp
import numpy as np
from linear import Linear

from unireplknet_jax.train.distributed import join
from unireplknet_jax.train.evaluate import evaluate


@dataclasses.dataclass(frozen=True)
class Recorded(Linear):
    """Predicts a row x (4,) that no other example has."""

    makes_records: ClassVar[bool] = True

    def predict(self, apply, variables, inputs):
        return {"x": variables["weight"] * inputs["x"]}

    def totals(self, pred, batch):
        return {"examples": jnp.sum(batch["mask"]), "sum": jnp.sum(batch["mask"] * pred["x"][:, 0])}

    def record(self, pred, example):
        return {"id": int(example["id"]), "own": bool(np.all(pred["x"] == 3 * example["x"]))}

    def outcomes(self, pred, batch):
        numbers = np.array([number or 0 for number in batch["id"]])  # of padding there is none
        return numbers % 5, pred["x"][:, 0].astype(int) // 12 % 5

    def metrics(self, totals, records):
        counts = {"records": len(records), "ids": len({row["id"] for row in records})}
        own = sum(row["own"] for row in records)
        return {name: float(total) for name, total in totals.items()} | counts | {"own": own}


def main(batch_size, *counts):
    join()
    for count in counts:
        rows = [{"id": i, "x": np.arange(4 * i, 4 * i + 4, dtype=np.float32)} for i in range(count)]
        dataset, variables = grain.MapDataset.source(rows), {"weight": np.float32(3)}
        outcomes = []
        metrics = evaluate(Recorded(), variables, dataset, batch_size, outcomes=outcomes)
        pairs = {"outcomes": len(outcomes), "hits": sum(true == said for true, said in outcomes)}
        print(json.dumps(metrics | (pairs if jax.process_index() == 0 else {"outcomes": None})))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
