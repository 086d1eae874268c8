"""Assignment of true boxes against the original's and against a plain loop; the draw of samples by its rules."""

import functools

import jax
import numpy as np
import pytest

from unireplknet_jax.ops.assignment import IGNORED, NEGATIVE, assign, sample, with_truth
from unireplknet_jax.ops.boxes import iou


@pytest.fixture(scope="module")
def case(goldens):
    return np.load(goldens / "dense" / "boxes.npz")


answer = jax.jit(assign)


@pytest.mark.parametrize(
    ("name", "rule"), [("rpn", (0.3, 0.7, 0.3)), *((f"rcnn{i}", (0.5 + i / 10,) * 2) for i in range(3))]
)
def test_answers_are_the_originals(case, name, rule):
    found = answer(case["assign_boxes"], case["assign_gt"], *rule)
    np.testing.assert_array_equal(found.truth, case[f"assign_{name}"])
    np.testing.assert_array_equal(found.best, case["assign_max_iou"])


overlaps_of = jax.jit(iou)


def by_a_loop(boxes, truth, negative_below, positive_from, low_quality_from):
    """The rules one after the other, on the matrix of all overlaps."""
    overlaps = np.asarray(overlaps_of(truth, boxes))
    answers = np.full(len(boxes), IGNORED)
    best = overlaps.max(axis=0, initial=0)
    answers[best < negative_below] = NEGATIVE
    for box in np.flatnonzero(best >= positive_from):
        answers[box] = overlaps[:, box].argmax() + 1
    for number, own in enumerate(overlaps):
        if low_quality_from is not None and own.max() >= low_quality_from:
            answers[own == own.max()] = number + 1
    return answers


@pytest.mark.parametrize("low_quality_from", [0.3, None])
@pytest.mark.parametrize("count", [0, 3, 60])
def test_any_number_of_true_boxes_in_any_padding(count, low_quality_from):
    """On a grid of few places, so that equal overlaps abound; more true boxes than anchors; none."""
    rng = np.random.default_rng(count)
    truth, boxes = (rng.integers(0, 4, (n, 4)).astype(np.float32) for n in (count, 40))
    for each in (truth, boxes):
        each[:, 2:] += each[:, :2]  # some have no area
    rule = 0.3, 0.6, low_quality_from
    expected = by_a_loop(boxes, truth, *rule)
    # Padding that would win, were it not masked.
    all_truth, all_boxes = np.concatenate([boxes[::4], truth]), np.concatenate([truth, truth, boxes])
    truth_valid, valid = np.arange(10 + count) >= 10, np.arange(2 * count + 40) >= 2 * count
    found = answer(all_boxes, all_truth, *rule, truth_valid, valid)
    answers = np.asarray(found.truth)
    np.testing.assert_array_equal(answers[2 * count :], np.where(expected > 0, expected + 10, expected))
    np.testing.assert_array_equal(answers[: 2 * count], IGNORED)
    if count == 0:
        assert set(expected) == {NEGATIVE}
    if count == 60 and low_quality_from is not None:
        assert len(set(expected)) > 10


def test_overlaps_that_equal_a_limit():
    """From a limit on a box is positive, and below one negative; of these boxes the overlap is exactly a half."""
    boxes, truth = np.array([[0, 0, 2, 1], [0, 0, 4, 1]], np.float32), np.array([[0, 0, 1, 1]], np.float32)
    assert answer(boxes, truth, 0.5, 0.5).truth.tolist() == [1, NEGATIVE]
    assert answer(boxes, truth, 0.5, 0.75).truth.tolist() == [IGNORED, NEGATIVE]
    assert answer(boxes, truth, 0.25, 0.75, 0.5).truth.tolist() == [1, IGNORED]


def test_of_several_true_boxes_the_last_one_gets_a_box_of_low_quality():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    truth = np.array([[0, 0, 10, 9], [0, 0, 10, 4]], np.float32)
    np.testing.assert_array_equal(answer(boxes, truth, 0.3, 0.7, 0.3).truth, [2, 2, 0])
    np.testing.assert_array_equal(answer(boxes, truth, 0.3, 0.7, 0.5).truth, [1, 1, 0])
    np.testing.assert_array_equal(answer(boxes, truth[1:], 0.3, 0.7).truth, [IGNORED, IGNORED, 0])


# The draw.

ASSIGNED = np.random.default_rng(0).permutation([*range(1, 31)] + [NEGATIVE] * 50 + [IGNORED] * 20).astype(np.int32)
draw = functools.partial(jax.jit, static_argnums=(2, 3))(sample)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    ("count", "most", "positives", "negatives"),
    [(40, 10, 10, 30), (40, 40, 30, 10), (100, 25, 25, 50), (200, 50, 30, 50), (8, 16, 8, 0)],
)
def test_a_draw_has_the_numbers_that_the_rules_give(count, most, positives, negatives):
    found = jax.tree.map(np.asarray, draw(ASSIGNED, jax.random.key(0), count, most))
    place = np.arange(count)
    np.testing.assert_array_equal(found.positive, place < positives)
    np.testing.assert_array_equal(found.valid, place < positives + negatives)
    own, others = found.row[found.positive], found.row[found.valid & ~found.positive]
    for rows in (own, others):
        assert (np.diff(rows) > 0).all()  # in order, none twice
    np.testing.assert_array_equal(found.truth[found.positive], ASSIGNED[own] - 1)
    assert not found.truth[~found.positive].any()
    assert not found.row[~found.valid].any()
    assert (ASSIGNED[own] > 0).all()
    assert (ASSIGNED[others] == NEGATIVE).all()


@pytest.mark.usefixtures("quick_compilation")
def test_every_row_is_drawn_equally_often_and_a_key_draws_the_same():
    keys = jax.random.split(jax.random.key(1), 2000)
    found = jax.jit(jax.vmap(lambda key: draw(ASSIGNED, key, 20, 6)))(keys)
    often = np.bincount(np.asarray(found.row).ravel(), minlength=100)
    # 400 and 560 of 2000, give or take 4.5 standard deviations.
    assert np.abs(often[ASSIGNED > 0] - 400).max() < 80
    assert np.abs(often[ASSIGNED == NEGATIVE] - 560).max() < 90
    assert not often[ASSIGNED == IGNORED].any()
    again = draw(ASSIGNED, keys[3], 20, 6)
    np.testing.assert_array_equal(again.row, np.asarray(found.row)[3])


@pytest.mark.usefixtures("quick_compilation")
def test_a_draw_where_nothing_or_little_is_there():
    for assigned in (np.zeros(0, np.int32), np.full(5, IGNORED, np.int32)):
        found = draw(assigned, jax.random.key(0), 8, 4)
        assert not any(np.any(field) for field in found)
    found = draw(np.array([IGNORED, IGNORED, IGNORED, 2, NEGATIVE], np.int32), jax.random.key(0), 8, 4)
    found = jax.tree.map(np.asarray, found)
    np.testing.assert_array_equal(found.row[:2], [3, 4])
    np.testing.assert_array_equal(found.truth[:2], [1, 0])
    np.testing.assert_array_equal(found.valid, np.arange(8) < 2)


def test_true_boxes_answer_for_themselves():
    found = jax.jit(with_truth)(np.array([0, 2, -1]), np.array([True, False, True]))
    np.testing.assert_array_equal(found, [1, IGNORED, 3, 0, 2, -1])
