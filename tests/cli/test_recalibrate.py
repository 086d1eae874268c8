"""`recalibrate`: a checkpoint in, the same weights with the statistics of training batches out."""

import itertools
from pathlib import Path

import jax
import numpy as np
import pytest

from unireplknet_jax.__main__ import main
from unireplknet_jax.data.pipeline import train_batches
from unireplknet_jax.tasks.checkpoint import open_checkpoint, save_checkpoint
from unireplknet_jax.train import recalibrate as recalibration
from unireplknet_jax.train.batches import arrays_of
from unireplknet_jax.train.recalibrate import recalibrate


@pytest.fixture(scope="module")
def folder(pictures, tmp_path_factory):
    """Ten classes of two pictures."""
    root = tmp_path_factory.mktemp("data")
    for label in range(10):
        path = root / "train" / str(label)
        path.mkdir(parents=True)
        for number in range(2):
            (path / f"{number}.png").write_bytes(Path(pictures[label + number]).read_bytes())
    return str(root)


@pytest.mark.usefixtures("quick_compilation")
def test_a_checkpoint_gets_the_statistics_of_training_batches(small, folder, tmp_path, capsys):
    words = ["recalibrate", small, str(tmp_path / "out"), "--data", "folder", "--data-dir", folder]
    assert main([*words, "--batch-size", "8", "--batches", "3", "--seed", "5"]) == 0
    before, after = open_checkpoint(small), open_checkpoint(tmp_path / "out")
    data = {"name": "folder", "dir": folder, "split": "train"}
    stream = after.task.examples(after.task.open(data, "train", train=True), train=True, seed=5)
    batches = itertools.islice(train_batches(stream, 8, arrays=arrays_of(after.task)), 3)
    expected = recalibrate(before.task, before.variables, batches)
    jax.tree.map(np.testing.assert_array_equal, after.variables, expected)
    assert (after.task, after.merged, after.data) == (before.task, False, before.data)
    line, written = capsys.readouterr().out.splitlines()
    assert line == (f"recalibrated {small}: batch norms have the statistics of 3 batches of 8 from folder, split train")
    assert written.startswith(f"wrote {tmp_path / 'out'}: training form, ")


@pytest.mark.slow  # `test_by_default_it_is_no_more_than_so_many_batches` stays
@pytest.mark.usefixtures("quick_compilation")
def test_by_default_it_is_one_epoch_of_batches_that_fit_for_pytorch_too(small, folder, tmp_path, capsys):
    words = ["recalibrate", small, str(tmp_path / "out.pth"), "--data", "folder", "--data-dir", folder]
    assert main(words) == 0
    assert "the statistics of 1 batches of 16 from" in capsys.readouterr().out  # 20 pictures on 8 devices
    assert not open_checkpoint(tmp_path / "out.pth").merged


def test_by_default_it_is_no_more_than_so_many_batches(small, folder, tmp_path, capsys, monkeypatch):
    def unchanged(task, mesh, seed=0):
        seeds.append(seed)
        return lambda params, found, k, rows: found

    seeds = []
    monkeypatch.setattr(recalibration, "_MOST", 1)
    monkeypatch.setattr(recalibration, "make_statistics_step", unchanged)
    words = ["recalibrate", small, str(tmp_path / "out"), "--data", "folder", "--data-dir", folder]
    assert main([*words, "--batch-size", "8", "--seed", "5"]) == 0
    assert "the statistics of 1 batches of 8 from" in capsys.readouterr().out  # an epoch has two
    assert seeds == [5]


def test_a_merged_checkpoint_has_no_statistics(small, folder, tmp_path, capsys):
    merged = open_checkpoint(small).in_merged_form()
    save_checkpoint(tmp_path / "merged", merged)
    words = ["recalibrate", str(tmp_path / "merged"), str(tmp_path / "out"), "--data", "folder", "--data-dir", folder]
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "this checkpoint is merged: its batch norms are part of its kernels" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["--batches", "0"], "--batches must be 1 or more, not 0.", 2),
        (["--threads", "0"], "--threads must be 1 or more, not 0.", 2),
        ([], "does not say which data it belongs to; name it", 1),
        (["--data", "digits", "--batch-size", "12"], "the batch size=12 is not a multiple of 8", 1),
    ],
)
def test_what_cannot_be_is_one_line(words, message, code, small, tmp_path, capsys):
    assert main(["recalibrate", small, str(tmp_path / "out"), *words]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_destination_that_exists_is_kept(small, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert main(["recalibrate", small, str(tmp_path / "out"), "--data", "digits"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert (tmp_path / "out" / "mine.txt").exists()
