"""Masks from files of every kind: values stay as they are stored, and what is no class is an error."""

import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.data.pictures.masks import IGNORED, read_mask, read_values

FOUND = np.array([[0, 1, 2], [3, 2, 255]], np.uint8)
CLASSES = np.array([[0, 1, 2], [3, 2, IGNORED]])
COLOURS = ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))


def saved(tmp_path, image, name="mask.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def palette_image(values, seed=0):
    image = Image.fromarray(values).copy()
    image.putpalette(np.random.default_rng(seed).integers(0, 256, 768).tolist())
    return image


def png(depth, colour_type, rows):
    """A PNG file that Pillow does not write: rows of packed bytes."""
    height = len(rows)
    width = len(rows[0]) * 8 // (depth * {0: 1, 3: 1, 4: 2}[colour_type])
    parts = [b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)]
    parts += [b"IDAT" + zlib.compress(b"".join(b"\0" + row for row in rows)), b"IEND"]
    blocks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts]
    return EncodedFile(b"\x89PNG\r\n\x1a\n" + b"".join(blocks), "mask.png")


@pytest.mark.parametrize("name", ["mask.png", "mask.tif", "mask.bmp"])
def test_a_palette_is_read_as_its_indices(tmp_path, name):
    path = saved(tmp_path, palette_image(FOUND), name)
    found = read_mask(path, range(4))
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, CLASSES)


def test_a_transparent_colour_of_a_palette_changes_nothing(tmp_path):
    path = saved(tmp_path, palette_image(FOUND), transparency=2)
    np.testing.assert_array_equal(read_mask(path, range(4)), CLASSES)


@pytest.mark.parametrize("name", ["mask.png", "mask.tif", "mask.bmp"])
def test_grey_is_read_as_its_values(tmp_path, name):
    np.testing.assert_array_equal(read_mask(saved(tmp_path, Image.fromarray(FOUND), name), range(4)), CLASSES)


def test_values_may_be_any(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.array([[7, 26, 0], [255, 26, 7]], np.uint8)))
    np.testing.assert_array_equal(read_mask(path, (26, 0, 7)), [[2, 0, 1], [IGNORED, 0, 2]])
    np.testing.assert_array_equal(read_mask(path, (26, 7), ignore=(0, 255)), [[1, 0, IGNORED], [IGNORED, 0, 1]])


def test_a_class_may_have_the_ignored_value(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.array([[0, 255]], np.uint8)))
    np.testing.assert_array_equal(read_mask(path, (0, 255)), [[0, 1]])


@pytest.mark.parametrize("name", ["mask.png", "mask.tif"])
def test_sixteen_bits(tmp_path, name):
    values = np.array([[0, 1000, 40000], [65535, 300, 1000]], np.uint16)
    path = saved(tmp_path, Image.fromarray(values), name)
    np.testing.assert_array_equal(read_mask(path, (300, 1000, 40000), ignore=(0, 65535)), [[-1, 1, 2], [-1, 0, 1]])
    with pytest.raises(ValueError, match=re.escape("has the value 40000 in 1 pixel, which is no class")):
        read_mask(path, (300, 1000), ignore=(0, 65535))


@pytest.mark.parametrize("name", ["mask.png", "mask.tif"])
def test_one_bit(tmp_path, name):
    path = saved(tmp_path, Image.fromarray(np.array([[False, True, True]])), name)
    np.testing.assert_array_equal(read_mask(path, (0, 1)), [[0, 1, 1]])


@pytest.mark.parametrize(
    ("depth", "rows", "values"),
    [(4, [b"\x01\x2f"], [[0, 1, 2, 15]]), (2, [b"\x1b"], [[0, 1, 2, 3]]), (1, [b"\x50"], [[0, 1, 0, 1, 0, 0, 0, 0]])],
)
def test_few_bits_of_grey_are_not_spread(depth, rows, values):
    np.testing.assert_array_equal(read_values(png(depth, 0, rows)), values)


def test_whole_numbers_of_other_kinds(tmp_path):
    for values in (FOUND.astype(np.int32), FOUND.astype(np.float32)):
        path = saved(tmp_path, Image.fromarray(values), "mask.tif")
        np.testing.assert_array_equal(read_mask(path, range(4)), CLASSES)
    path = saved(tmp_path, Image.fromarray(np.array([[-3, 70000]], np.int32)), "mask.tif")
    with pytest.raises(ValueError, match=re.escape("has the values -3, 70000 in 2 pixels, which are no class")):
        read_mask(path, range(4))


