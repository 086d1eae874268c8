"""Classes are found by their names, as a person reads them, and nothing is taken for what it may not be."""

import re

import numpy as np
import pytest

from unireplknet_jax.data.balance import classes_of
from unireplknet_jax.data.classes import in_natural_order, in_order_of, in_text_order, number_of, numbers_of
from unireplknet_jax.data.files import LabelledFiles
from unireplknet_jax.data.sounds.sets import SoundFiles

SYNSETS = ("n01440764", "n01443537")


@pytest.mark.parametrize(
    ("labels", "found", "numbers"),
    [
        (("cat", "dog"), ("cat", "dog"), (0, 1)),
        (("dog", "cat"), ("cat", "dog"), (1, 0)),
        (tuple(map(str, range(12))), ("0", "1", "10", "11", *map(str, range(2, 10))), (0, 1, 10, 11, *range(2, 10))),
        (("0", "1", "2"), ("00", "01", "02"), (0, 1, 2)),
        (("air drumming", "zumba"), ("Zumba", "air_drumming"), (1, 0)),
        (("Käse", "Brot"), ("Brot", "Ka\u0308se"), (1, 0)),
        (("a", "A"), ("A", "a"), (1, 0)),  # where case tells them apart
        (("ant", "bee", "cat"), ("cat", "ant"), (2, 0)),
        (("tench", "goldfish"), SYNSETS, (0, 1)),
        (("tench", "goldfish"), ("0", "1"), (0, 1)),
        (("crane", "crane"), SYNSETS, (0, 1)),  # the 22K names are not unique
    ],
)
def test_each_class_of_the_data_is_one_of_the_models(labels, found, numbers):
    assert numbers_of(labels, found, "mine") == numbers


@pytest.mark.parametrize(
    ("labels", "found", "message"),
    [
        (("cat", "dog"), ("cat", "wolf"), "mine has other classes than the model: wolf in place of dog; give them"),
        (("cat", "dog"), ("x", "y"), "mine has other classes than the model: x, y in place of cat, dog;"),
        (("cat", "dog"), ("0", "dog"), "mine has other classes than the model: 0 in place of cat;"),
        (("1", "2", "3"), ("0", "1", "2"), "mine has other classes than the model: 0 in place of 3;"),
        (
            ("cat", "dog"),
            ("x", "y", "z"),
            "mine has 3 classes, but the model has 2, .* has x, y, z, the model cat, dog",
        ),
        (("tench", "goldfish"), SYNSETS[::-1], "other classes than the model: n01443537, n01440764 in place of"),
        (("ant", "bee", "cat"), ("0", "1", "10"), "other classes than the model: 0, 1, 10 in place of"),
        (("ant", "bee"), (), "mine has 0 classes, but the model has 2"),
        (("tench", "goldfish", "ray"), SYNSETS, "mine has 2 classes, but the model has 3"),
        (("crane", "crane", "owl"), ("owl", "crane"), "mine has 2 classes, but the model has 3"),
        (("crane", "crane"), ("crane", "owl"), "mine has other classes than the model: owl in place of "),
        (("cat", "dog", "emu"), ("Cat", "gnu"), "mine has gnu, the model cat, dog, emu"),
    ],
)
def test_other_names_are_refused(labels, found, message):
    with pytest.raises(ValueError, match=message):
        numbers_of(labels, found, "mine")


def test_what_is_assumed_is_said(caplog):
    numbers_of(("tench", "goldfish"), SYNSETS, "a set")
    numbers_of(("ant", "bee", "cat"), ("cat",), "a set")
    assert [record.message for record in caplog.records] == [
        "a set: its classes are taken in order: n01440764 is tench, n01443537 is goldfish",
        "a set has 1 of the 3 classes of the model: cat",
    ]


def test_a_source_is_renumbered():
    source = LabelledFiles("folder", ["0", "1", "2"], np.array([0, 1, 1]), ("cat", "dog"))
    assert in_order_of((), source, "mine") is source
    assert in_order_of(("cat", "dog"), source, "mine") is source
    turned = in_order_of(("dog", "ant", "cat"), source, "mine")
    assert turned.labels == ("dog", "ant", "cat")
    assert [turned[i]["label"] for i in range(len(turned))] == [2, 0, 0]
    assert turned[1] == source[1] | {"label": 0}


def test_all_classes_of_an_example_are_renumbered():
    source = SoundFiles("folder", ["0", "1"], [(0,), (1, 0)], ("cat", "dog"))
    turned = in_order_of(("dog", "ant", "cat"), source, "mine")
    assert classes_of(turned) == [(2,), (0, 2)]


def test_whole_numbers_are_sorted_as_texts_on_request():
    source = LabelledFiles("folder", ["0", "1", "2"], np.array([0, 1, 2]), ("2", "9", "10"))
    turned = in_text_order(source)
    assert (turned.labels, [turned[i]["label"] for i in range(3)]) == (("10", "2", "9"), [1, 2, 0])
    words = LabelledFiles("folder", ["0"], np.array([0]), ("b", "a"))
    assert in_text_order(words) is words


def test_whole_numbers_are_sorted_as_numbers():
    assert in_natural_order(["10", "9", "1"]) == ["1", "9", "10"]
    assert in_natural_order(["10", "9", "1a"]) == ["10", "1a", "9"]


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("bee", ("ant", "bee"), 1),
        ("BUMBLE bee", ("ant", "bumble_bee"), 1),
        ("cafe\u0301", ("th\u00e9", "caf\u00e9"), 1),
        ("1", ("2", "1"), 1),  # a name wins over a number
        ("7", ("0", "07"), 1),
        ("1", ("ant", "bee"), 1),
        ("3", (), 3),
    ],
)
def test_a_class_is_found_by_its_name_as_a_person_reads_it_or_its_number(name, labels, expected):
    assert number_of(name, labels, len(labels) or 5) == expected


@pytest.mark.parametrize(
    ("name", "labels", "sentence"),
    [
        ("Bea", ("ant", "bee", "bear"), "no class is called 'Bea'; did you mean 'bear' or 'bee'?"),
        ("shark", ("great white shark", "cat"), "did you mean 'great white shark'?"),
        ("2", ("ant", "bee"), "the classes are ant, bee."),
        ("rose", (), "the classes have no names; give a number below 5."),
    ],
)
def test_an_unknown_class_is_told_with_the_nearest_names(name, labels, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        number_of(name, labels, len(labels) or 5)
