"""Files of mmsegmentation: their tensors, their classes, and how pictures are prepared for their networks."""

import shutil

import numpy as np
import pytest
from models.archive_builder import Call, save, tensor

from unireplknet_jax.data.label_names import read_colours, read_labels
from unireplknet_jax.models.torch_archive import read_meta, read_state_dict, write_state_dict
from unireplknet_jax.tasks import convert
from unireplknet_jax.tasks.base import get_task
from unireplknet_jax.tasks.checkpoint import open_checkpoint
from unireplknet_jax.tasks.predict import with_image_size
from unireplknet_jax.tasks.segmentation_names import NAMES


def test_files_of_the_original_come_in_and_go_out_as_they_were(goldens, tmp_path):
    path = goldens / "dense" / "seg_tiny.pth"
    checkpoint = open_checkpoint(path)
    assert checkpoint.task.labels == tuple(f"class_{i}" for i in range(11))
    assert checkpoint.task.colours[1] == (37, 91, 17)
    convert.write_checkpoint(tmp_path / "back.pth", checkpoint)
    state, back = (read_state_dict(file)[0] for file in (path, tmp_path / "back.pth"))
    assert state.keys() == back.keys()
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    assert all(np.array_equal(state[name].numpy(), back[name].numpy()) for name in state.keys() - counters)
    meta = read_meta(tmp_path / "back.pth")
    assert (meta["CLASSES"], meta["PALETTE"]) == (checkpoint.task.labels, checkpoint.task.colours)
    again = open_checkpoint(tmp_path / "back.pth").task
    assert again == checkpoint.task


def test_names_in_a_file_may_be_those_of_ade20k_or_others():
    told = NAMES.told_by({"CLASSES": read_labels("ade20k"), "PALETTE": None})
    assert told["values"] == tuple(range(1, 151))
    assert told["colours"] == read_colours("ade20k")
    other = NAMES.told_by({"CLASSES": ["a", *read_labels("ade20k")[1:]]})
    assert (other["values"], other["colours"]) == ((), ())


def test_later_files_of_mmsegmentation_name_their_classes_elsewhere(goldens, tmp_path):
    later = {"classes": ("a", "b"), "palette": [[1, 2, 3], [4, 5, 6]]}
    told = NAMES.told_by({"dataset_meta": later})
    assert told == {"labels": ("a", "b"), "colours": ((1, 2, 3), (4, 5, 6)), "values": ()}
    assert NAMES.told_by({"dataset_meta": later, "CLASSES": ["c"], "PALETTE": None})["labels"] == ("c",)
    assert NAMES.told_by({"dataset_meta": ["a", "b"]}) == NAMES.told_by({"dataset_meta": {"classes": 2}}) == {}
    state = {name: stored.numpy() for name, stored in read_state_dict(goldens / "dense" / "seg_tiny.pth")[0].items()}
    names = tuple(f"thing {number}" for number in range(11))
    meta = {"classes": names, "palette": [[number, 0, 0] for number in range(11)], "label_map": Call("os.system", ())}
    root = {"meta": {"dataset_meta": meta}, "state_dict": {name: tensor(array) for name, array in state.items()}}
    task = open_checkpoint(save(tmp_path / "later.pth", root)).task
    assert (task.labels, task.colours[3]) == (names, (3, 0, 0))


LARGE = "test = dict(type='MultiScaleFlipAug', img_scale=(2560, 640))\ncrop_size = (640, 640)\n"


@pytest.mark.parametrize(
    ("file", "meta", "crop"),
    [
        ("upernet_unireplknet_b_in22k_640_160k_ade20k_miou53.52.pth", {}, 640),
        ("upernet_unireplknet_xl_in22k_640_160k_ade20k.pth", {"config": 3}, 640),
        ("upernet_unireplknet_t_512_160k_ade20k_miou48.56.pth", {}, 512),
        ("mine.pth", {"config": LARGE}, 640),
        ("mine.pth", {"cfg": "dict(type='Resize', scale=(1024, 256))\ncrop_size=(256, 256)"}, 256),
        ("upernet_unireplknet_t_512_160k_ade20k.pth", {"config": LARGE}, 640),
        ("upernet_unireplknet_s_in22k_640_160k_ade20k.pth", {"config": "other = dict(img_scale=(1, 2))"}, 640),
        ("mine.pth", {"config": LARGE + "img_scale=(2048, 512)"}, None),
        ("mine.pth", {"config": LARGE.replace("2560", "2048")}, None),
        ("mine.pth", {"config": LARGE.replace("640", "630").replace("2560", "2520")}, None),
        ("mine_640_160k_ade20k.pth", {}, None),
    ],
)
def test_the_scale_is_that_of_the_configuration_or_of_the_published_name(file, meta, crop):
    told = NAMES.prepared_for(file, meta)
    if crop is None:
        assert told == {}
        return
    assert (told["scale"], told["crop"], told["stride"]) == ((4 * crop, crop), crop, crop * 2 // 3)
    assert get_task("segmentation", model={"num_classes": 2}, **told).buckets == told["buckets"]


def test_a_published_file_is_seen_at_its_scale_without_a_note(goldens, tmp_path):
    path = tmp_path / "upernet_unireplknet_l_in22k_640_160k_ade20k_miou54.50.pth"
    shutil.copy(goldens / "dense" / "seg_tiny.pth", path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.task.scale == (2560, 640)
    assert checkpoint.task.buckets == ((640, 864), (864, 640), (640, 1280))
    assert with_image_size(checkpoint, path)[1] == []
    (note,) = with_image_size(checkpoint, goldens / "dense" / "seg_tiny.pth")[1]
    assert "none of the published files" in note
    wished = open_checkpoint(path, options={"scale": (1024, 256)}).task
    assert wished.scale == (1024, 256)


def test_moving_averages_beside_the_weights_are_left_out_and_holes_are_named(goldens, tmp_path):
    state = {n: t.numpy() for n, t in read_state_dict(goldens / "dense" / "seg_tiny.pth")[0].items()}
    averages = {f"ema_{name.replace('.', '_')}": array for name, array in state.items()}
    write_state_dict(tmp_path / "ema.pth", state | averages, "state_dict")
    assert open_checkpoint(tmp_path / "ema.pth").task.name == "segmentation"
    del state["decode_head.fpn_convs.1.bn.bias"]
    write_state_dict(tmp_path / "hole.pth", state, "state_dict")
    with pytest.raises(ValueError, match=r"missing \(1\): decode_head.fpn_convs.1.bn.bias"):
        open_checkpoint(tmp_path / "hole.pth")
