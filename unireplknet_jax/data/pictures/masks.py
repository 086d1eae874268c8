"""Masks for segmentation: the class of every pixel, from files that hold values, indices of a palette or colours.

Source: mmsegmentation 0.27.0, `LoadAnnotations`: files are read as they are. Here a value that is no class is an error.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from unireplknet_jax.data.base import listed
from unireplknet_jax.data.files import EncodedFile, read_file
from unireplknet_jax.data.pictures import deep, headers
from unireplknet_jax.data.pictures.decode import decoded, upright

IGNORED = -1  # the class index of pixels that count nowhere
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
MOST = 65535  # the largest value of a class in a file
_UNKNOWN = -2
_LOSSLESS = ("PNG", "TIFF", "BMP")
_GREY, _GREY_ALPHA = 0, 4  # colour types of PNG
Colour = tuple[int, int, int]


def whole(example: Mapping[str, Any]) -> Mapping[str, Any]:
    """An example of a source of masks, with its picture and its label map; ValueError where their files are broken."""
    if "broken" in example:
        raise ValueError(example["broken"])
    return example


def why_broken(example: Mapping[str, Any]) -> str | None:
    """The sentence that names the picture or mask of an example and says what is wrong with it; None: nothing."""
    return example.get("broken")


def read_mask(
    source: str | os.PathLike[str] | EncodedFile,
    values: Sequence[int],
    colours: Sequence[Colour] | None = None,
    ignore: int | Collection[int] = 255,
    ignored_colours: Collection[Colour] = (),
) -> np.ndarray:
    """(h, w) int16: the class of every pixel of a mask file, IGNORED where there is none.

    values: the value of each class in the file, 0 to 65535. ignore: the value, or values, of pixels without a class; a
        class that has this value has it all the same.
    colours: (red, green, blue) of each class, by which a mask of colours is read; ignored_colours: of pixels without a
        class. Without colours a file of three equal channels is read as a grey one.

    Raises ValueError, one sentence with the file's name, for a value or colour that is no class, and as `read_values`.
    """
    file = read_file(source, "a mask file")
    found = read_values(file)
    if found.ndim == 3 and colours is None:
        found = _as_grey(found, file.name)
    if found.ndim == 3:
        return _classes_of_colours(found, tuple(colours or ()), tuple(ignored_colours), file.name)
    ignored = (ignore,) if isinstance(ignore, int) else tuple(ignore)
    return classes_of_values(found, tuple(values), ignored, file.name)


def read_values(source: str | os.PathLike[str] | EncodedFile) -> np.ndarray:
    """What a mask file holds: (h, w) whole numbers, or (h, w, 3) uint8 red, green and blue; upright by its EXIF tag.

    Of a picture with a palette they are its indices, of a grey one of 1, 2, 4, 8, 16 or 32 bits its values as they are
    stored. Transparency is passed over.

    Raises ValueError, one sentence with the file's name, where it is no picture, or one that values change in or that
    are none: JPEG, WebP, GIF, whose writers number colours anew, 16 bits with transparency, fractions, several pages.
    """
    file = read_file(source, "a mask file")
    kind, found = decoded(file, file.name, functools.partial(_unchanged, data=file))
    if kind not in _LOSSLESS:
        raise ValueError(f"{file.name} is a {kind} file, which may change the values of a mask; save masks as PNG")
    if isinstance(found, str):
        raise ValueError(f"{file.name} {found}; save masks as PNG, of a palette or grey")
    if found.dtype.kind == "f":
        if not ((np.abs(found) < 2**31) & (found == np.rint(found))).all():
            raise ValueError(f"{file.name} holds fractions and no classes; save masks as PNG, of a palette or grey")
        found = found.astype(np.int64)
    return found


def classes_of_values(found: np.ndarray, values: tuple[int, ...], ignored: tuple[int, ...], name: str) -> np.ndarray:
    """(h, w) int16 classes of (h, w) whole numbers: `read_mask` without the file; name: what errors call it."""
    table = _table_of(values, ignored)
    if found.dtype.itemsize > 2 or found.dtype.kind == "i":
        inside = (found >= 0) & (found <= MOST)
        classes = np.where(inside, table[np.where(inside, found, 0)], np.int16(_UNKNOWN))
    else:
        classes = table[found]
    if classes.size and classes.min() == _UNKNOWN:
        unknown = np.unique(found[classes == _UNKNOWN]).tolist()
        count = int((classes == _UNKNOWN).sum())
        what = f"the value {unknown[0]}" if len(unknown) == 1 else f"the values {listed([*map(str, unknown)])}"
        beside = f", and {listed([*map(str, ignored)])} is ignored" if ignored else ""
        raise ValueError(
            f"{name} has {what} in {_pixels(count)}, which {'is' if len(unknown) == 1 else 'are'} no class: the "
            f"classes have the values {_in_words(values)}{beside}"
        )
    return classes


def _pixels(count: int) -> str:
    return "1 pixel" if count == 1 else f"{count:,} pixels"


@functools.lru_cache(maxsize=32)
def _table_of(values: tuple[int, ...], ignored: tuple[int, ...]) -> np.ndarray:
    """(65536,) int16: the class of each value of a file."""
    table = np.full(MOST + 1, _UNKNOWN, np.int16)
    table[[value for value in ignored if 0 <= value <= MOST]] = IGNORED
    table[list(values)] = np.arange(len(values))
    table.flags.writeable = False
    return table


def _classes_of_colours(
    found: np.ndarray, colours: tuple[Colour, ...], ignored: tuple[Colour, ...], name: str
) -> np.ndarray:
    known = {_code(*colour): IGNORED for colour in ignored} | {_code(*each): i for i, each in enumerate(colours)}
    codes = np.array(sorted(known), np.int32)
    classes = np.array([known[code] for code in codes.tolist()], np.int16)
    red, green, blue = np.moveaxis(found.astype(np.int32), -1, 0)
    pixels = _code(red, green, blue)
    places = np.minimum(np.searchsorted(codes, pixels), len(codes) - 1)
    strange = codes[places] != pixels
    if strange.any():
        unknown = np.unique(pixels[strange])
        texts = [f"({code >> 16}, {code >> 8 & 255}, {code & 255})" for code in unknown.tolist()]
        what = f"the colour {texts[0]}" if len(texts) == 1 else f"the colours {listed(texts)}"
        raise ValueError(
            f"{name} has {what} in {_pixels(int(strange.sum()))}, which the class list does not have; add it there, or "
            "save the mask without smoothing"
        )
    return classes[places]


def _code(red, green, blue):
    return red << 16 | green << 8 | blue


def _as_grey(found: np.ndarray, name: str) -> np.ndarray:
    if (found != found[..., :1]).any():
        raise ValueError(
            f"{name} is a mask of colours, and the classes have none; give each a colour in classes.csv, as in "
            "road,0,128 64 128"
        )
    return found[..., 0]


def _unchanged(image: Image.Image, data: EncodedFile) -> tuple[str, np.ndarray | str]:
    """(format, what the pixels hold), or a word on why that cannot be told in place of the last."""
    kind, bits = str(image.format), deep.kind_of(image)[0]
    png = (data[24], data[25]) if data.startswith(headers.PNG) else (0, 0)  # depth and colour type
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        return kind, f"has {pages} pages, but a mask has one"
    if png == (16, _GREY_ALPHA):
        return kind, "has 16 bits and transparency, of which 8 would be lost"
    image.load()
    image = upright(image)
    if image.mode in ("LA", "PA"):
        image = image.getchannel(0)
    if image.mode in ("RGB", "RGBA", "RGBX"):
        return kind, np.asarray(image)[..., :3]
    if image.mode == "1":
        return kind, np.asarray(image).astype(np.uint8)
    if image.mode not in ("P", "L", "I", "F") and not image.mode.startswith("I;16"):
        return kind, f"has the colours of {image.mode}, which are no classes"
    found = np.asarray(image)
    depth = png[0] if png[1] == _GREY else bits if kind == "TIFF" else 0
    if image.mode == "L" and depth in (2, 4):  # which Pillow spreads over 0 to 255
        found = found // (255 // ((1 << depth) - 1))
    return kind, found


def _in_words(values: Sequence[int]) -> str:
    if len(values) > 2 and [*values] == [*range(values[0], values[0] + len(values))]:
        return f"{values[0]} to {values[-1]}"
    return listed([*map(str, values)], 10)
