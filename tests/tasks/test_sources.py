"""What a user may give, one or many, and how errors call it."""

import io
import os
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.tasks import sources
from unireplknet_jax.tasks.sources import files_of, in_chunks, named, sources_of


def test_one_is_a_list_of_one_and_many_are_kept():
    array, picture = np.zeros((4, 4, 3), np.uint8), Image.new("RGB", (3, 3))
    for one in ("a.jpg", EncodedFile(b"x", "b"), array, picture):
        assert sources_of(one)[0] is one
        assert len(sources_of(one)) == 1
    assert sources_of(("a", "b")) == sources_of(name for name in "ab") == ["a", "b"]
    assert sources_of([]) == []


def test_bytes_are_called_by_their_place_and_jax_arrays_become_numpy():
    first, second = sources_of([b"x", bytearray(b"y")])
    assert [(first, first.name), (second, second.name)] == [(b"x", "input 0"), (b"y", "input 1")]
    (array,) = sources_of(jnp.ones(3))
    assert type(array) is np.ndarray


@pytest.mark.parametrize("given", [1, 2.5, None, {"a": "b.jpg"}, io.BytesIO(b"x"), [["a.jpg"]], [1.0, 2.0]])
def test_anything_else_is_refused(given):
    with pytest.raises(
        TypeError, match=r"^input 0 is of the type \w+; expected a path, bytes, an array or a PIL image\.$"
    ):
        sources_of(given)


def test_an_error_says_whose_it_is_once():
    assert named("a.jpg", 3, "cannot read a.jpg") == "cannot read a.jpg"
    assert named("a.jpg", 3, "too small") == "a.jpg: too small"
    assert named(EncodedFile(b"", "b"), 3, "is empty") == "b: is empty"
    assert named(np.zeros(2), 3, "too small") == "input 3: too small"


def test_a_chunk_ends_as_soon_as_it_fills_a_batch():
    task = SimpleNamespace(read_parts=lambda source: iter([[{"id": source}] * int(source)]))
    chunks = list(in_chunks(task, ["1", "1", "x", "3", "1"], size=2))
    assert [[reading.source for reading in chunk] for chunk in chunks] == [["1", "1"], ["x", "3"], ["1"]]
    assert [reading.source for chunk in chunks for reading in chunk if reading.error] == ["x"]


def test_a_chunk_ends_before_its_examples_fill_the_memory(monkeypatch):
    monkeypatch.setattr(sources, "_MOST_BYTES", 100)
    task = SimpleNamespace(read_parts=lambda source: iter([[{"id": source, "x": np.zeros(int(source), np.uint8)}]]))
    chunks = list(in_chunks(task, ["60", "30", "10", "200", "1"], size=4))
    assert [[reading.source for reading in chunk] for chunk in chunks] == [["60", "30", "10"], ["200"], ["1"]]


PICTURES = SimpleNamespace(name="pictures", suffixes=(".png", ".jpg"), part_suffixes=())


@pytest.fixture
def album(tmp_path, monkeypatch):
    """Pictures, some in folders of their own, and what else lies there; the working directory is their parent."""
    names = ("img1.png", "img10.PNG", "img2.png", "a/img9.jpg", "a/b/img3.jpg", "img[1].png")
    for name in (*names, "notes.txt", "._img1.png", "a/Thumbs.db"):
        (tmp_path / "album" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "album" / name).touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return [
        f"album/{name}" for name in ("a/b/img3.jpg", "a/img9.jpg", "img1.png", "img2.png", "img10.PNG", "img[1].png")
    ]


def test_a_folder_stands_for_the_files_below_it_that_are_read_2_before_10(album):
    files, (note,) = files_of(PICTURES, ["album"])
    assert files == album
    assert note == "3 passed over as no files that are read: album/._img1.png, album/a/Thumbs.db, album/notes.txt."


@pytest.mark.parametrize("pattern", ["album/**", "album/**/*", "album/*", "album/**/*.[jJpP]*", "alb*"])
def test_a_pattern_stands_for_what_matches_it_folders_with_all_that_is_below_them(pattern, album):
    assert sorted(files_of(PICTURES, [pattern])[0]) == sorted(album)


def test_a_pattern_leaves_out_what_does_not_match(album):
    assert files_of(PICTURES, ["album/img?.png"]) == (["album/img1.png", "album/img2.png"], [])


def test_files_stay_as_they_are_given_and_what_folders_and_patterns_share_comes_once(album):
    given = ["album/notes.txt", "missing.png", "album/img1.png", "album/img1.png", "album/img[1].png"]
    assert files_of(PICTURES, given) == (given, [])
    assert files_of(PICTURES, ["album/a", "album/**/*.jpg", "./album/a"])[0] == [
        "album/a/b/img3.jpg",
        "album/a/img9.jpg",
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "album/*.gif",
            r"^the pattern album/\*.gif holds no file that the task pictures reads; expected names that end",
        ),
        (
            "empty",
            r"^the folder empty holds no file that the task pictures reads; expected names that end in .png, .jpg",
        ),
        ("album/n*", "reads, but album/notes.txt; expected"),
    ],
)
def test_a_folder_or_pattern_without_a_file_that_is_read_is_refused(given, message, album):
    with pytest.raises(ValueError, match=message):
        files_of(PICTURES, ["album/img1.png", given])


def test_a_link_that_leads_in_a_circle_ends(album):
    os.symlink("..", "album/a/up")
    with pytest.raises(ValueError, match="is a link to a folder that it lies in"):
        files_of(PICTURES, ["album"])
