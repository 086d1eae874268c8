"""What Cascade Mask R-CNN learns from: the original's losses, gradients, statistics and boxes between the stages."""

from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from networks import lively

from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.models.torch_names import to_torch
from unireplknet_jax.models.unireplknet import UniRepLKNet
from unireplknet_jax.nn.cascade import CascadeRCNN, bordered
from unireplknet_jax.nn.cascade_losses import (
    OVERLAPS,
    STAGE_WEIGHTS,
    Masks,
    Truth,
    box_loss,
    boxes_between,
    class_loss,
    mask_loss,
    proposal_losses,
    sample_anchors,
    sample_regions,
)
from unireplknet_jax.nn.feature_pyramid import frames
from unireplknet_jax.nn.proposals import Scored
from unireplknet_jax.nn.region_heads import STDS
from unireplknet_jax.ops.assignment import Sample
from unireplknet_jax.tasks.checkpoint import open_checkpoint
from unireplknet_jax.tasks.detection_names import NAMES

pytestmark = pytest.mark.usefixtures("quick_compilation")
PICTURES = 2
CLASSES = 5
ROWS = 45  # more than any picture's regions: the last ones are padding


@pytest.fixture(scope="module")
def golden(goldens):
    with np.load(goldens / "dense" / "det_tiny.npz") as arrays:
        return {name.removeprefix("train/"): arrays[name] for name in arrays.files if name.startswith("train/")}


@pytest.fixture(scope="module")
def original(goldens):
    return open_checkpoint(goldens / "dense" / "det_tiny.pth")


def padded(arrays, rows):
    """(n, rows, ...) with zeros, and which of them the arrays fill."""
    filled = np.array([[row < len(array) for row in range(rows)] for array in arrays])
    arrays = [np.pad(array, [(0, rows - len(array))] + [(0, 0)] * (array.ndim - 1)) for array in arrays]
    return np.stack(arrays), filled


@pytest.fixture(scope="module")
def truth(golden):
    boxes, labels, masks = (
        [golden[f"img{i}/gt_{name}"] for i in range(PICTURES)] for name in ("boxes", "labels", "masks_packed")
    )
    most = max(map(len, boxes)) + 1
    boxes, valid = padded(boxes, most)
    bits, _ = padded([own.ravel() for own in masks], max(own.size for own in masks))
    rows, pitch = masks[0].shape[1:]  # each bitmap is a whole picture
    crops = [[(k * rows * pitch, 0, 0, rows, 8 * pitch) for k in range(most)]] * PICTURES
    masks = Masks(bits, np.array(crops, np.int32), valid)
    return Truth(boxes, padded(labels, most)[0].astype(np.int32), valid, masks)


@pytest.fixture(scope="module")
def chosen_anchors(golden):
    """The draw of anchors that the original made, as a sample."""
    rows, objects, positive = [], [], []
    for i in range(PICTURES):
        weights, labels, assigned = (
            golden[f"rpn/img{i}/{name}"] for name in ("label_weights", "labels", "assigned_gt")
        )
        rows.append(np.flatnonzero(weights))
        positive.append(labels[rows[-1]] == 0)
        objects.append(np.where(positive[-1], assigned[rows[-1]] - 1, 0))
    rows, objects, positive = (np.stack(each) for each in (rows, objects, positive))
    return Sample(rows, objects, positive, np.ones(rows.shape, bool))


def in_pictures(rois, *values):
    """The rows of all pictures' regions (r, 5), whose first column is the picture, and others: (n, ROWS, ...)."""
    pictures = rois[:, 0].astype(int)
    return [padded([value[pictures == i] for i in range(PICTURES)], ROWS)[0] for value in (rois[:, 1:], *values)]


class Stage(NamedTuple):
    """What the original drew in a stage, and what its head said of it."""

    chosen: Sample
    rois: np.ndarray
    logits: np.ndarray
    deltas: np.ndarray


