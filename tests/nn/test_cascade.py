"""Cascade Mask R-CNN: the original's maps, proposals, stages, detections and masks, and pictures in larger canvases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unireplknet_jax.nn.cascade import CascadeRCNN, bordered
from unireplknet_jax.nn.feature_pyramid import frames
from unireplknet_jax.tasks.checkpoint import open_checkpoint

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def golden(goldens):
    return np.load(goldens / "dense" / "det_tiny.npz")


@pytest.fixture(scope="module")
def original(goldens):
    return open_checkpoint(goldens / "dense" / "det_tiny.pth")


def nhwc(array):
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def distance(found, expected):
    """The largest difference as a share of the largest value."""
    return np.abs(np.asarray(found).reshape(np.shape(expected)) - expected).max() / np.abs(expected).max()


def with_counts(model, golden):
    """The network with the numbers of proposals of the golden file."""
    return model.clone(test_proposals=(int(golden["rpn_nms_pre"]), int(golden["rpn_max_per_img"])))


def everything(model, maps, sizes):
    """What is computed on the way from the maps of the backbone to detections."""
    maps = model.neck(maps, frames(sizes))
    scored = model.rpn_head(maps, frames(sizes))
    proposals = model.proposals(scored, maps, sizes, model.test_proposals)
    stages = model.stages(bordered(maps[:4], sizes), proposals, sizes)
    many = model.proposals(scored, maps, sizes, CascadeRCNN.test_proposals)
    return {
        **{"maps": maps, "scored": scored, "proposals": proposals, "stages": stages, "many": many},
        "detections": model.detect(maps, sizes),
    }


@pytest.fixture(scope="module")
def run(golden, original):
    """A program from the maps of the backbone and the sizes of the pictures in the input to `everything`."""
    model = with_counts(original.module, golden)
    return jax.jit(lambda maps, sizes: model.apply(original.variables, maps, sizes, method=everything))


@pytest.fixture(scope="module")
def found(golden, run):
    return run([nhwc(golden[f"feature{i}_nchw"]) for i in range(4)], jnp.asarray(golden["img_hw"])[None])


def test_maps_and_scores_are_the_originals(golden, found):
    for i in range(5):
        assert distance(found["maps"][i], nhwc(golden[f"fpn{i}_nchw"])) < 2e-5
        assert distance(found["scored"][i].logits, nhwc(golden[f"rpn_cls{i}_nchw"]).reshape(1, -1)) < 2e-5
        assert distance(found["scored"][i].deltas, nhwc(golden[f"rpn_reg{i}_nchw"]).reshape(1, -1, 4)) < 2e-5


def test_proposals_are_the_originals_in_their_order(golden, found):
    proposals = found["proposals"]
    assert proposals.valid.all()
    np.testing.assert_allclose(proposals.boxes[0], golden["proposals"][:, :4], atol=2e-3)
    np.testing.assert_allclose(proposals.scores[0], golden["proposals"][:, 4], atol=1e-5)


def test_a_thousand_proposals_are_the_originals_as_a_set(golden, found):
    """Many of them are near-ties of others: 99 % of them have to be there."""
    own, expected = np.asarray(found["many"].boxes[0]), golden["proposals_default_cfg"][:, :4]
    assert found["many"].valid.sum() == len(expected)
    nearest = np.abs(expected[:, None] - own[None]).max(axis=-1).min(axis=1)
    assert np.mean(nearest < 2e-3) >= 0.99


def test_stages_are_the_originals(golden, found):
    """Boxes of the later stages to 1e-2 pixels: each of them multiplies what float32 left uncertain."""
    logits, deltas, rois = found["stages"]
    for stage in range(3):
        assert distance(logits[stage], golden[f"s{stage}_cls"]) < 2e-4
        assert distance(deltas[stage], golden[f"s{stage}_reg"]) < 2e-4
        np.testing.assert_allclose(rois[stage][0], golden[f"s{stage}_rois"][:, 1:], atol=1e-2 if stage else 2e-3)


def test_detections_and_masks_are_the_originals(golden, found):
    detections = {name: np.asarray(value[0]) for name, value in found["detections"].items()}
    count = len(golden["det_img_boxes"])
    assert list(np.flatnonzero(detections["valid"])) == list(range(count))
    assert list(detections["labels"][:count]) == list(golden["det_img_labels"])
    assert list(detections["sources"][:count]) == list(golden["det_img_source_roi"])
    np.testing.assert_allclose(detections["boxes"][:count], golden["det_img_boxes"], atol=2e-3)
    np.testing.assert_allclose(detections["scores"][:count], golden["det_img_scores"], atol=5e-5)
    np.testing.assert_allclose(detections["masks"][:count], golden["mask_prob_mean_at_label"], atol=1e-4)


def test_heads_in_a_larger_canvas_find_the_same(golden, run, found):
    """Two pictures, one of them the golden one, in a canvas that is longer in both directions."""
    maps = [nhwc(golden[f"feature{i}_nchw"]) for i in range(4)]
    rows, columns = golden["img_hw"]
    grown = [
        jnp.pad(x, ((1, 0), (0, 32 // 2 ** (i + 2) * 2), (0, 32 // 2 ** (i + 2)), (0, 0))) for i, x in enumerate(maps)
    ]
    other = run(grown, jnp.array([[96, 64], [rows, columns]]))
    for i in range(5):
        own, expected = other["maps"][i][1:], found["maps"][i]
        assert distance(own[:, : expected.shape[1], : expected.shape[2]], expected) < 1e-5
    for name, value in found["detections"].items():
        limit = {"boxes": 1e-2, "scores": 1e-5, "masks": 1e-4}.get(name, 0)
        np.testing.assert_allclose(other["detections"][name][1], value[0], atol=limit, err_msg=name)
