"""Pictures in ArrayRecord shards: written from any source, read back by index without TensorFlow.

A split is a folder DIR/SPLIT of files SPLIT-00000-of-00016.array_record and a card, records.json, which states the
class names and the records and bytes of each shard. A record is one msgpack map: "image" (the bytes of a JPEG, PNG, ...
file), "label", "id" and "name" (where the picture came from).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unireplknet_jax.data.base import first_line, listed
from unireplknet_jax.data.broken import BrokenFile, BrokenFileError, check_policy, checked_examples, name_of
from unireplknet_jax.data.files import EncodedFile, staging
from unireplknet_jax.data.pictures.base import ImageSource
from unireplknet_jax.data.pictures.decode import why_broken

CARD = "records.json"
FORMAT = "unireplknet_jax picture records"
VERSION = 1


def write_array_records(
    source: ImageSource,
    folder: str | Path,
    split: str,
    shards: int = 16,
    *,
    broken: str = "refuse",
    overwrite: bool = False,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write a source to folder/split, whole or not at all; returns the card.

    Encoded pictures are kept byte for byte, arrays become PNG; all are decoded once, in threads, to find broken ones.
    Labels, ids and the order are the source's: shard k of N holds the rows from k * n // N on. The files are put in
    their place by renaming a folder: write to a disk of this machine, and copy to a bucket from there.

    broken: "refuse": one BrokenFileError names all broken pictures; "skip": they are left out, and listed in the card.
    overwrite: replace folder/split, if it is such a split. threads: None: one for each processor.
    progress: called with the number of pictures done.
    Raises ValueError for broken pictures, an empty source or a number of shards that does not fit, FileExistsError.
    """
    check_policy(broken)
    if not 1 <= shards <= max(len(source), 1):
        raise ValueError(f"shards is {shards} for {len(source):,} pictures; expected 1 to their number")
    if not len(source):
        raise ValueError("the source is empty; there is nothing to write")
    if not split or split != os.path.basename(split) or split.startswith("."):
        raise ValueError(f"split is {split!r}; expected a plain word such as train, which names a folder and its files")
    path = Path(folder).expanduser().absolute() / split
    check_destination(path, overwrite)
    with staging(path, replace=True) as staged:
        counts, found = _write_shards(source, staged, split, shards, broken, threads, progress)
        if found and (broken == "refuse" or not sum(counts)):
            names = listed([picture.reason for picture in found], most=20)
            message = f"{len(found):,} of the pictures cannot be decoded: {names}"
            raise BrokenFileError(message) if broken == "refuse" else ValueError(f"{message}; none is left to write")
        sizes = [(staged / _file(split, k, shards)).stat().st_size for k in range(shards)]
        card = {
            "format": FORMAT,
            "version": VERSION,
            "labels": list(source.labels),
            "records": counts,
            "bytes": sizes,
            "left_out": [_origin(picture.name) for picture in found],
        }
        (staged / CARD).write_text(json.dumps(card, indent=1) + "\n")
    return card


def check_destination(path: Path, overwrite: bool = False) -> None:
    """Raise FileExistsError where a split may not be written to `path`: see `write_array_records`."""
    file = next((place for place in (path, *path.parents) if place.is_file()), None)
    if file is not None:
        raise FileExistsError(f"{file} is a file; give a folder, in which the split becomes one")
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists already; remove it, choose another folder, or ask for it to be overwritten"
        )
    if path.exists() and not (path / CARD).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} is not a split of picture records (it has no {CARD}), so it is not overwritten")


@dataclass(frozen=True, eq=False)
class ArrayRecordSource:
    """A split of picture records; opens its files when they are first read, in each process.

    records: array_record's data source over the shards of `folder`. ends: (shards,) the number of records up to each.
    """

    folder: str
    records: Any
    files: tuple[str, ...]
    ends: np.ndarray
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        indices = [range(len(self))[index] for index in indices]
        try:
            # Array_record starts a thread for each shard of a batch, which a single record need not pay.
            few = len(indices) < 2
            found = [self.records[index] for index in indices] if few else self.records.__getitems__(indices)
        except Exception as error:  # array_record raises RuntimeError, ValueError, ... for damaged and vanished files
            shards = sorted({self._shard(index)[0] for index in indices})
            raise ValueError(f"{listed(shards)} cannot be read ({first_line(error)}); copy the shard again") from error
        return [self._example(index, data) for index, data in zip(indices, found, strict=True)]

    def contents(self) -> dict[str, list[int]]:
        """For each shard, [how many records it has, 0]."""
        counts = np.diff(self.ends, prepend=0).tolist()
        return {file: [count, 0] for file, count in zip(self.files, counts, strict=True)}

    def _example(self, index: int, data: bytes) -> dict[str, Any]:
        import msgpack

        try:
            record = msgpack.unpackb(data)
            shard, row = self._shard(index)
            image = EncodedFile(record["image"], f"record {row} of {shard} ({record['name']})")
            label, identity = int(record["label"]), int(record["id"])
            self.labels[label]
        except (ValueError, TypeError, LookupError) as error:
            shard, row = self._shard(index)
            raise ValueError(f"record {row} of {shard} is no picture record; write the split again") from error
        return {"image": image, "label": label, "id": identity}

    def _shard(self, index: int) -> tuple[str, int]:
        """The path of the shard that holds an index, and the row in it."""
        shard = int(np.searchsorted(self.ends, index, side="right"))
        return os.path.join(self.folder, self.files[shard]), index - int(self.ends[shard - 1] if shard else 0)


