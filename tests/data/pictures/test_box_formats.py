"""What each form of annotations of one's own leaves open, and what is wrong in it: YOLO, VOC, LabelMe, CSV."""

import base64
import io
import json
import re

import numpy as np
import pytest
from box_files import OBJECTS, SIZES, voc_object, write_csv, write_labelme, write_pictures, write_voc, write_yolo
from PIL import Image

from unireplknet_jax.data.pictures.box_sets import open_source
from unireplknet_jax.data.pictures.instance_masks import bitmaps


def png_of(bitmap):
    file = io.BytesIO()
    Image.fromarray(bitmap).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PNG = png_of(np.ones((4, 6), bool))


def opened(folder, name, split="train", **options):
    return open_source({"name": name, "dir": str(folder), **options}, split)


# ---- YOLO


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2", "is '0 0.5 0.5 0.2'; expected lines of a class number and 4 shares"),
        ("0 0.5 0.5 0.2 0.2 0.9", "the fifth is no score that could be read"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "expected lines of a class number"),
        ("cat 0.5 0.5 0.2 0.2", "expected lines of a class number"),
        ("2 0.5 0.5 0.2 0.2", "has the class 2; there are names of the classes 0 to 1"),
        ("0.5 0.5 0.5 0.2 0.2", "has the class 0.5; there are names of the classes 0 to 1"),
        ("inf 0.5 0.5 0.2 0.2", "has the class inf; there are names of the classes 0 to 1"),
        ("0 30 20 20 20", "expected shares of the picture, from 0 to 1, not pixels"),
        ("0 0.5 0.5 nan 0.2", "expected shares of the picture"),
    ],
)
def test_a_line_of_yolo_that_is_none_is_named(line, message, tmp_path):
    (write_yolo(tmp_path) / "labels/train/2.txt").write_text(f"1 0.5 0.5 0.2 0.2\n\n{line}\n")
    with pytest.raises(ValueError, match=rf"line 3 of .*2\.txt .*{re.escape(message)}"):
        opened(tmp_path, "yolo")


def test_yolos_boxes_and_polygons_may_be_mixed(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "labels/train/2.txt").write_text("0 0.5 0.5 0.5 0.5\n1 0 0 0.5 0 0.5 0.5 0 0.5\n")
    example = opened(tmp_path, "yolo")[0]
    assert example["boxes"].tolist() == [[15, 10, 45, 30], [0, 0, 30, 20]]
    assert example["areas"].tolist() == [600, 600]
    assert example["masks"][0] is None
    assert bitmaps(example).sum(axis=(1, 2)).tolist() == [0, 600]


def test_an_empty_text_of_yolo_is_a_picture_without_objects(tmp_path):
    (write_yolo(tmp_path) / "labels/train/10.txt").write_text("")
    source = opened(tmp_path, "yolo")
    assert [len(source[index]["boxes"]) for index in range(3)] == [2, 0, 0]


def test_keypoints_behind_the_boxes_of_yolo_are_no_polygons(tmp_path, caplog):
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\nkpt_shape: [2, 3]\n")
    (tmp_path / "labels/train/2.txt").write_text("0 0.5 0.5 0.5 0.5 0.4 0.4 2 0.6 0.6 0\n")
    example = opened(tmp_path, "yolo")[0]
    assert example["boxes"].tolist() == [[15, 10, 45, 30]]
    assert example["masks"] is None
    assert "keypoints, which are left out" in caplog.text


