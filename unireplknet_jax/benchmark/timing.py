"""Timing of several programs that do the same work, side by side in one run."""

import functools
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unireplknet_jax.models.program import announced, compile_lowered
from unireplknet_jax.train.program_cache import without_program_cache

_SHORTEST = 2e-3  # seconds; what takes less is repeated within a round


class Program(NamedTuple):
    """A program to time: `run` does the work once, or has an accelerator do it; `wait(result)` returns when it is done.

    compile_seconds, temporary_bytes: what compiling it took and what it needs beside arguments and results, if known.
    """

    run: Callable[[], object]
    compile_seconds: float | None = None
    temporary_bytes: int | None = None
    wait: Callable[[object], object] = jax.block_until_ready


class Timing(NamedTuple):
    """Seconds of one run: the median over the rounds, the fastest and the slowest one; the rest as in `Program`."""

    median: float
    fastest: float
    slowest: float
    compile_seconds: float | None
    temporary_bytes: int | None


def jax_program(function, *arguments):
    """The `Program` of a function of arrays, compiled for the default device."""
    began = time.perf_counter()
    with announced("compiling a program to time"), without_program_cache():
        compiled = compile_lowered(jax.jit(function).lower(*arguments))
    seconds = time.perf_counter() - began
    temporary = compiled.memory_analysis().temp_size_in_bytes
    if jax.default_backend() == "cpu":  # which would work at several calls at once
        return Program(lambda: jax.block_until_ready(compiled(*arguments)), seconds, temporary)
    return Program(lambda: compiled(*arguments), seconds, temporary)


def torch_program(run, torch, device):
    """The `Program` of a function that works with PyTorch on "cpu" or "cuda"."""
    return Program(run) if device == "cpu" else Program(run, wait=lambda result: torch.cuda.synchronize())


def measure(programs, rounds=9):
    """{name: Timing} of {name: Program}: a round runs every program, each round begins with another one.

    So a machine that other work slows down slows all of them; ratios are more certain than the times. A run that is not
    timed comes before each that is: it pays for the caches and the waiting threads of the program before.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1.")
    names, repeats = list(programs), {}
    for name, program in programs.items():
        program.wait(program.run())
        repeats[name] = max(1, round(_SHORTEST / max(_seconds(program, 1), 1e-7)))
    seconds = {name: [] for name in names}
    with announced(f"timing {', '.join(names)}"):
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                programs[name].wait(programs[name].run())
                seconds[name].append(_seconds(programs[name], repeats[name]))
    return {
        name: Timing(
            statistics.median(own), min(own), max(own), programs[name].compile_seconds, programs[name].temporary_bytes
        )
        for name, own in seconds.items()
    }


def _seconds(program, repeats):
    began = time.perf_counter()
    for _ in range(repeats):
        result = program.run()
    program.wait(result)
    return (time.perf_counter() - began) / repeats


@functools.cache
def measured_roofline():
    """(FLOP/s, bytes/s) that this device reaches: a float32 product of 2048 x 2048 matrices, a copy of 256 MiB."""
    matrix, long = jnp.ones((2048, 2048)), jnp.ones((2**26,))
    programs = {
        "product": jax_program(lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST), matrix),
        "copy": jax_program(lambda a: -a, long),
    }
    found = measure(programs, 5)
    return 2 * 2048**3 / found["product"].fastest, 2 * long.nbytes / found["copy"].fastest


def torch_and_device():
    """(PyTorch, where it does the same work as jax: "cpu" or "cuda"); (None, None) where it cannot."""
    backend = jax.default_backend()
    if importlib.util.find_spec("torch") is None or backend not in ("cpu", "gpu"):
        return None, None
    import torch

    if backend == "gpu" and not torch.cuda.is_available():
        return None, None
    torch.backends.cudnn.benchmark = True  # it chooses its fastest convolution, as XLA does
    return torch, {"cpu": "cpu", "gpu": "cuda"}[backend]


def environment():
    """{"device", "threads", versions ...}: what a measurement depends on and does not say itself."""
    device = jax.devices()[0]
    names = ("jax", "jaxlib", "flax", "numpy", "torch", "openvino", "onnxruntime")
    versions = {name: importlib.metadata.version(name) for name in names if importlib.util.find_spec(name)}
    kind = _processor() if device.platform == "cpu" else device.device_kind
    load = round(os.getloadavg()[0], 1)
    return {"device": kind, "platform": device.platform, "threads": usable_cores(), "load": load, **versions}


def usable_cores():
    """How many cores this process may use; macOS cannot say, and lets it use all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _processor():
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "cpu"
