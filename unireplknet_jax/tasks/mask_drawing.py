"""Maps of classes to look at, over their pictures with a legend, and as files of the data's own values."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from unireplknet_jax.data.files import whole_file
from unireplknet_jax.tasks.drawing import (
    LETTERS,
    LINE,
    WIDE,
    draw_text,
    fitted,
    in_colour,
    shortened,
    text_width,
)

Colours = Sequence[tuple[int, int, int]]  # (red, green, blue) of each class
_MOST = 10  # classes in a legend
_ENTRY = 190  # pixels of its width that an entry needs at least
_HALF = 0.5  # of the picture is seen through the colours


def overlay(
    picture: np.ndarray,
    class_map: np.ndarray,
    labels: Sequence[str],
    colours: Colours,
    name: Any,
    size: int = WIDE,
    room: int = 0,
) -> Image.Image:
    """A picture under the colours of its classes, brought to `size` pixels, above its file's name and a legend.

    picture: (h, w, 1 or 3) uint8; class_map: (h, w) class indices, below 0 where the picture is to be seen as it is.
    labels, colours: of all classes; without labels they are numbered. The legend has the classes that are found,
    the most frequent first, each with its share of the pixels; of more than ten the last entry tells how many. room:
    of how many classes it has room at least, so that the frames of a video become equally large.
    """
    shown = fitted(Image.fromarray(in_colour(picture)), size)
    rows, columns = (
        (2 * np.arange(target) + 1) * length // (2 * target)
        for target, length in zip((shown.height, shown.width), class_map.shape, strict=True)
    )
    counts = np.bincount(class_map[class_map >= 0].ravel(), minlength=1)
    table = np.array(colours, np.float32)
    drawn, pixels = class_map[np.ix_(rows, columns)], np.asarray(shown, np.float32)
    mixed = _HALF * pixels + (1 - _HALF) * table[np.maximum(drawn, 0)]
    pixels = np.where(drawn[..., None] >= 0, mixed, pixels).round().astype(np.uint8)

    names = labels or [f"class {index}" for index in range(len(counts))]
    entries = _entries(counts, names, table.astype(int).tolist())
    across = max(1, size // _ENTRY)
    lines = -(-max(len(entries), min(room, _MOST + 1)) // across)
    canvas = Image.new("RGB", (size, shown.height + LINE * (1 + lines) + 10), "white")
    canvas.paste(Image.fromarray(pixels), ((size - shown.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    top, width = shown.height + 4, size // across
    draw_text(draw, 2, top + LETTERS, shortened(name, size - 4, keep="end"))
    for number, entry in enumerate(entries):
        _draw_entry(draw, number // lines * width + 4, top + LINE * (1 + number % lines), width - 12, *entry)
    return canvas


def mask_picture(class_map: np.ndarray, values: Sequence[int], colours: Colours) -> Image.Image:
    """A map of classes (h, w) as a picture of the data's own values, as `save_mask` writes it.

    values: the value in a file for each class. colours: of each class. The picture has a palette, of which the values
    are the indices; where values pass 255 it is 16-bit grey without colours.
    Raises ValueError, one sentence, for a class that has no value and for values that no such file holds.
    """
    if class_map.min() < 0 or class_map.max() >= len(values):
        wrong = class_map.min() if class_map.min() < 0 else class_map.max()
        raise ValueError(f"a map of {len(values)} classes has the class {wrong}, so it cannot be saved.")
    if min(values) < 0 or max(values) > 65535:
        wrong = min(values) if min(values) < 0 else max(values)
        raise ValueError(f"a PNG holds values from 0 to 65535, not {wrong}, which is one of the classes' values.")
    grey = max(values) > 255
    picture = Image.fromarray(np.array(values, np.uint16 if grey else np.uint8)[class_map])
    if not grey:
        palette = np.zeros((256, 3), np.uint8)
        palette[list(values)] = colours
        picture.putpalette(palette.tobytes())
    return picture


def save_mask(path: str | os.PathLike[str], class_map: np.ndarray, values: Sequence[int], colours: Colours) -> None:
    """Write `mask_picture` as a PNG, whole or not at all."""
    picture = mask_picture(class_map, values, colours)
    with whole_file(path) as part:
        picture.save(part, format="PNG")


Entry = tuple[tuple[int, ...] | None, str, str]  # the colour, the label, the share


def _entries(counts: np.ndarray, names: Sequence[str], colours: list[list[int]]) -> list[Entry]:
    """The entries of a legend, given how many pixels each class has: without a colour that of the classes left out."""
    order = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
    shown = order if len(order) <= _MOST else order[: _MOST - 1]
    total = max(int(counts.sum()), 1)
    entries: list[Entry] = [(tuple(colours[i]), names[i], _percent(counts[i] / total)) for i in shown]
    others = order[len(shown) :]
    if others:
        entries.append((None, f"{len(others)} others", _percent(counts[others].sum() / total)))
    return entries


def _draw_entry(
    draw: ImageDraw.ImageDraw, left: int, top: int, width: int, colour: tuple[int, ...] | None, label: str, share: str
) -> None:
    if colour is not None:
        draw.rectangle((left, top + 2, left + LETTERS - 1, top + 1 + LETTERS), fill=colour, outline="grey")
    right = left + width - text_width(share)
    text = left + LETTERS + 6
    draw_text(draw, text, top + LETTERS, shortened(label, right - 8 - text))
    draw_text(draw, right, top + LETTERS, share)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"
