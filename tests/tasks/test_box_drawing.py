"""Boxes, masks and names over a picture, at their places whatever its size."""

import numpy as np

from unireplknet_jax.data.pictures.instance_masks import Piece
from unireplknet_jax.data.pictures.mask_classes import distinct_colours
from unireplknet_jax.tasks.box_drawing import with_objects
from unireplknet_jax.tasks.drawing import LINE

FIRST, SECOND = map(np.array, distinct_colours(2))


def test_boxes_and_masks_lie_where_they_belong():
    picture = np.full((100, 200, 3), 100, np.uint8)
    mask = Piece(60, 20, np.ones((20, 40), bool))
    boxes = np.array([[20, 60, 60, 80], [100, 40, 180, 90]], np.float32)
    drawn = with_objects(picture, boxes, [1, 0], ["", ""], "a.jpg", [mask, None], size=400)
    assert drawn.size == (400, 200 + LINE + 6)
    pixels = np.asarray(drawn).astype(int)
    np.testing.assert_array_equal(pixels[140, 40], SECOND)  # the left side of the first box
    np.testing.assert_array_equal(pixels[80, 300], FIRST)  # the upper one of the second
    inside = np.rint(0.55 * 100 + 0.45 * SECOND)
    np.testing.assert_allclose(pixels[150, 100], inside, atol=1)
    np.testing.assert_array_equal(pixels[130, 250], [100] * 3)
    np.testing.assert_array_equal(pixels[20, 20], [100] * 3)


def test_a_name_stays_inside_of_the_picture():
    picture = np.full((100, 100, 1), 100, np.uint8)
    boxes = np.array([[90, 1, 99, 20], [-10, -5, 3, 2]], np.float32)
    drawn = with_objects(picture, boxes, [0, 1], ["a name of many letters", "x"], "p", size=100)
    plain = with_objects(picture, boxes, [0, 1], ["", ""], "p", size=100)
    assert drawn.size == plain.size
    assert (np.asarray(drawn)[2 : LINE - 4, 60:98] == 255).mean() > 0.3


def test_the_first_object_lies_on_top():
    """It is the surest one; its mask, its box and its name hide those of others at the same place."""
    picture = np.full((100, 100, 3), 100, np.uint8)
    mask, box = Piece(40, 40, np.ones((20, 20), bool)), np.array([[40, 40, 60, 60]], np.float32)
    alone, both = (
        np.asarray(with_objects(picture, box[[0] * n], [1, 0][:n], ["ab", "cd"][:n], "p", [mask] * n, size=100))
        for n in (1, 2)
    )
    np.testing.assert_array_equal(both[40, 40:60], alone[40, 40:60])
    np.testing.assert_array_equal(both[10:38], alone[10:38])
    below, above = FIRST, SECOND
    expected = 0.55 * (0.55 * 100 + 0.45 * below) + 0.45 * above
    np.testing.assert_allclose(both[50, 50], expected, atol=1)


def test_a_box_that_is_turned_over_is_passed_over():
    picture = np.full((50, 50, 3), 100, np.uint8)
    drawn = with_objects(picture, np.array([[40, 40, 20, 45]], np.float32), [0], [""], "p", size=50)
    assert (np.asarray(drawn)[20:38, 22:38] == 100).all()
