"""What the benchmarks compute from times; the times themselves are no test."""

import contextlib

import jax.numpy as jnp
import pytest

from unireplknet_jax.benchmark import timing
from unireplknet_jax.benchmark.timing import Program, environment, jax_program, measure, torch_and_device


class Clock:
    """A clock that programs move."""

    def __init__(self, monkeypatch):
        self.now, self.order = 0.0, []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def program(self, name, *seconds):
        """A program that takes these times, one after the other and the last one from then on."""
        left = list(seconds)

        def run():
            self.order.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return Program(run, 1.5)


def test_the_median_the_fastest_and_the_slowest_round(monkeypatch):
    clock = Clock(monkeypatch)
    runs = (9, 9, 50, 3, 60, 1, 70, 8)  # two to find the repeats, then one before each that counts
    found = measure({"a": clock.program("a", *runs)}, rounds=3)
    assert found == {"a": (3, 1, 8, 1.5, None)}


def test_what_is_short_is_repeated_within_a_round(monkeypatch):
    clock = Clock(monkeypatch)
    found = measure({"a": clock.program("a", 0.0005)}, rounds=3)
    assert len(clock.order) == 2 + 3 * (1 + 4)  # rounds of 2 ms
    assert found["a"].median == pytest.approx(0.0005)


def test_rounds_begin_with_another_program(monkeypatch):
    clock = Clock(monkeypatch)
    measure({name: clock.program(name, 1) for name in "ab"}, rounds=2)
    assert clock.order[4:] == ["a", "a", "b", "b", "b", "b", "a", "a"]


def test_a_jax_program_is_compiled_before_it_is_timed():
    program = jax_program(lambda x: 2 * x, jnp.arange(3))
    assert program.compile_seconds > 0
    assert program.temporary_bytes >= 0
    assert program.run().tolist() == [0, 2, 4]


def test_no_wait_is_silent(monkeypatch):
    said = []
    monkeypatch.setattr(timing, "announced", lambda text: contextlib.nullcontext(said.append(text)))
    measure({"a": jax_program(lambda x: x, 1.0)}, rounds=1)
    assert said == ["compiling a program to time", "timing a"]


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds=0 must be at least 1"):
        measure({}, rounds=0)


def test_where_a_process_cannot_tell_its_cores_all_are_counted(monkeypatch):
    monkeypatch.delattr(timing.os, "sched_getaffinity")
    monkeypatch.setattr(timing.os, "cpu_count", lambda: 7)
    assert environment()["threads"] == 7


def test_the_environment_names_device_threads_and_versions():
    facts = environment()
    assert {"device", "platform", "threads", "jax", "jaxlib"} <= set(facts)
    assert ("torch" in facts) == (torch_and_device()[0] is not None)
