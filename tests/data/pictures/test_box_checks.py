"""What is odd in pictures with boxes is found, each kind once, and nothing in a set that is as it should be."""

import numpy as np
import pytest
from box_files import LABELS, coco, corners, write_coco
from PIL import Image

from unireplknet_jax.data.pictures.box_checks import BROKEN, checked
from unireplknet_jax.data.pictures.box_sets import open_source

EMPTY = "pictures without an object, which training leaves out unless data.keep_empty is set"


def report(folder, document):
    source = open_source({"name": "coco", "dir": str(write_coco(folder, document=document))}, "train")
    calls = []
    found = checked(source, threads=1, progress=calls.append)
    assert calls == [1, 2, 3]
    return found


def test_a_sound_set_has_nothing_odd_but_its_empty_picture(tmp_path):
    found = report(tmp_path, coco(polygons=True))
    assert found.odd == {EMPTY: ["b/1.png"]}
    assert found.pictures == [2]
    assert found.classes == [
        ("cat", 2, 2, 0, pytest.approx(np.mean([600**0.5, 760**0.5]))),
        ("dog", 1, 1, 0, pytest.approx(20)),
    ]


@pytest.mark.parametrize(
    ("change", "what", "where"),
    [
        ({"bbox": [10, 4, 0, 9]}, "boxes of no or a negative width or height, which are not trained on", ""),
        ({"bbox": [10, 4, -2, 9]}, "boxes of no or a negative width or height, which are not trained on", ""),
        ({"bbox": [10, 4, 0.5, 9]}, "boxes of less than a pixel, which are not trained on", ""),
        ({"bbox": [60, 4, 5, 9]}, "boxes outside of their picture, which are not trained on", "(dog at 60, 4, 65, 13)"),
        ({"bbox": [-5, 4, 9, 9]}, "boxes that reach out of their picture and are cut", "2.jpg (dog at -5, 4, 4, 13)"),
        ({"bbox": [50, 30, 9, 13]}, "boxes that reach out of their picture and are cut", ""),
        ({"area": 0}, "objects with no area, which are not trained on", ""),
        ({"bbox": [30, 20, 30, 20], "category_id": 1}, "objects that are there twice", ""),
        ({"segmentation": [corners((30, 20, 40, 30))]}, "masks that do not fit their boxes", ""),
        (
            {"segmentation": [corners((55, 4, 75, 24))], "bbox": [55, 4, 20, 20]},
            "boxes that reach out of their picture and are cut",
            "",
        ),
        ({"segmentation": [corners((70, 4, 80, 24))]}, "masks without a pixel in their picture", ""),
        ({"segmentation": []}, "objects without a mask, in data that have masks", ""),
        ({"segmentation": [[1, 2, 3, 4]]}, "masks with polygons of fewer than three corners, which are left out", ""),
        ({"image_id": 99}, "annotations left out, of pictures that the file does not list", "annotation 1"),
    ],
)  # fmt: skip
def test_what_is_odd_about_an_object_is_said(change, what, where, tmp_path):
    document = coco(polygons=True)
    first = document["annotations"][0]
    first.update(change)
    if "bbox" in change and "segmentation" not in change:  # so that no mask is odd
        for entry in document["annotations"]:
            entry["segmentation"] = []
    found = report(tmp_path, document)
    others = {EMPTY, "objects without a mask, in data that have masks", "classes without an object"}
    assert {*found.odd} - others == {what} - others
    assert len(found.odd[what]) == 1
    assert where in found.odd[what][0]
    assert 0 in found.pictures or where == "annotation 1"


def test_what_is_odd_about_pictures_is_said(tmp_path):
    document = coco()
    document["annotations"] = [entry for entry in document["annotations"] if entry["category_id"] == 1]
    many = [document["annotations"][1] | {"id": 100 + i, "bbox": [1, 1, 2 + i / 10, 9]} for i in range(101)]
    document["annotations"] += many
    folder = write_coco(tmp_path, document=document)
    (folder / "train/2.jpg").write_bytes(b"nothing")
    exif = Image.Exif()
    exif[274] = 3
    with Image.open(folder / "train/10.jpg") as picture:
        picture.save(folder / "train/10.jpg", exif=exif)
    Image.new("RGB", (36, 20)).save(folder / "train/b/1.png")
    document["images"][2]["height"] = 20
    write_coco(tmp_path, document=document, pictures=False)
    source = open_source({"name": "coco", "dir": str(folder)}, "train")
    found = checked(source, threads=1)
    (broken,) = found.odd.pop(BROKEN)
    assert broken.endswith("2.jpg is not an image that Pillow can read; expected for example a JPEG or PNG")
    assert found.odd == {
        "pictures with more than 100 objects": ["10.jpg (102)"],
        "pictures turned by their EXIF tag, with boxes that are taken as of the upright picture": ["10.jpg"],
        EMPTY: ["b/1.png"],
        "pictures with a side below 32 pixels, which training leaves out": ["b/1.png"],
        "classes without an object": ["dog"],
    }
    assert found.pictures == [0, 1, 2]
    assert found.classes[1] == (LABELS[1], 0, 0, 0, None)
