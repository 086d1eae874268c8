"""Labelled videos with random access: `open_videos(name, split)`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unireplknet_jax.data.base import listed, nearest
from unireplknet_jax.data.classes import places_among
from unireplknet_jax.data.clips.lists import SUFFIXES, read_list
from unireplknet_jax.data.clips.moving_shapes import shapes_folder
from unireplknet_jax.data.files import LabelledFiles, Names
from unireplknet_jax.data.folder import open_folder
from unireplknet_jax.data.label_names import read_label_file

SOURCES = ("video_folder", "video_csv", "moving_shapes")


def open_videos(name: str, split: str, data_dir: str | Path | None = None) -> LabelledFiles:
    """Open a split of a labelled set of videos.

    name:
    - "video_folder": the files data_dir/split/class/video, as the source "folder" of pictures.
    - "video_csv": the lists data_dir/split.csv of paths and labels (`data.clips.lists.read_list`). Paths that are not
      absolute lie below data_dir. Labels that are all whole numbers are class indices, named by the lines of
      data_dir/labels.txt, if there is one; otherwise the classes are the sorted names in data_dir/train.csv.
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
    names, found = read_list(path, split)
    labels, numbered = _classes(folder, found)
    distinct = sorted({*found})
    places = places_among([*map(str, range(len(labels)))] if numbered else labels, distinct)
    index = dict(zip(distinct, places, strict=True))
    targets = [index[label] for label in found]
    wrong = [label for label, place in index.items() if place is None]
    if wrong:
        raise ValueError(
            f"{path} has the unknown label {listed(wrong)}; expected one of the {len(labels)} classes: {listed(labels)}"
        )
    return LabelledFiles(str(folder), Names(names), np.array(targets, np.int32), labels)


def _classes(folder, found):
    """(class names, whether the lists have their numbers); found: the labels of one list."""
    train, named = folder / "train.csv", folder / "labels.txt"
    known = read_list(train)[1] if train.is_file() else found
    numbers = all(label.isdecimal() for label in known)
    if named.is_file():
        labels = read_label_file(named)
        if len({*labels}) < len(labels):
            raise ValueError(f"{named} names a class twice; expected another name in every line")
    else:
        labels = tuple(map(str, range(1 + max(map(int, known))))) if numbers else tuple(sorted({*known}))
    return labels, numbers
