"""Evaluation counts every example once, whatever the batch size: exact counts of fixed logits on 8 devices."""

import dataclasses
import io
import json
from typing import ClassVar

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from unireplknet_jax.tasks.base import Spec
from unireplknet_jax.tasks.classification import Classification
from unireplknet_jax.tasks.labelled import misses
from unireplknet_jax.train import evaluate as evaluation
from unireplknet_jax.train import records as records_module
from unireplknet_jax.train.evaluate import evaluate
from unireplknet_jax.train.records import Records
from unireplknet_jax.train.sharding import batch_sharding, make_mesh
from unireplknet_jax.train.step import make_eval_step

MODEL = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8), "kernel_sizes": ((3,),) * 4, "num_classes": 7}


@dataclasses.dataclass(frozen=True)
class Fixed(Classification):
    """Predicts the logits that the examples bring along, times a weight."""

    makes_records: ClassVar[bool] = True

    def specs(self, train):
        label = {"label": jax.ShapeDtypeStruct((), jnp.int32)}
        return (Spec({"logits": jax.ShapeDtypeStruct((7,), jnp.float32)}, label),)

    def predict(self, apply, variables, inputs):
        return {"logits": variables["weight"] * inputs["logits"]}

    def record(self, pred, example):
        return {"id": int(example["id"]), "same": bool(np.all(pred["logits"] == example["logits"]))}

    def metrics(self, totals, records):
        return {**super().metrics(totals, records), "records": records}


TASK = Fixed(MODEL)
WEIGHT = {"weight": np.float32(1)}


def make_examples(n):
    rng = np.random.default_rng(n)
    logits = rng.permuted(np.tile(np.arange(7, dtype=np.float32), (n, 1)), axis=1)
    return [{"id": 10 * i, "logits": logits[i], "label": int(rng.integers(7))} for i in range(n)]


@pytest.mark.parametrize("fsdp", [1, 4])
@pytest.mark.parametrize(("n", "batch_size"), [(1, 8), (7, 8), (8, 8), (9, 8), (37, 16), (37, 40), (160, 16)])
def test_every_example_counts_once(n, batch_size, fsdp):
    examples = make_examples(n)
    metrics = evaluate(TASK, WEIGHT, grain.MapDataset.source(examples), batch_size, mesh=make_mesh(fsdp))
    ranks = [int(np.sum(e["logits"] > e["logits"][e["label"]])) for e in examples]
    assert metrics["count"] == n
    assert metrics["top1"] == 100 * sum(rank < 1 for rank in ranks) / n
    assert metrics["top5"] == 100 * sum(rank < 5 for rank in ranks) / n
    losses = [np.log(np.sum(np.exp(e["logits"] - e["logits"][e["label"]], dtype=np.float64))) for e in examples]
    # Sums of up to 160 float32 terms of up to 6.5.
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert metrics["records"] == [{"id": 10 * i, "same": True} for i in range(n)]


def test_a_compiled_step_serves_again():
    step = make_eval_step(TASK, make_mesh(), deploy=False)
    for n in (9, 20):
        assert evaluate(TASK, WEIGHT, make_examples(n), 8, eval_step=step)["count"] == n
    assert len(step._compiled) == 1


@pytest.mark.parametrize("n", [1, 37])
def test_outcomes_of_every_example_come_once(n):
    examples, outcomes = make_examples(n), []
    metrics = evaluate(TASK, WEIGHT, grain.MapDataset.source(examples), 16, outcomes=outcomes)
    assert outcomes == [[example["label"], int(np.argmax(example["logits"]))] for example in examples]
    assert metrics["top1"] == 100 * sum(true == said for true, said in outcomes) / n


class Counted(Fixed):
    """Every example has three pixels of its class; what was taken for which stands in the records."""

    outcomes_of: ClassVar[str] = "pixels"

    def outcomes(self, pred, batch):
        raise AssertionError

    def record(self, pred, example):
        return {"id": int(example["id"]), "counts": [[int(example["label"]), int(np.argmax(pred["logits"])), 3]]}

    def counted_outcomes(self, records):
        return [count for record in records for count in record["counts"]]


def test_outcomes_of_parts_of_examples_come_from_the_records():
    examples, outcomes = make_examples(37), []
    metrics = evaluate(Counted(MODEL), WEIGHT, grain.MapDataset.source(examples), 16, outcomes=outcomes)
    assert outcomes == [[example["label"], int(np.argmax(example["logits"])), 3] for example in examples]
    assert len(metrics["records"]) == 37
    evaluate(Counted(MODEL), WEIGHT, grain.MapDataset.source(examples), 16)


