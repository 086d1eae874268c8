"""Labelled sounds with random access: `open_sounds(name, split)`."""

from __future__ import annotations

import logging
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unireplknet_jax.data.base import check_split, listed, nearest
from unireplknet_jax.data.files import ListedFiles, Names, contents_of, is_left_behind, staging
from unireplknet_jax.data.folder import open_folder
from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.data.sounds.speech_synthesis import render_commands
from unireplknet_jax.data.sounds.waveforms import SUFFIXES
from unireplknet_jax.data.tables import rows_of_table
from unireplknet_jax.data.text import read_text

SOURCES = ("speech_commands", "synthetic_commands", "folder", "csv", "tones")
ARCHIVE = "speech_commands_v0.02.tar.gz"
# The order of the label file that the original takes from AST; TFDS and torchaudio have others.
COMMANDS = read_labels("speech_commands")
TONES = tuple(f"{frequency} Hz" for frequency in (150, 250, 400, 600, 900, 1300, 1800, 2500, 3500, 5000))
_SPLITS = {"test": "testing_list.txt", "validation": "validation_list.txt"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SoundFiles(ListedFiles):
    """The sounds of one split, as the bytes of their files; picklable. The id is the index.

    Example i is {"sound": EncodedFile, "path": its name, "classes": (class, ...), "id": i}. classes: the classes
    (indices into `labels`) of every sound.
    """

    classes: Sequence[tuple[int, ...]]
    labels: tuple[str, ...]

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        return {"sound": self.read(index), "path": self.path(index), "classes": self.classes[index], "id": index}

    def contents(self) -> dict[str, list[int]]:
        """As `data.base.Source` says, for every combination of classes that occurs."""
        return contents_of(self.names, (", ".join(self.labels[c] for c in classes) for classes in self.classes))


@dataclass(frozen=True, eq=False)
class Tones:
    """Half a second to a second of one of `TONES` in noise, at 16,000 samples a second, from the index alone."""

    count: int
    seed: int
    labels: tuple[str, ...] = TONES

    @property
    def classes(self) -> list[tuple[int, ...]]:
        return [(index % len(TONES),) for index in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        rng = np.random.default_rng((self.seed, index))
        frequency = float(TONES[index % len(TONES)].split()[0]) * rng.uniform(0.93, 1.07)
        time = np.arange(rng.integers(8000, 16_001)) / 16_000
        tone = np.sin(2 * np.pi * frequency * time + rng.uniform(0, 2 * np.pi))
        sound = rng.uniform(0.05, 0.5) * tone + rng.uniform(0.002, 0.05) * rng.standard_normal(len(time))
        return {"sound": sound, "classes": (index % len(TONES),), "id": index}

    def contents(self) -> dict[str, list[int]]:
        """As `data.base.Source` says: they never change."""
        return {}


def open_sounds(name: str, split: str, data_dir: str | Path | None = None) -> SoundFiles | Tones:
    """Open a split of a labelled set of sounds.

    name:
    - "speech_commands": Speech Commands V2 in data_dir, unpacked (a folder per word, testing_list.txt,
      validation_list.txt) or as speech_commands_v0.02.tar.gz, which is unpacked beside itself once. Splits "train",
      "validation" and "test" as the lists say; 35 classes in the order of the original's label file.
    - "synthetic_commands": the same words spoken by espeak-ng, in data_dir or ~/.cache, rendered there the first time.
    - "folder": the files data_dir/split/class/sound; the labels are the sorted names of the class folders.
    - "csv": AudioSet's layout, several classes to a sound. data_dir/class_labels_indices.csv (index, mid,
      display_name) orders the classes; a row of data_dir/SPLIT.csv holds first the name of a file in data_dir/SPLIT or
      data_dir, with or without its ending, and last its classes, by mid or display name, between commas. Rows that
      begin with # are passed over, and sounds that are not there counted in the log.
    - "tones": ten tones in noise, made up on the spot; splits "train" (400) and "test" (100). For trying things out.

    Raises ValueError for an unknown name, split or label and for lists that do not fit the files.
    """
    if "://" in str(data_dir):
        raise ValueError(f"the data of {name} are files in a folder, and {data_dir} is none; mount the bucket first")
    root = Path(data_dir).expanduser() if data_dir else None
    if name == "speech_commands":
        return open_commands(split, root)
    if name == "synthetic_commands":
        return open_commands(split, render_commands(root))
    if name == "folder":
        found = open_folder(split, root, SUFFIXES, "sound")
        return SoundFiles(found.folder, found.names, [(int(label),) for label in found.targets], found.labels)
    if name == "csv":
        return _open_csv(split, root)
    if name == "tones":
        check_split(name, split, ("train", "test"))
        return Tones(*((400, 0) if split == "train" else (100, 1)))
    raise ValueError(f"there is no sound source {name!r}; {nearest(name, SOURCES)}")


def open_commands(split: str, root: Path | None) -> SoundFiles:
    """A split of Speech Commands V2: see `open_sounds`. Reads each list and folder once."""
    check_split("speech_commands", split, ("train", *_SPLITS))
    if root is None:
        raise ValueError(f"speech_commands needs the folder of its words, or of {ARCHIVE}; give it as data_dir")
    root = _unpacked(root)
    lists = {}
    for part, file in _SPLITS.items():
        if not (root / file).is_file():
            raise ValueError(f"{root} has no {file}; expected Speech Commands V2 as {ARCHIVE} unpacks it")
        lists[part] = set(read_text(root / file, "a list of sounds, one a line").split())
    missing = [word for word in COMMANDS if not (root / word).is_dir()]
    folders = [path.name for path in root.iterdir() if path.is_dir() and not is_left_behind(path.name)]
    unknown = sorted(name for name in {*folders} - {*COMMANDS} if not name.startswith("_"))  # "_background_noise_"
    if missing or unknown:
        parts = [f"{kind} {listed(names)}" for kind, names in (("lacks", missing), ("also has", unknown)) if names]
        raise ValueError(f"{root} {' and '.join(parts)}; expected a folder for each of the 35 words of V2")
    found = [
        (f"{word}/{file}", index)
        for index, word in enumerate(COMMANDS)
        for file in sorted(os.listdir(root / word))
        if file.lower().endswith(SUFFIXES) and not is_left_behind(file)
    ]
    absent = sorted(set.union(*lists.values()) - {name for name, _ in found})
    if absent:
        raise ValueError(f"{root} lacks sounds that its lists name: {listed(absent)}; fetch the set again")
    if split == "train":
        chosen = [entry for entry in found if not any(entry[0] in part for part in lists.values())]
    else:
        chosen = [entry for entry in found if entry[0] in lists[split]]
    if not chosen:
        raise ValueError(f"{root} has no sounds in its split {split!r}; fetch the set again")
    return SoundFiles(str(root), Names([name for name, _ in chosen]), [(index,) for _, index in chosen], COMMANDS)


def _unpacked(root: Path) -> Path:
    """The folder of the words: root, the archive's own folder in it, or that after unpacking the archive, whole."""
    archive = root if root.name.endswith((".tar.gz", ".tgz")) else root / ARCHIVE
    target = archive.with_name(archive.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz"))
    for place in (root, target):
        if (place / _SPLITS["test"]).is_file():
            return place
    if not archive.is_file():
        if not root.is_dir():
            raise ValueError(f"there is no folder {root}; expected one that holds Speech Commands V2 or {ARCHIVE}")
        return root
    _log.info("unpacking %s into %s, once", archive, target)
    try:
        with staging(target) as folder, tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        raise ValueError(f"{archive} cannot be unpacked ({reason}); fetch it again, or unpack it by hand") from error
    return target


def _open_csv(split: str, root: Path | None) -> SoundFiles:
    if root is None:
        raise ValueError("the source csv reads data_dir/class_labels_indices.csv and data_dir/SPLIT.csv; give data_dir")
    labels, numbers = _read_labels(root / "class_labels_indices.csv")
    table = root / f"{split}.csv"
    folder = root / split if (root / split).is_dir() else root
    there = {}
    for file in sorted(os.listdir(folder)) if folder.is_dir() else ():
        if file.lower().endswith(SUFFIXES) and not is_left_behind(file):
            there[file] = there[Path(file).stem] = file
    names, classes, absent = [], [], []
    for line, row in _rows(table):
        if len(row) < 2 or not row[0]:
            raise ValueError(f"{table}, line {line}: expected a file's name and its classes, found {','.join(row)!r}")
        whole = row[-1]  # a display name may hold commas
        own = [whole] if whole in numbers else [label.strip() for label in whole.split(",") if label.strip()]
        unknown = [label for label in own if label not in numbers]
        if unknown or not own:
            what = f"unknown label {unknown[0]!r}" if unknown else "no label"
            raise ValueError(
                f"{table}, line {line}: {what}; expected some of the {len(labels)} in class_labels_indices.csv"
            )
        file = there.get(row[0])
        if file is None:
            absent.append(row[0])
            continue
        names.append(file)
        classes.append(tuple(sorted({numbers[label] for label in own})))
    if not names:
        missing = f"none of the {len(absent):,} sounds of {table} is in {folder}; put them there"
        raise ValueError(missing if absent else f"{table} lists no sounds; expected a file's name and classes a row")
    if absent:
        _log.warning("%s: %d of its sounds are not in %s: %s", table, len(absent), folder, listed(absent))
    return SoundFiles(str(folder), Names(names), classes, labels)


def _read_labels(path: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """(display names in the order of their indices, {mid or display name: index})."""
    rows = [(line, row) for line, row in _rows(path) if row[0] != "index"]
    labels, numbers = [], {}
    for line, row in rows:
        if len(row) < 3 or row[0] != str(len(labels)):
            raise ValueError(f"{path}, line {line}: expected {len(labels)},mid,display_name, found {','.join(row)!r}")
        numbers |= {row[1]: len(labels), row[2]: len(labels)}
        labels.append(row[2])
    if not labels:
        raise ValueError(f"{path} names no classes; expected rows index,mid,display_name")
    return tuple(labels), numbers


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """(line, cells) of a table's rows; those that are empty or begin with # are left out."""
    if not path.is_file():
        raise ValueError(f"there is no {path}; expected a CSV file as of AudioSet")
    rows, _ = rows_of_table(path, "a CSV file as of AudioSet")
    return [(line, row) for line, row in rows if not row[0].startswith("#")]
