"""Lists of the classes of masks, as people write them, and colours for those who give none."""

import re

import numpy as np
import pytest

from unireplknet_jax.data.pictures.mask_classes import classes_of, distinct_colours, read_classes

ROADS = (("sky", "road"), (0, 7), ((70, 130, 180), (128, 64, 128)))


def read(tmp_path, text, name="classes.csv", **options):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_classes(path, **options)


@pytest.mark.parametrize(
    "text",
    [
        "sky,0,#4682B4\nroad,7,#804080\n",
        "name,value,colour\nsky,0,70 130 180\nroad,7,(128 64 128)\n",
        "\ufeffColor;Name;ID\r\n70,130,180;sky;0\r\n128,64,128;road;7\r\n",
        'name,value,colour,group\nsky,0,"70,130,180",far\nroad,7,"128, 64, 128",near\n',
        "name\tid\tr\tg\tb\nsky\t0\t70\t130\t180\nroad\t7\t128\t64\t128\n",
        "0,sky,70,130,180\n7,road,128,64,128\n",
        "sky,0,70,130,180\n\nroad,7,128,64,128\n".encode("utf-16"),
    ],
    ids=["plain", "header", "windows", "quoted", "channels", "value first", "utf-16"],
)
def test_a_list_may_be_written_in_many_ways(tmp_path, text):
    found = read(tmp_path, text)
    assert (found.labels, found.values, found.colours) == ROADS
    assert found.coloured


def test_names_alone_are_numbered_from_0_or_1(tmp_path):
    found = read(tmp_path, "sky\nside walk\n\nroad\n", "classes.txt")
    assert (found.labels, found.values, found.coloured) == (("sky", "side walk", "road"), (0, 1, 2), False)
    assert read(tmp_path, "name\nsky\nroad\n", first=1).values == (1, 2)


@pytest.mark.parametrize("text", ["2: sky\n5: road\n", "2 sky\n5 road\n", "sky,2\nroad,5\n", "2,sky\n5,road\n"])
def test_numbers_beside_names_are_values(tmp_path, text):
    found = read(tmp_path, text, "classes.txt")
    assert (found.labels, found.values) == (("sky", "road"), (2, 5))


@pytest.mark.parametrize(
    "text", ["sky 1 2 3\nroad 4 5 6\n", "1 2 3 sky\n4 5 6 road\n", "name,r,g,b\nsky,1,2,3\nroad,4,5,6\n"]
)
def test_three_numbers_are_a_colour(tmp_path, text):
    found = read(tmp_path, text, "classes.txt")
    assert (found.labels, found.values, found.colours) == (("sky", "road"), (0, 1), ((1, 2, 3), (4, 5, 6)))


def test_a_colour_may_be_that_of_no_class(tmp_path):
    found = read(tmp_path, "name,value,colour\nvoid,ignore,#E0E0C0\nsky,0,#000001\nroad,1,#000002\n")
    assert (found.labels, found.ignored_colours) == (("sky", "road"), ((224, 224, 192),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a class in every line"),
        ("sky,0\nroad\n", "gives road no value, but others one; give all a value, or none"),
        ("sky,#010203\nroad\n", "gives road no colour, but others one; give all a colour, or none"),
        ("sky\nsky\n", "has the name sky more than once; every class has its own"),
        ("sky,3\nroad,3\n", "has the value 3 more than once"),
        ("sky,#010203\nroad,#010203\n", "has the colour (1, 2, 3) more than once"),
        ("sky,70000\n", "has the value 70000; expected 0 to 65535"),
        ("name,value\nsky,low\n", "has the value 'low'; expected a whole number, or the word ignore"),
        ("name,colour\nsky,300 0 0\n", "has the colour '300 0 0'; expected #RRGGBB, or three numbers from 0 to 255"),
        ("name,value,colour\nsky,0,#12\n", "has the colour '#12'; expected #RRGGBB"),
        ("sky,far,0\n", "is 'sky,far,0'; expected a class in every line"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is not a text file"),
    ],
)
def test_wrong_lists_are_answered(tmp_path, text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        read(tmp_path, text)
    assert "classes.csv" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_may_have_no_list(tmp_path):
    assert classes_of(tmp_path) is None
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    assert classes_of(tmp_path).labels == ("sky", "road")


@pytest.mark.parametrize(("count", "apart"), [(2, 255), (8, 147), (20, 85), (150, 42)])
def test_colours_are_far_apart(count, apart):
    colours = np.array([*distinct_colours(count), (0, 0, 0), (255, 255, 255)], float)
    distances = np.linalg.norm(colours[:, None] - colours, axis=-1)
    assert distances[~np.eye(len(colours), dtype=bool)].min() >= apart
