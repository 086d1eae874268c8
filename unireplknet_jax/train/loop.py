"""Training, from a recipe to a checkpoint of ours: one function to read from top to bottom."""

import contextlib
import itertools
import logging
import math

import jax
import numpy as np

from unireplknet_jax.data.pipeline import train_batches
from unireplknet_jax.models.program import compile_program
from unireplknet_jax.models.reparameterize import is_merged, reparameterize
from unireplknet_jax.tasks.checkpoint import Checkpoint, initial_variables, save_checkpoint
from unireplknet_jax.train.checkpoint import TrainCheckpoints
from unireplknet_jax.train.curves import draw_curves
from unireplknet_jax.train.distributed import Preempted, Preemption, gather_rows, to_host
from unireplknet_jax.train.evaluate import evaluate, makes_records
from unireplknet_jax.train.finite import mean_of_finite
from unireplknet_jax.train.hardware import chip_of
from unireplknet_jax.train.metrics import FILE, MetricWriter, Progress, read_metrics
from unireplknet_jax.train.profile import Profiler
from unireplknet_jax.train.recipe import completed, evaluation_options
from unireplknet_jax.train.setup import make_task, set_up, training_flops
from unireplknet_jax.train.sharding import make_mesh, micro_batch_sharding, to_devices
from unireplknet_jax.train.step import make_eval_step, make_state, state_bytes, variables_of
from unireplknet_jax.train.workdir import Workdir, naming_a_full_disk

_log = logging.getLogger(__name__)
_LOSSES = ("loss", "mse", "mae", "rmse")  # smaller is better, should stop.metric name one


def train(config, workdir, profile=False):
    """Run a recipe (`configs/`) and return the metrics of its last evaluation.

    Resumes from workdir/checkpoints if there are any. Leaves metrics.jsonl, tensorboard/, curves.png and checkpoints of
    ours: model/ (the last state), best/ (the best evaluation) and, with a moving average, model_ema/ and best_ema/.
    profile: write a trace of a few steps to workdir/profile.
    Raises ValueError for a recipe that cannot run (batch and devices, unknown data, ...), OSError for a workdir that
    cannot hold the run, `Preempted` after SIGTERM, once the state is saved, and FloatingPointError if a loss, gradient
    or update stops being finite, in which case the last finite state is what is on disk.
    """
    with Preemption() as preemption, naming_a_full_disk(workdir):
        return _train(config, workdir, profile, preemption)


