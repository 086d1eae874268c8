"""Synthetic scenes: made once and for all, with masks that are exact."""

import pickle
import zlib

import numpy as np
import pytest
from fashion_files import write_fashion

from unireplknet_jax.data.pictures import box_sets, scenes
from unireplknet_jax.data.pictures.instance_masks import bitmaps
from unireplknet_jax.data.pictures.mask_sets import open_source


@pytest.fixture
def fashion(tmp_path):
    write_fashion(tmp_path, 40, "train")
    write_fashion(tmp_path, 30)
    scenes._items.cache_clear()
    return str(tmp_path)


def opened(folder, split="train"):
    return open_source({"name": "scenes", "dir": folder}, split)


def test_scenes_have_eight_classes(fashion):
    train, test = opened(fashion), opened(fashion, "test")
    assert (len(train), len(test)) == (4000, 400)
    assert train.labels[:3] == ("background", "top", "trousers")
    assert len(train.labels) == len({*train.colours}) == len(train.values) == 8
    assert train.sizes()[:2] == [(128, 128)] * 2
    seen = np.zeros(8, int)
    for index in range(40):
        example = train[index]
        assert (example["image"].shape, example["image"].dtype, example["id"]) == ((128, 128, 3), np.uint8, index)
        assert (example["label_map"].shape, example["label_map"].dtype) == ((128, 128), np.int16)
        seen += np.bincount(example["label_map"].ravel(), minlength=8)
    assert (seen > 0).all()
    assert 0.5 < seen[0] / seen.sum() < 0.9
    with pytest.raises(IndexError):
        train[4000]


def test_a_scene_is_a_function_of_its_number(fashion):
    source = opened(fashion)
    copy = pickle.loads(pickle.dumps(source))
    for name in ("image", "label_map"):
        np.testing.assert_array_equal(source[3][name], copy[3][name])
        assert (source[3][name] != source[4][name]).any()
    other = opened(fashion, "test")
    assert (source[3]["image"] != other[3]["image"]).any()
    classes = [[{*np.unique(each[index]["label_map"])} for index in range(8)] for each in (source, other)]
    assert sum(one != two for one, two in zip(*classes, strict=True)) > 4  # not the items alone are others


def test_the_order_of_fashion_mnist_does_not_matter(fashion, monkeypatch):
    before, files = opened(fashion)[5]["image"], scenes.open_fashion_mnist("train", scenes.Path(fashion))

    class Turned:
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            return files[len(files) - 1 - range(len(files))[index]]

    scenes._items.cache_clear()
    monkeypatch.setattr(scenes, "open_fashion_mnist", lambda split, folder: Turned())
    np.testing.assert_array_equal(opened(fashion)[5]["image"], before)


def test_shirts_and_coats_are_one_class(fashion):
    source = opened(fashion)
    assert [len(members) for members in source.members] == [16, 4, 4, 4, 4, 4, 4]
    assert len({*np.concatenate(source.members).tolist()}) == 40


def test_the_mask_is_where_the_item_was_drawn(fashion):
    source = opened(fashion)
    plain = scenes.Scenes("train", source.items, source.members, source.photographs)
    ground = plain._ground(np.random.default_rng([0, 7]))
    example = source[7]
    changed = (example["image"] != ground).any(-1)
    assert not changed[example["label_map"] == 0].any()
    assert changed[example["label_map"] != 0].mean() > 0.99  # a pixel of an item may be as the ground by chance


def test_what_is_inside_an_item_belongs_to_it():
    item = np.zeros((28, 28), np.uint8)
    item[4:24, 8:20] = 200
    item[10:14, 12:16] = 0  # a dark print
    _, inside = scenes._item(item, 56, np.random.default_rng(0))
    assert inside[24, 28]
    assert not inside[24, 4]
    assert inside.sum() == 40 * 24


