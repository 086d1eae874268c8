"""`convert`: every kind of checkpoint in and out, nothing lost, nothing overwritten or half-written by accident."""

import dataclasses
import json
import os
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unireplknet_jax.__main__ import main
from unireplknet_jax.models import directory, torch_archive
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.tasks import checkpoint as checkpoints
from unireplknet_jax.tasks import convert
from unireplknet_jax.tasks.base import get_task
from unireplknet_jax.tasks.checkpoint import Checkpoint, open_checkpoint, save_checkpoint


def arrays_of(path):
    return {name: value.numpy() for name, value in torch_archive.read_state_dict(path)[0].items()}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_file_survives_the_way_through_every_format(tiny, tmp_path, capsys):
    ours, tensors, back = (str(tmp_path / name) for name in ("ours", "x.safetensors", "back.pth"))
    for source, destination in ((tiny, ours), (ours, tensors), (tensors, back)):
        assert main(["convert", source, destination]) == 0
    before, after = arrays_of(tiny), arrays_of(back)
    assert before.keys() == after.keys()
    for name, array in before.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(array, after[name], name)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"wrote {path}" for path in (ours, tensors, back)]
    for fact in ("training form", "(2, 2, 6, 2)", "(8, 16, 32, 64)", "10 classes", "float32"):
        assert all(fact in line for line in lines)
    assert "542 tensors, 259,158 parameters" in lines[0]
    counters = sum(name.endswith("num_batches_tracked") for name in after)
    assert f"542 tensors and {counters} batch counters, 259,158 parameters" in lines[2]
    assert len(after) == 542 + counters


def test_a_file_may_be_given_another_task(tiny, tmp_path):
    assert main(["convert", tiny, str(tmp_path / "clips"), "--task", "video"]) == 0
    assert directory.read_card(tmp_path / "clips")["task"] == "video"


def test_options_reach_the_checkpoint(small, tmp_path, capsys):
    destination = tmp_path / "fitted"
    options = ["--num-classes", "3", "--in-chans", "1", "--dtype", "bfloat16"]
    assert main(["convert", small, str(destination), *options]) == 0
    fitted = open_checkpoint(destination)
    assert (fitted.module.num_classes, fitted.module.in_chans) == (3, 1)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(fitted.variables)} == {"bfloat16"}
    captured = capsys.readouterr()
    assert "num_classes 10 -> 3" in captured.err
    assert "3 classes, input channels 1" in captured.out
    assert main(["convert", small, str(destination), "--num-classes", "none", "--overwrite"]) == 0
    assert open_checkpoint(destination).module.num_classes is None
    assert "no classifier" in capsys.readouterr().out


def test_what_lies_below_a_prefix_is_taken(tiny, tmp_path, capsys):
    arrays = arrays_of(tiny)
    two = {f"student.{name}": 0 * array for name, array in arrays.items()}
    torch_archive.write_state_dict(tmp_path / "two.pth", two | {f"teacher.{n}": a for n, a in arrays.items()})
    source, destination = str(tmp_path / "two.pth"), str(tmp_path / "one.pth")
    assert main(["convert", source, destination]) == 1
    assert "networks are below the prefixes student., teacher., of which one may be asked" in capsys.readouterr().err
    assert main(["convert", source, destination, "--prefix", "coach"]) == 1
    assert capsys.readouterr().err.endswith(
        "no tensor is below the prefix coach., but there are networks below student., teacher.; give one of these, or "
        "none\n"
    )
    assert main(["convert", source, destination, "--prefix", "teacher"]) == 0
    for name, array in arrays_of(destination).items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(array, arrays[name], name)
    assert main(["convert", destination, str(tmp_path / "ours")]) == 0
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "b.pth"), "--prefix", "teacher"]) == 1
    assert "without prefixes" in capsys.readouterr().err


def test_the_averaged_weights_are_taken_on_request(tiny, tmp_path, monkeypatch, capsys):
    asked = []
    read = torch_archive.read_state_dict
    monkeypatch.setattr(
        torch_archive, "read_state_dict", lambda path, ema=False, prefix="": asked.append(ema) or read(path)
    )
    assert main(["convert", tiny, str(tmp_path / "a")]) == 0
    assert main(["convert", tiny, str(tmp_path / "b"), "--ema"]) == 0
    assert asked == [False, True]


