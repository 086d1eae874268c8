"""`predict` of videos by networks that look at pictures: every frame has a record, and few are in memory at a time."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from small_tasks import make_checkpoint
from video_files import indices, write

import unireplknet_jax as urk
from unireplknet_jax.__main__ import main
from unireplknet_jax.data.clips.frames import each_frame
from unireplknet_jax.tasks import canvases, predict
from unireplknet_jax.tasks.checkpoint import save_checkpoint

COUNT = 19  # two batches and a part of one


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    for name in ("detection", "segmentation"):
        save_checkpoint(folder / name, make_checkpoint(name))
    write(folder / "street.mp4", COUNT, "libx264", height=32, width=48)
    Image.fromarray(np.full((32, 48, 3), 200, np.uint8)).save(folder / "street.png")
    return folder


@pytest.fixture
def batches(monkeypatch):
    """A network that sees how bright a picture is; a list of how many examples it got, and how many were decoded."""
    seen, decoded = [], []

    def counting(source):
        for frame in each_frame(source):
            decoded.append(frame)
            yield frame

    def network(examples, sources):
        seen.append((len(examples), len(decoded)))
        return [look(example) for example in examples]

    monkeypatch.setattr(canvases, "each_frame", counting)
    monkeypatch.setattr(predict, "predictor", lambda checkpoint, batch_size: network)
    return seen


def look(example):
    bright = np.float32(example["picture"].mean() / 255)
    count = len(example["size_0"])
    found = {"boxes_0": np.tile(np.float32([8, 8, 24, 24]), (count, 1, 1)), "scores_0": np.full((count, 1), bright)}
    found |= {"labels_0": np.full((count, 1), 2), "valid_0": np.ones((count, 1), bool)}
    rows, columns = (side // 4 for side in example["image_0"].shape[1:3])
    logits = np.zeros((count, rows, columns, 6), np.float32)
    logits[..., int(bright * 6)] = 9
    return found | {"masks_0": np.ones((count, 1, 28, 28), np.float32), "logits_0": logits}


def brightness(objects):
    return np.rint((np.array([each["score"] for each in objects]) * 255 - 20) / 4).astype(int).tolist()


def command(folder, name, *words):
    return main(["predict", str(folder / name), "--form", "training", *map(str, words)])


def test_every_frame_has_its_record_number_and_time(folder, batches, capsys):
    files = [folder / "street.png", folder / "street.mp4", folder / "street.png"]
    assert command(folder, "detection", *files, "--json") == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [result["file"] for result in results] == [*map(str, files)]
    assert [len(result["records"]) for result in results] == [1, COUNT, 1]
    records = results[1]["records"]
    assert [record["frame"] for record in records] == [*range(COUNT)]
    assert [record["time"] for record in records] == pytest.approx([0.04 * i for i in range(COUNT)])
    assert brightness(record["objects"][0] for record in records) == [*range(COUNT)]
    assert {*results[0]["records"][0]} == {"size", "objects"}
    assert batches == [(8, 7), (8, 15), (5, 19)]  # no frame is decoded before it is needed


def test_in_python_a_video_is_one_input(folder, batches):
    checkpoint = urk.open_checkpoint(folder / "detection")
    street = folder / "street.mp4"
    pictures = urk.predict(checkpoint, [street, folder / "street.png", street.read_bytes()], broken="skip")[:2]
    assert [len(records) for records in pictures] == [COUNT, 1]
    assert brightness(record["objects"][0] for record in pictures[0]) == [*range(COUNT)]


def test_a_table_and_masks_of_frames(folder, batches, tmp_path, capsys):
    words = ("--csv", tmp_path / "a.csv", "--save", tmp_path / "masks", "--score", "0.2")
    shutil.copytree(folder, tmp_path / "in", ignore=shutil.ignore_patterns("*tion"))
    assert command(folder, "detection", tmp_path / "in", *words) == 0
    with open(tmp_path / "a.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "frame", "time", "label", "score", "x1", "y1", "x2", "y2", "error"]
    assert [row[1] for row in rows] == [*map(str, range(COUNT)), ""]
    assert (rows[3][2], rows[3][3:5], rows[8][3:5]) == ("0.12", ["", ""], ["class 2", "0.203922"])
    saved = sorted(path.relative_to(tmp_path / "masks").as_posix() for path in (tmp_path / "masks").rglob("*.png"))
    assert saved == [*(f"street.mp4/{number:06d}.png" for number in range(COUNT)), "street.png"]
    assert np.asarray(Image.open(tmp_path / "masks/street.mp4/000018.png")).max() == 1
    assert "20 masks below" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["detection", "segmentation"])
def test_frames_are_drawn_into_a_video_of_the_same_speed(name, folder, batches, tmp_path, capsys):
    assert command(folder, name, folder / "street.mp4", "--draw", tmp_path / "a.mp4") == 0
    captured = capsys.readouterr()
    assert captured.err.endswith(f"drew {tmp_path / 'a.mp4'}\n")
    assert captured.out.count("street.mp4") == 1  # above all frames
    drawn = [*each_frame(tmp_path / "a.mp4")]
    assert [time for time, _ in drawn] == pytest.approx([0.04 * i for i in range(COUNT)])
    corner = np.stack([frame[26:31, 30:46] for _, frame in drawn])
    if name == "detection":
        assert np.abs(indices(corner) - np.arange(COUNT)).max() <= 1  # of 64, after the compression
    # With a name below, and with room for the six classes besides; an even number of rows.
    assert {frame.shape[:2] for _, frame in drawn} == {(58, 60) if name == "detection" else (188, 48)}


def test_a_video_that_breaks_off_keeps_what_was_found(folder, batches, tmp_path, monkeypatch, capsys):
    def broken(source):
        for number, frame in enumerate(each_frame(source)):
            if number == 10:
                raise ValueError(f"{source} is damaged")
            yield frame

    monkeypatch.setattr(canvases, "each_frame", broken)
    words = (folder / "street.mp4", folder / "street.png", "--json", "--csv", tmp_path / "a.csv")
    assert command(folder, "detection", *words) == 1
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert [len(result["records"]) for result in document["results"]] == [10, 1]
    assert document["errors"] == [{"file": str(folder / "street.mp4"), "error": f"{folder / 'street.mp4'} is damaged"}]
    assert captured.err.endswith("2 files, 1 with an error\n")
    with pytest.raises(ValueError, match="is damaged"):
        urk.predict(urk.open_checkpoint(folder / "detection"), folder / "street.mp4")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["street.mp4", "--draw", "a.png"], "--draw a.png is one picture; for the frames of street.mp4 give"),
        (["street.png", "--draw", "a.mp4"], "--draw a.mp4 takes one file of frames"),
        (["street.mp4", "street.mp4", "--draw", "a.mp4"], "--draw a.mp4 takes one file of frames; give it alone"),
        (["street.mp4", "--draw", "street.mp4"], "--draw street.mp4 would overwrite an input"),
        (["street.mp4", "--save", "."], "--save . would overwrite the input"),
        (["none.mp4"], "cannot read none.mp4 (No such file or directory); expected the path of a video file"),
        (["detection/card.mp4"], "detection/card.mp4 is not a video that FFmpeg can read, or is damaged"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(words, message, folder, batches, monkeypatch, capsys):
    shutil.copy(folder / "detection/card.json", folder / "detection/card.mp4")
    monkeypatch.chdir(folder)
    assert command(folder, "detection", *words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (folder / "a.mp4").exists()


def test_without_pyav_the_error_says_what_to_install(folder, batches, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    assert command(folder, "detection", folder / "street.mp4") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("videos are read with PyAV, which is missing: pip install av")