def test_squares_share_little():
    for seed in range(100):
        squares = scenes._places(np.random.default_rng(seed))
        assert 1 <= len(squares) <= 4
        for number, one in enumerate(squares):
            assert min(one[:2]) >= 0
            assert max(one[0], one[1]) + one[2] <= 128
            assert all(scenes._shared(one, other) <= 0.15 for other in squares[:number])
    assert scenes._shared((0, 0, 40), (20, 30, 40)) == 20 * 10 / 1600


def test_grounds_of_the_test_are_other_parts(fashion):
    train, test = opened(fashion).photographs, opened(fashion, "test").photographs
    assert [each.shape for each in (*train, *test)] == [(427, 427, 3)] * 2 + [(427, 213, 3)] * 2
    with pytest.raises(ValueError, match="scenes has no split 'val'; expected one of train, test"):
        opened(fashion, "val")


def test_scenes_of_classes_stay_as_they_were(fashion):
    """A published number was measured on them."""
    example = opened(fashion)[11]
    found = [zlib.crc32(example[name].tobytes()) for name in ("image", "label_map")]
    assert found == [2793909317, 3887934830]


def boxes(folder, split="train"):
    return box_sets.open_source({"name": "scenes", "dir": folder}, split)


def test_scenes_with_boxes_have_overlapping_items(fashion):
    train, test = boxes(fashion), boxes(fashion, "test")
    assert (len(train), len(test), train.labels, train.category_ids) == (4000, 400, scenes.LABELS[1:], (*range(1, 8),))
    assert (train.has_masks, train.most_objects, train.contents()) == (True, 6, {})
    assert train.sizes()[:2] == [(128, 128)] * 2
    assert (train.sides() == 128).all()
    assert box_sets.for_training(train, {}) is train
    labels, counts, overlapping = set(), set(), 0
    for index in range(60):
        example = train[index]
        assert (example["image"].shape, example["id"]) == ((128, 128, 3), index)
        assert example["trained"].all()
        masks = bitmaps(example)
        assert masks.sum(axis=0).max() == 1  # no pixel is of two items
        for box, mask, area in zip(example["boxes"], masks, example["areas"], strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            np.testing.assert_array_equal(box, [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            assert area == mask.sum()
        low, high = (np.array([example["boxes"][:, side] for side in sides]) for sides in ((0, 1), (2, 3)))
        shared = np.minimum(high[:, None], high[:, :, None]) - np.maximum(low[:, None], low[:, :, None])
        overlapping += bool((np.clip(shared, 0, None).prod(axis=0) > 0).sum() > len(masks))
        labels |= {*example["labels"].tolist()}
        counts.add(len(masks))
    assert labels == {*range(7)}
    assert counts == {3, 4, 5, 6}
    assert overlapping > 50
    with pytest.raises(IndexError):
        train[4000]


def test_an_item_covers_those_that_were_drawn_before_it(fashion, monkeypatch):
    def whole_square(item, side, rng):
        return np.full((side, side, 3), side, np.uint8), np.ones((side, side), bool)

    monkeypatch.setattr(scenes, "_item", whole_square)
    monkeypatch.setattr(scenes, "_places", lambda rng, *args: [(5, 9, 30), (10, 10, 40), (10, 10, 40), (30, 36, 64)])
    example = boxes(fashion)[5]
    assert example["boxes"].tolist() == [[9, 5, 39, 35], [10, 10, 50, 50], [36, 30, 100, 94]]
    assert example["areas"].tolist() == [900 - 25 * 29, 1600 - 20 * 14, 64 * 64]
    for mask, side in zip(bitmaps(example), (30, 40, 64), strict=True):
        assert (example["image"][mask] == side).all()


def test_a_scene_with_boxes_is_a_function_of_its_number(fashion):
    source = boxes(fashion)
    copy = pickle.loads(pickle.dumps(source))
    for name in ("image", "boxes", "labels"):
        np.testing.assert_array_equal(source[3][name], copy[3][name])
    assert (source[3]["image"] != source[4]["image"]).any()
    assert (source[3]["image"] != boxes(fashion, "test")[3]["image"]).any()
