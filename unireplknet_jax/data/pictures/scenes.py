"""Synthetic scenes: things to wear out of Fashion-MNIST, coloured, on parts of photographs, with exact masks.

`Scenes` have the class of every pixel, `BoxScenes` each item for itself.

Nobody took these pictures: a number that is measured on them says that learning works, and no more. The classes are
those of Fashion-MNIST, of which T-shirt, pullover, coat and shirt are one, as classifiers confuse them.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unireplknet_jax.data.base import check_split
from unireplknet_jax.data.pictures.box_arrays import objects_of, with_mask
from unireplknet_jax.data.pictures.decode import picture_of
from unireplknet_jax.data.pictures.fashion_mnist import open_fashion_mnist
from unireplknet_jax.data.pictures.instance_masks import cropped
from unireplknet_jax.data.pictures.mask_classes import distinct_colours
from unireplknet_jax.data.pictures.mask_transforms import resize_to

LABELS = ("background", "top", "trousers", "dress", "sandal", "sneaker", "bag", "ankle boot")
CLASSES = (1, 2, 1, 3, 1, 4, 1, 5, 6, 7)  # of the ten of Fashion-MNIST
COUNTS = {"train": 4000, "test": 400}
SIZE = 128  # pixels of a side
_ITEMS = (2, 4)  # in a scene
_SIDES = (40, 72)  # of an item, in pixels
_MOST_SHARED = 0.15  # of an item's square, with the square of another
_BOX_ITEMS = (3, 6)  # in a scene with boxes,
_BOX_SIDES = (32, 64)  # whose items lie over each other:
_MOST_BOXES_SHARED = 0.4  # of an item's square, with the square of another
_TRIES = 30  # to find a place for an item
_FAINT = 24  # what is darker is no part of an item, unless the item is around it
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Scenes:
    """Scenes that are drawn as they are asked for; scene i is a function of the split and i.

    items: (n, 28, 28) uint8, grey; members: for each class but the first, the numbers of its items; photographs: (h, w,
    3) uint8, of which the grounds are parts.
    """

    split: str
    items: np.ndarray
    members: tuple[np.ndarray, ...]
    photographs: tuple[np.ndarray, ...]

    labels = LABELS
    values = tuple(range(len(LABELS)))

    @property
    def colours(self) -> tuple[tuple[int, int, int], ...]:
        return ((0, 0, 0), *distinct_colours(len(LABELS) - 1))

    def __len__(self) -> int:
        return COUNTS[self.split]

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        rng = np.random.default_rng([[*COUNTS].index(self.split), index])
        image, label_map = self._ground(rng), np.zeros((SIZE, SIZE), np.int16)
        for place in _places(rng):
            label, window, inside = self._draw(image, place, rng)
            label_map[window][inside] = label
        return {"image": image, "label_map": label_map, "id": index}

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every picture."""
        return [(SIZE, SIZE)] * len(self)

    def contents(self) -> dict[str, list[int]]:
        """As `data.base.Source` says: scenes are known by the name of the set."""
        return {}

    def _draw(
        self, image: np.ndarray, place: tuple[int, int, int], rng: np.random.Generator
    ) -> tuple[int, tuple[slice, slice], np.ndarray]:
        """Draw an item in a scene; returns its class, its window, and which pixels of that, bool, are the item's."""
        top, left, side = place
        label = int(rng.integers(1, len(LABELS)))
        pixels, inside = _item(self.items[rng.choice(self.members[label - 1])], side, rng)
        window = slice(top, top + side), slice(left, left + side)
        image[window][inside] = pixels[inside]
        return label, window, inside

    def _ground(self, rng: np.random.Generator) -> np.ndarray:
        """(SIZE, SIZE, 3) uint8: a part of a photograph, turned, with its channels in any order and of any light."""
        photograph = self.photographs[rng.integers(len(self.photographs))]
        side = int(rng.integers(64, min(photograph.shape[:2]), endpoint=True))
        top, left = (int(rng.integers(0, length - side, endpoint=True)) for length in photograph.shape[:2])
        part = resize_to(photograph[top : top + side, left : left + side], (SIZE, SIZE))
        part = np.rot90(part, rng.integers(4))[:, :: int(rng.choice([-1, 1]))]
        light = rng.uniform(0.5, 1.2)
        return np.clip(part[..., rng.permutation(3)] * light, 0, 255).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class BoxScenes:
    """Scenes in which more items lie over each other, each with its box and its mask: what is seen of it.

    Scene i is a function of the split and i; what it is made of is that of `scenes`. The classes are those of `Scenes`
    but for the background.
    """

    scenes: Scenes

    labels = LABELS[1:]
    category_ids = tuple(range(1, len(LABELS)))
    has_masks = True
    most_objects = _BOX_ITEMS[1]
    origin = "the set scenes"

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        rng = np.random.default_rng([[*COUNTS].index(self.scenes.split), index, 1])
        image, seen = self.scenes._ground(rng), np.zeros((SIZE, SIZE), np.int8)  # the item that each pixel shows
        labels = []
        for place in _places(rng, _BOX_ITEMS, _BOX_SIDES, _MOST_BOXES_SHARED):
            label, window, inside = self.scenes._draw(image, place, rng)
            labels.append(label - 1)
            seen[window][inside] = len(labels)
        pieces = [cropped(seen == number) for number in range(1, len(labels) + 1)]
        things = [with_mask(piece, label) for piece, label in zip(pieces, labels, strict=True) if piece is not None]
        return {"image": image, **objects_of(things, (SIZE, SIZE), masks=True), "id": index}

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every picture."""
        return self.scenes.sizes()

    def sides(self) -> np.ndarray:
        """(n,) the shorter side of every picture."""
        return np.full(len(self), SIZE)

    def filled(self) -> np.ndarray:
        """(n,) bool: whether a picture has an object, of which the last item is one in every scene."""
        return np.ones(len(self), bool)

    def contents(self) -> dict[str, list[int]]:
        """As `data.base.Source` says: scenes are known by the name of the set."""
        return {}


def open_scenes(split: str, folder: Path | None) -> Scenes:
    """4,000 scenes of 128x128 pixels, "train", or 400, "test", whose items and grounds are in no scene of training.

    folder: of Fashion-MNIST's four .gz files; None: where `fashion_mnist.open_fashion_mnist` finds them. The grounds
    are parts of the two photographs that ship with scikit-learn, the left two thirds for training.
    Raises ImportError without scikit-learn, and FileNotFoundError without Fashion-MNIST.
    """
    check_split("scenes", split, COUNTS)
    items, targets = _items(split, folder)
    classes = np.array(CLASSES)[targets]
    members = tuple(np.flatnonzero(classes == label) for label in range(1, len(LABELS)))
    return Scenes(split, items, members, _photographs(split))


def open_box_scenes(split: str, folder: Path | None) -> BoxScenes:
    """As many scenes of overlapping items with boxes and masks, made of the same; see `open_scenes`."""
    return BoxScenes(open_scenes(split, folder))


def _photographs(split: str) -> tuple[np.ndarray, ...]:
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise ImportError("the grounds ship with scikit-learn, which is missing: pip install scikit-learn") from error
    cut = 427  # of 640 columns
    part = slice(0, cut) if split == "train" else slice(cut, None)
    return tuple(image[:, part] for image in load_sample_images().images)


@functools.lru_cache(maxsize=2)
def _items(split: str, folder: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """((n, 28, 28) uint8, (n,) class of Fashion-MNIST), in an order that is the same wherever they come from."""
    source = open_fashion_mnist(split, folder)
    if not hasattr(source, "images"):
        _log.info("reading %d pictures of Fashion-MNIST", len(source))
    examples = [source[index] for index in range(len(source))]
    items = np.stack([_grey(example["image"]) for example in examples])
    order = sorted(range(len(items)), key=lambda index: (examples[index]["label"], items[index].tobytes()))
    return items[order], np.array([examples[index]["label"] for index in order])


def _grey(image: Any) -> np.ndarray:
    return image[..., 0] if isinstance(image, np.ndarray) else np.asarray(picture_of(image))[..., 0]


def _places(
    rng: np.random.Generator,
    items: tuple[int, int] = _ITEMS,
    sides: tuple[int, int] = _SIDES,
    most_shared: float = _MOST_SHARED,
) -> list[tuple[int, int, int]]:
    """(top, left, side) of the squares of the items of a scene; those that find no room are left out."""
    found: list[tuple[int, int, int]] = []
    for _ in range(rng.integers(*items, endpoint=True)):
        side = int(rng.integers(*sides, endpoint=True))
        for _ in range(_TRIES):
            top, left = rng.integers(0, SIZE - side, endpoint=True, size=2).tolist()
            if all(_shared((top, left, side), other) <= most_shared for other in found):
                found.append((top, left, side))
                break
    return found


def _shared(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """Which share of the smaller of two squares lies in the other."""
    sides = [min(one[i] + one[2], other[i] + other[2]) - max(one[i], other[i]) for i in (0, 1)]
    return max(sides[0], 0) * max(sides[1], 0) / min(one[2], other[2]) ** 2


def _item(item: np.ndarray, side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """((side, side, 3) uint8, (side, side) bool): an item in a colour, and which pixels are the item's."""
    from scipy.ndimage import binary_fill_holes  # which scikit-learn needs, too

    inside = binary_fill_holes(item > _FAINT)
    colour = rng.uniform(0.2, 1.0, 3)
    grey = 50 + 205 * (resize_to(item, (side, side)).astype(np.float32) / 255)
    pixels = (grey[..., None] * (colour / colour.max())).astype(np.uint8)
    return pixels, resize_to(inside.astype(np.uint8) * 255, (side, side)) > 127
