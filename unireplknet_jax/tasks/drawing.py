"""Drawings that can be read where a page shows them, 800 pixels wide: text in any script, captions, sheets, figures."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import os
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_log = logging.getLogger(__name__)

WIDTH = 800  # pixels of a sheet or figure: a page shows no more, and shrinks what is wider, letters and all
GAP = 8
NARROW, WIDE, FULL = ((WIDTH - (n + 1) * GAP) // n for n in (3, 2, 1))  # of which so many stand side by side
LETTERS = 15  # pixels of the font: capitals of 11
LINE = 21
_DPI = 100
_INK, _BAR = (20, 20, 20), (198, 219, 239)


# ---- text


def printable(text: Any) -> str:
    """Text on one line that every font can be asked for: no control characters, no halves of broken names."""
    whole = str(text).encode("utf-8", "replace").decode("utf-8")
    return "".join(" " if unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter for letter in whole)


@functools.cache
def _default_font() -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@functools.cache
def _other_fonts() -> tuple[str, ...]:
    """The fonts of this machine, upright and regular ones first."""
    from matplotlib import font_manager

    styles = ("bold", "italic", "oblique", "black", "light", "thin")
    return tuple(
        sorted(
            font_manager.findSystemFonts(), key=lambda path: (any(s in Path(path).name.lower() for s in styles), path)
        )
    )


_font_of: dict[str, str] = {}  # {letter: the path of a font that has it}


def _find_fonts(text: str) -> None:
    """Look up a font for every letter of a text; one that no font has gets the default's empty box, and a warning."""
    from matplotlib.ft2font import FT2Font

    missing = {letter for letter in text if letter not in _font_of}
    for path in (_default_font(), *(_other_fonts() if any(ord(letter) > 127 for letter in missing) else ())):
        if not missing:
            return
        try:
            font = FT2Font(path)
            ImageFont.truetype(path, LETTERS)
        except (OSError, RuntimeError, ValueError):  # such as a font of coloured pixels of one size
            continue
        found = {letter for letter in missing if font.get_char_index(ord(letter))}
        _font_of.update(dict.fromkeys(found, path))
        missing -= found
    _font_of.update(dict.fromkeys(missing, _default_font()))
    unknown = "".join(sorted(letter for letter in missing if letter.isalnum()))
    if unknown:
        _log.warning(
            "no font of this machine has %s: they are drawn as boxes; a font such as Noto Sans CJK has most letters.",
            ascii(unknown)[1:-1],
        )


