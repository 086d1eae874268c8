"""Training, from a recipe to a checkpoint of ours: one function to read from top to bottom."""

import contextlib
import dataclasses
import itertools
import logging

import jax
import numpy as np

from unireplknet_jax.models.program import compile_program
from unireplknet_jax.tasks.checkpoint import initial_variables
from unireplknet_jax.train.batches import arrays_of, fit_batches, micro_batches
from unireplknet_jax.train.checkpoint import TrainCheckpoints
from unireplknet_jax.train.curves import draw_curves
from unireplknet_jax.train.distributed import Preempted, Preemption, to_host
from unireplknet_jax.train.evaluations import Evaluations
from unireplknet_jax.train.finite import mean_of_finite
from unireplknet_jax.train.hardware import chip_of
from unireplknet_jax.train.history import History, listed, named
from unireplknet_jax.train.metrics import MetricWriter, Progress
from unireplknet_jax.train.profile import Profiler
from unireplknet_jax.train.recalibrate import Recalibration, has_statistics
from unireplknet_jax.train.recipe import completed, evaluation_options, recalibration
from unireplknet_jax.train.run_file import write_run
from unireplknet_jax.train.setup import check_stop, make_task, set_up, training_flops
from unireplknet_jax.train.sharding import make_mesh, micro_batch_sharding, to_devices
from unireplknet_jax.train.step import make_state, state_bytes
from unireplknet_jax.train.workdir import Workdir, naming_a_full_disk

_log = logging.getLogger(__name__)


def train(config, workdir, profile=False, command=()):
    """Run a recipe (`configs/`) and return the metrics of its last evaluation.

    Resumes from workdir/checkpoints if there are any. Leaves run.json, metrics.jsonl, tensorboard/, curves.png and
    checkpoints of ours: model/ (the last state), best/ (the best evaluation) and, with a moving average, model_ema/ and
    best_ema/.
    profile: write a trace of a few steps to workdir/profile. command: the words that the user typed, for run.json.
    Raises ValueError for a recipe that cannot run (batch and devices, unknown data, ...), OSError for a workdir that
    cannot hold the run or in which another one is at work, `Preempted` after SIGTERM, once the state is saved, and
    FloatingPointError if a loss, gradient or update stops being finite, in which case the last finite state is what is
    on disk.
    """
    with Preemption() as preemption, naming_a_full_disk(workdir), contextlib.ExitStack() as held:
        return _train(config, workdir, profile, command, preemption, held)


