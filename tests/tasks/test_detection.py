"""The task of detection: from files of annotations to examples, and from what the network says to objects."""

import dataclasses
import json
import sys

import box_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from splits import examples_of, fitted_to

from unireplknet_jax.data.pictures import instance_masks
from unireplknet_jax.data.pipeline import train_batches
from unireplknet_jax.tasks import box_metrics
from unireplknet_jax.tasks.base import get_task
from unireplknet_jax.tasks.canvases import Way
from unireplknet_jax.tasks.checkpoint import open_checkpoint
from unireplknet_jax.train.setup import training_flops

MODEL = {
    "depths": (1, 1, 1, 1),
    "dims": (4, 8, 12, 16),
    "kernel_sizes": ((3,), (5,), (5,), (5,)),
    "num_classes": 0,
    **{"channels": 8, "box_channels": 4, "box_features": 8, "mask_channels": 4, "anchor_scale": 2.0, "finest": 14.0},
    **{"train_proposals": (32, 16), "test_proposals": (32, 16), "anchor_counts": (32, 16), "region_counts": (16, 8)},
    "max_detections": 6,
}
SMALL = {
    **{"scale": (64, 64), "short_sides": (32, 40), "longest": 64, "crop_sides": (40,), "crop": (24, 40)},
    **{"buckets": ((64, 64), (32, 64)), "objects": 3, "mask_bytes": 2048},
}


def make_task(num_classes=2, labels=("cat", "dog"), masks=True, **options):
    model = MODEL | {"num_classes": num_classes, "masks": masks}
    return get_task("detection", model=model, **SMALL | {"labels": labels} | options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    box_files.write_coco(folder, polygons=True)
    return box_files.write_coco(folder, "val", polygons=True)


def data_of(folder, **options):
    return {"name": "coco", "dir": str(folder), "train_split": "train", "eval_split": "val", **options}


def pred_of(boxes, scores, labels, masks=None, rows=8):
    """What a network says of the one window of a picture, with rows that hold nothing behind."""

    def filled(values):
        values = np.asarray(values)
        return np.concatenate([values, np.zeros((rows - len(values), *values.shape[1:]), values.dtype)])[None]

    pred = {"boxes_0": filled(np.asarray(boxes, np.float32)), "scores_0": filled(np.asarray(scores, np.float32))}
    pred |= {"labels_0": filled(np.asarray(labels)), "valid_0": filled(np.ones(len(scores), bool))}
    return pred | ({} if masks is None else {"masks_0": filled(masks)})


def test_detections_of_the_original_in_the_picture_as_it_was(goldens):
    """Boxes in the network's input become boxes of the file, and masks are pasted into its size."""
    checkpoint = open_checkpoint(goldens / "dense" / "det_tiny.pth")
    assert checkpoint.task.name == "detection"
    with np.load(goldens / "dense" / "det_tiny.npz") as file:
        golden = dict(file)
    size, original = (tuple(golden[name].tolist()) for name in ("img_hw", "ori_hw"))
    task = dataclasses.replace(checkpoint.task, score=0.0)
    count = len(golden["det_img_scores"])
    masks = golden["mask_prob_mean_at_label"].reshape(count, 28, 28)
    pred = pred_of(*(golden[f"det_img_{name}"] for name in ("boxes", "scores", "labels")), masks, rows=count + 3)
    example = {"ways": [Way(size, ((0, 0, *size),), size, 1)], "original": original, "id": 7}
    record = task.record(pred, example)
    found = np.array([each["box"] for each in record["objects"]])
    np.testing.assert_allclose(found, golden["det_ori_boxes"], atol=1e-4)  # of numbers up to hundreds
    assert [each["index"] for each in record["objects"]] == golden["det_ori_labels"].tolist()
    expected = np.unpackbits(golden["det_ori_masks_packed"], axis=-1)[..., : original[1]].astype(bool)
    pasted = np.array([instance_masks.bitmap(each["mask"], original) for each in record["objects"]])
    assert (pasted != expected).mean() <= 5e-4


def test_examples_have_the_shapes_that_are_compiled(folder):
    task, data = fitted_to(make_task(0, ()), data_of(folder)), data_of(folder)
    assert (task.labels, task.category_ids, task.masks) == (("cat", "dog"), (1, 2), True)
    specs = {spec.inputs["image"].shape: spec for spec in task.specs(train=True)}
    stream = task.examples(task.open(data, "train", train=True), train=True, seed=3)
    shapes = set()
    for batch, _ in zip(train_batches(stream, 2), range(12), strict=False):
        spec = specs[batch["image"].shape[1:]]
        shapes.add(batch["image"].shape[1:])
        for name, leaf in {**spec.inputs, **spec.targets}.items():
            assert (batch[name].shape[1:], batch[name].dtype) == (leaf.shape, leaf.dtype), name
    assert shapes == {*specs}
    measured = examples_of(task, data, "val", train=False)
    assert len(measured) == 3  # that without objects among them
    assert [key[0][0] for key in task.shape_keys(task.open(data, "val"))] == [(64, 64), (64, 64), (64, 64)]
    assert measured[0]["image_0"].shape == (1, 64, 64, 3)
    assert measured[0]["size_0"].tolist() == [[43, 64]]
    assert [row["label"] for row in measured[0]["truth"]] == [1, 0]
    assert measured[0]["truth"][0]["box"] == [10, 4, 30, 24]


def test_classes_are_found_by_their_names(folder):
    task = make_task(labels=("dog", "cat"))
    assert [row["label"] for row in examples_of(task, data_of(folder), "val", train=False)[0]["truth"]] == [0, 1]
    other = make_task(labels=("dog", "cow"))
    with pytest.raises(ValueError, match="cow"):
        examples_of(other, data_of(folder), "val", train=False)


def test_trunk_and_heads_share_statistics_of_as_many_pictures():
    task = get_task("detection", model=MODEL | {"num_classes": 2, "bn_group": 4}, **SMALL)
    assert task.module().bn_group == task.module().backbone.bn_group == 4


def test_data_with_boxes_alone_trains_without_masks(tmp_path, caplog):
    box_files.write_coco(tmp_path)
    data = data_of(tmp_path, eval_split="train")
    task = fitted_to(make_task(0, ()), data)
    assert not task.masks
    assert "the network is trained without masks" in caplog.text
    assert {"mask_bits", "has_mask"}.isdisjoint(task.specs(train=True)[0].targets)
    assert not any("mask" in name for name in task.abstract_variables()["params"])


@pytest.mark.parametrize("masks", [pytest.param(True, marks=pytest.mark.slow), False])
def test_the_loss_is_the_sum_of_the_original_s_losses(masks):
    task = make_task(masks=masks)
    spec = task.specs(train=True)[1]
    batch = {
        name: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype)
        for name, leaf in {**spec.inputs, **spec.targets}.items()
    }
    total, found = jax.eval_shape(
        lambda variables, batch: task.loss(task.module().apply, variables, batch, jax.random.key(0)),
        task.abstract_variables(),
        batch,
    )
    assert total.shape == ()
    kinds = ("acc", "loss_bbox", "loss_cls", *(("loss_mask",) if masks else ()))
    expected = {f"s{stage}_{kind}" for stage in range(3) for kind in kinds}
    assert {*found["scalars"]} == {"loss", "loss_rpn_cls", "loss_rpn_bbox"} | expected
    assert jax.tree.structure(found["batch_stats"]) == jax.tree.structure(task.abstract_variables()["batch_stats"])


