"""Pictures with masks on the host: the training transform, and the size that a network sees in evaluation.

Source: mmsegmentation 0.27.0 (Resize, RandomCrop, RandomFlip, PhotoMetricDistortion, Pad), mmcv 1.5.0 (rescale_size,
imrescale) and what these call of OpenCV, whose numbers for uint8 are kept. Pictures are (h, w, 3) uint8 RGB.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unireplknet_jax.data.pictures.masks import IGNORED, whole

DIVISOR = 32  # of both sides of what the network sees
MOST_DRAWS = 10
_BITS = 11  # of OpenCV's weights for uint8
_AT_ONCE = 2**21  # pixels that are resized together: on the way there each has 30 bytes
_HALF_TURN = 180  # hue of uint8 pictures goes from 0 to 179


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """A picture and its mask as a network is trained on them, before normalization; picklable.

    The order is: resize by a random factor, crop, mirror, other colours, pad. Padding comes after normalization, so the
    zeros here are to become zeros then.

    crop: height and width of the result, in pixels.
    scale: (long side, short side) within which the picture is brought at the factor 1; None: its own size.
    ratio: the range of the factor, which is drawn uniformly.
    cat_max_ratio: of the pixels with a class, no class may have this share of a crop or more, or another one is drawn,
        ten times at most; 1 takes the first crop.
    flip: mirror left to right with probability 1/2.
    distortion: random brightness, contrast, saturation and hue.
    """

    crop: int
    scale: tuple[int, int] | None = (2048, 512)
    ratio: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75
    flip: bool = True
    distortion: bool = True

    def __post_init__(self):
        for name in ("scale", "ratio"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if self.crop < 1:
            raise ValueError(f"crop is {self.crop}; expected a positive number of pixels")
        _check_scale(self.scale)
        if not (len(self.ratio) == 2 and 0 < self.ratio[0] <= self.ratio[1]):
            raise ValueError(f"ratio is {self.ratio}; expected the smallest and the largest factor, both positive")
        if not 0 < self.cat_max_ratio <= 1:
            raise ValueError(f"cat_max_ratio is {self.cat_max_ratio}; expected a share of the pixels, up to 1")

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """An example of training, a function of the source's example and rng.

        Returns "image" (crop, crop, 3) uint8, "size" (2,) int32, the rows and columns that are no padding, "label_map"
        (crop, crop) int16, IGNORED on the padding, and the "id". Raises ValueError for an example with a broken file.
        """
        example = whole(example)
        label_map = example["label_map"]
        size = kept_ratio(*label_map.shape, self.scale, rng.uniform(*self.ratio))
        rows, columns = (nearest_places(*lengths) for lengths in zip(label_map.shape, size, strict=True))
        top, left, label_map = self._cropped(label_map, rows, columns, rng)
        height, width = label_map.shape
        image = resize_to(example["image"], size, (top, left, height, width))
        if self.flip and rng.random() < 0.5:
            image, label_map = image[:, ::-1], label_map[:, ::-1]
        if self.distortion:
            image = distort(image, rng)
        canvas = np.zeros((self.crop, self.crop, 3), np.uint8)
        canvas[:height, :width] = image
        labels = np.full((self.crop, self.crop), IGNORED, np.int16)
        labels[:height, :width] = label_map
        return {
            "image": canvas,
            "size": np.array([height, width], np.int32),
            "label_map": labels,
            "id": example["id"],
        }

    def _cropped(
        self, label_map: np.ndarray, rows: np.ndarray, columns: np.ndarray, rng: np.random.Generator
    ) -> tuple[int, int, np.ndarray]:
        """(top, left, (h, w) labels) of a crop; rows and columns are those of the mask that its resized form takes."""
        draws = MOST_DRAWS + 1 if self.cat_max_ratio < 1 else 1
        for draw in range(draws):
            top, left = (int(rng.integers(0, max(len(each) - self.crop, 0), endpoint=True)) for each in (rows, columns))
            cut = label_map[rows[top : top + self.crop]][:, columns[left : left + self.crop]]
            if draw + 1 == draws:  # the last one is not looked at
                break
            counts = np.bincount(cut.ravel().astype(np.intp) - IGNORED)[1:]
            if (counts > 0).sum() > 1 and counts.max() / counts.sum() < self.cat_max_ratio:
                break
        return top, left, cut


def prepared(image: np.ndarray, scale: tuple[int, int] | None, ratio: float = 1.0) -> np.ndarray:
    """(h, w, 3) uint8 -> what the network sees in evaluation, as large as `network_size` says: resized twice, if so."""
    height, width = image.shape[:2]
    image = resize_to(image, kept_ratio(height, width, scale, ratio))
    return resize_to(image, network_size(height, width, scale, ratio))


def network_size(height: int, width: int, scale: tuple[int, int] | None, ratio: float = 1.0) -> tuple[int, int]:
    """(height, width) of what the network sees of a picture: that of `kept_ratio`, each side up to a multiple of 32."""
    rows, columns = kept_ratio(height, width, scale, ratio)
    return -(-rows // DIVISOR) * DIVISOR, -(-columns // DIVISOR) * DIVISOR


def kept_ratio(height: int, width: int, scale: tuple[int, int] | None, ratio: float = 1.0) -> tuple[int, int]:
    """The largest (height, width) within int(ratio * scale), (long side, short side), that keeps the picture's form.

    scale: None: `ratio` times the picture's own size. A side has one pixel at least, where the original fails.
    """
    factor = ratio
    if scale is not None:
        _check_scale(scale)
        longer, shorter = int(max(scale) * ratio), int(min(scale) * ratio)
        factor = min(longer / max(height, width), shorter / min(height, width))
    return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)


def canvas_of(size: tuple[int, int], canvases: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The smallest of the canvases that holds a picture of (h, w); one of its own size where none does."""
    holding = [canvas for canvas in canvases if size[0] <= canvas[0] and size[1] <= canvas[1]]
    return min(holding, key=math.prod) if holding else size


