"""Grey of other kinds than 8 bits without a sign, scaled to that: by the file's tags, else by what most people mean."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from PIL import Image

_BITS, _FORMAT = 258, 339  # tags of TIFF
_UNSIGNED, _SIGNED = 1, 2
_SMALLER = 4095  # the white of 12 bits, which cameras write as 16
_log = logging.getLogger(__name__)
_said: set[str] = set()


def kind_of(image: Image.Image) -> tuple[int, int]:
    """(bits, format) of the numbers of a TIFF as its tags say, and of a PGM, (0, 0) of another picture."""
    if image.format == "PPM" and image.mode == "I":  # Pillow brings them to 16 bits
        return 16, _UNSIGNED
    tags: Any = getattr(image, "tag_v2", {})
    try:
        return int(tags.get(_BITS, (0,))[0]), int(tags.get(_FORMAT, (_UNSIGNED,))[0]) if tags else 0
    except (TypeError, ValueError, IndexError):
        return 0, 0


def is_deep(image: Image.Image, kind: tuple[int, int]) -> bool:
    """Whether a picture is grey of another kind than 8 bits without a sign."""
    return image.mode == "F" or image.mode.startswith("I") or (image.mode == "L" and kind == (8, _SIGNED))


def to_8_bits(image: Image.Image, kind: tuple[int, int], white: int, name: str) -> Image.Image:
    """A deep grey picture as one of 8 bits.

    white: the value that becomes 255; 0: what the kind says, (1 << bits) - 1 of whole numbers of up to 16 bits. Numbers
    of 32 bits and floats have the smallest range that holds them all (0..255, 0..65535; floats also 0..1), else that
    from the picture's own minimum to its maximum. What is assumed is said once in the log. name: what that calls it.
    """
    values = np.asarray(image)
    if kind == (8, _SIGNED):
        values = values.view(np.int8)
    elif kind == (32, _UNSIGNED) and image.mode == "I":  # which Pillow reads with a sign
        values = values.view(np.uint32)
    values = values.astype(np.float64)
    values = np.where(np.isfinite(values), values, 0.0)
    low, high = values.min(), values.max()
    ranges = (white,) if white else _ranges(image.mode, kind)
    fitting = [top for top in ranges if low >= 0 and high <= top]
    if white or fitting:
        low, high = 0.0, fitting[0] if fitting else white
    if not white and not fitting:
        _say_once("own", f"{name}: its values are taken to go from {low:g}, black, to {high:g}, white")
    elif not white and len(ranges) > 1:
        _say_once(f"{high:g}", f"{name}: its values are taken to go from 0, black, to {high:g}, white")
    elif not white and high == 65535 and values.max() <= _SMALLER:
        _say_once("small", f"{name}: its values of 16 bits end at {values.max():g}, and 65535 is taken for white")
    scaled = np.floor((values - low) * (255 / max(high - low, 1e-300)) + 0.5)
    if "transparency" in image.info:
        scaled[values == image.info["transparency"]] = 255
    return Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))


def _ranges(mode: str, kind: tuple[int, int]) -> tuple[int, ...]:
    bits, form = kind
    if form == _SIGNED and bits <= 16:
        return ((1 << (bits - 1)) - 1,)
    if form == _UNSIGNED and 8 < bits <= 16:
        return ((1 << bits) - 1,)
    return {"F": (1, 255, 65535), "I": (255, 65535)}.get(mode, (65535,))


def _say_once(what: str, text: str) -> None:
    if what not in _said:
        _said.add(what)
        _log.warning("%s (task.options.white says otherwise)", text)