def _train(config, workdir, profile, preemption):
    # ---- task and data
    config = completed(config)
    data = {**config.data.to_dict(), **evaluation_options(config), "seed": config.seed}
    task = make_task(config)
    if hasattr(task, "fitted_to"):
        task = task.fitted_to(data)
    mesh = make_mesh(config.mesh.fsdp)
    stream = task.dataset(data, data["train_split"], train=True)
    test = task.dataset(data, data["eval_split"], train=False) if data["eval_split"] else None
    # Counted without looking for broken pictures, whose places others take in training.
    examples = len(task.dataset(data | {"broken": "refuse"}, data["train_split"], train=False))

    # ---- state and steps
    run = set_up(config, task, mesh, examples)
    steps, schedule = run.steps, run.schedule
    initial = initial_variables(task, config.init) if config.init else None
    place = Workdir(workdir)
    place.require_room((config.checkpoint.keep + 1) * state_bytes(run.state))
    facts = {name: config[name] for name in ("batch_size", "accumulate", "seed")}
    facts |= {"data.name": data["name"], "data.train_split": data["train_split"], "training examples": examples}
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
    eval_step = make_eval_step(task, mesh, deploy=False, predictions=makes_records(task))
    writer = MetricWriter(place.local, step)
    progress = Progress(steps, run.steps_per_epoch, config.batch_size, step, _utilization(task))
    profiler = Profiler(place.local / "profile" if profile else None, first)
    eval_steps = run.eval_every
    best, evaluated = best_so_far(place.local, task, step), evaluations_at(place.local, step)

    def out_of_patience(step):
        if not config.stop.patience:
            return False
        waited = evaluations_since_best(place.local, task, config.stop.metric, step)
        if waited >= config.stop.patience:
            _log.info("step %d  stopping: %d evaluations in a row were not better than the best", step, waited)
        return waited >= config.stop.patience

    def forms(state):
        """{"": variables, "ema": their moving average}."""
        return {"": variables_of(state)} | ({"ema": state["ema"]} if "ema" in state else {})

    def measure(form, variables):
        """{"top1": ...}, or {"ema/top1": ...}."""
        with preemption.at_once(_saved(step, steps, workdir)):
            found = evaluate(
                task, variables, test, config.eval_batch_size, mesh=mesh, eval_step=eval_step,
                num_threads=config.data.num_threads, workers=config.data.workers,
            )  # fmt: skip
        return {f"{form}/{name}" if form else name: value for name, value in found.items()}

    def export(name, form, variables, note):
        """A checkpoint of ours in the workdir, named "model" or "model_ema"."""
        whole = to_host(mesh, variables)
        if jax.process_index() == 0:
            checkpoint = Checkpoint(task, whole, False, config.data.to_dict(), f"{data['name']}, {note}")
            save_checkpoint(place.local / (f"{name}_{form}" if form else name), checkpoint, overwrite=True)

    def evaluated_and_kept(state, step):
        """The metrics of all forms, written down; a form that is better than before is exported."""
        metrics = {}
        for form, variables in forms(state).items():
            found = measure(form, variables)
            metrics |= found
            name, value = next(iter(found.items()))
            if _sign(task) * value > best.get(form, -math.inf):
                best[form] = _sign(task) * value
                export("best", form, variables, f"step {step} of {steps}, {name} {value:.6g}")
        writer.write(step, {f"eval/{name}": value for name, value in metrics.items()})
        _log.info("step %d  evaluated: %s", step, _listed(metrics))
        return metrics

    def publish():
        writer.flush()
        place.publish()

    _describe(config, task, state, mesh, examples, test, step, steps)

    # ---- loop
    micro_batches = train_batches(
        stream,
        config.batch_size // config.accumulate,
        step * config.accumulate,
        jax.process_index(),
        jax.process_count(),
        config.data.get("num_threads", 2),
        config.data.get("workers", 0),
    )
    batches = _accumulated(micro_batches, config.accumulate)
    sharding, programs, pending, scalars, metrics = micro_batch_sharding(mesh), {}, [], {}, {}
    closing = map(contextlib.closing, (checkpoints, writer, profiler, micro_batches, batches))
    with contextlib.ExitStack() as stack, jax.set_mesh(mesh):
        for resource in closing:
            stack.enter_context(resource)
        if preemption.reached(step):
            raise Preempted(_untouched(step, steps))
        # A state is saved before it is evaluated, so the process may have ended in between.
        if test is not None and step and (step == steps or step % eval_steps == 0) and "eval" not in evaluated:
            metrics = evaluated_and_kept(state, step)
        stopping = out_of_patience(step)
        while step < steps and not stopping:
            batch = to_devices(sharding, next(batches))
            kind = tuple(sorted((name, leaf.shape) for name, leaf in batch.items()))
            if kind not in programs:
                # Of a later kind the signal is heard after the step, which is then saved.
                at_once = preemption.at_once(_untouched(step, steps)) if step == first else contextlib.nullcontext()
                with at_once:
                    programs[kind] = compile_program(run.train_step, state, batch, what="the training step")
            if step == first and hasattr(task, "preview"):
                writer.write_images(step, "training images", _preview(task, mesh, batch, config.seed))
            profiler.before(step, scalars)
            state, scalars = programs[kind](state, batch)
            step += 1
            pending.append(scalars)
            measuring = step == steps or step % eval_steps == 0
            preempted = preemption.reached(step)
            saving = measuring or preempted or step % config.checkpoint.every_steps == 0
            if step == first + 1 and step % config.log_every and not saving:
                shown = {name: float(value) for name, value in scalars.items() if "/" not in name}
                _log.info("step %d/%d  %s", step, steps, _listed(shown))
            if step % config.log_every == 0 or saving:
                scalars = mean_of_finite(jax.device_get(pending), step, schedule)  # what is not finite is never saved
                pending = []
                row = {f"train/{name}": value for name, value in scalars.items()} | {"lr": schedule[step - 1]}
                speed = progress.measure(step)
                writer.write(step, row | {f"speed/{name}": value for name, value in speed.items()})
                shown = {name: value for name, value in scalars.items() if "/" not in name}
                progress.line(step, shown | {"lr": schedule[step - 1]} | speed)
            if saving:
                publish()  # the rows of a state are there before it is
                checkpoints.save(step, state)
            if preempted and step < steps:
                raise Preempted(_saved(step, steps, workdir))
            if measuring and test is not None:
                metrics = evaluated_and_kept(state, step)
                stopping = out_of_patience(step)
            if measuring:
                draw_curves(place.local)
                publish()
            if measuring or saving or step == first + 1:
                progress.restart(step)

        # ---- what is left behind
        if test is not None:
            if not metrics:
                for form, variables in forms(state).items():
                    metrics |= measure(form, variables)
            if step > first or "eval/merged" not in evaluated:
                with preemption.at_once(_saved(step, steps, workdir)):
                    merged = _measure_merged(task, mesh, variables_of(state), test, config)
                if merged:
                    writer.write(step, {f"eval/merged/{name}": value for name, value in merged.items()})
        for form, variables in forms(state).items():
            export("model", form, variables, f"{step} steps")
    draw_curves(place.local)
    place.publish()
    _log.info("wrote %s/model", workdir)
    return metrics