def stage_of(golden, truth, stage):
    own = {name.removeprefix(f"s{stage}/"): value for name, value in golden.items() if name.startswith(f"s{stage}/")}
    rois, logits, deltas = in_pictures(own["rois"], own["cls_score"], own["bbox_pred"])
    parts = [[own[f"img{i}/{name}"] for i in range(PICTURES)] for name in ("pos_inds", "neg_inds", "pos_gt")]
    counts, given = truth.valid.sum(axis=1), truth.valid.shape[1]
    rows = [np.concatenate(pair) for pair in zip(*parts[:2], strict=True)]
    # Our candidates begin with all rows of objects, padding among them.
    rows = [np.where(own < count, own, own + given - count) for own, count in zip(rows, counts, strict=True)]
    rows, valid = padded(rows, ROWS)
    objects, positive = padded(parts[2], ROWS)
    return Stage(Sample(rows, objects, positive, valid), rois, logits, deltas.reshape(*deltas.shape[:2], -1, 4))


@jax.jit
def draw_regions(key, boxes, valid, truth, overlap):
    return sample_regions(key, boxes, valid, truth, overlap, (ROWS, 20))


@pytest.mark.parametrize("stage", range(3))
def test_stages_draw_the_regions_of_the_original(golden, truth, stage):
    """There are fewer than may be drawn, so that nothing is left to chance."""
    boxes, valid = padded([golden[f"s{stage}/img{i}/in_boxes"] for i in range(PICTURES)], ROWS)
    wanted = stage_of(golden, truth, stage)
    found, rois = draw_regions(jax.random.key(0), boxes, valid, truth, OVERLAPS[stage])
    for name in Sample._fields:
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted.chosen, name), err_msg=name)
    np.testing.assert_array_equal(np.where(found.valid[..., None], rois, 0), wanted.rois)


def test_anchors_are_drawn_inside_pictures_and_for_the_objects_of_the_original(golden, truth):
    draw = jax.jit(lambda *inputs: sample_anchors(*inputs, (256, 128)))
    chosen = draw(jax.random.key(1), golden["rpn/anchors"], truth, golden["img_hw"])
    chosen = jax.tree.map(np.asarray, chosen)
    for i in range(PICTURES):
        assigned = golden[f"rpn/img{i}/assigned_gt"][chosen.row[i]]
        assert chosen.valid[i].all()
        assert len(set(chosen.row[i].tolist())) == 256
        assert assigned.min() == 0  # neither outside of the picture nor between object and background
        np.testing.assert_array_equal(chosen.positive[i], assigned > 0)
        np.testing.assert_array_equal(chosen.truth[i], np.maximum(assigned - 1, 0))


def test_losses_of_anchors_are_the_originals(golden, truth, chosen_anchors):
    scored = []
    for i in range(5):
        logits, deltas = (golden[f"rpn/{name}{i}_nchw"].transpose(0, 2, 3, 1) for name in ("cls", "reg"))
        logits, deltas = logits.reshape(PICTURES, -1), deltas.reshape(PICTURES, -1, 4)
        scored.append(Scored(logits, deltas, np.ones(logits.shape, bool)))
    found = jax.jit(proposal_losses)(scored, golden["rpn/anchors"], chosen_anchors, truth)
    expected = [golden[f"rpn/{name}_per_level"].sum() for name in ("loss_cls", "loss_bbox")]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_picture_without_an_object_counts_as_one_anchor_on_objects():
    """As in the original, which counts one at least of either kind."""
    scored = [Scored(np.zeros((1, 3), np.float32), np.zeros((1, 3, 4), np.float32), np.ones((1, 3), bool))]
    rows, nothing = np.array([[0, 2]]), np.zeros((1, 2), bool)
    truth = Truth(np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.int32), np.zeros((1, 1), bool))
    chosen = Sample(rows, np.zeros_like(rows), nothing, ~nothing)
    found = jax.jit(proposal_losses)(scored, np.ones((3, 4), np.float32), chosen, truth)
    np.testing.assert_allclose(found, [2 * np.log(2) / 3, 0], rtol=1e-6)


def test_the_weights_of_the_stages_make_the_total_of_the_original(golden):
    kinds = ("unweighted_loss_cls", "unweighted_loss_bbox", "unweighted_loss_mask")
    own = sum(golden[f"rpn/{name}_per_level"].sum() for name in ("loss_cls", "loss_bbox"))
    for stage, weight in enumerate(STAGE_WEIGHTS):
        own += weight * sum(golden[f"s{stage}/{name}"] for name in kinds)
    np.testing.assert_allclose(own, golden["total_loss"], rtol=1e-5)


