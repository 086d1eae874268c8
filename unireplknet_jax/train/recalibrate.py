"""Batch norm's running statistics, estimated anew: the averages over training batches, with the weights as they are.

Training moves its running statistics by a tenth for each batch, from mean 0 and variance 1, while the weights change.
For some hundred steps they are far from what belongs to the weights. The averages here are those of "precise" batch
norm (fvcore, pycls) and of the paper on batch norm: of the batches' means, and of their variances. As there, batches
are what training sees, with augmentation and drop path, so that the lag goes and nothing else; a batch norm that
training leaves alone (`bn_frozen`) keeps what it has.
"""

import contextlib
import dataclasses
import itertools
import math

import flax
import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax.data.pipeline import train_batches
from unireplknet_jax.models.program import AheadOfTime, announced
from unireplknet_jax.nn.layers import BATCH_MOMENTS
from unireplknet_jax.train.batches import arrays_of, fitting_batch, micro_batches, smallest_batch
from unireplknet_jax.train.setup import check_batch
from unireplknet_jax.train.sharding import batch_sharding, gather, make_mesh, replicated, to_devices
from unireplknet_jax.train.step import variables_of

_MOST = 64  # batches for a checkpoint, where nobody says how many


def has_statistics(variables):
    """Whether a network's variables, arrays or shapes, have running statistics of batch norm."""
    paths = flax.traverse_util.flatten_dict(dict(variables.get("batch_stats", {})))
    return any(path[-1] == "var" for path in paths)


def make_statistics_step(task, mesh, seed=0):
    """The (params, statistics, k, batch) -> statistics, averages over k batches before and now over this one, too.

    statistics: laid out as a network's "batch_stats", replicated; what is not of a batch norm stays in it as it is.
    batch: {name: (n, ...)}, one micro-batch of training over all devices. k: a number, 0 at first.
    Compiled when it is first called.
    """
    module = task.module()

    def apply(variables, *inputs, mutable=False, **options):
        """As `module.apply`, but batch norms give what they found in this batch."""
        if not mutable:
            return module.apply(variables, *inputs, **options)
        output, found = module.apply(variables, *inputs, mutable=[*mutable, BATCH_MOMENTS], **options)
        return output, {**found, "batch_stats": found.get(BATCH_MOMENTS, {})}

    def step(params, statistics, k, batch):
        variables = {"params": gather(mesh, params), "batch_stats": statistics}
        _, out = task.loss(apply, variables, batch, jax.random.fold_in(jax.random.key(seed + 1), k))
        averages = flax.traverse_util.flatten_dict(statistics)
        for path, new in flax.traverse_util.flatten_dict(out["batch_stats"]).items():
            averages[path] = jnp.where(k == 0, new, averages[path] + (new - averages[path]) / (k + 1))
        return flax.traverse_util.unflatten_dict(averages)

    whole = replicated(mesh)
    shardings = None, whole, whole, batch_sharding(mesh)
    return AheadOfTime(jax.jit(step, in_shardings=shardings, out_shardings=whole), "the statistics of batch norm")


def recalibrate(task, variables, batches, *, mesh=None, statistics_step=None):
    """Variables whose running means and variances are those of training batches, averaged; the weights are the same.

    batches: an iterable of {name: (n, ...)}, this process's rows of each, as `data.pipeline.train_batches` gives them;
    every one counts alike. In each the statistics are those of training: of the global batch, or the mean over its
    groups of `bn_group`. statistics_step: from `make_statistics_step`, to compile only once.
    A network without batch norm gets back its own variables. Raises ValueError if there is no batch.
    """
    if not has_statistics(variables):
        return variables
    mesh = mesh or make_mesh()
    statistics_step = statistics_step or make_statistics_step(task, mesh)
    stored = jax.tree.map(lambda leaf: leaf.dtype, variables["batch_stats"])
    found = jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), variables["batch_stats"])
    found, k = jax.device_put(found, replicated(mesh)), 0
    with announced("estimating the statistics of batch norm"), jax.set_mesh(mesh):
        for k, batch in enumerate(batches, 1):
            rows = to_devices(batch_sharding(mesh), batch)
            found = statistics_step(variables["params"], found, np.int32(k - 1), rows)
    if not k:
        raise ValueError("there are no training batches to estimate the statistics of batch norm from.")
    return {**variables, "batch_stats": jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), found, stored)}


def recalibrate_checkpoint(checkpoint, data, batch_size=None, count=None, *, seed=0, num_threads=2, workers=0):
    """(a `Checkpoint` with the statistics of training batches, how many batches, their size).

    data: {"name", "dir", "split", "broken"}, which the checkpoint's task opens as for training, with its augmentation.
    batch_size: None: 32 for each device, as many as its groups need; less where the data are fewer. count: None: the
    batches of an epoch, at most 64.
    Raises ValueError for a checkpoint without such statistics, and for data of other classes.
    """
    if checkpoint.merged:
        raise ValueError(
            "this checkpoint is merged: its batch norms are part of its kernels and have no statistics any more; "
            "recalibrate the checkpoint that it was merged from, and merge the result."
        )
    if not has_statistics(checkpoint.variables):
        raise ValueError("this checkpoint has no batch norm, so there are no statistics to estimate.")
    task, mesh = checkpoint.task, make_mesh()
    split = task.open(data, data["split"], train=True)
    examples, smallest = len(task.examples(split, train=False)), smallest_batch(task, mesh)
    batch_size = batch_size or math.lcm(32 * mesh.size, smallest)
    check_batch("the batch size", batch_size, smallest, f"{smallest}, which the devices and bn_group ask for")
    batch_size = fitting_batch(batch_size, examples, smallest)
    count = count or min(_MOST, examples // batch_size)
    stream = task.examples(split, train=True, seed=seed)
    batches = train_batches(stream, batch_size, num_threads=num_threads, workers=workers, arrays=arrays_of(task))
    with contextlib.closing(batches):
        step = make_statistics_step(task, mesh, seed)
        some = itertools.islice(batches, count)
        variables = recalibrate(task, checkpoint.variables, some, mesh=mesh, statistics_step=step)
    return dataclasses.replace(checkpoint, variables=variables), count, batch_size


class Recalibration:
    """The forms of a run's network with the statistics of its first training batches, for evaluation and export.

    count: how many batches; 0, or a network without batch norm: the forms are as they are, at no cost. The state of
    the training is never touched. What was found for a step is kept until another step is asked for.
    """

    def __init__(self, config, task, stream, mesh, count):
        self._config, self._task, self._stream, self._mesh, self._count = config, task, stream, mesh, count
        self._step = make_statistics_step(task, mesh, config.seed)
        self._found = None, {}

    def forms(self, state):
        """{"": variables, "ema": their moving average, where there is one}."""
        forms = {"": variables_of(state)} | ({"ema": state["ema"]} if "ema" in state else {})
        if not (self._count and has_statistics(forms[""])):
            return forms
        at, found = self._found
        if at != int(state["step"]):
            found = {form: self._statistics(variables) for form, variables in forms.items()}
            self._found = int(state["step"]), found
        return {form: {**variables, "batch_stats": found[form]} for form, variables in forms.items()}

    def _statistics(self, variables):
        with contextlib.closing(micro_batches(self._config, self._task, self._stream)) as batches:
            some = itertools.islice(batches, self._count)
            found = recalibrate(self._task, variables, some, mesh=self._mesh, statistics_step=self._step)
        return found["batch_stats"]
