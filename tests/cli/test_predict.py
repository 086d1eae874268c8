"""`predict`: the same numbers as the network itself, for any number of files, good and broken."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.__main__ import main
from unireplknet_jax.cli.output import print_json
from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.tasks import predict
from unireplknet_jax.tasks.base import Spec, Task
from unireplknet_jax.tasks.checkpoint import open_checkpoint
from unireplknet_jax.tasks.classification import Classification
from unireplknet_jax.tasks.predict import predict_files, with_image_size, with_labels


def predictions(capsys):
    return json.loads(capsys.readouterr().out)


def expected_scores(path, files):
    """Class probabilities (n, classes), by the book: one image after the other, float32."""
    checkpoint = open_checkpoint(path)
    task = checkpoint.task
    pixels = np.stack([task.read(file)[0]["image"] for file in files]).astype(np.float32)
    images = (pixels / 255 - np.float32(task.mean)) / np.float32(task.std)
    return np.asarray(jax.nn.softmax(jax.jit(checkpoint.module.apply)(checkpoint.variables, images)))


def test_scores_are_the_networks_whatever_the_batch(small, pictures, monkeypatch, capsys):
    traces = []
    predict = Classification.predict
    monkeypatch.setattr(Classification, "predict", lambda *args: traces.append(1) or predict(*args))
    assert main(["predict", small, *pictures, "--json", "--top", "10"]) == 0
    document = predictions(capsys)
    assert traces == [1]  # 11 files, batches of 8, one program
    assert [result["file"] for result in document["results"]] == pictures
    expected = expected_scores(small, pictures)
    for result, row in zip(document["results"], expected, strict=True):
        ranked = result["records"][0]["predictions"]
        assert [entry["index"] for entry in ranked] == list(np.argsort(-row))
        np.testing.assert_allclose([entry["score"] for entry in ranked], np.sort(row)[::-1], rtol=1e-4)
    assert np.ptp([result["records"][0]["predictions"][0]["score"] for result in document["results"]]) > 1e-3


def test_a_folder_becomes_a_table_with_a_row_for_each_file(small, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    odd = Path("album") / "na\udcefve, 2.png"  # a name that is no UTF-8
    odd.parent.mkdir()
    for number, path in enumerate(pictures[:9], 1):
        shutil.copy(path, f"album/{number}.png")
    shutil.copy(pictures[0], odd)
    Path("album/broken.png").write_bytes(b"no picture")
    Path("album/notes.txt").touch()
    words = ["predict", small, "album", "--top", "2"]
    assert main([*words, "--csv", "out.csv"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "note: 1 passed over as no files that are read: album/notes.txt.\n" in err
    assert err.endswith("wrote out.csv: 11 files, 1 without a result\n")
    with open("out.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "label", "score", "label_2", "score_2", "error"]
    assert [row[0] for row in rows] == [
        *(f"album/{number}.png" for number in range(1, 10)),
        "album/broken.png",
        str(odd),
    ]
    assert rows[9][1:5] == [""] * 4
    assert "broken.png is not an image" in rows[9][5]
    expected = expected_scores(small, pictures[:9])
    for row, scores in zip(rows, expected, strict=False):
        best, second = np.argsort(-scores)[:2]
        assert row[1::2] == [f"class {best}", f"class {second}", ""]
        np.testing.assert_allclose([float(row[2]), float(row[4])], scores[[best, second]], rtol=1e-4)
    assert rows[10][1:] == rows[0][1:]

    assert main([*words, "--json"]) == 1  # the same, in the same order
    assert [result["file"] for result in predictions(capsys)["results"]] == [row[0] for row in rows if not row[5]]


def test_a_drawing_of_very_many_files_is_refused_before_any_is_read(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("album").mkdir()
    for number in range(401):
        Path(f"album/{number}.png").touch()
    assert main(["predict", small, "album", "--draw", "out.png"]) == 1
    assert "--draw takes 400 files at most, not 401; give fewer of them." in capsys.readouterr().err


def test_a_table_is_written_whole_or_not_at_all(small, pictures, tmp_path, monkeypatch):
    def interrupted(*args):
        yield from list(predict_files(*args))[:1]
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "predict_files", interrupted)
    path = tmp_path / "out.csv"
    path.write_text("mine")
    assert main(["predict", small, *pictures, "--csv", str(path)]) == 130
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_the_table_names_files_and_classes(small, pictures, tmp_path, capsys):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"thing {i}" for i in range(10)) + "\n")
    picture = tmp_path / "drawn.png"
    words = ["predict", small, *pictures[:3], "--top", "2", "--labels", str(labels), "--draw", str(picture)]
    assert main(words) == 0
    captured = capsys.readouterr()
    blocks = captured.out.strip().split("\n\n")
    assert len(blocks) == 3
    best = expected_scores(small, pictures[:3])
    for block, file, row in zip(blocks, pictures, best, strict=False):
        lines = block.splitlines()
        assert lines[0] == file
        assert len(lines) == 4
        assert lines[2].split() == [str(row.argmax()), "thing", str(row.argmax()), f"{row.max():.4f}"]
    assert captured.err == f"drew {picture}\n"
    with Image.open(picture) as drawn:
        assert drawn.size == (2 * (256 + 8) + 8, 2 * (230 + 90 + 8) + 8)  # pictures of 80 x 72, names and classes


def test_broken_files_are_named_and_the_others_predicted(small, pictures, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(pictures[0]).read_bytes()[:60])
    bad = [str(broken), str(tmp_path / "missing.png"), __file__]
    assert main(["predict", small, pictures[0], bad[0], pictures[1], *bad[1:], "--json"]) == 1
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert [result["file"] for result in document["results"]] == pictures[:2]
    assert [entry["file"] for entry in document["errors"]] == bad
    lines = captured.err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("unireplknet predict: error: ") for line in lines)
    assert all(name in line for name, line in zip(bad, lines, strict=True))
    np.testing.assert_allclose(
        [result["records"][0]["predictions"][0]["score"] for result in document["results"]],
        expected_scores(small, pictures[:2]).max(axis=1),
        rtol=1e-4,
    )


def test_only_broken_files_are_an_error_and_an_empty_document(small, tmp_path, capsys):
    assert main(["predict", small, str(tmp_path / "missing.png"), "--json"]) == 1
    assert predictions(capsys)["results"] == []


def test_a_backbone_has_nothing_to_predict(tiny, pictures, tmp_path, capsys):
    backbone = str(tmp_path / "backbone.pth")
    assert main(["convert", tiny, backbone, "--num-classes", "none"]) == 0
    capsys.readouterr()
    assert main(["predict", backbone, pictures[0]]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no classifier" in line
    assert main(["evaluate", backbone, "--data", "digits"]) == 1
    assert "has no classifier" in capsys.readouterr().err


def test_an_unknown_file_says_how_inputs_are_prepared(tiny, small):
    checkpoint = open_checkpoint(tiny)
    same, (note,) = with_image_size(checkpoint, tiny)
    assert same.task == checkpoint.task
    assert "image_size 224" in note
    assert "none of the published files" in note
    smaller, (note,) = with_image_size(checkpoint, tiny, 96)
    assert smaller.task.image_size == 96
    assert "image_size 96" in note
    assert with_image_size(open_checkpoint(small), small)[1] == []


def test_the_notes_and_the_size_reach_the_command(tiny, pictures, monkeypatch, capsys):
    monkeypatch.setitem(predict._NAMES_BY_CLASSES, 10, ("ten", "Ten"))
    monkeypatch.setattr(predict, "read_labels", lambda name: tuple("abcdefghij"))
    assert main(["predict", tiny, pictures[0], "--image-size", "32", "--json"]) == 0
    captured = capsys.readouterr()
    prepared, named = captured.err.splitlines()
    assert prepared.startswith("note: inputs are prepared with image_size 32")
    assert named.endswith("tiny_afp.pth names no classes; it has as many as Ten, whose names are shown.")
    best = json.loads(captured.out)["results"][0]["records"][0]["predictions"][0]
    assert best["label"] == "abcdefghij"[best["index"]]


def test_a_published_file_brings_its_own_preparation_and_names(tiny, tmp_path, capsys):
    file = str(tmp_path / "unireplknet_s_in22k_to_in1k_384_acc86.44.pth")
    assert main(["convert", tiny, str(tmp_path / "x.pth"), "--num-classes", "1000"]) == 0
    shutil.move(tmp_path / "x.pth", file)
    checkpoint, notes = with_image_size(open_checkpoint(file), file)
    assert (checkpoint.task.image_size, checkpoint.task.resize, notes) == (384, "warp", [])
    assert with_labels(checkpoint, file)[1] == []
    assert checkpoint.task.labels == read_labels("imagenet1k")


@pytest.mark.parametrize(("classes", "name"), [(1000, "imagenet1k"), (21841, "imagenet22k")])
def test_as_many_classes_as_imagenet_take_its_names_with_a_note(classes, name, tiny):
    checkpoint = open_checkpoint(tiny, num_classes=classes)
    named, (note,) = with_labels(checkpoint, tiny)
    assert named.task.labels == read_labels(name)
    assert "names no classes" in note
    trained_here = dataclasses.replace(checkpoint, data={"name": "mine"})
    assert with_labels(trained_here, tiny)[0].task.labels == ()
    other_number, notes = with_labels(open_checkpoint(tiny), tiny)
    assert (other_number.task.labels, notes) == ((), [])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--top", "0"], 2, "--top is 0"),
        (["--image-size", "0"], 2, "--image-size is 0"),
        (["--draw", "x.jpg"], 2, "ends in .png"),
        (["--draw", "nowhere/x.png"], 1, "does not exist"),
        (["--csv", "x.txt"], 2, "ends in .csv"),
        (["--csv", "nowhere/x.csv"], 1, "does not exist"),
        (["--labels", "nowhere.txt"], 1, "cannot read nowhere.txt (No such file or directory)"),
        (["--labels", __file__], 1, "labels do not fit a model of 10 classes"),
    ],
)
def test_wrong_options_are_one_line(words, code, message, small, capsys):
    assert main(["predict", small, "missing.png", *words]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_labels_that_are_no_text_are_refused(tiny, small, capsys):
    assert main(["predict", small, "missing.png", "--labels", tiny]) == 1
    assert "not a text file" in capsys.readouterr().err


def test_labels_of_an_empty_file_are_refused(small, tmp_path, capsys):
    path = tmp_path / "empty.txt"
    path.write_text("\n")
    assert main(["predict", small, "missing.png", "--labels", str(path)]) == 1
    assert capsys.readouterr().err == f"unireplknet predict: error: {path} is empty; expected one class name a line\n"


def test_sources_with_several_or_no_examples_keep_their_records_together():
    class Windows(Task):
        """Reads "k" as k examples of one of two shapes, which no batch may mix; predicts twice their value."""

        name = "windows"

        def module(self, deploy=False):
            return None

        def read(self, source):
            lengths = (3 + i % 2 for i in range(int(source)))
            return [{"x": np.full(n, 10 * int(source) + i, np.float32), "id": source} for i, n in enumerate(lengths)]

        def specs(self, train):
            return (Spec({"x": jax.ShapeDtypeStruct((3,), np.float32)}, {}),)

        def predict(self, apply, variables, inputs):
            return {"y": 2 * inputs["x"][:, 0]}

        def record(self, pred, example):
            return {"id": example["id"], "y": float(pred["y"])}

    @dataclasses.dataclass
    class Checkpoint:
        task: Windows
        variables: dict
        module: None = None
        runtime: None = None

        def apply(self):
            raise NotImplementedError

    checkpoint = Checkpoint(Windows(), {}, module=type("Module", (), {"apply": None}))
    found = {
        p.source: [r["y"] for r in p.records] for p in predict_files(checkpoint, ["5", "0", "2", "3"], batch_size=4)
    }
    assert found == {"5": [100, 102, 104, 106, 108], "0": [], "2": [40, 42], "3": [60, 62, 64]}


def test_json_has_no_nan(capsys):
    print_json({"a": [float("nan"), float("inf"), 1.5], 2: (True, None)})
    assert predictions(capsys) == {"a": [None, None, 1.5], "2": [True, None]}
