"""Broken pictures: named, refused, or skipped in a way that depends on the data alone."""

import io
import pickle
import threading

import grain
import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.data.broken import (
    AugmentedExamples,
    BrokenFileError,
    TransformedExamples,
    find_broken,
    without_broken,
)
from unireplknet_jax.data.pictures.base import ArraySource
from unireplknet_jax.data.pictures.decode import read_image, why_broken
from unireplknet_jax.data.pictures.sets import open_source
from unireplknet_jax.data.pipeline import eval_batches, train_batches, training_stream


def noise(seed):
    file = io.BytesIO()
    picture = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(picture).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def root(tmp_path):
    """Ten pictures of two classes, of which 3 (cut off), 4 (empty) and 9 (the last; text) are broken."""
    for i in range(10):
        path = tmp_path / "train" / "ab"[i // 5] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes({3: noise(3)[:-200], 4: b"", 9: b"<html>404</html>"}.get(i, noise(i)))
    return tmp_path


@pytest.fixture
def source(root):
    return open_source("folder", "train", root)


def decode(example, rng=None):
    draw = 0 if rng is None else rng.integers(1000)
    return {**example, "image": np.asarray(read_image(example["image"])), "draw": int(draw)}


def test_all_broken_pictures_are_found_in_threads(source, root):
    seen = []
    found = find_broken(source, why_broken, threads=3, progress=seen.append)
    assert [picture.index for picture in found] == [3, 4, 9]
    assert [picture.name for picture in found] == [str(root / f"train/{name}.jpg") for name in ("a/3", "a/4", "b/9")]
    assert all(picture.reason.startswith(f"{picture.name} is ") for picture in found)
    assert "a/3.jpg is truncated" in found[0].reason
    assert "b/9.jpg is a web page" in found[2].reason
    assert seen == list(range(1, 11))


def test_pictures_are_checked_a_few_at_a_time():
    """1.2 million of them would not fit into memory."""
    lock, reading = threading.Lock(), []

    class Slow(list):
        labels = ("a",)

        def __getitem__(self, index):
            with lock:
                reading.append(index)
            return {"image": np.zeros((2, 2, 3), np.uint8), "label": 0, "id": index}

    ahead = []
    assert find_broken(Slow([None] * 200), why_broken, 2, lambda done: ahead.append(len(reading) - done)) == []
    assert max(ahead) <= 8
    assert sorted(reading) == list(range(200))


def test_pictures_in_memory_are_never_broken():
    source = ArraySource(np.zeros((3, 2, 2, 1), np.uint8), np.zeros(3), np.arange(3), ("a",))
    assert find_broken(source, why_broken) == []
    assert without_broken(source, why_broken) is source


def test_a_broken_picture_is_refused_by_name(source):
    examples = AugmentedExamples(source, decode, "refuse", why_broken)
    assert examples(2, np.random.default_rng(0))["id"] == 2
    with pytest.raises(
        BrokenFileError, match=r"a/3\.jpg is truncated .*; replace the file with a whole one$"
    ) as raised:
        examples(3, np.random.default_rng(0))
    assert "\n" not in str(raised.value)
    with pytest.raises(BrokenFileError, match=r"b/9\.jpg is a web page"):
        TransformedExamples(source, decode, why_broken)[9]
    assert TransformedExamples(source, decode, why_broken)[8]["id"] == 8


def test_the_next_readable_picture_takes_the_place(source, caplog):
    examples = AugmentedExamples(source, decode, "skip", why_broken)
    for index, taken in ((2, 2), (3, 5), (4, 5), (5, 5), (9, 0), (np.int64(9), 0)):
        example = examples(index, np.random.default_rng(0))
        assert (example["id"], example["label"]) == (taken, taken // 5)
        np.testing.assert_array_equal(example["image"], np.asarray(read_image(noise(taken))))
    messages = [record.message for record in caplog.records]
    assert [message.partition(".jpg is ")[0][-3:] for message in messages] == ["a/3", "a/4", "b/9"]
    assert all(message.startswith("skipped: ") for message in messages)


def test_in_batches_of_one_shape_the_next_readable_picture_of_the_same_shape_takes_the_place(source):
    def key(index, rng):
        return (index + rng.integers(2)) % 3

    examples = AugmentedExamples(source, decode, "skip", why_broken, key)
    for seed, draw in ((0, 1), (2, 1), (3, 1), (4, 1)):
        assert np.random.default_rng(seed).integers(2) == draw
        for index, taken in ((2, 2), (3, 6), (4, 7), (9, 0)):
            assert examples(index, np.random.default_rng(seed))["id"] == taken


def test_the_stream_with_skips_depends_on_seed_and_position_alone(source):
    def stream(**options):
        examples = pickle.loads(pickle.dumps(AugmentedExamples(source, decode, "skip", why_broken)))
        batches = train_batches(training_stream(range(len(source)), examples, 7), 5, **options)
        return [next(batches) for _ in range(4)]

    whole, threaded, late = stream(num_threads=0), stream(num_threads=3), stream(start_step=2)
    for step in range(4):
        for name in ("image", "label", "id", "draw"):
            np.testing.assert_array_equal(whole[step][name], threaded[step][name])
            if step >= 2:
                np.testing.assert_array_equal(whole[step][name], late[step - 2][name])
    ids = np.concatenate([batch["id"] for batch in whole[:2]])
    assert sorted(ids) == [0, 0, 1, 2, 5, 5, 5, 6, 7, 8]


def test_evaluation_leaves_broken_pictures_out(source, caplog):
    whole = pickle.loads(pickle.dumps(without_broken(source, why_broken, threads=2)))
    assert (len(whole), whole.labels) == (7, ("a", "b"))
    assert [whole[i]["id"] for i in range(7)] == [0, 1, 2, 5, 6, 7, 8]
    assert sum("left out: " in record.message for record in caplog.records) == 3


def test_errors_of_the_transform_itself_are_not_taken_for_broken_pictures(source):
    def fail(example, rng=None):
        raise ValueError("size is 0")

    with pytest.raises(ValueError, match=r"^size is 0$"):
        AugmentedExamples(source, fail, "skip", why_broken)(0, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"^size is 0$"):
        TransformedExamples(source, fail, why_broken)[0]


def test_an_unreadable_file_is_never_skipped(source, root):
    (root / "train/a/1.jpg").unlink()
    with pytest.raises(OSError, match=r"a/1\.jpg cannot be read"):
        AugmentedExamples(source, decode, "skip", why_broken)(1, np.random.default_rng(0))
    with pytest.raises(OSError, match=r"a/1\.jpg cannot be read"):
        find_broken(source, why_broken)


def test_a_set_of_broken_pictures_ends(root):
    for path in (root / "train").rglob("*.jpg"):
        path.write_bytes(b"")
    source = open_source("folder", "train", root)
    with pytest.raises(
        ValueError, match=r"in a row, or all there are, .* last one .*2\.jpg; mend the data set"
    ) as raised:
        AugmentedExamples(source, decode, "skip", why_broken)(3, np.random.default_rng(0))
    assert not isinstance(raised.value, BrokenFileError)  # which says that they could be passed over


@pytest.mark.parametrize("reading", [{"num_threads": 2}, pytest.param({"workers": 1}, marks=pytest.mark.slow)])
def test_threads_and_processes_say_that_a_file_is_broken(source, reading):
    examples = AugmentedExamples(source, decode, "refuse", why_broken)
    with pytest.raises(BrokenFileError, match=r"/\d\.jpg is "):
        list(zip(range(4), train_batches(training_stream(range(len(source)), examples, 7), 5, **reading), strict=False))
    with pytest.raises(BrokenFileError, match=r"a/3\.jpg is truncated"):
        list(eval_batches(grain.MapDataset.source(TransformedExamples(source, decode, why_broken)), 2, **reading))


def test_another_policy_is_refused(source):
    with pytest.raises(ValueError, match="broken is 'ignore'; expected 'refuse' or 'skip'"):
        AugmentedExamples(source, decode, "ignore", why_broken)
