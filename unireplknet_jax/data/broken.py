"""Files that cannot be decoded: find them all, refuse them, or skip them so that the stream stays reproducible.

Each modality has a function `why_broken`, which says of an example what is wrong with its file. Only what is wrong with
a file itself counts as broken. A file that cannot be read from its disk or network is an OSError under every policy,
because skipping it would make the data depend on the weather.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unireplknet_jax.data.base import EncodedImage, ImageSource, listed

POLICIES = ("refuse", "skip")
Why = Callable[[dict[str, Any]], str | None]  # of an example: what is wrong with its file, or None
MOST_REPLACED = 100  # in a row; a data set that is worse off needs mending, not skipping
_TO_SKIP = "to pass over what is broken: train --config.data.broken=skip, evaluate --broken skip"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BrokenPicture:
    """A picture that cannot be decoded: its index in the source, its name and the sentence that says why."""

    index: int
    name: str
    reason: str


def check_policy(broken: str) -> None:
    """Raise ValueError for what is no policy."""
    if broken not in POLICIES:
        raise ValueError(f"broken is {broken!r}; expected {' or '.join(map(repr, POLICIES))}")


def name_of(example: dict[str, Any]) -> str:
    """What to call the picture, or another file, of an example."""
    if "path" in example:
        return example["path"]
    image = example["image"]
    return image.name if isinstance(image, EncodedImage) else f"the picture with id {example['id']}"


@dataclass(frozen=True, eq=False)
class AugmentedExamples:
    """(index, rng) -> transform(source[index], rng): the examples of `training_stream(range(len(source)), self, seed)`.

    transform: (example, rng) -> example; decodes the picture. Picklable, if worker processes are to run it.
    broken: "refuse" raises ValueError with the picture's name; "skip" takes the next readable example of the source
        instead, the first one after the last, with its own label and id, and logs each broken picture once per
        process. Which one is taken depends on the source alone: the stream stays a function of (seed, epoch, index).
    """

    source: ImageSource
    transform: Callable[[dict[str, Any], np.random.Generator], dict[str, Any]]
    broken: str
    why: Why
    _logged: dict[str, object] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        check_policy(self.broken)

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        for step in range(min(len(self.source), MOST_REPLACED)):
            example = self.source[(int(index) + step) % len(self.source)]
            try:
                return self.transform(example, rng)
            except ValueError as error:
                reason = self.why(example)
                if reason is None:  # the picture is whole: the transform itself is at fault
                    raise
                if self.broken == "refuse":
                    raise ValueError(f"{reason}; {_TO_SKIP}") from error
                self._log_once(reason)
        raise ValueError(
            f"{MOST_REPLACED:,} examples in a row, or all there are, cannot be decoded, the last one "
            f"{name_of(example)}; mend the data set"
        )

    def _log_once(self, reason: str) -> None:
        token = object()
        if self._logged.setdefault(reason, token) is token:  # atomic, so no two threads log the same
            _log.warning("skipped: %s", reason)


@dataclass(frozen=True, eq=False)
class TransformedExamples:
    """A source of transform(example): one pass, for evaluation. A broken picture is a ValueError with its name."""

    source: ImageSource
    transform: Callable[[dict[str, Any]], dict[str, Any]]
    why: Why

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.source[index]
        try:
            return self.transform(example)
        except ValueError as error:
            reason = self.why(example)
            if reason is None:
                raise
            raise ValueError(f"{reason}; {_TO_SKIP}") from error


@dataclass(frozen=True, eq=False)
class Selected:
    """Some examples of a source, by their indices (n,); they keep their ids."""

    source: ImageSource
    indices: np.ndarray

    @property
    def labels(self) -> tuple[str, ...]:
        return self.source.labels

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[int(self.indices[index])]


def without_broken(source: ImageSource, why: Why, threads: int | None = None) -> ImageSource:
    """The source without the pictures that cannot be decoded, each logged by name; decodes every picture once.

    For evaluation, where a replacement would count twice.
    """
    found = find_broken(source, why, threads)
    if not found:
        return source
    for picture in found:
        _log.warning("left out: %s", picture.reason)
    return Selected(source, np.setdiff1d(np.arange(len(source)), [picture.index for picture in found]))


def find_broken(
    source: ImageSource, why: Why, threads: int | None = None, progress: Callable[[int], None] | None = None
) -> list[BrokenPicture]:
    """All pictures of a source that cannot be decoded, in its order; every one is decoded, in threads.

    threads: None: one for each processor. progress: called with the number of pictures looked at so far.
    Raises OSError where a picture cannot even be read.
    """
    found = []
    for index, (example, reason) in enumerate(checked_examples(source, why, threads)):
        if reason is not None:
            found.append(BrokenPicture(index, name_of(example), reason))
        if progress is not None:
            progress(index + 1)
    return found


def checked_examples(
    source: ImageSource, why: Why, threads: int | None = None
) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Yield (example, why its picture is broken or None) of a whole source in order, read and decoded in threads."""

    def check(index):
        example = source[index]
        return example, why(example)

    threads = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        indices = iter(range(len(source)))
        # `pool.map` would hold every picture of the source in memory.
        waiting = deque(pool.submit(check, index) for index in itertools.islice(indices, 4 * threads))
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(check, index) for index in itertools.islice(indices, 1))
        finally:
            pool.shutdown(cancel_futures=True)


def refuse_all(found: Sequence[BrokenPicture]) -> None:
    """Raise one ValueError for all broken pictures that were found, if there are any."""
    if found:
        raise ValueError(
            f"{len(found):,} of the pictures cannot be decoded, and shards --broken skip leaves them out: "
            f"{listed([picture.reason for picture in found], most=20)}"
        )
