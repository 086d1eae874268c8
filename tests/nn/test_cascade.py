"""Cascade Mask R-CNN: the original's maps, proposals, stages, detections and masks, and pictures in larger canvases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal

from unireplknet_jax.models.reparameterize import reparameterize
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.nn.cascade import CascadeRCNN, bordered
from unireplknet_jax.nn.feature_pyramid import frames
from unireplknet_jax.nn.proposals import Proposals
from unireplknet_jax.tasks.checkpoint import open_checkpoint

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def golden(goldens):
    return np.load(goldens / "dense" / "det_tiny.npz")


@pytest.fixture(scope="module")
def original(goldens):
    return open_checkpoint(goldens / "dense" / "det_tiny.pth")


def nhwc(array):
    return array.transpose(0, 2, 3, 1)


def distance(found, expected):
    """The largest difference as a share of the largest value."""
    return np.abs(np.asarray(found).reshape(np.shape(expected)) - expected).max() / np.abs(expected).max()


def with_counts(model, golden):
    """The network with the numbers of proposals of the golden file."""
    return model.clone(test_proposals=(int(golden["rpn_nms_pre"]), int(golden["rpn_max_per_img"])))


@pytest.fixture(scope="module")
def apply(golden, original):
    """Calls a function of the network and arrays, compiled, with the original's variables; numpy's arrays."""
    model = with_counts(original.module, golden)

    def run(function, *inputs):
        compiled = jax.jit(lambda variables, *inputs: model.apply(variables, *inputs, method=function))
        return jax.tree.map(np.asarray, compiled(original.variables, *inputs))

    return run


def sizes_of(golden):
    return golden["img_hw"][None]


@pytest.fixture(scope="module")
def proposed(golden, apply):
    """(maps, what is said of anchors, proposals) from the maps of the original's backbone."""

    def propose(model, features, sizes):
        maps = model.neck(features, frames(sizes))
        scored = model.rpn_head(maps, frames(sizes))
        return maps, scored, model.proposals(scored, maps, sizes, model.test_proposals)

    return apply(propose, [nhwc(golden[f"feature{i}_nchw"]) for i in range(4)], sizes_of(golden))


def test_maps_and_scores_are_the_originals(golden, proposed):
    maps, scored, _ = proposed
    for i in range(5):
        assert distance(maps[i], nhwc(golden[f"fpn{i}_nchw"])) < 2e-5
        assert distance(scored[i].logits, nhwc(golden[f"rpn_cls{i}_nchw"])) < 2e-5
        assert distance(scored[i].deltas, nhwc(golden[f"rpn_reg{i}_nchw"])) < 2e-5


def test_proposals_are_the_originals_in_their_order(golden, proposed):
    proposals = proposed[-1]
    assert proposals.valid.all()
    np.testing.assert_allclose(proposals.boxes[0], golden["proposals"][:, :4], atol=2e-3)
    np.testing.assert_allclose(proposals.scores[0], golden["proposals"][:, 4], atol=1e-5)


def regions_of(golden):
    """The original's maps that regions are taken from."""
    return [nhwc(golden[f"fpn{i}_nchw"]) for i in range(4)]


def test_stages_are_the_originals(golden, apply):
    rois = np.stack([golden[f"s{stage}_rois"][:, 1:] for stage in range(3)])

    def say(model, maps, rois):
        cells = model.features_of(maps, rois.reshape(1, -1, 4), 7).reshape(3, 1, -1, 7, 7, maps[0].shape[-1])
        return [head(own) for head, own in zip(model.bbox_head, cells, strict=True)]

    for stage, (logits, deltas) in enumerate(apply(say, regions_of(golden), rois)):
        assert distance(logits, golden[f"s{stage}_cls"]) < 2e-5
        assert distance(deltas, golden[f"s{stage}_reg"]) < 2e-5


def check_detections(found, golden):
    count = len(golden["det_img_boxes"])
    assert list(np.flatnonzero(found["valid"])) == list(range(count))
    assert list(found["labels"][:count]) == list(golden["det_img_labels"])
    assert list(found["sources"][:count]) == list(golden["det_img_source_roi"])
    np.testing.assert_allclose(found["boxes"][:count], golden["det_img_boxes"], atol=2e-3)
    np.testing.assert_allclose(found["scores"][:count], golden["det_img_scores"], atol=5e-5)


