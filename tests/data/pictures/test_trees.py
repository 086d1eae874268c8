"""The trees out of a wheel that is made up like the real one, and out of the real one where it is."""

import io
import os
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.data.pictures import trees
from unireplknet_jax.data.pictures.box_sets import for_training, open_source

WHEEL = "deepforest-2.1.0-py3-none-any.whl"
SIZES = {"train": [(400, 700)], "test": [(90, 120)], "elsewhere": [(40, 40), (50, 60)]}
BOXES = [(1, 1, 20, 30), (5, 11, 25, 40)]  # as in the XMLs


def xml(boxes):
    names = ("xmin", "ymin", "xmax", "ymax")
    entries = [
        f"<object><name>{'Dead' if number else 'Tree'}</name><bndbox>"
        + "".join(f"<{name}>{value}</{name}>" for name, value in zip(names, box, strict=True))
        + "</bndbox></object>"
        for number, box in enumerate(boxes)
    ]
    return f"<annotation>{''.join(entries)}</annotation>".encode()


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """The path of a wheel with pictures of SIZES, of which pixel (row, column) is (row, column, 7), modulo 256."""
    files = {split: [] for split in SIZES}
    path = tmp_path / WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        for split, sizes in SIZES.items():
            for (name, *_), (height, width) in zip(trees._FILES[split], sizes, strict=True):
                rows, columns = np.mgrid[:height, :width]
                picture = io.BytesIO()
                Image.fromarray(np.stack([rows, columns, 0 * rows + 7], -1).astype(np.uint8)).save(picture, "PNG")
                own = {".png": picture.getvalue(), ".xml": xml(BOXES)}
                for ending, data in own.items():
                    archive.writestr(f"deepforest/data/{name}{ending}", data)
                files[split].append((name, *map(zlib.crc32, own.values())))
    monkeypatch.setattr(trees, "_FILES", files)
    return path


def opened(place, split):
    return open_source({"name": "trees", "dir": str(place)}, split)


@pytest.mark.parametrize("split", ["test", "elsewhere"])
def test_photographs_to_measure_on_are_whole(wheel, split):
    for place in (wheel, wheel.parent):
        source = opened(place, split)
        assert (source.labels, source.has_masks, source.sizes()) == (("tree",), False, SIZES[split])
    for index, (height, width) in enumerate(SIZES[split]):
        example = source[index]
        assert (example["id"], example["image"].dtype, example["masks"]) == (index, np.uint8, None)
        np.testing.assert_array_equal(example["image"][height - 1, width - 1], [height - 1, width - 1, 7])
        np.testing.assert_array_equal(example["boxes"], [[0, 0, 20, 30], [4, 10, 25, 40]])
        assert example["labels"].tolist() == [0, 0]


def test_the_photograph_to_train_on_is_in_parts(wheel):
    source = opened(wheel, "train")
    assert source.sizes() == [(320, 320)] * 2 * 4  # 80 rows and 380 columns beyond a part, in steps of 160 at most
    starts = [tuple(source[index]["image"][0, 0, :2].tolist()) for index in range(8)]
    assert starts == [(row, column) for row in (0, 80) for column in (0, 126, 253, 380 % 256)]
    assert [len(source[index]["boxes"]) for index in range(8)] == [2] + [0] * 7
    (index,) = for_training(source, {}).indices
    assert index == 0


def test_another_wheel_and_split_are_refused(wheel, monkeypatch):
    with pytest.raises(ValueError, match="trees has no split 'val'; expected one of train, test, elsewhere"):
        opened(wheel, "val")
    (wheel.parent / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty has no deepforest-2.1.0-\*.whl; fetch it with: pip download"):
        opened(wheel.parent / "empty", "train")
    name, picture, boxes = trees._FILES["test"][0]
    for changed, ending in (((name, 1, boxes), "png"), ((name, picture, 1), "xml")):
        monkeypatch.setattr(trees, "_FILES", {**trees._FILES, "test": [changed]})
        with pytest.raises(ValueError, match=rf"{name}.{ending} in .* is another file than in deepforest==2\.1\.0"):
            opened(wheel, "test")


@pytest.mark.skipif("TREES_WHEEL" not in os.environ, reason="needs the wheel of deepforest 2.1.0 at TREES_WHEEL")
def test_the_real_photographs():
    sources = {split: opened(os.environ["TREES_WHEEL"], split) for split in ("test", "elsewhere", "train")}
    counts = {split: [len(source[i]["boxes"]) for i in range(len(source))] for split, source in sources.items()}
    assert (counts["test"], counts["elsewhere"]) == ([279], [61, 37])
    assert sources["test"].sizes() == [(1035, 1249)]
    assert (len(counts["train"]), len(for_training(sources["train"], {}))) == (210, 199)
    assert max(counts["train"]) == 38
    assert all(source[0]["trained"].all() for source in sources.values())
