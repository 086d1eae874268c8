"""Whether a recipe's training step fits a TPU slice, and what it costs at least, without a TPU.

The step is compiled ahead of time for the slice by libtpu, the TPU compiler, which runs on any Linux machine.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import math
import os
import pathlib
import re
import threading
import time

import jax

from unireplknet_jax.train.collectives import count_collectives
from unireplknet_jax.train.hardware import TPUS, Chip
from unireplknet_jax.train.recipe import completed
from unireplknet_jax.train.setup import abstract_batch, make_task, set_up, training_flops
from unireplknet_jax.train.sharding import make_mesh

_log = logging.getLogger(__name__)
_LOW_EFFORT = {"exec_time_optimization_effort": -1.0}
_ENVIRONMENT = {  # libtpu would look for the machine it is on
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def plan(config, topology, full=False, cache=None):
    """Compile a recipe's step for a topology such as "v5e:4x4"; a JSON-able report.

    full: compile as the run will, which takes minutes; else with low effort, whose memory is close and whose code is
    slower. At most three compilations: the batch of the recipe, another one, and the largest that then should fit.
    cache: a folder of earlier reports, None: none. Sizes are bytes on one chip.
    Raises ImportError without libtpu and ValueError for a topology or a batch that cannot be.
    """
    config = completed(config)
    key = _key(config, topology, full)
    file = None if cache is None else pathlib.Path(cache) / f"{key}.json"
    if file is not None and file.exists():
        return json.loads(file.read_text()) | {"cached": True}
    chip, devices = _devices(topology)
    mesh = make_mesh(config.mesh.fsdp, devices)
    task = make_task(config)
    compiler = _Compiler(config, task, mesh, full)

    chips, unit = mesh.size * config.accumulate, _unit(task, mesh.size)
    asked = config.batch_size / chips
    _check(config, mesh, unit)
    report = compiler.compile(config.batch_size)
    report["fits"] = report["memory"] <= chip.memory
    report["largest_batch"], report["largest_batch_confirmed"] = _largest(
        compiler, chip, chips, unit, int(asked), report
    )
    flops = training_flops(task) * config.batch_size
    report |= {
        "topology": topology,
        "chips": mesh.size,
        "batch_size": config.batch_size,
        "accumulate": config.accumulate,
        "chip_memory": chip.memory,
        "model_flops_per_step": flops,
        "effort": "full" if full else "low",
        "versions": _versions(),
        **_bounds(config, chip, mesh.size, flops, report),
    }
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(report, indent=2) + "\n")
    return report | {"cached": False}


class _Compiler:
    """Compiles the step for one batch size after the other."""

    def __init__(self, config, task, mesh, full):
        self._config, self._task, self._mesh = config, task, mesh
        self._options = None if full else _LOW_EFFORT
        self.count = 0

    def compile(self, batch_size):
        """{"memory", "state_memory", "collectives", "seconds"}; of a program that is too large "memory" alone."""
        self.count += 1
        config = self._config.copy_and_resolve_references()
        config.batch_size = batch_size
        config.eval_batch_size = self._mesh.size
        run = set_up(config, self._task, self._mesh, max(config.data.train_examples, batch_size))
        batch = abstract_batch(self._task, batch_size, config.accumulate, self._mesh)
        began = time.monotonic()
        with _heartbeat(f"compiling the step for batch {batch_size} ({self.count} of at most 3)"):
            with jax.set_mesh(self._mesh):
                lowered = run.train_step.trace(run.state, batch).lower(lowering_platforms=("tpu",))
            try:
                compiled = lowered.compile(compiler_options=self._options)
            except jax.errors.JaxRuntimeError as error:
                return {"memory": _needed(error), "seconds": time.monotonic() - began}
        memory = compiled.memory_analysis()
        total = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
        total += memory.output_size_in_bytes - memory.alias_size_in_bytes
        return {
            "memory": total,
            "state_memory": memory.argument_size_in_bytes,
            "collectives": count_collectives(compiled.as_text()),
            "seconds": time.monotonic() - began,
        }


def _largest(compiler, chip, chips, unit, asked, report):
    """(largest batch that fits, whether it was compiled): memory taken as linear in the examples on a chip."""
    other = asked // 2 // unit * unit or asked + unit
    second = compiler.compile(other * chips)
    (few, little), (many, much) = sorted([(asked, report["memory"]), (other, second["memory"])])
    slope = (much - little) / (many - few)
    if slope <= 0:
        return max(many, few) * chips, much <= chip.memory
    most = int((chip.memory - little) / slope + few) // unit * unit
    if most < unit:
        return 0, True
    known = {few: little, many: much}
    if most not in known:
        known[most] = compiler.compile(most * chips)["memory"]
    if known[most] <= chip.memory:
        return most * chips, True
    fitting = [n for n, memory in known.items() if memory <= chip.memory]
    (few, little) = max(((n, known[n]) for n in fitting), default=(0, 0))
    estimate = few + (most - few) * (chip.memory - little) / (known[most] - little) if fitting else 0
    return max(few, int(estimate) // unit * unit - unit) * chips, False


def _bounds(config, chip, chips, flops, report):
    """What a step takes at least, and so how many epochs a day holds at most."""
    traffic = sum(kind["bytes"] for kind in report.get("collectives", {}).values())
    bounds = {
        "arithmetic": flops / chips / chip.bf16_flops,
        "memory": 2 * report.get("state_memory", 0) / chip.memory_bandwidth,
        "links": traffic / chip.link_bandwidth,
    }
    seconds = max(bounds.values())
    steps = config.data.train_examples // config.batch_size
    return {
        "step_seconds_at_least": seconds,
        "step_bounds": bounds,
        "epochs_per_day_at_most": 86400 / (seconds * steps) if steps else None,
    }


def _devices(topology):
    """(chip, the devices of a topology that libtpu describes)."""
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError(f'plan needs the TPU compiler (no TPU): pip install "jax[tpu]=={jax.__version__}".')
    generation, _, shape = topology.partition(":")
    if generation not in TPUS or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise ValueError(f"{topology!r} is no topology; expected {', '.join(TPUS)} and a shape, for example v5e:4x4.")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    options = {"chips_per_host_bounds": (1, 1, 1)} if shape == "1x1" else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except Exception as error:  # libtpu refuses in several ways
        raise ValueError(f"libtpu knows no topology {topology} ({str(error).splitlines()[0]}).") from error
    # A v4 chip is described as its two cores.
    cores = len(found.devices) / math.prod(int(side) for side in shape.split("x"))
    return Chip(*(value / cores for value in TPUS[generation])), found.devices


def _unit(task, chips):
    """The smallest number of examples on a chip that makes whole groups of shared statistics over all chips."""
    group = getattr(task.module(), "bn_group", None) or 1
    return group // math.gcd(group, chips)


def _check(config, mesh, unit):
    """Raise ValueError, with an accumulation that works, if the batch does not divide over the chips."""
    step = mesh.size * unit
    if config.batch_size % (config.accumulate * step) == 0:
        return
    works = [k for k in range(config.accumulate, 0, -1) if config.batch_size % (k * step) == 0]
    hint = f"--config.accumulate={works[0]} works" if works else f"batch_size must be a multiple of {step}"
    raise ValueError(
        f"batch_size={config.batch_size} in {config.accumulate} micro-batches does not divide over {mesh.size} chips; "
        f"{hint}."
    )


def _needed(error):
    """The bytes that a program needs which the compiler refused as too large."""
    used = re.search(r"Used ([\d.]+)([KMGT]?) of ", str(error))
    if "RESOURCE_EXHAUSTED" not in str(error) or not used:
        raise error
    return float(used.group(1)) * 2.0 ** {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[used.group(2)]


@contextlib.contextmanager
def _heartbeat(text, seconds=20):
    """Log that something long goes on."""
    began, done = time.monotonic(), threading.Event()

    def beat():
        while not done.wait(seconds):
            _log.info("%s: %.0f s so far", text, time.monotonic() - began)

    _log.info("%s", text)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _versions():
    return {"jax": jax.__version__, "libtpu": importlib.metadata.version("libtpu")}


def _key(config, topology, full):
    """A name for a report: the same for the same recipe, compiler and code of this package."""
    package = pathlib.Path(__file__).parents[1]
    code = b"".join(path.read_bytes() for path in sorted(package.rglob("*.py")))
    parts = [config.to_json(), topology, str(full), jax.__version__, hashlib.sha256(code).hexdigest()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
