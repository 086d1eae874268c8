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


def files_of(task: Task, given: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the files that paths stand for, notes on what was passed over).

    given: files, which are taken as they are; folders, with all that is below them; and patterns such as "**/*.jpg".
    Of folders and patterns those files are taken that the task reads (`Task.suffixes`), each once, 2 before 10.
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
                f"{f', but {listed(others)}' if others else ''}; expected names that end in {listed(task.suffixes)}."
            )
        files += [file for file in sorted(found, key=natural_key) if os.path.normpath(file) not in seen]
        seen |= {os.path.normpath(file) for file in found}
        strays += others
    notes = [f"{len(strays):,} passed over as no files that are read: {listed(strays)}."] if strays else []
    return files, notes


def _below(task: Task, folder: str) -> tuple[list[str], list[str]]:
    """The files below a folder that a task reads, and all else."""
    found, others = sorted_out(folder, task.suffixes)
    return [os.path.join(folder, name) for name in found], [os.path.join(folder, name) for name in others]


def _matching(task: Task, pattern: str) -> tuple[list[str], list[str]]:
    """The files that a pattern stands for, those below folders that match it among them, and all else."""
    found: list[str] = []
    others: list[str] = []
    for path in glob.glob(os.path.expanduser(pattern), recursive=True):
        if not os.path.isdir(path):
            reads = path.lower().endswith(task.suffixes) and not is_left_behind(os.path.basename(path))
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
        examples = [example for reading in chunk for example in reading.examples]
        if len(examples) >= size or sum(map(_bytes, examples)) >= _MOST_BYTES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _bytes(example: Example) -> int:
    return sum(getattr(value, "nbytes", 0) for value in example.values())
