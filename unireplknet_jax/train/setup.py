"""From a recipe to the parts of a run: what the loop trains with, and `plan` compiles."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from unireplknet_jax.data.base import listed, nearest
from unireplknet_jax.models.complexity import program_macs
from unireplknet_jax.tasks.base import Task, get_task, task_class
from unireplknet_jax.tasks.options import check_number
from unireplknet_jax.train.durations import DURATIONS, EVAL_EVERY, RUN, given, steps_of
from unireplknet_jax.train.optimizer import make_optimizer, make_schedule, parameter_groups
from unireplknet_jax.train.recipe import evaluation_options, value_of
from unireplknet_jax.train.step import abstract_state, make_train_step

_NUMBERS = {
    "batch_size": "1 or more",
    "accumulate": "1 or more",
    "eval_batch_size": "1 or more",
    **{field: "0 or more" for fields in DURATIONS for field in fields},
    "log_every": "1 or more",
    "recalibrate": "0 or more",
    "data.train_examples": "0 or more",
    "data.num_threads": "0 or more",
    "data.workers": "0 or more",
    "checkpoint.every_steps": "1 or more",
    "checkpoint.keep": "1 or more",
    "mesh.fsdp": "1 or more",
    "ema.decay": "0 or more and below 1",
    "ema.ramp_steps": "1 or more",
    "stop.patience": "0 or more",
    "optim.lr": "above 0",
    "optim.min_lr": "0 or more",
    "optim.warmup_ratio": "from 0 to 1",
    "optim.milestone_factor": "above 0 and at most 1",
    "optim.power": "above 0",
    "optim.weight_decay": "0 or more",
    "optim.weight_decay_end": "0 or more",
    "optim.layer_decay": "above 0 and at most 1",
    "optim.layer_groups": "1 or more",
    "optim.clip_norm": "0 or more",
    "optim.b1": "0 or more and below 1",
    "optim.b2": "0 or more and below 1",
    "optim.eps": "above 0",
}


class Run(NamedTuple):
    """What follows from a recipe, a mesh and the number of training examples; nothing has been computed yet."""

    task: Task
    optimizer: optax.GradientTransformation
    schedule: np.ndarray  # the learning rate of every step
    steps_per_epoch: int
    eval_every: int  # steps
    state: dict[str, Any]  # ShapeDtypeStructs with shardings
    train_step: Any  # jitted, (state, batch) -> (state, scalars)

    @property
    def steps(self):
        return len(self.schedule)


def make_task(config):
    """The task of a recipe; ValueError where the recipe's numbers cannot be."""
    for field, allowed in _NUMBERS.items():
        value = value_of(config, field)
        if value is not None:  # recalibrate, weight_decay_end, warmup_ratio
            check_number(field, value, allowed)
    for fields in DURATIONS:
        duration = _values(config, fields)
        if not given(duration) and fields in (RUN, EVAL_EVERY):
            raise ValueError(f"{fields[0]}={duration[fields[0]]} must be above 0, unless {' or '.join(fields[1:])} is.")
    known = [field.name for field in dataclasses.fields(task_class(config.task.name))]
    for name in evaluation_options(config):
        if name not in known:
            hint = nearest(name, known)
            raise ValueError(f"config.eval has {name!r}, which is no option of the task {config.task.name}; {hint}")
    options = config.task.options.to_dict() | {"labels": tuple(config.task.get("labels", ()))}
    get_task(config.task.name, **options | evaluation_options(config))  # so that wrong ones are refused now
    return get_task(config.task.name, **options)


def check_stop(config, task):
    """Raise ValueError for a `stop.metric` that the evaluations of a run will not have, as far as that is known."""
    metric, names = config.stop.metric, task.metric_names() if config.stop.metric else ()
    forms = ("", "ema/") if config.ema.decay > 0 else ("",)
    known = [f"{form}{name}" for form in forms for name in names]
    if known and metric not in known:
        hint = nearest(metric, known, f"choose {listed(known, 20)}")
        why = task.absent.get(metric.removeprefix("ema/"))
        raise ValueError(f"stop.metric={metric} is not measured{f': {why}' if why else ''}; {hint}")


def set_up(config, task, mesh, examples):
    """The `Run` of a recipe on a mesh with a training set of so many examples.

    Raises ValueError if the batch does not fit the devices or the examples, and for a run of less than one step.
    """
    check_batch("batch_size", config.batch_size, config.accumulate * mesh.size, _describe(config, mesh))
    check_batch("eval_batch_size", config.eval_batch_size, mesh.size, f"the {mesh.size} devices of this run")
    steps_per_epoch = examples // config.batch_size
    if not steps_per_epoch:
        raise ValueError(
            f"batch_size={config.batch_size} is larger than the training set of {examples} examples; lower it."
        )
    run = _values(config, RUN)
    steps = round(steps_of(run, config.batch_size, examples))
    if steps < 1:
        field, value = given(run)
        raise ValueError(f"{field}={value:g} is less than one step of {config.batch_size} examples; raise it.")
    eval_every = math.ceil(steps_of(_values(config, EVAL_EVERY), config.batch_size, examples, steps))
    optim, ema = config.optim, config.ema
    schedule = make_schedule(optim, steps / steps_per_epoch, steps_per_epoch, config.batch_size)
    optimizer = make_optimizer(optim, schedule)
    state = abstract_state(task, optimizer, mesh, ema.decay > 0)
    if optim.layer_decay != 1:  # so that too few groups are refused now
        parameter_groups(state["params"], optim.layer_decay, layer_groups=optim.layer_groups)
    train_step = make_train_step(task, optimizer, mesh, state, config.seed, ema.decay or None, ema.ramp, ema.ramp_steps)
    return Run(task, optimizer, schedule, steps_per_epoch, eval_every, state, train_step)


def _values(config, fields):
    return {field: value_of(config, field) for field in fields}


def check_batch(name, size, divisor, what):
    """Raise ValueError unless a batch size divides evenly."""
    if size % divisor:
        raise ValueError(f"{name}={size} is not a multiple of {what}.")


def _describe(config, mesh):
    devices = f"the {mesh.size} devices of this run"
    return devices if config.accumulate == 1 else f"accumulate={config.accumulate} times {devices}"


def example_shapes(spec):
    """{name: shape} of all that one example of a `Spec` has, as `jax.ShapeDtypeStruct`s."""
    return {**spec.inputs, **spec.targets}


def abstract_batch(example, lead, sharding):
    """The shapes of a batch, {name: (*lead, ...)}, with their sharding; example: {name: shape} of one."""
    return {
        name: jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype, sharding=sharding)
        for name, leaf in example.items()
    }


def training_flops(task):
    """The operations of the forward and backward pass over one example, whatever is computed twice.

    Three times those of the forward pass in training form, two for each multiply-accumulate.
    """
    module = task.module()

    def forward(*inputs):
        return module.init_with_output(jax.random.key(0), *inputs)[0]

    return 6 * program_macs(forward, *task.training_shapes())
