"""`shards`: a folder of pictures in, shards out; broken pictures listed, refused or left out."""

import io

import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.__main__ import main
from unireplknet_jax.data.pictures.sets import open_source


@pytest.fixture
def root(tmp_path):
    for i in range(6):
        file = io.BytesIO()
        Image.fromarray(np.full((4, 5, 3), 40 * i, np.uint8)).save(file, "PNG")
        path = tmp_path / "root/train" / "ab"[i // 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())
    return tmp_path / "root"


def test_a_folder_becomes_shards(root, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["shards", "--data-dir", str(root), "--shards", "2", out]) == 0
    source, copy = (open_source(*args) for args in (("folder", "train", root), ("array_record", "train", out)))
    assert [copy[i] for i in range(6)] == [source[i] for i in range(6)]
    printed = capsys.readouterr().out
    assert printed.startswith(f"wrote {out}/train: 6 pictures of 2 classes, ")
    assert printed.endswith(" MB in 2 shards, 0 left out\n")
    assert main(["shards", "--data-dir", str(root), "--shards", "2", out]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["shards", "--data-dir", str(root), "--shards", "3", "--overwrite", out]) == 0


def test_other_sources_and_splits_can_be_written(tmp_path, capsys):
    assert main(["shards", "--data", "digits", "--split", "test", "--shards", "1", str(tmp_path)]) == 0
    copy = open_source("array_record", "test", tmp_path)
    assert (len(copy), copy.labels, copy[4]["id"]) == (360, tuple("0123456789"), 21)
    assert "360 pictures of 10 classes" in capsys.readouterr().out


def test_a_file_as_the_destination_is_one_line(root, tmp_path, capsys):
    (tmp_path / "out").touch()
    assert main(["shards", "--data-dir", str(root), "--shards", "2", str(tmp_path / "out")]) == 1
    sentence = f"{tmp_path}/out is a file; give a folder, in which the split becomes one"
    assert capsys.readouterr().err == f"unireplknet shards: error: {sentence}\n"


def test_broken_pictures_are_refused_listed_or_left_out(root, tmp_path, capsys):
    (root / "train/a/1.png").write_bytes(b"no picture")
    (root / "train/b/4.png").write_bytes(b"none")
    arguments = ["shards", "--data-dir", str(root), "--shards", "2"]
    assert main([*arguments, str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "error: 2 of the pictures cannot be decoded" in error
    assert "a/1.png is not an image" in error
    assert "b/4.png is not an image" in error
    assert error.endswith("; to pass over what is broken: --broken skip\n")
    assert not (tmp_path / "out/train").exists()

    assert main([*arguments, "--check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" is not an image")[0] for line in lines[:2]] == [
        f"{root}/train/{name}.png" for name in ("a/1", "b/4")
    ]
    assert lines[2:] == ["6 pictures of 2 classes, 2 of them broken"]

    assert main([*arguments, "--broken", "skip", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["left out: a/1.png", "left out: b/4.png"]
    assert lines[2].endswith("2 left out")
    assert len(open_source("array_record", "train", tmp_path / "out")) == 4


def test_a_check_of_whole_pictures_succeeds(root, capsys):
    assert main(["shards", "--data-dir", str(root), "--check", "--threads", "1"]) == 0
    assert capsys.readouterr() == ("6 pictures of 2 classes, 0 of them broken\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either OUT or --check."),
        (["out", "--check"], "give either OUT or --check."),
        (["out", "--threads", "0"], "--threads is 0; expected 1 or more."),
    ],
)
def test_wrong_usage(words, message, capsys):
    assert main(["shards", *words]) == 2
    assert message in capsys.readouterr().err