NAMES = ["names: [cat, dog]", "names: {0: cat, 1: dog}", "names: {'1': dog, '0': cat}", None, "list"]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("layout", ["exported", "beside"])
def test_the_layouts_of_yolo(layout, names, tmp_path):
    write_yolo(tmp_path / "source")
    pictures, texts = (tmp_path / "source" / kind / "train" for kind in ("images", "labels"))
    (tmp_path / "mine").mkdir()
    if layout == "exported":
        (tmp_path / "mine/train").mkdir()
        pictures.rename(tmp_path / "mine/train/images")
        texts.rename(tmp_path / "mine/train/labels")
    else:
        for text in texts.glob("*.txt"):
            text.rename(pictures / text.name)
        pictures.rename(tmp_path / "mine/train")
    if names and names != "list":
        (tmp_path / "mine/data.yaml").write_text(f"train: ../train/images\n{names}\n")
    else:
        (tmp_path / f"mine/{'mine.txt' if names else 'classes.txt'}").write_text("cat\ndog\n")
    options = {"classes": "mine.txt"} if names == "list" else {}
    source = opened(tmp_path / "mine", "yolo", **options)
    assert source.labels == ("cat", "dog")
    assert [len(source[index]["boxes"]) for index in range(3)] == [2, 1, 0]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: {1: cat, 2: dog}", "numbers its names 1, 2; expected 0, 1, 2"),
        ("train: images/train", "has no names of classes; expected names in data.yaml, or classes.txt"),
        ("names: [cat, dog", "is no YAML"),
        ("names: {0: cat, one: dog}", "numbers its names 0, one; expected 0, 1, 2"),
        ("names: cat dog", "has the names cat dog; expected a list of texts"),
        ("names: 2", "has the names 2; expected a list of texts"),
        ("names: [no, yes]", "has the names .False, True.; expected a list of texts, yes and no in quotes"),
        ("names: [cat, cat]", "data.yaml has the class cat more than once"),
        ("names: [cat, dog]\ntrain: [images/train, images/more]", "has train: .*; expected one folder of pictures"),
        ("names: [cat, dog]\ntrain: train.txt", "has train: train.txt; expected one folder of pictures"),
    ],
)
def test_a_description_that_names_no_classes_is_one_sentence(yaml, message, tmp_path):
    (write_yolo(tmp_path) / "data.yaml").write_text(yaml)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, "yolo")


# ---- VOC


def test_vocs_own_layout_and_its_difficult_objects(tmp_path):
    write_voc(tmp_path)
    (tmp_path / "annotations/train").rename(tmp_path / "Annotations")
    (tmp_path / "images/train").rename(tmp_path / "JPEGImages")
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("10 1\n2 -1\n")
    path = tmp_path / "Annotations/2.xml"
    path.write_text(path.read_text().replace("<difficult>0", "<difficult>1", 1))
    source = opened(tmp_path, "voc")
    assert [*source.pictures.names] == ["10.jpg", "2.jpg"]
    assert source[1]["crowd"].tolist() == [True, False]
    assert source[1]["trained"].tolist() == [False, True]
    (tmp_path / "ImageSets/Main/train.txt").write_text("10\n3\n")
    with pytest.raises(ValueError, match=r"3\.xml is not there, though ImageSets/Main lists it"):
        opened(tmp_path, "voc")


def test_names_with_blanks_in_vocs_list_and_difficulty_in_letters(tmp_path):
    write_voc(tmp_path)
    path = tmp_path / "annotations/train/2.xml"
    path.write_text(path.read_text().replace("<difficult>0", "<difficult>True", 1))
    path.rename(path.with_name("my 2.xml"))
    (tmp_path / "images/train/2.jpg").rename(tmp_path / "images/train/my 2.jpg")
    (tmp_path / "annotations/train").rename(tmp_path / "Annotations")
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("my 2\n")
    source = opened(tmp_path, "voc")
    assert [*source.pictures.names] == ["my 2.jpg"]
    assert source[0]["crowd"].tolist() == [True, False]


@pytest.mark.parametrize(("changed", "first"), [({}, 1), ({"2.jpg": [("dog", (0, 4, 30, 24))]}, 0)])
def test_the_first_column_of_voc_is_told_by_a_zero(changed, first, tmp_path, caplog):
    caplog.set_level("INFO", logger="unireplknet_jax")
    write_voc(tmp_path, objects=OBJECTS | changed, first=0)
    expected = (changed or OBJECTS)["2.jpg"][0][1]
    moved = np.array(expected) - [first, first, 0, 0]
    assert opened(tmp_path, "voc")[0]["boxes"][0].tolist() == moved.tolist()
    assert f"the first column is taken for number {first} (data.first_pixel says otherwise)" in caplog.text
    assert opened(tmp_path, "voc", first_pixel=0)[0]["boxes"][0].tolist() == [*expected]
    with pytest.raises(ValueError, match=r"data.first_pixel is 2; expected 0 or 1"):
        opened(tmp_path, "voc", first_pixel=2)


