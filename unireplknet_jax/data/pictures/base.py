"""What every source of labelled pictures offers; the ones that keep them in memory and in files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from unireplknet_jax.data.base import Source
from unireplknet_jax.data.files import LabelledFiles


class ImageSource(Source, Protocol):
    """Random access to labelled pictures; picklable.

    Example i is {"image": picture, "label": int, "id": int}. The picture is a uint8 array (h, w, c) with c = 1 (grey)
    or 3 (RGB), or an `EncodedFile`: the bytes of a JPEG, PNG, ... file, which whoever needs the pixels decodes with
    `pictures.decode.read_image`. The label indexes `labels`.
    """


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Pictures in memory: images (n, h, w, c) uint8, targets (n,) and ids (n,) integer arrays."""

    images: np.ndarray
    targets: np.ndarray
    ids: np.ndarray
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "label": int(self.targets[index]), "id": int(self.ids[index])}

    def contents(self) -> dict[str, list[int]]:
        """As `data.base.Source` says: sets in memory are known by their name."""
        return {}


class PictureFiles(LabelledFiles):
    """Pictures as the bytes of their files; the id is the index."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        return {"image": self.read(index), "label": int(self.targets[index]), "id": index}
