"""Which data `unireplknet evaluate` takes (what the flags name, else the checkpoint's), and what it asks of them."""

import argparse
import json
from types import SimpleNamespace

import jax
import pytest
from PIL import Image

from unireplknet_jax.__main__ import main
from unireplknet_jax.cli import evaluate as evaluate_command
from unireplknet_jax.cli.data import data_of
from unireplknet_jax.cli.evaluate import _parts
from unireplknet_jax.tasks.base import Split
from unireplknet_jax.tasks.checkpoint import Checkpoint, open_checkpoint
from unireplknet_jax.tasks.classification import Classification
from unireplknet_jax.train import evaluate as evaluation

OWN = {"name": "folder", "dir": "mine", "eval_split": "val", "broken": "skip", "class_order": "texts"}
FLAGS = dict.fromkeys(("data", "data_dir", "split", "broken", "class_order"))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, ("folder", "mine", "val", "skip", "texts")),
        ({"data": "folder"}, ("folder", "mine", "val", "skip", "texts")),
        (
            {"data_dir": "other", "split": "test", "broken": "refuse", "class_order": "numbers"},
            ("folder", "other", "test", "refuse", "numbers"),
        ),
        ({"data": "digits"}, ("digits", None, "test", "refuse", "numbers")),  # nothing of the folder belongs to it
    ],
)
def test_flags_come_before_what_the_checkpoint_says_of_the_same_data(flags, expected):
    found = data_of(argparse.Namespace(**FLAGS | flags), OWN, "eval_split", "test")
    assert tuple(found[name] for name in ("name", "dir", "split", "broken", "class_order")) == expected


@pytest.mark.parametrize(("flags", "follows"), [({}, True), ({"data_dir": "other"}, True), ({"data": "digits"}, False)])
def test_how_files_are_read_is_what_the_checkpoint_says(flags, follows):
    """Masks whose value 0 is no class would have the next class in every pixel otherwise."""
    ways = {"reduce_zero_label": True, "ignore": 7, "classes": "list.csv", "train_split": "training"}
    found = data_of(argparse.Namespace(**FLAGS | flags), OWN | ways | {"num_threads": 2}, "eval_split", "test")
    assert {name: value for name, value in found.items() if name in ways} == (ways if follows else {})
    assert "num_threads" not in found


@pytest.fixture
def outcomes(monkeypatch):
    """Of the evaluation only what it says: 25 classes, of which each is as often wrong as its number says."""

    def evaluate(task, *arguments, outcomes, **options):
        outcomes += [[number, number if turn >= number else 3] for number in range(count[0]) for turn in range(24)]
        return {"top1": 50.0}

    count = [10]
    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    return count


def test_of_few_classes_all_are_printed_in_their_order(outcomes, small, capsys):
    assert main(["evaluate", small, "--data", "digits"]) == 0
    table = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert table[0].split() == ["class", "examples", "accuracy", "%", "most", "often", "taken", "for"]
    assert [line.split()[:3] for line in table[1:4]] == [
        ["0", "24", "100.0"],
        ["1", "24", "95.8"],
        ["2", "24", "91.7"],
    ]
    assert table[10].split() == ["9", "24", "62.5", "3", "(9)"]  # names of the data, where the model has none


def test_of_many_classes_those_that_fared_worst_are_printed_and_json_has_all(outcomes, tiny, tmp_path, capsys):
    outcomes[0] = 25
    many = str(tmp_path / "many.pth")
    assert main(["convert", tiny, many, "--num-classes", "25"]) == 0
    capsys.readouterr()
    checkpoint = open_checkpoint(many)
    labels = tuple(f"class {number}" for number in range(25))
    split = Split(SimpleNamespace(labels=labels), "many", "test")
    assert checkpoint.task.classes == 25
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classification, "open", lambda self, data, split_name: split)
        patch.setattr(Classification, "examples", lambda self, split, train: None)
        assert main(["evaluate", many, "--data", "digits"]) == 0
        told, table = capsys.readouterr().out.split("\n\n")[1].split("\n", 1)
        assert told == "The 10 classes of 25 that fared worst; --json has all, --confusion all mistakes."
        assert [line.split()[1] for line in table.splitlines()[1:]] == [str(number) for number in range(24, 14, -1)]
        assert main(["evaluate", many, "--data", "digits", "--json"]) == 0
    classes = json.loads(capsys.readouterr().out)["classes"]
    assert [row["label"] for row in classes] == [*labels]
    assert classes[6] == {
        **{"label": "class 6", "examples": 24, "accuracy": 75.0},
        **{"mistaken_for": "class 3", "mistakes": 6},
    }