def best_so_far(folder, task, step):
    """{form: signed value} of the task's first metric in the rows of an earlier part of this run, on every process."""
    best = {"": -math.inf, "ema": -math.inf}
    for row in read_metrics(folder / FILE):
        first = [name for name in row if name.startswith("eval/") and not name.startswith("eval/merged/")]
        for form, prefix in (("", "eval/"), ("ema", "eval/ema/")):
            names = [name for name in first if name.startswith(prefix) and name.count("/") == prefix.count("/")]
            if names and row["step"] <= step:
                best[form] = max(best[form], _sign(task) * row[names[0]])
    if jax.process_count() > 1:  # only process 0 has the rows
        from jax.experimental import multihost_utils

        best = jax.tree.map(float, multihost_utils.broadcast_one_to_all(best))
    return best


def evaluations_at(folder, step):
    """Which of "eval" and "eval/merged" have a row at this step, a list, on every process."""
    names = {name for row in read_metrics(folder / FILE) if row["step"] == step for name in row}
    merged = {name for name in names if name.startswith("eval/merged/")}
    plain = {name for name in names - merged if name.startswith("eval/")}
    return gather_rows([["eval"] * bool(plain) + ["eval/merged"] * bool(merged)])[0]  # process 0 has the rows


def evaluations_since_best(folder, task, metric, step):
    """How many evaluations up to this step came after the best one, on every process; NaN never is the best.

    metric: as the recipe's `stop.metric`. ValueError if there are evaluations, and none has it.
    """
    since, best, unknown = 0, -math.inf, []
    for row in read_metrics(folder / FILE):
        found = [name for name in row if name.startswith("eval/") and not name.startswith("eval/merged/")]
        if not found or row["step"] > step:
            continue
        names = [name.removeprefix("eval/") for name in found]
        name = metric or names[0]
        if name not in names:
            unknown = names
            break
        plain = name.removeprefix("ema/")
        sign = _sign(task) if plain == names[0] else -1 if plain.split("/")[0] in _LOSSES else 1
        value = sign * row[f"eval/{name}"]
        since, best = (0, value) if value > best else (since + 1, best)
    since, unknown = gather_rows([[since, unknown]])[0]  # process 0 has the rows
    if unknown:
        raise ValueError(f"stop.metric={metric} is not measured; choose one of {', '.join(unknown[:20])}.")
    return since


def _untouched(step, steps):
    return f"told to stop before going on at step {step} of {steps}: nothing was lost; run it again."


def _saved(step, steps, workdir):
    return f"told to stop: step {step} of {steps} is saved in {workdir}; run the same command again."


def _sign(task):
    """1 where a larger value of the task's first metric is better, -1 where a smaller one is."""
    return 1 if getattr(task, "higher_is_better", True) else -1


def _accumulated(batches, count):
    """Every `count` batches {name: (n, ...)} as one {name: (count, n, ...)}; ids stay behind."""
    for batch in batches:
        group = [batch, *itertools.islice(batches, count - 1)]
        yield {name: np.stack([one[name] for one in group]) for name in batch if name != "id"}


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


def _measure_merged(task, mesh, variables, test, config):
    """The metrics of the merged form; nothing for a network that has none."""
    if is_merged(variables):
        return {}
    merge = compile_program(jax.jit(reparameterize), variables, what="the merge", quick=True)
    with_deploy = merge(variables)
    metrics = evaluate(
        task, with_deploy, test, config.eval_batch_size, mesh=mesh, deploy=True,
        num_threads=config.data.num_threads, workers=config.data.workers,
    )  # fmt: skip
    _log.info("merged form: %s", _listed(metrics))
    return metrics


def _describe(config, task, state, mesh, examples, test, step, steps):
    size = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
    _log.info(
        "%s on %s: %d training and %d test examples, %.2f M parameters, batch %d on %d %s device(s)",
        config.task.name, config.data.name, examples, 0 if test is None else len(test), size / 1e6, config.batch_size,
        mesh.size, jax.default_backend(),
    )  # fmt: skip
    if step:
        _log.info("resuming at step %d of %d", step, steps)


def _listed(values):
    """Metrics on one line; parts of one ("rmse/lead 1"), of which there may be thousands, are in the files alone."""
    shown = {name: value for name, value in values.items() if "/" not in name.removeprefix("ema/")}
    return "  ".join(f"{name} {value:.5g}" for name, value in shown.items())
