"""`check-data`: classes, what is odd, and a drawing, of boxes and of masks."""

import json

import numpy as np
import pytest
from box_files import WRITERS, write_coco, write_yolo
from PIL import Image

from unireplknet_jax.__main__ import main

EMPTY = "pictures without an object, which training leaves out unless data.keep_empty is set (1): b/1.png"


def test_a_folder_of_boxes_is_checked_and_drawn(tmp_path, capsys):
    write_coco(tmp_path, polygons=True)
    assert main(["check-data", str(tmp_path), "--draw", str(tmp_path / "seen.png")]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "class  pictures  objects  crowds  median side",
        "cat           2        2       0      26.0315",
        "dog           1        1       0      20.0000",
        "",
        f"3 pictures, 3 objects of 2 classes, with masks, read from {tmp_path}/annotations/train.json",
        "",
        EMPTY,
    ]
    assert f"drew {tmp_path}/seen.png" in err
    with Image.open(tmp_path / "seen.png") as seen:
        assert seen.width <= 800


def test_json_has_everything(tmp_path, capsys):
    write_yolo(tmp_path)
    assert main(["check-data", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["classes"][1] == {"class": "dog", "pictures": 1, "objects": 1, "crowds": 0, "median side": 20.0}
    assert [*found["odd"].values()] == [["b/1.png"]]


def test_a_broken_picture_is_named_and_ends_in_1(tmp_path, capsys):
    (write_coco(tmp_path) / "train/2.jpg").write_bytes(b"x")
    assert main(["check-data", str(tmp_path), "--draw", str(tmp_path / "seen.png"), "--most", "1"]) == 1
    out, err = capsys.readouterr()
    assert f"pictures that cannot be used (1): {tmp_path}/train/2.jpg is not an image" in out
    assert "no picture can be drawn" in err


def test_other_places_are_options(tmp_path, capsys):
    WRITERS["csv"](tmp_path)
    (tmp_path / "train.csv").rename(tmp_path / "mine.csv")
    (tmp_path / "train").rename(tmp_path / "photos")
    (tmp_path / "only.txt").write_text("cat\n")
    words = ["--annotations", "mine.csv", "--pictures", "photos", "--classes", "only.txt"]
    assert main(["check-data", str(tmp_path), *words]) == 0
    out = capsys.readouterr().out
    assert "3 pictures, 2 objects of 1 classes, without masks" in out
    assert "objects left out, of classes that" in out


def test_a_folder_of_masks_is_checked_and_drawn(tmp_path, capsys):
    for kind in ("images", "masks"):
        (tmp_path / "train" / kind).mkdir(parents=True)
    mask = np.zeros((8, 10), np.uint8)
    mask[:2] = 1
    for name, values in (("1", mask), ("2", np.full_like(mask, 255))):
        Image.new("RGB", (10, 8)).save(tmp_path / f"train/images/{name}.png")
        Image.fromarray(values).save(tmp_path / f"train/masks/{name}.png")
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    seen = tmp_path / "seen.png"
    assert main(["check-data", str(tmp_path), "--data", "mask_folder", "--draw", str(seen)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "class   pictures  % of the pixels",
        "sky            1            37.50",
        "road           1            12.50",
        "car            0             0.00",
        "(none)         1            50.00",
        "",
        "2 pictures with masks of 3 classes",
        "",
        "masks without a pixel of any class (1): 2.png",
        "classes without a pixel (1): car",
    ]
    assert seen.is_file()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere"], 1, "there is no folder nowhere"),
        ([".", "--data", "coko"], 2, "--data is 'coko'; did you mean coco"),
        ([".", "--most", "0"], 2, "--most is 0; expected 1 or more"),
        ([".", "--draw", "no/such/folder/a.png"], 1, "the folder of --draw no/such/folder/a.png does not exist"),
        ([".", "--draw", "a.txt"], 2, "--draw is a.txt; expected a name that ends in .png"),
        (["."], 1, "has no annotations of the split 'train'; expected COCO's JSON"),
    ],
)
def test_wrong_words_are_one_line(words, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["check-data", *words]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