def _train(config, workdir, profile, command, preemption, held):
    # ---- task and data
    config = completed(config)
    data = {**config.data.to_dict(), "seed": config.seed}
    task = make_task(config)
    split = task.open(data, data["train_split"], train=True)
    test = task.open(data, data["eval_split"]) if data["eval_split"] else None
    task = task.fitted_to(split, test)
    if test is not None:
        check_stop(config, task)
        test = _compared(task, test, split)
    mesh = make_mesh(config.mesh.fsdp)
    stream = task.examples(split, train=True, seed=config.seed)
    examples = len(task.examples(split, train=False))
    measured = dataclasses.replace(task, **evaluation_options(config))
    fit_batches(config, task, mesh, examples, 0 if test is None else len(measured.examples(test, train=False)))

    # ---- state and steps
    run = set_up(config, task, mesh, examples)
    steps, schedule = run.steps, run.schedule
    initial = initial_variables(task, config.init) if config.init else None
    place = Workdir(workdir)
    held.enter_context(place.held())
    place.require_room((config.checkpoint.keep + 1) * state_bytes(run.state))
    facts = _facts(config, task, examples, split, test)
    checkpoints = TrainCheckpoints(place.root, facts, run.state, config.checkpoint.keep)
    state = checkpoints.restore()
    if state is None:
        with preemption.at_once(_untouched(0, steps)):
            state = make_state(task, run.optimizer, mesh, config.seed, config.ema.decay > 0, initial)
    step = first = int(state["step"])
    if step > steps:
        raise ValueError(
            f"the run in {workdir} already has {step} steps, but this recipe ends after {steps}; raise epochs, or use "
            "another workdir."
        )
    writer = MetricWriter(place.local, step)
    history = History(place.local, step, config.stop.metric, task.higher_is_better)
    statistics = _recalibration(config, task, stream, mesh, run)
    evaluations = Evaluations(config, task, measured, test, mesh, place.local, history, writer, statistics)
    progress = Progress(steps, run.steps_per_epoch, config.batch_size, step, _utilization(task))
    profiler = Profiler(place.local / "profile" if profile else None, first)
    eval_steps = run.eval_every
    _describe(config, state, mesh, examples, evaluations.dataset, step, steps)
    write_run(place.local, config, step, command)
    place.publish()

    # ---- loop
    batches, parts = _batches(config, task, stream, step)
    sharding, programs, pending, scalars, metrics = micro_batch_sharding(mesh), {}, [], {}, {}
    with contextlib.ExitStack() as stack, jax.set_mesh(mesh):
        for resource in (checkpoints, writer, profiler, parts, batches):
            stack.enter_context(contextlib.closing(resource))
        if preemption.reached(step):
            raise Preempted(_untouched(step, steps))
        # A state is saved before it is evaluated, so the process may have ended in between.
        measuring = step == steps or step % eval_steps == 0 if step else config.eval_first
        if test is not None and measuring and not history.has(step, ""):
            with preemption.at_once(_saved(step, steps, workdir) if step else _untouched(step, steps)):
                metrics = evaluations.keep(state, step, steps)
        stopping = _out_of_patience(config, history, step)
        while step < steps and not stopping:
            batch = to_devices(sharding, next(batches))
            kind = tuple(sorted((name, leaf.shape) for name, leaf in batch.items()))
            if kind not in programs:
                # Of a later kind the signal is heard after the step, which is then saved.
                at_once = preemption.at_once(_untouched(step, steps)) if step == first else contextlib.nullcontext()
                with at_once:
                    programs[kind] = compile_program(run.train_step, state, batch, what="the training step")
            profiler.before(step, scalars)
            state, scalars = programs[kind](state, batch)
            step += 1
            pending.append(scalars)
            measuring = step == steps or step % eval_steps == 0
            preempted = preemption.reached(step)
            saving = measuring or preempted or step % config.checkpoint.every_steps == 0
            if step == first + 1 and step % config.log_every and not saving:
                _log.info("step %d/%d  %s", step, steps, listed({"": jax.tree.map(float, scalars)}))
            if step % config.log_every == 0 or saving:
                scalars = mean_of_finite(jax.device_get(pending), step, schedule)  # what is not finite is never saved
                pending = []
                row = {f"train/{name}": value for name, value in scalars.items()} | {"lr": schedule[step - 1]}
                speed = progress.measure(step)
                writer.write(step, row | {f"speed/{name}": value for name, value in speed.items()})
                shown = {name: value for name, value in scalars.items() if "/" not in name}
                progress.line(step, shown | {"lr": schedule[step - 1]} | speed)
            if step == first + 1:  # after its line, for which someone waits
                writer.write_images(first, "training images", _preview(task, mesh, batch, config.seed))
            if saving:
                _publish(writer, place)  # the rows of a state are there before it is
                checkpoints.save(step, state)
            if preempted and step < steps:
                raise Preempted(_saved(step, steps, workdir))
            if measuring and test is not None:
                with preemption.at_once(_saved(step, steps, workdir)):
                    metrics = evaluations.keep(state, step, steps)
                stopping = _out_of_patience(config, history, step)
            if measuring:
                draw_curves(place.local, task, run.steps_per_epoch)
                _publish(writer, place)
            if measuring or saving or step == first + 1:
                progress.restart(step)

        # ---- what is left behind
        with preemption.at_once(_saved(step, steps, workdir)):
            if test is not None and not metrics:
                metrics = named(evaluations.measure_forms(state))
            if test is not None and (step > first or not history.has(step, "merged")):
                evaluations.keep_merged(state, step)
            evaluations.export_all("model", state, f"{step} steps")
    draw_curves(place.local, task, run.steps_per_epoch)
    place.publish()
    _log.info("wrote %s/model", workdir)
    return metrics


