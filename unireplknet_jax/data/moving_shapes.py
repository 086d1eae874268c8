"""Synthetic videos whose class is a motion: in a single frame nothing tells one class from another.

A shape of random form, size and colours moves over a plain ground whose opposite edges meet, from anywhere: at every
moment its place is uniformly distributed in every class. The files are MPEG-4 of key frames alone, so that compression
does not leave traces of the frames before.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

MOTIONS = ("left", "right", "up", "down", "clockwise", "counterclockwise")
PER_CLASS = {"train": 150, "test": 40}
SIZE, LENGTH, RATE = 64, 32, 25  # pixels, frames, frames a second
_log = logging.getLogger(__name__)


def shapes_folder(folder: Path | None, split: str) -> Path:
    """The folder that holds the rendered splits; the missing one of `split` is rendered first (seconds).

    folder: None takes the user's cache folder. Raises ImportError without PyAV.
    """
    if folder is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = home / "unireplknet_jax" / "moving_shapes"
    if split in PER_CLASS and not (folder / split).is_dir():
        _log.info("rendering %d videos of moving shapes into %s", PER_CLASS[split] * len(MOTIONS), folder / split)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".rendering-", dir=folder) as scratch:
            _render(Path(scratch) / split, split)
            try:
                os.rename(Path(scratch) / split, folder / split)
            except OSError:  # another process was faster
                shutil.rmtree(Path(scratch) / split)
    return folder


def moving_shape(motion: str, rng: np.random.Generator, length: int = LENGTH, size: int = SIZE) -> np.ndarray:
    """The frames of one video, (length, size, size, 3) uint8.

    Straight motions go 3 to 5 pixels a frame, turns 0.25 to 0.45 rad a frame on a circle of 10 to 14 pixels.
    """
    ground, colour = rng.integers(0, 256, (2, 3))
    while np.abs(ground - colour).sum() < 200:
        colour = rng.integers(0, 256, 3)
    shape = _shape(rng, size)
    start, time = rng.uniform(0, size, 2), np.arange(length)
    if motion in ("clockwise", "counterclockwise"):
        sign = 1 if motion == "clockwise" else -1  # y points down
        angle = rng.uniform(0, 2 * math.pi) + sign * rng.uniform(0.25, 0.45) * time
        places = start + rng.uniform(10, 14) * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    else:
        direction = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}[motion]
        places = start + rng.uniform(3, 5) * time[:, None] * np.array(direction)
    shifts = np.rint(places).astype(int)
    masks = np.stack([np.roll(shape, tuple(shift), axis=(0, 1)) for shift in shifts])
    return np.where(masks[..., None], colour, ground).astype(np.uint8)


def write_video(path: Path, frames: np.ndarray, codec: str = "mpeg4", **options) -> None:
    """Write (t, h, w, 3) uint8 frames; options: of the codec, such as g="1" for key frames alone."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _render(folder, split):
    for label, motion in enumerate(MOTIONS):
        (folder / motion).mkdir(parents=True)
        for index in range(PER_CLASS[split]):
            rng = np.random.default_rng([list(PER_CLASS).index(split), label, index])
            write_video(folder / motion / f"{index:03}.mp4", moving_shape(motion, rng), g="1")


def _shape(rng, size):
    """(size, size) bool: a disc, a ring, a square or a triangle in the middle."""
    y, x = np.mgrid[:size, :size] - size / 2
    radius = rng.uniform(7, 11)
    kind = rng.integers(4)
    if kind < 2:
        distance = np.hypot(x, y)
        return (distance < radius) & (distance > kind * 0.55 * radius)
    if kind == 2:
        return np.maximum(np.abs(x), np.abs(y)) < 0.85 * radius
    return (y < 0.6 * radius) & (y > 1.9 * np.abs(x) - radius)
