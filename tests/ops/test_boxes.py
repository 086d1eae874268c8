"""Overlaps, deltas, anchors and non-maximum suppression against the original's numbers and at their edges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unireplknet_jax.ops.boxes import anchors, clip, decode, encode, iou, nms, overlap, shifted


@pytest.fixture(scope="module")
def case(goldens):
    return np.load(goldens / "dense" / "boxes.npz")


@pytest.mark.parametrize("mode", ["iou", "iof", "giou"])
def test_overlaps_are_the_originals(case, mode):
    # Exactly: no product is rounded together with a sum, no division becomes a multiplication.
    @jax.jit
    def all_and_pairs(proposals, truth, others):
        return *(iou(boxes, others, mode) for boxes in (proposals, truth)), overlap(truth[:20], others, mode)

    found, of_truth, pairs = all_and_pairs(*(case[name] for name in ("proposals", "gt", "iou_b")))
    np.testing.assert_array_equal(found, case[mode])
    np.testing.assert_array_equal(pairs, np.diag(np.asarray(of_truth)))


@pytest.mark.parametrize("mode", ["iou", "iof", "giou"])
def test_boxes_without_area_overlap_nothing_and_give_finite_gradients(mode):
    boxes = np.array([[0, 0, 0, 0], [5, 5, 5, 5], [1, 1, 1, 9], [9, 9, 1, 1], [0, 0, 10, 10]], np.float32)

    @jax.jit
    def run(boxes, small):
        gradient = jax.grad(lambda a: jnp.sum(iou(a, boxes, mode)))(boxes)
        return iou(boxes, boxes, mode), iou(small, small, mode), gradient

    found, of_small, gradient = run(boxes, boxes[4:] / 100)
    np.testing.assert_array_equal(np.maximum(found, 0), np.diag([0, 0, 0, 0, 1]))
    assert of_small == 1  # nothing is added to areas that are small
    assert np.isfinite(gradient).all()


def test_a_kind_of_overlap_that_there_is_not():
    with pytest.raises(ValueError, match="mode is 'diou', which is no kind of overlap; give 'iou', 'iof' or 'giou'"):
        iou(jnp.zeros((1, 4)), jnp.zeros((1, 4)), "diou")


@jax.jit
def deltas_and_boxes(proposals, truth, deltas, of_classes, stds, size):
    """What `encode` gives, and `decode` clipped, unclipped and for each of the classes."""
    return (
        encode(proposals, truth, stds),
        *(decode(proposals, deltas, stds, limits) for limits in (size, None)),
        decode(proposals[:, None], of_classes, stds, size),
    )


@pytest.mark.parametrize("stage", range(4))
def test_deltas_are_the_originals(case, stage):
    own = {name: case[f"std{stage}/{name}"] for name in ("stds", "encoded")}
    expected = [case[f"std{stage}/decoded_{name}"] for name in ("clipped", "unclipped", "3class_clipped")]
    given = (case[name] for name in ("proposals", "gt", "deltas"))
    encoded, *decoded = deltas_and_boxes(*given, case["deltas_3class"].reshape(-1, 3, 4), own["stds"], case["max_hw"])
    # A unit in the last place of logarithms and quotients, which the third stage's stds make 30 times as large.
    np.testing.assert_allclose(encoded, own["encoded"], rtol=3e-7, atol=3e-6)
    for found, boxes in zip(decoded, expected, strict=True):
        np.testing.assert_allclose(np.reshape(found, boxes.shape), boxes, rtol=0, atol=4e-5)  # pixels


def test_deltas_at_their_limits():
    stds = (0.1, 0.1, 0.2, 0.2)
    box = np.array([10, 10, 20, 30], np.float32)
    grown = jax.jit(decode)(box, np.array([0, 0, 1e9, -1e9], np.float32), stds)
    np.testing.assert_allclose(grown, [15 - 312.5, 20 - 0.16, 15 + 312.5, 20 + 0.16], rtol=2e-6)
    nothing = np.zeros(4, np.float32)
    pairs = ((nothing, nothing), (nothing, box), (box, nothing))
    deltas = jax.jit(encode)(*np.stack(pairs, axis=1), stds)
    assert np.isfinite(deltas).all()
    np.testing.assert_array_equal(deltas[0], 0)


def test_every_picture_has_its_own_size():
    boxes = np.full((2, 3, 4), [-5, -5, 90, 90], np.float32)
    sizes = np.array([[40, 60], [95, 30]])
    expected = np.array([[0, 0, 60, 40], [0, 0, 30, 90]])
    for found in jax.jit(lambda boxes, sizes: (clip(boxes, sizes[:, None]), jax.vmap(clip)(boxes, sizes)))(
        boxes, sizes
    ):
        np.testing.assert_array_equal(found, np.repeat(expected[:, None], 3, axis=1))


def test_anchors_are_the_originals(case):
    maps = case["anchor_feat_hw"].tolist()
    found = jax.jit(lambda: anchors(maps, (4, 8, 16, 32, 64)))()
    assert len(found) == 5
    for level, own in enumerate(found):
        np.testing.assert_array_equal(own, case[f"anchor_grid{level}"])
    (other,) = jax.jit(lambda: anchors([(1, 2)], [10], scale=2, ratios=(4,)))()
    np.testing.assert_array_equal(other, [[-5, -20, 5, 20], [5, -20, 15, 20]])


# Non-maximum suppression. At most a fifth of the boxes: the rounds; more: the matrix of all pairs.


compiled = functools.partial(jax.jit, static_argnames="max_out")(nms)


def suppress(boxes, scores, threshold, max_out, labels=None, valid=None):
    """What `nms` gives, as numpy's arrays; one program for all thresholds."""
    return jax.tree.map(np.asarray, compiled(boxes, scores, threshold, max_out, labels, valid))