@jax.jit
def stage_losses(logits, labels, deltas, masks, rois, chosen, truth, stds, sizes):
    return (
        *class_loss(logits, labels, chosen.valid),
        box_loss(deltas, rois, chosen, truth, stds),
        mask_loss(masks, rois, chosen, truth.masks, sizes),
    )


@pytest.mark.parametrize("stage", range(3))
def test_losses_of_a_stage_are_the_originals(golden, truth, stage):
    chosen, rois, logits, deltas = stage_of(golden, truth, stage)
    labels = np.where(chosen.positive, np.take_along_axis(truth.labels, chosen.truth, axis=1), CLASSES)
    masks = in_pictures(golden[f"s{stage}/mask_rois"], golden[f"s{stage}/mask_logits_at_label"])[1]
    sizes = np.array([golden["input_nchw"].shape[2:]] * PICTURES)
    found = stage_losses(logits, labels, deltas, masks, rois, chosen, truth, STDS[stage], sizes)
    names = ("unweighted_loss_cls", "acc", "unweighted_loss_bbox", "unweighted_loss_mask")
    np.testing.assert_allclose(found, [golden[f"s{stage}/{name}"] for name in names], rtol=1e-5)


def test_objects_without_a_mask_teach_no_mask(golden, truth):
    """The mean is then that over the regions of the others."""
    chosen, rois, *_ = stage_of(golden, truth, 0)
    logits = in_pictures(golden["s0/mask_rois"], golden["s0/mask_logits_at_label"])[1]
    sizes = np.array([golden["input_nchw"].shape[2:]] * PICTURES)
    first = np.zeros_like(truth.valid)
    first[:, 0] = True
    loss = jax.jit(mask_loss)
    found = loss(logits, rois, chosen, truth.masks._replace(has_mask=first), sizes)
    of_first = chosen._replace(positive=chosen.positive & (chosen.truth == 0))
    assert 0 < of_first.positive.sum() < chosen.positive.sum()
    np.testing.assert_allclose(found, loss(logits, rois, of_first, truth.masks, sizes), rtol=1e-6)


def test_masks_are_learned_of_as_many_regions_as_may_be_on_objects(golden, original, truth):
    chosen, rois, *_ = stage_of(golden, truth, 0)
    most = int(chosen.positive.sum(axis=1).max())
    maps, sizes = [normal(i, 2, 128 >> i, 128 >> i, 32) for i in range(4)], golden["img_hw"]
    found = []
    for count in (most, ROWS):
        model = original.module.clone(region_counts=(ROWS, count))

        @jax.jit
        def loss(variables, *inputs, model=model):
            (losses, *_), _ = model.apply(variables, 0, *inputs, method="stage_losses", mutable=["batch_stats"])
            return losses["s0.loss_mask"]  # alone, so that the head for boxes is not compiled

        found.append(loss(original.variables, maps, chosen, rois, truth, sizes))
    np.testing.assert_allclose(*found, rtol=1e-5)


@pytest.mark.parametrize("stage", range(2))
def test_boxes_between_stages_are_the_originals(golden, truth, stage):
    chosen, rois, logits, deltas = stage_of(golden, truth, stage)
    found = jax.jit(boxes_between)(chosen, rois, logits, deltas, truth, STDS[stage], golden["img_hw"])
    boxes, valid = map(np.asarray, found)
    for i in range(PICTURES):
        expected = golden[f"s{stage}/img{i}/refined_boxes"]
        np.testing.assert_allclose(boxes[i][valid[i]], expected, atol=1e-3)


