"""Pictures with masks in folders: the layouts, the classes, and what is missing or does not fit."""

import json
import logging
import pickle
import re

import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.data.broken import AugmentedExamples, find_broken, without_broken
from unireplknet_jax.data.classes import in_order_of
from unireplknet_jax.data.pictures import mask_sets
from unireplknet_jax.data.pictures.mask_sets import open_source, sizes_of
from unireplknet_jax.data.pictures.mask_transforms import TrainTransform
from unireplknet_jax.data.pictures.masks import IGNORED, whole, why_broken

SIZES = {"2": (6, 8), "10": (8, 6), "b/1": (5, 5)}  # in the order of the files


def write(folder, masks, split="train", kind="masks", classes=None, inside=True):
    """Write pictures (h, w, 3) and masks {stem: (h, w) values}; inside: the split's folder holds those of both."""
    for stem, values in masks.items():
        values = np.asarray(values)
        places = [folder / split / each if inside else folder / each / split for each in ("images", kind)]
        for place in places:
            (place / stem).parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(len(stem))
        Image.fromarray(rng.integers(0, 256, (*values.shape[:2], 3), np.uint8)).save(places[0] / f"{stem}.jpg")
        Image.fromarray(values).save(places[1] / f"{stem}.png")
    if classes is not None:
        (folder / "classes.csv").write_text(classes)
    return folder


def values_of(sizes=SIZES, classes=3):
    rng = np.random.default_rng(0)
    return {stem: rng.integers(0, classes, size, np.uint8) for stem, size in sizes.items()}


def opened(folder, split="train", **options):
    return open_source({"name": "mask_folder", "dir": str(folder), **options}, split)


@pytest.mark.parametrize("kind", ["masks", "annotations", "labels"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_folder_of_pictures_and_masks(tmp_path, kind, inside):
    masks = values_of()
    write(tmp_path, masks, kind=kind, inside=inside, classes="sky\nroad\ncar\n")
    source = opened(tmp_path)
    assert (len(source), source.labels, source.values) == (3, ("sky", "road", "car"), (0, 1, 2))
    assert len({*source.colours}) == 3
    assert source.sizes() == [*SIZES.values()]
    for index, stem in enumerate(SIZES):
        example = source[index]
        assert set(example) == {"image", "label_map", "path", "id"}
        assert example["id"] == f"{stem}.jpg"
        assert example["path"].endswith(f"/{stem}.jpg")
        assert (example["image"].shape, example["image"].dtype) == ((*SIZES[stem], 3), np.uint8)
        assert example["label_map"].dtype == np.int16
        np.testing.assert_array_equal(example["label_map"], masks[stem])
    with pytest.raises(IndexError):
        source[3]


def test_a_source_is_picklable(tmp_path):
    source = opened(write(tmp_path, values_of(), classes="sky\nroad\ncar\n"))
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[1]["label_map"], source[1]["label_map"])
    assert copy.contents() == source.contents()


def test_the_contents_tell_a_changed_set(tmp_path):
    masks = values_of()
    write(tmp_path, masks, classes="sky\nroad\ncar\n")
    before = opened(tmp_path).contents()
    assert json.loads(json.dumps(before)) == before
    assert {kind: count for kind, (count, _) in before.items()} == {"pictures": 3, "masks": 3}
    write(tmp_path, {"11": masks["2"]})
    assert opened(tmp_path).contents() != before


def ade20k(tmp_path, split, values):
    return write(tmp_path, {"ADE_val_1": values}, split, "annotations", inside=False)


@pytest.mark.parametrize(("split", "folder"), [("training", "training"), ("val", "validation"), ("train", "training")])
def test_ade20k_has_no_class_0(tmp_path, split, folder):
    ade20k(tmp_path, folder, np.array([[0, 1, 150], [255, 2, 1]], np.uint8))
    source = open_source({"name": "ade20k", "dir": str(tmp_path), "reduce_zero_label": True}, split)
    assert (len(source.labels), len(source.colours), source.values) == (150, 150, tuple(range(1, 151)))
    assert (source.labels[1], source.colours[1]) == ("building", (180, 120, 120))
    np.testing.assert_array_equal(source[0]["label_map"], [[-1, 0, 149], [-1, 1, 0]])


def test_ade20k_refuses_other_values(tmp_path):
    ade20k(tmp_path, "training", np.array([[151]], np.uint8))
    source = open_source({"name": "ade20k", "dir": str(tmp_path)}, "training")
    assert re.search(
        r"ADE_val_1.png has the value 151 .* have the values 1 to 150, and 0, 255 is", why_broken(source[0])
    )
    with pytest.raises(ValueError, match=r"data\.reduce_zero_label is True"):
        open_source({"name": "ade20k", "dir": str(tmp_path), "reduce_zero_label": False}, "training")


def test_the_value_0_may_be_no_class(tmp_path):
    write(tmp_path, {"a": np.array([[0, 1, 2, 255]], np.uint8)}, classes="sky\nroad\n")
    source = opened(tmp_path, reduce_zero_label=True)
    assert source.values == (1, 2)
    np.testing.assert_array_equal(source[0]["label_map"], [[-1, 0, 1, -1]])
    (tmp_path / "classes.csv").write_text("sky,0\nroad,1\n")
    with pytest.raises(ValueError, match=r"gives sky the value 0, which data\.reduce_zero_label ignores"):
        opened(tmp_path, reduce_zero_label=True)
    with pytest.raises(ValueError, match=r"gives road the value 1, which data\.ignore ignores"):
        opened(tmp_path, ignore=1)
    (tmp_path / "classes.csv").write_text("sky,0\nroad,1\nsea,2\ncell,255\n")
    assert opened(tmp_path)[0]["label_map"].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    "wrong",
    [{"ignore": True}, {"ignore": -2}, {"reduce_zero_label": "no"}, {"classes": ["sky"]}, {"train_split": True}],
    ids=str,
)
def test_options_of_another_kind_are_refused_by_name(wrong, tmp_path):
    write(tmp_path, {"a": np.array([[0, 1]], np.uint8)})
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=rf"data\.{name} is {re.escape(repr(value))}; expected "):
        opened(tmp_path, **wrong)


