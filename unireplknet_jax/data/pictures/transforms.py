"""Pictures on the host: the evaluation transform and the training transform.

Source: the original's Image/datasets.py (build_transform), timm 0.6.11's create_transform, and
torchvision's Resize, CenterCrop and RandomCrop on PIL images. Arrays are (h, w, c) uint8 with c = 1 (grey) or 3 (RGB).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os

import numpy as np
from PIL import Image

from unireplknet_jax.data.pictures.decode import read_image
from unireplknet_jax.data.pictures.randaugment import DEFAULT_FILL, RandAugment

CROP_RATE = 224 / 256
WARP_SIZE = 384
SMALL_SIZE = 32
SMALL_PADDING = 4
_THIN = 25  # times the area of the crop


def eval_transform(
    image: str | os.PathLike | bytes | Image.Image | np.ndarray, size: int, resize: str | None = None, white: int = 0
) -> np.ndarray:
    """The picture a model is evaluated on: uint8 (size, size, 3), resized with Pillow's antialiased bicubic filter.

    image: an (h, w, 1 or 3) uint8 array, or whatever `read_image` takes, which gets `white`, too.
    resize: "crop" brings the shorter side to int(size / 0.875) and cuts the centre out, with torchvision's rounding;
        "warp" resizes the whole picture to (size, size) and does not keep its aspect ratio; None takes the original's
        rule, "warp" from 384 on and "crop" below. Up to 32 None means "warp" too: there the original does not resize
        at all and so needs pictures of exactly that size, for which "warp" changes nothing.
    """
    _check_size(size)
    resize = resize_rule(size, resize)
    picture = _as_pil(image).convert("RGB") if isinstance(image, np.ndarray) else read_image(image, white)
    if resize == "warp":
        return np.array(picture.resize((size, size), Image.Resampling.BICUBIC))
    width, height = shorter_side_to(picture.size, int(size / CROP_RATE))
    left, top = round((width - size) / 2), round((height - size) / 2)
    if width * height > _THIN * size**2:  # of a very thin picture only what is kept: all of it could fill the memory
        across, down = picture.width / width, picture.height / height
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return np.array(picture.resize((size, size), Image.Resampling.BICUBIC, box))
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(picture.crop((left, top, left + size, top + size)))


def resize_rule(size: int, resize: str | None = None) -> str:
    """The rule of `eval_transform`, "crop" or "warp", where None takes the original's; ValueError for another one."""
    if resize is None:
        return "crop" if SMALL_SIZE < size < WARP_SIZE else "warp"
    if resize not in ("crop", "warp"):
        raise ValueError(f"resize is {resize!r}; expected 'crop', 'warp' or None")
    return resize


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """The picture a model is trained on: crop, flip and RandAugment, on the host and before normalization.

    Random erasing, mixup and cutmix come later, on the device. Picklable; the same rng gives the same picture.

    size: of the square result, in pixels.
    scale, ratio: the ranges of `random_resized_crop`.
    flip: mirror left to right with probability 1/2.
    rand_augment: a policy as `RandAugment.from_policy` reads it; None for none.
    crop_padding: pixels; instead of the random resized crop the whole picture is brought to `size`, if it has another
        one, given a zero border this wide, and a window of `size` is cut out of it, anywhere. None takes the original's
        rule: 4 for sizes up to 32, above that the random resized crop.
    fill: the colour that RandAugment's rotations, shears and translations bring in from outside.
    white: of pictures deeper than 8 bits, as in `read_image`.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    crop_padding: int | None = None
    fill: tuple[int, ...] = DEFAULT_FILL
    white: int = 0

    def __post_init__(self):
        for name in ("scale", "ratio", "fill"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _check_size(self.size)
        _check_ranges(self.scale, self.ratio)
        if self.crop_padding is not None and self.crop_padding < 0:
            raise ValueError(f"crop_padding is {self.crop_padding}; expected 0 or a positive number of pixels")
        if self.rand_augment is not None:
            _rand_augment(self.rand_augment, self.fill)

    def __call__(
        self, image: str | os.PathLike | bytes | Image.Image | np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """uint8 (size, size, c): c is that of an (h, w, c) uint8 array, 3 for whatever `read_image` takes."""
        picture = _as_pil(image) if isinstance(image, np.ndarray) else read_image(image, self.white)
        padding = self.crop_padding
        if padding is None and self.size <= SMALL_SIZE:
            padding = SMALL_PADDING
        if padding is None:
            picture = random_resized_crop(picture, self.size, rng, self.scale, self.ratio)
        else:
            picture = _resize(picture, (self.size, self.size))
            top, left = rng.integers(-padding, padding, endpoint=True, size=2).tolist()
            picture = picture.crop((left, top, left + self.size, top + self.size))  # outside there are zeros
        if self.flip and rng.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.rand_augment is not None:
            picture = _rand_augment(self.rand_augment, self.fill)(picture, rng)
        pixels = np.array(picture)
        return pixels[..., None] if pixels.ndim == 2 else pixels


def random_resized_crop(
    picture: Image.Image,
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Image.Image:
    """A random window of the picture, resized to (size, size) with Pillow's antialiased bicubic filter.

    The window has a share of the picture's area that is uniform in `scale` and an aspect ratio (width / height) that
    is log-uniform in `ratio`, and lies anywhere. If ten draws do not fit into the picture, it is the largest centred
    window that has the picture's own aspect ratio, limited to `ratio`.
    """
    _check_size(size)
    _check_ranges(scale, ratio)
    left, top, width, height = _random_window(picture.width, picture.height, rng, scale, ratio)
    return _resize(picture.crop((left, top, left + width, top + height)), (size, size))


def shorter_side_to(size: tuple[int, int], target: int) -> tuple[int, int]:
    """(width, height) with the shorter side brought to `target` and the longer one, rounded down, in proportion."""
    width, height = size
    longer = int(target * max(width, height) / min(width, height))
    return (target, longer) if width <= height else (longer, target)


def _random_window(width, height, rng, scale, ratio):
    """left, top, width, height of the window that `random_resized_crop` describes."""
    lowest, highest = ratio
    for _ in range(10):
        area = rng.uniform(*scale) * (width * height)
        aspect = math.exp(rng.uniform(math.log(lowest), math.log(highest)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(0, (height - h, width - w), endpoint=True).tolist()
            return left, top, w, h
    w = min(width, max(1, round(height * highest)))
    h = min(height, max(1, round(width / lowest)))
    return (width - w) // 2, (height - h) // 2, w, h


@functools.lru_cache(maxsize=16)
def _rand_augment(policy, fill):
    return RandAugment.from_policy(policy, fill)


def _resize(picture, size):
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)


def _as_pil(image: np.ndarray) -> Image.Image:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(
            f"the image is {image.dtype} {image.shape}; expected a uint8 array of shape (h, w, 1) or (h, w, 3)"
        )
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"size is {size}; expected a positive number of pixels")


def _check_ranges(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    if not (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1):
        raise ValueError(f"scale is {scale}; expected the smallest and the largest share of the area, within 0..1")
    if not (len(ratio) == 2 and 0 < ratio[0] <= ratio[1]):
        raise ValueError(f"ratio is {ratio}; expected the smallest and the largest width / height, both positive")
