"""The batcher, with programs that note what they are given in place of a network."""

import threading
import time

import numpy as np
import pytest

from unireplknet_jax.serve.batcher import Batcher

COLD = (9,)


class Programs:
    """Adds 1 to the numbers of an example; each example of a shape up to (4,) is of a kind that is warm."""

    def __init__(self):
        self.batches, self.threads = [], []
        self.gate = threading.Event()  # which holds the next batches up while it is not set
        self.gate.set()
        self.failure = None

    def kind_of(self, example):
        return (np.shape(example["x"]),)

    def is_warm(self, kind):
        return kind != (COLD,)

    def most(self, kind):
        return 4

    def size_for(self, kind, waiting):
        return 4 if waiting >= 4 else 2 if waiting >= 2 else 1

    def run(self, kind, size, examples):
        self.gate.wait(10)
        self.batches.append((kind[0], size, len(examples)))
        self.threads.append(threading.current_thread().name)
        if self.failure is not None:
            raise self.failure
        return [{"y": example["x"] + 1} for example in examples]


@pytest.fixture
def programs():
    return Programs()


@pytest.fixture
def batcher(programs):
    made = Batcher(programs, delay=0.2)
    yield made
    programs.gate.set()
    made.close()


def ones(count, size=1):
    return [{"x": np.full(size, number, float)} for number in range(count)]


def hold(programs, batcher):
    """Have the thread wait in a batch, so that what is submitted next gathers."""
    programs.gate.clear()
    first = batcher.submit(ones(1, 3))
    while batcher.waiting():
        time.sleep(0.001)
    return first


def test_what_waits_together_goes_together_in_the_sizes_that_are_compiled(programs, batcher):
    first = hold(programs, batcher)
    answers = [batcher.submit(ones(1)) for _ in range(7)]
    programs.gate.set()
    assert [answer.result(5)[0]["y"].tolist() for answer in [first, *answers]] == [[1.0, 1.0, 1.0], *[[1.0]] * 7]
    assert programs.batches == [((3,), 1, 1), ((1,), 4, 4), ((1,), 2, 2), ((1,), 1, 1)]


def test_the_examples_of_a_file_come_back_in_order_whatever_their_kind(programs, batcher):
    mixed = [{"x": np.full(1 + number % 2, float(number))} for number in range(11)]
    found = batcher.submit(mixed).result(5)
    assert [row["y"][0] for row in found] == [number + 1 for number in range(11)]
    assert {shape for shape, _, _ in programs.batches} == {(1,), (2,)}


def test_the_kind_that_waits_longest_is_next(programs, batcher):
    hold(programs, batcher)
    answers = [batcher.submit(ones(1, size)) for size in (2, 1, 2)]
    programs.gate.set()
    [answer.result(5) for answer in answers]
    assert [shape for shape, _, _ in programs.batches[1:]] == [(2,), (1,)]


def test_nobody_waits_for_others_who_are_not_on_their_way(programs):
    arriving = [0]
    made = Batcher(programs, delay=0.3, arriving=lambda: arriving[0])
    began = time.monotonic()
    made.submit(ones(1)).result(5)
    alone = time.monotonic() - began
    arriving[0] = 1
    began = time.monotonic()
    made.submit(ones(1)).result(5)
    waited = time.monotonic() - began
    began = time.monotonic()
    made.submit(ones(4)).result(5)
    full = time.monotonic() - began
    made.close()
    assert alone < 0.25
    assert 0.25 < waited < 5
    assert full < 0.25


def test_what_nobody_waits_for_any_more_is_not_computed(programs, batcher):
    hold(programs, batcher)
    given_up, kept = batcher.submit(ones(5)), [batcher.submit(ones(1)) for _ in range(4)]
    alone = batcher.submit(ones(1, 2))
    assert given_up.cancel()
    assert alone.cancel()
    programs.gate.set()
    [answer.result(5) for answer in kept]
    assert programs.batches == [((3,), 1, 1), ((1,), 4, 4)]  # nor does it take anybody's place in a batch
    assert batcher.waiting() == 0


def test_an_error_of_the_network_is_told_and_the_next_batch_runs(programs, batcher):
    programs.failure = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        batcher.submit(ones(2)).result(5)
    programs.failure = None
    assert len(batcher.submit(ones(2)).result(5)) == 2


def test_a_kind_without_a_program_keeps_nobody_waiting(programs, batcher):
    programs.gate.clear()
    cold = batcher.submit([{"x": np.zeros(COLD)}])
    while batcher.waiting():
        time.sleep(0.001)
    programs.gate.set()
    cold.result(5)
    batcher.submit(ones(1)).result(5)
    names = dict(zip([shape for shape, _, _ in programs.batches], programs.threads, strict=True))
    assert names[1,] == "network"
    assert names[COLD].startswith("compile")


def test_closing_runs_what_waits(programs):
    made = Batcher(programs, delay=5, arriving=lambda: 1)
    answers = [made.submit(ones(1)) for _ in range(3)]
    made.close()
    assert all(answer.done() for answer in answers)
    with pytest.raises(RuntimeError, match="closed"):
        made.submit(ones(1))


def test_no_examples_need_no_batch(programs, batcher):
    assert batcher.submit([]).result(0) == []
    assert programs.batches == []
