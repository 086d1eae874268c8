"""`see`: one picture or a folder of them, the table of the receptive field, and mistakes of its users."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.__main__ import main
from unireplknet_jax.tasks.base import get_task
from unireplknet_jax.tasks.checkpoint import Checkpoint, save_checkpoint

SIZES = {"depths": (1, 0, 0, 1), "dims": (4, 4, 8, 8), "kernel_sizes": ((3,), (), (), (3,))}


@pytest.fixture(scope="module")
def seen(random_variables, tmp_path_factory):
    """A checkpoint of four classes with names."""
    path = tmp_path_factory.mktemp("seen") / "net"
    labels = ("ant", "bumble bee", "cat", "dog")
    task = get_task("classification", model={**SIZES, "num_classes": 4}, image_size=32, labels=labels)
    save_checkpoint(path, Checkpoint(task, random_variables(task.module(), seed=2), merged=False))
    return str(path)


def test_one_picture_shows_field_and_inputs_and_json_says_them(seen, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    words = ["see", seen, *pictures[:3], "broken.jpg", "--image-size", "64", "--class", "Bumble_Bee", "--json"]
    assert main(words) == 1  # of one file there is nothing
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert [row["file"] for row in document["results"]] == pictures[:3]
    assert {(row["class"], row["index"]) for row in document["results"]} == {("bumble bee", 1)}
    assert [row["file"] for row in document["errors"]] == ["broken.jpg"]
    field = document["receptive_field"]
    assert (field["inputs"], field["size"], field["middle"]) == (3, [64, 64], [32, 32])
    sides = [row["side"] for row in field["squares"]]
    assert sides == sorted(sides)
    assert "drew see.png" in captured.err
    with Image.open("see.png") as picture:
        assert picture.width <= 800
        assert picture.height > 380 + 2 * 190  # the field, and two rows of inputs
    assert {path.name for path in tmp_path.iterdir()} == {"broken.jpg", "see.png"}  # nothing half done


def test_a_folder_holds_a_picture_of_each_input_and_the_numbers(seen, pictures, tmp_path, capsys):
    folder = tmp_path / "out"
    words = ["see", seen, *pictures[:2], "--image-size", "64", "--output", str(folder)]
    assert main(words) == 0
    table, rows = capsys.readouterr().out.split("\n\n")
    assert "over 2 inputs of 64 x 64 pixels" in table
    assert [line.split()[:2] for line in table.splitlines()[3:]] == [[share, "%"] for share in ("20", "30", "50", "99")]
    assert [line.split()[0] for line in rows.splitlines()[1:]] == pictures[:2]
    files = {path.name for path in folder.iterdir()}
    assert files == {"receptive_field.png", "receptive_field.npy", "0001_00.png", "0002_01.png"}
    assert np.load(folder / "receptive_field.npy").shape == (64, 64)
    assert main(words) == 1
    assert "exists; choose another folder, or give --overwrite" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == files


def test_small_inputs_say_that_nothing_tells_where(seen, pictures, tmp_path, capsys):
    assert main(["see", seen, pictures[0], "--output", str(tmp_path / "a.png"), "--form", "training"]) == 0
    assert "note: inputs of 32 x 32 pixels leave one position in the last map" in capsys.readouterr().err
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize("failing", [pytest.param("drawing", marks=pytest.mark.slow), "writing"])
def test_a_failure_leaves_what_was_there(seen, pictures, tmp_path, monkeypatch, capsys, failing):
    from unireplknet_jax.tasks import see_plot

    def fail(picture, path, *_):
        if failing == "writing":
            Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(*((see_plot, "draw_field") if failing == "drawing" else (Image.Image, "save")), fail)
    (tmp_path / "a.png").write_bytes(b"earlier")
    for output in ("a.png", "folder"):
        words = ["see", seen, pictures[0], "--image-size", "64", "--output", str(tmp_path / output)]
        assert main(words) == 1
        assert "no space left" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"earlier"


def test_nothing_that_can_be_read_writes_nothing(seen, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    for output in ("a.png", "folder"):
        assert main(["see", seen, str(tmp_path / "broken.jpg"), "--output", str(tmp_path / output)]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "broken.jpg" in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["broken.jpg"]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ([], 2, "the following arguments are required: INPUT"),
        (["{picture}", "--class", "bumblebee"], 1, "no class is called 'bumblebee'; did you mean 'bumble bee'?"),
        (["{picture}", "--class", "7"], 1, "the classes are ant, bumble bee, cat, dog."),
        (["{picture}", "--image-size", "0"], 2, "expected a positive number of pixels"),
        (["{picture}", "--output", "{folder}/none/a.png"], 1, "does not exist; create it first"),
        (["{picture}", "--output", "{folder}/none/a"], 1, "does not exist; create it first"),
        (["{picture}", "--output", "{picture}"], 1, "would overwrite an input"),
        (["{picture}", "--output", "{folder}", "--overwrite"], 1, "exists and holds other things"),
        (["{picture}", "--output", "{folder}/text"], 1, "is a file; give the name of a folder"),
    ],
)
def test_mistakes_are_told_in_a_sentence(seen, tmp_path, capsys, words, code, sentence):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    (tmp_path / "text").write_text("")
    words = [word.format(picture=tmp_path / "a.png", folder=tmp_path) for word in words]
    assert main(["see", seen, *words]) == code
    assert sentence in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "text"}


def test_a_folder_of_pictures_is_looked_at_whole(seen, pictures, tmp_path, capsys):
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for number, picture in enumerate(pictures[:2]):
        shutil.copy(picture, tmp_path / "photos" / ("more" if number else ".") / f"{number}{Path(picture).suffix}")
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    words = [
        "see",
        seen,
        str(tmp_path / "photos"),
        "--image-size",
        "64",
        "--output",
        str(tmp_path / "out.png"),
        "--json",
    ]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)["results"]) == 2
    assert "1 passed over" in captured.err
