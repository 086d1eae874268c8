"""When a trace begins and ends."""

import time

import jax
import numpy as np
import pytest

from unireplknet_jax.train.profile import Profiler


@pytest.fixture
def traced(monkeypatch):
    """What the profiler was told, in order."""
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    return calls


@pytest.mark.parametrize("first", [0, 40])
def test_five_steps_are_traced_after_three(traced, tmp_path, first):
    profiler, seen = Profiler(tmp_path / "profile", first), {}
    for step in range(first, first + 12):
        profiler.before(step, {})
        seen[step - first] = len(traced)
    profiler.close()
    assert traced == [str(tmp_path / "profile"), "stop"]
    assert seen == {**dict.fromkeys(range(3), 0), **dict.fromkeys(range(3, 8), 1), **dict.fromkeys(range(8, 12), 2)}


@pytest.mark.parametrize(("steps", "expected"), [(3, []), (4, ["profile", "stop"]), (8, ["profile", "stop"])])
def test_a_run_that_ends_early_ends_its_trace(traced, steps, expected):
    profiler = Profiler("profile", 0)
    for step in range(steps):
        profiler.before(step, {})
    profiler.close()
    profiler.close()
    assert traced == expected


def test_without_a_folder_nothing_is_traced(traced):
    profiler = Profiler(None, 0)
    for step in range(12):
        profiler.before(step, {})
    profiler.close()
    assert traced == []


def test_a_trace_covers_the_steps_that_have_begun(monkeypatch, tmp_path):
    def slow(x):
        time.sleep(0.05)
        return x

    @jax.jit
    def step(x):
        return jax.pure_callback(slow, jax.ShapeDtypeStruct((), np.float32), x) + 1

    clock = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: clock.append(time.monotonic()))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: clock.append(time.monotonic()))
    profiler, x, seen = Profiler(tmp_path, 0), step(jax.numpy.float32(0)), []
    began = time.monotonic()
    for index in range(7):  # so the last four are traced, and none of them has returned when the run ends
        profiler.before(index, x)
        x = step(x)
        seen.append(x)
    profiler.before(7, x)
    profiler.close()
    assert clock[0] - began >= 3 * 0.05
    assert clock[1] - clock[0] >= 4 * 0.05
    assert x.is_ready()
