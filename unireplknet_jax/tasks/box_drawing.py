"""Boxes, names and masks of objects over a picture."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from unireplknet_jax.data.pictures.instance_masks import Piece, bitmap, cropped
from unireplknet_jax.data.pictures.mask_classes import distinct_colours
from unireplknet_jax.tasks import mask_drawing
from unireplknet_jax.tasks.drawing import LETTERS, LINE, WIDE, draw_text, fitted, in_colour, shortened, text_width

_SHARE = 0.45  # of the colour of a mask
_LEAST_WIDTH = 60  # pixels of a picture's name and of the names on it


def with_objects(
    picture: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[int],
    texts: Sequence[str],
    name: object,
    masks: Iterable[Piece | None] = (),
    size: int = WIDE,
) -> Image.Image:
    """A picture (h, w, 1 or 3) uint8, brought to `size` pixels, with its objects, above its file's name.

    boxes: (k, 4) in its pixels; labels: (k,) numbers that choose the colours; texts: (k,) what is written at each;
    masks: those of the first objects. The first object lies on top, as in `save_mask`. Letters keep their size however
    large the picture is.
    """
    pixels = in_colour(picture).astype(np.float32)
    colours = distinct_colours(1 + max([*labels], default=0))
    for piece, label in reversed([*zip(masks, labels, strict=False)]):
        if piece is not None:
            height, width = piece.bitmap.shape
            part = pixels[piece.top : piece.top + height, piece.left : piece.left + width]
            mixed = (1 - _SHARE) * part + _SHARE * np.array(colours[label], np.float32)
            part[:] = np.where(piece.bitmap[..., None], mixed, part)
    shown = fitted(Image.fromarray(pixels.round().astype(np.uint8)), size)
    scale = shown.width / picture.shape[1], shown.height / picture.shape[0]
    draw = ImageDraw.Draw(shown)
    for box, label in reversed([*zip(boxes, labels, strict=True)]):
        left, top, right, bottom = (float(value) * scale[i % 2] for i, value in enumerate(box))
        if right >= left and bottom >= top:
            draw.rectangle((left, top, right, bottom), outline=colours[label], width=2)
    for box, text in reversed([*zip(boxes, texts, strict=True)]):
        left, top = float(box[0]) * scale[0], float(box[1]) * scale[1]
        short = shortened(text, max(_LEAST_WIDTH, shown.width - left - 4))
        width = text_width(short)
        left = min(max(left, 0), max(shown.width - width - 4, 0))
        top = min(max(top - LINE, 0), max(shown.height - LINE, 0))
        draw.rectangle((left, top, left + width + 4, top + LINE - 2), fill="white")
        draw_text(draw, left + 2, top + LETTERS, short)
    canvas = Image.new("RGB", (max(shown.width, _LEAST_WIDTH), shown.height + LINE + 6), "white")
    canvas.paste(shown, (0, 0))
    draw_text(ImageDraw.Draw(canvas), 2, shown.height + 4 + LETTERS, shortened(name, canvas.width - 4, keep="end"))
    return canvas


def pieces_of(record: Mapping[str, Any]) -> Iterator[Piece | None]:
    """The masks of the objects of a record, as far as it has any."""
    return (cropped(bitmap(each["mask"], tuple(record["size"]))) for each in record["objects"] if "mask" in each)


def save_mask(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Write the objects of a record as a PNG file: a pixel of the i-th is i, the first on top, and one of none 0."""
    found = np.zeros(record["size"], np.int16)
    for number, piece in reversed([*enumerate(pieces_of(record), 1)]):
        if piece is not None:
            height, width = piece.bitmap.shape
            part = found[piece.top : piece.top + height, piece.left : piece.left + width]
            part[piece.bitmap] = number
    count = len(record["objects"]) + 1
    mask_drawing.save_mask(path, found, range(count), ((0, 0, 0), *distinct_colours(count - 1)))
