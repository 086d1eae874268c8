"""The commands on sounds: what a user types, from a recipe to a label, and what is said about files that do not fit."""

import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from unireplknet_jax.__main__ import main
from unireplknet_jax.data.sounds.sets import TONES, open_sounds
from unireplknet_jax.tasks.base import get_task
from unireplknet_jax.tasks.checkpoint import Checkpoint, open_checkpoint, save_checkpoint

SIZES = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8), "kernel_sizes": ((3,), (7,), (0,), (3,)), "num_classes": 10}


@pytest.fixture(scope="module")
def heard(random_variables, tmp_path_factory):
    """A checkpoint of ours that knows ten tones, with random weights."""
    path = tmp_path_factory.mktemp("heard") / "model"
    task = get_task("audio", model=SIZES, labels=TONES, frames=32, mels=32, seconds=0.3)
    data = {"name": "tones", "dir": "", "eval_split": "test"}
    save_checkpoint(path, Checkpoint(task, random_variables(task.module(), seed=1), merged=False, data=data))
    return str(path)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Three sounds of other rates, channels and lengths, as file names."""
    folder, tones = tmp_path_factory.mktemp("sounds"), open_sounds("tones", "test")
    files = [folder / name for name in ("a.wav", "b.flac", "c.ogg")]
    soundfile.write(files[0], tones[0]["sound"], 16_000)
    soundfile.write(files[1], np.stack([tones[3]["sound"]] * 2, axis=1), 44_100)
    soundfile.write(files[2], tones[7]["sound"][:100], 8000)
    return list(map(str, files))


def labels(capsys):
    document = json.loads(capsys.readouterr().out)
    assert document["task"] == "audio"
    return {r["file"]: [p["label"] for p in r["records"][0]["predictions"]] for r in document["results"]}


@pytest.mark.slow  # `test_the_originals_network_in_both_forms` of tasks/test_audio.py stays
def test_the_merged_network_hears_the_same(heard, sounds, tmp_path, capsys):
    merged = str(tmp_path / "merged")
    assert main(["reparameterize", heard, merged]) == 0
    capsys.readouterr()
    assert main(["predict", heard, *sounds, "--json", "--top", "10", "--form", "training"]) == 0
    before = labels(capsys)
    assert main(["predict", merged, *sounds, "--json", "--top", "10", "--draw", str(tmp_path / "drawn.png")]) == 0
    assert labels(capsys) == before
    assert list(before) == sounds
    assert all(sorted(names) == sorted(TONES) for names in before.values())
    assert open_checkpoint(merged).merged
    with Image.open(tmp_path / "drawn.png") as picture:
        assert picture.size == (2 * (388 + 8) + 8, 2 * (260 + 90 + 8) + 8)  # spectrograms, names and classes


def test_the_originals_file_and_ours_say_the_same(heard, sounds, tmp_path, capsys):
    assert main(["convert", heard, str(tmp_path / "official.pth")]) == 0
    names = tmp_path / "names.txt"
    names.write_text("\n".join(TONES))
    capsys.readouterr()
    assert main(["predict", heard, sounds[0], "--json"]) == 0
    labels(capsys)
    assert main(["predict", str(tmp_path / "official.pth"), sounds[0], "--json", "--labels", str(names)]) == 0
    captured = capsys.readouterr()
    assert "rate 16000, frames 128, mels 128" in captured.err  # the file cannot say that it had 32
    assert json.loads(captured.out)["results"][0]["records"][0]["predictions"][0]["label"] in TONES


def test_evaluation_prints_all_metrics(heard, capsys):
    assert main(["evaluate", heard, "--batch-size", "40", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert list(metrics) == ["accuracy", "mAP", "mAUC", "d_prime", "loss", "count"]
    assert metrics["count"] == 100


def test_files_that_are_no_sound_are_named_and_the_others_predicted(heard, sounds, tmp_path, capsys):
    wrong = [tmp_path / name for name in ("empty.wav", "text.wav", "missing.wav", "nothing.wav")]
    wrong[0].write_bytes(b"")
    wrong[1].write_text("la la la")
    soundfile.write(wrong[3], np.zeros(0), 16_000)
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(8000), 16_000)
    assert main(["predict", heard, *map(str, wrong), sounds[0], str(silent), "--json"]) == 1
    captured = capsys.readouterr()
    assert [result["file"] for result in json.loads(captured.out)["results"]] == [sounds[0], str(silent)]
    lines = captured.err.splitlines()
    assert len(lines) == 4
    for line, path in zip(lines, wrong, strict=True):
        assert line.startswith("unireplknet predict: error: ")
        assert str(path) in line


def test_a_data_set_that_is_not_there_is_one_line(heard, tmp_path, capsys):
    assert main(["evaluate", heard, "--data", "folder", "--data-dir", str(tmp_path), "--split", "val"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("unireplknet evaluate: error: ")
    assert "has no split 'val'" in line
