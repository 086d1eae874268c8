"""IoU and accuracy of maps of classes: exact counts, exactly mmsegmentation's numbers, percent in place of shares."""

import json

import numpy as np
import pytest

from unireplknet_jax.tasks import mask_metrics
from unireplknet_jax.tasks.mask_metrics import confusion, counts_of, metrics, summed


@pytest.fixture(scope="module")
def golden(goldens):
    with np.load(goldens / "dense" / "miou.npz") as arrays:
        return dict(arrays)


def pairs(golden, case):
    """The maps of a case: labels as a source gives them, -1 for what is ignored, and predictions."""
    for index in range(int(golden[f"{case}/num_images"])):
        label = golden[f"{case}/label{index}"].astype(np.int16)
        if golden[f"{case}/reduce_zero_label"]:
            label = np.where(label == 0, 255, label - 1 + 256 * (label == 255))
        yield np.where(label >= 255, -1, label), golden[f"{case}/pred{index}"]


@pytest.mark.parametrize("case", ["case0", "case1", "case2"])
def test_metrics_are_exactly_those_of_mmsegmentation(golden, case):
    classes = int(golden[f"{case}/num_classes"])
    each = [counts_of(confusion(label, found, classes)) for label, found in pairs(golden, case)]
    matrix = summed(json.loads(json.dumps(each)), classes)
    assert matrix.dtype == np.int64
    assert np.array_equal(np.diag(matrix), golden[f"{case}/intersect"])
    assert np.array_equal(matrix.sum(axis=0), golden[f"{case}/pred_area"])
    assert np.array_equal(matrix.sum(axis=1), golden[f"{case}/label_area"])
    labels = [f"a {number}" for number in range(classes)]
    found = metrics(matrix, labels)
    assert [*found][:3] == ["miou", "macc", "aacc"]
    assert np.array_equal([found[f"iou/{name}"] for name in labels], 100 * golden[f"{case}/IoU"], equal_nan=True)
    assert np.array_equal([found[f"acc/{name}"] for name in labels], 100 * golden[f"{case}/Acc"], equal_nan=True)
    # Means of percentages, rounded in another order than percentages of means.
    for name in ("mIoU", "mAcc", "aAcc"):
        assert found[name.lower()] == pytest.approx(100 * float(golden[f"{case}/{name}"]), rel=1e-15)


def test_a_class_that_is_nowhere_is_left_out_and_one_that_is_only_found_counts():
    matrix = np.array([[6, 2, 0], [0, 0, 0], [0, 0, 0]])
    found = metrics(matrix, ("sky", "sea", "ship"))
    assert (found["iou/sky"], found["iou/sea"], found["miou"]) == (75, 0, 37.5)
    assert np.isnan([found["acc/sea"], found["iou/ship"], found["acc/ship"]]).all()
    assert found["macc"] == found["aacc"] == 75
    assert metrics(matrix, ())["iou/class 0"] == 75


def test_ignored_pixels_count_nowhere():
    label, found = np.array([[0, -1, 1], [-1, -1, 1]], np.int16), np.array([[0, 1, 0], [1, 0, 1]], np.int16)
    assert confusion(label, found, 2).tolist() == [[1, 0], [1, 1]]
    nothing = confusion(np.full((1, 1), -1, np.int16), np.zeros((1, 1), np.int16), 2)
    assert counts_of(nothing) == []
    assert summed([[]], 2).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match="no pixel of the data set has a class"):
        metrics(nothing, ())


def test_large_pictures_are_counted_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    label, found = rng.integers(-1, 5, (37, 50)), rng.integers(0, 5, (37, 50))
    whole = confusion(label, found, 5)
    assert whole.sum() == np.sum(label >= 0)
    assert whole[3, 1] == np.sum((label == 3) & (found == 1))
    monkeypatch.setattr(mask_metrics, "_PIXELS", 100)
    assert np.array_equal(confusion(label.astype(np.int16), np.asfortranarray(found), 5), whole)


def test_counts_are_integers_of_any_size():
    many = 3 * 10**15 + 1
    assert summed([[[0, 1, many]], [[0, 1, 2], [1, 1, 1]]], 2).tolist() == [[0, many + 2], [0, 1]]


@pytest.mark.parametrize(
    ("label", "found", "message"),
    [
        ([[0, 1]], [[0], [1]], "the labels are 2x1 pixels and what was found is 1x2."),
        ([[0, 9]], [[0, 1]], "the classes 9 are not among the 3 from 0 on."),
        ([[0, 1]], [[-1, 3]], "the classes -1, 3 are not among the 3 from 0 on."),
        ([[0, 1]], [[-1, 2]], "the classes -1 are not among the 3 from 0 on."),
    ],
)
def test_maps_that_do_not_belong_together_are_refused(label, found, message):
    with pytest.raises(ValueError, match=message):
        confusion(np.array(label), np.array(found), 3)