def test_another_split_counts_as_the_training_split_does(tmp_path):
    write_voc(tmp_path, "train", {**OBJECTS, "2.jpg": [("dog", (0, 4, 30, 24))]}, first=0)
    write_voc(tmp_path, "val", first=0)
    assert opened(tmp_path, "voc", "val")[0]["boxes"][0].tolist() == [10, 4, 30, 24]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected an <annotation>"),
        ("<annotation>", "is no whole XML"),
        ("<note/>", "is an XML of <note>"),
        ("<annotation><object><name>cat</name></object></annotation>", "has an <object> 'cat' without its <bndbox>"),
        ('<?xml version="1.0" encoding="none"?><annotation/>', "2.xml is no whole XML (unknown encoding"),
        ('<?xml version="1.0" encoding="big5"?><annotation/>', "2.xml is no whole XML (multi-byte encodings"),
        (f"<annotation>{voc_object('', (1, 1, 2, 2))}</annotation>", "has an <object> '' without"),
        (f"<annotation>{voc_object('cat', (1, 1, 'a', 2))}</annotation>", "without its <bndbox> in numbers"),
    ],
)
def test_an_xml_that_is_none_is_named(text, message, tmp_path):
    (write_voc(tmp_path) / "annotations/train/2.xml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        opened(tmp_path, "voc")


# ---- LabelMe


def shaped(folder, *shapes, name="2"):
    path = folder / f"train/{name}.json"
    document = json.loads(path.read_text())
    document["shapes"] = [*shapes]
    path.write_text(json.dumps(document))
    return opened(folder, "labelme")


def test_the_shapes_of_labelme(tmp_path, caplog):
    ring = np.ones((4, 6), bool)
    ring[1:3, 2:4] = False
    mask = {"shape_type": "mask", "points": [[10, 20], [15, 23]], "mask": png_of(ring)}
    triangle = [[0, 0], [10, 0], [0, 10]]
    source = shaped(
        write_labelme(tmp_path),
        {"label": "cat", "points": triangle, "group_id": 1},
        {"label": "cat", "points": [[30, 30], [40, 30], [40, 40], [30, 40]], "group_id": 1},
        {"label": "dog", "points": [[30, 20], [30, 25]], "shape_type": "circle", "group_id": None},
        {"label": "dog"} | mask,
        {"label": "cat", "points": [[5, 9], [2, 3]], "shape_type": "rectangle"},
        {"label": "dog", "points": [[5, 9]], "shape_type": "point"},
        {"label": "dog", "points": [[5, 9], [7, 9]]},
    )
    example = source[0]
    assert example["labels"].tolist() == [0, 1, 1, 0]
    np.testing.assert_allclose(
        example["boxes"], [[0, 0, 40, 40], [25, 15, 35, 25], [10, 20, 16, 24], [2, 3, 5, 9]], atol=1e-5
    )
    np.testing.assert_allclose(example["areas"], [150, 78.4, 20, 18], rtol=2e-3)
    masks = bitmaps(example)
    np.testing.assert_array_equal(masks[2, 20:24, 10:16], ring)
    assert masks[2].sum() == ring.sum()
    assert masks[0, 35, 35]
    assert example["masks"][3] is None
    assert "shapes that are no objects, which are left out: " in caplog.text
    assert len(source.odd["shapes that are no objects, which are left out"]) == 2


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"points": [[0, 0]]}, "which has no label; expected an object with"),
        ({"label": "cat", "points": [[0, 0, 1]]}, "expected points [[x, y], ...]"),
        ({"label": "cat", "points": [[0, 0, 1], [2, 2, 1]]}, "expected points [[x, y], ...]"),
        ({"label": "cat", "points": None}, "expected points [[x, y], ...]"),
        ({"label": "cat", "points": [], "shape_type": "mask", "mask": PNG}, "a mask without points; expected"),
        ({"label": "cat", "points": [[0, 0]], "shape_type": "blob"}, "a shape of the type 'blob' with 1 points"),
        ({"label": "cat", "points": [[0, 0]], "shape_type": "mask", "mask": "xx"}, "a mask that cannot be read"),
    ],
)
def test_a_shape_that_is_none_is_named(shape, message, tmp_path):
    with pytest.raises(ValueError, match=rf"2\.json has .*{re.escape(message)}"):
        shaped(write_labelme(tmp_path), shape)


