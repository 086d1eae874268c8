"""The transforms of detection: mmdetection's order and numbers, canvases, and masks that follow their pictures."""

import pickle

import numpy as np
import pytest
from box_files import from_bits

from unireplknet_jax.data.pictures.box_transforms import (
    CANVASES,
    Geometry,
    Step,
    TrainTransform,
    canvas_for,
    prepared,
)
from unireplknet_jax.data.pictures.instance_masks import cropped
from unireplknet_jax.data.pictures.mask_transforms import nearest_places, resize_to

SMALL = TrainTransform((24, 32), 60, (20, 30), (16, 28), canvases=((32, 64), (64, 32)), objects=4, mask_bytes=4096)


def scene(size=(50, 70), seed=0, count=3):
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *size), bool)
    for mask in masks:
        top, left = (int(rng.integers(0, side - 12)) for side in size)
        mask[top : top + int(rng.integers(8, 30)), left : left + int(rng.integers(8, 30))] = True
        mask &= rng.random(size) < 0.9
    pieces = [cropped(mask) for mask in masks]
    boxes = [[p.left, p.top, p.left + p.bitmap.shape[1], p.top + p.bitmap.shape[0]] for p in pieces]
    return {
        "image": rng.integers(0, 256, (*size, 3), np.uint8),
        "boxes": np.array(boxes, np.float32),
        "labels": np.arange(count, dtype=np.int32),
        "trained": np.ones(count, bool),
        "masks": [*masks],
        "id": seed,
    }


def geometries(transform, size, count):
    return [transform.geometry(size, np.random.default_rng(seed)) for seed in range(count)]


def test_the_two_policies_of_the_original_are_drawn_alike():
    transform = TrainTransform()
    found = geometries(transform, (480, 640), 4000)
    crops = [each for each in found if len(each.steps) == 2]
    assert 0.47 < len(crops) / len(found) < 0.53
    assert 0.47 < np.mean([each.flip for each in found]) < 0.53
    plain = {each.size for each in found if len(each.steps) == 1}
    assert plain == {(short, int(640 * (short / 480) + 0.5)) for short in range(480, 801, 32)}
    assert {each.steps[0].size for each in crops} == {(400, 533), (500, 667), (600, 800)}
    heights = np.array([each.steps[0].window[2] for each in crops if each.steps[0].size[0] == 500])
    assert (heights.min(), heights.max()) == (384, 500)
    widths = np.array([each.steps[0].window[3] for each in crops if each.steps[0].size[0] == 500])
    assert (widths.min(), widths.max()) == (384, 600)
    for each in crops:
        (size, window), (last, whole) = each.steps
        assert 0 <= window[0] <= size[0] - window[2]
        assert 0 <= window[1] <= size[1] - window[3]
        assert whole == (0, 0, *last)
        short, long = min(window[2:]), max(window[2:])
        factors = [min(1333 / long, side / short) for side in range(480, 801, 32)]
        assert last in {tuple(int(side * factor + 0.5) for side in window[2:]) for factor in factors}


def test_the_long_side_limits_a_long_picture():
    assert {each.size for each in geometries(TrainTransform(crop=None), (100, 1000), 50)} == {(133, 1333)}


def test_a_crop_is_no_larger_than_a_small_side():
    found = geometries(TrainTransform(crop_sides=(300,)), (300, 500), 100)
    assert {each.steps[0].window[2] for each in found if len(each.steps) == 2} == {300}


