"""Exact evaluation of a task on a data set, for any batch size and number of hosts."""

import contextlib
import functools
import json
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from unireplknet_jax.data.files import whole_file, write_npz
from unireplknet_jax.data.pipeline import eval_batches
from unireplknet_jax.models.program import announced
from unireplknet_jax.tasks.stream import Streaming
from unireplknet_jax.train.distributed import from_first_process
from unireplknet_jax.train.records import Records
from unireplknet_jax.train.sharding import batch_sharding, make_mesh, own_rows, to_devices
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
    outcomes=None,
    keys=None,
):
    """The task's metrics over every example of a grain.MapDataset, each counted once.

    batch_size is global and a multiple of the devices. `eval_step`: from `make_eval_step`, to compile only once; it has
    to give the predictions that the task makes records of.
    num_threads, workers, keys (`Task.shape_keys`): as of `data.pipeline.eval_batches`; as many threads make records.
    predictions: the .npz file to write all predictions and the ids of their examples to, or the .json file to write
        `Task.results` to, from one process; None: none.
    outcomes: a list that on process 0 gets [class, predicted class] of every example, each once, if the task has such,
    or `Task.counted_outcomes` where these are not of whole examples.
    """
    if predictions and jax.process_count() > 1:
        raise ValueError("predictions are written by one process; evaluate in one to have them.")
    mesh = mesh or make_mesh()
    if batch_size % mesh.size:
        raise ValueError(f"the batch of {batch_size} is not a multiple of the {mesh.size} devices.")
    eval_step = eval_step or make_eval_step(
        task, mesh, deploy, bool(predictions) or outcomes is not None or task.makes_records
    )
    spec = task.specs(train=False)[0]
    arrays = (*spec.inputs, *spec.targets, "mask")
    batches = eval_batches(
        dataset, batch_size, jax.process_index(), jax.process_count(), num_threads, workers, arrays=arrays, keys=keys
    )
    in_json = predictions is not None and str(predictions).endswith(".json")
    totals, previous, kept = None, None, [] if predictions and not in_json else None
    streaming = _streaming(task, variables, eval_step) if mesh.size == 1 and kept is None else None
    with contextlib.ExitStack() as stack:
        stack.enter_context(announced("evaluating"))
        stack.enter_context(jax.set_mesh(mesh))
        stack.enter_context(contextlib.closing(batches))
        pool = stack.enter_context(ThreadPoolExecutor(max(num_threads, 1)))
        records, pairs = stack.enter_context(Records()), stack.enter_context(Records())
        paired = outcomes is not None and task.outcomes_of == "examples"
        keeping = pool, records, kept, pairs if paired else None
        for batch in batches:
            if streaming and streaming(_example(batch, 0)):
                totals = _added(totals, _streamed(task, streaming, batch, records))
                continue
            step = *eval_step(variables, to_devices(batch_sharding(mesh), batch, arrays)), batch
            # The devices have this batch to work on while the one before is fetched, and never more than the two.
            if previous is not None:
                totals = _added(totals, _fetched(task, *previous, *keeping))
            previous = step
        if previous is not None:
            totals = _added(totals, _fetched(task, *previous, *keeping))
        if totals is None:
            raise ValueError("there is nothing to evaluate: the data set is empty.")
        if kept is not None:
            _write(predictions, kept, task)
        if paired:
            outcomes += [row["pair"] for row in pairs.merged() or ()]
        rows = records.merged()
        if in_json:
            with whole_file(predictions) as part:
                part.write_text(json.dumps(task.results(rows)))
        if outcomes is not None and not paired and rows is not None:
            outcomes += task.counted_outcomes(rows)
        return from_first_process(lambda: task.metrics(totals, rows))


def _added(totals, sums):
    """The sums so far and those of a batch, exactly: counts of pixels pass what float32 and int32 can hold."""

    def wide(value):
        return value.astype(np.float64 if np.issubdtype(value.dtype, np.floating) else np.int64)

    sums = jax.tree.map(lambda value: wide(np.asarray(value)), sums)
    return sums if totals is None else jax.tree.map(np.add, totals, sums)


def _fetched(task, sums, pred, batch, pool, records, kept, pairs):
    """Wait for a batch; its sums. The records of this process's real examples are added, and what is kept of it."""
    sums, pred = jax.device_get(sums), own_rows(pred)
    if pred is None:
        return sums
    real = np.flatnonzero(batch["mask"])
    if kept is not None:
        saved = {name: value[real] for name, value in task.saved(pred, batch).items()}
        kept.append({**saved, "id": np.array([batch["id"][i] for i in real])})
    if pairs is not None:
        true, found = task.outcomes(pred, batch)
        pairs.add([{"id": _plain(batch["id"][i]), "pair": [int(true[i]), int(found[i])]} for i in real])
    if task.makes_records:
        rows = pool.map(functools.partial(_record, task, pred, batch), real)
        records.add([row for row in rows if row is not None])
    return sums


def _plain(name):
    """An id as JSON can hold it."""
    return name.item() if isinstance(name, np.generic) else name


def _record(task, pred, batch, i):
    return task.record({name: value[i] for name, value in pred.items()}, _example(batch, i))


def _example(batch, i):
    return {name: column[i] for name, column in batch.items()}


def _streaming(task, variables, eval_step):
    """What gives the predictions of large examples window by window; None for a task that has none."""

    def pred(variables, windows, step=eval_step):
        return step(variables, {**windows, "mask": np.ones(1, np.float32)})[1]

    traced = functools.partial(pred, step=getattr(eval_step, "function", eval_step))
    return Streaming(task.streams, traced, pred, variables) if task.streams else None


def _streamed(task, streaming, batch, records):
    """The sums of a batch of large examples, whose records are added one after the other: each holds much meanwhile."""
    for i in np.flatnonzero(batch["mask"]):
        example = _example(batch, i)
        records.add([task.record(streaming(example), example)])
    return jax.device_get(task.totals({}, batch))


def _write(path, kept, task):
    """The predictions of all batches in one .npz file, whole or not at all."""
    arrays = {name: np.concatenate([batch[name] for batch in kept]) for name in kept[0]}
    write_npz(path, labels=np.array(task.labels, str), **arrays)
