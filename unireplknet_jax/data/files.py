"""Files that examples are made of: bytes with a name, lists of many, and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

# Of macOS' archives, Windows' folders and drives, Synology's and QNAP's shares, Linux' drives, Jupyter and Python.
_LEFT_BEHIND = {
    *("__macosx", "thumbs.db", "desktop.ini", "system volume information", "$recycle.bin"),
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@__thumb", "lost+found", "__pycache__"),
}


class EncodedFile(bytes):
    """The bytes of a picture or sound file, and the name by which errors call it: its path, or shard and record."""

    name: str

    def __new__(cls, data: bytes, name: str) -> EncodedFile:
        file = super().__new__(cls, data)
        file.name = name
        return file

    def __getnewargs__(self) -> tuple[bytes, str]:  # type: ignore[override]  # `bytes` has one argument
        return bytes(self), self.name

    def __repr__(self) -> str:
        return f"EncodedFile({len(self)} bytes of {self.name})"


def is_left_behind(name: str) -> bool:
    """Whether a file or folder of this name is no data, but hidden, or left there by a system: "._a.jpg", "@eaDir"."""
    return name.startswith(".") or name.casefold() in _LEFT_BEHIND


def natural_key(path: str) -> tuple[list[list[str | int]], str]:
    """What paths are sorted by, so that a person finds them: folder by folder, and 2 before 10."""
    parts = [re.split(r"(\d+)", name.casefold()) for name in path.split(os.sep)]
    return [[int(part) if number % 2 else part for number, part in enumerate(name)] for name in parts], path


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str], *beside: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write a file to, which takes its place at `path` if the block succeeds and vanishes if it does not.

    beside: further files, of the same folder, that are written beside that path by their names, and come first.
    """
    path = Path(path).absolute()
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        part = Path(scratch) / path.name
        yield part
        for other in (*beside, path):
            os.replace(part.with_name(Path(other).name), other)


def write_npz(path: str | os.PathLike[str], **arrays: np.ndarray) -> None:
    """Write arrays to one .npz, whole or not at all."""
    with whole_file(path) as part:
        np.savez(part, **arrays)  # type: ignore[arg-type]  # it has an argument that is no array


def source_name(source: Any) -> str:
    """What errors and records call what somebody gave: its path, the name of its bytes, or the kind of thing it is."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, bytes):
        return getattr(source, "name", f"the {len(source)} bytes")
    shape = getattr(source, "shape", None)
    return f"the {type(source).__name__}" if shape is None else f"the array of shape {shape}"


def file_name(source: Any, expected: str) -> str:
    """The path or the name of a file, given as its path or its bytes; ValueError for anything else.

    expected: what the file should be, as in "a sound file".
    """
    if isinstance(source, EncodedFile | str | os.PathLike):
        return source_name(source)
    raise ValueError(f"cannot read {source_name(source)}; expected {expected}: its path, or its bytes with a name")


def opened(source: str | os.PathLike[str] | EncodedFile) -> BinaryIO:
    """A file, given as its path or its bytes, opened for reading."""
    return io.BytesIO(source) if isinstance(source, EncodedFile) else open(source, "rb")


def read_file(source: str | os.PathLike[str] | EncodedFile, expected: str) -> EncodedFile:
    """The file that somebody gave, as its path or its bytes; ValueError where it cannot be read.

    expected: what it should be, as in "a sound file".
    """
    name = file_name(source, expected)
    if isinstance(source, EncodedFile):
        return source
    try:
        with open(source, "rb") as file:
            return EncodedFile(file.read(), name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot read {name} ({reason}); expected the path of {expected}") from error


def misplaced(data: bytes) -> str | None:
    """What a file is by its first bytes, if it stands in place of another one: of whatever kind that should be."""
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not data:
        return "empty"
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page and not the file itself"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer and not the file itself, which `git lfs pull` fetches"
    return None


class Names(Sequence[str]):
    """Many strings in one block of bytes: those of ImageNet take 40 MB and are pickled for a worker in no time."""

    def __init__(self, names: Sequence[str]):
        encoded = [os.fsencode(name) for name in names]
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._block = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices
        index = range(len(self))[index]
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._block[start : int(self._ends[index])])

    def checksum(self, start: int, stop: int, before: int = 0) -> int:
        """The CRC-32 of the names from start up to stop, one after another; before: that of the names in front."""
        first, last = (int(self._ends[index - 1]) if index else 0 for index in (start, stop))
        lengths = np.diff(self._ends[start:stop], prepend=first)
        return zlib.crc32(lengths.astype("<i4").tobytes(), zlib.crc32(self._block[first:last], before))


def contents_of(names: Sequence[str], groups: Iterable[str]) -> dict[str, list[int]]:
    """For each of the `groups` that files belong to, [how many there are, the checksum of their names]."""
    names = names if isinstance(names, Names) else Names(names)
    found: dict[str, list[int]] = {}
    start = 0
    for group, run in itertools.groupby(groups):  # as a rule one run for each group
        stop = start + sum(1 for _ in run)
        count, before = found.get(group, (0, 0))
        found[group] = [count + stop - start, names.checksum(start, stop, before)]
        start = stop
    return found


@dataclass(frozen=True, eq=False)
class ListedFiles:
    """The files of one split; picklable. names: their paths, those that are not absolute below `folder`."""

    folder: str
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """Where a file lies; IndexError past the last one."""
        return os.path.join(self.folder, self.names[index])

    def read(self, index: int) -> EncodedFile:
        """The bytes of a file; OSError where it cannot be read."""
        path = self.path(index)
        try:
            with open(path, "rb") as file:
                return EncodedFile(file.read(), path)
        except OSError as error:
            raise OSError(f"{path} cannot be read ({error.strerror}); it was there when its set was listed") from error


@dataclass(frozen=True, eq=False)
class LabelledFiles(ListedFiles):
    """Files of one class each. Example i is {"path": str, "label": int, "id": i}; targets: (n,) int32."""

    targets: np.ndarray
    labels: tuple[str, ...]

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        return {"path": self.path(index), "label": int(self.targets[index]), "id": index}

    def contents(self) -> dict[str, list[int]]:
        """For each class, [how many files it has, the checksum of their names], as `data.base.Source` says."""
        return contents_of(self.names, map(self.labels.__getitem__, self.targets.tolist()))


@contextlib.contextmanager
def staging(path: Path, replace: bool = False) -> Iterator[Path]:
    """A fresh folder beside `path` that takes its place if the block succeeds and vanishes if it does not.

    replace: a folder that is there gives way, and comes back should that fail. Otherwise only an empty one gives way:
    another one was put there by a process that was faster, and stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        staged, old = scratch / "new", scratch / "old"
        staged.mkdir()
        yield staged
        if replace and path.exists():
            os.replace(path, old)
        try:
            os.replace(staged, path)
        except BaseException as error:
            if old.exists():
                os.replace(old, path)
            if replace or not (isinstance(error, OSError) and path.is_dir()):
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def clear_staging(path: Path) -> None:
    """Remove what `staging` of `path` left in processes that were killed.

    The caller makes sure that none is at work. Where the kill fell between the old folder's leaving and the new one's
    coming, the new one, which then is whole, takes its place.
    """
    for scratch in path.parent.glob(f".{path.name}.*"):
        if (scratch / "old").is_dir() and (scratch / "new").is_dir() and not path.exists():
            os.replace(scratch / "new", path)
        shutil.rmtree(scratch, ignore_errors=True)