@pytest.fixture(params=range(5), scope="module")
def suppression(request, goldens):
    arrays = np.load(goldens / "dense" / "nms.npz")
    return {
        name: arrays[f"case{request.param}/{name}"]
        for name in ("boxes", "scores", "labels", "iou_thr", "keep", "keep_per_class")
    }


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("max_out", [300, 15])
def test_what_stays_is_what_the_original_keeps(suppression, per_class, max_out):
    expected = suppression["keep_per_class" if per_class else "keep"]
    # 600 rows, whatever the case. Those of padding would win, were they not masked.
    boxes, scores, labels = (
        np.resize(suppression[name], (600, *suppression[name].shape[1:])) for name in ("boxes", "scores", "labels")
    )
    real = np.arange(600) < len(suppression["boxes"])
    boxes, scores = np.where(real[:, None], boxes, boxes + 1e4), np.where(real, scores, 2)
    index, valid = suppress(boxes, scores, float(suppression["iou_thr"]), max_out, labels if per_class else None, real)
    assert index.shape == valid.shape == (max_out,)
    np.testing.assert_array_equal(index[valid], expected[:max_out])
    np.testing.assert_array_equal(valid, np.arange(max_out) < len(expected))
    np.testing.assert_array_equal(index[~valid], 0)


@pytest.mark.parametrize("max_out", [40, 7])
def test_a_chain_of_boxes_of_which_every_other_one_stays(max_out):
    # Each suppresses its neighbours only: whether the last one stays hangs on all before it.
    place = np.arange(40, dtype=np.float32)
    boxes = np.stack([place, 0 * place, place + 3, 0 * place + 1], axis=-1)
    index, valid = suppress(boxes, 1 - place / 100, 0.4, max_out)
    np.testing.assert_array_equal(index[valid], np.arange(0, 40, 2)[:max_out])


@pytest.mark.parametrize("max_out", [40, 7])
def test_equal_overlaps_stay_equal_scores_keep_their_order_and_empty_boxes_suppress_nothing(max_out):
    boxes = np.array([[0, 0, 2, 1], [0, 0, 1, 1]] + [[50, 50, 50, 50]] * 6 + [[90, 0, 91, 1]] * 32, np.float32)
    index, valid = suppress(boxes, np.zeros(40, np.float32), 0.5, max_out)
    np.testing.assert_array_equal(index[valid], np.arange(9)[:max_out])


@pytest.mark.parametrize("max_out", [2, 30])
def test_suppression_of_several_pictures_without_boxes_and_with_more_places_than_boxes(max_out):
    boxes = np.random.default_rng(0).uniform(0, 30, (3, 12, 4)).astype(np.float32)
    boxes[..., 2:] += boxes[..., :2]
    scores = np.random.default_rng(1).uniform(size=(3, 12)).astype(np.float32)
    masks = np.arange(12) < np.array([12, 0, 5])[:, None]
    several = jax.jit(jax.vmap(lambda boxes, scores, valid: nms(boxes, scores, 0.3, max_out, valid=valid)))
    index, valid = (np.asarray(each) for each in several(boxes, scores, masks))
    assert not np.any(suppress(boxes[0, :0], scores[0, :0], 0.3, max_out)[1])
    for number in range(3):
        alone, there = suppress(boxes[number], scores[number], 0.3, max_out, None, masks[number])
        np.testing.assert_array_equal(index[number], alone)
        np.testing.assert_array_equal(valid[number], there)


def test_a_single_box_stays():
    index, valid = suppress(np.ones((1, 4), np.float32), np.zeros(1, np.float32), 0.5, 2)
    np.testing.assert_array_equal(index, [0, 0])
    np.testing.assert_array_equal(valid, [True, False])


def test_labels_are_shifted_in_float32_as_mmcv_does():
    boxes = np.random.default_rng(0).uniform(0, 1333, (200, 4)).astype(np.float32)
    labels = np.arange(200) % 80
    expected = boxes + (labels.astype(np.float32) * (boxes.max() + np.float32(1)))[:, None]
    np.testing.assert_array_equal(jax.jit(shifted)(boxes, labels), expected)
    # Where one column is wanted a compiler would round the product together with the sum.
    np.testing.assert_array_equal(jax.jit(lambda *given: shifted(*given)[:, 0])(boxes, labels), expected[:, 0])
    assert np.abs(expected - boxes - labels[:, None] * (boxes.max() + 1.0)).max() > 0.003
    masked = np.asarray(jax.jit(shifted)(np.where(labels[:, None] < 79, boxes, 1e6), labels, labels < 79))
    largest = boxes[labels < 79].max() + np.float32(1)
    np.testing.assert_array_equal(masked[0], boxes[0])
    np.testing.assert_array_equal(masked[1], boxes[1] + largest)
