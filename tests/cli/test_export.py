"""`export`: one table, and what it wrote is evaluated, timed and asked as a checkpoint is."""

import json
import os

import pytest
from web_package import write_package

from unireplknet_jax.__main__ import main
from unireplknet_jax.cli.export import _FORMATS
from unireplknet_jax.tasks.artefact import FORMATS


@pytest.fixture(scope="module")
def exported(small, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    path = str(tmp_path_factory.mktemp("exported") / "small.onnx")
    assert main(["export", small, path]) == 0
    return path


def test_every_format_may_be_asked_for():
    assert tuple(FORMATS) == _FORMATS


def test_a_table_says_what_was_written(small, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    destination = str(tmp_path / "it.onnx")
    assert main(["export", small, destination]) == 0
    first, header, row = capsys.readouterr().out.splitlines()
    assert first == f"wrote {destination}; compared on 8 made-up examples"
    assert header.split("  ")[0] == "format"
    assert row.split()[:1] == ["onnx"]
    assert f"{os.path.getsize(destination) / 1e6:.2f} MB" in row
    assert "100 %" in row
    assert "onnxruntime " in row
    assert os.listdir(tmp_path) == ["it.onnx"]
    assert main(["export", small, destination]) == 1
    assert (
        f"{destination} exists already; remove it, choose another name, or give --overwrite." in capsys.readouterr().err
    )
    assert main(["export", small, destination, "--overwrite"]) == 0


def test_a_page_is_a_folder_with_examples(small, pictures, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    package, destination = write_package(tmp_path / "onnxruntime-web.tgz", monkeypatch), tmp_path / "page"
    words = ["export", small, str(destination), "--format", "web", "--onnxruntime-web", str(package)]
    assert main([*words, "--examples", os.path.dirname(pictures[0])]) == 0
    first, _, row = capsys.readouterr().out.splitlines()
    assert first == f"wrote {destination}; compared on 8 made-up examples"
    assert row.split()[0] == "web"
    assert {file.suffix for file in (destination / "examples").iterdir()} == {".png"}
    assert main(words) == 1
    assert f"{destination} exists already; remove it, choose another name" in capsys.readouterr().err
    assert main(["predict", str(destination), pictures[0]]) == 0


def test_predictions_are_those_of_the_checkpoint(small, exported, pictures, capsys):
    documents = []
    for source in (small, exported):
        assert main(["predict", source, *pictures, "--json", "--top", "3"]) == 0
        documents.append(json.loads(capsys.readouterr().out))
    for ours, theirs in zip(*(document["results"] for document in documents), strict=True):
        for one, other in zip(ours["records"][0]["predictions"], theirs["records"][0]["predictions"], strict=True):
            assert one["index"] == other["index"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_the_accuracy_is_that_of_the_checkpoint(small, exported, capsys):
    found = []
    for source in (small, exported):
        assert main(["evaluate", source, "--data", "digits", "--json", "--batch-size", "200"]) == 0
        found.append(json.loads(capsys.readouterr().out)["metrics"])
    assert found[1].pop("loss") == pytest.approx(found[0].pop("loss"), rel=1e-5)
    assert found[0] == found[1]


def test_it_is_timed_in_its_own_runtime(exported, capsys):
    words = ["benchmark", "model", exported, "--batch", "2", "--rounds", "1"]
    assert main([*words, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["model"], row["batch"], row["form"].split()[0]) == (exported, 2, "onnxruntime")
    assert row["median"] > 0
    assert main([*words, "--against", "torch"]) == 1
    assert "what was exported is timed as it is; leave out --against." in capsys.readouterr().err


def test_integers_are_told_with_their_accuracy(small, pictures, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    folder = os.path.dirname(pictures[0])
    words = ["--int8", "--calibrate", folder, "--data", "digits", "--split", "test"]
    assert main(["export", small, str(tmp_path / "it.onnx"), *words]) == 0
    header, row = capsys.readouterr().out.splitlines()[-2:]
    assert header.split("  ")[0] == "in integers"
    assert "pointwise" in row
    assert row.split()[-1] == "360"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere/it.onnx"], "nowhere does not exist; create it first."),
        (["it.txt"], "it.txt names no format; end it in one of .stablehlo (stablehlo), .onnx (onnx)"),
        (["it.onnx", "--format", "litert"], "it.onnx does not end in .tflite"),
        (["it.stablehlo", "--opset", "20"], "the format stablehlo has no --opset"),
        (["it.stablehlo", "--image-size", "33"], "--image-size is 33; expected a multiple of 32"),
        (["it.stablehlo", "--batch", "0"], "--batch must be 1 or more, not 0."),
        (["it.onnx", "--int8"], "--int8 and --calibrate DIR belong together: a folder of pictures"),
        (["it.onnx", "--calibrate", "folder.onnx"], "--int8 and --calibrate DIR belong together"),
        (["it.onnx", "--int8", "--calibrate", "folder.onnx"], "the folder folder.onnx holds no file"),
        (["folder.onnx"], "folder.onnx is a folder; choose the name of a file."),
        (["folder.onnx", "--format", "web"], "folder.onnx is there and is no folder that such an export wrote; choose"),
        (
            ["page", "--format", "web", "--examples", "folder.onnx"],
            "--examples folder.onnx holds no picture of up to 4",
        ),
        (["page", "--format", "web", "--onnxruntime-web", "none.tgz"], "none.tgz"),
        (["page"], "page names no format; end it in one of .stablehlo (stablehlo), .onnx (onnx)"),
    ],
)
def test_what_cannot_be_is_one_sentence(words, sentence, small, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnx")
    pytest.importorskip("litert_converter") if "litert" in words else None
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder.onnx")
    assert main(["export", small, *words]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
    assert os.listdir(tmp_path) == ["folder.onnx"]


def test_a_folder_that_cannot_be_written_to_is_named(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda *_: False)  # of a folder of somebody else's, had this test no superpowers
    assert main(["export", small, str(tmp_path / "it.stablehlo")]) == 1
    assert f"the folder {tmp_path} cannot be written to; choose another one." in capsys.readouterr().err


def test_what_was_exported_is_no_source_of_weights(exported, tmp_path, capsys):
    for command in ("convert", "reparameterize", "export"):
        assert main([command, exported, str(tmp_path / "out.stablehlo")]) == 1
        assert "for anything else give the checkpoint that it was made of." in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
