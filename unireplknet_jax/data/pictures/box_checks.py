"""What is odd in pictures with boxes: everything is read once, and what a person should look at is listed by kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from unireplknet_jax.data.broken import checked_examples
from unireplknet_jax.data.pictures.box_annotations import LEAST_SIDE
from unireplknet_jax.data.pictures.box_sets import BoxFiles, why_broken
from unireplknet_jax.data.pictures.decode import stored_size
from unireplknet_jax.data.pictures.instance_masks import pieces

BROKEN = "pictures that cannot be used"
_MOST_FOUND = 100  # objects, which a detector finds in a picture unless it is asked for more
_BESIDE = 2  # pixels that a box may lie outside of its picture, or its mask outside of it


@dataclasses.dataclass
class BoxReport:
    """classes: for each, its name, in how many pictures it is, how many objects there are, crowds among them, and the
    median of the square roots of their areas in pixels, None without objects. odd: {what: where}; pictures: of the
    odd places, the indices.
    """

    classes: list[tuple[str, int, int, int, float | None]]
    odd: dict[str, list[str]]
    pictures: list[int]


def checked(source: BoxFiles, threads: int | None = None, progress: Callable[[int], None] | None = None) -> BoxReport:
    """The report on a source, of which every picture and mask is decoded, in threads."""
    odd: dict[str, list[str]] = {what: [*where] for what, where in source.odd.items()}
    pictures: list[int] = []
    sides: list[list[float]] = [[] for _ in source.labels]
    crowds, seen = np.zeros(len(source.labels), int), np.zeros(len(source.labels), int)
    for index, (example, reason) in enumerate(checked_examples(source, why_broken, threads)):
        name = source.pictures.names[index]
        found = [(BROKEN, reason)] if reason is not None else [*_odd_picture(source, index, example, name)]
        for what, where in found:
            odd.setdefault(what, []).append(where)
        if found:
            pictures.append(index)
        if reason is None:
            for label, area, crowd in zip(*(example[key] for key in ("labels", "areas", "crowd")), strict=True):
                sides[label].append(float(np.sqrt(max(area, 0))))
                crowds[label] += crowd
            seen[np.unique(example["labels"])] += 1
        if progress is not None:
            progress(index + 1)
    classes = [
        (label, int(seen[i]), len(sides[i]), int(crowds[i]), float(np.median(sides[i])) if sides[i] else None)
        for i, label in enumerate(source.labels)
    ]
    empty = [label for label, _, count, *_ in classes if not count]
    if empty:
        odd["classes without an object"] = empty
    return BoxReport(classes, odd, pictures)


def _odd_picture(source: BoxFiles, index: int, example: Mapping[str, Any], name: str) -> Iterator[tuple[str, str]]:
    """Yield (what, where) of everything odd in a picture that can be used."""
    height, width = example["image"].shape[:2]
    boxes, labels = example["boxes"], example["labels"]
    if not len(boxes):
        yield "pictures without an object, which training leaves out unless data.keep_empty is set", name
    if len(boxes) > _MOST_FOUND:
        yield f"pictures with more than {_MOST_FOUND} objects", f"{name} ({len(boxes):,})"
    if min(height, width) < LEAST_SIDE:
        yield f"pictures with a side below {LEAST_SIDE} pixels, which training leaves out", name
    orientation = stored_size(source.pictures.read(index))[1]
    if orientation != 1:
        yield (
            (
                "pictures turned by their EXIF tag, with boxes that are turned, too"
                if "orientation" in example
                else "pictures turned by their EXIF tag, with boxes that are taken as of the upright picture"
            ),
            name,
        )
    sides = boxes[:, 2:] - boxes[:, :2]
    outside = np.maximum(-boxes[:, :2], boxes[:, 2:] - (width, height)).max(axis=1, initial=0)
    beyond = (boxes[:, 2:] <= 0).any(axis=1) | (boxes[:, :2] >= (width, height)).any(axis=1)
    flat = (sides <= 0).any(axis=1)
    for what, which in (
        ("boxes of no or a negative width or height, which are not trained on", flat),
        ("boxes of less than a pixel, which are not trained on", (sides < 1).any(axis=1) & ~flat),
        ("boxes outside of their picture, which are not trained on", beyond & ~flat),
        ("boxes that reach out of their picture and are cut", (outside > _BESIDE) & ~beyond & ~flat),
        ("objects with no area, which are not trained on", (example["areas"] <= 0) & ~flat),
        ("objects that are there twice", _repeated(boxes, labels)),
    ):
        for number in np.flatnonzero(which):
            yield what, _where(source, name, example, int(number))
    if example["masks"]:
        yield from _odd_masks(source, name, example)


def _repeated(boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(k,) bool: those that an earlier object of the same class has the box of."""
    found = np.ones(len(boxes), bool)
    found[np.unique(np.column_stack([boxes, labels]), axis=0, return_index=True)[1]] = False
    return found


def _odd_masks(source: BoxFiles, name: str, example: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for number, (mask, piece) in enumerate(zip(example["masks"], pieces(example), strict=True)):
        where = _where(source, name, example, number)
        if mask is None:
            yield "objects without a mask, in data that have masks", where
        elif piece is None:
            yield "masks without a pixel in their picture", where
        else:
            height, width = piece.bitmap.shape
            own = np.array([piece.left, piece.top, piece.left + width, piece.top + height])
            inside = np.clip(example["boxes"][number], 0, example["image"].shape[1::-1] * 2)
            if np.abs(own - inside).max() > _BESIDE + 0.1 * max(height, width):
                yield "masks that do not fit their boxes", where


def _where(source: BoxFiles, name: str, example: Mapping[str, Any], number: int) -> str:
    box = ", ".join(f"{value:.4g}" for value in example["boxes"][number])
    return f"{name} ({source.labels[example['labels'][number]]} at {box})"
