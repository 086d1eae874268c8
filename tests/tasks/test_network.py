"""Which programs are compiled for which batches, and that every example gets its own result."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from unireplknet_jax.tasks import network
from unireplknet_jax.tasks.base import Spec
from unireplknet_jax.tasks.network import Network


@pytest.fixture
def doubling():
    """(a network that doubles what it sees, the shapes it was traced with)."""
    shapes = []
    spec = Spec({"x": jax.ShapeDtypeStruct((3,), np.float32)}, {})
    task = SimpleNamespace(name="doubling", specs=lambda train: (spec,))
    checkpoint = SimpleNamespace(task=task, module=None, variables={"factor": np.float32(2)})

    def function(module, variables, inputs):
        shapes.append(inputs["x"].shape)
        return {"y": variables["factor"] * inputs["x"]}

    return Network(checkpoint, function, batch_size=4), shapes


def run(doubling, count, length=3, **options):
    examples = [{"x": np.full(length, index + 1, np.float32)} for index in range(count)]
    found = doubling(examples, **options)
    assert [result["y"].tolist() for result in found] == [[2.0 * (index + 1)] * length for index in range(count)]


def test_a_program_serves_fewer_and_more_until_a_batch_is_full(doubling):
    double, shapes = doubling
    for count in (2, 1, 2, 3, 0):
        run(double, count)
    assert shapes == [(2, 3)]
    run(double, 9)
    assert shapes == [(2, 3), (4, 3)]
    run(double, 3)
    assert len(shapes) == 2


def test_shapes_have_programs_of_their_own(doubling):
    double, shapes = doubling
    examples = [{"x": np.full(2 + index % 2, index, np.float32)} for index in range(4)]
    assert [result["y"].shape for result in double(examples)] == [(2,), (3,), (2,), (3,)]
    assert shapes == [(4, 2), (4, 3)]


def test_small_batches_that_come_again_and_again_get_a_program(doubling):
    double, shapes = doubling
    run(double, 4)
    for _ in range(5):  # 15 rows of padding, up to which a program costs more
        run(double, 1)
    assert shapes == [(4, 3)]
    for _ in range(9):
        run(double, 1)
    assert shapes == [(4, 3), (1, 3)]


def test_examples_beyond_every_program_take_the_largest_one(doubling, monkeypatch):
    double, _ = doubling
    rows = []

    def program(variables, inputs):
        rows.append(len(inputs["x"]))
        return {"y": variables["factor"] * inputs["x"]}

    monkeypatch.setattr(network, "AheadOfTime", lambda *_, quick: program)
    run(double, 2)
    for _ in range(17):  # until there is a program for one example, too
        run(double, 1)
    assert rows == [2] * 17 + [1]
    run(double, 3)
    assert rows[18:] == [2, 2]


def test_many_examples_replace_a_program_that_was_compiled_quickly(doubling, monkeypatch):
    double, _ = doubling
    asked = []
    monkeypatch.setattr(network, "_FEW_VALUES", 10 * 3)
    monkeypatch.setattr(network, "AheadOfTime", lambda step, what, quick: asked.append((what, quick)) or step)
    for sources in (4, 10, 11, 4, 11):
        run(double, 4, sources=sources)
    assert asked == [("the network of doubling", True), ("the network of doubling", False)]
