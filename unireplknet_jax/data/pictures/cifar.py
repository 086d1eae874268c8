"""CIFAR-10 and CIFAR-100, from their binary versions or from TFDS. (The Python versions are pickles: not read.)"""

from __future__ import annotations

import logging
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unireplknet_jax.data.base import check_split, first_line
from unireplknet_jax.data.pictures.base import ArraySource, ImageSource
from unireplknet_jax.data.pictures.tfds_sets import download, open_tfds, tfds_builder

PIXELS = 3 * 32 * 32
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """A binary version: rows of label_bytes labels, of which the last one counts, and the planes of 32x32 RGB."""

    archive: str
    folder: str
    files: dict[str, tuple[str, ...]]
    names: str
    label_bytes: int
    classes: int


VERSIONS = {
    "cifar10": Version(
        archive="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        files={"train": tuple(f"data_batch_{k}.bin" for k in range(1, 6)), "test": ("test_batch.bin",)},
        names="batches.meta.txt",
        label_bytes=1,
        classes=10,
    ),
    "cifar100": Version(
        archive="cifar-100-binary.tar.gz",
        folder="cifar-100-binary",
        files={"train": ("train.bin",), "test": ("test.bin",)},
        names="fine_label_names.txt",
        label_bytes=2,
        classes=100,
    ),
}


def open_cifar(name: str, split: str, data_dir: Path | None) -> ImageSource:
    """A split of "cifar10" or "cifar100", from data_dir or from TFDS: see `open_source`."""
    version = VERSIONS[name]
    check_split(name, split, version.files)
    if data_dir is not None:
        for place in (data_dir, data_dir / version.folder, data_dir / version.archive):
            found = place.is_file() if place.name.endswith(".tar.gz") else (place / version.names).is_file()
            if found:
                return _read(place, name, split)
    try:
        return _from_tfds(name, split, data_dir)
    except Exception as error:  # a download fails in as many ways as there are networks
        raise FileNotFoundError(
            f"{name} was not found: {data_dir or 'data_dir (not given)'} has neither {version.archive} nor its "
            f"unpacked folder {version.folder}, and TFDS failed ({first_line(error)}); fetch the archive, the binary "
            "version, from https://www.cs.toronto.edu/~kriz/cifar.html"
        ) from error


def _check_whole(place: Path, version: Version, split: str) -> None:
    """Raise FileNotFoundError where one of the files is missing."""
    files = [place] if place.is_file() else [place / file for file in (version.names, *version.files[split])]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"{missing[0]} is missing; unpack {version.archive} again")


def _read(place: Path, name: str, split: str) -> ArraySource:
    """place: the archive or the unpacked folder."""
    version = VERSIONS[name]
    _check_whole(place, version, split)
    wanted = (version.names, *version.files[split])
    content = _unpack(place, wanted) if place.is_file() else {file: (place / file).read_bytes() for file in wanted}
    labels = tuple(content[version.names].decode("utf-8").split())
    if len(labels) != version.classes:
        raise ValueError(f"{version.names} in {place} has {len(labels)} names; expected {version.classes}")
    rows = []
    for file in version.files[split]:
        data, row = content[file], version.label_bytes + PIXELS
        if not data or len(data) % row:
            raise ValueError(f"{file} in {place} has {len(data):,} bytes; expected rows of {row:,}, fetch it again")
        rows.append(np.frombuffer(data, np.uint8).reshape(-1, row))
    table = np.concatenate(rows)
    targets = np.ascontiguousarray(table[:, version.label_bytes - 1])
    if targets.max() >= version.classes:
        raise ValueError(f"{place} has the label {targets.max()}; expected 0 to {version.classes - 1}, fetch it again")
    images = np.ascontiguousarray(table[:, version.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    images.flags.writeable = False  # whoever opens the split gets these arrays
    _log.info("%s is read from %s", name, place)
    return ArraySource(images, targets, np.arange(len(images)), labels)


def _unpack(archive: Path, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """The content of the wanted files of an archive, whatever folder of it they lie in."""
    content = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = Path(member.name).name
                if member.isfile() and name in wanted:
                    content[name] = tar.extractfile(member).read()
            while tar.fileobj.read(1 << 20):  # to the end, where gzip compares its checksum
                pass
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise ValueError(f"{archive} is not a whole .tar.gz file; fetch it again") from error
    missing = [name for name in wanted if name not in content]
    if missing:
        raise ValueError(f"{archive} has no {', '.join(missing)}; expected the binary version")
    return content


def _from_tfds(name: str, split: str, data_dir: Path | None) -> ImageSource:
    builder = tfds_builder(name, data_dir)
    if builder.is_prepared():
        _log.info("%s is read from %s", name, builder.data_path)
        return open_tfds(builder, name, split)
    [archive] = download(builder, list(builder.url_infos))
    return _read(archive, name, split)
