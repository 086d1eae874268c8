"""Labelled pictures with random access: `open_source(name, split)`."""

from __future__ import annotations

import difflib
import gzip
import logging
import math
import re
import urllib.request
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

SOURCES = ("digits", "fashion_mnist", "tfds:NAME")
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


class ImageSource(Protocol):
    """Random access to labelled pictures; picklable.

    Example i is {"image": uint8 (h, w, c) with c = 1 (grey) or 3 (RGB), "label": int, "id": int}; the label indexes
    `labels`, the id is unique in the split and stays the same from run to run.
    """

    labels: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def open_source(name: str, split: str, data_dir: str | Path | None = None) -> ImageSource:
    """Open a split of a labelled set of pictures.

    name:
    - "digits": the 1,797 handwritten 8x8 digits bundled with scikit-learn, splits "train" (1,437) and "test" (360).
      The split is fixed: sort the bundle by class, keeping its order within a class; every fifth example, beginning
      with the first, is for the test. Grey values 0..16 become (255 * value + 8) // 16; the id is the bundle's index.
    - "fashion_mnist": 28x28, 10 classes, splits "train" (60,000) and "test" (10,000), from the first place that has it:
      the IDX .gz files in data_dir, those of the Debian package dataset-fashion-mnist, or TFDS, which downloads them.
    - "tfds:NAME": a TFDS set with an "image" and a "label"; NAME as TFDS writes it, with config and version if need be;
      split as TFDS writes it ("train", "train[:90%]"). Read through ArrayRecord files, without TensorFlow; some sets
      need TensorFlow once, to be prepared.

    data_dir: for "fashion_mnist" the folder of the IDX files, else TFDS's folder (its default: ~/tensorflow_datasets).

    Raises ValueError for an unknown name or split and for damaged files, FileNotFoundError where Fashion-MNIST is in
    none of its places, ImportError where scikit-learn or TensorFlow is needed and missing.
    """
    data_dir = None if data_dir is None else Path(data_dir).expanduser()
    if name == "digits":
        return _open_digits(split)
    if name == "fashion_mnist":
        return _open_fashion_mnist(split, data_dir)
    if name.startswith("tfds:"):
        builder = _tfds_builder(name.removeprefix("tfds:"), data_dir)
        return _open_tfds(builder, name, split)
    raise ValueError(f"there is no image source {name!r}; {_nearest(name, SOURCES)}")


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


@dataclass(frozen=True, eq=False)
class TfdsSource:
    """Pictures of a TFDS split, decoded when they are asked for; the id is the index in the split."""

    examples: Sequence[dict[str, Any]]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.examples[index]
        return {"image": np.asarray(example["image"]), "label": int(example["label"]), "id": int(index)}


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
        raise ValueError(f"{path} is not a whole gzip file ({error}); fetch it again") from error
    rank = data[3] if len(data) >= 4 else 0
    if data[:3] != b"\x00\x00\x08" or not rank or len(data) < 4 + 4 * rank:
        raise ValueError(f"{path} does not begin with an IDX header of unsigned bytes; expected a file like MNIST's")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", count=rank, offset=4))
    if len(data) - 4 - 4 * rank != math.prod(shape):
        raise ValueError(
            f"{path} holds {len(data) - 4 - 4 * rank} bytes of data, but its header states {shape}; fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _open_digits(split: str) -> ArraySource:
    _check_split("digits", split, ("train", "test"))
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits are bundled with scikit-learn, which is missing: pip install scikit-learn"
        ) from error
    bundle = load_digits()
    by_class = np.argsort(bundle.target, kind="stable")
    for_test = np.arange(len(by_class)) % 5 == 0
    ids = np.sort(by_class[for_test if split == "test" else ~for_test])
    images = (bundle.images[ids].astype(np.int32) * 255 + 8) // 16
    return ArraySource(images.astype(np.uint8)[..., None], bundle.target[ids], ids, tuple("0123456789"))


