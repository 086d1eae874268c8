"""Folders of classes divided into splits: stratified, the same each time, whole or not at all, of links."""

import os
import shutil

import pytest

from unireplknet_jax.data.folder import open_folder
from unireplknet_jax.data.split import split_folder

KINDS = ((".png", ".jpg"), (".wav", ".mp3"), (".txt",))


def write(root, **counts):
    """Classes of so many empty pictures."""
    for label, count in counts.items():
        for number in range(count):
            path = root / label / ("deep" if number % 5 == 4 else "") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{label} {number}")
    return root


def everything(root):
    """{path below a folder: content}."""
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_text() for path in paths}


def split(tmp_path, name="out", shares=None, **options):
    return split_folder(tmp_path / "all", tmp_path / name, shares or {"val": 0.2}, KINDS, **options)


def test_every_file_is_in_one_split_each_class_by_its_share(tmp_path):
    source = write(tmp_path / "all", cat=10, dog=23, eel=3)
    division = split(tmp_path, shares={"val": 0.2, "test": 0.1})
    assert division.counts == {
        "train": {"cat": 7, "dog": 16, "eel": 1},
        "val": {"cat": 2, "dog": 5, "eel": 1},
        "test": {"cat": 1, "dog": 2, "eel": 1},
    }
    written = [everything(tmp_path / "out" / name) for name in division.counts]
    assert sum(map(len, written)) == 36
    assert written[0] | written[1] | written[2] == everything(source)
    assert division.how == "symbolic links"
    links = [path for path in (tmp_path / "out").rglob("*.png") if path.is_symlink()]
    assert len(links) == 36
    for name, labels in (("train", ("cat", "dog", "eel")), ("val", ("cat", "dog", "eel"))):
        assert open_folder(name, tmp_path / "out", (".png",), "picture").labels == labels


def test_the_splits_are_a_function_of_the_seed_and_of_each_class_alone(tmp_path):
    write(tmp_path / "all", cat=10, dog=20, fox=20)
    before = everything(tmp_path / "all")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        split(tmp_path, name, seed=seed)
    a, b, c = (everything(tmp_path / name) for name in "abc")
    assert a == b != c
    assert everything(tmp_path / "all") == before
    write(tmp_path / "all", eel=10)
    split(tmp_path, "d")
    assert {path: text for path, text in everything(tmp_path / "d").items() if "eel" not in text} == a
    picked = sorted(int(text.split()[1]) for path, text in a.items() if path.startswith("val/dog"))
    assert picked != list(range(4))
    others = sorted(int(text.split()[1]) for path, text in a.items() if path.startswith("val/fox"))
    assert picked != others  # or what is alike about the numbers of files would be so in every class


def test_files_of_one_group_stay_together(tmp_path):
    for recording in range(8):
        for part in range(recording + 1):
            path = tmp_path / "all" / "owl" / f"night{recording}_{part}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "all/owl/alone.wav").touch()
    division = split(tmp_path, shares={"val": 0.25}, group="^(night[0-9]+)_")
    recordings = [
        {path.name.partition("_")[0] for path in (tmp_path / "out" / name).rglob("*.wav")} for name in ("train", "val")
    ]
    assert not recordings[0] & recordings[1]
    assert recordings[0] | recordings[1] == {*(f"night{number}" for number in range(8)), "alone.wav"}
    assert 5 <= division.counts["val"]["owl"] <= 13  # of 37


@pytest.mark.parametrize(("share", "count"), [(0.22, 8), (0.28, 12)])
def test_groups_come_as_near_to_a_share_as_they_can(share, count, tmp_path):
    for number in range(40):
        path = tmp_path / "all" / "owl" / f"night{number // 4}_{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    division = split(tmp_path, shares={"val": share}, group="^(night[0-9]+)_")
    assert division.counts["val"]["owl"] == count  # of 9 and 11 that were asked for


def test_the_kind_of_most_files_is_taken_and_the_rest_counted(tmp_path):
    write(tmp_path / "all", cat=5, dog=5)
    for name in ("cat/notes.txt", "dog/._1.png", ".DS_Store", "readme.md", "cat/a.wav"):
        (tmp_path / "all" / name).touch()
    (tmp_path / "all/empty").mkdir()
    division = split(tmp_path)
    assert {path.split("/")[1] for path in everything(tmp_path / "out")} == {"cat", "dog"}
    assert len(everything(tmp_path / "out")) == 10
    assert sorted(division.passed_over) == sorted(
        [".DS_Store", "readme.md", "cat/a.wav", "cat/notes.txt", "dog/._1.png", "empty (without a file)"]
    )


@pytest.mark.parametrize(("broken", "how"), [(("symlink",), "hard links"), (("symlink", "link"), "copies")])
def test_where_links_cannot_be_made_other_ways_are_taken(broken, how, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("unireplknet_jax.data.split._WAYS", ways_without(broken, refused))
    write(tmp_path / "all", cat=5)
    assert split(tmp_path).how == how
    assert sorted(everything(tmp_path / "out").values()) == sorted(everything(tmp_path / "all").values())
    same = os.stat(next((tmp_path / "out").rglob("*.png"))).st_nlink
    assert same == (2 if how == "hard links" else 1)


def ways_without(broken, refused):
    ways = {"symlink": ("symbolic links", os.symlink), "link": ("hard links", os.link)}
    ways["copy"] = ("copies", shutil.copyfile)
    return tuple((called, refused if name in broken else way) for name, (called, way) in ways.items())


def test_copies_need_the_source_no_more(tmp_path):
    write(tmp_path / "all", cat=5)
    assert split(tmp_path, copy=True).how == "copies"
    shutil.rmtree(tmp_path / "all")
    assert len(everything(tmp_path / "out")) == 5


def test_what_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    write(tmp_path / "all", cat=5)
    monkeypatch.setattr("unireplknet_jax.data.split._WAYS", (("copies", full),))
    with pytest.raises(OSError, match="No space left"):
        split(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["all"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": {"val": 0}}, "the share of val is 0; expected a number between 0 and 1"),
        ({"shares": {"val": float("nan")}}, "the share of val is nan"),
        ({"shares": {"val": 0.6, "test": 0.4}}, "the shares of val and test leave nothing for train"),
        ({"group": "("}, "is no regular expression"),
        (
            {"shares": {"val": 0.2, "test": 0.2}},
            r"too few files for 3 splits in the class eel \(2\); each split needs one",
        ),
        ({"group": "."}, r"too few groups of files for 2 splits in the class eel \(2\)"),
        ({"name": "all/inside"}, "lies in .*all, which is to stay as it is"),
        ({"name": "all"}, "lies in .*all, which is to stay as it is"),
        ({"name": "full"}, "full exists already; remove it"),
    ],
)
def test_what_cannot_be_is_one_sentence(options, message, tmp_path):
    write(tmp_path / "all", cat=9, eel=2)
    for path in (tmp_path / "all").rglob("*.png"):
        path.rename(path.parent / f"a{path.name}")
    write(tmp_path / "full", cat=1)
    with pytest.raises((ValueError, FileExistsError), match=message):
        split(tmp_path, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "full"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "there is no folder"),
        (("a.png",), "has no class folders; expected one folder for each class"),
        (("train/cat/a.png", "val/cat/b.png"), "is split already: it has train, val; give it as it is"),
        (("cat/a.gif", "dog/b.gif"), "has no file that can be read in its class folders, only cat/a.gif, "),
    ],
)
def test_a_source_that_is_none_is_refused(files, message, tmp_path):
    for name in files:
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / name).touch()
    with pytest.raises(ValueError, match=message):
        split(tmp_path)
