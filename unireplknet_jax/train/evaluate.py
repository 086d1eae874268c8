"""Exact evaluation of a task on a data set, for any batch size and number of hosts."""

import contextlib
import os
import pathlib

import jax
import numpy as np

from unireplknet_jax.data.pipeline import eval_batches
from unireplknet_jax.models.program import announced
from unireplknet_jax.train.distributed import gather_rows
from unireplknet_jax.train.sharding import batch_sharding, make_mesh, to_devices
from unireplknet_jax.train.step import make_eval_step


def evaluate(
    task,
    variables,
    dataset,
    batch_size,
    *,
    mesh=None,
    deploy=False,
    eval_step=None,
    num_threads=2,
    workers=0,
    predictions=None,
):
    """The task's metrics over every example of a grain.MapDataset, each counted once.

    batch_size is global and a multiple of the devices. `eval_step`: from `make_eval_step`, to compile only once; it has
    to give the predictions that the task makes records of.
    num_threads, workers: as of `data.pipeline.eval_batches`. predictions: the .npz file to write all predictions
    and the ids of their examples to, from one process; None: none.
    """
    if predictions and jax.process_count() > 1:
        raise ValueError("predictions are written by one process; evaluate in one to have them.")
    mesh = mesh or make_mesh()
    if batch_size % mesh.size:
        raise ValueError(f"the batch of {batch_size} is not a multiple of the {mesh.size} devices.")
    eval_step = eval_step or make_eval_step(task, mesh, deploy, bool(predictions) or makes_records(task))
    batches = eval_batches(dataset, batch_size, jax.process_index(), jax.process_count(), num_threads, workers)
    totals, records, previous, kept = None, [], None, []
    with announced("evaluating"), jax.set_mesh(mesh), contextlib.closing(batches):
        for batch in batches:
            sums, pred = eval_step(variables, to_devices(batch_sharding(mesh), batch))
            totals = sums if totals is None else jax.tree.map(lambda a, b: a + b, totals, sums)
            # The devices have this batch to work on while the one before is fetched, and never more than the two.
            if previous is not None:
                records += _records(task, *previous, kept if predictions else None)
            previous = sums, pred, batch
    if previous is None:
        raise ValueError("there is nothing to evaluate: the data set is empty.")
    records += _records(task, *previous, kept if predictions else None)
    if predictions:
        _write(predictions, kept, task)
    return task.metrics(jax.device_get(totals), gather_rows(records))


def makes_records(task):
    """Whether an evaluation needs the records of a task, and so its predictions."""
    return getattr(task, "makes_records", True)


def _write(path, kept, task):
    """The predictions of all batches in one .npz file, whole or not at all."""
    arrays = {name: np.concatenate([batch[name] for batch in kept]) for name in kept[0]}
    part = pathlib.Path(path).with_suffix(".part.npz")
    np.savez(part, labels=np.array(task.labels, str), **arrays)
    os.replace(part, path)


def _records(task, sums, pred, batch, kept=None):
    """Wait for a batch; the rows of this process's real examples, where the task makes any. kept: gets the arrays."""
    _, pred = jax.device_get((sums, pred))
    if pred is None:
        return []
    if kept is not None:
        real = batch["mask"] > 0
        kept.append({name: value[real] for name, value in pred.items()} | {"id": batch["id"][real]})
    own = jax.process_index() * len(batch["mask"])
    rows = [
        task.record({k: v[own + i] for k, v in pred.items()}, {name: column[i] for name, column in batch.items()})
        for i in np.flatnonzero(batch["mask"])
    ]
    return [row for row in rows if row is not None]
