"""Exact evaluation of a task on a data set, for any batch size and number of hosts."""

import contextlib
import functools

import jax
import numpy as np

from unireplknet_jax.data.pipeline import eval_batches
from unireplknet_jax.train.distributed import gather_rows
from unireplknet_jax.train.sharding import batch_sharding, make_mesh, to_devices
from unireplknet_jax.train.step import make_eval_step


def evaluate(
    task, variables, dataset, batch_size, *, mesh=None, deploy=False, eval_step=None, num_threads=2, workers=0
):
    """The task's metrics over every example of a grain.MapDataset, each counted once.

    batch_size is global and a multiple of the devices. `eval_step`: from `make_eval_step`, to compile only once.
    num_threads, workers: as of `data.pipeline.eval_batches`.
    """
    mesh = mesh or make_mesh()
    if batch_size % mesh.size:
        raise ValueError(f"the batch of {batch_size} is not a multiple of the {mesh.size} devices.")
    eval_step = eval_step or make_eval_step(task, mesh, deploy)
    if not getattr(task, "makes_records", True):
        eval_step = _totals_alone(eval_step)
    batches = eval_batches(dataset, batch_size, jax.process_index(), jax.process_count(), num_threads, workers)
    totals, records, previous = None, [], None
    with jax.set_mesh(mesh), contextlib.closing(batches):
        for batch in batches:
            sums, pred = eval_step(variables, to_devices(batch_sharding(mesh), batch))
            totals = sums if totals is None else jax.tree.map(lambda a, b: a + b, totals, sums)
            # The devices have this batch to work on while the one before is fetched, and never more than the two.
            if previous is not None:
                records += _records(task, *previous)
            previous = sums, pred, batch
    if previous is None:
        raise ValueError("there is nothing to evaluate: the data set is empty.")
    records += _records(task, *previous)
    return task.metrics(jax.device_get(totals), gather_rows(records))


@functools.lru_cache(maxsize=8)
def _totals_alone(eval_step):
    """The same step with None for predictions: XLA drops what nobody asks for, and so its copies on all devices."""
    return jax.jit(lambda variables, batch: (eval_step(variables, batch)[0], None))


def _records(task, sums, pred, batch):
    """Wait for a batch; the rows of this process's real examples, where the task makes any."""
    _, pred = jax.device_get((sums, pred))
    if pred is None:
        return []
    own = jax.process_index() * len(batch["mask"])
    rows = [
        task.record({k: v[own + i] for k, v in pred.items()}, {name: column[i] for name, column in batch.items()})
        for i in np.flatnonzero(batch["mask"])
    ]
    return [row for row in rows if row is not None]
