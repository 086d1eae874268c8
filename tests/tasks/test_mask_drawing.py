"""Maps of classes over their pictures with what is found in them, and as files that hold the data's own values."""

import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.data.label_names import read_colours, read_labels
from unireplknet_jax.tasks import mask_drawing
from unireplknet_jax.tasks.drawing import LINE, WIDE, WIDTH
from unireplknet_jax.tasks.mask_drawing import overlay, save_mask

LABELS, COLOURS = ("sky", "sea", "ship", "person"), ((0, 0, 250), (0, 200, 100), (200, 0, 0), (250, 250, 0))


@pytest.fixture
def legend(monkeypatch):
    """The entries that are drawn: (colour, label, share)."""
    entries, draw = [], mask_drawing._draw_entry
    monkeypatch.setattr(
        mask_drawing, "_draw_entry", lambda *arguments: (entries.append(arguments[4:]), draw(*arguments))
    )
    return entries


def test_the_legend_has_what_is_found_the_most_frequent_first(legend):
    found = np.full((100, 200), 1, np.int16)
    found[:30], found[90, 7], found[:10, :100] = 3, 0, -1
    drawn = overlay(np.full((100, 200, 3), 100, np.uint8), found, LABELS, COLOURS, "a/b.jpg")
    assert legend == [
        (COLOURS[1], "sea", "73.7 %"),
        (COLOURS[3], "person", "26.3 %"),
        (COLOURS[0], "sky", "< 0.1 %"),
    ]
    pixels = np.asarray(drawn)
    assert pixels.shape == (WIDE // 2 + 3 * LINE + 10, WIDE, 3)
    assert pixels[60, 200].tolist() == [50, 150, 100]  # half the picture, half the colour
    assert pixels[40, 300].tolist() == [175, 175, 50]
    assert pixels[5, 5].tolist() == [100, 100, 100]  # ignored: the picture as it is
    below = pixels[WIDE // 2 :].reshape(-1, 3)
    assert [int(np.sum(np.all(below == colour, axis=1))) for colour in COLOURS] == [169, 169, 0, 169]


def test_of_many_classes_those_with_most_pixels_are_told(legend):
    found = np.repeat(np.arange(150), np.arange(150) + 1).astype(np.int16)[None]
    overlay(np.zeros((1, found.size, 1), np.uint8), found, read_labels("ade20k"), read_colours("ade20k"), "a.jpg")
    assert [label for _, label, _ in legend] == [*read_labels("ade20k")[:140:-1], "141 others"]
    assert legend[-1][::2] == (None, f"{100 * sum(range(142)) / sum(range(151)):.1f} %")
    legend.clear()
    overlay(np.zeros((1, 10, 1), np.uint8), np.arange(10, dtype=np.int16)[None], (), read_colours("ade20k"), "a.jpg")
    assert [label for _, label, _ in legend] == [f"class {number}" for number in range(10)]
    assert [colour for colour, *_ in legend] == [*read_colours("ade20k")[:10]]


@pytest.mark.parametrize("size", [(1, 1), (50, 20000), (20000, 50), (37, 41)])
def test_pictures_of_any_size_are_drawn_and_saved(size, tmp_path):
    found = np.zeros(size, np.int16)
    found[size[0] // 2 :] = 2
    drawn = overlay(np.zeros((*size, 3), np.uint8), found, LABELS, COLOURS, "x" * 300)
    assert drawn.width == WIDE < WIDTH
    assert drawn.height <= WIDE + 3 * LINE + 10
    save_mask(tmp_path / "a.png", found, (0, 1, 2, 3), COLOURS)
    with Image.open(tmp_path / "a.png") as picture:
        assert np.array_equal(np.asarray(picture), found)


def test_names_that_are_too_long_are_cut():
    name = "a class whose name nobody would want to read beside its colour"
    drawn = np.asarray(overlay(np.zeros((20, 40, 3), np.uint8), np.zeros((20, 40), int), [name], COLOURS, "a.jpg"))
    assert np.all(drawn[WIDE // 2 :, 198:] == 255)  # the second entry's place


def test_nothing_found_has_no_legend(legend):
    drawn = overlay(np.full((20, 40, 3), 9, np.uint8), np.full((20, 40), -1, np.int16), LABELS, COLOURS, "a.jpg")
    assert legend == []
    assert np.all(np.asarray(drawn)[: WIDE // 2] == 9)


@pytest.mark.parametrize("values", [(0, 7, 255, 3), (1, 2, 3, 4), (0, 1, 2, 3)])
def test_saved_masks_have_the_values_and_colours_of_the_data(values, tmp_path):
    found = np.random.default_rng(0).integers(0, 4, (9, 13)).astype(np.int16)
    save_mask(tmp_path / "a.png", found, values, COLOURS)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), np.array(values)[found])
        assert np.array_equal(np.asarray(picture.convert("RGB")), np.array(COLOURS)[found])


def test_values_beyond_a_byte_are_saved_as_grey_of_16_bits(tmp_path):
    found = np.array([[0, 1], [2, 0]], np.int16)
    save_mask(tmp_path / "a.png", found, (256, 7, 65535), COLOURS)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "I;16"
        assert np.asarray(picture).tolist() == [[256, 7], [65535, 256]]


@pytest.mark.parametrize(
    ("found", "values", "message"),
    [
        ([[0, -1]], (0, 1), "a map of 2 classes has the class -1, so it cannot be saved."),
        ([[0, 2]], (0, 1), "a map of 2 classes has the class 2, so"),
        ([[0, 1]], (0, 65536), "a PNG holds values from 0 to 65535, not 65536, which"),
        ([[0, 1]], (-1, 1), "a PNG holds values from 0 to 65535, not -1, which"),
    ],
)
def test_maps_that_no_file_can_hold_are_refused(found, values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_mask(tmp_path / "a.png", np.array(found), values, ((0, 0, 0), (1, 1, 1)))
    assert not [*tmp_path.iterdir()]
