"""From the logits of a network's passes over a picture to one class for each pixel: windows, resizing, mean of views.

In NumPy. Two resizes, from a window's logits to the picture that the network saw and from there to the picture itself,
are composed into one matrix for each axis, and the picture is made part by part: a map of all classes in its size,
14 GB for 6000x4000 pixels and 150 classes, never exists.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from unireplknet_jax.ops.resize import bilinear_places
from unireplknet_jax.tasks.canvases import Way, Window

STRIDE = 4  # pixels of the network's picture for each entry of its logits
_ROWS = 32  # of a part of the picture, which stays in a processor's cache
# A part has so few columns that its products of matrices are small: OpenBLAS gives larger ones than 2**18 to several
# threads, whose waiting for each other took twenty times the CPU time.
_PRODUCTS = 2**18
_EXPONENT = 60  # up to which logits of both signs have sums of exponentials that float32 holds


class View(NamedTuple):
    """What the network said of a picture in one size, plain or mirrored.

    logits: (k, h, w, c) float32 at stride 4 of k windows, or a sequence of k maps (h, w, c), which is read from the
    upper windows to the lower ones. A window fills the first ceil(height / 4) rows and ceil(width / 4) columns of its
    map; the others are not looked at.
    windows: (top, left, height, width) of each in the picture that the network saw, which they cover as a grid, as
    `canvases.slide_windows` gives them; one window may be the whole picture. size: (height, width) of that picture.
    mirrored: whether it was mirrored, left to right, before it was cut into windows.
    """

    logits: Sequence[np.ndarray] | np.ndarray
    windows: Sequence[Window]
    size: tuple[int, int]
    mirrored: bool = False


def views_of(logits: Any, way: Way) -> list[View]:
    """What the network said of `canvases.Windows`: the plain view and the mirrored one, if there is one.

    logits: (k, h, w, c), or a sequence of k maps whose slices are such sequences.
    """
    sides = len(logits) // way.places
    return [
        View(logits[side * way.places :][: len(way.windows)], list(way.windows), way.size, mirrored=side == 1)
        for side in range(sides)
    ]


def class_map(views: Sequence[View], size: tuple[int, int]) -> np.ndarray:
    """The class of each pixel of a picture of a size (height, width): (height, width) int16.

    Of every view: bilinear from the logits of a window to the window's pixels, the mean over the windows that a pixel
    is in, bilinear to `size`, turned back if mirrored, softmax. Then the mean over the views and its largest class, of
    equal ones the first. Without antialiasing, as mmsegmentation does.
    Raises ValueError for windows that are no grid or leave pixels out, and for logits that are no finite numbers.
    """
    found = np.empty(size, np.int16)
    for rows, columns, logits in _parts(views, size):
        # The softmax of one view leaves the order of its classes as it is.
        scores = logits[0] if len(logits) == 1 else _mean_softmax(logits)
        found[rows, columns] = np.argmax(scores, axis=-1)
    return found


def class_probabilities(views: Sequence[View], size: tuple[int, int]) -> np.ndarray:
    """The probabilities that `class_map` takes the largest of: (height, width, c) float32, for small pictures."""
    found = np.empty((*size, views[0].logits[0].shape[-1]), np.float32)
    for rows, columns, logits in _parts(views, size):
        found[rows, columns] = _mean_softmax(logits)
    return found


def _parts(views: Sequence[View], size: tuple[int, int]) -> Iterator[tuple[slice, slice, list[np.ndarray]]]:
    """Yield (rows, columns, the logits (rows, columns, c) of each view) of every part of a picture."""
    classes = views[0].logits[0].shape[-1]
    step = min(max(math.isqrt(2 * _PRODUCTS // classes), 16), 1024)
    assemblies = [_Assembly(view, size, step) for view in views]
    for strip, top in enumerate(range(0, size[0], _ROWS)):
        strips = [each.strip(strip) for each in assemblies]
        for part, left in enumerate(range(0, size[1], step)):
            logits = [each.part(rows, part) for each, rows in zip(assemblies, strips, strict=True)]
            yield slice(top, top + _ROWS), slice(left, left + step), logits


def _mean_softmax(logits: list[np.ndarray]) -> np.ndarray:
    """The mean over the maps (..., c) of their softmax; the maps are overwritten."""
    ones = np.ones(logits[0].shape[-1], np.float32)
    for scores in logits:
        if max(scores.max(), -scores.min()) > _EXPONENT:
            scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= (scores @ ones)[..., None]
        if scores is not logits[0]:
            logits[0] += scores
    return logits[0] if len(logits) == 1 else logits[0] / np.float32(len(logits))


class _Stretch(NamedTuple):
    """How pixels that follow each other on an axis are made of the entries of a window's map: matrix (pixels, entries).

    None in its place: they are not.
    """

    entries: slice
    matrix: np.ndarray


class _Assembly:
    """A view, to be made into a picture of a size part by part: `_ROWS` rows and `step` columns at a time."""

    def __init__(self, view: View, size: tuple[int, int], step: int):
        self._logits = view.logits
        tops, lefts = (sorted({window[axis::2] for window in view.windows}) for axis in (0, 1))
        number = {window: index for index, window in enumerate(view.windows)}
        grid = [[(top, left, height, width) for left, width in lefts] for top, height in tops]
        if len(number) != len(view.windows) or any(window not in number for row in grid for window in row):
            raise ValueError(f"the windows {list(view.windows)} are no grid: each has to be in a row and a column.")
        self._grid = [[number[window] for window in row] for row in grid]
        self._rows = _stretches(size[0], view.size[0], tops, _ROWS, False)
        self._columns = _stretches(size[1], view.size[1], lefts, step, view.mirrored)
        self._widths = [_entries(width) for _, width in lefts]

    def strip(self, number: int) -> list[tuple[np.ndarray, list[np.ndarray]]]:
        """For each row of windows that a strip of the picture needs: its matrix, and what it reads of each window."""
        found = []
        for stretch, windows in zip(self._rows[number], self._grid, strict=True):
            if stretch is None:
                continue
            maps = [
                np.asarray(self._logits[index], np.float32)[stretch.entries, :width]
                for index, width in zip(windows, self._widths, strict=True)
            ]
            if not all(np.isfinite(each).all() for each in maps):
                raise ValueError("the network gives logits that are no finite numbers; its weights are not usable.")
            found.append((stretch.matrix, maps))
        return found

    def part(self, strip: list[tuple[np.ndarray, list[np.ndarray]]], number: int) -> np.ndarray:
        """The logits (rows, columns, c) of one part of a strip."""
        rows = []
        for matrix, maps in strip:
            across = [
                np.matmul(stretch.matrix, each[:, stretch.entries])
                for stretch, each in zip(self._columns[number], maps, strict=True)
                if stretch is not None
            ]
            whole = sum(across[1:], start=across[0])
            rows.append(np.matmul(matrix, whole.swapaxes(0, 1)))
        return functools.reduce(np.add, rows).swapaxes(0, 1)


def _stretches(
    target: int, length: int, windows: Sequence[tuple[int, ...]], step: int, mirrored: bool
) -> list[list[_Stretch | None]]:
    """For every `step` pixels of an axis of the picture how they are made of each of the windows (start, length)."""
    places, shares = _bilinear(length, target)
    if mirrored:
        places, shares = places[::-1], shares[::-1]
    visits = np.zeros(length)
    for start, extent in windows:
        visits[start : start + extent] += 1
    if not visits.all():
        raise ValueError(f"the windows (start, length) {list(windows)} leave some of the {length} pixels out.")
    columns = []
    for start, extent in windows:
        inner_places, inner_shares = _bilinear(_entries(extent), extent)
        inside = (places >= start) & (places < start + extent)
        local = np.clip(places - start, 0, extent - 1)
        own = np.where(inside, shares / visits[places], 0)[..., None] * inner_shares[local]
        columns.append(_cut(inner_places[local].reshape(target, -1), own.reshape(target, -1), step))
    return [list(row) for row in zip(*columns, strict=True)]


def _cut(places: np.ndarray, shares: np.ndarray, step: int) -> list[_Stretch | None]:
    """Pixels that are sums of the entries at `places`, both (pixels, 4), as stretches of `step` of them."""
    found: list[_Stretch | None] = []
    for start in range(0, len(places), step):
        here, own = places[start : start + step], shares[start : start + step]
        used = here[own != 0]
        if not used.size:
            found.append(None)
            continue
        first, last = used.min(), used.max()
        matrix = np.zeros((len(here), last + 1 - first))
        np.add.at(matrix, (np.arange(len(here))[:, None], np.clip(here, first, last) - first), own)
        found.append(_Stretch(slice(first, last + 1), matrix.astype(np.float32)))
    return found


def _bilinear(length: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """The two entries that each of `target` places lies between, and their shares, both (target, 2).

    Half-pixel centres, no antialiasing, borders repeated.
    """
    low, high, share = bilinear_places(length, target, target, np)
    share = share.astype(np.float64)
    return np.stack([low, high], axis=-1), np.stack([1 - share, share], axis=-1)


def _entries(length: int) -> int:
    """How many entries of a window's logits so many of its pixels fill."""
    return -(-length // STRIDE)
