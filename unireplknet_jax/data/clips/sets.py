"""Labelled videos with random access: `open_videos(name, split)`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unireplknet_jax.data.base import listed, nearest
from unireplknet_jax.data.clips.moving_shapes import shapes_folder
from unireplknet_jax.data.files import LabelledFiles, Names
from unireplknet_jax.data.folder import open_folder

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv"),
    *(".3gp", ".ogv", ".gif", ".y4m"),
)
SOURCES = ("video_folder", "video_csv", "moving_shapes")


def open_videos(name: str, split: str, data_dir: str | Path | None = None) -> LabelledFiles:
    """Open a split of a labelled set of videos.

    name:
    - "video_folder": the files data_dir/split/class/video, as the source "folder" of pictures.
    - "video_csv": the lists data_dir/split.csv, of which each line is a path, a comma or blanks, and a label; the label
      is what follows the last of them, so a path may hold both. A first line that ends in "label" is a header. Paths
      that are not absolute lie below data_dir. Labels that are all whole numbers are class indices, named by the lines
      of data_dir/labels.txt, if there is one; otherwise the classes are the sorted names in data_dir/train.csv.
    - "moving_shapes": rendered on first use, see `data.clips.moving_shapes`; into data_dir, if given.

    Raises ValueError for an unknown name, a missing folder, split or list, a wrong line and an unknown label. Whether a
    video is there and whole shows when it is read.
    """
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if name == "moving_shapes":
        return _open_video_folder(split, shapes_folder(folder, split))
    if name == "video_folder":
        return _open_video_folder(split, folder)
    if name == "video_csv":
        return _open_lists(split, folder)
    raise ValueError(f"there is no source of videos {name!r}; {nearest(name, SOURCES)}")


def _open_video_folder(split, root):
    return open_folder(split, root, SUFFIXES, "video")


def _open_lists(split, folder):
    if folder is None or not folder.is_dir():
        raise ValueError(f"the lists of videos are data_dir/{split}.csv, but there is no folder {folder or 'given'}")
    path = folder / f"{split}.csv"
    names, found = _read_list(path)
    labels, index = _classes(folder, found)
    targets = [index.get(label, -1) for label in found]
    wrong = sorted({label for label, target in zip(found, targets, strict=True) if target < 0})
    if wrong:
        raise ValueError(
            f"{path} has the unknown label {listed(wrong)}; expected one of the {len(labels)} classes: {listed(labels)}"
        )
    return LabelledFiles(str(folder), Names(names), np.array(targets, np.int32), labels)


def _classes(folder, found):
    """(class names, {label as it stands in a list: class}); found: the labels of one list."""
    train, named = folder / "train.csv", folder / "labels.txt"
    known = _read_list(train)[1] if train.is_file() else found
    numbers = all(label.isdecimal() for label in known)
    if named.is_file():
        labels = tuple(line.strip() for line in _lines(named, "a name") if line.strip())
        if len({*labels}) < len(labels):
            raise ValueError(f"{named} names a class twice; expected another name in every line")
    else:
        labels = tuple(map(str, range(1 + max(map(int, known))))) if numbers else tuple(sorted({*known}))
    return labels, {str(i) if numbers else label: i for i, label in enumerate(labels)}


def _read_list(path: Path) -> tuple[Sequence[str], Sequence[str]]:
    """(paths, labels) of a list, as written there."""
    if not path.is_file():
        found = listed(sorted(each.name for each in path.parent.glob("*.csv"))) or "none"
        raise ValueError(f"there is no list {path}; the lists there are: {found}")
    names, labels = [], []
    for number, line in enumerate(_lines(path, "a path and a label"), 1):
        words = line.strip().rsplit("," if "," in line else None, 1)
        if not line.strip() or (number == 1 and words[-1].strip().lower() == "label"):
            continue
        name, label = (word.strip().strip('"') for word in (*words, "")[:2])
        if not name or not label:
            raise ValueError(
                f"line {number} of {path} is {line[:80]!r}; expected a path, a comma or blank, and a label"
            )
        names.append(name)
        labels.append(label)
    if not names:
        raise ValueError(f"{path} lists no videos; expected a path and a label in every line")
    return names, labels


def _lines(path, expected):
    try:
        return path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8; expected {expected} in every line") from error
