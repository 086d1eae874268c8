"""When a trace begins and ends."""

import jax
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
        profiler.before(step)
        seen[step - first] = len(traced)
    profiler.close()
    assert traced == [str(tmp_path / "profile"), "stop"]
    assert seen == {**dict.fromkeys(range(3), 0), **dict.fromkeys(range(3, 8), 1), **dict.fromkeys(range(8, 12), 2)}


@pytest.mark.parametrize(("steps", "expected"), [(3, []), (4, ["profile", "stop"]), (8, ["profile", "stop"])])
def test_a_run_that_ends_early_ends_its_trace(traced, steps, expected):
    profiler = Profiler("profile", 0)
    for step in range(steps):
        profiler.before(step)
    profiler.close()
    profiler.close()
    assert traced == expected


def test_without_a_folder_nothing_is_traced(traced):
    profiler = Profiler(None, 0)
    for step in range(12):
        profiler.before(step)
    profiler.close()
    assert traced == []
