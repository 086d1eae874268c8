"""Files that cannot be decoded: find them all, refuse them, or skip them so that the stream stays reproducible.

Each modality has a function `why_broken`, which says of an example what is wrong with its file. Only what is wrong with
a file itself counts as broken. A file that cannot be read from its disk or network is an OSError under every policy,
because skipping it would make the data depend on the weather.
"""

from __future__ import annotations

import copy
import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unireplknet_jax.data.base import Source
from unireplknet_jax.data.files import EncodedFile

POLICIES = ("refuse", "skip")
Why = Callable[[dict[str, Any]], str | None]  # of an example: what is wrong with its file, or None
MOST_REPLACED = 100  # in a row; a data set that is worse off needs mending, not skipping
_log = logging.getLogger(__name__)


class BrokenFileError(ValueError):
    """Files that cannot be decoded were refused. "skip" would pass over them; the caller knows how to ask for it."""


@dataclass(frozen=True)
class BrokenFile:
    """A file that cannot be decoded: the index of its example, its name and the sentence that says why."""

    index: int
    name: str
    reason: str


def check_policy(broken: str) -> None:
    """Raise ValueError for what is no policy."""
    if broken not in POLICIES:
        raise ValueError(f"broken is {broken!r}; expected {' or '.join(map(repr, POLICIES))}")


def name_of(example: dict[str, Any]) -> str:
    """What to call the file of an example."""
    if "path" in example:
        return example["path"]
    image = example["image"]
    return image.name if isinstance(image, EncodedFile) else f"the example with id {example['id']}"


@dataclass(frozen=True, eq=False)
class AugmentedExamples:
    """(index, rng) -> transform(source[index], rng): the examples of `training_stream(range(len(source)), self, seed)`.

    transform: (example, rng) -> example; decodes the file. Picklable, if worker processes are to run it.
    broken: "refuse" raises BrokenFileError with the file's name; "skip" takes the next readable example of the source
        instead, the first one after the last, with its own label and id, and logs each broken file once per process.
        Which one is taken depends on the source alone: the stream stays a function of (seed, epoch, index).
    key: as of `pipeline.ShapedStream`, in whose batches it is the next readable example of the same shape.
    """

    source: Source
    transform: Callable[[dict[str, Any], np.random.Generator], dict[str, Any]]
    broken: str
    why: Why
    key: Callable[[int, np.random.Generator], Hashable] | None = None
    _logged: dict[str, object] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        check_policy(self.broken)

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        for step in range(min(len(self.source), MOST_REPLACED)):
            number = (int(index) + step) % len(self.source)
            if step and self._key_of(number, rng) != self._key_of(index, rng):
                continue
            example = self.source[number]
            try:
                return self.transform(example, rng)
            except ValueError as error:
                reason = self.why(example)
                if reason is None:  # the file is whole: the transform itself is at fault
                    raise
                if self.broken == "refuse":
                    raise BrokenFileError(reason) from error
                self._log_once(reason)
        raise ValueError(
            f"{MOST_REPLACED:,} examples in a row, or all there are, cannot be decoded, the last one "
            f"{name_of(example)}; mend the data set"
        )

    def _key_of(self, index: int, rng: np.random.Generator) -> Hashable:
        return None if self.key is None else self.key(index, copy.deepcopy(rng))

    def _log_once(self, reason: str) -> None:
        token = object()
        if self._logged.setdefault(reason, token) is token:  # atomic, so no two threads log the same
            _log.warning("skipped: %s", reason)


@dataclass(frozen=True, eq=False)
class TransformedExamples:
    """A source of transform(example): one pass, for evaluation. A broken file is a BrokenFileError with its name."""

    source: Source
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
            raise BrokenFileError(reason) from error


@dataclass(frozen=True, eq=False)
class Selected:
    """Some examples of a source, by their indices (n,); they keep their ids."""

    source: Source
    indices: np.ndarray

    @property
    def labels(self) -> tuple[str, ...]:
        return self.source.labels

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[int(self.indices[index])]

    def contents(self) -> dict[str, list[int]]:
        """Those of the source, the examples that are left out among them."""
        return self.source.contents()


def without_broken(source: Source, why: Why, threads: int | None = None) -> Source:
    """The source without the examples that cannot be decoded, each logged by name; decodes every file once.

    For evaluation, where a replacement would count twice.
    """
    found = find_broken(source, why, threads)
    if not found:
        return source
    for file in found:
        _log.warning("left out: %s", file.reason)
    return Selected(source, np.setdiff1d(np.arange(len(source)), [file.index for file in found]))


def find_broken(
    source: Source, why: Why, threads: int | None = None, progress: Callable[[int], None] | None = None
) -> list[BrokenFile]:
    """All files of a source that cannot be decoded, in its order; every one is decoded, in threads.

    threads: None: one for each processor. progress: called with the number of examples looked at so far.
    Raises OSError where a file cannot even be read.
    """
    found = []
    for index, (example, reason) in enumerate(checked_examples(source, why, threads)):
        if reason is not None:
            found.append(BrokenFile(index, name_of(example), reason))
        if progress is not None:
            progress(index + 1)
    return found


def checked_examples(
    source: Source, why: Why, threads: int | None = None
) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Yield (example, why its file is broken or None) of a whole source in order, read and decoded in threads."""

    def check(index):
        example = source[index]
        return example, why(example)

    threads = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        indices = iter(range(len(source)))
        # `pool.map` would hold every file of the source in memory.
        waiting = deque(pool.submit(check, index) for index in itertools.islice(indices, 4 * threads))
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(check, index) for index in itertools.islice(indices, 1))
        finally:
            pool.shutdown(cancel_futures=True)
