"""Synthetic videos whose class is a motion: in a single frame nothing tells one class from another.

A shape of random form, size and colours moves over a plain ground whose opposite edges meet, from anywhere: at every
moment its place is uniformly distributed in every class. The files are MPEG-4 of key frames alone, so that compression
does not leave traces of the frames before.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unireplknet_jax.data.made_up import cache_folder, make_split

MOTIONS = {  # rows, columns
    "down": (1, 0),
    "down left": (1, -1),
    "down right": (1, 1),
    "left": (0, -1),
    "right": (0, 1),
    "up": (-1, 0),
    "up left": (-1, -1),
    "up right": (-1, 1),
}
PER_CLASS = {"train": 120, "test": 30}
SIZE, LENGTH, RATE = 64, 32, 25  # pixels, frames, frames a second


def shapes_folder(folder: Path | None, split: str) -> Path:
    """The folder that holds the rendered splits; the missing one of `split` is rendered first (seconds).

    folder: None takes the user's cache folder. Raises ImportError without PyAV.
    """
    folder = folder or cache_folder("moving_shapes")
    if split in PER_CLASS:
        doing = f"rendering {PER_CLASS[split] * len(MOTIONS)} videos of moving shapes"
        make_split(folder / split, lambda path: _render(path, split), doing)
    return folder


def moving_shape(motion: str, rng: np.random.Generator, length: int = LENGTH, size: int = SIZE) -> np.ndarray:
    """The frames of one video, (length, size, size, 3) uint8.

    It moves by 4 to 6 pixels a frame, along each axis in which it moves at all.
    """
    ground, colour = rng.integers(0, 80, 3), rng.integers(176, 256, 3)
    shape = _shape(rng, size)
    speed = rng.uniform(4, 6) * np.array(MOTIONS[motion])
    places = rng.uniform(0, size, 2) + speed * np.arange(length)[:, None]
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
    radius = rng.uniform(8, 12)
    kind = rng.integers(4)
    if kind < 2:
        distance = np.hypot(x, y)
        return (distance < radius) & (distance > kind * 0.55 * radius)
    if kind == 2:
        return np.maximum(np.abs(x), np.abs(y)) < 0.85 * radius
    return (y < 0.6 * radius) & (y > 1.9 * np.abs(x) - radius)
