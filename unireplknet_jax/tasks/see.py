"""What a checkpoint looks at in a user's files: the effective receptive field, and what speaks for a class."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from unireplknet_jax.data.broken import check_policy
from unireplknet_jax.data.classes import number_of
from unireplknet_jax.data.files import source_name
from unireplknet_jax.models.attribution import SHARES, attributions, middle_pixel, square_sides
from unireplknet_jax.tasks.base import Batch, Seen, Task
from unireplknet_jax.tasks.checkpoint import Checkpoint
from unireplknet_jax.tasks.network import Network
from unireplknet_jax.tasks.predict import log_skipped, merged_once
from unireplknet_jax.tasks.sources import in_chunks, sources_of

_MOST_INPUTS, _MOST_PIXELS = 8, 8 * 224**2  # at a time: what a gradient keeps of every layer


@dataclasses.dataclass(frozen=True, eq=False)
class Sight:
    """What was looked at in one source, or why it could not be read.

    seen: the input, of a long sound the window that says its class with the highest score. contribution: (h, w), the
    mean over all windows (`models.attribution`). Of a network with a classifier: index and label of a class, its score,
    and activation, (h / 32, w / 32), which speaks for the class where it is positive; None where that is one position,
    which says nothing.
    """

    source: str
    error: str | None = None
    seen: Seen | None = None
    contribution: np.ndarray | None = None
    index: int | None = None
    label: str | None = None
    score: float | None = None
    activation: np.ndarray | None = None


class ReceptiveField:
    """The effective receptive field: the mean of the contributions of all inputs that were added."""

    def __init__(self) -> None:
        self.count, self._sum = 0, np.zeros((1, 1))

    def add(self, sight: Sight) -> None:
        """Count one input in; one that could not be read is passed over."""
        if sight.contribution is not None:
            self._sum, self.count = self._sum + sight.contribution, self.count + 1

    @property
    def values(self) -> np.ndarray:
        """(h, w) float64."""
        return self._sum / max(self.count, 1)

    @property
    def middle(self) -> tuple[int, ...]:
        """The pixel on which the middle position of the last map is centred."""
        return middle_pixel(self._sum.shape)

    def squares(self) -> list[dict[str, Any]]:
        """For each of RepLKNet's shares the smallest square around `middle` that holds it.

        side: in pixels. area: its share of the input's area, at most 1. side_of_logarithm: as RepLKNet's script
        measures it (erf/analyze_erf.py), of log10(1 + contribution), which is less where contributions are above 1.
        """
        pixels = self._sum.size
        sides, of_logarithm = square_sides(self.values), square_sides(np.log10(1 + self.values))
        areas = [None if side is None else self._area(side) / pixels for side in sides]
        return [
            {"share": share, "side": side, "area": area, "side_of_logarithm": other}
            for share, side, area, other in zip(SHARES, sides, areas, of_logarithm, strict=True)
        ]

    def _area(self, side: int) -> int:
        reach = side // 2
        spans = (
            min(middle + reach + 1, size) - max(middle - reach, 0)
            for middle, size in zip(self.middle, self._sum.shape, strict=True)
        )
        return int(np.prod([*spans]))


def see(
    checkpoint: Any, inputs: Any, *, label: str | None = None, broken: str = "refuse"
) -> tuple[ReceptiveField, list[Sight]]:
    """What a checkpoint looks at in inputs: the effective receptive field over all of them, and a `Sight` of each.

    checkpoint, inputs and broken are as of `predict`. label: the class whose evidence is looked for, its name or
    number; None: for each input the one with the highest score. The network is merged first, which sees the same.
    Raises ValueError for an unknown class, and for a task whose network sees no picture: shapes, tables of stations.
    """
    check_policy(broken)
    sources, merged = sources_of(inputs), merged_once(checkpoint)
    key = "see", label
    network = merged.cache[key] = merged.cache.get(key) or looker(merged, label)
    field, sights = ReceptiveField(), []
    for index, sight in enumerate(see_files(merged, sources, label, network, broken)):
        log_skipped(sources[index], index, sight.error)
        field.add(sight)
        sights.append(sight)
    return field, sights


def see_files(
    checkpoint: Checkpoint,
    sources: Sequence[Any],
    label: str | None = None,
    network: Network | None = None,
    broken: str = "skip",
) -> Iterator[Sight]:
    """Yield a `Sight` for every source, in order, in the form of the checkpoint; arguments as of `see`."""
    task, count = checkpoint.task, len(sources)
    network = network or looker(checkpoint, label)
    for chunk in in_chunks(task, sources, _batch_size(task), broken):
        views = [[task.seen(example) for example in reading.examples] for reading in chunk]
        found = iter(network([dict(seen.inputs) for each in views for seen in each], count))
        for reading, each in zip(chunk, views, strict=True):
            rows = [next(found) for _ in each]
            yield _sight(task, source_name(reading.source), reading.error, each, rows)


def looker(checkpoint: Checkpoint, label: str | None = None) -> Network:
    """The network of a checkpoint as it is looked into; ValueError as of `see`."""
    task = checkpoint.task
    if type(task).seen is Task.seen:
        task.seen({})  # says why not
    function = functools.partial(_look, task, None if label is None else class_number(checkpoint, label))
    return Network(checkpoint, function, _batch_size(task))


def class_number(checkpoint: Checkpoint, name: str) -> int:
    """The number of a class of a checkpoint; ValueError with the nearest names, and where there is no classifier."""
    classes = getattr(checkpoint.module, "num_classes", None)
    if classes is None:
        raise ValueError("this checkpoint has no classifier, so nothing in a picture can speak for a class.")
    return number_of(name, checkpoint.labels, classes)


def _batch_size(task: Task) -> int:
    """As many inputs as keep what the gradient needs within a bound, whatever their size."""
    _, height, width, _ = task.input_shapes(1)[0].shape
    return max(1, min(_MOST_INPUTS, _MOST_PIXELS // (height * width)))


def _look(
    task: Task, label: int | None, module: nn.Module, variables: Mapping[str, Any], inputs: Batch
) -> dict[str, jax.Array]:
    (maps,) = task.inputs(inputs)
    found = attributions(module, variables, maps, label)
    if "logits" in found:  # which the task turns into scores
        logits = found.pop("logits")
        found["scores"] = task.predict(lambda *_: logits, variables, inputs)["scores"]
    return found


def _sight(
    task: Task, source: str, error: str | None, views: Sequence[Seen], rows: Sequence[Mapping[str, np.ndarray]]
) -> Sight:
    if error or not rows:
        return Sight(source, error or "there is nothing in it to look at")
    contribution = np.asarray(np.mean([row["contribution"] for row in rows], axis=0, dtype=np.float64))
    if not np.all(np.isfinite(contribution)):
        return Sight(source, "the network gives numbers that are not finite")
    if "scores" not in rows[0]:
        return Sight(source, seen=views[0], contribution=contribution)
    best = max(range(len(rows)), key=lambda index: rows[index]["scores"][rows[index]["label"]])
    row = rows[best]
    index = int(row["label"])
    name = task.labels[index] if task.labels else f"class {index}"  # type: ignore[attr-defined]
    activation = row["activation"] if row["activation"].size > 1 else None
    return Sight(source, None, views[best], contribution, index, name, float(row["scores"][index]), activation)
