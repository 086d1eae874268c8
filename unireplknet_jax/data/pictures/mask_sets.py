"""Pictures with masks, with random access: `open_source(data, split)`."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unireplknet_jax.data.base import listed, nearest
from unireplknet_jax.data.broken import Selected
from unireplknet_jax.data.classes import Renumbered
from unireplknet_jax.data.files import ListedFiles, Names, contents_of, natural_key
from unireplknet_jax.data.folder import class_folders, sorted_out
from unireplknet_jax.data.pictures.decode import SUFFIXES, read_image, upright_size
from unireplknet_jax.data.pictures.mask_classes import (
    MaskClasses,
    ade20k_classes,
    classes_of,
    distinct_colours,
    read_classes,
)
from unireplknet_jax.data.pictures.masks import MASK_SUFFIXES, Colour, read_mask, read_values

SOURCES = ("ade20k", "mask_folder", "hela", "scenes")
MASK_FOLDERS = ("masks", "annotations", "labels")
_ADE20K = {"train": "training", "val": "validation"}
_IGNORE = 255  # the usual value of pixels without a class, which a list may give to a class all the same
_MOST_FOUND = 256  # different values of masks without a list of classes
_log = logging.getLogger(__name__)


def open_source(data: Mapping[str, Any], split: str, white: int = 0) -> Any:
    """Open a split of a set of pictures with masks. white: of deep grey pictures, as in `decode.read_image`.

    data["name"]:
    - "ade20k": data["dir"] is ADEChallengeData2016, with images/{training,validation} and the same in annotations/;
      "train" and "val" mean these, too. 150 classes; a file's value 0 is no class.
    - "mask_folder": one's own files, DIR/SPLIT/images and DIR/SPLIT/masks, or DIR/images/SPLIT and DIR/masks/SPLIT;
      "masks" may be called "annotations" or "labels". A picture and its mask have the same name but for the ending.
      The classes are those of DIR/classes.csv or DIR/classes.txt (`mask_classes.read_classes`), or of the file
      data["classes"]; without one they are the values in the masks of the training split, which is said in the log.
    - "hela": cells under a microscope, with computed masks (`hela.open_hela`). data["dir"]: the wheel, or its folder.
    - "scenes": synthetic (`scenes.open_scenes`). data["dir"]: the folder of Fashion-MNIST.

    For files data may have "reduce_zero_label" (True: the value 0 is no class, and the classes of a list without values
    begin at 1), "ignore" (the value of pixels without a class, 255; -1: none) and "train_split" (where the classes are
    looked for).

    Example i is {"image": (h, w, 3) uint8, "label_map": (h, w) int16, -1 where there is no class, "path", "id"}. Of
    files the path is the picture's, and the id its path below its folder; other sets have a number and no path.
    Where a file is broken, or the sizes of the two differ, the example is {"path", "id", "broken": the sentence that
    says why}: `masks.whole` raises that, `masks.why_broken` returns it.
    The source has `labels`, `colours` and `values`, those of each class, and `sizes()`.

    Raises ValueError, one sentence, for an unknown name or split, and where pictures or masks are missing.
    """
    name, folder = data["name"], data.get("dir") or None
    if name not in SOURCES:
        raise ValueError(f"there is no source of masks {name!r}; {nearest(name, SOURCES)}")
    if "://" in str(folder):
        raise ValueError(f"the data of {name} are files in a folder, and {folder} is none; mount the bucket first")
    root = None if folder is None else Path(folder).expanduser()
    if name == "hela":
        from unireplknet_jax.data.pictures.hela import open_hela

        return open_hela(split, root)
    if name == "scenes":
        from unireplknet_jax.data.pictures.scenes import open_scenes

        return open_scenes(split, root)
    zero = data.get("reduce_zero_label")
    if not isinstance(zero, bool | None):
        raise ValueError(f"data.reduce_zero_label is {zero!r}; expected True, where the value 0 is no class, or False")
    for field in ("classes", "train_split"):
        if not isinstance(data.get(field), str | os.PathLike | None):
            raise ValueError(f"data.{field} is {data[field]!r}; expected a text, the name of a file or of a split")
    if root is None:
        raise ValueError(f"{name} reads files; give their folder as data.dir")
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}; expected one that holds pictures and masks")
    open_files = _open_ade20k if name == "ade20k" else _open_folder
    return open_files(root, split, data, white)


@dataclass(frozen=True, eq=False)
class MaskFiles:
    """Pictures and their masks as files; picklable. ignored: the values of pixels without a class."""

    pictures: ListedFiles
    masks: ListedFiles
    classes: MaskClasses
    ignored: tuple[int, ...]
    white: int = 0

    @property
    def labels(self) -> tuple[str, ...]:
        return self.classes.labels

    @property
    def colours(self) -> tuple[Colour, ...]:
        return self.classes.colours

    @property
    def values(self) -> tuple[int, ...]:
        return self.classes.values

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        example: dict[str, Any] = {"path": self.pictures.path(index), "id": self.pictures.names[index]}
        picture, mask = self.pictures.read(index), self.masks.read(index)
        classes = self.classes
        try:
            image = np.asarray(read_image(picture, self.white))
            colours = classes.colours if classes.coloured else None
            label_map = read_mask(mask, classes.values, colours, self.ignored, classes.ignored_colours)
        except ValueError as error:
            return {**example, "broken": str(error)}
        if image.shape[:2] != label_map.shape:
            return {**example, "broken": _other_size(picture.name, mask.name, image.shape[:2], label_map.shape)}
        return {"image": image, "label_map": label_map, **example}

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every picture, from the heads of the files; (1, 1) of one that cannot be read."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda index: upright_size(self.pictures.read(index)), range(len(self))))

    def contents(self) -> dict[str, list[int]]:
        """As `data.base.Source` says."""
        found = {"pictures": self.pictures.names, "masks": self.masks.names}
        return {kind: contents_of(names, [kind] * len(names))[kind] for kind, names in found.items()}


def sizes_of(source: Any) -> list[tuple[int, int]]:
    """(height, width) of every picture of a source, also where examples are left out or classes have other numbers."""
    if isinstance(source, Renumbered):
        return sizes_of(source.source)
    if isinstance(source, Selected):
        sizes = sizes_of(source.source)
        return [sizes[index] for index in source.indices.tolist()]
    return source.sizes()


def _other_size(picture: str, mask: str, size: tuple[int, ...], other: tuple[int, ...]) -> str:
    turned = "; one of them is turned by its EXIF tag" if size == other[::-1] else ""
    return (
        f"{picture} has {size[1]}x{size[0]} pixels, but its mask {mask} has {other[1]}x{other[0]}{turned}; give both "
        "the same size"
    )


def _open_ade20k(root: Path, split: str, data: Mapping[str, Any], white: int) -> MaskFiles:
    nested = root / "ADEChallengeData2016"
    root = nested if nested.is_dir() else root
    zero = data.get("reduce_zero_label")
    if zero is not None and not zero:
        raise ValueError("the value 0 of ADE20K is no class, so data.reduce_zero_label is True; use mask_folder else")
    pictures, masks = _listed(root, _ADE20K.get(split, split))
    return MaskFiles(pictures, masks, ade20k_classes(), _ignored(data, 0), white)


def _open_folder(root: Path, split: str, data: Mapping[str, Any], white: int) -> MaskFiles:
    pictures, masks = _listed(root, split)
    zero = bool(data.get("reduce_zero_label"))
    ignored = _ignored(data, *[0] * zero)
    path = data.get("classes")
    classes = read_classes(Path(path).expanduser(), int(zero)) if path else classes_of(root, int(zero))
    if classes is None:
        train = data.get("train_split") or "train"
        where = masks if split == train or not _folders(root, train) else _listed(root, train)[1]
        classes = _found_classes(where, ignored)
    for value in {*ignored} & {*classes.values} - {_IGNORE}:
        name = classes.labels[classes.values.index(value)]
        option = "reduce_zero_label" if zero and value == 0 else "ignore"
        raise ValueError(f"the class list of {root} gives {name} the value {value}, which data.{option} ignores")
    return MaskFiles(pictures, masks, classes, ignored, white)


def _ignored(data: Mapping[str, Any], *others: int) -> tuple[int, ...]:
    ignore = data.get("ignore", _IGNORE)
    if not isinstance(ignore, int) or isinstance(ignore, bool) or ignore < -1:
        raise ValueError(f"data.ignore is {ignore!r}; expected the value of pixels without a class, or -1 for none")
    return tuple(dict.fromkeys((*others, *([ignore] if ignore >= 0 else []))))


def _listed(root: Path, split: str) -> tuple[ListedFiles, ListedFiles]:
    """(pictures, masks) of a split, 2 before 10; ValueError where one of a pair is missing."""
    folders = _folders(root, split)
    if folders is None:
        masks = " or ".join(MASK_FOLDERS)
        raise ValueError(
            f"{root} has no split {split!r}: neither {split}/images with {split}/{MASK_FOLDERS[0]} nor images/{split} "
            f"with {MASK_FOLDERS[0]}/{split} is there (masks are in {masks}); the folders in it are: "
            f"{listed(class_folders(root)[0]) or 'none'}"
        )
    places = [*map(str, folders)]
    found = [_by_stem(*each) for each in zip(places, (SUFFIXES, MASK_SUFFIXES), ("pictures", "masks"), strict=True)]
    stems = sorted(found[0], key=natural_key)
    for own, other, kind in ((0, 1, "mask"), (1, 0, "picture")):
        alone = sorted({*found[own]} - {*found[other]}, key=natural_key)
        if alone:
            name = os.path.join(places[own], found[own][alone[0]])
            more = f" (nor have {len(alone) - 1:,} others)" if len(alone) > 1 else ""
            ending = MASK_SUFFIXES[0] if kind == "mask" else ".jpg"
            raise ValueError(
                f"{name} has no {kind}{more}; expected {os.path.join(places[other], alone[0] + ending)}"
                f"{' (masks are PNG or TIFF)' if kind == 'mask' else ''}"
            )
    if not stems:
        raise ValueError(f"{places[0]} has no pictures; expected files like *{SUFFIXES[0]}")
    pictures, masks = (
        ListedFiles(place, Names([names[stem] for stem in stems])) for place, names in zip(places, found, strict=True)
    )
    return pictures, masks


def _folders(root: Path, split: str) -> tuple[Path, Path] | None:
    """The folders of the pictures and of the masks of a split; None where there are none."""
    for kind in MASK_FOLDERS if split else ():
        for pictures, masks in (
            (root / split / "images", root / split / kind),
            (root / "images" / split, root / kind / split),
        ):
            if pictures.is_dir() and masks.is_dir():
                return pictures, masks
    return None


def _by_stem(folder: str, suffixes: tuple[str, ...], kind: str) -> dict[str, str]:
    """{path without its ending: path} of the files below a folder."""
    names, strays = sorted_out(folder, suffixes)
    if strays:
        _log.warning("%s: passed over as no %s: %s", folder, kind, listed(strays))
    found: dict[str, str] = {}
    for name in names:
        stem = os.path.splitext(name)[0]
        if stem in found:
            raise ValueError(f"{folder} has {found[stem]} and {name}, two {kind} of one name; keep one")
        found[stem] = name
    return found


def _found_classes(masks: ListedFiles, ignored: tuple[int, ...]) -> MaskClasses:
    """The values in masks as classes; all are read once."""
    paths = [masks.path(index) for index in range(len(masks))]
    stats = [os.stat(path) for path in paths]
    found = _values_in(tuple(paths), tuple((stat.st_mtime_ns, stat.st_size) for stat in stats))
    values = tuple(value for value in found if value not in ignored)
    if len(values) > _MOST_FOUND:
        raise ValueError(
            f"the masks in {masks.folder} hold {len(values):,} different values, more than classes have; if these "
            "number objects they are no masks of classes, else name the classes in classes.csv"
        )
    if len(values) < 2:
        raise ValueError(
            f"the masks in {masks.folder} hold {f'only the value {values[0]}' if values else 'no value'} besides "
            f"{listed([*map(str, ignored)]) or 'none'}, which is ignored; if that is a class, give data.ignore=-1 or a "
            "list classes.csv"
        )
    _log.warning(
        "%s: there is no classes.csv, so the values of the masks are the classes: %s%s",
        *(
            masks.folder,
            listed([*map(str, values)], 20),
            f"; {listed([*map(str, ignored)])} is ignored" * bool(ignored),
        ),
    )
    return MaskClasses(tuple(map(str, values)), values, distinct_colours(len(values)))


@functools.lru_cache(maxsize=4)
def _values_in(paths: tuple[str, ...], stamps: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """The sorted values of all pixels of mask files; stamps: when they were written, and how long they are."""
    del stamps
    _log.info("reading %d masks for the values in them", len(paths))

    def values(path: str) -> set[int]:
        found = read_values(path)
        if found.ndim == 3 and (found != found[..., :1]).any():
            colours = np.unique(found.reshape(-1, 3), axis=0)
            texts = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in colours.tolist()]
            raise ValueError(
                f"{path} is a mask of colours ({listed(texts)}), and there is no classes.csv; name the classes there, "
                f"such as road,0,{texts[-1]}"
            )
        return {*np.unique(found).tolist()}

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return tuple(sorted(set().union(*pool.map(values, paths))))