def test_a_step_counts_the_regions_of_its_heads():
    few, many = (
        get_task("detection", model=MODEL | {"num_classes": 2, "region_counts": counts}, **SMALL)
        for counts in ((16, 8), (32, 8))
    )
    head = 7 * 7 * 9 * (8 * 4 + 3 * 4 * 4) + 49 * 4 * 8 + 8 * (3 + 2 * 4)  # products for a region of a stage
    assert training_flops(many) - training_flops(few) == 6 * 3 * 16 * head


def test_accuracies_are_no_part_of_the_loss():
    found = {"s0.loss_cls": jnp.float32(2), "loss_rpn_cls": jnp.float32(3), "s0.acc": jnp.float32(50)}
    task = make_task(masks=False)
    batch = {name: jnp.zeros((2, *leaf.shape), leaf.dtype) for name, leaf in task.specs(train=True)[0].inputs.items()}
    batch |= dict.fromkeys(("boxes", "labels", "valid"), jnp.zeros(2))
    total, aside = task.loss(lambda *arguments, **options: (found, {}), {}, batch, jax.random.key(0))
    assert float(total) == 5
    assert {name: float(sum_ / count) for name, (sum_, count) in aside["scalars"].items()} == {
        **{"loss": 5.0, "s0_loss_cls": 2.0, "loss_rpn_cls": 3.0, "s0_acc": 50.0}
    }