def test_classes_of_pixels_are_one_table_with_their_metrics(small, monkeypatch, capsys):
    """The IoU stands beside the accuracy, which is not told twice; a class that is nowhere has no row."""

    def evaluate(task, *arguments, outcomes, **options):
        outcomes += [[number, number if turn else 3, 1000] for number in range(9) for turn in range(4)]
        parts = {f"iou/{number}": 50.0 + number for number in range(9)} | {"iou/9": float("nan")}
        return {"miou": 54.0} | parts | {f"acc/{number}": 75.0 for number in range(10)}

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    monkeypatch.setattr(Classification, "outcomes_of", "pixels")
    monkeypatch.setattr(Classification, "units", {"miou": "%", "iou": "%"})
    assert main(["evaluate", small, "--data", "digits"]) == 0
    tables = capsys.readouterr().out.split("\n\n")
    assert len(tables) == 2
    head, *rows = tables[1].splitlines()
    assert head.split() == ["class", "pixels", "iou", "%", "accuracy", "%", "most", "often", "taken", "for"]
    assert [row.split() for row in rows[::8]] == [
        ["0", "4,000", "50.0", "75.0", "3", "(1,000)"],
        ["8", "4,000", "58.0", "75.0", "3", "(1,000)"],
    ]
    monkeypatch.setattr(evaluate_command, "_MOST_CLASSES", 5)
    monkeypatch.setattr(evaluate_command, "_WORST", 3)
    monkeypatch.setattr(Classification, "units", {})
    assert main(["evaluate", small, "--data", "digits"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[-3:]] == ["0", "1", "2"]
    assert main(["evaluate", small, "--data", "digits", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["classes"][0]["pixels"] == 4000
    assert document["metrics"]["iou/9"] is None


def test_a_class_that_is_found_but_nowhere_is_told_as_it_lowers_the_mean(small, monkeypatch, capsys):
    def evaluate(task, *arguments, outcomes, **options):
        outcomes += [[0, 0, 900], [0, 3, 100]]
        return {"miou": 45.0, "iou/0": 90.0, "iou/3": 0.0} | {f"iou/{n}": float("nan") for n in (1, 2, *range(4, 10))}

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    monkeypatch.setattr(Classification, "outcomes_of", "pixels")
    assert main(["evaluate", small, "--data", "digits"]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told == "Found, but not in the data, with an iou of 0, which is in the mean: 3"


def test_the_confusion_is_written_as_the_endings_say(outcomes, small, tmp_path, capsys):
    table, picture = str(tmp_path / "a.csv"), str(tmp_path / "a.PNG")
    assert main(["evaluate", small, "--data", "digits", "--confusion", table, "--confusion", picture]) == 0
    assert capsys.readouterr().err.endswith(f"wrote {table}\nwrote {picture}\n")
    with open(table, encoding="utf-8") as file:
        assert file.read().splitlines()[5].split(",")[1:] == ["0", "0", "0", "4", "20", "0", "0", "0", "0", "0"]
    with Image.open(picture) as image:
        assert image.size[0] > 300


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--confusion", "a.txt"], 2, "--confusion is a.txt; expected a name that ends in .csv or .png."),
        (["--confusion", "nowhere/a.csv"], 1, "the folder of --confusion nowhere/a.csv does not exist"),
    ],
)
def test_a_confusion_that_cannot_be_written_is_refused_at_once(words, code, message, capsys):
    assert main(["evaluate", "unopened", *words]) == code
    assert message in capsys.readouterr().err


def test_a_task_whose_examples_have_several_classes_has_no_confusion(small, monkeypatch, capsys):
    monkeypatch.setattr(Classification, "has_outcomes", False)
    assert main(["evaluate", small, "--data", "digits", "--confusion", "a.csv"]) == 1
    assert (
        "leave out --confusion: the examples of the task classification do not have one class each"
        in capsys.readouterr().err
    )


def test_the_data_are_looked_at_before_the_network_is_merged(small, monkeypatch, capsys):
    def merged(self):
        raise AssertionError

    monkeypatch.setattr(Checkpoint, "in_merged_form", merged)
    assert main(["evaluate", small, "--data", "digits", "--split", "nowhere"]) == 1
    assert "has no split 'nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["merged", "training"])
def test_what_is_asked_for_reaches_the_evaluation(form, small, tmp_path, monkeypatch, capsys):
    def evaluate(*arguments, **options):
        asked.append((arguments[3], options))
        return {"count": 360.0}

    asked, keys, saved = [], list(range(360)), str(tmp_path / "saved.npz")
    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    monkeypatch.setattr(Classification, "shape_keys", lambda self, split: keys[: len(split.source)])
    words = ["evaluate", small, "--data", "digits", "--form", form]
    assert main([*words, "--batch-size", "40", "--threads", "3", "--workers", "2", "--predictions", saved]) == 0
    assert main(words) == 0
    assert capsys.readouterr().err == ""
    (batch_size, flags), (default_size, defaults) = asked
    assert (batch_size, default_size) == (40, 32 * jax.device_count())
    expected = {"deploy": form == "merged", "num_threads": 3, "workers": 2, "predictions": saved, "keys": keys}
    assert [(each.pop("eval_step"), each.pop("mesh").size) for each in (flags, defaults)] == [(None, 8)] * 2
    assert flags == expected | {"outcomes": []}
    assert defaults | {"num_threads": 3} == flags | {"workers": 0, "predictions": None}
    assert 1 <= defaults["num_threads"] <= 16


def test_metrics_of_parts_are_tables_and_a_missing_baseline_is_a_note(small, monkeypatch, capsys):
    metrics = {
        "mse": 2.5,
        "mse/lead 1": 1.0,
        "skill/lead 1": 0.5,
        "mse/lead 2": 4.0,
        "skill/lead 2": -0.25,
        "mse/a": 3.0,
    }
    tables = {("mse", "skill"): {"lead 1": (1.0, 0.5), "lead 2": (4.0, -0.25)}, ("mse",): {"a": (3.0,)}}
    assert _parts(metrics) == tables
    monkeypatch.setattr(evaluation, "evaluate", lambda *arguments, **options: metrics)
    monkeypatch.setattr(Classification, "compared", lambda self, split, open_train: (split, [open_train().name]))
    assert main(["evaluate", small, "--data", "digits"]) == 0
    out, err = capsys.readouterr()
    assert err == "note: train\n"
    expected = [
        *("metric  value  unit", "mse       2.5"),
        *("", "of      mse  skill", "lead 1    1    0.5", "lead 2    4  -0.25", "", "of  mse", "a     3"),
    ]
    assert out.splitlines()[1 : 1 + len(expected)] == expected  # the classes follow
