"""Checkpoint directories of ours: bitwise there and back, whole or not at all."""

import dataclasses
import json
import os
import shutil
import types

import jax
import ml_dtypes
import numpy as np
import pytest
from official_files import TINY, assert_equal, leaves, refusal, write

import unireplknet_jax as urk
from unireplknet_jax.tasks.checkpoint import Checkpoint, load_checkpoint, open_checkpoint, save_checkpoint
from unireplknet_jax.tasks.classification import Classification


@pytest.fixture(scope="module")
def checkpoint(state, tmp_path_factory):
    _, variables = load_checkpoint(write(tmp_path_factory.mktemp("official") / "a.pth", state))
    task = Classification(TINY, labels=tuple("0123456789"), image_size=32, label_smoothing=0.1, crop_padding=4)
    return Checkpoint(task, variables, False, {"name": "digits", "dir": ""}, "digits, 880 steps")


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_directory_comes_back_bitwise(tmp_path, checkpoint, dtype):
    variables = jax.tree.map(lambda x: np.asarray(x).astype(dtype), checkpoint.variables)
    save_checkpoint(tmp_path / "ours", dataclasses.replace(checkpoint, variables=variables))
    again = open_checkpoint(tmp_path / "ours")
    assert (again.task, again.merged, again.data) == (checkpoint.task, False, checkpoint.data)
    assert again.source == checkpoint.source == "digits, 880 steps"
    assert_equal(leaves(again.variables), leaves(variables))
    assert load_checkpoint(tmp_path / "ours")[0] == checkpoint.module


def test_the_merged_form_comes_back_as_such(tmp_path, checkpoint, merged_state):
    _, merged = load_checkpoint(write(tmp_path / "a.pth", merged_state))
    save_checkpoint(tmp_path / "ours", Checkpoint(checkpoint.task, merged, True))
    again = open_checkpoint(tmp_path / "ours")
    assert again.merged
    assert again.module.deploy
    assert_equal(leaves(again.variables), leaves(merged))


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory, checkpoint):
    path = tmp_path_factory.mktemp("saved") / "ours"
    save_checkpoint(path, checkpoint)
    return path


@pytest.fixture
def saved(tmp_path, saved_once):
    return shutil.copytree(saved_once, tmp_path / "ours")


def test_the_card_says_what_is_in_it(saved, checkpoint):
    card = json.loads((saved / "card.json").read_text())
    assert card["task"] == "classification"
    assert card["options"] == json.loads(json.dumps(checkpoint.task.options))
    assert card["labels"] == list("0123456789")
    assert (card["form"], card["data"], card["source"]) == ("training", checkpoint.data, checkpoint.source)
    assert card["versions"]["unireplknet_jax"] == urk.__version__
    assert card["versions"]["jax"] == jax.__version__


def test_it_can_meet_a_batch_on_all_devices(saved):
    _, variables = load_checkpoint(saved)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.device_put(np.ones((8, 10)), jax.NamedSharding(mesh, jax.P("data")))
    assert jax.jit(lambda bias, rows: bias + rows)(variables["params"]["head"]["bias"], rows).shape == (8, 10)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda card: "{", "cannot be read"),
        (lambda card: b"\xff\xfe{}", "cannot be read"),
        (lambda card: "[]", "damaged or of another version"),
        (lambda card: {**card, "form": "molten"}, "'molten'"),
        (lambda card: {name: value for name, value in card.items() if name != "form"}, "there is no 'form' in it"),
        (lambda card: {**card, "task": "telepathy"}, "unknown task 'telepathy'"),
        (lambda card: {**card, "options": {**card["options"], "aura": 1}}, "aura"),
        (lambda card: {**card, "options": None}, "damaged or of another version"),
        (lambda card: {**card, "data": {"dir": "here"}}, "its data is"),
        (lambda card: {**card, "labels": ["a"]}, "1 labels do not fit a model of 10 classes"),
        (lambda card: {**card, "form": "merged"}, r"do not fit its card\.json: missing"),
    ],
)
def test_a_damaged_card_is_one_sentence(saved, damage, message):
    card = saved / "card.json"
    broken = damage(json.loads(card.read_text()))
    if not isinstance(broken, str | bytes):
        broken = json.dumps(broken)
    card.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(saved)
    assert "\n" not in str(caught.value)
    assert str(saved) in str(caught.value)


def test_variables_that_do_not_fit_the_card_are_listed(saved):
    card = json.loads((saved / "card.json").read_text())
    card["options"]["model"] |= {"num_classes": None, "dims": [8, 16, 24, 40]}
    (saved / "card.json").write_text(json.dumps(card | {"labels": []}))
    said = refusal(saved)
    assert "unexpected (4)" in said
    assert "head.weight" in said
    assert "downsample_layers.3.0.weight (32, 24, 3, 3) instead of (40, 24, 3, 3)" in said


@pytest.mark.parametrize("damage", ["gone", "emptied", "cut"])
def test_damaged_variables_are_one_sentence(saved, damage):
    for file in sorted((saved / "variables").rglob("*"), reverse=True):
        if file.is_dir():
            continue
        if damage == "cut":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        else:
            file.unlink()
    if damage == "gone":
        (saved / "variables").rename(saved.parent / "elsewhere")
    why = "its folder variables is not there" if damage == "gone" else "its variables cannot be read"
    assert f"is damaged: {why}" in refusal(saved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rand_augment": -1}, "is damaged or of another version"),
        ({"image_size": 1e308}, "is damaged or of another version"),
        ({"model": {"dims": "abcd"}}, "is damaged or of another version"),
        ({"model": {"dims": [8, 16, 24, 1e308], "depths": [1, 1, 1, 1]}}, "is damaged or of another version"),
        ({"model": 3}, "is damaged or of another version"),
    ],
)
def test_options_that_cannot_be_are_one_sentence(saved, options, message):
    card = json.loads((saved / "card.json").read_text())
    card["options"] |= options
    (saved / "card.json").write_text(json.dumps(card))
    said = refusal(saved)
    assert message in said
    assert "\n" not in said