@pytest.mark.parametrize("name", ["there.pth", "there"])
def test_what_exists_is_refused_before_the_source_is_read(name, tmp_path, capsys):
    there = tmp_path / name
    there.write_text("precious") if "." in name else there.mkdir()
    assert main(["convert", str(tmp_path / "missing.pth"), str(there)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["reparameterize", str(tmp_path / "missing.pth"), str(there)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_what_exists_is_replaced_on_request(tiny, tmp_path):
    there = tmp_path / "x.pth"
    there.write_text("old")
    assert main(["convert", tiny, str(there), "--overwrite"]) == 0
    assert len(arrays_of(there)) > 542
    assert os.listdir(tmp_path) == ["x.pth"]


@pytest.mark.parametrize("command", ["convert", "reparameterize"])
@pytest.mark.parametrize("spelling", ["{0}", "{0}/../x", "{0}/inside", "{0}/..", "{0}/../link"])
def test_source_and_destination_must_be_apart(command, spelling, tmp_path, capsys):
    source = tmp_path / "x"
    source.mkdir()
    (source / "card.json").write_text("{}")
    (tmp_path / "link").symlink_to(source)
    for name in (source, tmp_path / "link"):
        assert main([command, str(name), spelling.format(source), "--overwrite"]) == 1
        assert "choose another destination" in capsys.readouterr().err
    assert os.listdir(source) == ["card.json"]


@pytest.mark.parametrize(
    ("destination", "message"),
    [
        ("folder", "it has no card.json"),
        ("folder/sub.pth", "is a directory and not a .pth file"),
        ("nowhere/x.pth", "does not exist; create it first"),
        ("x.pt", "end its name in .pth or .safetensors"),
        ("pytorch_model.bin", "end its name in .pth or .safetensors"),
    ],
)
def test_other_destinations_that_do_not_work_are_refused_early(destination, message, tmp_path, capsys):
    (tmp_path / "folder" / "sub.pth").mkdir(parents=True)
    assert main(["convert", "missing.pth", str(tmp_path / destination), "--overwrite"]) == 1
    assert message in capsys.readouterr().err


def fail_in_write_zip(monkeypatch, error):
    def write(path, arrays, **options):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch_archive, "write_zip", write)


def fail_in_directory(monkeypatch, error):
    def dumps(*args, **options):
        raise error

    monkeypatch.setattr(directory, "json", types.SimpleNamespace(**{**vars(json), "dumps": dumps}))


@pytest.mark.parametrize(("error", "code"), [(OSError(28, "No space left on device"), 1), (KeyboardInterrupt(), 130)])
@pytest.mark.parametrize(("name", "fail"), [("x.pth", fail_in_write_zip), ("x", fail_in_directory)])
def test_a_failure_leaves_nothing_half_written(name, fail, error, code, small, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fail(patch, error)
        assert main(["convert", small, str(tmp_path / name)]) == code
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("name", "fail"), [("x.pth", fail_in_write_zip), ("x", fail_in_directory)])
def test_a_failure_keeps_what_was_there(name, fail, small, tmp_path, monkeypatch):
    there = tmp_path / name
    assert main(["convert", small, str(there)]) == 0
    before = content(tmp_path if there.is_file() else there)
    with monkeypatch.context() as patch:
        fail(patch, KeyboardInterrupt())
        assert main(["convert", small, str(there), "--num-classes", "3", "--overwrite"]) == 130
    assert content(tmp_path if there.is_file() else there) == before
    assert os.listdir(tmp_path) == [name]
    assert open_checkpoint(there).module.num_classes == 10


def test_values_that_do_not_fit_the_storage_type_are_refused(small, tmp_path, capsys):
    checkpoint = open_checkpoint(small)
    params = checkpoint.variables["params"]
    params = {**params, "head": {**params["head"], "bias": params["head"]["bias"].at[3].set(1e5)}}
    save_checkpoint(
        tmp_path / "wide", dataclasses.replace(checkpoint, variables={**checkpoint.variables, "params": params})
    )
    assert main(["convert", str(tmp_path / "wide"), str(tmp_path / "narrow"), "--dtype", "float16"]) == 1
    assert "params/head/bias; choose bfloat16" in capsys.readouterr().err
    assert not (tmp_path / "narrow").exists()
    assert main(["convert", str(tmp_path / "wide"), str(tmp_path / "fits"), "--dtype", "bfloat16"]) == 0


@pytest.mark.parametrize("words", [["--num-classes", "many"], ["--num-classes", "-1"], ["--dtype", "int8"]])
def test_wrong_options_are_usage_errors(words, small, tmp_path, capsys):
    assert main(["convert", small, str(tmp_path / "x"), *words]) == 2


@pytest.mark.parametrize("words", [["--num-classes", "0"], ["--in-chans", "0"], ["--ema"]])
def test_options_that_do_not_fit_the_file_are_errors(words, small, tmp_path, capsys):
    assert main(["convert", small, str(tmp_path / "x"), *words]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert os.listdir(tmp_path) == []


def test_a_published_size_is_named():
    task = get_task("classification", model={"name": "unireplknet_a"})
    facts = convert.describe(Checkpoint(task, abstract_variables(task.module()), merged=False))
    assert (facts["model"], facts["parameters"], facts["dtype"]) == ("unireplknet_a", 4_649_060, "float32")


def test_non_finite_weights_are_reported(small, tmp_path, capsys):
    checkpoint = open_checkpoint(small)
    params = checkpoint.variables["params"]
    params = {**params, "head": {**params["head"], "bias": params["head"]["bias"].at[3].set(jnp.nan)}}
    broken = dataclasses.replace(checkpoint, variables={**checkpoint.variables, "params": params})
    checkpoints.save_checkpoint(tmp_path / "broken", broken)
    assert main(["convert", str(tmp_path / "broken"), str(tmp_path / "x.pth"), "--dtype", "float16"]) == 0
    assert "non-finite values in params/head/bias" in capsys.readouterr().err