def test_colours_of_the_list_read_masks_of_colours(tmp_path):
    table = np.array([[128, 64, 128], [70, 130, 180], [0, 0, 0]], np.uint8)
    write(tmp_path, {"a": table[[[0, 1, 2, 1]]]}, classes="road,3,#804080\nsky,9,#4682B4\nvoid,ignore,#000000\n")
    source = opened(tmp_path)
    np.testing.assert_array_equal(source[0]["label_map"], [[0, 1, IGNORED, 1]])
    assert source.values == (3, 9)
    assert source.colours == ((128, 64, 128), (70, 130, 180))


def test_a_list_may_lie_elsewhere(tmp_path):
    write(tmp_path / "data", values_of())
    (tmp_path / "mine.txt").write_text("sky\nroad\ncar\n")
    assert opened(tmp_path / "data", classes=str(tmp_path / "mine.txt")).labels == ("sky", "road", "car")


def test_without_a_list_the_classes_are_the_values_of_training(tmp_path, caplog):
    write(tmp_path, {"a": np.array([[0, 7, 255]], np.uint8), "b": np.array([[7, 12]], np.uint8)})
    write(tmp_path, {"c": np.array([[12, 255]], np.uint8), "d": np.array([[4]], np.uint8)}, "val")
    with caplog.at_level(logging.WARNING):
        assert opened(tmp_path).labels == ("0", "7", "12")
    assert (
        "there is no classes.csv, so the values of the masks are the classes: 0, 7, 12; 255 is ignored" in caplog.text
    )
    source = opened(tmp_path, "val")
    assert source.values == (0, 7, 12)
    np.testing.assert_array_equal(source[0]["label_map"], [[2, IGNORED]])
    assert "d.png has the value 4 in 1 pixel" in why_broken(source[1])
    write(tmp_path, {"a": np.array([[1, 2, 3]], np.uint8)})
    assert opened(tmp_path).values == (1, 2, 3, 7, 12)


def test_a_mask_of_0_and_255_is_not_taken_for_one_class(tmp_path):
    write(tmp_path, {"a": np.array([[0, 255]], np.uint8)})
    with pytest.raises(ValueError, match=r"only the value 0 besides 255, which is ignored; .* give data\.ignore=-1"):
        opened(tmp_path)
    assert opened(tmp_path, ignore=-1).values == (0, 255)
    with pytest.raises(ValueError, match=r"data\.ignore is 'none'; expected"):
        opened(tmp_path, ignore="none")


def test_masks_of_colours_or_objects_need_a_list(tmp_path):
    write(tmp_path / "rgb", {"a": np.array([[[1, 2, 3], [255, 0, 16]]], np.uint8)})
    with pytest.raises(ValueError, match=r"a.png is a mask of colours \(#010203, #ff0010\), .* such as road,0,#ff0010"):
        opened(tmp_path / "rgb")
    write(tmp_path / "objects", {"a": np.arange(600, dtype=np.uint16).reshape(20, 30)})
    with pytest.raises(ValueError, match="hold 599 different values, more than classes have"):
        opened(tmp_path / "objects")


def test_an_empty_class_is_kept(tmp_path):
    write(tmp_path, values_of(classes=2), classes="sky\nroad\nunicorn\n")
    assert opened(tmp_path).labels == ("sky", "road", "unicorn")


def test_a_missing_mask_or_picture_is_named(tmp_path):
    write(tmp_path, values_of(), classes="sky\nroad\ncar\n")
    lost = tmp_path / "train/masks/10.png"
    kept = lost.read_bytes()
    lost.rename(lost.with_suffix(".jpg"))
    with pytest.raises(ValueError, match=r"train/images/10.jpg has no mask; expected .*train/masks/10.png \(masks are"):
        opened(tmp_path)
    lost.with_suffix(".jpg").unlink()
    lost.write_bytes(kept)
    for stem in ("2", "b/1"):
        (tmp_path / f"train/images/{stem}.jpg").unlink()
    with pytest.raises(
        ValueError, match=r"train/masks/2.png has no picture \(nor have 1 others\); expected .*images/2.jpg"
    ):
        opened(tmp_path)


