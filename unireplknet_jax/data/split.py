"""A folder of class folders divided into splits: what `data.folder` reads, made of links to the files."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unireplknet_jax.data.base import listed
from unireplknet_jax.data.files import natural_key, staging
from unireplknet_jax.data.folder import SPLITS, class_folders, sorted_out


@dataclass(frozen=True)
class Division:
    """What was written. counts: {split: {class: files}}; how: "symbolic links", "hard links" or "copies"."""

    counts: Mapping[str, Mapping[str, int]]
    how: str
    passed_over: Sequence[str]


def split_folder(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    shares: Mapping[str, float],
    kinds: Sequence[tuple[str, ...]],
    seed: int = 0,
    group: str | None = None,
    copy: bool = False,
) -> Division:
    """Write target/SPLIT/CLASS/FILE for the files source/CLASS/FILE, whole or not at all; the source stays as it is.

    shares: of the files of every class, which each split but "train" gets: the nearest whole number, one at least.
    "train" gets the rest. kinds: how the names of files end, for each kind of data; that of most files is taken, and
    what is of another kind, or was left by a system, is passed over.
    seed: which files go where is a function of it and of a class's name and files alone.
    group: a regular expression. Files of a class in which it finds the same text (its first group, where it has one)
    stay in one split; splits are then as near to their shares as that allows. A file without a match is alone.
    copy: files instead of symbolic links, which are otherwise made, or hard links, or copies, whichever can be.

    Raises ValueError where the source is no folder of classes or is split already, and for classes with too few files,
    FileExistsError where there is something at the target.
    """
    source, target = Path(source), Path(target)
    pattern = _checked(shares, group)
    _check_places(source, target)
    labels, strays = class_folders(source)
    if not labels:
        raise ValueError(f"{source} has no class folders; expected one folder for each class, with its files in it.")
    if {*labels} & {*SPLITS} and "train" in labels:
        raise ValueError(f"{source} is split already: it has {listed(labels)}; give it as it is, as data_dir.")
    chosen: dict[str, dict[str, list[str]]] = {split: {} for split in ("train", *shares)}
    short = []
    everything = {label: sorted_out(str(source / label), ("",)) for label in labels}
    names = [name for found, _ in everything.values() for name in found]
    kind = max(kinds, key=lambda kind: sum(name.lower().endswith(kind) for name in names))
    for label, (found, others) in everything.items():
        names = [name for name in found if name.lower().endswith(kind)]
        others += [name for name in found if not name.lower().endswith(kind)]
        strays += [os.path.join(label, name) for name in others]
        if not names:
            strays.append(f"{label} (without a file)")
            continue
        for split, own in _divided(names, shares, _generator(seed, label), pattern).items():
            chosen[split][label] = own
            if not own:
                short.append(f"{label} ({len(names):,})")
    if not chosen["train"]:
        raise ValueError(f"{source} has no file that can be read in its class folders, only {listed(strays)}.")
    if short:
        what = "files" if pattern is None else "groups of files"
        raise ValueError(
            f"too few {what} for {len(chosen)} splits in the class {listed([*dict.fromkeys(short)])}; each split needs "
            "one. Add some, leave the class out, or ask for fewer splits."
        )
    with staging(target) as folder:
        how = _write(source, folder, chosen, copy)
    counts = {split: {label: len(own) for label, own in by_label.items()} for split, by_label in chosen.items()}
    return Division(counts, how, strays)


def _checked(shares: Mapping[str, float], group: str | None) -> re.Pattern[str] | None:
    for split, share in shares.items():
        if not 0 < share < 1:
            raise ValueError(f"the share of {split} is {share:g}; expected a number between 0 and 1, such as 0.2.")
    if sum(shares.values()) >= 1:
        raise ValueError(f"the shares of {' and '.join(shares)} leave nothing for train; lower them.")
    try:
        return None if group is None else re.compile(group)
    except re.error as error:
        raise ValueError(f"{group!r} is no regular expression ({error}); expected one such as '^[^_]+'.") from None


def _check_places(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise ValueError(f"there is no folder {source}; expected one that holds a folder for each class.")
    inner, outer = Path(os.path.realpath(target)), Path(os.path.realpath(source))
    if inner == outer or outer in inner.parents:
        raise ValueError(f"{target} lies in {source}, which is to stay as it is; choose a folder beside it.")
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{target} exists already; remove it, or choose another name.")


def _generator(seed: int, label: str) -> np.random.Generator:
    return np.random.default_rng([seed, *os.fsencode(label)])


def _divided(
    names: Sequence[str], shares: Mapping[str, float], rng: np.random.Generator, pattern: re.Pattern[str] | None
) -> dict[str, list[str]]:
    """{split: the names of a class that go there}; a split may be empty where there are too few."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names, key=natural_key):
        groups.setdefault(_group_of(name, pattern), []).append(name)
    order = [[*groups.values()][index] for index in rng.permutation(len(groups))]
    found: dict[str, list[str]] = {}
    for split, share in shares.items():
        wanted, own = max(1, round(share * len(names))), []
        while order and (not own or len(own) + len(order[-1]) / 2 <= wanted):
            own += order.pop()
        found[split] = own
    found["train"] = [name for members in order for name in members]
    return found


def _group_of(name: str, pattern: re.Pattern[str] | None) -> str:
    match = pattern and pattern.search(name)
    if not match:
        return f"file {name}"
    return f"group {match.group(1 if match.re.groups else 0)}"


def _write(source: Path, folder: Path, chosen: Mapping[str, Mapping[str, Sequence[str]]], copy: bool) -> str:
    """Write the files of all splits, by the first way that works for the first of them; how it is called."""
    ways = dict(_WAYS[-1:] if copy else _WAYS)
    for split, by_label in chosen.items():
        for label, names in by_label.items():
            for name in names:
                place = folder / split / label / name
                place.parent.mkdir(parents=True, exist_ok=True)
                ways = _linked(os.path.abspath(source / label / name), place, ways)
    return next(iter(ways))


def _linked(path: str, place: Path, ways: dict[str, Callable[..., object]]) -> dict[str, Callable[..., object]]:
    """Make `place` of the file at `path`; the ways that are left, the one that worked first."""
    name, way = next(iter(ways.items()))
    others = {other: ways[other] for other in ways if other != name}
    try:
        way(path, place)
        return ways
    except (OSError, NotImplementedError):
        if not others:
            raise
    place.unlink(missing_ok=True)
    return _linked(path, place, others)


_WAYS: tuple[tuple[str, Callable[..., object]], ...] = (
    ("symbolic links", os.symlink),
    ("hard links", os.link),
    ("copies", shutil.copyfile),
)
