"""Pictures with boxes in memory, and parts of large ones."""

import numpy as np
import pytest

from unireplknet_jax.data.pictures.box_annotations import Thing
from unireplknet_jax.data.pictures.box_arrays import BoxArrays, parts, with_box, with_mask
from unireplknet_jax.data.pictures.box_sets import for_training
from unireplknet_jax.data.pictures.instance_masks import Piece, bitmaps, pieces

TALL = Piece(2, 5, np.tri(10, 8, dtype=bool))  # 44 pixels, the widest row the last
FLAT = Piece(20, 1, np.ones((4, 6), bool))


def arrays(things, size=(40, 30), **others):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for _ in things]
    return BoxArrays(images, things, tuple(range(7, 7 + len(things))), ("leaf", "root"), "these", **others)


def test_an_example_has_what_those_of_files_have():
    source = arrays([[with_mask(TALL, 1), with_mask(FLAT, 0)], []])
    assert (len(source), source.labels, source.category_ids) == (2, ("leaf", "root"), (1, 2))
    assert (source.has_masks, source.most_objects, source.contents()) == (True, 2, {})
    assert (source.sizes(), source.sides().tolist()) == ([(40, 30)] * 2, [30, 30])
    example = source[0]
    kinds = {name: (example[name].dtype, example[name].tolist()) for name in ("boxes", "unrounded", "labels", "areas")}
    assert kinds == {
        "boxes": (np.float32, [[5, 2, 13, 12], [1, 20, 7, 24]]),
        "unrounded": (np.float64, [[5, 2, 13, 12], [1, 20, 7, 24]]),
        "labels": (np.int32, [1, 0]),
        "areas": (np.float64, [52, 24]),
    }
    assert (example["crowd"].tolist(), example["trained"].tolist(), example["id"]) == ([False] * 2, [True] * 2, 7)
    found = bitmaps(example)
    np.testing.assert_array_equal(found[0, 2:12, 5:13], TALL.bitmap)
    assert found.sum(axis=(1, 2)).tolist() == [52, 24]
    assert [*pieces(example)] == [TALL, FLAT]
    example["image"][:] = 0
    assert source[0]["image"].any()
    empty = source[-1]
    assert (empty["id"], empty["masks"], empty["boxes"].shape, empty["areas"].shape) == (8, [], (0, 4), (0,))
    with pytest.raises(IndexError):
        source[2]


def test_boxes_alone_have_no_masks_and_what_is_not_trained_on_is_said():
    things = [with_box((1.0, 2.0, 4.0, 8.0), 0), Thing((1.0, 2.0, 4.0, 8.0), 0, crowd=True, area=18.0)]
    source = arrays([[*things, Thing((0.0, 0.0, 9.0, 9.0), 1, ignored=True, area=81.0)]])
    example = source[0]
    assert (source.has_masks, example["masks"]) == (False, None)
    assert example["areas"].tolist() == [18, 18, 81]
    assert example["crowd"].tolist() == [False, True, False]
    assert example["trained"].tolist() == [True, False, False]


def test_training_leaves_out_pictures_without_objects_and_small_ones():
    source = arrays([[with_mask(FLAT, 0)], [], [with_mask(TALL, 0)]])
    assert source.filled().tolist() == [True, False, True]
    assert [example["id"] for example in map(for_training(source, {"least_side": 30}).__getitem__, range(2))] == [7, 9]
    assert for_training(source, {"least_side": 30, "keep_empty": True}) is source
    with pytest.raises(ValueError, match="these has no picture with an object and a side of 31 pixels"):
        for_training(source, {"least_side": 31})


def test_parts_cover_a_picture_and_end_with_it():
    image = np.arange(50 * 70 * 3).reshape(50, 70, 3)
    found = [part for part, _ in parts(image, [], 20, 12)]
    starts = [(part[0, 0, 0] // 3 // 70, part[0, 0, 0] // 3 % 70) for part in found]
    rows, columns = sorted({row for row, _ in starts}), sorted({column for _, column in starts})
    assert starts == [(row, column) for row in rows for column in columns]
    assert (rows, columns) == ([0, 10, 20, 30], [0, 10, 20, 30, 40, 50])
    for (row, column), part in zip(starts, found, strict=True):
        np.testing.assert_array_equal(part, image[row : row + 20, column : column + 20])
    ((whole, _),) = parts(image, [], 80, 12)
    assert whole is not None
    assert whole.shape == (50, 70, 3)


def test_a_part_has_the_boxes_of_which_it_has_a_quarter():
    things = [with_box(box, 1) for box in ((2.0, 3.0, 10.0, 9.0), (16.0, 0.0, 24.0, 4.0), (25.0, 10.0, 45.0, 30.0))]
    found = [[(*thing.box, thing.area) for thing in own] for _, own in parts(np.zeros((20, 40, 3)), things, 20, 20)]
    assert found == [[(2, 3, 10, 9, 48), (16, 0, 20, 4, 16)], [(0, 0, 4, 4, 16), (5, 10, 20, 20, 150)]]
    assert {thing.label for _, own in parts(np.zeros((20, 40, 3)), things, 20, 20) for thing in own} == {1}
    less = [with_box((14.0, 0.0, 22.0, 4.0), 0), with_box((13.0, 0.0, 22.0, 4.0), 0)]
    counts = [len(own) for _, own in parts(np.zeros((20, 40, 3)), less, 20, 20)]
    assert counts == [2, 1]  # of the first a quarter is beyond the border, of the second less


def test_masks_are_cut_as_their_pictures_are():
    rng = np.random.default_rng(3)
    masks = np.zeros((5, 50, 70), bool)
    for mask in masks:
        top, left = rng.integers(0, 35), rng.integers(0, 50)
        mask[top : top + 15, left : left + 20] = rng.random((15, 20)) < 0.5
    things = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        piece = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        things.append(with_mask(Piece(int(rows[0]), int(columns[0]), piece), len(things)))
    image = np.broadcast_to(np.arange(50 * 70).reshape(50, 70, 1), (50, 70, 3))
    seen = 0
    for part, own in parts(image, things, 24, 15):
        top, left = divmod(int(part[0, 0, 0]), 70)
        cut = masks[:, top : top + 24, left : left + 24]
        shares = cut.sum(axis=(1, 2)) / masks.sum(axis=(1, 2))
        assert [thing.label for thing in own] == np.flatnonzero(shares >= 0.25).tolist()
        found = bitmaps({"image": part, "masks": [thing.mask for thing in own]})
        np.testing.assert_array_equal(found, cut[shares >= 0.25])
        for thing, mask in zip(own, found, strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert thing.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            assert thing.area == mask.sum()
        seen += len(own)
    assert seen > 10
