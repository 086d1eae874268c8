"""How long a user waits for the first result: commands and calls in fresh processes, with and without a cache."""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple

from unireplknet_jax.models.program import announced
from unireplknet_jax.tasks import made_up

_LIMIT = 900  # seconds after which a process is ended
_SCRATCH = "SCRATCH"  # in a command: a folder that is new for every process
# What the calls share: NAME's seconds, as one JSON line each.
_PRELUDE = """
import json, time
import jax, numpy as np
import unireplknet_jax as urk
def timed(name, run):
    wall, cpu = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(run())
    print(json.dumps([name, time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
    return result
image = np.zeros((1, 224, 224, 3), np.float32)
"""
_CALLS = """
model, variables = timed("load_checkpoint", lambda: urk.load_checkpoint({path!r}))
timed("model.apply outside of jit, first", lambda: model.apply(variables, image))
timed("model.apply outside of jit, again", lambda: model.apply(variables, image))
timed("reparameterize", lambda: urk.reparameterize(variables))
"""
_INIT = """
model = urk.create_model({name!r})
traced = []
timed("jit(model.init), trace and lower", lambda: traced.append(jax.jit(model.init).lower(jax.random.key(0), image)))
timed("jit(model.init), compile", lambda: traced.append(traced[0].compile()))
"""
_IMPORT = """
import json, time
wall, cpu = time.perf_counter(), time.process_time()
import unireplknet_jax.tasks.checkpoint
print(json.dumps(["import unireplknet_jax.tasks.checkpoint", time.perf_counter() - wall, time.process_time() - cpu]))
"""


class Case(NamedTuple):
    """A process to start: the command, the made-up files that it takes, and when it is over.

    until: the beginning of the line on stderr that ends the measurement, "" for the end of the process. A command that
    prints JSON rows [name, wall seconds, CPU seconds] measures itself; the rows are then its.
    """

    name: str
    command: list[str]
    files: tuple[str, ...] = ()
    until: str = ""
    measures_itself: bool = False


def cases(folder, only=None):
    """The `Case`s of the table on files in a folder, which `tasks.made_up` writes; only: those whose name holds this.

    Raises ValueError if none does.
    """
    command = [sys.executable, "-m", "unireplknet_jax"]
    found = [
        Case("unireplknet models", [*command, "models"]),
        Case("import", [sys.executable, "-c", _IMPORT], measures_itself=True),
    ]
    for size in ("a", "t", "s"):
        checkpoint, picture = f"{folder}/{size}.pth", f"{folder}/picture.jpg"
        files = (f"{size}.pth", "picture.jpg")
        found += [
            Case(f"predict a picture, {size}", [*command, "predict", checkpoint, picture], files),
            Case(f"calls, {size}", _python(_CALLS.format(path=checkpoint)), files, measures_itself=True),
            Case(f"init, {size}", _python(_INIT.format(name=f"unireplknet_{size}")), measures_itself=True),
        ]
    for kind, file in made_up.FILES.items():
        words = ["predict", f"{folder}/{kind}", f"{folder}/{file}"]
        found.append(Case(f"predict a {kind}, a", [*command, *words], (kind, file)))
    words = [f"--config.init={folder}/a.pth", f"--config.data.dir={folder}/flowers", f"--workdir={_SCRATCH}/run"]
    train = [*command, "train", "--config=finetune.py:a", *words]
    found.append(Case("train finetune.py:a to its first step", train, ("a.pth", "flowers"), until="step "))
    found = [case for case in found if only is None or only in case.name]
    if not found:
        raise ValueError(f"no row's name holds {only!r}.")
    return found


def _python(text):
    return [sys.executable, "-c", _PRELUDE + text]


def measure(case, rounds=3):
    """Rows {"row", "cache": "cold" or "warm", "wall", "cpu", "fastest", "slowest"} of a case, medians in seconds.

    Cold: an empty cache of compiled programs in every round; warm: the one that a process before has filled.
    """
    seconds = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for state in ("cold", "warm"):
                with announced(f"{case.name}, cache {state}"):
                    found = _run(case, cache)
                for name, *values in found:
                    seconds.setdefault((name, state), []).append(values)
    return [
        {
            "row": name,
            "cache": state,
            "wall": statistics.median(wall for wall, _ in values),
            "cpu": statistics.median(cpu for _, cpu in values),
            "fastest": min(wall for wall, _ in values),
            "slowest": max(wall for wall, _ in values),
        }
        for (name, state), values in seconds.items()
    ]


def _run(case, cache):
    """[(name, wall seconds, CPU seconds)] of one process."""
    environment = os.environ | {"XDG_CACHE_HOME": cache, "JAX_COMPILATION_CACHE_DIR": f"{cache}/xla"}
    command = [word.replace(_SCRATCH, tempfile.mkdtemp(dir=cache)) for word in case.command]
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    stop = threading.Timer(_LIMIT, process.kill)
    stop.start()
    lines = []
    try:
        if case.until:
            for line in process.stderr:
                lines.append(line)
                if line.startswith(case.until):
                    break
            wall, finished = time.perf_counter() - began, lines and lines[-1].startswith(case.until)
            process.kill()
            process.communicate()
        else:
            out, error = process.communicate()
            wall, finished, lines = time.perf_counter() - began, process.returncode == 0, [error]
    finally:
        stop.cancel()
    if not finished:
        raise ValueError(f"{case.name} failed: {' '.join(''.join(lines).split())[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if case.measures_itself:
        suffix = case.name.partition(", ")[2]
        rows = [json.loads(line) for line in out.splitlines() if line.startswith("[")]
        return [(f"{name}, {suffix}" if suffix else name, *values) for name, *values in rows]
    return [(case.name, wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)]