@pytest.mark.parametrize(
    ("options", "windows"), [({"scales": (0.5, 1.0), "mirror": True}, [2, 2]), ({"tile": 32}, [9])]
)
def test_the_network_meets_every_window(options, windows, tmp_path):
    task = make_task(**options)
    Image.fromarray(np.zeros((43, 55, 3), np.uint8)).save(tmp_path / "a.png")
    (example,) = task.read(tmp_path / "a.png")
    assert [len(example[f"size_{i}"]) for i in range(len(windows))] == windows
    inputs = {
        name: jax.ShapeDtypeStruct((1, *value.shape), value.dtype) for name, value in example.items() if "e_" in name
    }
    found = jax.eval_shape(
        lambda variables, inputs: task.predict(task.module(deploy=True).apply, variables, inputs),
        task.abstract_variables(deploy=True),
        inputs,
    )
    for i, count in enumerate(windows):
        assert found[f"boxes_{i}"].shape == (1, count, 6, 4)
        assert found[f"masks_{i}"].shape == (1, count, 6, 28, 28)


def test_of_a_window_that_is_not_there_nothing_is_found():
    task = make_task(tile=32, masks=False)
    example = {"ways": task.ways(canvas=(64, 64), original=(20, 30)), "original": (20, 30), "id": "a"}
    pred = {
        "boxes_0": np.tile(np.float32([1, 2, 9, 10]), (9, 2, 1)),
        "scores_0": np.float32([[0.9, 0.2]] + [[0.8, 0.8]] * 8),
        "labels_0": np.zeros((9, 2), int),
        "valid_0": np.array([[True, True]] + [[True, True]] * 8),
    }
    record = task.record(pred, example)
    assert record["size"] == [20, 30]
    assert record["objects"] == [{"index": 0, "label": "cat", "score": pytest.approx(0.9), "box": [1, 2, 9, 10]}]


def test_of_an_object_that_two_windows_see_one_is_shown():
    task = make_task(tile=32, masks=False)
    example = {"ways": task.ways_of((20, 50)), "original": (20, 50), "id": "a"}
    (way,) = example["ways"]
    assert way.windows == ((0, 0, 20, 32), (0, 18, 20, 32))
    pred = pred_of(np.float32([[24, 2, 32, 10]]), [0.8], [0], rows=2)  # cut off by the window
    other = pred_of(np.float32([[2, 2, 25, 10]]), [0.9], [0], rows=2)
    nothing = pred_of(np.zeros((0, 4)), [], np.zeros(0, int), rows=2)
    seen = [pred, other, *[nothing] * (way.places - 2)]
    record = task.record({name: np.concatenate([each[name] for each in seen]) for name in pred}, example)
    assert [each["box"] for each in record["objects"]] == [[20, 2, 43, 10]]


def test_a_user_sees_what_is_asked_for(tmp_path):
    boxes = [[0, 0, 8, 8], [8, 8, 20, 16], [4, 4, 12, 12]]
    masks = np.ones((3, 28, 28), np.float32)
    picture = np.zeros((16, 24, 3), np.uint8)

    def record(**options):
        task = make_task(scale=None, **options)
        (example,) = task.read(picture)
        return task, example, task.record(pred_of(boxes, [0.9, 0.5, 0.2], [1, 0, 1], masks), example)

    assert [each["label"] for each in record()[2]["objects"]] == ["dog", "cat"]
    assert [each["score"] for each in record(score=0.1)[2]["objects"]] == pytest.approx([0.9, 0.5, 0.2])
    assert [each["label"] for each in record(only=("Cat",))[2]["objects"]] == ["cat"]
    with pytest.raises(ValueError, match="no class is called 'cow'"):
        record(only=("cow",))
    task, example, found = record(score=0.1)
    assert task.table_columns(1) == ("label", "score", "x1", "y1", "x2", "y2")
    assert task.table_rows([found], 1)[1] == ("cat", 0.5, 8, 8, 20, 16)
    json.dumps(found)
    assert task.draw([example], [found]).width >= 24
    task.save_mask(tmp_path / "mask.png", found)
    with Image.open(tmp_path / "mask.png") as file:
        saved = np.asarray(file)
    assert saved.shape == (16, 24)
    assert (saved[2, 2], saved[9, 9], saved[6, 6], saved[15, 0]) == (1, 2, 1, 0)  # the best is on top
    assert saved[9, 6] == 3


