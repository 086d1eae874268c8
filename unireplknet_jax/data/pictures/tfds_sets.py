"""The sets of TensorFlow Datasets, read from their ArrayRecord files without TensorFlow."""

from __future__ import annotations

import os
import re
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unireplknet_jax.data.base import check_split, first_line, nearest
from unireplknet_jax.data.files import EncodedFile


@dataclass(frozen=True, eq=False)
class TfdsSource:
    """Pictures of a TFDS split, as the bytes that TFDS stores; the id is the index in the split."""

    examples: Sequence[dict[str, Any]]
    labels: tuple[str, ...]
    name: str

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        indices = [range(len(self))[index] for index in indices]
        return [
            {
                "image": EncodedFile(example["image"], f"example {index} of {self.name}"),
                "label": int(example["label"]),
                "id": index,
            }
            for index, example in zip(indices, self.examples.__getitems__(indices), strict=True)
        ]

    def contents(self) -> dict[str, list[int]]:
        """As `data.base.Source` says: a set of TFDS is known by its name."""
        return {}


def tfds_builder(name: str, data_dir: str | Path | None):
    """The TFDS builder of a set, for ArrayRecord files; data_dir may be an address such as gs://BUCKET/FOLDER.

    Raises ValueError for an unknown or unreadable one.
    """
    import tensorflow_datasets as tfds

    try:
        data_dir = data_dir and os.path.expanduser(data_dir)  # not a Path, which would make gs:/ of gs://
        return tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        raise ValueError(
            f"TFDS has no set {name!r}; {nearest(name, known, 'tfds.list_builders() lists its sets')}"
        ) from error
    except (ValueError, AssertionError, RuntimeError) as error:
        if "File format is already set" in str(error):
            raise ValueError(
                f"{name} is prepared, but not as ArrayRecord files; convert it once, where TensorFlow is installed: "
                "tfds convert_format --dataset_version_dir=DIR/NAME/VERSION --out_file_format=array_record "
                "--out_dir=OTHER/NAME/VERSION, and give OTHER as data_dir"
            ) from error
        raise ValueError(f"TFDS cannot open {name!r}: {first_line(error)}") from error


def open_tfds(builder, name: str, split: str) -> TfdsSource:
    """A split of a set, which is downloaded and prepared first where that can be done: see `open_source`."""
    import tensorflow_datasets as tfds

    if not builder.is_prepared():
        _prepare(builder, name)
    features, splits = dict(builder.info.features.items()), builder.info.splits
    image, label = features.get("image"), features.get("label")
    pictures = image is not None and image.shape[-1:] in ((1,), (3,)) and image.np_dtype == np.uint8
    if not pictures or getattr(label, "names", None) is None:
        raise ValueError(
            f"{name} has the features {sorted(features)}; "
            'expected a uint8 "image" with 1 or 3 channels and a "label" with class names'
        )
    for part in split.split("+"):
        check_split(name, re.sub(r"\[.*", "", part).strip(), (*splits, "all"))
    try:
        examples = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except (ValueError, NotImplementedError) as error:
        raise ValueError(f"TFDS cannot read split {split!r} of {name}: {first_line(error)}") from error
    return TfdsSource(examples, tuple(label.names), f"the {split} split of {name}")


def download(builder, urls: Sequence[str]) -> list[Path]:
    """Files of a set, from its site or from an earlier download, not unpacked: for that TFDS needs TensorFlow."""
    import tensorflow_datasets as tfds

    folder = _data_dir(builder) / "downloads"
    names = [Path(url).name.split(".")[0] for url in urls]
    if not all(any((folder / builder.name).glob(f"*{name}*.gz")) for name in names):
        # Without a network TFDS tries for minutes before it gives up.
        urllib.request.urlopen(urllib.request.Request(urls[-1], method="HEAD"), timeout=10).close()
    manager = tfds.download.DownloadManager(download_dir=folder, url_infos=builder.url_infos, dataset_name=builder.name)
    return [Path(path) for path in manager.download(list(urls))]


def _prepare(builder, name: str) -> None:
    manual = _data_dir(builder) / "downloads" / "manual"
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not (manual.is_dir() and any(manual.iterdir())):
        raise FileNotFoundError(f"{name} is not prepared, and {manual} is empty; {_by_hand(builder, manual)}")
    try:
        builder.download_and_prepare()
    except Exception as error:  # TFDS wraps a failed download or import in errors of many kinds
        reason = first_line(error)
        todo = f"; {_by_hand(builder, manual)}" if builder.MANUAL_DOWNLOAD_INSTRUCTIONS else ""
        if isinstance(error, ImportError) or "No module named" in reason:
            raise ImportError(
                f"preparing {name} needs a module once ({reason}); install it, or prepare the set on another machine "
                f"with file_format='array_record' and give its folder as data_dir{todo}"
            ) from error
        raise OSError(f"TFDS could not prepare {name} ({reason}); check the network and data_dir{todo}") from error


def _by_hand(builder, manual: Path) -> str:
    """What the user has to do for a set that may not be downloaded without a login."""
    arguments = f"'{builder.info.full_name}', data_dir='{_data_dir(builder)}', file_format='array_record'"
    command = (
        'pip install tensorflow && python -c "import tensorflow_datasets as tfds; '
        f'tfds.builder({arguments}).download_and_prepare()"'
    )
    if builder.name == "imagenet2012":
        return (
            "download ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org/download-images "
            f"(after a login) into that folder and run once: {command}; or unpack them as train/CLASS/*.JPEG and "
            'val/CLASS/*.JPEG and use the source "folder", which needs no TensorFlow'
        )
    instructions = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
    return f"{instructions.rstrip('.')} (that folder is the manual_dir), then run once: {command}"


def _data_dir(builder):
    """TFDS's folder, an epath.Path: a set lies in NAME/VERSION or NAME/CONFIG/VERSION below it."""
    return builder.data_path.parents[builder.info.full_name.count("/")]
