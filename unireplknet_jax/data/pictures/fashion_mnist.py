"""Fashion-MNIST, from its IDX files or from TFDS."""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from pathlib import Path

import numpy as np

from unireplknet_jax.data.base import check_split, first_line
from unireplknet_jax.data.pictures.base import ArraySource, ImageSource
from unireplknet_jax.data.pictures.tfds_sets import download, open_tfds, tfds_builder

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_log = logging.getLogger(__name__)


def open_fashion_mnist(split: str, data_dir: Path | None) -> ImageSource:
    """A split from the first place that has it: data_dir, the Debian package, TFDS. See `open_source`."""
    check_split("fashion_mnist", split, ("train", "test"))
    places = [place for place in (data_dir, DEBIAN_FASHION_MNIST) if place is not None]
    for place in places:
        paths = [place / file for file in _file_names(split)]
        missing = [path.name for path in paths if not path.is_file()]
        if not missing:
            return _from_files(*paths)
        if len(missing) == 1:
            raise FileNotFoundError(f"{place} has no {missing[0]}, though it has the other file of the {split} split")
    try:
        return _from_tfds(split, data_dir)
    except Exception as error:  # a download fails in as many ways as there are networks
        looked = ", ".join([f"{place} (no IDX .gz files)" for place in places] + [f"TFDS ({first_line(error)})"])
        raise FileNotFoundError(
            f"Fashion-MNIST was not found in {looked}; give the folder of its four .gz files as data_dir, "
            "or on Debian: apt-get install dataset-fashion-mnist"
        ) from error


def read_idx(path: str | Path) -> np.ndarray:
    """The uint8 array in a gzipped IDX file (the format of MNIST), of the shape its header states.

    Raises ValueError where the file is no gzip file, cut off, or does not hold what its header states.
    """
    try:
        with gzip.open(path) as file:
            data = file.read()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist; expected a gzipped IDX file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file; fetch it again") from error
    rank = data[3] if len(data) >= 4 else 0
    if data[:3] != b"\x00\x00\x08" or not rank or len(data) < 4 + 4 * rank:
        raise ValueError(f"{path} does not begin with an IDX header of unsigned bytes; expected a file like MNIST's")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", count=rank, offset=4))
    if len(data) - 4 - 4 * rank != math.prod(shape):
        raise ValueError(
            f"{path} holds {len(data) - 4 - 4 * rank} bytes of data, but its header states {shape}; fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _from_files(image_path: Path, label_path: Path) -> ArraySource:
    images, targets = read_idx(image_path), read_idx(label_path)
    if images.shape[1:] != (28, 28):
        raise ValueError(f"{image_path} has shape {images.shape}; expected (n, 28, 28)")
    if targets.shape != images.shape[:1] or (targets.size and targets.max() >= len(FASHION_LABELS)):
        raise ValueError(f"{label_path} has shape {targets.shape}; expected {len(images)} labels from 0 to 9")
    _log.info("Fashion-MNIST is read from %s", image_path.parent)
    return ArraySource(images[..., None], targets, np.arange(len(images)), FASHION_LABELS)


def _from_tfds(split: str, data_dir: Path | None) -> ImageSource:
    builder = tfds_builder("fashion_mnist", data_dir)
    if builder.is_prepared():
        _log.info("Fashion-MNIST is read from %s", builder.data_path)
        return open_tfds(builder, "fashion_mnist", split)
    return _from_files(*download(builder, [f"{builder.URL}{file}" for file in _file_names(split)]))


def _file_names(split: str) -> list[str]:
    prefix = {"train": "train", "test": "t10k"}[split]
    return [f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"]
