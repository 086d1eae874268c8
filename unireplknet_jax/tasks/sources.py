"""What a user gives to be looked at: files, their bytes, arrays and pictures in memory, one or many."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from unireplknet_jax.data.files import EncodedFile, source_name
from unireplknet_jax.tasks.base import Example, Task

# An open file or a mapping is no list of sources either.
_ONE = (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, jax.Array, Image.Image, io.IOBase, Mapping)


class Reading(NamedTuple):
    """A source and its examples, or why it could not be read."""

    source: Any
    examples: list[Example]
    error: str | None = None


def sources_of(inputs: Any) -> list[Any]:
    """One source or many as a list of paths, bytes with names, NumPy arrays and PIL images.

    Bytes without a name are named after their place. Raises TypeError, one sentence, for anything else.
    """
    if isinstance(inputs, _ONE) or not isinstance(inputs, Iterable):
        return [_source(inputs, 0)]
    return [_source(each, index) for index, each in enumerate(inputs)]


def _source(given: Any, index: int) -> Any:
    if isinstance(given, str | os.PathLike | EncodedFile | np.ndarray | Image.Image):
        return given
    if isinstance(given, bytes | bytearray | memoryview):
        return EncodedFile(bytes(given), getattr(given, "name", f"input {index}"))
    if isinstance(given, jax.Array):
        return np.asarray(given)
    kind = type(given).__name__
    raise TypeError(f"input {index} is of the type {kind}; expected a path, bytes, an array or a PIL image.")


def named(source: Any, index: int, error: str) -> str:
    """An error of a source as a sentence that says which source it is."""
    if isinstance(source, np.ndarray | Image.Image):
        return f"input {index}: {error}"
    name = source_name(source)
    return error if name in error else f"{name}: {error}"


def in_chunks(task: Task, sources: Iterable[Any], size: int, broken: str = "skip") -> Iterator[list[Reading]]:
    """Yield the readings of sources in lists with at least `size` examples, as long as there are any.

    broken: "refuse" raises ValueError for a source that cannot be read, before any is computed with in its list.
    """
    chunk = []
    for index, source in enumerate(sources):
        try:
            chunk.append(Reading(source, task.read(source)))
        except (ValueError, OSError) as error:
            if broken == "refuse":
                raise ValueError(named(source, index, str(error))) from error
            chunk.append(Reading(source, [], str(error)))
        if sum(len(reading.examples) for reading in chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
