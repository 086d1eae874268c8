"""Masks of objects: run lengths, polygons, orientation, and bits."""

import io
import sys

import numpy as np
import pytest
from box_files import from_bits
from PIL import Image, ImageOps
from pycocotools import mask as coco

from unireplknet_jax.data.pictures.instance_masks import (
    Piece,
    area_of,
    as_bits,
    bitmap,
    bitmaps,
    cropped,
    piece_runs,
    pieces,
    run_lengths,
    unpacked,
    upright_bitmap,
    upright_points,
)


def random_bitmaps(count=60):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield rng.random(rng.integers(1, 40, 2)) < rng.choice([0, 0.02, 0.5, 0.98, 1])


def test_run_lengths_are_those_of_pycocotools_and_back():
    for found in random_bitmaps():
        runs = run_lengths(found)
        packed = coco.encode(np.asfortranarray(found, np.uint8))
        assert coco.frPyObjects(runs, *found.shape)["counts"] == packed["counts"]
        assert unpacked(packed["counts"]).tolist() == runs["counts"]
        for mask in (runs, packed, {"size": packed["size"], "counts": packed["counts"].decode()}):
            np.testing.assert_array_equal(bitmap(mask, found.shape), found)


def test_polygons_are_filled_as_pycocotools_does_it():
    rng = np.random.default_rng(1)
    for _ in range(20):
        size = tuple(rng.integers(5, 40, 2).tolist())
        polygons = [rng.uniform(-10, 50, 2 * rng.integers(3, 7)).tolist() for _ in range(rng.integers(1, 3))]
        expected = np.any([coco.decode(each) for each in coco.frPyObjects(polygons, *size)], axis=0)
        np.testing.assert_array_equal(bitmap(polygons, size), expected)


def test_four_numbers_are_no_polygon_and_no_box_either():
    with pytest.raises(ValueError, match="a mask has no polygon of three corners or more"):
        bitmap([[1.0, 2.0, 3.0, 4.0]], (10, 10))
    both = bitmap([[1.0, 2.0, 3.0, 4.0], [0, 0, 4, 0, 4, 4, 0, 4]], (10, 10))
    assert both.sum() == 16


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"size": [3, 3], "counts": [4, 4]}, r"a mask has run lengths over 8 pixels, but the size \[3, 3\]"),
        ({"size": [3, 3], "counts": [10, -1]}, "a mask has run lengths below 0, such as -1"),
        ({"size": [3, 3], "counts": ""}, "which is no text of pycocotools"),  # pycocotools reads what lies in memory
        ({"size": [3, 3], "counts": "oooooooooooo0"}, "which is no text of pycocotools"),
        ({"size": [3, 3], "counts": "é"}, "which is no text of pycocotools"),
        ({"size": [3, 3], "counts": "o"}, "which is no text of pycocotools"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "a mask has 1000000x1000000 pixels and its picture 3x3"),
        ({"counts": [9]}, "a mask has other run lengths than"),
        ({"size": [3, 4], "counts": [12]}, "a mask has 4x3 pixels and its picture 3x3"),
        ([[0, 0, 1, 1, float("inf"), 3]], "a corner that is no point near the picture"),
        ("text", "a mask is 'text'; expected polygons"),
        (np.zeros((2, 2), bool), "a mask has 2x2 pixels and its picture 3x3"),
    ],
)
def test_a_mask_that_is_none_is_one_sentence(mask, message):
    with pytest.raises(ValueError, match=message):
        bitmap(mask, (3, 3))


