"""Pictures with boxes in every form of annotations: the same objects, classes by name, and what does not fit."""

import json
import logging
import pickle
import re
import shutil

import numpy as np
import pytest
from box_files import FORMS, LABELS, OBJECTS, SIZES, WRITERS, coco, write_coco, write_pictures, write_voc, write_yolo
from PIL import Image

from unireplknet_jax.data.broken import AugmentedExamples, Selected, find_broken
from unireplknet_jax.data.classes import in_order_of
from unireplknet_jax.data.pictures import box_sets
from unireplknet_jax.data.pictures.box_sets import for_training, open_source, whole, why_broken
from unireplknet_jax.data.pictures.box_transforms import TrainTransform
from unireplknet_jax.data.pictures.instance_masks import bitmaps
from unireplknet_jax.data.pictures.mask_sets import sizes_of

NAMES = [*SIZES]


def opened(folder, split="train", name="boxes", **options):
    return open_source({"name": name, "dir": str(folder), **options}, split)


def by_name(source):
    return {source.pictures.names[index]: source[index] for index in range(len(source))}


@pytest.mark.parametrize("name", ["boxes", "the form"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_annotations_gives_the_same_objects(form, name, tmp_path):
    source = opened(WRITERS[form](tmp_path), name=form if name == "the form" else name)
    assert source.labels == LABELS
    assert (len(source), source.most_objects, source.has_masks) == (3, 2, False)
    found = by_name(source)
    assert [*found] == NAMES
    for picture, own in OBJECTS.items():
        example = found[picture]
        assert example["path"].endswith(picture)
        assert example["image"].shape == (*SIZES[picture], 3)
        assert example["boxes"].shape == (len(own), 4)
        np.testing.assert_allclose(example["boxes"], np.reshape([box for _, box in own], (-1, 4)), atol=1e-5)
        assert [LABELS[label] for label in example["labels"]] == [label for label, _ in own]
        assert example["trained"].tolist() == [True] * len(own)
        assert example["crowd"].tolist() == [False] * len(own)
        np.testing.assert_allclose(example["areas"], [(b[2] - b[0]) * (b[3] - b[1]) for _, b in own], rtol=1e-5)
        assert example["masks"] is None
        assert [example[key].dtype for key in ("boxes", "labels", "areas")] == [np.float32, np.int32, np.float64]
    assert source.sizes() == [*SIZES.values()]
    assert [*source.numbers] == ([10, 11, 12] if form == "coco" else NAMES)


@pytest.mark.parametrize(("form", "options"), [("coco", {}), ("yolo", {}), ("labelme", {})])
def test_polygons_are_masks(form, options, tmp_path):
    source = opened(WRITERS[form](tmp_path, polygons=True), name=form)
    assert source.has_masks
    example = source[0]
    masks = bitmaps(example)
    assert masks.shape == (2, *SIZES["2.jpg"])
    for mask, (_, (left, top, right, bottom)) in zip(masks, OBJECTS["2.jpg"], strict=True):
        expected = np.zeros_like(mask)
        expected[top:bottom, left:right] = True
        np.testing.assert_array_equal(mask, expected)
    assert source[2]["masks"] == []


@pytest.mark.parametrize("form", FORMS)
def test_the_other_split_has_the_classes_of_the_training_split(form, tmp_path):
    for split in ("train", "valid"):
        WRITERS[form](tmp_path, split)
    if form == "yolo":  # whose yaml names val alone
        (tmp_path / "data.yaml").write_text("names: [cat, dog]")
    source = opened(tmp_path, "val", form)
    assert source.labels == LABELS
    assert len(source) == 3


def test_a_class_that_training_lacks_is_named(tmp_path):
    write_voc(tmp_path, "val")
    write_voc(tmp_path, "train", {**OBJECTS, "2.jpg": [("cat", (2, 2, 9, 9))]})
    with pytest.raises(ValueError, match="has objects of the class dog, which the training split has not; the classes"):
        opened(tmp_path, "val", "voc")
    (tmp_path / "classes.txt").write_text("dog\ncat\nbird\n")
    assert opened(tmp_path, "val", "voc").labels == ("dog", "cat", "bird")


def test_a_source_is_picklable_and_tells_a_changed_set(tmp_path):
    source = opened(write_coco(tmp_path, polygons=True))
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(bitmaps(copy[0]), bitmaps(source[0]))
    assert copy.contents() == json.loads(json.dumps(source.contents()))
    document = coco(polygons=True)
    document["annotations"][0]["segmentation"][0][0] += 1
    assert opened(write_coco(tmp_path, document=document)).contents() != source.contents()


# ---- COCO


def test_a_models_classes_are_found_by_name(tmp_path):
    source = in_order_of(("dog", "bird", "cat"), opened(write_coco(tmp_path)), "mine")
    labels = source[0]["labels"]
    assert (labels.tolist(), labels.dtype) == ([0, 2], np.int32)


def test_a_list_chooses_classes_and_their_order(tmp_path, caplog):
    write_coco(tmp_path)
    (tmp_path / "only.txt").write_text("dog\n")
    source = opened(tmp_path, classes="only.txt")
    assert (source.labels, source.category_ids) == (("dog",), (2,))
    assert [len(source[index]["boxes"]) for index in range(3)] == [1, 0, 0]
    assert "objects left out, of classes that" in caplog.text
    (tmp_path / "only.txt").write_text("dgo\n")
    with pytest.raises(ValueError, match=r"has the class 'dgo', which .* has not; did you mean dog"):
        opened(tmp_path, classes="only.txt")


def test_what_training_leaves_out(tmp_path):
    """mmdetection's rules: crowds, ignored ones, no area, outside, below a pixel."""
    document = coco()
    first = document["annotations"][0]
    wrong = [
        {"iscrowd": 1},
        {"ignore": 1},
        {"area": 0},
        {"area": -3},
        {"bbox": [60, 4, 9, 9]},
        {"bbox": [10, 4, 0.9, 9]},
        {"bbox": [10, 4, -5, 9]},
        {"bbox": [10, -9, 9, 9]},
    ]
    first["bbox"] = [1.3, 4, 1, 9]  # 2.3 - 1.3 is below 1
    document["annotations"] = [first | {"id": 1 + i} | change for i, change in enumerate([{}, *wrong])]
    example = opened(write_coco(tmp_path, document=document))[0]
    assert example["trained"].tolist() == [True] + [False] * len(wrong)
    assert example["crowd"].tolist() == [False, True] + [False] * (len(wrong) - 1)


def test_a_thousand_objects_in_a_picture(tmp_path):
    document = coco(polygons=True)
    first = document["annotations"][0]
    document["annotations"] = [first | {"id": i} for i in range(1000)]
    source = opened(write_coco(tmp_path, document=document))
    assert source.most_objects == 1000
    assert source[0]["boxes"].shape == (1000, 4)
    assert len(source[0]["masks"]) == 1000


def test_options_name_other_places(tmp_path):
    write_pictures(tmp_path / "elsewhere")
    (tmp_path / "mine_train.json").write_text(json.dumps(coco()))
    options = {"annotations": "mine_{split}.json", "pictures": str(tmp_path / "elsewhere")}
    assert len(opened(tmp_path, **options)) == 3
    with pytest.raises(ValueError, match=r"data.annotations is mine_\{split\}.json, but .*mine_val.json is not there"):
        opened(tmp_path, "val", **options)


# ---- pictures that are turned


def turned(folder, name, orientation):
    """Store a picture so that it is the same upright, but lies on the disk as the orientation says."""
    back = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)  # the inverse of each
    with Image.open(folder / name) as picture:
        upright = picture.convert("RGB")
    methods = {
        **{2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM},
        **{5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE},
        **{8: Image.Transpose.ROTATE_90},
    }
    stored = upright.transpose(methods[back])
    exif = Image.Exif()
    exif[274] = orientation
    stored.save(folder / name, exif=exif)
    return stored.size


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_and_masks_of_the_stored_picture_follow_its_rotation(orientation, tmp_path):
    """One picture is annotated upright and the same one as it lies on the disk: both give the same example."""
    name, upright_mask = "b.png", np.zeros((40, 60), bool)
    upright_mask[6:20, 10:31] = True
    upright_mask[6:9, 10:15] = False
    Image.fromarray(np.repeat(upright_mask[..., None], 3, -1).astype(np.uint8) * 255).save(tmp_path / name)
    width, height = turned(tmp_path, name, orientation)
    with Image.open(tmp_path / name) as stored:
        mask = np.asarray(stored)[..., 0] > 0
    assert mask.shape == (60, 40) == (height, width)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    flat = mask.ravel(order="F")
    counts = np.diff([0, *np.flatnonzero(np.diff(flat, prepend=False)), flat.size]).tolist()
    entry = {"id": 1, "image_id": 1, "category_id": 1, "area": 1, "iscrowd": 0}
    entry["bbox"] = [int(left), int(top), int(right - left), int(bottom - top)]
    square = [[float(value) for value in (left, top, right, top, right, bottom, left, bottom)]]
    document = {
        "images": [{"id": 1, "file_name": name, "height": 60, "width": 40}],
        "annotations": [
            entry | {"segmentation": {"size": [60, 40], "counts": counts}},
            entry | {"segmentation": square},
        ],
        "categories": [{"id": 1, "name": "x"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(document))
    example = opened(tmp_path)[0]
    np.testing.assert_array_equal(example["image"][..., 0] > 0, upright_mask)
    assert example["boxes"].tolist() == [[10, 6, 31, 20]] * 2
    masks = bitmaps(example)
    np.testing.assert_array_equal(masks[0], upright_mask)
    np.testing.assert_array_equal(np.argwhere(masks[1])[[0, -1]], [[6, 10], [19, 30]])


def test_annotations_of_the_upright_picture_stay_as_they_are(tmp_path):
    write_coco(tmp_path)
    turned(tmp_path / "train", "2.jpg", 6)
    example = opened(tmp_path)[0]
    assert example["image"].shape == (40, 60, 3)
    assert example["boxes"][0].tolist() == [10, 4, 30, 24]
    assert "orientation" not in example


@pytest.mark.parametrize("orientation", [None, 6])
def test_another_size_than_the_annotations_say_is_named(orientation, tmp_path):
    document = coco()
    document["images"][0]["width"] = 61
    write_coco(tmp_path, document=document)
    if orientation:
        turned(tmp_path / "train", "2.jpg", orientation)
    source = opened(tmp_path)
    sizes = "has 40x60 pixels and is turned by its EXIF tag" if orientation else "has 60x40 pixels"
    assert f"2.jpg {sizes}, but {source.origin} says 61x40; annotate" in why_broken(source[0])
    with pytest.raises(ValueError, match="says 61x40"):
        whole(source[0])
    assert [file.index for file in find_broken(source, why_broken)] == [0]


# ---- broken pictures and the training set


def test_broken_pictures_are_refused_or_skipped(tmp_path, caplog):
    (write_coco(tmp_path) / "train/2.jpg").write_bytes(b"\xff\xd8 no picture")
    source = opened(tmp_path)
    transform = TrainTransform((32,), 48, canvases=((32, 64), (64, 32)), crop=None, masks=False)
    augmented = AugmentedExamples(source, transform, "refuse", why_broken)
    with pytest.raises(ValueError, match=r"2\.jpg is not an image that Pillow can read"):
        augmented(0, np.random.default_rng(0))
    augmented = AugmentedExamples(source, transform, "skip", why_broken)
    assert augmented(0, np.random.default_rng(0))["id"] == 11
    assert "skipped: " in caplog.text


def test_training_leaves_out_pictures_without_objects_and_tiny_ones(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="unireplknet_jax")
    source = opened(write_coco(tmp_path))
    chosen = for_training(source, {})
    assert isinstance(chosen, Selected)
    assert [chosen[index]["id"] for index in range(len(chosen))] == [10, 11]
    assert "leaves out 1 of 3 pictures, 1 of them without objects" in caplog.text
    assert sizes_of(chosen) == [(40, 60), (50, 40)]
    assert len(for_training(source, {"keep_empty": True})) == 3
    assert len(for_training(source, {"keep_empty": True, "least_side": 37})) == 2
    assert for_training(source, {"keep_empty": True, "least_side": 36}) is source
    with pytest.raises(ValueError, match=r"has no picture with an object and a side of 41 pixels"):
        for_training(source, {"least_side": 41})
    with pytest.raises(ValueError, match=r"data.least_side is -1; expected a number of pixels"):
        for_training(source, {"least_side": -1})


def test_a_crowd_alone_keeps_its_picture(tmp_path):
    document = coco()
    document["annotations"] = [document["annotations"][0] | {"iscrowd": 1}]
    assert len(for_training(opened(write_coco(tmp_path, document=document)), {})) == 1


# ---- what is missing


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "coko"}, "there is no source of boxes 'coko'; did you mean coco"),
        ({"name": "treez"}, "there is no source of boxes 'treez'; did you mean trees?"),
        ({"name": "trees", "dir": "gs://a/b"}, "gs://a/b is none; mount the bucket first"),
        ({"name": "coco", "dir": None}, "coco reads files; give their folder as data.dir"),
        ({"name": "coco", "dir": "gs://a/b"}, "gs://a/b is none; mount the bucket first"),
        ({"name": "coco", "dir": "/nowhere/at/all"}, "there is no folder /nowhere/at/all"),
    ],
)
def test_data_that_name_nothing_are_one_sentence(data, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        open_source({"dir": str(tmp_path)} | data, "train")


@pytest.mark.parametrize("form", FORMS)
def test_a_split_that_is_not_there_is_one_sentence(form, tmp_path):
    WRITERS[form](tmp_path)
    with pytest.raises(
        ValueError, match=r"has no annotations of the split 'val': none of .* is there; the folders in it"
    ):
        opened(tmp_path, "val", form)


def test_a_folder_with_no_annotations_or_of_two_forms_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="has no annotations of the split 'train'; expected COCO's JSON, YOLO's"):
        opened(tmp_path)
    write_coco(tmp_path)
    write_yolo(tmp_path)
    with pytest.raises(ValueError, match=r"has annotations as of coco and yolo; give data.name=coco or another"):
        opened(tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_picture_is_named(form, tmp_path):
    folder = WRITERS[form](tmp_path)
    (path,) = folder.rglob("2.jpg")
    path.unlink()
    with pytest.raises(ValueError, match=r"(2\.jpg is not there)|(2\.(xml|json|txt) has no picture)"):
        opened(folder, name=form)


def test_every_reader_is_known():
    assert ("boxes", *FORMS) == box_sets.SOURCES


def test_two_pictures_of_one_stem_are_refused(tmp_path):
    write_yolo(tmp_path)
    shutil.copy(tmp_path / "images/train/2.jpg", tmp_path / "images/train/2.png")
    with pytest.raises(ValueError, match="two files of one name; keep one"):
        opened(tmp_path, name="yolo")
