"""Pictures with boxes around objects, and masks of them where the files have any: `open_source(data, split)`."""

from __future__ import annotations

import importlib
import logging
import os
import types
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unireplknet_jax.data.base import listed, nearest
from unireplknet_jax.data.broken import Selected
from unireplknet_jax.data.classes import Renumbered
from unireplknet_jax.data.files import ListedFiles, Names, contents_of
from unireplknet_jax.data.pictures import instance_masks
from unireplknet_jax.data.pictures.box_annotations import (
    LEAST_SIDE,
    MOST_PIXELS,
    Annotations,
    Store,
    check_once,
    entries,
)
from unireplknet_jax.data.pictures.box_files import class_list, given, only
from unireplknet_jax.data.pictures.decode import read_image, stored_size, upright_size

_READERS = {
    "coco": "coco_boxes",
    "yolo": "yolo_boxes",
    "voc": "voc_boxes",
    "labelme": "labelme_boxes",
    "csv": "csv_boxes",
}
SOURCES = ("boxes", *_READERS)  # of files
SETS = ("scenes", "hela", "trees")  # to try
_log = logging.getLogger(__name__)


def open_source(data: Mapping[str, Any], split: str, white: int = 0) -> Any:
    """Open a split of a set of pictures with boxes. white: of deep grey pictures, as in `decode.read_image`.

    data["name"] says how the annotations in the folder data["dir"] are written; "boxes" looks for it.
    - "coco": COCO's JSON (`coco_boxes`). - "yolo": a text for each picture (`yolo_boxes`).
    - "voc": Pascal VOC's XML for each picture (`voc_boxes`). - "labelme": LabelMe's JSON for each (`labelme_boxes`).
    - "csv": one table of boxes (`csv_boxes`).
    Each of these files says where it looks. Options: "annotations" and "pictures" name the file or folder of either, a
    path below data["dir"] or any other, in which {split} is the split; "classes" names a list of classes, one a line,
    and only these are used, in that order; "train_split" says where classes are looked for that no list names.

    Three sets are there to try, of which data["dir"] may be "":
    - "scenes": synthetic (`scenes.open_box_scenes`). data["dir"]: the folder of Fashion-MNIST.
    - "hela": cells under a microscope, with computed masks (`hela.open_hela_boxes`). data["dir"]: the wheel, or its
      folder. - "trees": boxes around trees in aerial photographs (`trees.open_trees`); data["dir"] likewise.

    Example i is {"image": (h, w, 3) uint8, "boxes": (k, 4) float32, x1, y1, x2, y2 in pixels, "labels": (k,) int32,
    "crowd", "trained": (k,) bool, "masks": a list of what `instance_masks` reads, None where the data have boxes alone,
    "path", "id"}; besides, for COCO's metrics, "areas": (k,) float64 and "unrounded": the boxes as (k, 4) float64.
    Of a picture that lies on its side on the disk, while its annotations are those of the file as it is stored, boxes
    are turned with it, and "orientation" says how masks are to be.
    Where a file is broken, or a picture has another size than its annotations say, the example is {"path", "id",
    "broken": the sentence that says why}: `whole` raises that.

    Raises ValueError, one sentence, for an unknown name or split, for annotations that say nothing clear, and where
    pictures or annotations are missing.
    """
    name, folder = data["name"], data.get("dir") or None
    if name not in (*SOURCES, *SETS):
        raise ValueError(f"there is no source of boxes {name!r}; {nearest(name, (*SOURCES, *SETS))}")
    if folder is None and name in SOURCES:
        raise ValueError(f"{name} reads files; give their folder as data.dir")
    if "://" in str(folder):
        raise ValueError(f"the data of {name} are files in a folder, and {folder} is none; mount the bucket first")
    root = None if folder is None else Path(folder).expanduser()
    if root is None or name in SETS:
        return _open_set(name, split, root)
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}; expected one that holds pictures and their annotations")
    reader = _found(root, split, data) if name == "boxes" else _reader(name)
    annotations = reader.read(root, split, data)
    listed_ones = given(root, split, data, "classes")
    if listed_ones is not None and reader.NAMES_CLASSES:
        annotations = only(annotations, class_list(listed_ones) or (), listed_ones)
    for what, where in annotations.odd.items():
        _log.warning("%s: %s: %s", annotations.origin, what, listed(where))
    return source_of(annotations, white)


def _open_set(name: str, split: str, place: Path | None) -> Any:
    if name == "scenes":
        from unireplknet_jax.data.pictures.scenes import open_box_scenes

        return open_box_scenes(split, place)
    if name == "hela":
        from unireplknet_jax.data.pictures.hela import open_hela_boxes

        return open_hela_boxes(split, place)
    from unireplknet_jax.data.pictures.trees import open_trees

    return open_trees(split, place)