def test_two_pictures_of_one_name_are_refused(tmp_path):
    write(tmp_path, values_of(), classes="sky\nroad\ncar\n")
    Image.new("RGB", (8, 6)).save(tmp_path / "train/images/2.png")
    with pytest.raises(ValueError, match=r"has 2.jpg and 2.png, two pictures of one name; keep one"):
        opened(tmp_path)


def test_other_sizes_are_named(tmp_path):
    write(tmp_path, values_of(), classes="sky\nroad\ncar\n")
    for size, turned in (((8, 7), ""), ((6, 8), "; one of them is turned by its EXIF tag")):
        Image.new("L", size).save(tmp_path / "train/masks/2.png")
        example = opened(tmp_path)[0]
        assert re.search(
            rf"images/2.jpg has 8x6 pixels, but its mask .*masks/2.png has {size[0]}x{size[1]}{turned};",
            why_broken(example),
        )
        with pytest.raises(ValueError, match="give both the same size"):
            whole(example)


def test_orientation_is_applied_to_both(tmp_path):
    values = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    write(tmp_path, {"a": values}, classes="sky\nroad\ncar\n")
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.dstack([values * 100] * 3)
    Image.fromarray(pixels).save(tmp_path / "train/images/a.png", exif=exif)
    (tmp_path / "train/images/a.jpg").unlink()
    Image.fromarray(values).save(tmp_path / "train/masks/a.png", exif=exif)
    source = opened(tmp_path)
    np.testing.assert_array_equal(source[0]["image"][..., 0], np.rot90(values * 100, -1))
    np.testing.assert_array_equal(source[0]["label_map"], np.rot90(values, -1))
    assert source.sizes() == [(3, 2)]


@pytest.fixture
def damaged(tmp_path):
    """Of three pairs one with a damaged picture, one with a value that is no class, and a good one."""
    write(tmp_path, values_of(), classes="sky\nroad\ncar\n")
    (tmp_path / "train/images/2.jpg").write_bytes(b"no picture")
    Image.fromarray(np.full((8, 6), 9, np.uint8)).save(tmp_path / "train/masks/10.png")
    return opened(tmp_path)


def test_broken_files_are_found_refused_or_skipped(damaged, caplog):
    found = find_broken(damaged, why_broken)
    assert [file.index for file in found] == [0, 1]
    assert found[0].name.endswith("images/2.jpg")
    assert "is not an image" in found[0].reason
    assert "10.png has the value 9" in found[1].reason
    kept = without_broken(damaged, why_broken)
    assert (len(kept), sizes_of(kept), kept[0]["id"]) == (1, [(5, 5)], "b/1.jpg")
    assert damaged.sizes()[:2] == [(1, 1), (8, 6)]
    transform = TrainTransform(4, (8, 8))
    for broken in ("refuse", "skip"):
        examples = AugmentedExamples(damaged, transform, broken, why_broken)
        if broken == "refuse":
            with pytest.raises(ValueError, match="is not an image"):
                examples(0, np.random.default_rng(0))
        else:
            assert examples(0, np.random.default_rng(0))["id"] == "b/1.jpg"
    assert "skipped: " in caplog.text


def test_classes_are_matched_by_name(tmp_path):
    masks = {"a": np.array([[0, 1, 2, 255]], np.uint8)}
    source = opened(write(tmp_path, masks, classes="sky\nroad\ncar\n"))
    other = in_order_of(("car", "tree", "sky", "road"), source, "mine")
    np.testing.assert_array_equal(other[0]["label_map"], [[2, 3, 0, IGNORED]])
    assert other[0]["label_map"].dtype == np.int16
    assert sizes_of(other) == [(1, 4)]


@pytest.mark.parametrize(
    ("data", "split", "message"),
    [
        ({"name": "ade20"}, "train", "there is no source of masks 'ade20'; did you mean ade20k?"),
        ({"name": "mask_folder"}, "train", "mask_folder reads files; give their folder as data.dir"),
        ({"name": "ade20k", "dir": "gs://b/ade"}, "train", "the data of ade20k are files in a folder, and gs://b/ade"),
        (
            {"name": "mask_folder", "dir": "/none"},
            "train",
            "there is no folder /none; expected one that holds pictures",
        ),
    ],
)
def test_unknown_names_and_folders_are_answered(data, split, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        open_source(data, split)


def test_a_missing_split_is_answered(tmp_path):
    write(tmp_path, values_of(), classes="sky\nroad\ncar\n")
    with pytest.raises(ValueError, match=r"has no split 'val': neither val/images .* the folders in it are: train$"):
        opened(tmp_path, "val")
    (tmp_path / "val/images").mkdir(parents=True)
    (tmp_path / "val/masks").mkdir()
    with pytest.raises(ValueError, match="val/images has no pictures"):
        opened(tmp_path, "val")
    assert mask_sets.SOURCES == ("ade20k", "mask_folder", "hela", "scenes")
