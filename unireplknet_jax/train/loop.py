"""Training, from a recipe to a checkpoint of ours: one function to read from top to bottom."""

import contextlib
import logging
import math
import pathlib

import jax

from unireplknet_jax.data.pipeline import train_batches
from unireplknet_jax.tasks.base import get_task
from unireplknet_jax.tasks.checkpoint import Checkpoint, initial_variables, save_checkpoint
from unireplknet_jax.train.checkpoint import TrainCheckpoints
from unireplknet_jax.train.curves import draw_curves
from unireplknet_jax.train.evaluate import evaluate
from unireplknet_jax.train.metrics import MetricWriter, Progress
from unireplknet_jax.train.optimizer import cosine_schedule, make_optimizer
from unireplknet_jax.train.sharding import make_mesh, to_devices
from unireplknet_jax.train.step import make_eval_step, make_state, make_train_step, variables_of

_log = logging.getLogger(__name__)


def train(config, workdir):
    """Run a recipe (`configs/`) and return the metrics of its last evaluation.

    Resumes from workdir/checkpoints if there are any. Leaves metrics.jsonl, tensorboard/, curves.png and model/, a
    checkpoint of ours. Raises ValueError for a recipe that cannot run (batch and devices, unknown data, ...) and
    FloatingPointError if the loss stops being finite.
    """
    workdir = pathlib.Path(workdir)

    # ---- task and data
    for name in ("batch_size", "eval_batch_size", "epochs", "log_every", "eval_every_epochs"):
        if config[name] <= 0:
            raise ValueError(f"{name}={config[name]} must be positive.")
    task = get_task(config.task.name, **config.task.options.to_dict(), labels=tuple(config.task.get("labels", ())))
    data = {**config.data.to_dict(), "seed": config.seed}
    mesh = make_mesh(config.mesh.fsdp)
    for name in ("batch_size", "eval_batch_size"):
        if config[name] % mesh.size:
            raise ValueError(f"{name}={config[name]} is not a multiple of the {mesh.size} devices of this run.")
    stream = task.dataset(data, data["train_split"], train=True)
    test = task.dataset(data, data["eval_split"], train=False)
    examples = len(task.dataset(data, data["train_split"], train=False))
    steps_per_epoch = examples // config.batch_size
    if not steps_per_epoch:
        raise ValueError(f"batch_size={config.batch_size} is larger than the training set of {examples} examples.")
    steps = round(config.epochs * steps_per_epoch)

    # ---- state and steps
    schedule = cosine_schedule(
        config.optim.lr, config.optim.min_lr, config.epochs, steps_per_epoch, config.optim.warmup_epochs
    )
    optimizer = make_optimizer(config.optim, schedule)
    initial = initial_variables(task, config.init) if config.get("init") else {}
    workdir.mkdir(parents=True, exist_ok=True)
    state, shardings = make_state(task, optimizer, mesh, config.seed)
    state |= jax.device_put(initial, {collection: shardings[collection] for collection in initial})
    checkpoints = TrainCheckpoints(workdir, {"batch_size": config.batch_size, "seed": config.seed})
    state = checkpoints.restore(state, shardings)
    step = int(state["step"])
    train_step = make_train_step(task, optimizer, mesh, shardings, config.seed)
    eval_step = make_eval_step(task, mesh, deploy=False)

    def measure(state):
        return evaluate(task, variables_of(state), test, config.eval_batch_size, mesh=mesh, eval_step=eval_step)

    _describe(config, state, mesh, examples, len(test), step, steps)

    # ---- loop
    writer = MetricWriter(workdir, step)
    progress = Progress(steps, steps_per_epoch, config.batch_size, step)
    batches = train_batches(
        stream, config.batch_size, step, jax.process_index(), jax.process_count(), config.data.get("num_threads", 2)
    )
    first, metrics = step, {}
    with contextlib.closing(checkpoints), contextlib.closing(writer), jax.set_mesh(mesh):
        while step < steps:
            state, scalars = train_step(state, to_devices(mesh, next(batches)))
            step += 1
            measuring = step == steps or step % math.ceil(config.eval_every_epochs * steps_per_epoch) == 0
            if step % config.log_every == 0 or measuring:  # what is not finite is never saved
                scalars = jax.device_get(scalars)
                _check_finite(scalars, step, schedule[step - 1])
                rate = progress.rate(step)
                row = {f"train/{name}": value for name, value in scalars.items()}
                writer.write(step, row | {"train/examples_per_second": rate, "lr": schedule[step - 1]})
                progress.line(step, scalars | {"lr": schedule[step - 1], "examples/s": rate})
            if measuring:
                metrics = measure(state)
                writer.write(step, {f"eval/{name}": value for name, value in metrics.items()})
                _log.info("step %d  evaluated: %s", step, "  ".join(f"{k} {v:.5g}" for k, v in metrics.items()))
                checkpoints.save(step, state)
            if measuring or step == first + 1:
                progress.restart(step)

    # ---- what is left behind
    metrics = metrics or measure(state)
    if jax.process_index() == 0:
        draw_curves(workdir)
    name = f"{data['name']}, {steps} steps"
    save_checkpoint(
        workdir / "model", Checkpoint(task, variables_of(state), False, config.data.to_dict(), name), overwrite=True
    )
    _log.info("wrote %s", workdir / "model")
    return metrics


def _describe(config, state, mesh, examples, tests, step, steps):
    size = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
    _log.info(
        "%s on %s: %d training and %d test examples, %.2f M parameters, batch %d on %d %s device(s)",
        config.task.name, config.data.name, examples, tests, size / 1e6, config.batch_size, mesh.size,
        jax.default_backend(),
    )  # fmt: skip
    if step:
        _log.info("resuming at step %d of %d", step, steps)
    else:
        _log.info("compiling; the first step takes longest")


def _check_finite(scalars, step, lr):
    bad = [name for name, value in scalars.items() if not math.isfinite(value)]
    if bad:
        raise FloatingPointError(
            f"{', '.join(bad)} stopped being finite by step {step} at learning rate {lr:.3g}; "
            "lower optim.lr or lengthen optim.warmup_epochs, and resume from the last checkpoint."
        )
