"""Which data `unireplknet evaluate` takes (what the flags name, else the checkpoint's), and what it asks of them."""

import argparse

import jax
import pytest

from unireplknet_jax.__main__ import main
from unireplknet_jax.cli.evaluate import _data, _parts
from unireplknet_jax.tasks.classification import Classification
from unireplknet_jax.train import evaluate as evaluation

OWN = {"name": "folder", "dir": "mine", "eval_split": "val", "broken": "skip"}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, ("folder", "mine", "val", "skip")),
        ({"data": "folder"}, ("folder", "mine", "val", "skip")),
        ({"data_dir": "other", "split": "test", "broken": "refuse"}, ("folder", "other", "test", "refuse")),
        ({"data": "digits"}, ("digits", None, "test", "refuse")),  # nothing of the folder belongs to it
    ],
)
def test_flags_come_before_what_the_checkpoint_says_of_the_same_data(flags, expected):
    args = argparse.Namespace(**{"data": None, "data_dir": None, "split": None, "broken": None, **flags})
    assert tuple(_data(args, OWN).values()) == expected


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
    assert flags == {"deploy": form == "merged", "num_threads": 3, "workers": 2, "predictions": saved, "keys": keys}
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
    assert out.splitlines()[1:] == [
        *("metric  value  unit", "mse       2.5"),
        *("", "of      mse  skill", "lead 1    1    0.5", "lead 2    4  -0.25", "", "of  mse", "a     3"),
    ]
