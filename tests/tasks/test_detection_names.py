"""Files of mmdetection: in and out with nothing changed, with moving averages, holes, other classes and no masks."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from small_tasks import make_checkpoint

from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.models.reparameterize import is_merged
from unireplknet_jax.models.torch_archive import read_meta, read_state_dict, write_state_dict
from unireplknet_jax.tasks import convert
from unireplknet_jax.tasks.base import get_task
from unireplknet_jax.tasks.checkpoint import initial_variables, open_checkpoint, save_torch_checkpoint
from unireplknet_jax.tasks.detection_names import NAMES
from unireplknet_jax.tasks.predict import with_image_size

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def path(goldens):
    return goldens / "dense" / "det_tiny.pth"


@pytest.fixture(scope="module")
def state(path):
    return {name: tensor.numpy() for name, tensor in read_state_dict(path)[0].items()}


def test_files_of_the_original_come_in_and_go_out_as_they_were(path, state, tmp_path):
    checkpoint = open_checkpoint(path)
    model = checkpoint.module
    assert (model.num_classes, model.channels, model.box_channels, model.box_features) == (5, 32, 16, 48)
    assert (model.mask_channels, model.masks) == (16, True)
    assert checkpoint.task.labels == tuple(f"class_{i}" for i in range(5))
    convert.write_checkpoint(tmp_path / "back.pth", checkpoint)
    back = {name: tensor.numpy() for name, tensor in read_state_dict(tmp_path / "back.pth")[0].items()}
    assert state.keys() == back.keys()
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    assert all(np.array_equal(state[name], back[name]) for name in state.keys() - counters)
    assert read_meta(tmp_path / "back.pth")["CLASSES"] == checkpoint.task.labels
    assert open_checkpoint(tmp_path / "back.pth").task == checkpoint.task


def test_a_checkpoint_of_ours_keeps_task_and_tensors(path, tmp_path):
    checkpoint = open_checkpoint(path)
    convert.write_checkpoint(tmp_path / "ours", checkpoint)
    again = open_checkpoint(tmp_path / "ours")
    assert again.task == checkpoint.task
    jax.tree.map(np.testing.assert_array_equal, again.variables, checkpoint.variables)


def test_what_is_beside_the_moving_averages_is_left_out_and_holes_are_named(state, tmp_path):
    """mmcv saves the averages under the plain names, and the weights of training as "ema_..."."""
    beside = {f"ema_{name.replace('.', '_')}": array + 1 for name, array in state.items()}
    write_state_dict(tmp_path / "ema.pth", state | beside, "state_dict")
    kernel = open_checkpoint(tmp_path / "ema.pth").variables["params"]["mask_head_2"]["upsample"]["kernel"]
    expected = state["roi_head.mask_head.2.upsample.weight"]  # (in, out, 2, 2)
    np.testing.assert_array_equal(kernel, expected.transpose(2, 3, 1, 0))
    whole = dict(state)
    del whole["roi_head.bbox_head.0.fc_cls.bias"]
    write_state_dict(tmp_path / "hole.pth", whole, "state_dict")
    with pytest.raises(ValueError, match=r"missing \(1\): roi_head.bbox_head.0.fc_cls.bias"):
        open_checkpoint(tmp_path / "hole.pth")


def test_the_merged_form_and_a_network_without_masks_go_out_and_come_in(path, state, tmp_path):
    merged = open_checkpoint(path).in_merged_form()
    save_torch_checkpoint(tmp_path / "merged.pth", merged.variables)
    again = open_checkpoint(tmp_path / "merged.pth")
    assert again.merged
    assert is_merged(again.variables)
    boxes = {name: array for name, array in state.items() if not name.startswith("roi_head.mask_head.")}
    write_state_dict(tmp_path / "boxes.pth", boxes, "state_dict")
    assert not open_checkpoint(tmp_path / "boxes.pth").module.masks


def test_what_leaves_no_trace_in_tensors_comes_back_from_our_own_files(path, tmp_path):
    """Anchors of another scale, say, would make another detector of the same weights."""
    checkpoint = open_checkpoint(path)
    heads = {"anchor_scale": 4.0, "finest": 28.0, "test_proposals": (200, 100), "min_score": 0.1, "max_detections": 300}
    task = dataclasses.replace(checkpoint.task, model=dict(checkpoint.task.model) | heads, scale=(352, 256))
    task = dataclasses.replace(task, scales=(0.75, 1.0), mirror=True, mean=(0.5, 0.4, 0.3))
    convert.write_checkpoint(tmp_path / "own.pth", dataclasses.replace(checkpoint, task=task))
    back = open_checkpoint(tmp_path / "own.pth")
    assert back.task.module() == task.module()
    assert back.task.preparation_rules == task.preparation_rules
    assert back.task.labels == task.labels
    assert with_image_size(back, tmp_path / "own.pth", None)[1] == []  # no note on defaults


def test_the_difference_of_a_merge_is_that_of_the_maps_before_boxes_are_chosen():
    merged, error = convert.merge(make_checkpoint("detection"), tolerance=1e-5, examples=1)
    assert is_merged(merged.variables)
    assert 0 < error < 1e-5


def test_eighty_classes_are_those_of_coco(state):
    shapes = {name: array.shape for name, array in state.items()}
    shapes["roi_head.bbox_head.0.fc_cls.weight"] = (81, 48)
    assert NAMES.options(shapes)[0]["labels"] == read_labels("coco")
    assert "labels" not in NAMES.options({name: array.shape for name, array in state.items()})[0]


@pytest.mark.slow  # all the layers around the trunk are drawn, several times
def test_other_classes_get_fresh_layers_and_the_same_ones_their_order(path, tmp_path):
    checkpoint = open_checkpoint(path)
    other = open_checkpoint(path, num_classes=2)
    assert (other.module.num_classes, other.labels) == (2, ())
    old, new = (each.variables["params"] for each in (checkpoint, other))
    assert new["bbox_head_0"]["fc_cls"]["kernel"].shape == (48, 3)
    np.testing.assert_array_equal(
        new["bbox_head_2"]["shared_fcs_0"]["kernel"], old["bbox_head_2"]["shared_fcs_0"]["kernel"]
    )
    labels = ("class_4", "class_0", "class_1", "class_2", "class_3")
    started = initial_variables(dataclasses.replace(checkpoint.task, labels=labels), path)["params"]
    order = [4, 0, 1, 2, 3]
    boxes = {name: np.asarray(old["bbox_head_1"][name]["bias"]) for name in ("fc_cls", "fc_reg")}
    np.testing.assert_array_equal(started["bbox_head_1"]["fc_cls"]["bias"], boxes["fc_cls"][[*order, 5]])
    np.testing.assert_array_equal(
        started["bbox_head_1"]["fc_reg"]["bias"], boxes["fc_reg"].reshape(5, 4)[order].reshape(-1)
    )
    masks = np.asarray(old["mask_head_0"]["conv_logits"]["kernel"])
    np.testing.assert_array_equal(started["mask_head_0"]["conv_logits"]["kernel"], masks[..., order])


@pytest.mark.parametrize(
    ("size", "training", "merged", "neck"),
    [
        ("t", 89.10, 88.45, 2_668_544),
        ("s", 113.80, 112.99, 2_729_984),
        ("b", 156.30, 155.22, 2_852_864),
        ("l", 277.02, 275.40, 3_098_624),
        ("xl", 445.37, 443.21, 3_344_384),
    ],
)
def test_parameters_are_as_many_as_the_originals(size, training, merged, neck):
    """training, merged: millions, of the networks for COCO; published are 113, 155 and 443 of S, B and XL, merged."""
    task = get_task("detection", model={"name": f"unireplknet_{size}", "num_classes": 80})
    for deploy, expected in ((False, training), (True, merged)):
        tree = task.abstract_variables(deploy)["params"]
        assert sum(leaf.size for leaf in jax.tree.leaves(tree)) / 1e6 == pytest.approx(expected, abs=0.005)
    parts = {"neck": neck, "rpn_head": 593_935, "bbox_head_1": 15_618_449, "mask_head_1": 2_643_280}
    assert {name: sum(leaf.size for leaf in jax.tree.leaves(tree[name])) for name in parts} == parts


def test_a_published_file_is_seen_at_its_scale_without_a_note(path, tmp_path):
    published = tmp_path / "casc_mask_rcnn_unireplknet_xl_in22k_3x_coco_ap56.39.pth"
    shutil.copy(path, published)
    checkpoint = open_checkpoint(published)
    assert checkpoint.task.scale == (1333, 800)
    assert with_image_size(checkpoint, published)[1] == []
    (note,) = with_image_size(checkpoint, path)[1]
    assert "none of the published files" in note
