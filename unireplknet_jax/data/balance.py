"""Training examples drawn by the rarity of their classes, for all modalities."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unireplknet_jax.data.classes import Renumbered


def classes_of(source: Any) -> Sequence[tuple[int, ...]]:
    """The classes of every example of a source, from its lists, without reading an example.

    Raises ValueError for a source that has no such lists.
    """
    if isinstance(source, Renumbered):
        return [tuple(source.numbers[number] for number in own) for own in classes_of(source.source)]
    if hasattr(source, "classes"):
        return source.classes
    if hasattr(source, "targets"):
        return [(int(target),) for target in source.targets]
    raise ValueError(
        "balance needs the classes of all examples, which these data tell only as they are read; leave it out, or give "
        "a folder of files"
    )


def cumulated_rarity(classes: Sequence[tuple[int, ...]], count: int) -> np.ndarray:
    """(n,), rising to 1: how often `Balanced` draws which example: by the sum over its classes of 1 / their examples.

    Source: AST's weighted sampling for AudioSet, its 0.01 in the denominator included.
    """
    examples = np.bincount(np.concatenate([np.asarray(own, int) for own in classes]), minlength=count)
    shares = np.cumsum([np.sum(1 / (examples[list(own)] + 0.01)) for own in classes])
    return shares / shares[-1]


@dataclasses.dataclass(frozen=True, eq=False)
class Balanced:
    """(index, rng) -> examples(another index, rng), drawn with replacement by cumulated shares (n,); picklable."""

    examples: Callable[[int, np.random.Generator], dict[str, Any]]
    shares: np.ndarray

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        return self.examples(int(np.searchsorted(self.shares, rng.random(), side="right")), rng)
