"""COCO's annotations: what its files leave open, what other programs write into them, and what is wrong in them."""

import json
import re

import numpy as np
import pytest
from box_files import LABELS, SIZES, coco, write_coco, write_pictures

from unireplknet_jax.data.broken import without_broken
from unireplknet_jax.data.pictures.box_sets import open_source, why_broken
from unireplknet_jax.data.pictures.instance_masks import bitmaps


def opened(folder, split="train", name="boxes", **options):
    return open_source({"name": name, "dir": str(folder), **options}, split)


def test_category_ids_with_gaps_and_out_of_order_are_the_classes_in_the_files_order(tmp_path):
    source = opened(write_coco(tmp_path, ids=(90, 3)))
    assert (source.labels, source.category_ids) == (LABELS, (90, 3))
    assert source[0]["labels"].tolist() == [1, 0]


def test_annotation_ids_of_zero_and_twice_change_nothing(tmp_path, caplog):
    document = coco()
    for entry in document["annotations"]:
        entry["id"] = 0
    source = opened(write_coco(tmp_path, document=document))
    assert len(source.store.boxes) == 3
    assert "annotation ids that stand more than once, which changes nothing: annotation 0" in caplog.text


def test_annotations_of_unknown_pictures_and_categories_are_left_out_and_said(tmp_path, caplog):
    document = coco()
    document["annotations"][0]["image_id"] = 99
    document["annotations"][1]["category_id"] = 99
    source = opened(write_coco(tmp_path, document=document))
    assert [len(source[index]["boxes"]) for index in range(3)] == [0, 1, 0]
    assert "annotations left out, of pictures that the file does not list: annotation 1" in caplog.text
    assert "annotations left out, of categories that the file does not list: annotation 2" in caplog.text


def test_short_polygons_are_left_out_and_an_object_without_any_other_has_a_box_alone(tmp_path, caplog):
    document = coco(polygons=True)
    whole_one, short = document["annotations"][0]["segmentation"][0], [1, 2, 3, 4]
    document["annotations"][0]["segmentation"] = [short, whole_one, whole_one[:7]]
    document["annotations"][1]["segmentation"] = [short]
    source = opened(write_coco(tmp_path, document=document))
    assert source[0]["masks"] == [[whole_one], None]
    assert bitmaps(source[0])[1].sum() == 0
    assert "fewer than three corners, which are left out: annotation 1, annotation 2" in caplog.text


def test_run_lengths_and_polygons_may_be_mixed(tmp_path):
    document = coco(polygons=True)
    inside = np.zeros(SIZES["2.jpg"], bool)
    inside[20:40, 30:60] = True
    flat = inside.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    counts = np.diff([0, *edges, flat.size]).tolist()
    document["annotations"][1]["segmentation"] = {"size": [40, 60], "counts": counts}
    masks = bitmaps(opened(write_coco(tmp_path, document=document))[0])
    np.testing.assert_array_equal(masks[1], inside)
    assert masks[0].sum() == 400


CORNERS = [[10, 4], [30, 4], [30, 14], [30, 24], [20, 24], [10, 24]]


@pytest.mark.parametrize(
    "polygons",
    [
        [value for corner in CORNERS for value in corner],
        [[str(value) for corner in CORNERS for value in corner]],
        [CORNERS],
        [CORNERS[:2] + CORNERS[3:4] + CORNERS[5:]],
        [[[value for corner in CORNERS for value in corner]]],
        [{"size": [40, 60], "counts": [404, *[20, 20] * 19, 20, 1216]}],
    ],
    ids=["flat", "texts", "corners", "four corners", "one list more", "run lengths in a list"],
)
@pytest.mark.parametrize("box", [[10, 4, 20, 20], []])
def test_masks_and_boxes_as_some_programs_write_them(polygons, box, tmp_path):
    document = coco()
    changed = {"segmentation": polygons, "bbox": box}
    if "counts" in str(polygons):  # run lengths tell no box
        del changed["bbox"]
    document["annotations"][0].update(changed)
    del document["annotations"][0]["area"]
    example = opened(write_coco(tmp_path, document=document))[0]
    assert example["boxes"][0].tolist() == [10, 4, 30, 24]
    assert example["areas"].tolist() == [400, 600]
    expected = np.zeros(SIZES["2.jpg"], bool)
    expected[4:24, 10:30] = True
    np.testing.assert_array_equal(bitmaps(example)[0], expected)


def test_the_area_of_a_mask_counts_where_none_is_stated(tmp_path):
    """Of run lengths it is theirs and not that of the box; NaN states none."""
    document = coco()
    for entry, area in zip(document["annotations"], (None, float("nan"), "12"), strict=True):
        entry |= {"segmentation": {"size": [*SIZES["2.jpg"]], "counts": [404, 20, 1976]}, "area": area}
    document["annotations"][1]["segmentation"]["counts"] = "wrong"
    source = opened(write_coco(tmp_path, document=document))
    assert source.store.areas.tolist() == [20, 600, 20]


@pytest.mark.parametrize(("value", "crowd"), [("0", False), (False, False), (None, False), ("1", True), (True, True)])
def test_flags_as_texts_and_truth_values(value, crowd, tmp_path):
    document = coco()
    document["annotations"][0]["iscrowd"] = value
    document["annotations"][1]["ignore"] = value
    example = opened(write_coco(tmp_path, document=document))[0]
    assert example["crowd"].tolist() == [crowd, False]
    assert example["trained"].tolist() == [not crowd] * 2


