"""Joining a run of several processes, noticing the end of a machine, and arrays back on the host."""

import os
import signal
import threading

import jax
import numpy as np
import pytest

from unireplknet_jax.train import distributed
from unireplknet_jax.train.distributed import Preempted, Preemption, gather_rows, join, to_host
from unireplknet_jax.train.sharding import make_mesh, state_shardings

NAMES = (distributed.COORDINATOR, distributed.PROCESSES, distributed.PROCESS)


@pytest.fixture
def joined(monkeypatch):
    """The arguments with which jax was told of other processes; no variable is set."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args: calls.append(args))
    for name in (*NAMES, distributed.AUTO):
        monkeypatch.delenv(name, raising=False)
    return calls


def set_variables(monkeypatch, *values):
    for name, value in zip(NAMES, values, strict=True):
        if value is not None:
            monkeypatch.setenv(name, value)


def test_the_variables_make_a_process_part_of_a_run(joined, monkeypatch):
    set_variables(monkeypatch, "10.0.0.2:8476", "4", "0")
    join()
    assert joined == [("10.0.0.2:8476", 4, 0)]


@pytest.mark.parametrize(("auto", "expected"), [(None, []), ("", []), ("no", []), ("auto", [()])])
def test_without_them_only_auto_joins(joined, monkeypatch, auto, expected):
    if auto is not None:
        monkeypatch.setenv(distributed.AUTO, auto)
    join()
    assert joined == expected


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ((None, "4", "0"), "UNIREPLKNET_COORDINATOR is missing"),
        (("host:1", None, "0"), "UNIREPLKNET_PROCESSES is missing"),
        (("host:1", "4", ""), "UNIREPLKNET_PROCESS is missing"),
        (("host:1", None, None), "UNIREPLKNET_PROCESSES, UNIREPLKNET_PROCESS is missing"),
        (("host:1", "four", "0"), "UNIREPLKNET_PROCESSES and UNIREPLKNET_PROCESS must be numbers"),
        (("host:1", "4", "-1"), "UNIREPLKNET_PROCESSES and UNIREPLKNET_PROCESS must be numbers"),
    ],
)
def test_half_a_description_is_refused(joined, monkeypatch, values, what):
    set_variables(monkeypatch, *values)
    monkeypatch.setenv(distributed.AUTO, "auto")
    with pytest.raises(ValueError, match=f"of several processes, but {what}"):
        join()
    assert joined == []


def test_a_signal_is_noticed_while_it_is_waited_for():
    def before(*_):
        pass

    original = signal.signal(signal.SIGTERM, before)
    try:
        with Preemption() as preemption:
            assert not preemption.reached(1)
            os.kill(os.getpid(), signal.SIGTERM)
            assert preemption.reached(2)
            assert preemption.reached(3)
        assert signal.getsignal(signal.SIGTERM) is before
        with pytest.raises(KeyError), Preemption():
            raise KeyError
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, original)


def test_where_nothing_is_to_be_saved_a_signal_ends_the_wait_at_once():
    original = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        with pytest.raises(Preempted, match="nothing was lost"), preemption.at_once("nothing was lost"):
            signal.raise_signal(signal.SIGTERM)
        assert preemption.reached(1)
        with pytest.raises(Preempted, match="step 3 is saved"), preemption.at_once("step 3 is saved"):
            raise AssertionError  # it was told before
    assert signal.getsignal(signal.SIGTERM) is original


def test_after_such_a_wait_a_signal_is_noted_as_before():
    with Preemption() as preemption:
        with preemption.at_once("nothing was lost"):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.reached(1)


def test_another_thread_leaves_signals_alone():
    seen, before = [], signal.getsignal(signal.SIGTERM)

    def work():
        with Preemption() as preemption:
            seen.extend((preemption.reached(1), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, before]


@pytest.mark.parametrize("processes", [1, 2])
def test_where_jax_was_told_of_a_run_its_service_is_asked(monkeypatch, processes):
    from jax.experimental import multihost_utils

    asked, before = [], signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: asked.append(step) or step == 3)
    with Preemption() as preemption:
        assert signal.getsignal(signal.SIGTERM) is before
        assert [preemption.reached(step) for step in (2, 3)] == [False, True]
    assert asked == [2, 3]


def test_arrays_come_back_whole(monkeypatch):
    mesh = make_mesh(4)
    tree = {"split": np.arange(2**13, dtype=np.float32).reshape(128, 64), "whole": np.int32(3)}
    shardings = state_shardings(mesh, tree)
    placed = jax.tree.map(jax.device_put, tree, shardings)
    assert placed["split"].addressable_data(0).shape == (32, 64)
    found = to_host(mesh, placed)
    assert {type(leaf) for leaf in found.values()} == {np.ndarray}
    jax.tree.map(np.testing.assert_array_equal, found, tree)
    to_host(make_mesh(4), placed)
    assert distributed._gatherer(mesh)._cache_size() == 1  # traced once
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert to_host(mesh, placed) is None


def test_the_rows_of_one_process_are_all():
    rows = [{"id": "ü"}, {"id": 2}]
    assert gather_rows(rows) == rows


def test_rows_of_unequal_length_are_put_together(monkeypatch):
    from jax.experimental import multihost_utils

    rows, others = [{"id": 1}], [{"id": "a long one"}, {"id": 3}]
    text = b'[{"id": "a long one"}, {"id": 3}]'

    def process_allgather(array):
        if array.dtype == np.uint8:
            return np.stack([array, np.frombuffer(text, np.uint8)])
        return np.array([array, [len(text)]])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", process_allgather)
    assert gather_rows(rows) == rows + others
