"""Writing a video frame by frame, without holding it in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
from PIL import Image

from unireplknet_jax.data.clips.frames import require_pyav
from unireplknet_jax.data.files import whole_file

SUFFIX = ".mp4"
_CLOCK = 1000  # ticks of a second


@contextlib.contextmanager
def frame_file(path: str | os.PathLike[str]) -> Iterator[Callable[[Image.Image, float], None]]:
    """A function (frame, its seconds since the first one) that appends to an MP4 of H.264.

    The file appears whole or not at all, and not where there was no frame. All frames get the size of the first one,
    less a row or column that would make it odd. Raises ImportError without PyAV.
    """
    av = require_pyav()
    with contextlib.ExitStack() as stack:
        stream = container = None
        last = -1

        def append(frame: Image.Image, seconds: float) -> None:
            nonlocal stream, container, last
            if stream is None:
                part = stack.enter_context(whole_file(path))
                container = stack.enter_context(av.open(str(part), "w"))
                stream = container.add_stream("libx264", rate=25, options={"crf": "20"})
                stream.width, stream.height = frame.width // 2 * 2, frame.height // 2 * 2
                stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, _CLOCK)
            shown = Image.new("RGB", (stream.width, stream.height), "white")
            shown.paste(frame, (0, 0))
            encoded = av.VideoFrame.from_ndarray(np.asarray(shown), format="rgb24")
            last = max(last + 1, round(seconds * _CLOCK))  # of a file without sound times there may be two alike
            encoded.pts, encoded.time_base = last, Fraction(1, _CLOCK)
            container.mux(stream.encode(encoded))

        yield append
        if stream is not None:
            container.mux(stream.encode(None))
