"""How many pictures one core prepares for training in a second, step by step, beside torchvision's own pipeline."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from unireplknet_jax.data.pictures.decode import read_image
from unireplknet_jax.data.pictures.randaugment import OPERATIONS, RandAugment
from unireplknet_jax.data.pictures.transforms import TrainTransform

STEPS = ("decode", "decode, crop, flip", "decode, crop, flip, RandAugment")
Prepare = Callable[[bytes, np.random.Generator], object]


@dataclasses.dataclass(frozen=True)
class Speed:
    """Pictures per CPU second of the measuring thread: the median of the rounds, the slowest and the fastest one.

    ratio: to the pipeline that the first entry of `measure` names, the median over the rounds; it is more certain
        than the rates, because both pipelines of a round meet the same state of the machine.
    """

    pipeline: str
    step: str
    median: float
    slowest: float
    fastest: float
    ratio: float


def synthetic_jpegs(count: int, seed: int = 0, width: int = 500, height: int = 375) -> list[bytes]:
    """JPEG files (quality 90) of gradients in random directions and colours under noise, about as large as photos."""
    _check_count(count, "pictures")
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    files = []
    for _ in range(count):
        angle = rng.uniform(0, 2 * np.pi, 3)
        slope = x[..., None] * np.cos(angle) / width + y[..., None] * np.sin(angle) / height
        values = rng.uniform(80, 176, 3) + 90 * slope + rng.normal(0, 12, (height, width, 3))
        file = io.BytesIO()
        Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def pictures_in(folder: str | os.PathLike, count: int) -> list[bytes]:
    """The contents of the first `count` picture files in a folder and the folders in it, in the order of their names.

    Raises ValueError where there is none.
    """
    _check_count(count, "pictures")
    known = Image.registered_extensions()
    paths = (path for path in _files(Path(folder)) if path.suffix.lower() in known)
    files = [path.read_bytes() for path in itertools.islice(paths, count)]
    if not files:
        raise ValueError(f"there are no pictures in {folder}; expected a folder with JPEG, PNG, ... files")
    return files


def our_steps(transform: TrainTransform) -> dict[str, Prepare]:
    """Each of `STEPS` as this package does it: from the bytes of a file to a picture ready for its batch."""
    unaugmented = dataclasses.replace(transform, rand_augment=None)
    return dict(zip(STEPS, (lambda data, rng: read_image(data), unaugmented, transform), strict=True))


def torchvision_steps(transform: TrainTransform) -> dict[str, Prepare]:
    """Each of `STEPS` by torchvision on PIL images, with the operations of `transform` in the same shares.

    Its RandomResizedCrop (bicubic), RandomHorizontalFlip and functional operations; drawn like ours, because its own
    RandAugment has another list of operations and applies all it draws. SolarizeAdd, which it lacks, is our function.
    Raises ImportError where torchvision cannot be imported.
    """
    try:
        from torchvision import transforms
        from torchvision.transforms.functional import pil_to_tensor
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: it does not fit the installed torch
        reason = " ".join(str(error).split())
        raise ImportError(f"torchvision cannot be imported ({reason:.120}); install it to compare with it") from error
    bicubic = transforms.InterpolationMode.BICUBIC
    crop = transforms.RandomResizedCrop(transform.size, transform.scale, transform.ratio, bicubic)
    flip = transforms.RandomHorizontalFlip(0.5 if transform.flip else 0.0)
    operations = _torchvision_operations()
    policy = RandAugment.from_policy(transform.rand_augment, transform.fill)

    def decode(data, rng):
        return Image.open(io.BytesIO(data)).convert("RGB")

    def cropped(data, rng):
        return pil_to_tensor(flip(crop(decode(data, rng))))

    def augmented(data, rng):
        picture = flip(crop(decode(data, rng)))
        for name, level in policy.draw(rng):
            picture = operations[name](picture, level, policy.fill)
        return pil_to_tensor(picture)

    return dict(zip(STEPS, (decode, cropped, augmented), strict=True))


def measure(
    pipelines: Mapping[str, Mapping[str, Prepare]], pictures: Sequence[bytes], rounds: int = 5, seed: int = 0
) -> list[Speed]:
    """The speed of every step of every pipeline, {pipeline: {step: function}}, on the same pictures in one thread.

    A round takes picture after picture through all of them, in alternating order, so that a machine that other
    programs slow down slows them all. The rounds differ in their random draws, the functions of a round do not. One
    picture through each of them comes before, as a warm-up.
    """
    _check_count(rounds, "rounds")
    _check_count(len(pictures), "pictures")
    entries = [(name, step, prepare) for name, steps in pipelines.items() for step, prepare in steps.items()]
    for _, _, prepare in entries:
        prepare(pictures[0], np.random.default_rng(seed))
    rates = {(name, step): [] for name, step, _ in entries}
    for turn in range(rounds):
        rngs = {key: np.random.default_rng((seed, turn)) for key in rates}
        seconds = dict.fromkeys(rates, 0.0)
        for index, data in enumerate(pictures):
            for name, step, prepare in entries if index % 2 == 0 else entries[::-1]:
                start = time.thread_time()
                prepare(data, rngs[name, step])
                seconds[name, step] += time.thread_time() - start
        for key, total in seconds.items():
            rates[key].append(len(pictures) / max(total, 1e-9))
    first = next(iter(pipelines))
    return [
        Speed(
            name,
            step,
            statistics.median(own),
            min(own),
            max(own),
            statistics.median(one / other for one, other in zip(own, rates[first, step], strict=True)),
        )
        for (name, step), own in rates.items()
    ]


def _torchvision_operations():
    """Our names of operations -> (picture, level, fill) -> picture by torchvision."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as tv

    bicubic = InterpolationMode.BICUBIC

    def affine(picture, fill, translate=(0, 0), shear=(0.0, 0.0)):
        shear = [math.degrees(math.atan(tangent)) for tangent in shear]
        return tv.affine(picture, 0.0, list(translate), 1.0, shear, bicubic, list(fill), [0, 0])

    return {
        "AutoContrast": lambda picture, level, fill: tv.autocontrast(picture),
        "Equalize": lambda picture, level, fill: tv.equalize(picture),
        "Invert": lambda picture, level, fill: tv.invert(picture),
        "Rotate": lambda picture, level, fill: tv.rotate(picture, 30 * level, bicubic, fill=list(fill)),
        # Pillow's posterize, which torchvision calls, refuses to keep 0 bits.
        "PosterizeIncreasing": lambda picture, level, fill: tv.posterize(picture, max(1, 4 - int(4 * abs(level)))),
        "SolarizeIncreasing": lambda picture, level, fill: tv.solarize(picture, 256 - int(256 * abs(level))),
        "SolarizeAdd": OPERATIONS["SolarizeAdd"],
        "ColorIncreasing": lambda picture, level, fill: tv.adjust_saturation(picture, 1 + 0.9 * level),
        "ContrastIncreasing": lambda picture, level, fill: tv.adjust_contrast(picture, 1 + 0.9 * level),
        "BrightnessIncreasing": lambda picture, level, fill: tv.adjust_brightness(picture, 1 + 0.9 * level),
        "SharpnessIncreasing": lambda picture, level, fill: tv.adjust_sharpness(picture, 1 + 0.9 * level),
        "ShearX": lambda picture, level, fill: affine(picture, fill, shear=(0.3 * level, 0.0)),
        "ShearY": lambda picture, level, fill: affine(picture, fill, shear=(0.0, 0.3 * level)),
        "TranslateXRel": lambda picture, level, fill: affine(picture, fill, (0.45 * level * picture.width, 0)),
        "TranslateYRel": lambda picture, level, fill: affine(picture, fill, (0, 0.45 * level * picture.height)),
    }


def _files(folder):
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.is_dir():
            yield from _files(Path(entry.path))
        elif entry.is_file():
            yield Path(entry.path)


def _check_count(count: int, what: str) -> None:
    if count < 1:
        raise ValueError(f"there are {count} {what} to measure with; expected at least 1")
