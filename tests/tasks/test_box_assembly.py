"""From what a network says of the views of a picture to its objects."""

import numpy as np
import pytest

from unireplknet_jax.tasks.box_assembly import Found, in_picture, merged, pasted


def found(boxes, scores, labels=None, masks=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.zeros(len(boxes), int) if labels is None else np.array(labels)
    return Found(boxes, np.array(scores, np.float32), labels, masks)


def test_masks_are_pasted_as_the_original_does_it(goldens):
    with np.load(goldens / "dense" / "boxes.npz") as file:
        height, width = file["paste_hw"].tolist()
        for probabilities, box, expected in zip(
            file["paste_prob"].reshape(-1, 28, 28), file["paste_boxes"], file["paste_masks"], strict=True
        ):
            piece, whole = pasted(probabilities, box, (height, width)), np.zeros((height, width), bool)
            rows, columns = piece.bitmap.shape
            whole[piece.top : piece.top + rows, piece.left : piece.left + columns] = piece.bitmap
            np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize("box", [(-50, 3, -20, 9), (3, 40, 9, 60), (5, 5, 5, 5)])
def test_a_box_outside_the_picture_or_without_an_area_has_an_empty_mask(box):
    assert not pasted(np.ones((28, 28), np.float32), np.array(box, np.float32), (20, 30)).bitmap.any()


def test_a_view_is_turned_back():
    masks = np.arange(2 * 9, dtype=np.float32).reshape(2, 3, 3)
    seen = found([[2, 4, 6, 8], [0, 0, 10, 20]], [0.9, 0.8], masks=masks)
    scale = np.array([2, 4, 2, 4], np.float32)
    assert in_picture(seen, scale).boxes.tolist() == [[1, 1, 3, 2], [0, 0, 5, 5]]
    assert in_picture(seen, scale, (8, 6)).boxes.tolist() == [[4, 3, 6, 4], [3, 2, 8, 7]]
    turned = in_picture(seen, scale, (4, 2), mirrored=12)
    assert turned.boxes.tolist() == [[2, 2, 4, 3], [0, 1, 5, 6]]
    np.testing.assert_array_equal(turned.masks, masks[:, :, ::-1])


def test_of_views_the_best_detection_of_an_object_stays():
    first = found([[0, 0, 10, 10], [50, 50, 60, 60]], [0.6, 0.5], [0, 0])
    second = found([[0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 55]], [0.9, 0.8, 0.4], [0, 1, 0])
    whole = merged([first, second], 10)
    assert whole.scores.tolist() == pytest.approx([0.9, 0.8, 0.5, 0.4])  # an IoU of exactly a half stays
    assert whole.labels.tolist() == [0, 1, 0, 0]
    assert merged([first, second], 2).scores.tolist() == pytest.approx([0.9, 0.8])
    assert merged([first], 1).scores.tolist() == pytest.approx([0.6])


def test_of_windows_a_part_that_the_border_has_cut_off_goes():
    left = found([[80, 0, 100, 20]], [0.9])  # the window ends at 100
    right = found([[80, 0, 150, 20], [82, 2, 90, 10]], [0.8, 0.7])
    assert merged([left, right], 10).scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert merged([right, left], 10, windows=True).scores.tolist() == pytest.approx([0.9])
    inside = found([[80, 0, 150, 20], [82, 2, 90, 10]], [0.8, 0.7])
    assert merged([inside, found([], [])], 10, windows=True).scores.tolist() == pytest.approx([0.8, 0.7])