def open_array_records(split: str, root: Path | None) -> ArrayRecordSource:
    """The split that `write_array_records` wrote to root/split: reads the card and the sizes of the shards, no more.

    A shard that is damaged later is named when read.
    Raises ValueError where there is no such split, or one of its shards is missing or not of the size in the card.
    """
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    if root is None:
        raise ValueError('the source "array_record" reads data_dir/split; give the folder of the splits as data_dir')
    path = root / split
    if not split or not (path / CARD).is_file():
        found = sorted(card.parent.name for card in root.glob(f"*/{CARD}"))
        raise ValueError(
            f"{path} holds no picture records (no {CARD}); the splits in {root} are: {listed(found) or 'none'}; "
            "`unireplknet shards` writes them"
        )
    card = _checked_card(path, split)
    counts, shards = card["records"], len(card["records"])
    files = tuple(_file(split, k, shards) for k in range(shards))
    instructions = [_Instruction(str(path / file), 0, count, count) for file, count in zip(files, counts, strict=True)]
    return ArrayRecordSource(
        str(path), ArrayRecordDataSource(instructions), files, np.cumsum(counts), tuple(card["labels"])
    )


def _checked_card(path: Path, split: str) -> dict[str, Any]:
    """The card of a split whose shards are all there and whole."""
    card = _read_card(path / CARD)
    shards = len(card["bytes"])
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(_check_size, [path / _file(split, k, shards) for k in range(shards)], card["bytes"]):
            pass
    return card


@dataclass(frozen=True)
class _Instruction:
    """What array_record wants to know of a shard; given the counts, it opens no file before it is read."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text())
        known = card["format"] == FORMAT
        whole = known and len(card["records"]) == len(card["bytes"]) and sum(card["records"]) > 0 and card["labels"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} cannot be read; write the split again") from error
    if not whole:
        raise ValueError(f"{path} does not describe picture records; write the split again")
    if card["version"] != VERSION:
        raise ValueError(f"{path} has version {card['version']}, but this package reads {VERSION}; update it")
    return card


def _check_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise ValueError(f"the shard {path} is missing; copy it again") from error
    if size != expected:
        raise ValueError(f"the shard {path} has {size:,} bytes, but its card states {expected:,}; copy it again")


def _write_shards(source, staged, split, shards, broken, threads, progress) -> tuple[list[int], list[BrokenFile]]:
    """Write the readable examples; returns the number of records of each shard, and the broken pictures."""
    from array_record.python.array_record_module import ArrayRecordWriter

    counts, found = [0] * shards, []
    with contextlib.closing(checked_examples(source, why_broken, threads)) as examples:
        for k in range(shards):
            # Groups of one record are read without their neighbours; pictures are compressed already.
            writer = ArrayRecordWriter(str(staged / _file(split, k, shards)), "group_size:1,uncompressed")
            try:
                for index in range(k * len(source) // shards, (k + 1) * len(source) // shards):
                    example, reason = next(examples)
                    if reason is not None:
                        found.append(BrokenFile(index, name_of(example), reason))
                    elif broken == "skip" or not found:  # else only more broken ones are looked for
                        writer.write(_encode(example))
                        counts[k] += 1
                    if progress is not None:
                        progress(index + 1)
            finally:
                writer.close()
    return counts, found


def _encode(example: dict[str, Any]) -> bytes:
    import msgpack

    image = example["image"]
    if isinstance(image, np.ndarray):
        file = io.BytesIO()
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, "PNG")
        image = file.getvalue()
    record = {"image": bytes(image), "label": example["label"], "id": example["id"], "name": _origin(name_of(example))}
    return msgpack.packb(record)


def _origin(name: str) -> str:
    """The end of a path, class/picture: where a picture lay on the writer's disk is nobody else's business."""
    return "/".join(Path(name).parts[-2:])


def _file(split: str, shard: int, shards: int) -> str:
    return f"{split}-{shard:05d}-of-{shards:05d}.array_record"
