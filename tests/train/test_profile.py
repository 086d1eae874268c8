"""When a trace begins and ends."""

import jax
import jax.numpy as jnp
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
    @jax.jit
    def step(x):  # long enough to be still running when it has been dispatched
        return jax.lax.fori_loop(0, 200, lambda _, y: jnp.tanh(y @ y), x)

    profiler, begun, ready = Profiler(tmp_path, 0), [step(jnp.ones((200, 200)))], []
    step(begun[0]).block_until_ready()  # compiled
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: ready.append(begun[-1].is_ready()))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: ready.append(begun[-1].is_ready()))
    running = []
    for index in range(9):
        profiler.before(index, begun[-1])
        begun.append(step(begun[-1]))
        running.append(not begun[-1].is_ready())
    assert ready == [True, True]
    assert any(running)
