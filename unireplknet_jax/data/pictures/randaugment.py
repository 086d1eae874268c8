"""RandAugment as timm understands "rand-m9-mstd0.5-inc1": operations whose strength grows with the magnitude.

Source: timm 0.6.11, timm/data/auto_augment.py, whose operations are calls of Pillow, and so are these. Pictures are
8-bit PIL images in mode "RGB" or, for grey, "L"; on "L" every operation does what it does on equal R, G and B.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

DEFAULT_FILL = (124, 116, 104)  # 255 times the ImageNet mean, rounded
MAX_MAGNITUDE = 10

_PART = re.compile(r"(m|mstd|n|p|inc)(\d+(?:\.\d+)?)")


def auto_contrast(picture, level, fill):
    """Stretch the values of each channel to 0..255."""
    return ImageOps.autocontrast(picture)


def equalize(picture, level, fill):
    """Flatten the histogram of each channel."""
    return ImageOps.equalize(picture)


def invert(picture, level, fill):
    """255 - value."""
    return ImageOps.invert(picture)


def rotate(picture, level, fill):
    """Turn around the centre, by up to 30 degrees; counterclockwise for positive levels."""
    return picture.rotate(level * 30.0, Image.Resampling.BICUBIC, fillcolor=fill)


def posterize(picture, level, fill):
    """Keep the 4 (level 0) to 0 (level 1) highest bits."""
    bits = 4 - int(abs(level) * 4)
    # Pillow's own posterize refuses 0 bits since version 13; before, it made the picture black.
    return ImageOps.posterize(picture, bits) if bits else Image.new(picture.mode, picture.size)


def solarize(picture, level, fill):
    """Invert the values from 256 (level 0: none) or 0 (level 1: all) on."""
    return ImageOps.solarize(picture, 256 - int(abs(level) * 256))


def solarize_add(picture, level, fill):
    """Add up to 110 to the values below 128."""
    added = int(abs(level) * 110)
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return picture.point(table * len(picture.getbands()))


def color(picture, level, fill):
    """Blend with the grey picture: towards it for negative levels, away from it for positive ones."""
    return ImageEnhance.Color(picture).enhance(1.0 + 0.9 * level)


def contrast(picture, level, fill):
    """Blend with the mean grey."""
    return ImageEnhance.Contrast(picture).enhance(1.0 + 0.9 * level)


def brightness(picture, level, fill):
    """Blend with black."""
    return ImageEnhance.Brightness(picture).enhance(1.0 + 0.9 * level)


def sharpness(picture, level, fill):
    """Blend with the smoothed picture."""
    return ImageEnhance.Sharpness(picture).enhance(1.0 + 0.9 * level)


def shear_x(picture, level, fill):
    """Move each row to the left by up to 0.3 of its y."""
    return _affine(picture, (1, 0.3 * level, 0, 0, 1, 0), fill)


def shear_y(picture, level, fill):
    """Move each column upwards by up to 0.3 of its x."""
    return _affine(picture, (1, 0, 0, 0.3 * level, 1, 0), fill)


def translate_x(picture, level, fill):
    """Move to the left by up to 0.45 of the width, in fractions of pixels."""
    return _affine(picture, (1, 0, 0.45 * level * picture.width, 0, 1, 0), fill)


def translate_y(picture, level, fill):
    """Move upwards by up to 0.45 of the height, in fractions of pixels."""
    return _affine(picture, (1, 0, 0, 0, 1, 0.45 * level * picture.height), fill)


def _affine(picture, matrix, fill):
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=fill)


# level is the magnitude / 10 with a random sign; fill is the colour of what comes in from outside.
OPERATIONS: dict[str, Callable[[Image.Image, float, int | tuple[int, ...]], Image.Image]] = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "PosterizeIncreasing": posterize,
    "SolarizeIncreasing": solarize,
    "SolarizeAdd": solarize_add,
    "ColorIncreasing": color,
    "ContrastIncreasing": contrast,
    "BrightnessIncreasing": brightness,
    "SharpnessIncreasing": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateXRel": translate_x,
    "TranslateYRel": translate_y,
}


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Apply a few operations, drawn uniformly and with replacement from `OPERATIONS`.

    magnitude, magnitude_std: of the Gaussian that each operation's magnitude is drawn from and then clipped to 0..10.
    count: operations drawn for a picture. probability: with which a drawn operation is applied at all.
    fill: the colour of what comes in from outside, as RGB or as one grey value; a grey picture takes the luma of an
        RGB fill.
    """

    magnitude: float = 10.0
    magnitude_std: float = 0.0
    count: int = 2
    probability: float = 0.5
    fill: tuple[int, ...] = DEFAULT_FILL

    def __post_init__(self):
        object.__setattr__(self, "fill", tuple(self.fill))
        if not 0 <= self.magnitude <= MAX_MAGNITUDE or not 0 <= self.magnitude_std <= 100:
            raise ValueError(
                f"RandAugment has magnitude {self.magnitude:g} with deviation {self.magnitude_std:g}; "
                f"expected 0 to {MAX_MAGNITUDE} and 0 to 100"
            )
        if self.count < 0 or not 0 <= self.probability <= 1:
            raise ValueError(
                f"RandAugment has {self.count} operations of probability {self.probability:g}; expected 0 or more, 0..1"
            )
        if len(self.fill) not in (1, 3) or not all(0 <= value <= 255 for value in self.fill):
            raise ValueError(f"the fill colour is {self.fill}; expected 1 or 3 values from 0 to 255")

    @classmethod
    def from_policy(cls, policy: str, fill: tuple[int, ...] = DEFAULT_FILL) -> RandAugment:
        """What timm's policy strings say, for example "rand-m9-mstd0.5-inc1".

        After "rand", in any order: m (magnitude, 10), mstd (its deviation, 0), n (operations, 2), p (probability, 0.5)
        and inc1, the list with increasing severity, which must be there because it is the only list here.
        """
        kind, *parts = policy.split("-")
        unknown = [kind] * (kind != "rand") + [part for part in parts if not _PART.fullmatch(part)]
        if unknown:
            raise ValueError(
                f"the augmentation policy {policy!r} has the unknown part {unknown[0]!r}; "
                'expected "rand" and parts m, mstd, n, p, inc with numbers, as in "rand-m9-mstd0.5-inc1"'
            )
        values = dict(_PART.fullmatch(part).groups() for part in parts)
        if len(values) < len(parts):
            raise ValueError(f"the augmentation policy {policy!r} says something twice; name each part once")
        if values.pop("inc", None) != "1":
            raise ValueError(f"the augmentation policy {policy!r} is without -inc1; only the increasing list is here")
        fields = {"m": "magnitude", "mstd": "magnitude_std", "n": "count", "p": "probability"}
        if not values.get("n", "0").isdecimal():
            raise ValueError(f"the augmentation policy {policy!r} asks for n{values['n']}; expected a whole number")
        numbers = {fields[name]: int(value) if name == "n" else float(value) for name, value in values.items()}
        return cls(**numbers, fill=fill)

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        """The augmented picture, of the same size and mode ("RGB" or "L"); the given one is not changed."""
        if picture.mode not in ("RGB", "L"):
            raise ValueError(f"RandAugment got a picture of mode {picture.mode}; expected RGB or L, convert it first")
        fill = _fill_of_mode(self.fill, picture.mode)
        for operation, level in self.draw(rng):
            picture = OPERATIONS[operation](picture, level, fill)
        return picture

    def draw(self, rng: np.random.Generator) -> list[tuple[str, float]]:
        """The operations for one picture, in order, each with its signed level (magnitude / 10)."""
        # The number of draws does not depend on their outcome, so that what follows in rng does not either.
        chosen = rng.integers(len(OPERATIONS), size=self.count)
        applied = rng.random(self.count) < self.probability
        levels = np.clip(rng.normal(self.magnitude, self.magnitude_std, self.count), 0, MAX_MAGNITUDE) / MAX_MAGNITUDE
        signs = np.where(rng.random(self.count) < 0.5, -1.0, 1.0)
        names = list(OPERATIONS)
        drawn = zip(chosen.tolist(), applied.tolist(), (levels * signs).tolist(), strict=True)
        return [(names[index], level) for index, use, level in drawn if use]


@functools.lru_cache(maxsize=16)
def _fill_of_mode(fill, mode):
    if mode == "RGB":
        return fill * (3 // len(fill))
    return fill[0] if len(fill) == 1 else Image.new("RGB", (1, 1), fill).convert("L").getpixel((0, 0))