def test_paths_of_windows_and_ids_of_annotations_that_are_lists(tmp_path):
    document = coco()
    document["images"][2]["file_name"] = "b\\1.png"
    document["annotations"][0]["id"] = [1]
    source = opened(write_coco(tmp_path, document=document))
    assert source[2]["path"] == str(tmp_path / "train/b/1.png")


@pytest.mark.parametrize("polygon", [[5, None, 25, 6, 25, 16], [5, "x", 25, 6, 25, 16], [5, float("nan"), 25, 6, 9, 9]])
def test_a_polygon_of_no_numbers_names_the_picture(polygon, tmp_path):
    document = coco()
    document["annotations"][1]["segmentation"] = [polygon]
    del document["annotations"][1]["area"]
    source = opened(write_coco(tmp_path, document=document))
    assert re.match(r".*2\.jpg: a (mask is .*; expected numbers|polygon has a corner)", why_broken(source[0]))


@pytest.mark.parametrize("value", [[5, 9], "wrong!", [2400, -1, 1], ["a"]])
def test_broken_run_lengths_name_the_picture(value, tmp_path):
    document = coco(polygons=True)
    document["annotations"][1]["segmentation"] = {"size": [40, 60], "counts": value}
    source = opened(write_coco(tmp_path, document=document))
    assert re.match(r".*2\.jpg: a mask has (the |other )?run lengths", why_broken(source[0]))
    if value == [2400, -1, 1]:
        assert why_broken(source[0]).endswith("below 0, such as -1")
    assert [why_broken(source[index]) for index in (1, 2)] == [None, None]
    assert len(without_broken(source, why_broken)) == 2


def test_a_mask_of_another_size_names_the_picture(tmp_path):
    document = coco(polygons=True)
    document["annotations"][0]["segmentation"] = {"size": [60, 40], "counts": [0, 2400]}
    assert why_broken(opened(write_coco(tmp_path, document=document))[0]).endswith(
        "2.jpg: a mask has 40x60 pixels and its picture 60x40"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("categories"), "has no list of categories; expected an object"),
        (lambda d: d["categories"].append({"id": 1, "name": "cow"}), "has the category id 1 more than once"),
        (lambda d: d["categories"].append({"id": 9, "name": "cat"}), "has the category name cat more than once"),
        (lambda d: d["categories"].append({"id": "x"}), 'expected {"id": a number'),
        (lambda d: d["categories"].append({"id": 9, "name": " "}), 'expected {"id": a number'),
        (lambda d: d.update(annotations=None), "has no list of annotations; expected an object"),
        (lambda d: (d.pop("images"), d.pop("categories")), "has no list of images, categories; expected"),
        (
            lambda d: [each.update(bbox=[0.1, 0.2, 0.3, 0.4]) for each in d["annotations"]],
            "has no box beyond the first pixel; expected pixels, not shares of the picture",
        ),
        (lambda d: d["categories"].clear(), "has no classes; expected one at least"),
        (lambda d: d["images"].clear(), "has no pictures; expected one at least"),
        (lambda d: d["images"].append(d["images"][0]), "has the picture id 10 more than once"),
        (lambda d: d["images"].append(d["images"][0] | {"id": 7}), "has the picture 2.jpg more than once"),
        (lambda d: d["images"].append({"id": 7}), 'expected {"id": ..., "file_name": ...}'),
        (lambda d: d["images"][0].update(width=float("inf"), file_name="gone.jpg"), "gone.jpg is not there, though"),
        (lambda d: d["images"][0].update(file_name="gone.jpg"), "gone.jpg is not there, though"),
        (lambda d: d["images"][0].update(file_name="\ud800"), r"has the picture '\\ud800', which is no name of a file"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "annotation 1 of .* has the box"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "expected \\[left, top, width, height\\]"),
        (
            lambda d: d["annotations"][0].update(bbox=[1e9, 2, 3, 4]),
            "has a box at 1e+09, 2, 1e+09, 6 of 2.jpg; expected",
        ),
        (lambda d: d["annotations"][0].pop("image_id"), "expected image_id and category_id in it"),
    ],
)
def test_a_document_that_is_none_is_one_sentence(change, message, tmp_path):
    document = coco()
    change(document)
    with pytest.raises(ValueError, match=message if "\\" in message or ".*" in message else re.escape(message)):
        opened(write_coco(tmp_path, document=document))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected"),
        ("{", "is no whole JSON"),
        ("[]", "has a list; expected an object"),
        ("null", "has nothing; expected"),
    ],
)
def test_a_file_that_is_no_document_is_one_sentence(text, message, tmp_path):
    write_coco(tmp_path)
    (tmp_path / "annotations/train.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, name="coco")


@pytest.mark.parametrize(
    ("place", "pictures"),
    [
        ("annotations/instances_train2017.json", "train2017"),
        ("train/_annotations.coco.json", "train"),
        ("train.json", "images"),
        ("instances_train.json", "."),
    ],
)
def test_the_places_of_a_document(place, pictures, tmp_path):
    write_pictures(tmp_path / pictures)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(json.dumps(coco()))
    source = opened(tmp_path)
    assert source.origin == str(tmp_path / place)
    assert source[0]["image"].shape == (40, 60, 3)
