"""Which class was taken for which: exact counts, a table and a picture for any number of classes."""

import csv

import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.train.confusion import ClassOutcome, Confusion, _short

PAIRS = [[2, 2], [0, 1], [0, 0], [2, 0], [0, 1], [0, 2], [2, -1], [2, 2]]


def test_classes_have_their_accuracy_and_what_they_are_taken_for():
    confusion = Confusion(PAIRS, ("cat", "dog", "eel"))
    assert confusion.classes() == [  # of the dog there is no example
        ClassOutcome("cat", 4, 25.0, "dog", 2),
        ClassOutcome("eel", 4, 50.0, "cat", 1),
    ]
    assert Confusion([[1, 1]], ("a", "b")).classes() == [ClassOutcome("b", 1, 100.0, None, 0)]


def test_pairs_may_come_with_how_often_they_were(tmp_path):
    """As of pixels, of which there are more than float32 can count."""
    many = 2**53 + 1
    counted = [[2, 2, many], [0, 1, 2], [0, 0, 1], [2, 0, 1], [0, 2, 1], [2, 2, 1]]
    confusion = Confusion(counted, ("cat", "dog", "eel"))
    assert [confusion.row(number).tolist() for number in range(3)] == [[1, 2, 1], [0, 0, 0], [1, 0, many + 1]]
    assert confusion.classes()[0] == ClassOutcome("cat", 4, 25.0, "dog", 2)
    assert confusion.classes()[1].examples == many + 2
    assert confusion.binned(3)[0].tolist() == [1, 2, 1]
    confusion.write_csv(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines()[3] == f"eel,1,0,{many + 1}"
    assert Confusion([], ("cat", "dog")).classes() == Confusion(np.zeros((0, 3), int), ("cat", "dog")).classes() == []


def test_counts_in_the_picture_have_room_in_their_cells():
    found = [_short(number) for number in (1, 99_999, 100_000, 123_456, 999_999, 4_567_890, 1e9, 12_345_678_901)]
    assert found == ["1", "99999", "100k", "123k", "1M", "4.57M", "1G", "12.3G"]


def test_the_table_has_every_pair(tmp_path):
    Confusion(PAIRS, ("cat", "dog, wolf", "eel")).write_csv(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["class", "cat", "dog, wolf", "eel"],
            ["cat", "1", "2", "1"],
            ["dog, wolf", "0", "0", "0"],
            ["eel", "1", "0", "2"],
        ]


@pytest.mark.parametrize("count", [3, 1500])
def test_the_picture_is_bright_where_classes_are_taken_for_each_other(count, tmp_path):
    """Every class for itself, but the first quarter of them for the last class; with names or without."""
    pairs = [[number, number if number >= count // 4 else count - 1] for number in range(count)]
    Confusion(pairs, [f"class {number}" for number in range(count)]).draw(tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    assert max(pixels.shape) <= 1500
    bright = np.all(np.abs(pixels - (252, 253, 191)) < 12, axis=-1)  # the end of the colour map
    rows, columns = np.nonzero(bright[:, : int(0.9 * pixels.shape[1])])  # without the bar
    middle = (rows.min() + rows.max()) / 2
    assert np.mean(columns[rows > middle]) > np.mean(columns[rows < middle])  # the diagonal goes down to the right
    if count > 3:
        top = columns[rows < rows.min() + 0.2 * np.ptp(rows)]
        assert top.min() > 0.9 * columns.max()
        assert len(rows) > 1000


def test_neighbours_share_a_cell_where_there_are_too_many():
    pairs = [[0, 4], [1, 4], [1, 5], [4, 0], [5, 1], [2, -1]]
    confusion = Confusion(pairs, "abcdef")
    assert confusion.binned(3).tolist() == [[0, 0, 3], [0, 0, 0], [2, 0, 0]]
    assert confusion.binned(6).sum() == 5


def test_many_classes_are_cheap():
    """One row of the matrix is made at a time."""
    count = 21_841
    confusion = Confusion(np.stack([np.arange(0, count, 100)] * 2, axis=1), map(str, range(count)))
    assert len(confusion.classes()) == 219
    assert confusion.row(300).sum() == confusion.row(300)[300] == 1