def source_of(annotations: Annotations, white: int = 0) -> BoxFiles:
    """The source of what a reader found; ValueError where pictures are missing or stand twice, or there are none."""
    pictures, origin = annotations.pictures, annotations.origin
    if not pictures:
        raise ValueError(f"{origin} has no pictures; expected one at least")
    if not annotations.labels:
        raise ValueError(f"{origin} has no classes; expected one at least")
    check_once(pictures, origin)
    for picture in pictures:
        if not _is_encodable(picture.name):
            raise ValueError(f"{origin} has the picture {picture.name!r}, which is no name of a file")
    files = ListedFiles(annotations.folder, Names([picture.name for picture in pictures]))
    missing = _missing(files)
    if missing:
        more = f" (nor are {len(missing) - 1:,} others)" if len(missing) > 1 else ""
        raise ValueError(f"{missing[0]} is not there, though {origin} has it{more}; data.pictures names the folder")
    boxes = [thing.box for picture in pictures for thing in picture.things]
    if boxes and not annotations.relative and all(0 <= value <= 1 for box in boxes for value in box):
        raise ValueError(f"{origin} has no box beyond the first pixel; expected pixels, not shares of the picture")
    for picture in pictures:
        for thing in picture.things:
            if not all(abs(value) <= MOST_PIXELS for value in thing.box):
                box = ", ".join(f"{value:g}" for value in thing.box)
                raise ValueError(
                    f"{origin} has a box at {box} of {picture.name}; expected pixels, up to {MOST_PIXELS:,}"
                )
    numbers = [picture.name if picture.number is None else picture.number for picture in pictures]
    odd = {what: tuple(where) for what, where in annotations.odd.items()}
    return BoxFiles(
        files, Store(pictures), annotations.labels, annotations.category_ids, tuple(numbers), origin,
        annotations.relative, odd, white,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class BoxFiles:
    """Pictures as files, and their objects; picklable.

    category_ids: what stands for each class in the files; numbers: the id of each picture; relative: the store has
    coordinates as shares of the pictures; odd: {what was passed over or mended: where}.
    """

    pictures: ListedFiles
    store: Store
    labels: tuple[str, ...]
    category_ids: tuple[int, ...]
    numbers: tuple[int | str, ...]
    origin: str
    relative: bool
    odd: Mapping[str, tuple[str, ...]]
    white: int = 0

    @property
    def has_masks(self) -> bool:
        """Whether any object has a mask."""
        return self.store.has_masks

    @property
    def most_objects(self) -> int:
        """The most objects that a picture has."""
        return int(self.store.counts().max())

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        example: dict[str, Any] = {"path": self.pictures.path(index), "id": self.numbers[index]}
        file = self.pictures.read(index)
        try:
            image = np.asarray(read_image(file, self.white))
            orientation = self._orientation(index, file, image.shape[:2])
        except ValueError as error:
            return {**example, "broken": str(error)}
        return {"image": image, **self.objects(index, image.shape[:2], orientation), **example}

    def objects(self, index: int, size: tuple[int, int], orientation: int = 1) -> dict[str, Any]:
        """The entries of an example beside its picture, which has `size` (h, w) when it is upright."""
        span, store = self.store.span(index), self.store
        boxes, areas, masks = store.boxes[span], store.areas[span], self.store.masks(index)
        if self.relative:
            boxes, areas = boxes * np.array([*size[::-1], *size[::-1]]), areas * (size[0] * size[1])
            masks = masks and [mask and [_scaled(each, size) for each in mask] for mask in masks]
        if orientation != 1:
            corners = instance_masks.upright_points(boxes.reshape(-1, 2), size, orientation).reshape(-1, 2, 2)
            boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=-1)
        found = entries(boxes, store.labels[span], areas, store.crowd[span], store.ignored[span], masks, size)
        return found if orientation == 1 else found | {"orientation": orientation}

    def _orientation(self, index: int, file: bytes, size: tuple[int, int]) -> int:
        """The orientation that the annotations of a picture are to be turned by; ValueError where sizes do not fit."""
        stated = tuple(self.store.sizes[index].tolist())
        if not all(stated) or stated == size:
            return 1
        stored, orientation = stored_size(file)
        if stated == stored:
            return orientation
        turned = " and is turned by its EXIF tag" if orientation != 1 else ""
        raise ValueError(
            f"{self.pictures.path(index)} has {stored[1]}x{stored[0]} pixels{turned}, but {self.origin} says "
            f"{stated[1]}x{stated[0]}; annotate the picture as it is, or correct the width and height there"
        )

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every picture, from the heads of the files; (1, 1) of one that cannot be read."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda index: upright_size(self.pictures.read(index)), range(len(self))))

    def sides(self) -> np.ndarray:
        """(n,) the shorter side of every picture, as the annotations say where they say it of all."""
        known = self.store.sizes
        return known.min(axis=1) if known.all() else np.array([min(size) for size in self.sizes()])

    def filled(self) -> np.ndarray:
        """(n,) bool: whether a picture has an object."""
        return self.store.counts() > 0

    def contents(self) -> dict[str, list[int]]:
        """As `data.base.Source` says."""
        objects = {"objects": [len(self.store.boxes), self.store.checksum()]}
        return contents_of(self.pictures.names, ["pictures"] * len(self)) | objects


