"""Bytes with a name, lists of files, and folders that appear whole or not at all."""

import os
import pickle

import numpy as np
import pytest

from unireplknet_jax.data.files import (
    EncodedFile,
    LabelledFiles,
    ListedFiles,
    Names,
    clear_staging,
    contents_of,
    file_name,
    opened,
    read_file,
    source_name,
    staging,
)


def test_an_encoded_file_is_bytes_with_a_name():
    file = EncodedFile(b"abc", "x.jpg")
    copy = pickle.loads(pickle.dumps(file))
    assert (copy, copy.name, type(copy)) == (b"abc", "x.jpg", EncodedFile)
    assert repr(file) == "EncodedFile(3 bytes of x.jpg)"


def test_a_file_is_read_with_its_name(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    file = read_file(tmp_path / "a", "a sound file")
    assert (file, file.name) == (b"abc", str(tmp_path / "a"))
    for name, reason in (("b", "No such file or directory"), (".", "Is a directory"), ("\0", "embedded null byte")):
        with pytest.raises(ValueError, match=rf"cannot read .* \({reason}\); expected the path of a sound file"):
            read_file(os.path.join(tmp_path, name), "a sound file")


def test_a_file_is_given_as_its_path_or_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    file = EncodedFile(b"xyz", "b")
    assert read_file(file, "a sound file") is file
    for source, name, content in ((tmp_path / "a", str(tmp_path / "a"), b"abc"), (file, "b", b"xyz")):
        assert source_name(source) == file_name(source, "a sound file") == name
        with opened(source) as stream:
            assert stream.read() == content


def test_what_is_no_file_is_one_sentence():
    for source, name in ((np.zeros((3, 4)), r"array of shape \(3, 4\)"), (1.5, "float"), (b"abc", "3 bytes")):
        with pytest.raises(
            ValueError, match=rf"^cannot read the {name}; expected a sound file: its path, or its bytes"
        ):
            read_file(source, "a sound file")


def test_names_in_one_block():
    names = ["", "a", "ü/\udcff.jpg", "a" * 300]
    packed = pickle.loads(pickle.dumps(Names(names)))
    assert list(packed) == names
    assert (len(packed), packed[-1], packed[1]) == (4, names[-1], "a")
    assert len(pickle.dumps(Names([f"n01440764/n01440764_{i:05d}.JPEG" for i in range(1000)]))) < 40_000


def test_a_listed_file_is_read_below_its_folder_or_where_it_says(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    files = pickle.loads(pickle.dumps(ListedFiles(str(tmp_path), ("a", "/elsewhere/c", str(tmp_path / "b"), "d"))))
    assert len(files) == 4
    assert [files.path(index) for index in (0, 1, -1)] == [f"{tmp_path}/a", "/elsewhere/c", f"{tmp_path}/d"]
    assert [(files.read(index), files.read(index).name) for index in (0, 2)] == [
        (b"a", f"{tmp_path}/a"),
        (b"b", f"{tmp_path}/b"),
    ]
    with pytest.raises(OSError, match=r"/d cannot be read \(No such file .*; it was there when its set was listed"):
        files.read(3)


def test_a_labelled_file_is_its_path_label_and_index():
    files = LabelledFiles("x", ("a", "b"), np.array([4, 7], np.int32), tuple("abcdefgh"))
    assert [files[1], files[-2]] == [
        {"path": "x/b", "label": 7, "id": 1},
        {"path": "x/a", "label": 4, "id": 0},
    ]
    with pytest.raises(IndexError):
        files[2]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "set"

    def attempt():
        with staging(path) as folder:
            (folder / "a").write_text("new")
            assert not path.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt()
    assert os.listdir(path.parent) == []
    with staging(path) as folder:
        (folder / "a").write_text("new")
    assert os.listdir(path.parent) == ["set"]
    assert (path / "a").read_text() == "new"
    assert path.stat().st_mode == path.parent.stat().st_mode  # and not as private as a temporary folder


def test_what_another_process_has_put_there_stays_unless_it_is_empty_or_to_be_replaced(tmp_path):
    path = tmp_path / "set"

    def stage(found, replace=False):
        with staging(path, replace) as folder:
            (folder / "mine").touch()
            for name in found:
                (path / name).parent.mkdir(exist_ok=True)
                (path / name).touch()

    path.mkdir()
    stage([])
    assert os.listdir(path) == ["mine"]
    (path / "mine").rename(path / "theirs")
    stage(["more"])
    assert sorted(os.listdir(path)) == ["more", "theirs"]
    stage([], replace=True)
    assert os.listdir(path) == ["mine"]
    assert os.listdir(tmp_path) == ["set"]


def test_what_was_there_comes_back_where_it_cannot_be_replaced(tmp_path, monkeypatch):
    path, replace = tmp_path / "set", os.replace
    path.mkdir()
    (path / "old").touch()

    def fail_once(source, target):
        if str(source).endswith("new"):
            raise OSError("the disk is full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(OSError, match="the disk is full"), staging(path, replace=True):
        pass
    assert os.listdir(path) == ["old"]
    assert os.listdir(tmp_path) == ["set"]


def test_a_signal_while_a_folder_is_put_in_its_place_is_heard(tmp_path, monkeypatch):
    def interrupted(source, target):
        raise KeyboardInterrupt

    (tmp_path / "set").mkdir()
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), staging(tmp_path / "set"):
        pass
    assert os.listdir(tmp_path) == ["set"]


def test_a_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "set").touch()
    with pytest.raises(NotADirectoryError), staging(tmp_path / "set"):
        pass
    assert os.listdir(tmp_path) == ["set"]


def left_by_a_kill(path, *inside):
    """What is beside `path` when a process that was at work there is killed."""
    for name in inside:
        (path.with_name(f".{path.name}.k1ll3d") / name).mkdir(parents=True)
        (path.with_name(f".{path.name}.k1ll3d") / name / "file").write_text(name)


@pytest.mark.parametrize(
    ("inside", "there", "expected"),
    [(["new"], True, "there"), (["new", "old"], False, "new"), (["old"], True, "there"), (["new"], False, None)],
    ids=["while it wrote", "between the renames", "while it tidied up", "while it wrote the first"],
)
def test_what_a_kill_left_is_removed_and_nothing_whole_is_lost(tmp_path, inside, there, expected):
    path = tmp_path / "best"
    if there:
        path.mkdir()
        (path / "file").write_text("there")
    left_by_a_kill(path, *inside)
    left_by_a_kill(tmp_path / "best_ema", "new")
    clear_staging(path)
    assert (path / "file").read_text() == expected if expected else not path.exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".best_ema.k1ll3d", *["best"] * bool(expected)]


def test_contents_tell_files_that_came_went_or_changed_their_names():
    names, groups = ["a/1", "a/2", "b/1", "c/1"], ["a", "a", "b", "c"]
    found = contents_of(names, groups)
    assert {group: count for group, (count, _) in found.items()} == {"a": 2, "b": 1, "c": 1}
    assert contents_of(Names(names), iter(groups)) == found
    changed = [
        contents_of(["a/1", "a/3", "b/1", "c/1"], groups),  # another name
        contents_of(["a/1", "a/2", "a/3", "b/1", "c/1"], ["a", *groups]),  # one more
        contents_of(["a", "/1a/2", "b/1", "c/1"], groups),  # the same letters, another end
    ]
    for other in changed:
        assert [group for group in found if other[group] != found[group]] == ["a"]
    apart = [contents_of([name, "c/1", "a/2"], ["a", "c", "a"])["a"] for name in ("a/0", "a/1")]
    assert apart[0][0] == apart[1][0] == 2  # groups need not lie together
    assert apart[0] != apart[1]