def test_a_mask_of_labelme_beyond_its_picture_is_named(tmp_path):
    shape = {"label": "cat", "shape_type": "mask", "points": [[58, 0], [63, 3]], "mask": PNG}
    with pytest.raises(ValueError, match=r"2\.json has a mask that is empty, or does not lie in its picture of 60x40"):
        shaped(write_labelme(tmp_path), shape)


def test_parts_of_an_object_of_labelme_may_be_named_by_anything(tmp_path):
    points = [[0, 0], [9, 0], [9, 9]]
    shape = {"label": "cat", "points": points, "group_id": ["a", 1]}
    source = shaped(write_labelme(tmp_path), shape, shape | {"points": [[20, 0], [29, 0], [29, 9]]})
    assert source[0]["boxes"].tolist() == [[0, 0, 29, 9]]


def test_a_picture_inside_of_a_json_of_labelme_may_come_first(tmp_path):
    path = write_labelme(tmp_path) / "train/2.json"
    path.write_text(json.dumps({"imageData": "A" * 100_000} | json.loads(path.read_text())))
    for name in ("10", "b/1"):  # of which one alone would tell
        (tmp_path / f"train/{name}.json").unlink()
    assert len(opened(tmp_path, "boxes")) == 1


def test_a_picture_of_labelme_may_lie_where_the_json_says(tmp_path):
    write_labelme(tmp_path)
    write_pictures(tmp_path / "photos", {"2.jpg": SIZES["2.jpg"]})
    (tmp_path / "train/2.jpg").unlink()
    path = tmp_path / "train/2.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"imagePath": "..\\photos\\2.jpg"}))
    example = opened(tmp_path, "labelme")[0]
    assert example["path"] == str(tmp_path / "photos/2.jpg")


@pytest.mark.parametrize("text", ["{", "[]", '{"shapes": 3}'])
def test_another_json_than_labelmes_is_named(text, tmp_path):
    (write_labelme(tmp_path) / "train/2.json").write_text(text)
    with pytest.raises(ValueError, match=r"2\.json is .*; expected an object with \"shapes\""):
        opened(tmp_path, "labelme")


# ---- tables


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("file,xmin,ymin,xmax,ymax\n", "has the columns 'file,xmin,ymin,xmax,ymax'; expected the columns file,xmin"),
        ("file,xmin,ymin,xmax,ymax,label\n2.jpg,1,2,x,4,cat\n", "line 2 of .*: 'x' is no number; expected the columns"),
        ("file,xmin,ymin,xmax,ymax,label\n2.jpg,1,2,,4,cat\n", "line 2 of .* is '2.jpg,1,2,,4,cat'; expected"),
        ("file,xmin,ymin,xmax,ymax,label\n2.jpg,1,2,3,4,\n", "line 2 of .* is '2.jpg,1,2,3,4,'; expected"),
        ("file,xmin,ymin,xmax,ymax,label\n,1,2,3,4,cat\n", "line 2 of .* is ',1,2,3,4,cat'; expected"),
        ("", "train.csv is empty; expected the columns"),
    ],
)
def test_a_table_that_is_none_is_named(rows, message, tmp_path):
    (write_csv(tmp_path) / "train.csv").write_text(rows)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, "csv")


@pytest.mark.parametrize(
    "text",
    [
        "2.jpg,1,2,3.5,4,cat\n10.jpg,1,2,3,4,cat\n",  # without a header
        "filename;xmin;ymin;xmax;ymax;class\n2.jpg;1;2;3,5;4;cat\n10.jpg;1;2;3;4;cat\n",
        "filename,width,height,class,xmin,ymin,xmax,ymax\n2.jpg,60,40,cat,1,2,3.5,4\n10.jpg,9,9,cat,1,2,3,4\n",
        "x1,y1,x2,y2,name,image\n1,2,3.5,4,cat,.\\2.jpg\n1,2,3,4,cat,10.jpg\n",
    ],
)
def test_the_tables_that_programs_write(text, tmp_path):
    (write_csv(tmp_path) / "train.csv").write_text(text)
    source = opened(tmp_path, "csv")
    assert [*source.pictures.names] == ["2.jpg", "10.jpg"]
    assert source[0]["boxes"].tolist() == [[1, 2, 3.5, 4]]
    assert (source.labels, source.category_ids) == (("cat",), (1,))
