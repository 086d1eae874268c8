"""Pictures of what a network looks at: its effective receptive field, and each input with what speaks for a class."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from unireplknet_jax.models.attribution import upsampled
from unireplknet_jax.tasks.base import Seen
from unireplknet_jax.tasks.drawing import (
    FULL,
    GAP,
    LINE,
    Axes,
    captioned,
    draw_text,
    figure,
    fitted,
    printable,
    rendered,
    shortened,
    text_width,
)
from unireplknet_jax.tasks.see import ReceptiveField, Sight

_RANGE = 1e-4  # of the largest contribution, what is drawn darkest
_FIELD, _TABLE = 340, 472  # pixels: the height of the drawing, and where the table beside it begins
_STRONGEST = 0.65  # share of the colour where a class has most evidence; where it has none the picture is as it is


def draw_field(field: ReceptiveField, name: Any, axes: Axes | None = None) -> Image.Image:
    """The effective receptive field on a logarithmic scale, with RepLKNet's squares and the table of their sides.

    name: of the network. axes: the units of an input, `Seen.axes`.
    """
    squares = field.squares()
    canvas = Image.new("RGB", (FULL, 2 * LINE + _FIELD), "white")
    draw = ImageDraw.Draw(canvas)
    draw_text(draw, 4, LINE, shortened(f"effective receptive field of {printable(name)}", FULL - 8))
    canvas.paste(_field_with_squares(field, squares, axes), (0, LINE + LINE // 2))
    height, width = field.values.shape
    inputs = "1 input" if field.count == 1 else f"the mean of {field.count:,} inputs"
    lines = [
        [inputs],
        [f"of {width} x {height} pixels; the squares"],
        [f"around the pixel {field.middle[1]}, {field.middle[0]} hold"],
        [],
        ["share", "side", "area", "side *"],
        *([f"{100 * row['share']:.0f} %", *_square(row)] for row in squares),
        [],
        ["* of log10(1 + contribution), as the"],
        ["  script of RepLKNet has it"],
    ]
    for number, (first, *others) in ((number, line) for number, line in enumerate(lines) if line):
        baseline = 3 * LINE + LINE // 2 + LINE * number * 1.15
        draw_text(draw, _TABLE, baseline, first)
        for column, text in enumerate(others, 1):
            draw_text(draw, _TABLE + 60 + 75 * column - text_width(text), baseline, text)
    return canvas


def _square(row: dict[str, Any]) -> tuple[str, ...]:
    if row["side"] is None:
        return "-", "-", "-"
    return f"{row['side']} px", f"{100 * row['area']:.1f} %", f"{row['side_of_logarithm']} px"


def _field_with_squares(field: ReceptiveField, squares: list[dict[str, Any]], axes: Axes | None) -> Image.Image:
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    values = field.values
    height, width = values.shape
    shown = np.clip(values / (values.max() or 1.0), _RANGE, 1)
    units = axes or Axes("pixels", -0.5, width - 0.5, "pixels", {})
    across = (units.right - units.left) / width  # of a pixel
    with figure(_FIELD, _TABLE - 24) as drawn:
        panel = drawn.subplots()
        image = panel.imshow(
            shown,
            norm=LogNorm(_RANGE, 1),
            cmap="viridis",
            origin="upper" if axes is None else "lower",
            extent=(units.left, units.right, *((height - 0.5, -0.5) if axes is None else (-0.5, height - 0.5))),
            aspect="equal" if axes is None else "auto",
        )
        for side in (row["side"] for row in squares if row["side"] is not None):
            top, left = (middle - side / 2 for middle in field.middle)
            corner = units.left + across * (left + 0.5), top
            panel.add_patch(Rectangle(corner, across * side, side, fill=False, color="white"))
        panel.set(xlabel=units.across, ylabel=units.upwards)
        if axes is not None:
            panel.set_yticks(list(units.ticks), list(units.ticks.values()))
        bar = drawn.colorbar(
            image, ax=panel, label="contribution, of the largest", format="%g", shrink=_shrunk(field, axes)
        )
        bar.ax.minorticks_off()
        drawn.draw_without_rendering()  # the layout once more, for the ticks that its own result has
        return rendered(drawn)


def _shrunk(field: ReceptiveField, axes: Axes | None) -> float:
    """The height of the colour bar, as a share of the drawing's: a wide input does not fill it."""
    height, width = field.values.shape
    return 1.0 if axes is not None else min(1.0, height / width)


def draw_sight(sight: Sight, size: int) -> Image.Image:
    """An input as the network saw it, beside it what speaks for the class, in colour; below them file and class.

    size: the width in pixels.
    """
    assert sight.seen is not None
    seen, rows = sight.seen, [{"label": sight.label, "score": sight.score}] if sight.label else []
    coloured = None if sight.activation is None else overlay(seen.picture, sight.activation)
    if seen.axes is not None:
        return captioned(_with_axes(seen, coloured, size), sight.source, rows, size)
    half = (size - GAP) // 2
    parts = [fitted(Image.fromarray(part), half) for part in (seen.picture, coloured) if part is not None]
    pair = Image.new("RGB", (size, parts[0].height), "white")
    for number, part in enumerate(parts):
        pair.paste(part, (number * (half + GAP) + (half - part.width) // 2, 0))
    return captioned(pair, sight.source, rows, size)


def _with_axes(seen: Seen, coloured: np.ndarray | None, size: int) -> Image.Image:
    pictures = [picture for picture in (seen.picture, coloured) if picture is not None]
    assert seen.axes is not None
    with figure(200 * len(pictures) + 20, size) as drawn:
        panels = np.atleast_1d(drawn.subplots(len(pictures), 1, sharex=True))
        for axes, picture in zip(panels, pictures, strict=True):
            seen.axes.show(axes, picture)
        panels[-1].set_xlabel(seen.axes.across)
        return rendered(drawn)


def overlay(picture: np.ndarray, activation: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8: a picture in grey, tinted from blue to red where an activation of the last map is positive."""
    from matplotlib import colormaps

    heat = upsampled(np.maximum(activation.astype(np.float64), 0), picture.shape[:2])
    heat /= heat.max() or 1.0
    share = _STRONGEST * np.sqrt(heat)[..., None]
    grey = picture.mean(axis=-1, keepdims=True)
    return np.rint((1 - share) * grey + share * 255 * colormaps["turbo"](heat)[..., :3]).astype(np.uint8)