def test_a_card_that_is_nested_too_deeply_is_one_sentence(saved):
    (saved / "card.json").write_text("[" * 200_000)
    assert "its card.json is nested too deeply" in refusal(saved)


def test_a_directory_of_something_else_is_refused(tmp_path):
    assert refusal(tmp_path).endswith(f"{tmp_path} is not a checkpoint of ours: it has no card.json.")


@pytest.mark.parametrize("given", ["", "checkpoints", "checkpoints/20"])
def test_the_workdir_of_a_training_says_where_its_checkpoints_are(tmp_path, given):
    workdir = tmp_path / "run"
    (workdir / "checkpoints" / "20").mkdir(parents=True)
    sentence = (
        f"{workdir / given} is not a checkpoint of ours: it has no card.json; {workdir} is the workdir of a training"
    )
    assert refusal(workdir / given) == f"{sentence}: best/ comes with its first evaluation, model/ at its end."
    for name in ("best", "model", "best_ema", "model_ema"):
        (workdir / name).mkdir()
        (workdir / name / "card.json").write_text("{}")
    found = " or ".join(str(workdir / name) for name in ("model", "model_ema", "best", "best_ema"))
    assert refusal(workdir / given) == f"{sentence}: give {found}."


def test_ema_is_for_official_files(saved):
    assert "ema applies to .pth files" in refusal(saved, ema=True)


def contents(folder):
    return {path.relative_to(folder): path.is_dir() or path.read_bytes() for path in folder.rglob("*")}


def test_an_existing_directory_is_left_alone(saved, checkpoint):
    before = contents(saved.parent)
    with pytest.raises(FileExistsError, match="ours exists already"):
        save_checkpoint(saved, checkpoint)
    assert contents(saved.parent) == before


def test_overwriting_replaces_a_checkpoint_whole(saved, checkpoint):
    (saved / "left over").touch()
    other = jax.tree.map(lambda x: 2 * np.asarray(x), checkpoint.variables)
    save_checkpoint(saved, Checkpoint(checkpoint.task, other, False), overwrite=True)
    assert_equal(leaves(load_checkpoint(saved)[1]), leaves(other))
    assert os.listdir(saved.parent) == ["ours"]
    assert not (saved / "left over").exists()


def test_only_a_checkpoint_of_ours_is_overwritten(tmp_path, checkpoint):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    with pytest.raises(FileExistsError, match="is not a checkpoint of ours"):
        save_checkpoint(tmp_path / "thesis", checkpoint, overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.tex").exists()
    (tmp_path / "new").mkdir()  # empty, it has nothing to lose
    save_checkpoint(tmp_path / "new", checkpoint, overwrite=True)
    assert (tmp_path / "new" / "card.json").exists()


def failing(function, call=1):
    """`function`, but there is an error when it is called for the `call`-th time."""
    calls = []

    def wrapper(*args, **options):
        calls.append(args)
        if len(calls) == call:
            raise OSError("disk full")
        return function(*args, **options)

    return wrapper


@pytest.mark.parametrize(
    "breakage",
    [
        ("orbax.checkpoint.StandardCheckpointer.save", failing(None)),
        ("unireplknet_jax.models.directory.json", types.SimpleNamespace(dumps=failing(None))),
        ("unireplknet_jax.models.directory.os", types.SimpleNamespace(replace=failing(os.replace, 1))),
        ("unireplknet_jax.models.directory.os", types.SimpleNamespace(replace=failing(os.replace, 2))),
    ],
    ids=["variables", "card", "moving the old one away", "moving the new one in"],
)
def test_a_failure_leaves_the_old_checkpoint_whole_and_nothing_else(saved, checkpoint, monkeypatch, breakage):
    before = contents(saved.parent)
    other = Checkpoint(checkpoint.task, jax.tree.map(lambda x: 2 * np.asarray(x), checkpoint.variables), False)
    monkeypatch.setattr(*breakage)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(saved, other, overwrite=True)
    assert contents(saved.parent) == before


@pytest.mark.parametrize(
    ("name", "inputs", "options"),
    [
        ("pictures", {"image": (2, 16, 16, 1)}, {"crop_padding": 2, "std": (0.25,), "labels": ("a", "b")}),
        pytest.param(
            *("clips", {"views": (2, 2, 4, 16, 16, 3)}, {"segments": 2, "mixup": 0.8, "labels": ("loud", "still")}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_directories_of_older_versions_open(goldens, name, inputs, options):
    """Written before tasks had a class of their own; that of clips names options of pictures, which it never had."""
    checkpoint = open_checkpoint(goldens / "directories" / name)
    assert {option: getattr(checkpoint.task, option) for option in options} == options
    assert checkpoint.data == {"name": "made up", "eval_split": "val"}
    rng = np.random.default_rng(1)
    batch = {key: rng.integers(0, 256, shape, np.uint8) for key, shape in inputs.items()}
    pred = checkpoint.task.predict(checkpoint.module.apply, checkpoint.variables, batch)
    expected = np.load(goldens / "directories" / f"{name}_logits.npy")
    np.testing.assert_allclose(pred["logits"], expected, rtol=1e-5)
