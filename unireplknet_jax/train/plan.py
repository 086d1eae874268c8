"""Whether a recipe's training step fits a TPU slice, and what it costs at least, without a TPU.

Step and evaluations are compiled ahead of time for the slice by libtpu, the TPU compiler, which runs on any Linux
machine, both for every shape that a task's examples have.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import math
import os
import pathlib
import re

import jax

from unireplknet_jax.models.program import QUICK_ELSEWHERE, announced, compile_lowered
from unireplknet_jax.train.batches import torn_groups, undivided
from unireplknet_jax.train.collectives import count_collectives
from unireplknet_jax.train.durations import RUN, WARMUP
from unireplknet_jax.train.program_cache import without_program_cache
from unireplknet_jax.train.recipe import completed, evaluation_options, set_field
from unireplknet_jax.train.setup import abstract_batch, example_shapes, make_task, set_up, training_flops
from unireplknet_jax.train.sharding import batch_sharding, make_mesh, micro_batch_sharding
from unireplknet_jax.train.slices import libtpu_version, open_slice
from unireplknet_jax.train.step import make_eval_step, variables_of

_log = logging.getLogger(__name__)
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def plan(config, topology, full=False, cache=None):
    """Compile a recipe's step for a topology such as "v5e:4x4"; a JSON-able report.

    full: compile as the run will, which takes minutes; else with low effort, whose memory is close and whose code is
    slower. cache: a folder for what has been compiled, None: none. Sizes are bytes on one device, which is a chip
    (v4: half). "programs": what was compiled for the recipe's own batches, each with the shapes of an example; the
    report is on the training step that takes the most. Two more compilations of that step find the largest batch.
    Raises ImportError without libtpu and ValueError for a topology or a batch that cannot be.
    """
    config = completed(config)
    chip, devices = open_slice(topology)
    task = make_task(config)
    mesh = make_mesh(config.mesh.fsdp, devices)
    group = getattr(task.module(), "bn_group", None) or 1
    unit = group // math.gcd(group, mesh.size)  # of examples on a device, or the groups would not come out even
    _check(config, mesh.size, unit)
    store = _Store(cache, config, topology, full)
    compiler = _Compiler(config, task, mesh, full, store)

    step = mesh.size * config.accumulate
    steps = [compiler.step(config.batch_size, example) for example in compiler.trained]
    evaluations = [compiler.evaluation(example) for example in compiler.measured]
    report, example = max(zip(steps, compiler.trained, strict=True), key=lambda each: each[0]["memory"])
    most, confirmed = _largest(
        lambda count: compiler.step(count * step, example)["memory"],
        (config.batch_size // step, report["memory"]),
        chip.memory,
        unit,
        max(config.data.train_examples, config.batch_size) // step,
        group,
    )
    programs = [
        *_programs("training", compiler.trained, steps, config.batch_size // step),
        *_programs("evaluation", compiler.measured, evaluations, compiler.evaluation_batch // mesh.size),
    ]
    report = {
        "topology": topology,
        "devices": mesh.size,
        "batch_size": config.batch_size,
        "accumulate": config.accumulate,
        "examples_per_device": config.batch_size // step,
        **report,
        "programs": programs,
        "device_memory": chip.memory,
        "fits": max(program["memory"] for program in programs) <= chip.memory,
        "largest_batch": most * step,
        "largest_batch_compiled": confirmed,
        **_bounds(config, chip, mesh.size, store.once("flops", lambda: training_flops(task)), report),
        "effort": "full" if full else "low",
        "versions": {"jax": jax.__version__, "libtpu": libtpu_version()},
    }
    return report | {"notes": _notes(config, report, mesh.size, group, most)}


def _programs(what, examples, reports, count):
    """[{"what", "shapes": {name: list}, "examples_per_device", "memory"}] of compiled programs."""
    return [
        {
            "what": what,
            "shapes": {name: list(leaf.shape) for name, leaf in example.items()},
            "examples_per_device": count,
            "memory": report["memory"],
        }
        for example, report in zip(examples, reports, strict=True)
    ]


def _kinds(specs):
    """The examples of some `Spec`s, [{name: shape}], each of other shapes."""
    return [*{_name_of(example): example for example in map(example_shapes, specs)}.values()]


def _name_of(example):
    return ", ".join(f"{name} {leaf.dtype} {leaf.shape}" for name, leaf in example.items())


class _Compiler:
    """Compiles the step for one batch size after the other, and the evaluations.

    trained, measured: the examples of training and of the run's evaluations, [{name: shape}] without repetition.
    """

    def __init__(self, config, task, mesh, full, store):
        self._config, self._task, self._mesh, self._store = config, task, mesh, store
        self._measured = dataclasses.replace(task, **evaluation_options(config))
        self._options = None if full else QUICK_ELSEWHERE
        self.trained = _kinds(task.specs(train=True))
        self.measured = _kinds(self._measured.specs(train=False)) if config.data.eval_split else []
        self.evaluation_batch = -(-config.eval_batch_size // mesh.size) * mesh.size
        self._count, self._most = 0, len(self.trained) + 2 + len(self.measured)

    def step(self, batch_size, example):
        """{"memory", "memory_of": {part: bytes}, "moved", "collectives"} of one device and step.

        moved: bytes of what the step takes and gives. Of a program that is too large there is "memory" alone.
        """
        self._count += 1
        name = f"{batch_size} of {_name_of(example)}"
        return self._store.once(name, lambda: self._compile_step(batch_size, example))

    def evaluation(self, example):
        """As `step`, of a batch of an evaluation; its memory holds what else there is of the state of the training."""
        self._count += 1
        return self._store.once(f"evaluation of {_name_of(example)}", lambda: self._compile_evaluation(example))

    def _set_up(self, batch_size):
        config = self._config.copy_and_resolve_references()
        if batch_size != config.batch_size or not config.data.train_examples:
            for field in (*RUN, *WARMUP):  # which may not fit so few steps; the program is the same
                set_field(config, field, 0)
            config.epochs = 1.0
        config.batch_size, config.eval_batch_size = batch_size, self._mesh.size
        return set_up(config, self._task, self._mesh, max(config.data.train_examples, batch_size))

    @functools.cached_property
    def _state(self):
        return self._set_up(self._config.batch_size).state

    def _compile_step(self, batch_size, example):
        run, accumulate = self._set_up(batch_size), self._config.accumulate
        lead = accumulate, batch_size // accumulate
        batch = abstract_batch(example, lead, micro_batch_sharding(self._mesh))
        return self._compile(run.train_step, (run.state, batch), f"the step for batch {batch_size}")

    def _compile_evaluation(self, example):
        step = make_eval_step(self._measured, self._mesh, False, self._measured.makes_records).function
        example = {**example, "mask": jax.ShapeDtypeStruct((), "float32")}
        batch = abstract_batch(example, (self.evaluation_batch,), batch_sharding(self._mesh))
        variables = variables_of(self._state)
        report = self._compile(step, (variables, batch), f"an evaluation of {self.evaluation_batch} examples")
        return report | {"memory": report["memory"] + _bytes_of(self._state) - _bytes_of(variables)}

    def _compile(self, function, arguments, what):
        with announced(f"compiling {what} ({self._count} of at most {self._most})", silent=0):
            with jax.set_mesh(self._mesh):
                lowered = function.trace(*arguments).lower(lowering_platforms=("tpu",))
            try:
                with without_program_cache():
                    compiled = compile_lowered(lowered, self._options)
            except jax.errors.JaxRuntimeError as error:
                return {"memory": needed_bytes(error, _bytes_of(arguments))}
        sizes = compiled.memory_analysis()
        parts = {
            "arguments": sizes.argument_size_in_bytes,
            "results": sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
            "temporaries": sizes.temp_size_in_bytes,
            "program": sizes.generated_code_size_in_bytes,
        }
        collectives = count_collectives(compiled.as_text(), self._mesh.size)
        moved = sizes.argument_size_in_bytes + sizes.output_size_in_bytes
        return {"memory": sum(parts.values()), "memory_of": parts, "moved": moved, "collectives": collectives}


def needed_bytes(error, arguments):
    """The bytes that a program needs which the compiler refused as too large; `error` itself for another refusal.

    libtpu either has placed everything, or has stopped before that at the temporaries, to which the arguments add.
    """
    total = re.search(r"Used ([\d.]+)([KMGT]?) of ", str(error))
    temporaries = re.search(r"required for HLO temporaries \(([\d.]+)([KMGT]?)\)", str(error))
    found = total or temporaries
    if "RESOURCE_EXHAUSTED" not in str(error) or not found:
        raise error
    size = float(found.group(1)) * 2.0 ** _UNITS[found.group(2)]
    return int(size) if total else int(size) + arguments


def _bytes_of(tree):
    """What arrays of these shapes and shardings take on one device, but for padding."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def _largest(memory_for, first, limit, unit, cap, group=1):
    """(examples of a micro-batch on a device that fit, whether that was compiled), in at most two compilations.

    memory_for: examples -> bytes, compiles; first: (examples, bytes). Memory is taken as linear in the examples, which
    come in multiples of `unit`, at most `cap`, and `undivided`.
    """

    def most_of(count):
        return next((n for n in range(count // unit * unit, 0, -unit) if undivided(n, group)), 0)

    known, cap = dict([first]), max(cap // unit * unit, unit)
    other = most_of(first[0] // 2) or first[0] + unit
    known[other] = memory_for(other)
    (few, little), (many, much) = sorted(known.items())
    slope = max((much - little) / (many - few), 0)
    most = min(cap, int((limit - little) / slope + few) if slope else cap)
    most = most_of(most - most % (math.lcm(unit, 8) if most >= math.lcm(unit, 8) else unit))
    if most < unit:
        return 0, False
    if most not in known:
        known[most] = memory_for(most)
    if known[most] <= limit:
        return most, True
    fitting = [(count, size) for count, size in known.items() if size <= limit]
    if not fitting:
        return 0, False
    count, size = max(fitting)
    between = count + (most - count) * (limit - size) / (known[most] - size)
    below = most_of(int(between))
    return (below, False) if below > count else (count, True)


def _bounds(config, chip, devices, flops_per_example, report):
    """What a step takes at least, and so how many epochs a day holds at most.

    Arithmetic: the model's operations, whatever is computed twice, at the matrix units' peak; memory: everything a step
    takes is read once and everything it gives written once; links: what a device sends. Traffic of temporaries is not
    in it: the compiler's own count passes over loops once and does not tell the memory on the chip from the other.
    """
    flops = flops_per_example * config.batch_size
    sent = sum(entry["sent"] for entry in report.get("collectives", {}).values())
    bounds = {
        "arithmetic": flops / devices / chip.bf16_flops,
        "memory": report.get("moved", 0) / chip.memory_bandwidth,
        "links": sent / chip.link_bandwidth,
    }
    seconds = max(bounds.values())
    steps = config.data.train_examples // config.batch_size
    return {
        "model_flops_per_step": flops,
        "model_flops_per_device": flops / devices,
        "step_seconds_at_least": seconds,
        "step_bounds": bounds,
        "epochs_per_day_at_most": 86400 / (seconds * steps) if steps else None,
    }


def _check(config, devices, unit):
    """Raise ValueError, with an accumulation or a batch that works, if the batch does not divide over the devices."""
    accumulate, step = config.accumulate, devices * unit
    if config.batch_size % (accumulate * step) == 0:
        return
    factors = [f"accumulate={accumulate}"] * (accumulate > 1) + [f"{devices} device{'s' * (devices > 1)}"]
    factors += [f"{unit} examples, for whole groups of task.options.model.bn_group"] * (unit > 1)
    whole = accumulate * step
    works = next((k for k in range(accumulate, 0, -1) if config.batch_size % (k * step) == 0), None)
    batch = f"--config.batch_size={max(round(config.batch_size / whole), 1) * whole}"
    hint = f"--config.accumulate={works} or {batch} works" if works else f"{batch} works"
    raise ValueError(f"batch_size={config.batch_size} is not a multiple of {whole}: {' x '.join(factors)}; {hint}.")


def _notes(config, report, devices, group, most):
    """Sentences for the user: what to do where it does not fit, and what else stands in the way."""
    notes, examples = [], report["examples_per_device"]
    if not undivided(examples, group):
        notes.append(torn_groups(examples, group))
    if report["memory"] > report["device_memory"]:
        whole = math.lcm(group, devices)
        works = [
            k
            for k in range(config.accumulate + 1, config.batch_size // whole + 1)
            if config.batch_size % (k * whole) == 0
            and config.batch_size // (k * devices) <= most
            and undivided(config.batch_size // (k * devices), group)
        ]
        alternatives = "a larger mesh.fsdp splits the state, task.options.model.remat=True computes activations twice"
        hint = f"--config.accumulate={works[0]} should fit" if works else "no accumulate makes this batch fit"
        notes.append(f"it does not fit; {hint}, {alternatives}, more chips take less each.")
    if max(_memory_of_evaluations(report), default=0) > report["device_memory"]:
        lower = f"an eval_batch_size below {config.eval_batch_size} takes less"
        hint = lower if config.eval_batch_size > devices else "a larger mesh.fsdp splits the state"
        notes.append(f"an evaluation does not fit beside the state of the training; {hint}.")
    if config.eval_batch_size % devices:
        notes.append(f"training refuses eval_batch_size={config.eval_batch_size}: no multiple of {devices} devices.")
    if report["topology"].startswith("v4"):
        notes.append("a v4 chip counts as two devices here, with half of its memory each; a run sees it as one.")
    if report["effort"] == "low":
        notes.append("compiled with low effort: a run's program differs, and so does its memory; --full compiles it.")
    return notes


def _memory_of_evaluations(report):
    return [program["memory"] for program in report["programs"] if program["what"] == "evaluation"]


class _Store:
    """What has been computed for a recipe, a slice and this code, kept in a folder: an interrupted plan goes on."""

    def __init__(self, folder, config, topology, full):
        package = pathlib.Path(__file__).parents[1]
        code = b"".join(path.read_bytes() for path in sorted(package.rglob("*.py")))
        parts = [config.to_json(), topology, str(full), jax.__version__, libtpu_version(), str(sorted(_flags()))]
        digest = hashlib.sha256("\n".join(parts).encode() + code).hexdigest()[:24]
        self._file = None if folder is None else pathlib.Path(folder) / f"{digest}.json"
        self._known = json.loads(self._file.read_text()) if self._file is not None and self._file.exists() else {}

    def once(self, name, compute):
        """The value of that name, computed if it is not known."""
        if name not in self._known:
            self._known[name] = compute()
            if self._file is not None:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                part = self._file.with_suffix(f".{os.getpid()}")
                part.write_text(json.dumps(self._known, indent=2) + "\n")
                part.replace(self._file)
        return self._known[name]


def _flags():
    """The environment that changes what the compiler does."""
    return [(name, os.environ[name]) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS") if name in os.environ]