def _open_fashion_mnist(split: str, data_dir: Path | None) -> ImageSource:
    _check_split("fashion_mnist", split, ("train", "test"))
    places = [place for place in (data_dir, DEBIAN_FASHION_MNIST) if place is not None]
    for place in places:
        paths = [place / file for file in _fashion_files(split)]
        missing = [path.name for path in paths if not path.is_file()]
        if not missing:
            _log.info("Fashion-MNIST is read from %s", place)
            return _fashion_from_files(*paths)
        if len(missing) == 1:
            raise FileNotFoundError(f"{place} has no {missing[0]}, though it has the other file of the {split} split")
    try:
        return _fashion_from_tfds(split, data_dir)
    except Exception as error:  # a download fails in as many ways as there are networks
        looked = ", ".join([f"{place} (no IDX .gz files)" for place in places] + [f"TFDS ({_first_line(error)})"])
        raise FileNotFoundError(
            f"Fashion-MNIST was not found in {looked}; give the folder of its four .gz files as data_dir, "
            "or on Debian: apt-get install dataset-fashion-mnist"
        ) from error


def _fashion_from_files(image_path: Path, label_path: Path) -> ArraySource:
    images, targets = read_idx(image_path), read_idx(label_path)
    if images.shape[1:] != (28, 28):
        raise ValueError(f"{image_path} has shape {images.shape}; expected (n, 28, 28)")
    if targets.shape != images.shape[:1] or (targets.size and targets.max() >= len(FASHION_LABELS)):
        raise ValueError(f"{label_path} has shape {targets.shape}; expected {len(images)} labels from 0 to 9")
    return ArraySource(images[..., None], targets, np.arange(len(images)), FASHION_LABELS)


def _fashion_from_tfds(split: str, data_dir: Path | None) -> ImageSource:
    import tensorflow_datasets as tfds

    builder = _tfds_builder("fashion_mnist", data_dir)
    if builder.is_prepared():
        _log.info("Fashion-MNIST is read from %s", builder.data_path)
        return _open_tfds(builder, "fashion_mnist", split)
    # TFDS downloads the files without TensorFlow, but needs it to unpack them.
    files = _fashion_files(split)
    urls = [f"{builder.URL}{file}" for file in files]
    folder = Path(builder.data_path).parents[1] / "downloads"
    if not all(any((folder / "fashion_mnist").glob(f"*{Path(file).stem}*.gz")) for file in files):
        # Without a network TFDS tries for minutes before it gives up.
        urllib.request.urlopen(urllib.request.Request(urls[1], method="HEAD"), timeout=10).close()
    manager = tfds.download.DownloadManager(
        download_dir=folder, url_infos=builder.url_infos, dataset_name="fashion_mnist"
    )
    paths = manager.download(urls)
    _log.info("Fashion-MNIST is read from %s", folder)
    return _fashion_from_files(*(Path(path) for path in paths))


def _fashion_files(split: str) -> list[str]:
    prefix = {"train": "train", "test": "t10k"}[split]
    return [f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"]


def _tfds_builder(name: str, data_dir: Path | None):
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        raise ValueError(f"TFDS has no set {name!r}; {_nearest(name, known)}") from error
    except (ValueError, AssertionError, RuntimeError) as error:
        raise ValueError(f"TFDS cannot open {name!r}: {_first_line(error)}") from error


def _open_tfds(builder, name: str, split: str) -> TfdsSource:
    try:
        builder.download_and_prepare()
    except Exception as error:  # TFDS wraps a failed download or import in errors of many kinds
        reason = _first_line(error)
        if isinstance(error, ImportError) or "No module named" in reason:
            raise ImportError(
                f"preparing {name} needs a module once ({reason}); install it, or prepare the set on another machine "
                "with file_format='array_record' and give its folder as data_dir"
            ) from error
        raise OSError(f"TFDS could not prepare {name} ({reason}); check the network and data_dir") from error
    features, splits = dict(builder.info.features.items()), builder.info.splits
    image, label = features.get("image"), features.get("label")
    pictures = image is not None and image.shape[-1:] in ((1,), (3,)) and image.np_dtype == np.uint8
    if not pictures or getattr(label, "names", None) is None:
        raise ValueError(
            f"{name} has the features {sorted(features)}; "
            'expected a uint8 "image" with 1 or 3 channels and a "label" with class names'
        )
    for part in split.split("+"):
        _check_split(name, re.sub(r"\[.*", "", part).strip(), (*splits, "all"))
    try:
        return TfdsSource(builder.as_data_source(split), tuple(label.names))
    except (ValueError, NotImplementedError) as error:
        raise ValueError(f"TFDS cannot read split {split!r} of {name}: {_first_line(error)}") from error


def _check_split(name: str, split: str, known: Iterable[str]) -> None:
    if split not in known:
        raise ValueError(f"{name} has no split {split!r}; expected one of {', '.join(known)}")


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"expected one of {', '.join(known)}" if len(known) < 10 else "tfds.list_builders() lists its sets"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