def origin_of(source: Any) -> Any:
    """The set behind a source of which examples are left out or classes have other numbers."""
    while isinstance(source, Selected | Renumbered):
        source = source.source
    return source


def whole(example: Mapping[str, Any]) -> Mapping[str, Any]:
    """An example of a source of boxes; ValueError where its file is broken."""
    if "broken" in example:
        raise ValueError(example["broken"])
    return example


def why_broken(example: Mapping[str, Any]) -> str | None:
    """The sentence that names the picture of an example and says what is wrong with it or a mask; None: nothing."""
    if "broken" in example or not example.get("masks"):
        return example.get("broken")
    try:
        for _ in instance_masks.pieces(example):
            pass
    except ValueError as error:
        return f"{example.get('path', example['id'])}: {error}"
    return None


def for_training(source: Any, data: Mapping[str, Any]) -> Any:
    """The source without the pictures that training leaves out.

    data: "keep_empty" (False) keeps pictures without an object, and "least_side" (32) is the shorter side in pixels
    that a picture has at least. Source: mmdetection 2.28.1, CocoDataset._filter_imgs.
    Raises ValueError where no picture is left.
    """
    keep_empty, least = bool(data.get("keep_empty")), data.get("least_side", LEAST_SIDE)
    if not isinstance(least, int) or least < 0:
        raise ValueError(f"data.least_side is {least!r}; expected a number of pixels, 0 or more")
    filled = source.filled()
    kept = np.flatnonzero((keep_empty | filled) & (source.sides() >= least))
    if not kept.size:
        raise ValueError(
            f"{source.origin} has no picture with an object and a side of {least} pixels; data.least_side and "
            "data.keep_empty say which are trained on"
        )
    if kept.size < len(source):
        empty = 0 if keep_empty else int((~filled).sum())
        _log.info(
            "%s: training leaves out %d of %d pictures, %d of them without objects",
            *(source.origin, len(source) - kept.size, len(source), empty),
        )
        return Selected(source, kept)
    return source


def _reader(name: str) -> types.ModuleType:
    return importlib.import_module(f"unireplknet_jax.data.pictures.{_READERS[name]}")


def _found(root: Path, split: str, data: Mapping[str, Any]) -> types.ModuleType:
    """The reader of what lies in a folder; ValueError where there is none, or more than one."""
    readers = {name: _reader(name) for name in _READERS}
    names = [name for name, reader in readers.items() if reader.is_there(root, split, data)]
    if len(names) != 1:
        kinds = "COCO's JSON, YOLO's texts, VOC's XML, LabelMe's JSON or a table of boxes"
        what = f"annotations as of {' and '.join(names)}" if names else f"no annotations of the split {split!r}"
        remedy = (
            f"give data.name={names[0]} or another"
            if names
            else f"expected {kinds} (docs/detection.md shows where); data.name=csv, say, tells what a table lacks"
        )
        raise ValueError(f"{root} has {what}; {remedy}")
    return readers[names[0]]


def _is_encodable(name: str) -> bool:
    """Whether a file can be called so: a JSON may have halves of letters."""
    try:
        return bool(os.fsencode(name))
    except UnicodeEncodeError:
        return False


def _missing(files: ListedFiles) -> list[str]:
    paths = [files.path(index) for index in range(len(files))]
    with ThreadPoolExecutor(16) as pool:  # which waits for the disk or the network
        there = list(pool.map(os.path.isfile, paths))
    return [path for path, is_there in zip(paths, there, strict=True) if not is_there]


def _scaled(polygon: Sequence[float], size: Iterable[int]) -> list[float]:
    height, width = size
    return [value * (height if number % 2 else width) for number, value in enumerate(polygon)]
