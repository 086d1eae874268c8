"""Exact evaluation of a task on a data set, for any batch size and number of hosts."""

import jax
import numpy as np

from unireplknet_jax.data.pipeline import eval_batches
from unireplknet_jax.train.distributed import gather_rows
from unireplknet_jax.train.sharding import batch_sharding, make_mesh, to_devices
from unireplknet_jax.train.step import make_eval_step


def evaluate(task, variables, dataset, batch_size, *, mesh=None, deploy=False, eval_step=None):
    """The task's metrics over every example of a grain.MapDataset, each counted once.

    batch_size is global and a multiple of the devices. `eval_step`: from `make_eval_step`, to compile only once.
    """
    mesh = mesh or make_mesh()
    if batch_size % mesh.size:
        raise ValueError(f"the batch of {batch_size} is not a multiple of the {mesh.size} devices.")
    eval_step = eval_step or make_eval_step(task, mesh, deploy)
    totals, records = None, []
    with jax.set_mesh(mesh):
        for batch in eval_batches(dataset, batch_size, jax.process_index(), jax.process_count()):
            sums, pred = eval_step(variables, to_devices(batch_sharding(mesh), batch))
            totals = sums if totals is None else jax.tree.map(lambda a, b: a + b, totals, sums)
            records += _records(task, jax.device_get(pred), batch)
    if totals is None:
        raise ValueError("there is nothing to evaluate: the data set is empty.")
    return task.metrics(jax.device_get(totals), gather_rows(records))


def _records(task, pred, batch):
    """The rows of this process's real examples, where the task makes any."""
    own = jax.process_index() * len(batch["mask"])
    rows = [
        task.record({k: v[own + i] for k, v in pred.items()}, {name: column[i] for name, column in batch.items()})
        for i in np.flatnonzero(batch["mask"])
    ]
    return [row for row in rows if row is not None]