def test_polygons_without_pycocotools_are_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(
        ImportError, match=r"need pycocotools, which is missing: pip install 'unireplknet_jax\[boxes\]'"
    ):
        bitmap([[0, 0, 4, 0, 4, 4]], (5, 5))
    assert bitmap({"size": [1, 2], "counts": [1, 1]}, (1, 2)).tolist() == [[False, True]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_bitmaps_and_points_turn_as_pictures_do(orientation):
    stored = np.arange(12, dtype=np.uint8).reshape(3, 4)
    exif, file = Image.Exif(), io.BytesIO()
    exif[274] = orientation
    Image.fromarray(stored).save(file, "PNG", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    np.testing.assert_array_equal(upright_bitmap(stored, orientation), upright)
    rows, columns = np.indices(stored.shape)
    middles = np.stack([columns, rows], axis=-1).reshape(-1, 2) + 0.5
    x, y = upright_points(middles, upright.shape, orientation).astype(int).T
    np.testing.assert_array_equal(upright[y, x], stored.ravel())


def test_the_area_of_polygons():
    assert area_of([[0, 0, 4, 0, 4, 3], [10, 10, 10, 12, 12, 12, 12, 10]]) == 6 + 4


def test_pieces_are_the_bitmaps_without_what_is_empty():
    found = np.zeros((5, 6), bool)
    found[1:3, 2:5] = [[1, 0, 1], [0, 1, 0]]
    example = {"image": np.zeros((5, 6, 3), np.uint8), "masks": [found, None, ~found & False]}
    (first, *others) = pieces(example)
    assert (first.top, first.left, first.bitmap.tolist()) == (1, 2, found[1:3, 2:5].tolist())
    assert others == [None, None]
    np.testing.assert_array_equal(bitmaps(example)[0], found)


def scattered(canvas, count, seed=0):
    """Blobs anywhere in a canvas, some of them at its borders, as bitmaps of the canvas."""
    rng = np.random.default_rng(seed)
    found = np.zeros((count, *canvas), bool)
    for each in found:
        top, left = (int(rng.integers(0, side)) for side in canvas)
        part = each[top : top + int(rng.integers(1, 90)), left : left + int(rng.integers(1, 90))]
        part[:] = rng.random(part.shape) < rng.choice([0.9, 1])
    return found


def test_bits_are_the_bitmaps_again():
    canvas = (96, 160)
    found = scattered(canvas, 12)
    bits = as_bits([*map(cropped, found[:10]), None, cropped(found[11])], 14, 16_000)
    assert {name: (each.shape, each.dtype) for name, each in bits.items()} == {
        "mask_bits": ((16_000,), np.uint8),
        "mask_crops": ((14, 5), np.int32),
        "has_mask": ((14,), bool),
    }
    again = from_bits(bits, canvas)
    np.testing.assert_array_equal(again[:10], found[:10])
    np.testing.assert_array_equal(again[11], found[11])
    assert bits["has_mask"].tolist() == [True] * 10 + [False, True, False, False]


def test_an_object_whose_bits_find_no_room_has_no_mask():
    found = [Piece(1, 1, np.ones((40, 40), bool)), Piece(1, 1, np.ones((5, 5), bool))]
    bits = as_bits([*found, found[0], found[1]], 4, 5 * 40 + 5 + 5)
    assert bits["has_mask"].tolist() == [True, True, False, True]
    assert from_bits(bits, (64, 64)).sum(axis=(1, 2)).tolist() == [1600, 25, 0, 25]


def test_the_runs_of_a_part_are_those_of_the_whole():
    rng = np.random.default_rng(3)
    for height, width in ((7, 9), (1, 12), (5, 1)):
        for _ in range(40):
            top, left = (int(rng.integers(0, side)) for side in (height, width))
            part = rng.random((int(rng.integers(1, height - top + 1)), int(rng.integers(1, width - left + 1)))) < 0.7
            whole = np.zeros((height, width), bool)
            whole[top : top + part.shape[0], left : left + part.shape[1]] = part
            assert piece_runs(Piece(top, left, part), (height, width)) == run_lengths(whole)
    nothing = piece_runs(Piece(0, 0, np.zeros((0, 0), bool)), (4, 5))
    assert nothing == run_lengths(np.zeros((4, 5), bool)) == {"size": [4, 5], "counts": [20]}
    assert piece_runs(Piece(0, 0, np.ones((4, 5), bool)), (4, 5)) == run_lengths(np.ones((4, 5), bool))
