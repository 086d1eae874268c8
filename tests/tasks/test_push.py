"""A checkpoint through the hub and back, its model card, and what is refused before anything is uploaded."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import small_tasks
import trimesh
import yaml
from official_files import assert_equal, leaves
from small_tasks import HEADS, KINDS, NAMED, with_lists, write_files

import unireplknet_jax as urk
from unireplknet_jax.__main__ import main
from unireplknet_jax.models.torch_archive import read_state_dict
from unireplknet_jax.tasks.checkpoint import load_pretrained, open_checkpoint, save_checkpoint
from unireplknet_jax.tasks.push import model_card, push

pytestmark = pytest.mark.usefixtures("quick_compilation")
DATA = {"name": "folder", "dir": "/home/me/secret", "train_split": "train", "eval_split": "val"}


def make_checkpoint(name, **options):
    model = NAMED if name == "forecasting" else {**NAMED, "num_classes": 6, **HEADS.get(name, {})}
    return small_tasks.make_checkpoint(name, model=model, **options)


@pytest.fixture(params=KINDS)
def saved(request, tmp_path):
    """(the path of a saved checkpoint, the checkpoint)."""
    labels = {} if request.param == "forecasting" else {"labels": tuple("abcde|")}
    checkpoint = dataclasses.replace(make_checkpoint(request.param, **labels), data=DATA, source="mine")
    save_checkpoint(tmp_path / "model", checkpoint)
    return tmp_path / "model", checkpoint


@pytest.fixture
def small(tmp_path):
    save_checkpoint(tmp_path / "small", make_checkpoint("classification"))
    return tmp_path / "small"


def parts(card):
    """(front matter, rows of the table, the block of Python) of a model card."""
    _, front, text = card.split("---\n", 2)
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE))
    return yaml.safe_load(front), rows, re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


@pytest.mark.parametrize("merged", [False, True])
def test_what_was_pushed_opens_as_what_was_saved(saved, merged, hub, tmp_path):
    path, checkpoint = saved
    if merged:
        checkpoint = checkpoint.in_merged_form()
        save_checkpoint(path, checkpoint, overwrite=True)
    push(path, "me/net")
    assert sorted(hub.files("me/net")) == ["README.md", "card.json", "model.safetensors"]
    found = urk.open_checkpoint("hf-hub:me/net")
    assert (found.task, found.merged, found.source) == (checkpoint.task, merged, "mine")
    assert found.data == {"name": "folder", "train_split": "train", "eval_split": "val"}
    assert_equal(leaves(found.variables), leaves(checkpoint.variables))
    model, variables = load_pretrained("hf-hub:me/net")
    assert model == checkpoint.module
    assert_equal(leaves(variables), leaves(checkpoint.variables))


def test_nothing_is_told_of_the_folder_of_the_data(saved, hub):
    push(saved[0], "me/net")
    assert not any(b"secret" in content for content in hub.files("me/net").values())
    assert "secret" in (saved[0] / "card.json").read_text()


def test_the_tensors_have_the_official_names(saved, hub, tmp_path):
    path, checkpoint = saved
    push(path, "me/net")
    (tmp_path / "x.safetensors").write_bytes(hub.files("me/net")["model.safetensors"])
    state, _ = read_state_dict(tmp_path / "x.safetensors")
    assert {*checkpoint.task.name_table(False)} <= {*state}


def test_the_model_card_says_what_the_card_says_and_its_block_runs(saved, hub, tmp_path, monkeypatch):
    path, checkpoint = saved
    push(path, "me/net")
    front, rows, block = parts(hub.files("me/net")["README.md"].decode())
    assert front["library_name"] == "unireplknet_jax"
    assert {"unireplknet", checkpoint.task.name} <= {*front["tags"]}
    assert (front.get("pipeline_tag") is None) == (checkpoint.task.name == "points")
    assert rows["task"] == checkpoint.task.name
    assert "dims 8, 16, 24, 32" in rows["network"]
    count = sum(leaf.size for leaf in jax.tree.leaves(checkpoint.variables["params"]))
    assert rows["form"] == f"training, {count:,} parameters, float32"
    expected = "3: north, east, west" if checkpoint.task.name == "forecasting" else r"6: a, b, c, d, e, \|"
    assert rows["outputs"] == expected
    assert rows["data"] == "folder, trained on train, evaluated on val"
    assert {f"`{name}`" for name in checkpoint.preprocessing} <= {*rows}
    assert len(block.splitlines()) == 3
    monkeypatch.chdir(tmp_path)
    (file, _) = write_files(tmp_path, checkpoint.task.name)
    if checkpoint.task.name == "points":  # whose sample is a mesh
        trimesh.creation.box((1, 2, 3)).export(checkpoint.task.sample)
    else:
        (tmp_path / file).rename(tmp_path / checkpoint.task.sample)
    names = {}
    exec(block, names)
    assert with_lists(names["records"]) == with_lists(urk.predict(checkpoint, [checkpoint.task.sample]))


def test_the_card_of_a_network_without_classifier_embeds(goldens):
    checkpoint = open_checkpoint(goldens / "tiny_afp.pth", num_classes=None)
    _, rows, block = parts(model_card(checkpoint, "me/net"))
    assert rows["outputs"] == "no classifier: feature maps"
    assert rows["data"] == "not known"
    assert rows["`resize`"] == "by the official rule"
    assert 'vectors = urk.embed(checkpoint, ["rose.jpg"])' in block


def test_the_card_of_a_network_of_masks_says_which_size_pictures_have(goldens):
    checkpoint = open_checkpoint(goldens / "dense" / "seg_tiny.pth")
    own_size = dataclasses.replace(checkpoint, task=dataclasses.replace(checkpoint.task, scale=None))
    _, rows, block = parts(model_card(own_size, "me/net"))
    assert rows["`scale`"] == "that of the picture"
    assert 'records = urk.predict(checkpoint, ["street.jpg"])' in block


def test_many_names_are_counted_and_a_line_stays_a_line():
    checkpoint = make_checkpoint("classification")
    model = dict(checkpoint.task.model) | {"num_classes": 30}
    task = dataclasses.replace(checkpoint.task, model=model, labels=tuple(f"a\n|{i}" for i in range(30)))
    _, rows, _ = parts(model_card(dataclasses.replace(checkpoint, task=task), "me/net"))
    assert rows["outputs"].startswith(r"30: a \|0, a \|1, ")
    assert rows["outputs"].endswith(r"a \|19, ... (30 in all)")


def test_the_same_folder_on_a_disk_is_a_checkpoint(small, hub):
    push(small, "me/net")
    folder = hub.commits("me/net")[-1]
    found = urk.open_checkpoint(folder, num_classes=4)
    assert found.task.classes == 4
    assert found.path == folder


def test_damaged_tensors_are_named(small, hub):
    push(small, "me/net")
    folder = hub.commits("me/net")[-1]
    card = json.loads((folder / "card.json").read_text())
    card["options"]["model"]["dims"] = [8, 16, 24, 40]
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"^the variables in .* do not fit its card\.json: .*stages\.3") as raised:
        open_checkpoint("hf-hub:me/net")
    assert "\n" not in str(raised.value)


def test_what_is_no_checkpoint_of_ours_is_not_pushed(hub, goldens, tmp_path):
    (tmp_path / "folder").mkdir()
    for path, message in (
        (goldens / "tiny_afp.pth", "is no directory of this package"),
        (tmp_path / "gone", "gone does not exist"),
        ("", "the folder to push has an empty name"),
        (tmp_path / "folder", r"is not a checkpoint of ours: it has no card\.json"),
    ):
        with pytest.raises(ValueError, match=message):
            push(path, "me/net")
    # The name comes first, before a folder is looked at.
    with pytest.raises(ValueError, match=r"^hf-hub:net is not the name of a repository"):
        push(tmp_path / "gone", "hf-hub:net")
    assert hub.calls == []


def test_data_of_one_s_own_need_no_name(small):
    checkpoint = dataclasses.replace(open_checkpoint(small), data={"train_split": "mine"})
    assert "| data | not known, trained on mine |" in model_card(checkpoint, "me/net")


def test_a_checkpoint_that_is_damaged_is_not_pushed(small, hub):
    card = json.loads((small / "card.json").read_text())
    card["options"]["model"]["dims"] = [8, 16, 24, 40]
    (small / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"do not fit its card\.json"):
        push(small, "me/net")
    assert hub.calls == []


def test_the_commands_push_open_and_refuse_in_one_line(small, hub, tmp_path, capsys):
    assert main(["push", str(small), "me/net", "--private"]) == 0
    assert capsys.readouterr().out == f"pushed {small}: https://hub/me/net/{1:040x}\n"
    assert main(["push", str(small), "me/net"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "me/net holds README.md, card.json, model.safetensors already" in line
    assert main(["push", str(small), "me/net", "--overwrite"]) == 0
    assert main(["push", str(tmp_path), "me/other"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not a checkpoint of ours" in line
    (file, _) = write_files(tmp_path, "classification")
    for words in (["predict", "hf-hub:me/net", file, "--json"], ["convert", "hf-hub:me/net", str(tmp_path / "x.pth")]):
        assert main(words) == 0
        assert capsys.readouterr().err == ""
    assert main(["predict", "hf-hub:me/gone", file]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is no such repository" in line


def test_stored_types_come_back(small, hub):
    checkpoint = open_checkpoint(small, dtype=jax.numpy.bfloat16)
    save_checkpoint(small, checkpoint, overwrite=True)
    push(small, "me/net")
    found = open_checkpoint("hf-hub:me/net")
    assert {np.asarray(leaf).dtype.name for leaf in jax.tree.leaves(found.variables)} == {"bfloat16"}
    assert_equal(leaves(found.variables), leaves(checkpoint.variables))