def test_outcomes_agree_with_the_accuracy_whatever_the_logits():
    nan, inf = float("nan"), float("inf")
    logits = np.array([[1, 1, 0], [nan, 1, 0], [nan] * 3, [inf, 1, 0], [0, -inf, -1], [0, nan, -1]] * 3, np.float32)
    label = np.repeat(np.arange(3), 6)
    task = dataclasses.replace(TASK, model={**MODEL, "num_classes": 3})
    true, said = task.outcomes({"logits": logits}, {"label": label})
    assert np.array_equal(true, label)
    assert np.array_equal(said == true, misses(jnp.asarray(logits), jnp.asarray(label)) < 1)
    assert said[:2].tolist() == [1, 1]  # the other of two that tie, and of numbers that are some
    assert task.outcomes({"logits": np.full((1, 1), nan)}, {"label": np.zeros(1, int)})[1].tolist() == [-1]


class Summed(Fixed):
    """Needs no records, and would fail if it were asked for one."""

    makes_records: ClassVar[bool] = False

    def record(self, pred, example):
        raise AssertionError


def test_where_sums_suffice_outcomes_are_there_all_the_same():
    examples, outcomes = make_examples(9), []
    evaluate(Summed(MODEL), WEIGHT, grain.MapDataset.source(examples), 8, outcomes=outcomes)
    assert outcomes == [[example["label"], int(np.argmax(example["logits"]))] for example in examples]


@pytest.mark.parametrize("n", [1, 37])
def test_where_sums_suffice_no_predictions_are_fetched(n):
    examples = make_examples(n)
    summed, fixed = (evaluate(kind(MODEL), WEIGHT, examples, 16) for kind in (Summed, Fixed))
    assert summed == fixed | {"records": []}


def test_predictions_of_every_example_are_saved_once(tmp_path):
    examples, task = make_examples(37), dataclasses.replace(TASK, labels=tuple("abcdefg"))
    evaluate(task, WEIGHT, grain.MapDataset.source(examples), 16, predictions=tmp_path / "x.y.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["x.y.npz"]
    with np.load(tmp_path / "x.y.npz") as file:
        assert file["labels"].tolist() == list("abcdefg")
        assert file["id"].tolist() == [example["id"] for example in examples]
        np.testing.assert_array_equal(file["logits"], [example["logits"] for example in examples])


def test_predictions_that_cannot_be_written_leave_nothing(tmp_path, monkeypatch):
    def savez(part, **arrays):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(part))

    monkeypatch.setattr(np, "savez", savez)
    with pytest.raises(OSError, match="No space left"):
        evaluate(TASK, WEIGHT, grain.MapDataset.source(make_examples(8)), 8, predictions=tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


def test_predictions_are_refused_where_several_processes_have_them(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="predictions are written by one process"):
        evaluate(TASK, WEIGHT, grain.MapDataset.source(make_examples(8)), 8, predictions=tmp_path / "a.npz")


def test_no_predictions_are_gathered_on_all_devices():
    task, mesh = Summed(MODEL), make_mesh()
    names = {"logits": ((8, 7), np.float32), "label": ((8,), np.int32), "mask": ((8,), np.float32)}
    batch = {name: jax.ShapeDtypeStruct(*kind, sharding=batch_sharding(mesh)) for name, kind in names.items()}
    steps = [make_eval_step(task, mesh, deploy=False, predictions=wanted) for wanted in (True, False)]
    programs = [step.function.lower(WEIGHT, batch).compile().as_text() for step in steps]
    assert ["all-gather" in text for text in programs] == [False, False]


def test_a_batch_is_fetched_while_the_next_one_is_computed():
    order = []

    class Noted(Fixed):
        def record(self, pred, example):
            order.append(int(example["id"]) // 80)

    task, mesh = Noted(MODEL), make_mesh()
    step = make_eval_step(task, mesh, deploy=False)

    def noted(variables, batch):
        order.append("step")
        return step(variables, batch)

    evaluate(task, WEIGHT, make_examples(20), 8, mesh=mesh, eval_step=noted)
    assert order == ["step", "step", *[0] * 8, "step", *[1] * 8, *[2] * 4]


def test_threads_and_workers_read_the_batches(monkeypatch):
    read, asked = evaluation.eval_batches, []

    def noted(*args, **options):
        asked.append(args[2:])
        return read(*args[:-1], 0, **options)

    monkeypatch.setattr(evaluation, "eval_batches", noted)
    evaluate(TASK, WEIGHT, make_examples(9), 8, num_threads=5, workers=3)
    assert asked == [(0, 1, 5, 3)]
    monkeypatch.undo()
    assert len(evaluate(TASK, WEIGHT, make_examples(9), 8, num_threads=0)["records"]) == 9  # read when asked for


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="the batch of 12 is not a multiple of the 8 devices"):
        evaluate(TASK, WEIGHT, make_examples(3), 12)


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="empty"):
        evaluate(TASK, WEIGHT, make_examples(0), 8)