def test_colours_are_read_by_those_of_the_classes(tmp_path):
    table = np.array([*COLOURS, (224, 224, 192)], np.uint8)
    path = saved(tmp_path, Image.fromarray(table[np.minimum(FOUND, 4)]))
    found = read_mask(path, (0, 1, 2, 3), COLOURS, ignored_colours=((224, 224, 192),))
    np.testing.assert_array_equal(found, CLASSES)
    with pytest.raises(
        ValueError, match=r"mask.png has the colour \(224, 224, 192\) in 1 pixel, which the class list does not have"
    ):
        read_mask(path, (0, 1, 2, 3), COLOURS)
    with pytest.raises(ValueError, match=r"mask.png is a mask of colours, and the classes have none; give each"):
        read_mask(path, (0, 1, 2, 3))


def test_transparency_beside_colours_or_grey_is_passed_over(tmp_path):
    colours = np.array(COLOURS, np.uint8)[CLASSES.clip(0)]
    alpha = np.array([[0, 255, 9], [255, 0, 255]], np.uint8)
    path = saved(tmp_path, Image.fromarray(np.dstack([colours, alpha])))
    np.testing.assert_array_equal(read_mask(path, range(4), COLOURS), CLASSES.clip(0))
    path = saved(tmp_path, Image.merge("LA", [Image.fromarray(FOUND), Image.fromarray(alpha)]))
    np.testing.assert_array_equal(read_mask(path, range(4)), CLASSES)


def test_three_equal_channels_are_grey_without_colours(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.dstack([FOUND] * 3)))
    np.testing.assert_array_equal(read_mask(path, range(4)), CLASSES)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, palette_image(FOUND), exif=exif)
    turned = {
        1: CLASSES,
        2: CLASSES[:, ::-1],
        3: CLASSES[::-1, ::-1],
        4: CLASSES[::-1],
        5: CLASSES.T,
        6: CLASSES.T[:, ::-1],
        7: CLASSES.T[::-1, ::-1],
        8: CLASSES.T[::-1],
    }[orientation]
    np.testing.assert_array_equal(read_mask(path, range(4)), turned)
    deep = saved(tmp_path, Image.fromarray(FOUND.astype(np.uint16)), exif=exif)
    np.testing.assert_array_equal(read_mask(deep, range(4)), turned)


def test_a_value_outside_the_classes_is_named(tmp_path):
    path = saved(tmp_path, palette_image(FOUND))
    with pytest.raises(
        ValueError,
        match=r"mask.png has the value 3 in 1 pixel, which is no class: the classes have the values 0 to 2, and 255",
    ):
        read_mask(path, range(3))
    with pytest.raises(ValueError, match=r"the values 1, 2, 3, 255 in 5 pixels, .* have the values 0$"):
        read_mask(path, (0,), ignore=())


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "GIF"])
def test_what_changes_values_is_refused(tmp_path, form):
    path = saved(tmp_path, Image.fromarray(FOUND), "mask.png", format=form)
    with pytest.raises(ValueError, match=rf"mask.png is a {form} file, which may change the values of a mask"):
        read_mask(path, range(4))


def test_what_holds_no_classes_is_refused(tmp_path):
    deep = png(16, 4, [b"\x01\x02\xff\xff"])
    with pytest.raises(ValueError, match="has 16 bits and transparency, of which 8 would be lost"):
        read_mask(deep, range(4))
    for value in (0.5, np.nan, np.inf, 1e30):
        path = saved(tmp_path, Image.fromarray(np.array([[value]], np.float32)), "mask.tif")
        with pytest.raises(ValueError, match="holds fractions and no classes"):
            read_mask(path, range(4))
    page = Image.fromarray(FOUND)
    path = saved(tmp_path, page, "mask.tif", save_all=True, append_images=[page])
    with pytest.raises(ValueError, match="has 2 pages, but a mask has one"):
        read_mask(path, range(4))
    path = saved(tmp_path, Image.fromarray(FOUND).convert("CMYK"), "mask.tif")
    with pytest.raises(ValueError, match="has the colours of CMYK, which are no classes"):
        read_mask(path, range(4))


def test_files_that_are_no_pictures_are_named(tmp_path):
    whole = saved(tmp_path, Image.fromarray(np.tile(FOUND, (40, 40)))).read_bytes()
    for data, message in ((whole[:-40], "truncated or damaged"), (b"", "empty"), (b"no picture", "not an image")):
        with pytest.raises(ValueError, match=message) as raised:
            read_mask(EncodedFile(data, "a/mask.png"), range(4))
        assert str(raised.value).startswith("a/mask.png is ")
    with pytest.raises(ValueError, match=r"cannot read .*none.png .* expected the path of a mask file"):
        read_mask(tmp_path / "none.png", range(4))


def test_one_pixel(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.array([[2]], np.uint8)))
    np.testing.assert_array_equal(read_mask(path, range(4)), [[2]])
