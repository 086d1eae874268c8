"""Which programs there are, and which of them is taken, with networks that compute nothing."""

import dataclasses
import signal
import threading
import types

import numpy as np
import pytest
from small_tasks import make_checkpoint

from unireplknet_jax.models.program import is_compiling
from unireplknet_jax.serve import programs as module
from unireplknet_jax.serve import run as running
from unireplknet_jax.serve.programs import Programs, batch_sizes


@pytest.fixture
def networks(monkeypatch):
    """(variables, batch size, batches) of every network that was made."""
    made = []

    def predictor(checkpoint, size):
        batches = []
        made.append((checkpoint.variables, size, batches))

        def network(examples, sources):
            assert sources > 1000  # or it would be compiled quickly, and run slowly
            batches.append(len(examples))
            return [{"scores": np.full(3, number, np.float32)} for number in range(len(examples))]

        return network

    monkeypatch.setattr(module, "predictor", predictor)
    return made


def example(side, rows=None):
    return {"image_0": np.zeros((1, rows or side, side, 3), np.uint8), "size_0": np.ones((1, 2), np.int32)}


def test_sizes_double_up_to_the_largest():
    assert [batch_sizes(most) for most in (1, 2, 3, 8, 12)] == [(1,), (1, 2), (1, 2, 3), (1, 2, 4, 8), (1, 2, 4, 8, 12)]


def test_every_size_is_compiled_and_run_before_it_is_needed(networks):
    made = Programs(make_checkpoint("classification").in_merged_form(), 4)
    made.warm()
    assert [(size, batches) for _, size, batches in networks] == [(1, [1] * 6), (2, [2] * 6), (4, [4] * 6)]
    assert all("prepared" in variables for variables, _, _ in networks)
    assert made.outputs == {"scores": ((3,), np.float32)}
    assert made.compiled == 3


def test_a_task_of_several_arrays_is_compiled_for_each_of_its_kinds_and_not_prepared(networks):
    made = Programs(make_checkpoint("segmentation").in_merged_form(), 2)
    made.warm()
    assert [size for _, size, _ in networks] == [1, 2, 1, 2]  # of two canvases
    assert not any("prepared" in variables for variables, _, _ in networks)


def test_a_batch_is_filled_up_with_its_last_example(networks):
    made = Programs(make_checkpoint("classification").in_merged_form(), 4)
    made.warm()
    (kind,) = made.kinds
    found = made.run(kind, 4, [{"image": np.zeros((32, 32, 3), np.uint8)}] * 3)
    assert [row["scores"][0] for row in found] == [0, 1, 2]
    assert networks[2][2][-1] == 4


@pytest.mark.parametrize(
    ("seconds", "waiting", "size"),
    [
        ((1, 2, 4), 1, 1),  # as on a processor, where twice the examples take twice the time
        ((1, 2, 4), 3, 4),
        ((1, 1.9, 3.6), 3, 2),
        ((1, 1.9, 3.6), 4, 4),
        ((1, 1, 1), 1, 4),  # as on a large device, where the time is the same: the batch is filled up
        ((1, 1, 1.4), 3, 4),
    ],
)
def test_the_size_that_costs_an_example_least_is_taken(networks, seconds, waiting, size):
    made = Programs(make_checkpoint("classification").in_merged_form(), 4)
    made.warm()
    (kind,) = made.kinds
    made._seconds = dict(zip([(kind, 1), (kind, 2), (kind, 4)], seconds, strict=True))
    if waiting == 3 and seconds == (1, 2, 4):
        size = 2  # 2 for 2 costs as much as 1 for 1; 4 for 3 costs more
    assert made.size_for(kind, waiting) == size


def test_strange_sizes_are_compiled_once_each_and_few_are_kept(networks):
    made = Programs(make_checkpoint("segmentation").in_merged_form(), 2)
    made.warm()
    warm = len(networks)
    kind = made.kind_of(example(96))
    assert (made.is_warm(kind), made.most(kind), made.size_for(kind, 5)) == (False, 1, 1)
    for _ in range(2):
        made.run(kind, 1, [example(96)])
    assert made.is_warm(kind)
    assert len(networks) == warm + 1
    for side in range(8):
        made.run(made.kind_of(example(128 + 32 * side)), 1, [example(128 + 32 * side)])
    assert not made.is_warm(kind)
    assert made.is_warm(made.kind_of(example(160)))
    assert len(made._others) == 8


def test_of_an_artefact_the_kinds_that_it_takes_are_warm(networks, monkeypatch):
    checkpoint = dataclasses.replace(make_checkpoint("segmentation").in_merged_form(), variables={})
    refused, predictor = [(1, 64, 32, 3)], module.predictor

    def taking(checkpoint, size):
        network = predictor(checkpoint, size)

        def call(examples, sources):
            if examples[0]["image_0"].shape in refused:
                raise ValueError("what was exported takes no such thing")
            return network(examples, sources)

        return call

    monkeypatch.setattr(module, "predictor", taking)
    made = Programs(checkpoint, 1)
    made.warm()
    assert [kind[0] for kind in made.kinds] == [(1, 32, 64, 3)]
    refused.append((1, 32, 64, 3))
    with pytest.raises(ValueError, match="takes no such thing"):
        Programs(checkpoint, 1).warm()


def test_a_server_that_ends_before_it_is_warm_tells_the_command_line(monkeypatch):
    """Which ends the process at once then: jax aborts where the interpreter ends while it works."""
    begun, told = threading.Event(), threading.Event()

    def warm():
        begun.set()
        told.wait(20)

    def early(self, sockets):
        begun.wait(20)
        signal.raise_signal(signal.SIGTERM)  # before uvicorn listens to it
        assert self.should_exit

    monkeypatch.setattr(running._Draining, "run", early)
    settings = types.SimpleNamespace(time=1)
    with running.listen("127.0.0.1", 0) as listening:
        running.run(types.SimpleNamespace(app=None, settings=settings, warm=warm), listening)
    assert is_compiling()
    told.set()
    while is_compiling():
        pass
