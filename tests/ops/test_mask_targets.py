"""Mask targets from packed, cropped bitmaps against the original's."""

import functools

import jax
import numpy as np
import pytest

from unireplknet_jax.ops.mask_targets import mask_targets


def packed(masks, cut):
    """The bits and crops of masks (g, h, w) bool, whole or cut to what is set; the bits are filled up to one length."""
    bits, crops, first = [], [], 0
    for mask in masks:
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        top, bottom = (rows[0], rows[-1] + 1) if cut and len(rows) else (0, 0 if cut else mask.shape[0])
        left, right = (columns[0], columns[-1] + 1) if cut and len(columns) else (0, 0 if cut else mask.shape[1])
        own = np.packbits(mask[top:bottom, left:right], axis=-1).ravel()
        bits.append(own)
        crops.append((first, top, left, bottom - top, right - left))
        first += len(own)
    most = np.packbits(masks, axis=-1).size
    return np.pad(np.concatenate(bits), (0, most - first)), np.array(crops, np.int32)


@pytest.fixture(scope="module")
def case(goldens):
    arrays = np.load(goldens / "dense" / "boxes.npz")
    masks = arrays["mtarget_gt_masks"].astype(bool)
    return masks, arrays["mtarget_boxes"], arrays["mtarget_gt_index"], arrays["mtarget_out28"].astype(bool)


targets = functools.partial(jax.jit, static_argnums=5)(mask_targets)


@pytest.mark.parametrize("cut", [False, True])
def test_targets_are_the_originals(case, cut):
    masks, boxes, owner, expected = case
    bits, crops = packed(masks, cut)
    np.testing.assert_array_equal(targets(bits, crops, boxes, owner, np.array(masks.shape[1:]), 28), expected)


def test_half_of_a_bin_is_enough():
    bits = np.packbits(np.array([[1, 0]], bool), axis=1).ravel()
    crops, rois = np.array([[0, 0, 0, 1, 2]], np.int32), np.array([[0, 0, 2, 1], [0, 0, 2, 1.5]], np.float32)
    found = np.asarray(targets(bits, crops, rois, np.zeros(2, int), np.array([2, 2]), 1))
    assert found.ravel().tolist() == [True, False]  # a half and a quarter


@pytest.mark.usefixtures("quick_compilation")
def test_large_masks_are_read_in_windows():
    """A quarter of a disc of 3 windows' radius, on several windows' borders, seen by regions of every kind."""
    size = np.array([210, 331])
    y, x = np.mgrid[: size[0], : size[1]]
    masks = np.stack([(y - 20) ** 2 + (x - 37) ** 2 < 190**2, (x > 300) & (y > 100), np.zeros(size, bool)])
    rois = np.array(
        [
            [0, 0, 331, 210],
            [30.5, 11.25, 240, 209],
            [250, 90, 900, 900],
            [5, 7, 9, 8.5],
            [0, 0, 0, 0],
            [0, 0, 200, 200],
        ],
        np.float32,
    )
    owner = np.array([0, 0, 1, 0, 1, 2])
    whole, cut = (targets(*packed(masks, kind), rois, owner, size, 6) for kind in (False, True))
    np.testing.assert_array_equal(whole, cut)
    for roi, number, found in zip(np.clip(rois, 0, size[[1, 0, 1, 0]]), owner, np.asarray(whole), strict=True):
        x1, y1, x2, y2 = roi
        mean = np.zeros((6, 6))
        for i, j in np.ndindex(6, 6):  # many bilinear samples nearly give the mean of the bin
            rows, columns = (
                np.clip(low + (place + (np.arange(400) + 0.5) / 400) * (high - low) / 6 - 0.5, 0, length - 1)
                for low, high, place, length in ((y1, y2, i, size[0]), (x1, x2, j, size[1]))
            )
            mean[i, j] = masks[number][np.ix_(rows.round().astype(int), columns.round().astype(int))].mean()
        sure = np.abs(mean - 0.5) > 0.2
        np.testing.assert_array_equal(found[sure], mean[sure] > 0.5)
        assert sure.mean() > 0.7


@pytest.mark.usefixtures("quick_compilation")
def test_pictures_of_other_sizes_and_without_instances(case):
    masks, boxes, owner, expected = case
    bits, crops = packed(masks, True)
    several = jax.jit(jax.vmap(lambda *own: mask_targets(*own, owner, np.array(masks.shape[1:]))))
    found = several(np.stack([bits, 0 * bits]), np.stack([crops, 0 * crops]), np.stack([boxes, 0 * boxes]))
    np.testing.assert_array_equal(found, np.stack([expected, np.zeros_like(expected)]))
    assert not np.any(targets(bits[:0], crops[:0], boxes, owner, np.array(masks.shape[1:]), 28))
    assert mask_targets(bits, crops, boxes[:0], owner[:0], np.array(masks.shape[1:])).shape == (0, 28, 28)
