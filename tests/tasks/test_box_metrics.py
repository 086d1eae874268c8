"""COCO's metrics: pycocotools' numbers on the reference, from records, by both evaluators."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

from unireplknet_jax.data.pictures.instance_masks import bitmap
from unireplknet_jax.tasks import box_metrics
from unireplknet_jax.tasks.box_metrics import EVALUATORS, metrics, packed, results, truth_of

GOLDENS = Path(__file__).parents[1] / "goldens/dense"
SUMMARY = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
RECALLS = ("ar100", "ar300", "ar1000", "ar_small", "ar_medium", "ar_large")
WHOLE = pytest.approx(100, rel=1e-12)  # pycocotools divides by a bit more than all
SIZES = [3, 4, 5, 9, 10, 11]  # where the numbers of objects of some size stand


def golden(name):
    return json.loads((GOLDENS / f"coco_{name}.json").read_text())


def corners(bbox):
    left, top, width, height = bbox
    return [left, top, left + width, top + height]


def as_text(segmentation, size):
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        return segmentation
    runs = coco.frPyObjects(segmentation, *size)
    runs = coco.merge(runs) if isinstance(runs, list) else runs
    return {"size": size, "counts": runs["counts"].decode()}


@pytest.fixture(scope="module")
def reference():
    """(records, labels, category ids, the oracle) of the reference."""
    truth, found = golden("gt"), golden("dt")
    ids = [category["id"] for category in truth["categories"]]
    records = []
    for image in truth["images"]:
        size = [image["height"], image["width"]]
        own, said = ([row for row in rows if row["image_id"] == image["id"]] for rows in (truth["annotations"], found))
        records.append(
            {
                "id": image["id"],
                "size": size,
                "truth": [
                    {
                        "label": ids.index(row["category_id"]),
                        "box": corners(row["bbox"]),
                        "area": row["area"],
                        "crowd": bool(row["iscrowd"]),
                        "mask": as_text(row["segmentation"], size),
                    }
                    for row in own
                ],
                "found": [
                    {
                        "label": ids.index(row["category_id"]),
                        "box": corners(row["bbox"]),
                        "score": row["score"],
                        "mask": row["segmentation"],
                    }
                    for row in said
                ],
            }
        )
    return records, [category["name"] for category in truth["categories"]], ids, golden("oracle")


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_the_numbers_are_those_of_the_reference(reference, evaluator):
    records, labels, ids, oracle = reference
    records = [records[place] for place in np.random.default_rng(0).permutation(len(records))]  # as hosts send them
    found = metrics(records, labels, True, evaluator)
    # Box corners lose the last bits of width and height, and percents of shares: 1e-12 is that rounding.
    for kind, own, at_limits in (("box", "bbox", "bbox"), ("mask", "segm_without_box_key", "segm")):
        values = [found[f"{kind}_{name}"] / 100 for name in (*SUMMARY, *RECALLS)]
        limited = oracle[f"{at_limits}_maxdets_100_300_1000"]
        np.testing.assert_allclose(values[6:9], limited[6:9], rtol=1e-12)
        np.testing.assert_allclose(values[:3], oracle[own][:3], rtol=1e-12)
        np.testing.assert_allclose([values[i] for i in SIZES], [oracle[own][i] for i in SIZES], rtol=1e-12)
        classes = oracle[f"{'bbox' if kind == 'box' else 'segm'}_per_class_AP"]
        for label, number in zip(labels, ids, strict=True):
            np.testing.assert_allclose(found[f"{kind}_ap/{label}"] / 100, classes[str(number)], rtol=1e-12)
    assert next(iter(found)) == "box_ap"


def test_records_may_have_been_json(reference):
    records, labels, *_ = reference
    assert metrics(json.loads(json.dumps(records)), labels, True) == metrics(records, labels, True)


def test_results_are_those_of_cocos_format(reference):
    records, _, ids, _ = reference
    records = [
        record | {"found": [row | {"category_id": ids[row["label"]]} for row in record["found"]]} for record in records
    ]
    found, expected = results(records), golden("dt")
    assert len(found) == len(expected)
    for ours, theirs in zip(found, sorted(expected, key=lambda row: row["image_id"]), strict=True):
        np.testing.assert_allclose(ours.pop("bbox"), theirs["bbox"], atol=1e-9)
        assert ours == {name: value for name, value in theirs.items() if name != "bbox"}


def one(found=(), crowd=False, **more):
    truth = {"label": 0, "box": [10.0, 10.0, 50.0, 50.0], "area": 1600.0, "crowd": crowd} | more
    return {"id": "a.jpg", "size": [60, 60], "truth": [truth], "found": [*found]}


def said(box=(10.0, 10.0, 50.0, 50.0), score=0.9, label=0, **more):
    return {"label": label, "box": [*box], "score": score} | more


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_the_first_object_is_matched(evaluator):
    """pycocotools takes a match with the id 0 for none."""
    found = metrics([one([said()])], ["x"], False, evaluator)
    assert [found[name] for name in ("box_ap", "box_ar100", "box_ap_medium")] == [WHOLE] * 3
    assert math.isnan(found["box_ap_large"])


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_no_detections_at_all(evaluator):
    found = metrics([one(), one() | {"id": "b.jpg"}], ["x", "y"], False, evaluator)
    assert (found["box_ap"], found["box_ap/x"]) == (0, 0)
    assert math.isnan(found["box_ap/y"])  # a class without an object
    assert len({*found}) == 14


def test_detections_of_a_class_without_objects_change_no_mean():
    assert metrics([one([said(), said(label=1)])], ["x", "y"], False)["box_ap"] == WHOLE


def test_what_is_found_in_a_crowd_is_not_wrong():
    inside = said((20.0, 20.0, 30.0, 30.0), 0.99)
    crowd = {"label": 0, "box": [0.0, 0.0, 60.0, 9.0], "area": 540.0, "crowd": True}
    records = [one([inside | {"box": [1.0, 1.0, 9.0, 8.0]}, said(score=0.5)])]
    records[0]["truth"].append(crowd)
    assert metrics(records, ["x"], False)["box_ap"] == WHOLE
    crowd["crowd"] = False
    assert metrics(records, ["x"], False)["box_ap"] < 60


def test_the_order_of_the_records_plays_no_part():
    """Of detections with one score those of the picture with the smaller id come first."""
    wrong, right = one([said((0.0, 0.0, 5.0, 5.0))]) | {"id": 10}, one([said()]) | {"id": 9}
    for records in ([wrong, right], [right, wrong]):
        assert metrics(records, ["x"], False)["box_ap"] == pytest.approx(100 * 51 / 101, rel=1e-12)


def test_there_may_be_more_detections_than_a_hundred_in_a_picture():
    boxes = [[float(x), float(y), x + 4.0, y + 4.0] for x in range(0, 60, 5) for y in range(0, 60, 5)]
    record = one([said(box, 1 - i / 1000) for i, box in enumerate(boxes)])
    record["truth"] = [{"label": 0, "box": box, "area": 16.0, "crowd": False} for box in boxes]
    found = metrics([record], ["x"], False)
    assert [found["box_ap"], found["box_ar300"]] == [WHOLE] * 2
    assert found["box_ar100"] == pytest.approx(100 * 100 / 144)


def test_an_object_without_a_mask_is_neither_found_nor_missed():
    full = np.zeros((60, 60), bool)
    full[10:50, 10:50] = True
    record = one([said(mask=packed(full))], mask=packed(full))
    record["truth"].append({"label": 0, "box": [0.5, 0.5, 8.0, 8.0], "area": 56.0, "crowd": False, "mask": None})
    found = metrics([record], ["x"], True)
    assert found["mask_ap"] == WHOLE
    assert found["box_ap"] == pytest.approx(100 * 51 / 101)  # recall 0 to 0.5


def test_the_truth_of_an_example():
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    example = {
        "image": np.zeros((6, 4, 3), np.uint8),
        "unrounded": np.array([[1, 2, 3, 5], [0, 0, 1, 1 + 1e-9]]),
        "labels": np.array([3, 1], np.int32),
        "areas": np.array([6, 1]),
        "crowd": np.array([True, False]),
        "masks": [mask, None],
        "orientation": 6,
    }
    first, second = truth_of(example)
    assert json.loads(json.dumps(first)) == first
    np.testing.assert_array_equal(bitmap(first.pop("mask"), (6, 4)), np.rot90(mask, -1))
    assert first == {"label": 3, "box": [1, 2, 3, 5], "area": 6, "crowd": True}
    assert second == {"label": 1, "box": [0, 0, 1, 1 + 1e-9], "area": 1, "crowd": False, "mask": None}
    assert "mask" not in truth_of(example | {"masks": None})[0]


def test_nothing_to_evaluate_and_a_missing_evaluator_are_one_sentence(monkeypatch):
    with pytest.raises(ValueError, match="no picture of the data set has an object"):
        metrics([one() | {"truth": []}], ["x"], False)
    with pytest.raises(ValueError, match="there is no evaluator 'cocoapi'; expected pycocotools or faster_coco_eval"):
        metrics([one()], ["x"], False, "cocoapi")
    for name, command in (("pycocotools", r"'unireplknet_jax\[boxes\]'"), ("faster_coco_eval", "faster-coco-eval")):
        monkeypatch.setitem(sys.modules, box_metrics.EVALUATORS[name][0].split(":")[0], None)
        with pytest.raises(ImportError, match=f"need {name}, which is missing: pip install {command}"):
            metrics([one()], ["x"], False, name)