@pytest.mark.parametrize("seed", range(6))
def test_picture_boxes_and_masks_follow_the_geometry(seed):
    """Against the same steps done one after the other, on whole pictures and whole bitmaps."""
    example, rng = scene(seed=seed), np.random.default_rng(seed)
    geometry = SMALL.geometry((50, 70), rng)
    found = SMALL(example, np.random.default_rng(seed))
    image, masks = example["image"], np.array(example["masks"])
    boxes, there = example["boxes"].astype(np.float64), np.ones(3, bool)
    if geometry.flip:
        image, masks = image[:, ::-1], masks[..., ::-1]
        boxes = np.stack([70 - boxes[:, 2], boxes[:, 1], 70 - boxes[:, 0], boxes[:, 3]], axis=-1)
    for (height, width), (top, left, rows, columns) in geometry.steps:
        before = image.shape[:2]
        image = resize_to(np.ascontiguousarray(image), (height, width))[top : top + rows, left : left + columns]
        places = [nearest_places(*sides) for sides in zip(before, (height, width), strict=True)]
        masks = masks[:, places[0]][:, :, places[1]][:, top : top + rows, left : left + columns]
        boxes = boxes * np.tile([width / before[1], height / before[0]], 2) - [left, top, left, top]
        boxes = np.clip(boxes, 0, [columns, rows, columns, rows])
        there &= (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    height, width = image.shape[:2]
    assert found["size"].tolist() == [height, width] == [*geometry.size]
    assert found["image"].shape[:2] in SMALL.canvases
    np.testing.assert_array_equal(found["image"][:height, :width], image)
    assert not found["image"][height:].any()
    assert not found["image"][:, width:].any()
    count = int(there.sum())
    assert found["valid"].tolist() == [True] * count + [False] * (4 - count)
    np.testing.assert_allclose(found["boxes"][:count], boxes[there], atol=1e-4)  # float32 of numbers up to 100
    assert not found["boxes"][count:].any()
    assert found["labels"][:count].tolist() == np.flatnonzero(there).tolist()
    again = from_bits(found, found["image"].shape[:2])
    np.testing.assert_array_equal(again[:count, :height, :width], masks[there])
    assert again[:count].sum() == masks[there].sum()


def test_six_seeds_hold_both_policies_and_both_sides():
    found = geometries(SMALL, (50, 70), 6)
    assert {len(each.steps) for each in found} == {1, 2}
    assert {each.flip for each in found} == {True, False}


def test_an_object_that_a_crop_leaves_out_is_dropped():
    geometry = Geometry((10, 20), False, (Step((20, 40), (0, 0, 20, 20)),))
    boxes, there = geometry.boxes(np.array([[0, 0, 12, 5], [10, 0, 20, 5], [9, 9, 30, 30]], np.float32))
    assert there.tolist() == [True, False, True]
    assert boxes[[0, 2]].tolist() == [[0, 0, 20, 10], [18, 18, 20, 20]]
    whole = Geometry((10, 20), False, (Step((10, 20), (0, 0, 10, 20)),))
    assert whole.boxes(np.array([[25, 0, 30, 5]], np.float32))[1].tolist() == [True]  # only a crop drops any


def test_the_canvas_is_known_before_the_picture_is_read():
    for seed in range(20):
        canvas = SMALL.canvas((50, 70), np.random.default_rng(seed))
        assert SMALL(scene(seed=seed), np.random.default_rng(seed))["image"].shape[:2] == canvas
    sizes = [(480, 640), (640, 480), (400, 1300), (500, 500)]
    found = {TrainTransform().canvas(size, np.random.default_rng(seed)) for size in sizes for seed in range(100)}
    assert found == {*CANVASES}


def test_an_example_is_a_function_of_the_rng():
    first, second = (SMALL(scene(), np.random.default_rng(7)) for _ in range(2))
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    assert pickle.loads(pickle.dumps(SMALL)) == SMALL


def test_what_is_not_trained_on_and_what_finds_no_room(caplog):
    example = scene(count=9)
    example["trained"][[0, 3]] = False
    transform = TrainTransform(
        (50,), 70, canvases=((64, 96), (96, 64)), crop=None, flip=False, objects=4, mask_bytes=9000
    )
    seen = set()
    for seed in range(30):
        found = transform(example, np.random.default_rng(seed))
        assert found["valid"].all()
        assert found["has_mask"].all()
        labels = found["labels"].tolist()
        assert labels == sorted({*labels})
        np.testing.assert_array_equal(found["boxes"], example["boxes"][labels])
        again = from_bits(found, (50, 70))
        np.testing.assert_array_equal(again, np.array(example["masks"])[labels])
        seen |= {*labels}
    assert seen == {*range(9)} - {0, 3}
    assert [record.getMessage() for record in caplog.records] == [
        "picture 0 has 7 objects, but there is room for 4: of this one and others so many are drawn at random "
        "(the option objects makes room)"
    ]


def test_data_without_masks_have_none():
    example = scene() | {"masks": None}
    plain = TrainTransform((32,), 64, canvases=((32, 64), (64, 32)), crop=None, masks=False)
    assert {*plain(example, np.random.default_rng(0))} == {"image", "size", "boxes", "labels", "valid", "id"}
    assert not SMALL(example, np.random.default_rng(0))["has_mask"].any()


def test_a_picture_without_objects(caplog):
    example = scene(count=0) | {"boxes": np.zeros((0, 4), np.float32), "masks": []}
    found = SMALL(example, np.random.default_rng(0))
    assert not found["valid"].any()
    assert found["boxes"].shape == (4, 4)


@pytest.mark.parametrize(
    ("size", "network", "canvas"),
    [
        ((480, 640), (800, 1067), (800, 1088)),
        ((427, 640), (800, 1199), (800, 1344)),
        ((640, 480), (1067, 800), (1344, 800)),
        ((100, 1000), (133, 1333), (800, 1344)),
        ((500, 500), (800, 800), (800, 1088)),
    ],
)
def test_the_size_of_an_evaluation(size, network, canvas):
    assert canvas_for(size, (1333, 800), CANVASES) == (network, canvas)
    assert canvas_for(size, (1333, 800), ())[1] == tuple(-(-side // 32) * 32 for side in network)


def test_a_picture_is_prepared():
    image = np.random.default_rng(0).integers(0, 256, (30, 41, 3), np.uint8)
    found = prepared(image, (80, 50), ((64, 96),))
    assert found["size"].tolist() == [50, 68]
    np.testing.assert_allclose(found["scale_factor"], [68 / 41, 50 / 30] * 2, rtol=1e-7)
    np.testing.assert_array_equal(found["image"][:50, :68], resize_to(image, (50, 68)))
    assert found["image"].shape == (64, 96, 3)
    assert not found["image"][50:].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"longest": 700}, "the longest side no shorter than the others"),
        ({"short_sides": ()}, r"short_sides=\(\)"),
        ({"crop": (600, 384)}, r"crop is \(600, 384\); expected the least and the most"),
        ({"objects": 0}, "objects is 0; expected 1 or more"),
        ({"canvases": ((800, 1344),)}, "holds a picture of 1333 rows and 800 columns"),
        ({"canvases": ((1344, 1350),)}, "must be \\(rows, columns\\), multiples of 32"),
    ],
)
def test_wrong_options_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        TrainTransform(**options)


def test_a_thousand_objects_in_a_picture():
    example = scene(size=(60, 90), count=1000)
    transform = TrainTransform((60,), 90, canvases=((64, 96), (96, 64)), crop=None, objects=1024, mask_bytes=2**17)
    found = transform(example, np.random.default_rng(0))
    assert found["valid"].sum() == found["has_mask"].sum() == 1000
    masks = np.array(example["masks"])
    again = from_bits(found, (60, 90))[:1000]
    assert (again == masks).all() or (again == masks[..., ::-1]).all()