def test_measured_and_written_as_coco_does(folder):
    task = fitted_to(make_task(0, ()), data_of(folder))
    measured = examples_of(task, data_of(folder), "val", train=False)
    records = []
    for example in measured:
        factor = example["ways"][0].size[0] / example["original"][0]
        boxes = [[factor * value for value in row["box"]] for row in example["truth"]] or np.zeros((0, 4))
        labels = [row["label"] for row in example["truth"]]
        masks = np.ones((len(labels), 28, 28), np.float32)
        records.append(task.record(pred_of(boxes, [0.9] * len(labels), np.array(labels, int), masks), example))
    metrics = task.metrics({"count": np.int64(3)}, records)
    assert (next(iter(metrics)), metrics["box_ap"], metrics["mask_ap"], metrics["count"]) == ("box_ap", 100, 100, 3)
    rows = task.results(records)
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(10, 2), (10, 1), (11, 1)]
    np.testing.assert_allclose(rows[0]["bbox"], [10, 4, 20, 20], atol=0.3)  # the sides are scaled by rounded factors
    json.dumps(rows)


def test_results_have_the_category_ids_of_the_data_that_are_evaluated(folder, tmp_path):
    """And not those of the training data; a class that they lack has its own id, unless that means another class."""
    document = box_files.coco(ids=(90, 3))
    box_files.write_coco(tmp_path, "val", document | {"categories": document["categories"][::-1]})
    for labels, own, expected in (
        (("cat", "dog"), (), [90, 3]),
        (("cat", "dog"), (1, 2), [90, 3]),
        (("dog", "bird", "cat", "cow"), (5, 6, 7, 3), [3, 6, 90, None]),
        (("dog", "bird", "cat", "cow"), (), [3, None, 90, None]),
    ):
        task = make_task(len(labels), labels, category_ids=own)
        example = examples_of(task, data_of(tmp_path), "val", train=False)[0]
        count = len(labels)
        masks = np.ones((count, 28, 28), np.float32)
        record = task.record(pred_of([[0, 0, 9, 9]] * count, [0.9] * count, np.arange(count), masks), example)
        assert [row["category_id"] for row in record["found"]] == expected
        assert [row["category_id"] for row in task.results([record])] == [each for each in expected if each is not None]


def test_another_program_may_compute_the_metrics(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(box_metrics, "metrics", lambda *given: asked.append(given[3:]) or {"box_ap": 1.0})
    task = make_task(evaluator="faster_coco_eval")
    assert task.metrics({"count": np.int64(2)}, []) == {"box_ap": 1.0, "count": 2.0}
    assert asked == [("faster_coco_eval",)]
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError, match="pip install faster-coco-eval"):  # before anything is computed
        task.open(data_of(folder), "val")
    assert len(task.open(data_of(folder), "train", train=True).source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"balance": True}, "balance draws examples of one class"),
        ({"scale": (64, 80)}, r"scale=\(64, 80\) must be \(long side, short side\)"),
        ({"scales": ()}, "scales=.* must be one or more shares"),
        ({"buckets": ((64, 60),)}, "must be .rows, columns., multiples of 32"),
        ({"buckets": ((32, 64),)}, "none of the canvases .* holds a picture of 40 rows and 64 columns"),
        ({"score": 1.5}, "score=1.5 must be"),
        ({"evaluator": "cocoapi"}, "no evaluator 'cocoapi'; expected pycocotools or faster_coco_eval"),
        ({"objects": 0}, "objects=0 must be"),
        ({"std": (1, 1, 0)}, "std=0 must be"),
        ({"category_ids": (1,)}, "1 category_ids do not fit 2 classes"),
        ({"labels": ("cat",)}, "1 labels do not fit a model of 2 classes"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        make_task(**options)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"max_detections": 0}, "max_detections=0 must be a whole number, 1 or more"),
        ({"channels": 1.5}, "channels=1.5 must be a whole number, 1 or more"),
        ({"test_proposals": (1000, -1)}, "test_proposals=.1000, -1. must be two whole numbers, 1 or more"),
        ({"anchor_counts": 256}, "anchor_counts=256 must be two whole numbers, 1 or more"),
        ({"anchor_scale": 0.0}, "anchor_scale=0.0 must be above 0"),
        ({"finest": float("nan")}, "finest=nan must be above 0"),
        ({"min_score": 1.5}, "min_score=1.5 must be from 0 to 1"),
    ],
)
def test_heads_that_make_no_sense(heads, message):
    with pytest.raises(ValueError, match=message):
        get_task("detection", model=MODEL | heads, **SMALL)