def _facts(config, task, examples, split, test):
    """What gives a run's numbers their meaning, and so has to be the same where it goes on."""
    facts = {name: config[name] for name in ("batch_size", "accumulate", "seed")}
    facts |= {f"data.{name}": config.data[name] for name in ("name", "train_split")}
    facts["labels"] = list(task.labels)
    for role, opened in (("training", split), ("evaluation", test)):
        identity = {} if opened is None else task.identity(opened)
        facts |= {f"{role} {name}": value for name, value in identity.items()}
    return facts | {"training examples": examples}  # after what says which of them are others


def _compared(task, split, train):
    """The split of the evaluations with what predictions are compared with; why there is nothing of that is logged."""
    split, notes = task.compared(split, lambda: train)
    for note in notes:
        _log.warning("%s", note)
    return split


def _batches(config, task, stream, step):
    """(batches from a step on, {name: (accumulate, n, ...)}, and the micro-batches that they are made of)."""
    parts = micro_batches(config, task, stream, step * config.accumulate)
    return _accumulated(parts, config.accumulate, arrays_of(task)), parts


def _recalibration(config, task, stream, mesh, run):
    """Where evaluations have their statistics of batch norm from, with a note if it is not the training itself."""
    count, why = recalibration(config, run.steps, run.steps_per_epoch)
    if count and has_statistics(run.state):
        _log.info(
            "note: evaluations, best/ and model/ have the statistics of batch norm of %d training batches, %s; "
            "--config.recalibrate=0 takes the running ones.",
            count, why,
        )  # fmt: skip
    return Recalibration(config, task, stream, mesh, count)


def _out_of_patience(config, history, step):
    if not config.stop.patience:
        return False
    waited = history.since_best()
    if waited >= config.stop.patience:
        _log.info("step %d  stopping: %d evaluations in a row were not better than the best", step, waited)
    return waited >= config.stop.patience


def _publish(writer, place):
    writer.flush()
    place.publish()


def _untouched(step, steps):
    return f"told to stop before going on at step {step} of {steps}: nothing was lost; run it again."


def _saved(step, steps, workdir):
    return f"told to stop: step {step} of {steps} is saved in {workdir}; run the same command again."


def _accumulated(batches, count, arrays):
    """Every `count` batches {name: (n, ...)} as one {name: (count, n, ...)}; ids and other columns stay behind."""
    for batch in batches:
        group = [batch, *itertools.islice(batches, count - 1)]
        yield {name: np.stack([one[name] for one in group]) for name in batch if name in arrays}


def _preview(task, mesh, batch, seed):
    """Up to 16 training images as the network sees them, (n, h, w, c) in 0..1, on process 0; otherwise None."""
    return to_host(mesh, _viewer(task)(batch, jax.random.key(seed)))


def _viewer(task):
    @jax.jit
    def view(batch, key):
        images = task.preview(jax.tree.map(lambda x: x[0], batch), key)  # of the whole batch, within which examples mix
        return None if images is None else images[:16]

    return view


def _utilization(task):
    """The share of all devices' peak that one training example a second takes; None where the peak is not known."""
    chip = chip_of(jax.devices()[0].device_kind)
    return chip and training_flops(task) / (chip.bf16_flops * jax.device_count())


def _describe(config, state, mesh, examples, test, step, steps):
    size = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
    _log.info(
        "%s on %s: %d training and %d test examples, %.2f M parameters, batch %d on %d %s device(s)",
        config.task.name, config.data.name, examples, 0 if test is None else len(test), size / 1e6, config.batch_size,
        mesh.size, jax.default_backend(),
    )  # fmt: skip
    if step:
        _log.info("resuming at step %d of %d", step, steps)
