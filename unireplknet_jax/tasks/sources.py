"""What a user gives to be looked at: files, their bytes, arrays and pictures in memory, one or many."""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from unireplknet_jax.data.base import listed
from unireplknet_jax.data.files import EncodedFile, is_left_behind, natural_key, source_name
from unireplknet_jax.data.folder import sorted_out
from unireplknet_jax.tasks.base import Example, Task

# An open file or a mapping is no list of sources either.
_ONE = (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, jax.Array, Image.Image, io.IOBase, Mapping)
_MOST_BYTES = 2**28  # of examples at a time


class Reading(NamedTuple):
    """A source, or a part of it, and its examples, or why it could not be read; place: the number of the source."""

    source: Any
    examples: list[Example]
    place: int
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


def files_of(task: Task, given: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the files that paths stand for, notes on what was passed over).

    given: files, which are taken as they are; folders, with all that is below them; and patterns such as "**/*.jpg".
    Of folders and patterns those files are taken that the task reads (`Task.suffixes`, `Task.part_suffixes`), each
    once, 2 before 10.
    Raises ValueError where a folder or a pattern holds none.
    """
    files: list[str] = []
    strays: list[str] = []
    seen: set[str] = set()
    for text in given:
        if not (os.path.isdir(text) or (glob.has_magic(text) and not os.path.exists(text))):
            files.append(text)
            continue
        found, others = _below(task, text) if os.path.isdir(text) else _matching(task, text)
        if not found:
            what = "folder" if os.path.isdir(text) else "pattern"
            raise ValueError(
                f"the {what} {text} holds no file that the task {task.name} reads"
                f"{f', but {listed(others)}' if others else ''}; expected names that end in {listed(_suffixes(task))}."
            )
        files += [file for file in sorted(found, key=natural_key) if os.path.normpath(file) not in seen]
        seen |= {os.path.normpath(file) for file in found}
        strays += others
    notes = [f"{len(strays):,} passed over as no files that are read: {listed(strays)}."] if strays else []
    return files, notes


def _suffixes(task: Task) -> tuple[str, ...]:
    return (*task.suffixes, *task.part_suffixes)


def has_parts(task: Task, source: Any) -> bool:
    """Whether a source is a file whose parts a task predicts one by one, by its name."""
    is_file = isinstance(source, str | os.PathLike | EncodedFile)
    return is_file and source_name(source).lower().endswith(task.part_suffixes)


def _below(task: Task, folder: str) -> tuple[list[str], list[str]]:
    """The files below a folder that a task reads, and all else."""
    found, others = sorted_out(folder, _suffixes(task))
    return [os.path.join(folder, name) for name in found], [os.path.join(folder, name) for name in others]


def _matching(task: Task, pattern: str) -> tuple[list[str], list[str]]:
    """The files that a pattern stands for, those below folders that match it among them, and all else."""
    found: list[str] = []
    others: list[str] = []
    for path in glob.glob(os.path.expanduser(pattern), recursive=True):
        if not os.path.isdir(path):
            reads = path.lower().endswith(_suffixes(task)) and not is_left_behind(os.path.basename(path))
            (found if reads else others).append(path)
        elif not pattern.endswith("**"):  # which matches what is in the folders, too
            more, strays = _below(task, path)
            found, others = found + more, others + strays
    return [*dict.fromkeys(found)], [*dict.fromkeys(others)]


def named(source: Any, index: int, error: str) -> str:
    """An error of a source as a sentence that says which source it is."""
    if isinstance(source, np.ndarray | Image.Image):
        return f"input {index}: {error}"
    name = source_name(source)
    return error if name in error else f"{name}: {error}"


def in_chunks(task: Task, sources: Iterable[Any], size: int, broken: str = "skip") -> Iterator[list[Reading]]:
    """Yield the readings of sources in lists with at least `size` examples, or 256 MB of them, while there are any.

    A source has a reading for each of its parts (`Task.read_parts`), which are read when they are needed.
    broken: "refuse" raises ValueError for a source that cannot be read, before any is computed with in its list.
    """
    chunk = []
    for index, source in enumerate(sources):
        for reading in _readings(task, source, index, broken):
            chunk.append(reading)
            examples = [example for each in chunk for example in each.examples]
            if len(examples) >= size or sum(map(_bytes, examples)) >= _MOST_BYTES:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


def _bytes(example: Example) -> int:
    return sum(getattr(value, "nbytes", 0) for value in example.values())


def _readings(task: Task, source: Any, place: int, broken: str) -> Iterator[Reading]:
    """The readings of one source; of one that breaks off the last says why."""
    try:
        for examples in task.read_parts(source):
            yield Reading(source, examples, place)
    except (ValueError, OSError) as error:
        if broken == "refuse":
            raise ValueError(named(source, place, str(error))) from error
        yield Reading(source, [], place, str(error))
