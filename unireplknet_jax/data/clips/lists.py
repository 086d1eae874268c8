"""Lists of videos and their labels, as VideoMAE, spreadsheets and Kinetics itself write them."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from unireplknet_jax.data.base import listed
from unireplknet_jax.data.text import lines_of

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv"),
    *(".3gp", ".ogv", ".gif", ".y4m"),
)
_PATHS = ("path", "file", "filename", "file_name", "filepath", "video", "video_path", "video_name", "video_id", "clip")
_LABELS = ("label", "class", "class_name", "category", "target", "label_name", "class_id", "label_id", "class_index")
_KINETICS = ("label", "youtube_id", "time_start", "time_end")
_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d*)?")
_CLASS = re.compile(r"\+?(\d{1,9})(?:[.,]0*)?")
MOST_CLASSES = 1_000_000  # that numbers may stand for
_log = logging.getLogger(__name__)


def read_list(path: Path, split: str | None = None) -> tuple[Sequence[str], Sequence[str]]:
    """(paths, labels) of the list of a split, as they are written there.

    A line is a path, a separator and a label. The separator is one for the whole list: a tab, semicolon, comma or
    blanks, whichever leaves most paths with the ending of a video; quotes are those of CSV files. The label follows the
    last separator, so a path may hold it. A header of known words ("path,label") names the columns.
    Lists of Kinetics (label, youtube_id, time_start, time_end, ...) stand for the files
    ID_000084_000094.mp4, in data_dir/SPLIT or data_dir; those that are not there are counted in the log, or taken to be
    there if no split is given.

    Labels that are all whole numbers come without zeros before them and fractions of zeros ("01" and "1.0" are "1").

    Raises ValueError, with its line, for one without a path or a label, for a number among names of classes, and for a
    number that is no class, such as -1, which stands for none in some lists.
    """
    if not path.is_file():
        found = listed(sorted(each.name for each in path.parent.glob("*.csv"))) or "none"
        raise ValueError(f"there is no list {path}; the lists there are: {found}")
    expected = "a list with a path and a label in every line"
    lines = [(number, line.strip()) for number, line in enumerate(lines_of(path, expected), 1)]
    lines = [(number, line) for number, line in lines if line]
    separator = _separator(lines)
    rows = [(number, line, _cells(line, separator)) for number, line in lines]
    header = [cell.lower() for cell in rows[0][2]] if rows else []
    if {*_KINETICS} <= {*header}:
        return _kinetics(rows, header, path, split)
    columns = [next((header.index(word) for word in words if word in header), None) for words in (_PATHS, _LABELS)]
    if header and (None not in columns or (header[-1] in _LABELS and not header[0].endswith(SUFFIXES))):
        del rows[0]
    names, labels = [], []
    for number, line, cells in rows:
        if None not in columns and len(cells) == len(header):
            name, label = (cells[column] for column in columns)
        elif None not in columns and len(header) > 2:
            raise ValueError(f"line {number} of {path} has {len(cells)} fields, but its header has {len(header)}")
        else:
            name, label = _path_and_label(line, cells, separator)
        if not name or not label:
            raise ValueError(
                f"line {number} of {path} is {line[:80]!r}; expected a path, a comma or blank, and a label"
            )
        names.append(name)
        labels.append(label)
    if not names:
        raise ValueError(f"{path} lists no videos; expected a path and a label in every line")
    return names, _as_numbers(labels, rows, path)


def _separator(lines: Sequence[tuple[int, str]]) -> str | None:
    """The tab, semicolon or comma that leaves most paths with the ending of a video; None for blanks."""

    def fitting(mark: str | None) -> float:
        split = [_cells(line, mark) for _, line in lines[:1000]]
        return sum(
            (mark or " ").join(cells[:-1]).lower().endswith(SUFFIXES) + 0.5 * (len(cells) > 1) for cells in split
        )

    return max(("\t", ";", ",", None), key=fitting)  # the first of equals


def _cells(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return [cell.strip().strip('"') for cell in line.rsplit(None, 1)]
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]
    except csv.Error:  # of a field that is too long for it, say
        return [line]


def _path_and_label(line: str, cells: list[str], separator: str | None) -> tuple[str, str]:
    """The label is the last cell; the path is all before it, as it stands there, for it may hold the separator."""
    if len(cells) <= 2 or '"' in line:
        return (separator or " ").join(cells[:-1]), cells[-1]
    return line.rsplit(separator, 1)[0].strip(), cells[-1]


def _kinetics(rows, header, path, split):
    root = path.parent
    folder = root / split if split and (root / split).is_dir() else root
    there = {file.name for file in folder.iterdir()} if split else None
    names, labels, absent = [], [], []
    for number, line, cells in rows[1:]:
        row = dict(zip(header, cells, strict=False))
        try:
            start, end = (int(float(row[name])) for name in ("time_start", "time_end"))
            stem, label = f"{row['youtube_id']}_{start:06d}_{end:06d}", row["label"]
        except (KeyError, ValueError, OverflowError):
            raise ValueError(f"line {number} of {path} is {line[:80]!r}; expected {', '.join(_KINETICS)}") from None
        file = next((stem + suffix for suffix in SUFFIXES if there is None or stem + suffix in there), None)
        if file is None:
            absent.append(stem)
            continue
        names.append(str((folder / file).relative_to(root)))
        labels.append(label)
    if not names:
        raise ValueError(
            f"none of the {len(absent):,} videos of {path} is in {folder}, where the first was expected as "
            f"{absent[0] if absent else 'ID_START_END'}.mp4"
        )
    if absent:
        _log.warning("%s: %d of its videos are not in %s: %s", path, len(absent), folder, listed(absent))
    return names, labels


def _as_numbers(labels, rows, path):
    """Labels, those that are all numbers in one form; ValueError where one was read from a wrong place or is no class.

    Raises ValueError where some labels are numbers and others words: some were read from a wrong place.
    """
    numbers = [bool(_NUMBER.fullmatch(label)) for label in labels]
    words = [any(map(str.isalpha, label)) for label in labels]
    if any(numbers) and any(words):
        odd, what = (numbers, "a number among names") if sum(numbers) <= sum(words) else (words, "a name among numbers")
        _refuse(rows[odd.index(True)], path, what)
    if not all(numbers):
        return labels
    whole = [_CLASS.fullmatch(label) for label in labels]
    if not all(whole):
        _refuse(rows[whole.index(None)], path, "no number of a class")
    found = [int(match[1]) for match in whole]
    if max(found) >= MOST_CLASSES:
        _refuse(rows[found.index(max(found))], path, "no number of a class")
    return [str(number) for number in found]


def _refuse(row, path, what):
    number, line, _ = row
    raise ValueError(
        f"line {number} of {path} is {line[:80]!r}, whose label is {what}; give all classes by their names, or all by "
        "whole numbers from 0"
    )