def resize_to(image: np.ndarray, size: tuple[int, int], window: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """A picture (h, w, c) or (h, w) uint8 resized to (height, width): bilinear, without antialiasing.

    window: (top, left, height, width) of the resized picture, which alone is computed: as if all were.
    The numbers are those of cv2.resize, INTER_LINEAR, whose weights have 11 bits.
    """
    top, left, height, width = window or (0, 0, *size)
    if image.shape[:2] == tuple(size):
        return image[top : top + height, left : left + width]
    if height * width > _AT_ONCE and height > 1:
        found = np.empty((height, width, *image.shape[2:]), np.uint8)
        step = max(_AT_ONCE // width, 1)
        for start in range(0, height, step):
            part = found[start : start + step]
            part[:] = resize_to(image, size, (top + start, left, len(part), width))
        return found
    high, low, row_part = (part[top : top + height] for part in _linear(image.shape[0], size[0]))
    right, near, column_part = (part[left : left + width] for part in _linear(image.shape[1], size[1]))
    needed, places = np.unique(np.concatenate([low, high]), return_inverse=True)
    rows = image[needed]
    shape = (1, width, *[1] * (image.ndim - 2))
    across = rows[:, near].astype(np.int32)
    across *= ((1 << _BITS) - column_part).reshape(shape)
    other = rows[:, right].astype(np.int32)
    other *= column_part.reshape(shape)
    across += other
    across >>= 4
    shape = (height, 1, *[1] * (image.ndim - 2))
    below = across[places[height:]]
    below *= row_part.reshape(shape)
    below >>= 16
    above = across[places[:height]]
    above *= ((1 << _BITS) - row_part).reshape(shape)
    above >>= 16
    above += below
    above += 2
    above >>= 2
    return above.astype(np.uint8)


def distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture in other colours: brightness, contrast, saturation and hue, each with probability 1/2.

    The contrast is changed after the brightness or at the end, as a coin falls. Every step ends in whole numbers.
    """
    if rng.random() < 0.5:
        image = _scaled(image, 1.0, rng.uniform(-32, 32))
    first = rng.random() < 0.5
    if first:
        image = _with_contrast(image, rng)
    if rng.random() < 0.5:
        hue, saturation, value = to_hsv(image)
        image = to_rgb(hue, _scaled(saturation, rng.uniform(0.5, 1.5), 0.0), value)
    if rng.random() < 0.5:
        hue, saturation, value = to_hsv(image)
        turned = (hue.astype(np.int32) + rng.integers(-18, 18)) % _HALF_TURN
        image = to_rgb(turned.astype(np.uint8), saturation, value)
    return image if first else _with_contrast(image, rng)


def to_hsv(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(h, w, 3) uint8 RGB -> hue 0..179, saturation and value 0..255, (h, w) uint8 each, as cv2.cvtColor gives them."""
    red, green, blue = (image[..., channel].astype(np.int32) for channel in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    for_saturation, for_hue = _division_tables()
    saturation = spread * for_saturation[value] + 2048 >> 12
    hue = np.where(
        value == red,
        green - blue,
        np.where(value == green, blue - red + 2 * spread, red - green + 4 * spread),
    )
    hue = hue * for_hue[spread] + 2048 >> 12
    hue += np.where(hue < 0, _HALF_TURN, 0)
    return hue.astype(np.uint8), saturation.astype(np.uint8), value.astype(np.uint8)


def to_rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The way back from `to_hsv`: (h, w, 3) uint8, as cv2.cvtColor gives it."""
    sector, part = _sectors()
    sector, part = sector[hue], part[hue]
    share = saturation.astype(np.float32) * np.float32(1 / 255)
    top = value.astype(np.float32) * np.float32(1 / 255)
    # value, the least of the channels, one that falls and one that rises within a sector
    levels = np.stack([top, top * (1 - share), top * (1 - share * part), top * (1 - share * (1 - part))])
    levels = (levels * np.float32(255)).astype(np.uint8)
    order = np.array([[0, 3, 1], [2, 0, 1], [1, 0, 3], [1, 2, 0], [3, 1, 0], [0, 1, 2]])
    return np.stack([np.choose(order[:, channel][sector], levels) for channel in range(3)], axis=-1)


def _with_contrast(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _scaled(image, rng.uniform(0.5, 1.5), 0.0) if rng.random() < 0.5 else image


def _scaled(values: np.ndarray, factor: float, offset: float) -> np.ndarray:
    """uint8 values times a factor, with an offset, within 0..255 and rounded down."""
    table = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
    return np.clip(table, 0, 255).astype(np.uint8)[values]


@functools.cache
def _division_tables() -> tuple[np.ndarray, np.ndarray]:
    """(256,) int32 each: (255 << 12) / i and (180 << 12) / (6 i), 0 at 0."""
    i = np.maximum(np.arange(256), 1)
    saturation, hue = np.rint((255 << 12) / i), np.rint((_HALF_TURN << 12) / (6 * i))
    saturation[0] = hue[0] = 0
    return saturation.astype(np.int32), hue.astype(np.int32)


@functools.cache
def _sectors() -> tuple[np.ndarray, np.ndarray]:
    """(180,) of each hue: in which sixth of the circle it lies, and how far into it, float32."""
    turned = np.arange(_HALF_TURN, dtype=np.float32) * np.float32(6 / _HALF_TURN)
    sector = np.floor(turned)
    return sector.astype(np.intp) % 6, turned - sector


def _linear(length: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(second, first, weight of the second of 2048), (target,) int each: the two places that a new one lies between."""
    place = ((np.arange(target) + 0.5) * (length / target) - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int32)
    weight = np.rint((place - first) * np.float32(1 << _BITS)).astype(np.int32)
    return np.clip(first + 1, 0, length - 1), np.clip(first, 0, length - 1), weight


def nearest_places(length: int, target: int) -> np.ndarray:
    """(target,) the place that each new one takes, rounded down: as cv2.resize, INTER_NEAREST."""
    return np.minimum(np.floor(np.arange(target) * (1 / (target / length))).astype(np.intp), length - 1)


def _check_scale(scale: tuple[int, int] | None) -> None:
    if scale is not None and not (len(scale) == 2 and min(scale) > 0 and math.isfinite(sum(scale))):
        raise ValueError(f"scale is {scale}; expected the long and the short side in pixels, or None")
