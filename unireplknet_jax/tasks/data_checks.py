"""`check-data`: what is in one's own data, what is odd about it, and how its annotations lie on its pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from unireplknet_jax.data.broken import checked_examples
from unireplknet_jax.data.pictures import box_checks, box_sets, mask_sets, masks
from unireplknet_jax.data.pictures.instance_masks import pieces
from unireplknet_jax.tasks.box_drawing import with_objects
from unireplknet_jax.tasks.mask_drawing import overlay

SOURCES = (*box_sets.SOURCES, *mask_sets.SOURCES)


class Checked(NamedTuple):
    """What a check found. rows: of the table of classes; odd: {what: where}; broken: how many pictures are; summary:
    one line; odd_pictures: the indices of pictures with something odd; draw: gives one of them drawn.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    odd: dict[str, list[str]]
    broken: int
    summary: str
    total: int
    odd_pictures: list[int]
    draw: Callable[[int], Image.Image | None]


def check(
    data: Mapping[str, Any], split: str, threads: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Checked:
    """Check a split of data of boxes or masks, as `box_sets` and `mask_sets` open them; every file is read.

    progress: called with how many pictures have been read, of how many.
    """
    if data["name"] in mask_sets.SOURCES:
        return _checked_masks(mask_sets.open_source(data, split), threads, progress)
    source = box_sets.open_source(data, split)
    report = box_checks.checked(source, threads, progress and (lambda done: progress(done, len(source))))
    objects = sum(row[2] for row in report.classes)

    def draw(index: int) -> Image.Image | None:
        example = source[index]
        if box_sets.why_broken(example):
            return None
        texts = [source.labels[label] + " (crowd)" * bool(crowd) for label, crowd in _labels(example)]
        own = pieces(example) if example["masks"] else ()
        return with_objects(
            example["image"], example["boxes"], example["labels"].tolist(), texts, source.pictures.names[index], own
        )

    return Checked(
        ("class", "pictures", "objects", "crowds", "median side"),
        report.classes,
        report.odd,
        len(report.odd.get(box_checks.BROKEN, ())),
        f"{len(source):,} pictures, {objects:,} objects of {len(source.labels):,} classes, "
        f"{'with' if source.has_masks else 'without'} masks, read from {source.origin}",
        len(source),
        report.pictures,
        draw,
    )


def to_draw(found: Checked, most: int) -> list[int]:
    """The indices of so many pictures: odd ones first, up to half of them, and others evenly from the whole set."""
    odd = found.odd_pictures[: most // 2]
    places = np.linspace(0, found.total - 1, min(most, found.total)).round().astype(int).tolist()
    return sorted([*odd, *[place for place in places if place not in odd][: most - len(odd)]])


def _labels(example: Mapping[str, Any]) -> Sequence[tuple[int, bool]]:
    return list(zip(example["labels"].tolist(), example["crowd"].tolist(), strict=True))


def _checked_masks(source: Any, threads: int | None, progress: Callable[[int, int], None] | None) -> Checked:
    pixels, pictures = (np.zeros(len(source.labels) + 1, np.int64) for _ in range(2))
    odd: dict[str, list[str]] = {}
    odd_pictures: list[int] = []
    for index, (example, reason) in enumerate(checked_examples(source, masks.why_broken, threads)):
        counts = np.zeros_like(pixels)
        if reason is None:
            counts = np.bincount(example["label_map"].ravel() + 1, minlength=len(pixels))  # the first is of no class
            pixels, pictures = pixels + counts, pictures + (counts > 0)
        what = box_checks.BROKEN if reason else "masks without a pixel of any class" if not counts[1:].any() else None
        if what:
            odd.setdefault(what, []).append(reason or str(example["id"]))
            odd_pictures.append(index)
        if progress:
            progress(index + 1, len(source))
    total = max(int(pixels.sum()), 1)
    rows = [(label, int(pictures[i]), f"{100 * pixels[i] / total:.2f}") for i, label in enumerate(source.labels, 1)]
    rows.append(("(none)", int(pictures[0]), f"{100 * pixels[0] / total:.2f}"))
    empty = [label for label, count, _ in rows[:-1] if not count]
    if empty:
        odd["classes without a pixel"] = empty

    def draw(index: int) -> Image.Image | None:
        example = source[index]
        if masks.why_broken(example):
            return None
        return overlay(example["image"], example["label_map"], source.labels, source.colours, example["id"])

    summary = f"{len(source):,} pictures with masks of {len(source.labels):,} classes"
    broken = len(odd.get(box_checks.BROKEN, ()))
    return Checked(
        ("class", "pictures", "% of the pixels"), rows, odd, broken, summary, len(source), odd_pictures, draw
    )