@pytest.fixture(scope="module")
def step(golden, original, truth, chosen_anchors):
    """(total, (losses, statistics), gradients) from the original's draws, and its boxes in every stage.

    Boxes that this network makes itself are up to 1e-3 pixels off, which gradients of the last stage magnify to 1e-3.
    """
    x = jnp.asarray(golden["input_nchw"].transpose(0, 2, 3, 1))
    sizes = jnp.asarray(golden["img_hw"])
    stages = [stage_of(golden, truth, stage)[:2] for stage in range(3)]

    def losses(model, x, truth):
        maps, _ = model.pyramid(x, True)  # the pictures of this file go on beyond their sizes
        scored = model.rpn_head(maps, frames(sizes))
        of_anchors = proposal_losses(scored, jnp.concatenate(model.anchors(maps)), chosen_anchors, truth)
        found = dict(zip(("loss_rpn_cls", "loss_rpn_bbox"), of_anchors, strict=True))
        for stage, (chosen, rois) in enumerate(stages):
            found |= model.stage_losses(stage, bordered(maps[:4], sizes), chosen, rois, truth, sizes)[0]
        return found

    def total(params):
        variables = {"params": params, "batch_stats": original.variables["batch_stats"]}
        found, updates = original.module.apply(variables, x, truth, method=losses, mutable=["batch_stats"])
        return sum(value for name, value in found.items() if "loss" in name), (found, updates["batch_stats"])

    (loss, found), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(original.variables["params"])
    return loss, found, gradients


@pytest.mark.slow  # gradients of a whole network
def test_losses_are_the_originals(golden, step):
    loss, (found, _), _ = step
    expected = {name.removeprefix("losses/"): float(value) for name, value in golden.items() if "losses/" in name}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-5), name
    assert float(loss) == pytest.approx(float(golden["total_loss"]), rel=1e-5)


@pytest.mark.slow
def test_gradients_and_statistics_are_the_originals(golden, step):
    """To 1e-5 of the largest value of each; where a batch norm follows, gradients are zero but for rounding."""
    _, (_, statistics), gradients = step
    tree = {"params": gradients, "batch_stats": statistics}
    flat = flax.traverse_util.flatten_dict(tree)
    found = {name: to_torch(entry, np.asarray(flat[entry.path])) for name, entry in NAMES.table(tree).items()}
    far, checked = {}, 0
    for name, expected in golden.items():
        kind, _, tensor = name.partition("/")
        if kind in ("after", "grad"):
            share = np.abs(found[tensor] - expected).max() / np.abs(expected).max()
        elif kind == "gradnorm" and expected > 1e-6:
            share = abs(np.linalg.norm(found[tensor]) - expected) / expected
        else:
            continue
        checked += 1
        if not share < 1e-5:
            far[name] = float(share)
    assert checked > 300
    assert not far


@pytest.mark.slow  # two whole networks
def test_a_picture_teaches_the_same_in_any_canvas_and_without_masks_but_for_these():
    """All anchors and regions of two pictures count, so that both runs draw the same; one of them has no masks."""
    trunk = UniRepLKNet(
        depths=(1, 1, 1, 1),
        dims=(4, 8, 12, 16),
        kernel_sizes=((3,), (7,), (0,), (3,)),
        **{"num_classes": None, "output_norms": True, "layer_scale_init": 1.0},
    )
    model = CascadeRCNN(
        trunk,
        CLASSES,
        **{"channels": 8, "box_channels": 4, "box_features": 8, "mask_channels": 4, "anchor_scale": 2.0},
        **{"anchor_counts": (4000, 4000), "region_counts": (60, 60), "train_proposals": (20, 40)},
    )
    variables = lively(abstract_variables(model))
    boxes = jnp.array([[[4, 6, 40, 30], [0, 0, 0, 0]], [[10, 3, 30, 60], [2, 2, 20, 21]]], jnp.float32)
    labels, valid = jnp.array([[1, 0], [4, 2]]), jnp.array([[True, False], [True, True]])
    bits = jnp.full((2, 64 * 8), 0b11001010, jnp.uint8)
    crops = jnp.array([[[0, 0, 0, 64, 64]] * 2] * 2)
    x = 3 * normal(0, 2, 96, 128, 3)
    sizes = jnp.array([[33, 60], [64, 64]])
    run = jax.jit(
        lambda x, truth: model.apply(
            variables, x, truth, jax.random.key(0), sizes, method="losses", mutable=["batch_stats"]
        )[0]
    )
    whole = run(x, Truth(boxes, labels, valid, Masks(bits, crops, valid)))
    assert sum("mask" in name for name in whole) == 3
    assert all(np.isfinite(value) and value > 0 for name, value in whole.items() if "loss" in name), whole
    for name, value in run(x[:, :64, :64], Truth(boxes, labels, valid)).items():
        assert float(value) == pytest.approx(float(whole[name]), rel=1e-5), name
