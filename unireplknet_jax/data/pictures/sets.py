"""Labelled pictures with random access: `open_source(name, split)`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unireplknet_jax.data.base import ArraySource, ImageSource, check_split, nearest
from unireplknet_jax.data.folder import open_folder
from unireplknet_jax.data.pictures import cifar
from unireplknet_jax.data.pictures.array_records import open_array_records
from unireplknet_jax.data.pictures.fashion_mnist import FASHION_LABELS as FASHION_LABELS
from unireplknet_jax.data.pictures.fashion_mnist import open_fashion_mnist
from unireplknet_jax.data.pictures.tfds_sets import open_tfds, tfds_builder

SOURCES = ("digits", "fashion_mnist", "cifar10", "cifar100", "folder", "array_record", "tfds:NAME")


def open_source(name: str, split: str, data_dir: str | Path | None = None) -> ImageSource:
    """Open a split of a labelled set of pictures.

    name:
    - "digits": the 1,797 handwritten 8x8 digits bundled with scikit-learn, splits "train" (1,437) and "test" (360).
      The split is fixed: sort the bundle by class, keeping its order within a class; every fifth example, beginning
      with the first, is for the test. Grey values 0..16 become (255 * value + 8) // 16; the id is the bundle's index.
    - "fashion_mnist": 28x28, 10 classes, splits "train" (60,000) and "test" (10,000), from the first place that has it:
      the IDX .gz files in data_dir, those of the Debian package dataset-fashion-mnist, or TFDS, which downloads them.
    - "cifar10", "cifar100": 32x32, splits "train" (50,000) and "test" (10,000); of CIFAR-100 the 100 fine classes.
      From the binary version in data_dir (cifar-100-binary.tar.gz, or unpacked), or from TFDS, which downloads it.
    - "folder": the files data_dir/split/class/picture, in the order of class and path, whose index is the id. The
      labels are the sorted names of the class folders.
    - "array_record": the shards in data_dir/split that `unireplknet shards` has written from any other source.
    - "tfds:NAME": a TFDS set with an "image" and a "label"; NAME as TFDS writes it, with config and version if need be;
      split as TFDS writes it ("train", "train[:90%]"). Read through ArrayRecord files, without TensorFlow; some sets
      need TensorFlow once, to be prepared, and some, like imagenet2012, files that TFDS may not download.

    data_dir: a folder as stated above; for "tfds:NAME" and downloads TFDS's (its default: ~/tensorflow_datasets). For
        "tfds:NAME" it may be an address such as gs://BUCKET/FOLDER, handed to TFDS as it is; for all else mount the
        bucket as a folder.

    Raises ValueError for an unknown name or split, for an address in place of a folder and for damaged files,
    FileNotFoundError where a set is in none of its places, ImportError where a package is needed and missing:
    scikit-learn, TensorFlow, or gcsfs for gs://.
    """
    if name.startswith("tfds:"):
        if not name.removeprefix("tfds:"):
            raise ValueError(f"the image source {name!r} names no set; write one after it, such as tfds:imagenet2012")
        return open_tfds(tfds_builder(name.removeprefix("tfds:"), data_dir), name, split)
    if "://" in str(data_dir):
        raise ValueError(
            f"the data of {name} are files in a folder, and {data_dir} is none; mount the bucket with gcsfuse "
            "(launch/tpu.sh --bucket mounts it at /mnt/data) and give its folder"
        )
    data_dir = None if data_dir is None else Path(data_dir).expanduser()
    if name == "digits":
        return _open_digits(split)
    if name == "fashion_mnist":
        return open_fashion_mnist(split, data_dir)
    if name in cifar.VERSIONS:
        return cifar.open_cifar(name, split, data_dir)
    if name == "folder":
        return open_folder(split, data_dir)
    if name == "array_record":
        return open_array_records(split, data_dir)
    raise ValueError(f"there is no image source {name!r}; {nearest(name, SOURCES)}")


def _open_digits(split: str) -> ArraySource:
    check_split("digits", split, ("train", "test"))
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