@functools.lru_cache(maxsize=64)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _runs(text: str, size: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """A text in pieces, each with a font that has its letters; marks stay with the letter that they stand on."""
    _find_fonts(text)
    runs: list[tuple[str, str]] = []
    for letter in text:
        path = _font_of[letter]
        if runs and (path == runs[-1][1] or letter == " " or unicodedata.category(letter) in ("Mn", "Me", "Cf")):
            runs[-1] = (runs[-1][0] + letter, runs[-1][1])
        else:
            runs.append((letter, path))
    return [(piece, _font(path, size)) for piece, path in runs]


def text_width(text: str, size: int = LETTERS) -> float:
    """The width of a text in pixels."""
    return sum(font.getlength(piece) for piece, font in _runs(text, size))


def shortened(text: Any, width: float, keep: str = "start", size: int = LETTERS) -> str:
    """A text that fits into so many pixels, with an ellipsis for what is left out.

    keep: "start" cuts the end off; "end", for paths, keeps the file's name and as many folders as fit, and of a name
    that is too long its two ends, of which the second is often a number.
    """
    text = printable(text)
    if text_width(text, size) <= width:
        return text
    if keep == "end":
        parts = Path(text).parts
        for start in range(1, len(parts)):
            shown = f"…{os.sep}{os.path.join(*parts[start:])}"
            if text_width(shown, size) <= width:
                return shown
        text = parts[-1] if parts else text
        if text_width(text, size) <= width:
            return text
    low, high = 0, len(text)
    while low < high:  # the most letters that fit
        kept = (low + high + 1) // 2
        low, high = (kept, high) if text_width(_cut(text, kept, keep), size) <= width else (low, kept - 1)
    return _cut(text, low, keep)


def _cut(text: str, kept: int, keep: str) -> str:
    if keep == "start":
        return text[:kept].rstrip() + "…"
    tail = kept // 2
    return f"{text[: kept - tail]}…{text[len(text) - tail :]}"


def draw_text(canvas: ImageDraw.ImageDraw, left: float, baseline: float, text: str, size: int = LETTERS) -> None:
    """Draw a `printable` text whose letters stand on the line `baseline`."""
    for piece, font in _runs(text, size):
        canvas.text((left, baseline), piece, font=font, fill=_INK, anchor="ls")
        left += font.getlength(piece)


def heading(text: Any, width: int = FULL) -> Image.Image:
    """A line of text as a picture."""
    canvas = Image.new("RGB", (width, LINE + GAP), "white")
    draw_text(ImageDraw.Draw(canvas), 4, LINE, shortened(text, width - 8))
    return canvas


# ---- pictures with captions


def captioned(
    picture: Image.Image, name: Any, predictions: Sequence[Mapping[str, Any]], size: int = NARROW, most: int = 3
) -> Image.Image:
    """A picture, brought to `size` pixels, above its file's name and the best of its predictions, each with a bar."""
    picture = fitted(picture, size)
    rows = predictions[:most]
    canvas = Image.new("RGB", (size, picture.height + LINE * (1 + len(rows)) + 6), "white")
    canvas.paste(picture, ((size - picture.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    top = picture.height + 4
    draw_text(draw, 2, top + LETTERS, shortened(name, size - 4, keep="end"))
    for row in rows:
        top += LINE
        share = float(row["score"])
        bar = round(min(max(share, 0), 1) * (size - 1)) if math.isfinite(share) else 0
        if bar:
            draw.rectangle((0, top + 1, bar, top + LINE - 2), fill=_BAR)
        number = f"{100 * share:.1f} %"
        right = size - 4 - text_width(number)
        draw_text(draw, 4, top + LETTERS, shortened(row["label"], right - 12))
        draw_text(draw, right, top + LETTERS, number)
    return canvas


def fitted(picture: Image.Image, size: int) -> Image.Image:
    """A picture whose longer side has `size` pixels: of a small one every pixel stays visible."""
    scale = size / max(picture.size)
    if scale == 1:
        return picture
    width, height = (max(1, round(side * scale)) for side in picture.size)
    kind = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    return picture.resize((width, height), kind)


def tile(pictures: Sequence[Image.Image], gap: int = GAP, width: int = WIDTH) -> Image.Image | None:
    """One picture of all, in rows that are at most `width` pixels wide, however many there are; None for none."""
    if not pictures:
        return None
    cell = max(picture.width for picture in pictures) + gap
    columns = max(1, min(math.ceil(math.sqrt(len(pictures))), (width - gap) // cell))
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    heights = [max(picture.height for picture in row) + gap for row in rows]
    sheet = Image.new("RGB", (columns * cell + gap, sum(heights) + gap), "white")
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            sheet.paste(picture, (gap + column * cell, top))
        top += height
    return sheet


# ---- figures


@contextlib.contextmanager
def figure(height: float, width: int = FULL, texts: Iterable[Any] = ()) -> Iterator[Figure]:
    """A matplotlib figure of so many pixels, with letters that can be read and in scripts as `texts` has.

    Inside the block everything is drawn, and `rendered` makes the picture.
    """
    import matplotlib
    from matplotlib import font_manager
    from matplotlib.figure import Figure

    letters = "".join(map(printable, texts))
    _find_fonts(letters)
    families = ["DejaVu Sans"]
    for path in sorted({_font_of[letter] for letter in letters} - {_default_font()}):
        font_manager.fontManager.addfont(path)
        families.append(font_manager.get_font(path).family_name)
    points = 72 * LETTERS / _DPI
    small = points - 0.8
    settings: dict[Any, Any] = {
        **{"font.family": families, "font.size": points, "axes.titlesize": points, "axes.labelsize": small},
        **{"xtick.labelsize": small, "ytick.labelsize": small, "legend.fontsize": small, "legend.frameon": False},
        **{"axes.grid": False, "image.interpolation": "nearest"},
        **{"text.parse_math": False},
    }
    with matplotlib.rc_context(settings):
        drawn = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
        drawn.get_layout_engine().set(w_pad=GAP / _DPI, h_pad=GAP / _DPI)  # type: ignore[union-attr, call-arg]
        yield drawn


def rendered(drawn: Figure) -> Image.Image:
    """The picture of a figure, inside of its block."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(drawn)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # which has been told
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


# ---- maps


@dataclasses.dataclass(frozen=True)
class Axes:
    """The units of a map (rows, columns) whose first row is drawn lowest.

    across, upwards: what the axes are called, with their units. left, right: where the first column begins and the last
    one ends. ticks: {row: what is written beside it}.
    """

    across: str
    left: float
    right: float
    upwards: str
    ticks: Mapping[float, str]

    def show(self, axes: Any, picture: np.ndarray) -> None:
        """Draw a picture (rows, columns, 3) uint8 in matplotlib's axes, with these units."""
        rows = picture.shape[0]
        axes.imshow(picture, origin="lower", aspect="auto", extent=(self.left, self.right, -0.5, rows - 0.5))
        axes.set_ylabel(self.upwards)
        axes.set_yticks(list(self.ticks), list(self.ticks.values()))


def draw_map(picture: np.ndarray, units: Axes, width: int, height: int = 260) -> Image.Image:
    """A picture (rows, columns, 3) uint8 with its units, `width` pixels wide."""
    with figure(height, width) as drawn:
        axes = drawn.subplots()
        units.show(axes, picture)
        axes.set_xlabel(units.across)
        return rendered(drawn)


def in_colour(picture: np.ndarray) -> np.ndarray:
    """(h, w, c) uint8 -> (h, w, 3): grey repeated, of more channels the first three."""
    return np.repeat(picture[..., :1], 3, axis=-1) if picture.shape[-1] < 3 else picture[..., :3]


def coloured(values: np.ndarray, colours: str = "magma") -> np.ndarray:
    """Numbers (...) from their least to their largest as colours (..., 3) uint8."""
    from matplotlib import colormaps

    shades = np.clip((values - values.min()) / max(float(np.ptp(values)), 1e-6), 0, 1)
    return colormaps[colours](shades, bytes=True)[..., :3]
