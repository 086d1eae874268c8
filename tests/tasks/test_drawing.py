"""Drawings that can be read: letters of a size, names in any script, sheets of any number of pictures."""

import dataclasses
import os

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image, ImageDraw

from unireplknet_jax.tasks import drawing
from unireplknet_jax.tasks.drawing import (
    NARROW,
    WIDE,
    WIDTH,
    Axes,
    captioned,
    draw_map,
    draw_text,
    figure,
    printable,
    rendered,
    shortened,
    text_width,
    tile,
)

FONTS = os.path.join(matplotlib.get_data_path(), "fonts", "ttf")


def ink(picture):
    """The box of what is not white: top, bottom, left, right."""
    dark = np.asarray(picture.convert("L")) < 128
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    return rows[0], rows[-1], columns[0], columns[-1]


def written(text):
    picture = Image.new("RGB", (900, 40), "white")
    draw_text(ImageDraw.Draw(picture), 5, 30, text)
    return picture


def test_letters_are_large_enough_for_a_page():
    """11 pixels of a capital, as in the text of a page of 14 to 16 pixels; a sheet is shown as wide as it is."""
    top, bottom, *_ = ink(written("H"))
    assert bottom - top + 1 == 11
    with figure(300) as drawn:
        axes = drawn.subplots()
        axes.plot([1, 2], [3, 4], label="a")
        axes.set(xlabel="time, s", ylabel="kHz", title="name")
        axes.legend()
        picture = rendered(drawn)
        heights = [text.get_fontsize() * drawn.dpi / 72 for text in drawn.findobj(Text) if text.get_text()]
    assert len(heights) > 5
    assert min(heights) > 13
    assert picture.width <= WIDTH


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(("size", "columns"), [(NARROW, 3), (WIDE, 2)])
def test_a_sheet_of_any_number_of_pictures_is_as_wide_as_a_page(count, size, columns):
    pictures = [Image.new("RGB", (size, 20 + index % 3), (index, 1, 2)) for index in range(count)]
    sheet = np.asarray(tile(pictures))
    assert sheet.shape[1] <= WIDTH
    assert sheet.shape[1] == min(columns, int(np.ceil(np.sqrt(count)))) * (size + 8) + 8
    shown = np.bincount(sheet[..., 0][sheet[..., 1] == 1], minlength=count)
    assert shown.tolist() == [size * picture.height for picture in pictures]  # none covers another


def test_of_no_pictures_there_is_no_sheet():
    assert tile([]) is None


@pytest.mark.parametrize(
    ("text", "keep", "expected"),
    [
        ("short.png", "end", "short.png"),
        ("/data/flowers/val/rose/a_long_name_of_a_picture.jpg", "end", "…/a_long_name_of_a_picture.jpg"),
        ("x/" + "a" * 200 + "_0017.jpg", "end", "aaaaaaaaaaaaaa…aaaa_0017.jpg"),
        ("great white shark, white shark, man-eater", "start", "great white shark, white shark,…"),
        ("", "end", ""),
    ],
)
def test_a_text_is_cut_to_what_fits(text, keep, expected):
    found = shortened(text, NARROW, keep)
    assert found == expected
    assert text_width(found) <= NARROW


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\nb\tc", "a b c"), (os.fsdecode(b"caf\xe9.png"), "caf?.png"), ("$x_{1$ \\alpha_{", "$x_{1$ \\alpha_{")],
)
def test_any_name_of_a_file_is_one_line_of_text(text, expected):
    assert printable(text) == expected
    picture = captioned(Image.new("RGB", (40, 30), "red"), text, [{"label": text, "score": float("nan")}])
    assert picture.width == NARROW
    with figure(200, texts=[text]) as drawn:
        drawn.subplots().set(title=printable(text), xlabel=printable(text))
        rendered(drawn)  # a formula that cannot be read would raise


def test_letters_of_other_scripts_are_drawn_by_a_font_that_has_them(monkeypatch, caplog):
    monkeypatch.setattr(drawing, "_font_of", {})
    monkeypatch.setattr(
        drawing, "_other_fonts", lambda: (os.path.join(FONTS, "pdf.afm"), os.path.join(FONTS, "STIXGeneral.ttf"))
    )
    for text in ("роза.png", "τριαντάφυλλο.png", "וֶרֶד", "e\u0301te\u0301.png", "﬙ €"):
        assert ink(written(text))[3] > 15
    assert {os.path.basename(path) for path in drawing._font_of.values()} == {"DejaVuSans.ttf"}
    written("a\u1d81")  # a letter that STIX alone has
    assert os.path.basename(drawing._font_of["\u1d81"]) == "STIXGeneral.ttf"
    assert [font.getname()[0] for _, font in drawing._runs("a\u1d81\u0301b", 15)] == [
        *("DejaVu Sans", "STIXGeneral", "DejaVu Sans")
    ]
    assert not caplog.messages
    with figure(200, texts=["\u1d81"]) as drawn:
        assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", "STIXGeneral"]
        drawn.subplots().set_title("\u1d81")
        rendered(drawn)


def test_letters_that_no_font_has_are_boxes_and_told_once(monkeypatch, caplog):
    monkeypatch.setattr(drawing, "_font_of", {})
    monkeypatch.setattr(drawing, "_other_fonts", tuple)
    for _ in range(2):
        assert ink(written("花子.png"))[3] > 40
    (message,) = caplog.messages
    assert message.startswith("no font of this machine has \\u5b50\\u82b1: they are drawn as boxes")
    with figure(200, texts=["花"]) as drawn:
        drawn.subplots().set_title("花")
        rendered(drawn)


def test_a_caption_names_file_and_classes_and_covers_nothing():
    picture = Image.new("RGB", (512, 256), (200, 0, 0))
    rows = [{"label": "a", "score": 0.5}, {"label": "b", "score": 0.25}, {"label": "c", "score": 0}, {"label": "d"}]
    drawn = np.asarray(captioned(picture, "x" * 300, rows))
    assert drawn.shape == (128 + 4 * 21 + 6, NARROW, 3)
    assert np.all(drawn[:128] == (200, 0, 0))
    bars = [np.all(drawn[128 + 4 + 21 * row + 2] == (198, 219, 239), axis=-1).sum() for row in (1, 2, 3)]
    assert bars == [pytest.approx(NARROW / 2, abs=12), pytest.approx(NARROW / 4, abs=12), 0]


def test_a_map_has_its_first_row_lowest_and_its_units():
    values = np.zeros((10, 20, 3), np.uint8)
    values[0] = 255
    axes = Axes("time, s", 1.0, 3.0, "frequency, kHz", {2.0: "0.5", 8.0: "4"})
    picture = np.asarray(draw_map(values, axes, WIDE).convert("L"))
    assert picture.shape == (260, WIDE)
    plot = picture[:, 200]  # a column in the middle: a frame, 9 dark rows and then a white one
    assert np.all(plot[20:150] < 30)
    later = draw_map(values, dataclasses.replace(axes, left=2.0), WIDE)
    assert np.any(np.asarray(later) != np.asarray(draw_map(values, axes, WIDE)))  # the numbers of the axis
