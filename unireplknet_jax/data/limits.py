"""How much a file may hold where strangers give files: a small one can say that it is a picture of a billion pixels."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Iterator

_FRAME = 6  # the default of `serve`, 50 million pixels, leaves 8.3 million for a frame: 3840 x 2160
_PACE = 96_000  # numbers that a second of sound may have: two channels of 48 kHz
_LONGEST = 65_535  # pixels of a side, the most that a JPEG has: windows over a thinner strip could fill the memory


class TooLargeError(ValueError):
    """A file holds more than `limited` allows."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """pixels: of a picture; a frame of a clip, of which many are decoded, has a sixth. seconds: of a sound or clip."""

    pixels: float = math.inf
    seconds: float = math.inf


_NONE = Limits()
_limits = contextvars.ContextVar("limits", default=_NONE)


@contextlib.contextmanager
def limited(limits: Limits) -> Iterator[None]:
    """Within the block, in its thread, what reads files raises TooLargeError before it decodes more than `limits`."""
    token = _limits.set(limits)
    try:
        yield
    finally:
        _limits.reset(token)


def check_pixels(width: int, height: int, name: str, frame: bool = False) -> None:
    """Raise TooLargeError for a picture, or a frame of a clip, of more pixels than `limited` allows."""
    most = _limits.get().pixels / (_FRAME if frame else 1)
    if width * height > most or (most < math.inf and max(width, height) > _LONGEST):
        sides = f" with sides up to {_LONGEST:,}" if width * height <= most else ""
        raise TooLargeError(
            f"{name} has {width:,} x {height:,} pixels; expected {most:,.0f} at most{sides}, so make it smaller first"
        )


def check_seconds(seconds: float, name: str, numbers: int = 0) -> None:
    """Raise TooLargeError for a sound or clip that is longer than `limited` allows.

    numbers: the samples of all its channels; what has more of them a second than two channels of 48 kHz counts as
    longer.
    """
    most = _limits.get().seconds
    seconds = max(seconds, numbers / _PACE)
    if seconds > most:
        raise TooLargeError(f"{name} is {seconds:,.1f} s long; expected {most:,.0f} s at most, so cut it into parts")
