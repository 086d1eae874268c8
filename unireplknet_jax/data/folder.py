"""A folder of files sorted into classes: root/split/class/file, the layout of torchvision's ImageFolder."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from unireplknet_jax.data.base import listed
from unireplknet_jax.data.classes import check_same_labels, in_natural_order
from unireplknet_jax.data.files import LabelledFiles, Names, is_left_behind
from unireplknet_jax.data.flat_folder import list_of, open_flat

SPLITS = ("train", "val", "test", "valid", "validation", "training", "testing", "dev", "eval")  # as people call them
_log = logging.getLogger(__name__)


def open_folder(split: str, root: Path | None, suffixes: tuple[str, ...], kind: str) -> LabelledFiles:
    """The split root/split: one folder for each class, whose files may lie in folders of their own.

    suffixes: how the names of the files end. kind: what errors call one, such as "picture". The id is the index in the
    order of class and path.

    The labels are the sorted names of the class folders, whole numbers sorted as numbers; those of another split than
    "train" must be those of "train", if that is there. Whatever is no such file, hidden, a link to nothing or left
    there by a system (`files.is_left_behind`) is passed over and counted in the log, as are empty classes.

    A split without class folders may have a list of the classes of its files (`flat_folder.open_flat`).

    Raises ValueError where there is no root, split, class or file, or where the classes differ from the training's.
    """
    if root is None:
        raise ValueError(f"the data are read from data_dir/split/class/{kind}; give the folder as data_dir")
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}; expected one that holds the splits, for example train and val")
    path = root / split
    if not split or not path.is_dir():
        raise ValueError(_no_split(root, split, suffixes, kind))
    train = root / "train"
    known = class_folders(train)[0] if split != "train" and train.is_dir() else []
    source = _flat(path, split, known, suffixes) or _listing(str(path), suffixes, kind)
    if known:
        check_same_labels(known, source.labels, str(train), str(path))
    return source


def _flat(path: Path, split: str, known: Sequence[str], suffixes: tuple[str, ...]) -> LabelledFiles | None:
    """A split whose files lie in its folder itself, or in its folder "images", with a list of their classes."""
    folders, loose = class_folders(path)
    if folders not in ([], ["images"]) or (not folders and not any(_ends_in(suffixes, name) for name in loose)):
        return None
    table = list_of(path, split)
    if table is None or "images" in known:
        return None
    return open_flat(str(path), sorted_out(str(path), suffixes)[0], table, known)


def _no_split(root: Path, split: str, suffixes: tuple[str, ...], kind: str) -> str:
    """The sentence about a folder without a split: which one to give where it is near, or how to make a split."""
    here, folders = Path(os.path.abspath(root)), class_folders(root)[0]
    above = [folder for folder in here.parents[:2] if split and (folder / split).is_dir()]
    divided = any(name.casefold() in SPLITS for name in folders)
    below = [] if divided or not split else _above_split(root, split)
    if below:
        places = " and ".join(map(str, below[:3]))
        which = "has; give that folder" if len(below) == 1 else "have; give one of them"
        return f"{root} has no split {split!r}, but {places} {which}"
    # A class folder may be called like a split, so that `above` is not enough.
    if above and not divided and (here.name in SPLITS or here.parent.name in SPLITS):
        return f"{root} lies in {above[0]}, which has the split {split!r}; give that folder"
    if not divided and any(_has_file(str(root / name), suffixes) for name in folders[:10]):
        target = f"{root if root.name not in ('', '..') else here}_split"
        command = shlex.join(["unireplknet", "split", str(root), target, "--val", "0.2"])
        classes = f"its folders are classes with {kind}s ({listed(folders)})"
        return f"{root} has no split {split!r}: {classes}; `{command}` makes splits of them"
    other = "; data.train_split, data.eval_split or --split may name another one" if divided else ""
    return f"{root} has no split {split!r}; the folders in it are: {listed(folders) or 'none'}{other}"


def _above_split(root: Path, split: str) -> list[Path]:
    """The folders up to three levels below a folder that have a split, those of the first level that has any."""
    found: list[Path] = []
    for depth in (1, 2, 3):
        found = found or sorted(path.parent for path in root.glob(f"{'*/' * depth}{split}") if path.is_dir())
    return found


def _has_file(folder: str, suffixes: tuple[str, ...]) -> bool:
    return any(_ends_in(suffixes, name) for name in _files(folder, ""))


def _listing(folder: str, suffixes: tuple[str, ...], kind: str) -> LabelledFiles:
    labels, strays = class_folders(folder)
    if not labels:
        loose = sum(_ends_in(suffixes, name) for name in strays)
        beside = f", or a list {os.path.basename(folder)}_labels.csv of files and classes beside it" if loose else ""
        raise ValueError(
            f"{folder} has no class folders (but {loose:,} {kind}s); expected class/{kind} below it{beside}"
        )
    with ThreadPoolExecutor(16) as pool:  # listing waits for the disk or the network
        found = list(pool.map(lambda label: sorted_out(os.path.join(folder, label), suffixes), labels))
    names = [os.path.join(label, name) for label, (inside, _) in zip(labels, found, strict=True) for name in inside]
    if not names:
        raise ValueError(
            f"{folder} has {_count(labels, 'class', 'classes')} but no {kind}s; expected files like *{suffixes[0]}"
        )
    strays += [os.path.join(label, name) for label, (_, inside) in zip(labels, found, strict=True) for name in inside]
    empty = [label for label, (inside, _) in zip(labels, found, strict=True) if not inside]
    if labels != sorted(labels):
        _log.warning(
            "%s: its classes are whole numbers, taken in their order (data.class_order says otherwise)", folder
        )
    if strays:
        _log.warning(
            "%s: %s passed over as no %ss: %s", folder, _count(strays, "entry", "entries"), kind, listed(strays)
        )
    if empty:
        _log.warning("%s: %s without %ss: %s", folder, _count(empty, "class", "classes"), kind, listed(empty))
    targets = np.repeat(np.arange(len(labels), dtype=np.int32), [len(inside) for inside, _ in found])
    return LabelledFiles(folder, Names(names), targets, tuple(labels))


def class_folders(path: str | os.PathLike) -> tuple[list[str], list[str]]:
    """The names of the class folders in their order, and of all else."""
    with os.scandir(path) as entries:
        kinds = sorted((entry.name, entry.is_dir() and not is_left_behind(entry.name)) for entry in entries)
    return in_natural_order([name for name, is_class in kinds if is_class]), [
        name for name, is_class in kinds if not is_class
    ]


def sorted_out(folder: str, suffixes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The sorted paths of the files with such endings below a folder, relative to it, and of all else."""
    names, strays = [], []
    for name in _files(folder, ""):
        (names if _ends_in(suffixes, name) else strays).append(name)
    return sorted(names), sorted(strays)


def _files(folder: str, below: str) -> Iterator[str]:
    """Yield the paths of the files below a folder, links followed, and of folders left behind, not entered."""
    here = os.path.join(folder, below)
    with os.scandir(here) as entries:
        for entry in entries:
            name = os.path.join(below, entry.name)
            if entry.is_symlink() and not os.path.exists(entry.path):
                yield f"{name} (a link to nothing)"  # which ends like no file of the kind
            elif not entry.is_dir() or is_left_behind(entry.name):
                yield name
            elif entry.is_symlink() and _is_inside(here, entry.path):
                raise ValueError(f"{entry.path} is a link to a folder that it lies in; remove it")
            else:
                yield from _files(folder, name)


def _is_inside(path: str, folder: str) -> bool:
    path, folder = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([path, folder]) == folder


def _ends_in(suffixes: tuple[str, ...], name: str) -> bool:
    return name.lower().endswith(suffixes) and not is_left_behind(os.path.basename(name))


def _count(names: Sequence[str], one: str, many: str) -> str:
    return f"{len(names):,} {one if len(names) == 1 else many}"
