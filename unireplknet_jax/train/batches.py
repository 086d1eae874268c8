"""The batches of a run: how large they are, and the micro-batches that they are made of."""

import logging
import math

import jax

from unireplknet_jax.data.pipeline import train_batches
from unireplknet_jax.tasks.labelled import Labelled

_log = logging.getLogger(__name__)


def fit_batches(config, task, mesh, examples, measured):
    """Shrink the batches of a recipe that are larger than their data sets, with a note for each, and a note where
    devices and groups of `bn_group` then tear one another.

    config: changed in place. examples, measured: how many examples train and are measured.
    Raises ValueError where the training examples are fewer than the smallest batch (`smallest_batch`).
    """
    fitting = fitting_batch(config.batch_size, examples, smallest_batch(task, mesh, config.accumulate))
    _shrink(config, "batch_size", fitting, f"training set of {examples}")
    whole = -(-measured // mesh.size) * mesh.size or config.eval_batch_size
    _shrink(config, "eval_batch_size", whole, f"evaluation set of {measured}")
    held, group = config.batch_size // (config.accumulate * mesh.size), _group_of(task)
    if mesh.size > 1 and held and not undivided(held, group):
        _log.info("note: %s", torn_groups(held, group))


def _shrink(config, field, fitting, what):
    if fitting < config[field]:
        _log.info("note: %s=%d is larger than the %s examples; it is now %d.", field, config[field], what, fitting)
        config[field] = fitting


def smallest_batch(task, mesh, accumulate=1):
    """The number that a batch of training has to be a multiple of: for devices, micro-batches and groups of examples.

    Where a task has classes, `bn_group` of its model counts the examples that share batch statistics.
    """
    return accumulate * math.lcm(mesh.size, _group_of(task))


def _group_of(task):
    return (dict(task.model).get("bn_group") if isinstance(task, Labelled) else None) or 1


def undivided(examples, group):
    """Whether devices with so many examples each hold whole groups, or groups whole devices.

    Where neither is so, XLA gathers every map that a batch norm takes, of all devices on each of them.
    """
    return examples % group == 0 or group % examples == 0


def torn_groups(examples, group):
    """The sentence for the user about groups that are not `undivided`."""
    return (
        f"a device has {examples} examples and {group} share the statistics of a batch norm (bn_group): neither "
        "divides the other, so XLA gathers whole maps on every device; choose another batch_size or accumulate."
    )


def fitting_batch(size, examples, smallest):
    """A batch size, or the largest multiple of `smallest` that so many examples fill, if they are fewer.

    Raises ValueError where they fill none.
    """
    if examples >= size:
        return size
    if examples < smallest:
        raise ValueError(
            f"the batch of {size} is larger than the training set of {examples} examples, and with these devices, "
            f"micro-batches and bn_group the smallest one is {smallest}; lower one of them, or give more examples."
        )
    return examples // smallest * smallest


def arrays_of(task):
    """The names of the arrays of a training example that the devices see."""
    return {name for spec in task.specs(train=True) for part in spec for name in part}


def micro_batches(config, task, stream, first=0):
    """This process's rows of the micro-batches of a run from the one of that number on, {name: (n, ...)}."""
    return train_batches(
        stream,
        config.batch_size // config.accumulate,
        first,
        jax.process_index(),
        jax.process_count(),
        config.data.num_threads,
        config.data.workers,
        arrays=arrays_of(task),
    )