def test_the_form_of_the_network_is_chosen():
    asked = []

    class Asked(Fixed):
        def module(self, deploy=False):
            asked.append(deploy)
            return super().module(deploy)

    task = Asked(MODEL)
    assert task.classes == 7  # which is looked up once
    asked.clear()
    evaluate(task, WEIGHT, make_examples(1), 8, deploy=True)
    assert asked == [True]
    assert jax.device_count() == 8


def test_sums_go_beyond_what_float32_and_int32_count():
    class Counting(Fixed):
        makes_records: ClassVar[bool] = False

        def totals(self, pred, batch):
            # Of each batch 2**24 + 1 would be rounded, and 2**31 would overflow, one batch after the other.
            large = jnp.where(batch["mask"][0] > 0, 2**24 - 1, 0)
            return {"float": large.astype(jnp.float32), "int": (large * 100).astype(jnp.int32)}

        def metrics(self, totals, records):
            return {name: int(total) for name, total in totals.items()}

    metrics = evaluate(Counting(MODEL), WEIGHT, make_examples(8 * 33), 8)
    assert metrics == {"float": 33 * (2**24 - 1), "int": 33 * 100 * (2**24 - 1)}


def test_examples_of_several_shapes_share_no_batch():
    class Wide(Fixed):
        def specs(self, train):
            label = {"label": jax.ShapeDtypeStruct((), jnp.int32)}
            return tuple(Spec({"logits": jax.ShapeDtypeStruct((n,), jnp.float32)}, label) for n in (7, 9))

        def record(self, pred, example):
            return {"id": int(example["id"]), "size": pred["logits"].size, "truth": example["truth"]}

    examples = make_examples(21)
    for i, example in enumerate(examples):
        example["truth"] = list(range(i % 5))  # of any length, on the host
        if i % 3 == 1:
            example["logits"] = np.append(example["logits"], np.float32([-1, -2]))
    keys = [example["logits"].size for example in examples]
    metrics = evaluate(Wide(MODEL), WEIGHT, examples, 8, keys=keys)
    order = [i for i in range(21) if i % 3 != 1] + [i for i in range(21) if i % 3 == 1]
    expected = [{"id": 10 * i, "size": keys[i], "truth": list(range(i % 5))} for i in order]
    assert metrics["records"] == expected
    assert metrics["count"] == 21
    with pytest.raises(ValueError, match="there are 20 keys for 21 examples"):
        evaluate(Wide(MODEL), WEIGHT, examples, 8, keys=keys[1:])


def test_an_example_that_two_processes_recorded_counts_once():
    with Records() as records:
        records.add([{"id": 1, "x": 0}, {"id": 2, "x": 1}])
        records.add([{"id": 1, "x": 2}, {"id": 1, "view": 1, "x": 3}])
        assert [row["x"] for row in records.merged()] == [0, 1, 3]


@pytest.mark.parametrize("counts", [(1, 9), (9, 1), (0, 5)])
def test_records_of_two_processes_take_as_many_rounds_as_the_longer_file(monkeypatch, counts):
    own, others = [[{"id": f"{process}-{i}"} for i in range(count)] for process, count in enumerate(counts)]
    text = "".join(json.dumps(row) + "\n" for row in others).encode()
    rest = io.BytesIO(text)

    def process_allgather(array):
        if array.dtype == np.uint8:
            return np.stack([array, np.frombuffer(rest.read(16).ljust(16, b"\0"), np.uint8)])
        return np.array([array, [len(text)]])

    monkeypatch.setattr(records_module, "_ROUND", 16)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", process_allgather)
    with Records() as records:
        records.add(own)
        assert records.merged() == own + others
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        assert records.merged() is None
