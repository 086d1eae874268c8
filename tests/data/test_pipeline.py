import itertools
import math
from collections import Counter

import grain
import numpy as np
import pytest

from unireplknet_jax.data.pipeline import ShapedStream, eval_batches, train_batches, training_stream


class Numbers:
    """n examples; example i has the id i and a (2, 3) array full of i."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return {"id": int(index), "image": np.full((2, 3), index, np.uint8), "weight": index / 2}


def augment(example, rng):
    return {**example, "draw": rng.integers(2**62)}


def stream(n=100, seed=7):
    return training_stream(Numbers(n), augment, seed)


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])
            assert batch[name].dtype == other[name].dtype


def test_batch_s_is_rows_sB_to_sB_plus_B_of_the_stream():
    rows = stream()
    for step, batch in enumerate(take(train_batches(rows, 4), 6)):
        expected = [rows[step * 4 + row] for row in range(4)]
        np.testing.assert_array_equal(batch["draw"], [example["draw"] for example in expected])
        np.testing.assert_array_equal(batch["image"], np.stack([example["image"] for example in expected]))


@pytest.mark.parametrize("count", [2, 4])
def test_the_rows_of_all_processes_are_the_batch_of_one(count):
    alone = take(train_batches(stream(), 8), 6)
    parts = [take(train_batches(stream(), 8, process_index=p, process_count=count), 6) for p in range(count)]
    together = [
        {name: np.concatenate([part[name] for part in row]) for name in row[0]} for row in zip(*parts, strict=True)
    ]
    assert_same(alone, together)


@pytest.mark.parametrize(("start", "count"), [(1, 1), (5, 1), (5, 2), (10**9, 4)])
def test_a_run_resumes_at_any_step_on_any_process_count(start, count):
    rows = stream()
    resumed = [
        take(train_batches(rows, 4, start_step=start, process_index=p, process_count=count), 3) for p in range(count)
    ]
    for step in range(3):
        draws = np.concatenate([part[step]["draw"] for part in resumed])
        np.testing.assert_array_equal(draws, [rows[(start + step) * 4 + row]["draw"] for row in range(4)])
    if start < 10:
        uninterrupted = take(train_batches(rows, 4), start + 3)[start:]
        np.testing.assert_array_equal(uninterrupted[1]["draw"], np.concatenate([part[1]["draw"] for part in resumed]))


def test_every_epoch_has_every_example_once_in_another_order():
    ids = np.concatenate([batch["id"] for batch in take(train_batches(stream(50), 4), 50)]).reshape(4, 50)
    np.testing.assert_array_equal(np.sort(ids, axis=1), np.tile(np.arange(50), (4, 1)))
    assert len({tuple(epoch) for epoch in ids}) == 4


def test_every_example_has_its_own_draws_in_every_epoch_and_on_every_host():
    parts = [take(train_batches(stream(40), 8, process_index=p, process_count=2), 25) for p in range(2)]
    draws = np.concatenate([batch["draw"] for part in parts for batch in part])
    assert len(set(draws.tolist())) == draws.size == 200


def test_the_seed_decides_order_and_draws():
    one, same, other = (take(train_batches(stream(seed=seed), 50), 2) for seed in (1, 1, 2))
    assert_same(one, same)
    assert not np.array_equal(one[0]["id"], other[0]["id"])
    assert not set(one[0]["draw"].tolist()) & set(other[0]["draw"].tolist())


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_threads_change_nothing(threads):
    expected = take(train_batches(stream(), 4), 8)
    assert_same(expected, take(train_batches(stream(), 4, num_threads=threads), 8))


@pytest.mark.slow
def test_worker_processes_change_nothing():
    expected = take(train_batches(stream(), 4, start_step=3), 5)
    iterator = train_batches(stream(), 4, start_step=3, workers=2)
    assert_same(expected, take(iterator, 5))
    iterator.close()


@pytest.mark.slow
def test_worker_processes_change_nothing_in_evaluation():
    for workers in (1, 3):  # of two batches
        iterator = eval_batches(Numbers(7), 4, workers=workers)
        assert_same(list(eval_batches(Numbers(7), 4)), list(iterator))
        iterator.close()


def test_entries_keep_their_dtype_and_python_numbers_have_32_bits():
    batch = next(train_batches(stream(), 4))
    assert {name: (value.dtype.name, value.shape) for name, value in batch.items()} == {
        "id": ("int32", (4,)),
        "image": ("uint8", (4, 2, 3)),
        "weight": ("float32", (4,)),
        "draw": ("int64", (4,)),
    }


def test_a_finite_stream_ends_with_its_last_full_global_batch():
    finite = grain.MapDataset.source(Numbers(11))
    for process in range(2):
        batches = list(train_batches(finite, 4, process_index=process, process_count=2))
        assert [batch["id"].tolist() for batch in batches] == [
            [2 * process, 2 * process + 1],
            [4 + 2 * process, 5 + 2 * process],
        ]
    assert list(train_batches(finite, 12)) == []


@pytest.mark.parametrize("size", [1, 3, 7, 8, 9, 16, 17])
@pytest.mark.parametrize(("batch_size", "count"), [(4, 1), (8, 2), (8, 4), (6, 3)])
def test_evaluation_sees_every_example_once_in_equal_batches(size, batch_size, count):
    parts = [list(eval_batches(Numbers(size), batch_size, p, count)) for p in range(count)]
    assert {len(part) for part in parts} == {-(-size // batch_size)}
    ids, total = [], 0.0
    for row in zip(*parts, strict=True):
        for batch in row:
            assert batch["image"].shape == (batch_size // count, 2, 3)
            assert batch["image"].dtype == np.uint8
            assert batch["mask"].dtype == np.float32
            total += batch["mask"].sum()
            ids += batch["id"][batch["mask"] == 1].tolist()
            assert not batch["image"][batch["mask"] == 0].any()
            assert not batch["id"][batch["mask"] == 0].any()
    assert total == size
    assert ids == list(range(size))


def test_evaluation_takes_a_mapped_dataset():
    dataset = grain.MapDataset.source(Numbers(5)).map(lambda example: {"id": example["id"] + 100})
    batches = list(eval_batches(dataset, 4))
    assert [batch["id"].tolist() for batch in batches] == [[100, 101, 102, 103], [104, 0, 0, 0]]
    assert [batch["mask"].tolist() for batch in batches] == [[1, 1, 1, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: train_batches(stream(), 6, process_count=4), "batch_size is 6 for 4 processes"),
        (lambda: eval_batches(Numbers(3), 5, process_count=2), "batch_size is 5 for 2 processes"),
        (lambda: train_batches(stream(), 0), "batch_size is 0"),
        (lambda: train_batches(stream(), 4, process_index=2, process_count=2), "process_index is 2; expected 0 to 1"),
        (lambda: train_batches(stream(), 4, start_step=-1), "start_step is -1"),
        (lambda: train_batches(grain.MapDataset.source(Numbers(9)), 4, start_step=3), "has 2 full batches"),
        (lambda: training_stream(Numbers(0), augment, 0), "the dataset is empty"),
        (lambda: eval_batches(Numbers(0), 4), "the dataset is empty"),
        (lambda: eval_batches(stream(), 4), "repeats without end"),
        (lambda: training_stream(Numbers(4), augment, -1), "seed is -1"),
        (lambda: next(eval_batches([{"mask": 1}], 1)), 'has an entry "mask"'),
        (lambda: next(eval_batches([{"a": 1}, {"b": 1}], 2)), "have entries"),
        (
            lambda: next(eval_batches([{"a": np.zeros(2)}, {"a": np.zeros(3)}], 2)),
            r'"a" is float64 \(2,\) and float64 \(3,\)',
        ),
        (lambda: next(eval_batches([{"a": "text"}], 1)), r"\"a\" is 'text' \(str\)"),
        (lambda: next(eval_batches([{"a": 2**31}], 1)), '"a" is 2147483648'),
    ],
)
def test_errors_say_what_was_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class Lengths:
    """Examples of five lengths, told apart by their index and, of every third, by their first draw."""

    def key(self, index, rng):
        return (index % 4 if index % 3 else 4, int(rng.integers(2)) if index % 3 == 0 else 0)

    def __call__(self, index, rng):
        shape, drawn = self.key(index, rng)
        return {"values": np.full(1 + shape + 5 * drawn, index), "draw": int(rng.integers(2**31)), "id": int(index)}


def shaped(n, seed=0):
    return ShapedStream(range(n), Lengths(), Lengths().key, seed)


def drawn(batches):
    """[[(id, draw), ...] of every batch]"""
    return [[*zip(batch["id"].tolist(), batch["draw"].tolist(), strict=True)] for batch in batches]


def test_batches_of_a_stream_of_several_shapes_have_one_each():
    steps = 61 // 4
    batches = list(itertools.islice(train_batches(shaped(61), 4), 2 * steps))
    assert len({batch["values"].shape[1] for batch in batches}) == 6
    first, second = (itertools.chain(*drawn(batches)[own]) for own in (slice(steps), slice(steps, None)))
    first, second = Counter(first), Counter(second)
    for seen in (first, second):
        assert sum(count - 1 for count in seen.values()) <= 3 * 5  # only what fills up the rest of a shape comes twice
        assert len(seen) > 61 - 4 * 6
    assert not first.keys() & second.keys()  # other draws in every epoch


def test_what_fills_no_batch_is_filled_up():
    stream = ShapedStream(range(12), Lengths(), lambda index, rng: index % 2, 0)
    ids = [stream.in_batches(4)[position]["id"] for position in range(12)]
    assert len({*ids}) == 10  # two batches are full, and the third has two examples that are in neither


def test_rests_are_drawn_by_how_large_they_are():
    """Of three examples and of one a batch of four can be made: the three come three times as often."""
    batches = ShapedStream(range(4), Lengths(), lambda index, rng: index < 3, 0).in_batches(4)
    share = np.mean([batches[4 * epoch]["id"] < 3 for epoch in range(400)])
    assert abs(share - 3 / 4) < 3 * math.sqrt(3 / 16 / 400)  # three deviations


def test_every_example_of_a_rare_shape_comes_in_some_epoch():
    seen = {i for batch in itertools.islice(train_batches(shaped(13), 6), 60) for i in batch["id"].tolist()}
    assert seen == set(range(13))


def test_a_stream_of_several_shapes_is_a_function_of_seed_and_step():
    def ids(start, count, seed=0, **options):
        return drawn(itertools.islice(train_batches(shaped(61, seed), 4, start, **options), count))

    whole = ids(0, 40)
    assert ids(23, 17, num_threads=5) == whole[23:]
    assert not {*itertools.chain(*ids(0, 40, seed=1))} & {*itertools.chain(*whole)}
    halves = [ids(0, 40, process_index=p, process_count=2) for p in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole


def test_fewer_examples_than_a_batch_of_several_shapes():
    with pytest.raises(ValueError, match="batch_size is 62, but there are 61 examples"):
        train_batches(shaped(61), 62)