def test_detections_are_the_originals(golden, apply):
    logits = [golden[f"s{stage}_cls"][None] for stage in range(3)]
    deltas, rois = golden["s2_reg"].reshape(1, -1, 5, 4), golden["s2_rois"][None, :, 1:]
    found = apply(CascadeRCNN.final, logits, deltas, rois, np.ones(rois.shape[:2], bool), sizes_of(golden))
    check_detections({name: value[0] for name, value in found.items()}, golden)


def test_masks_are_the_originals(golden, apply):
    boxes, labels = golden["mask_rois"][None, :, 1:], golden["det_img_labels"][None]
    found = apply(CascadeRCNN.mask_probabilities, regions_of(golden), boxes, labels)
    np.testing.assert_allclose(found[0], golden["mask_prob_mean_at_label"], atol=2e-5)


def test_where_the_background_is_likeliest_the_likeliest_class_moves_a_region(golden, original):
    boxes = golden["proposals"][None, :20, :4]
    proposals = Proposals(boxes, np.ones((1, 20), np.float32), np.ones((1, 20), bool))

    @jax.jit
    def rois(params):
        variables = original.variables | {"params": params}
        return original.module.apply(variables, regions_of(golden), proposals, sizes_of(golden), method="stages")[2]

    params = original.variables["params"]
    certain = dict(params)
    for name in ("bbox_head_0", "bbox_head_1"):
        score = params[name]["fc_cls"]
        certain[name] = params[name] | {
            "fc_cls": score | {"bias": np.asarray(score["bias"]) + 100 * np.eye(6, dtype=np.float32)[5]}
        }
    for found, expected in zip(rois(certain), rois(params), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_score_has_to_exceed_the_least_one(original):
    """Of two logits that are equal both scores are exactly a half."""
    rois, deltas = np.array([[[0, 0, 8, 8]]], np.float32), np.zeros((1, 1, 1, 4), np.float32)
    inputs = [np.zeros((1, 1, 2), np.float32)] * 3, deltas, rois, np.ones((1, 1), bool), np.array([[32, 32]])
    for least, count in ((0.5, 0), (0.49, 1)):
        model = original.module.clone(num_classes=1, min_score=least)
        found = jax.jit(functools.partial(model.apply, {}, method="final"))(*inputs)
        assert np.sum(found["valid"]) == count


def test_maps_go_on_behind_a_frame_by_one_position():
    x = np.arange(2 * 16 * 24, dtype=np.float32).reshape(2, 16, 24, 1)
    found = np.asarray(
        jax.jit(bordered)([x], np.array([[30, 60], [64, 96]]))[0]
    )  # frames of 8 x 16 and 16 x 24 positions
    np.testing.assert_array_equal(found[1], x[1])
    expected = np.array(x[0])
    expected[8] = expected[7]
    expected[:, 16] = expected[:, 15]
    np.testing.assert_array_equal(found[0], expected)


@pytest.fixture(scope="module")
def whole(golden, original):
    """A program from pictures and their sizes to proposals of the default numbers, boxes of stages and detections."""
    model = with_counts(original.module, golden)

    def on_the_way(model, x, sizes):
        maps, sizes = model.pyramid(x, sizes=sizes)
        scored = model.rpn_head(maps, frames(sizes))
        proposals = model.proposals(scored, maps, sizes, model.test_proposals)
        _, _, rois = model.stages(bordered(maps[:4], sizes), proposals, sizes)
        return rois, model.proposals(scored, maps, sizes, CascadeRCNN.test_proposals), model.detect(maps, sizes)

    return jax.jit(lambda variables, x, sizes: model.apply(variables, x, sizes, method=on_the_way))


@pytest.fixture(scope="module")
def of_picture(golden, original, whole):
    return whole(original.variables, nhwc(golden["input_nchw"]), sizes_of(golden))


@pytest.mark.slow  # a whole network; the pieces are quick
def test_the_whole_network_finds_what_the_original_finds(golden, of_picture):
    """Boxes of the later stages to 1e-2 pixels: each of them multiplies what float32 left uncertain.

    Of a thousand proposals, many are near-ties of others: 99 % of the original's have to be there, in any order.
    """
    rois, many, detections = of_picture
    for stage in range(3):
        np.testing.assert_allclose(rois[stage][0], golden[f"s{stage}_rois"][:, 1:], atol=1e-2 if stage else 2e-3)
    own, expected = np.asarray(many.boxes[0]), golden["proposals_default_cfg"][:, :4]
    assert many.valid.sum() == len(expected)
    nearest = np.abs(expected[:, None] - own[None]).max(axis=-1).min(axis=1)
    assert np.mean(nearest < 2e-3) >= 0.99
    check_detections({name: np.asarray(value[0]) for name, value in detections.items()}, golden)
    count = len(golden["mask_prob_mean_at_label"])
    np.testing.assert_allclose(detections["masks"][0][:count], golden["mask_prob_mean_at_label"], atol=1e-4)


@pytest.mark.slow  # another compiled shape
def test_a_picture_in_a_larger_canvas_gives_what_it_gives_alone(golden, original, of_picture):
    """What is around it and beside it in the batch is anything."""
    rows, columns = golden["img_hw"]
    canvas = 3 * normal(0, 2, 224, 320, 3)
    canvas = canvas.at[1, :rows, :columns].set(nhwc(golden["input_nchw"])[0, :rows, :columns])
    sizes = jnp.array([[97, 64], [rows, columns]])
    model = with_counts(original.module, golden)
    apply = jax.jit(lambda variables, x, sizes: model.apply(variables, x, sizes=sizes))
    found = apply(original.variables, canvas, sizes)
    for name, expected in of_picture[-1].items():
        near = {"boxes": 1e-2, "scores": 1e-5, "masks": 1e-4}.get(name, 0)
        np.testing.assert_allclose(found[name][1], expected[0], atol=near, err_msg=name)
    corners = np.asarray(found["boxes"][0][found["valid"][0]])
    assert len(corners)
    assert (corners <= [64, 97, 64, 97]).all()


@pytest.mark.slow  # another network
def test_the_merged_form_finds_the_same(golden, original, of_picture):
    model = with_counts(original.module, golden)
    model = model.clone(backbone=model.backbone.clone(deploy=True))
    apply = jax.jit(lambda variables, x, sizes: model.apply(variables, x, sizes=sizes))
    merged = reparameterize(original.variables)
    found = apply(merged, nhwc(golden["input_nchw"]), sizes_of(golden))
    for name, expected in of_picture[-1].items():
        near = {"boxes": 1e-2, "scores": 5e-5, "masks": 5e-4}.get(name, 0)
        np.testing.assert_allclose(found[name][0], expected[0], atol=near, err_msg=name)


def test_networks_without_masks_have_no_heads_for_them(original):
    model = original.module.clone(masks=False)
    names = set(abstract_variables(model)["params"])
    assert names == {"backbone", "neck", "rpn_head", "bbox_head_0", "bbox_head_1", "bbox_head_2"}


def test_batch_statistics_of_regions_leave_padding_out(original):
    """Rows that hold nothing change neither what the others give nor the running statistics."""
    head = original.module.bind({}).bbox_head[0].clone(parent=None)
    variables = {name: tree["bbox_head_0"] for name, tree in original.variables.items()}
    x = np.asarray(normal(0, 2, 4, 7, 7, 32))
    valid = np.arange(4)[None] < np.array([[3], [2]])

    @jax.jit
    def compiled(x, valid=None):
        return head.apply(variables, x, True, valid, mutable=["batch_stats"])

    def apply(*inputs):
        return jax.tree.map(np.asarray, compiled(*inputs))

    (logits, deltas), updates = apply(np.where(valid[..., None, None, None], x, np.float32(9)), valid)
    (expected, moves), alone = apply(x[valid][None])
    np.testing.assert_allclose(logits[valid], expected[0], atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(deltas[valid], moves[0], atol=1e-5 * np.abs(moves).max())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), updates, alone)
