"""A folder of pictures sorted into classes: its order, labels, strays, and every way in which it can be wrong."""

import io
import pickle
import re

import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.data.classes import check_same_labels
from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.data.pictures.decode import read_image
from unireplknet_jax.data.pictures.sets import open_source


def jpeg(colour, size=(8, 6)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG")
    return file.getvalue()


def write(root, **files):
    """Write files, given as path=bytes."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture
def root(tmp_path):
    """Two classes whose order differs by path and by class, "a/..." sorting after "a-b/...", and pictures in depth."""
    files = ["a/z.JPG", "a/1.png", "a/deep/er/x.jpeg", "a-b/2.webp", "c/Ünï.tif", "c/y.gif"]
    write(tmp_path, **{f"train/{file}": file.encode() for file in files})
    write(tmp_path, **{f"val/{file}": file.encode() for file in files[2:]})
    return tmp_path


def test_pictures_come_sorted_by_class_and_path_as_their_bytes(root):
    source = open_source("folder", "train", root)
    assert source.labels == ("a", "a-b", "c")
    examples = [source[i] for i in range(len(source))]
    order = ["a/1.png", "a/deep/er/x.jpeg", "a/z.JPG", "a-b/2.webp", "c/y.gif", "c/Ünï.tif"]
    assert [example["image"].decode() for example in examples] == order
    assert [example["image"].name for example in examples] == [str(root / "train" / name) for name in order]
    assert [example["label"] for example in examples] == [0, 0, 0, 1, 2, 2]
    assert [example["id"] for example in examples] == list(range(6))
    assert {type(example[key]) for example in examples for key in ("label", "id")} == {int}
    assert (source[-1]["id"], source[np.int64(2)]["id"]) == (5, 2)
    with pytest.raises(IndexError):
        source[6]


def test_a_source_and_its_pictures_are_picklable(root):
    source = pickle.loads(pickle.dumps(open_source("folder", "val", root)))
    assert (len(source), source.labels) == (4, ("a", "a-b", "c"))
    example = pickle.loads(pickle.dumps(source[0]))
    assert type(example["image"]) is EncodedFile
    assert example == source[0]
    assert example["image"].name == str(root / "val/a/deep/er/x.jpeg")


def test_a_real_picture_is_handed_over_encoded(tmp_path):
    write(tmp_path, **{"train/red/1.jpg": jpeg("red")})
    image = open_source("folder", "train", tmp_path)[0]["image"]
    assert image == jpeg("red")
    assert np.asarray(read_image(image)).shape == (6, 8, 3)


def test_links_to_folders_and_files_are_followed(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(elsewhere, **{"more/1.jpg": b"linked"})
    (root / "train/d").symlink_to(elsewhere / "more")
    (root / "train/c/more").symlink_to(elsewhere / "more")
    source = open_source("folder", "train", root)
    assert source.labels == ("a", "a-b", "c", "d")
    assert [source[i]["label"] for i in range(8) if source[i]["image"] == b"linked"] == [2, 3]


def test_a_link_into_its_own_folder_is_refused(root):
    (root / "train/a/deep/up").symlink_to(root / "train/a")
    with pytest.raises(ValueError, match="a/deep/up is a link to a folder that it lies in; remove it"):
        open_source("folder", "train", root)


def test_strays_and_empty_classes_are_reported(root, caplog):
    strays = ["a/notes.txt", "a/._1.jpg", "c/deep/Thumbs.db", "README", ".hidden/1.jpg", "c/.cache/1.jpg"]
    write(root, **{f"train/{name}": b"" for name in strays})
    (root / "train/empty").mkdir()
    source = open_source("folder", "train", root)
    assert (len(source), source.labels) == (6, ("a", "a-b", "c", "empty"))
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "6 entries passed over as no pictures: .hidden, README, a/._1.jpg, a/notes.txt, c/.cache, ... (6 in all)",
        "1 class without pictures: empty",
    ]


def test_a_file_that_vanishes_is_named(root):
    source = open_source("folder", "train", root)
    (root / "train/a/1.png").unlink()
    with pytest.raises(OSError, match=r"a/1\.png cannot be read \(No such file or directory\)"):
        source[0]


def test_a_split_has_the_classes_of_the_training(root):
    write(root, **{"val/d/1.jpg": b"", "val/e/1.jpg": b""})
    for file in (root / "val/a-b").iterdir():
        file.unlink()
    (root / "val/a-b").rmdir()
    with pytest.raises(ValueError, match=r"val are not those of .*train: it lacks a-b and also has d, e; give both"):
        open_source("folder", "val", root)
    assert open_source("folder", "train", root).labels == ("a", "a-b", "c")


def test_what_systems_leave_behind_is_no_data(tmp_path, caplog):
    for name in ("cat/1", "dog/1", "@eaDir/x", "cat/@eaDir/1.png/THUMB", "cat/._1", "dog/deep/._1", "__MACOSX/cat/._1"):
        (tmp_path / "val" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "val" / f"{name}.png").touch()
    (tmp_path / "val" / "cat" / "2.png").symlink_to("nowhere")
    source = open_source("folder", "val", tmp_path)
    assert source.labels == ("cat", "dog")
    assert [source.path(i) for i in range(len(source))] == [f"{tmp_path}/val/{name}/1.png" for name in source.labels]
    assert "6 entries passed over" in caplog.text
    assert "cat/2.png (a link to nothing)" in caplog.text


def test_whole_numbers_are_sorted_as_numbers(tmp_path, caplog):
    for name in ("10", "9", "2"):
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "a.png").touch()
    assert open_source("folder", "val", tmp_path).labels == ("2", "9", "10")
    assert "its classes are whole numbers, taken in their order" in caplog.text


def test_splits_with_other_classes_are_refused():
    check_same_labels(("a", "b"), ["b", "a"], "train", "val")
    with pytest.raises(ValueError, match=r"it lacks 0, 1, 2, 3, 4, \.\.\. \(1,000 in all\);"):
        check_same_labels([str(i) for i in range(1000)], (), "train", "val")


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("test", r"has no split 'test'; the folders in it are: bare, empty, flat, train, val"),
        ("", r"has no split ''"),
        (
            "flat",
            r"flat has no class folders \(but 2 pictures\); expected class/picture below it, or a list flat_labels.csv",
        ),
        ("bare", r"bare has no class folders \(but 0 pictures\)"),
        ("empty", r"empty has 1 class but no pictures; expected files like \*\.jpg"),
    ],
)
def test_what_is_no_split_is_refused(root, split, message):
    write(root, **{"flat/1.jpg": b"", "flat/2.PNG": b"", "empty/a/readme.txt": b""})
    (root / "bare").mkdir()
    with pytest.raises(ValueError, match=message) as raised:
        open_source("folder", split, root)
    assert "\n" not in str(raised.value)


def test_a_missing_root_is_refused(tmp_path):
    with pytest.raises(ValueError, match="give the folder as data_dir"):
        open_source("folder", "train")
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere; expected one that holds the splits"):
        open_source("folder", "train", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("given", "split", "sentence"),
    [
        ("data/train", "train", "{}/data/train lies in {}/data, which has the split 'train'; give that folder"),
        ("data/train", "val", "{}/data/train lies in {}/data, which has the split 'val'; give that folder"),
        ("data/train/cat", "train", "{}/data/train/cat lies in {}/data, which has the split 'train'; give that folder"),
        (".", "train", "{} has no split 'train', but {}/data has; give that folder"),
        ("..", "train", "{}/.. has no split 'train', but {}/../data and {}/../more have; give one of them"),
        (
            "data",
            "test",
            "{}/data has no split 'test'; the folders in it are: train, val; "
            "data.train_split, data.eval_split or --split may name another one",
        ),
        ("high", "train", "{}/high has no split 'train', but {}/high/er/still/data has; give that folder"),
        (
            "my pets",
            "train",
            "{}/my pets has no split 'train': its folders are classes with pictures (cat, dog); "
            "`unireplknet split '{}/my pets' '{}/my pets_split' --val 0.2` makes splits of them",
        ),
        ("other", "train", "{}/other has no split 'train'; the folders in it are: a, b"),
    ],
)
def test_a_folder_too_deep_too_high_or_unsplit_says_which_one_to_give(given, split, sentence, tmp_path):
    names = ["data/train/cat/1.png", "data/train/dog/1.png", "data/val/cat/1.png", "data/val/dog/1.png"]
    names += ["my pets/cat/1.png", "my pets/dog/deep/1.png", "other/a/x.txt", "other/b/.1.png"]
    names += ["high/er/still/data/train/cat/1.png"] * (given == "high")
    write(tmp_path, **dict.fromkeys(names, b""))
    if given == "..":
        write(tmp_path, **{"more/train/cat/1.png": b"", "in/a.txt": b""})
        tmp_path /= "in"
    with pytest.raises(ValueError, match=rf"^{re.escape(sentence.replace('{}', str(tmp_path)))}$"):
        open_source("folder", split, tmp_path / given)


# A split in one folder, with a list.


def flat(root, text, name="val_labels.csv", files=("x/3.png", "1.jpg", "2.jpg")):
    write(root, **{f"train/{label}/0.png": b"" for label in ("n01440764", "n01443537")})
    write(root, **{f"val/{file}": file.encode() for file in files}, **{name: text.encode()})
    (root / "val" / "x").rename(root / "val" / "images") if (root / "val" / "x").exists() else None
    source = open_source("folder", "val", root)
    return {source.path(i).removeprefix(f"{root}/val/"): source.labels[source[i]["label"]] for i in range(len(source))}


A, B = "n01440764", "n01443537"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("val_labels.csv", f"file,label\n1.jpg,{B}\n2.jpg,{A}\n"),
        ("val.txt", f"1.jpg {B}\n2.jpg {A}\n"),
        ("val.txt", "1.jpg 1\n2.jpg 0\n"),
        ("val/val_annotations.txt", f"1.jpg\t{B}\t0\t32\t44\t62\n2.jpg\t{A}\t0\t0\t1\t1\n"),
        ("LOC_val_solution.csv", f"ImageId,PredictionString\n1,{B} 85 1 499 272\n2,{A} 1 2 3 4 {A} 5 6 7 8\n"),
        ("val.csv", f'"2.jpg";"{A}"\r\n"1.jpg";"{B.upper()}"\r\n'),
        ("ILSVRC2012_validation_ground_truth.txt", f"{B}\n{A}\n"),
        ("val_labels.txt", "1\n0\n"),
    ],
)
def test_a_split_in_one_folder_has_a_list_of_classes(tmp_path, name, text):
    assert flat(tmp_path, text, name, ("1.jpg", "2.jpg")) == {"1.jpg": B, "2.jpg": A}


def test_files_of_a_list_may_lie_in_a_folder_of_images_and_be_others(tmp_path, caplog):
    found = flat(tmp_path, f"3.png,{B}\n4.png,{A}\n", "val.csv", ("x/3.png", "x/5.png"))
    assert found == {"images/3.png": B}
    assert "1 files of" in caplog.text
    assert "1 of its files are not there: 4.png" in caplog.text


def test_a_list_alone_says_which_classes_there_are(tmp_path):
    write(tmp_path, **{f"val/{i}.jpg": b"" for i in range(3)}, **{"val.txt": b"0.jpg 10\n1.jpg 9\n2.jpg 10\n"})
    source = open_source("folder", "val", tmp_path)
    assert (source.labels, source.targets.tolist()) == (("9", "10"), [0, 1, 1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.jpg,1\n2.jpg,2\n", "val_labels.csv has numbers of classes from 1 to 2, whose order cannot be told"),
        ("1.jpg,0\n2.jpg,2\n", "numbers of classes from 0 to 2, whose order"),
        (f"1.jpg,{A}\n2.jpg,wolf\n", "has the unknown class wolf; expected some of n01440764, n01443537"),
        (f"1.jpg,{A}\n2.jpg\n", "line 2 of .* has no class; expected a list with a file and a class"),
        (f"{A}\n", "has 1 lines of one class for 2 files; expected a list"),
        (f"7.jpg,{A}\n8.jpg,{A}\n", "names none of the 2 files of"),
        ("", "val_labels.csv is empty; expected a list with a file and a class"),
    ],
)
def test_a_list_that_does_not_fit_is_one_sentence(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as raised:
        flat(tmp_path, text, files=("1.jpg", "2.jpg"))
    assert "\n" not in str(raised.value)
