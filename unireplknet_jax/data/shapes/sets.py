"""Labelled shapes with random access: `open_points(name, split)`."""

from __future__ import annotations

import io
import itertools
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unireplknet_jax.data.base import check_split, listed, nearest
from unireplknet_jax.data.files import LabelledFiles, Names, is_left_behind
from unireplknet_jax.data.folder import open_folder
from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.data.shapes.points import SUFFIXES, UPWARDS
from unireplknet_jax.data.shapes.solids import solids_folder
from unireplknet_jax.data.text import lines_of

SOURCES = ("modelnet40", "scanobjectnn", "scanobjectnn_objects", "shape_folder", "solids")
_SCANS = {"scanobjectnn": "objectdataset_augmentedrot_scale75", "scanobjectnn_objects": "objectdataset"}
_HARMLESS = {
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


@dataclass(frozen=True, eq=False)
class PointSource(LabelledFiles):
    """Shapes and their labels; picklable. Example i is {"path", "up", "label", "id": i} and, from arrays, "points".

    names: of shapes in arrays what errors call them. up: the axis, "y" or "z", that points upwards. clouds: (N, 3 or
    more) arrays, or None.
    """

    up: str
    clouds: Sequence[np.ndarray] | None = None

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = super().__getitem__(index) | {"up": self.up}
        return example if self.clouds is None else example | {"points": self.clouds[example["id"]]}


def open_points(name: str, split: str, data_dir: str | Path | None = None, up: str = "z") -> PointSource:
    """Open a split of a labelled set of shapes.

    name:
    - "modelnet40": splits "train" and "test", in the first form that data_dir holds, itself or one folder down:
      modelnet40_SPLIT_8192pts_fps.dat, which the original reads; ply_data_SPLIT*.h5 (2,048 points);
      modelnet40_SPLIT.txt, a list of ids, with CLASS/ID.txt (10,000 points with normals); CLASS/SPLIT/*.off, meshes.
    - "scanobjectnn": PB_T50_RS, its hardest variant, in main_split/training_objectdataset_augmentedrot_scale75.h5 and
      test_...; "scanobjectnn_objects": objects as they were cut out, ..._objectdataset.h5. data_dir holds main_split.
    - "shape_folder": data_dir/split/class/shape, meshes and clouds as `data.shapes.points.read_points` knows them.
    - "solids": generated on first use, see `data.shapes.solids`; into data_dir, if given.
    up: the axis of "shape_folder" that points upwards; the other sets say so themselves.

    Pickles are read with nothing but NumPy's arrays allowed in them. Raises ValueError for an unknown name or split, a
    missing folder or list and a damaged file, FileNotFoundError where no form is there, ImportError without h5py.
    Whether a shape is whole shows when it is read.
    """
    if up not in UPWARDS:
        raise ValueError(f"up is {up!r}; expected 'y' or 'z', the axis that points upwards")
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if name == "solids":
        return _open_shape_folder(split, solids_folder(folder, split), "z")
    if name == "shape_folder":
        return _open_shape_folder(split, folder, up)
    if name not in SOURCES:
        raise ValueError(f"there is no source of shapes {name!r}; {nearest(name, SOURCES)}")
    check_split(name, split, ("train", "test"))
    if folder is None or not folder.is_dir():
        raise ValueError(f"{name} is read from files in data_dir, but there is no folder {folder or 'given'}")
    return _open_scans(name, split, folder) if name in _SCANS else _open_modelnet(split, folder)


def _open_shape_folder(split, root, up):
    files = open_folder(split, root, SUFFIXES, "shape")
    return PointSource(files.folder, files.names, files.targets, files.labels, up)


def _from_arrays(path, clouds, targets, labels):
    """A source of the shapes in one or more files, whose axis y points upwards."""
    targets = np.asarray(targets).reshape(-1)
    if len(targets) != len(clouds):
        raise ValueError(f"{path} has {len(clouds):,} shapes, but {len(targets):,} labels")
    if targets.dtype.kind not in "iu" or (len(targets) and not 0 <= targets.min() <= targets.max() < len(labels)):
        raise ValueError(f"{path} has labels that are not whole numbers from 0 to {len(labels) - 1}")
    names = Names([f"{path} (shape {i})" for i in range(len(clouds))])
    return PointSource("", names, targets.astype(np.int32), labels, "y", clouds)


# ---- ModelNet40


def _open_modelnet(split, folder):
    labels = read_labels("modelnet40")
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not is_left_behind(path.name))
    for place in (folder, *inside):
        pickled, listing = place / f"modelnet40_{split}_8192pts_fps.dat", place / f"modelnet40_{split}.txt"
        if pickled.is_file():
            return _read_pickle(pickled)
        archives = sorted(place.glob(f"ply_data_{split}*.h5"))
        if archives:
            clouds, targets = zip(*(_read_h5(path) for path in archives), strict=True)
            clouds = [*itertools.chain.from_iterable(clouds)]  # of one file or the other there may be more points
            return _from_arrays(str(place), clouds, np.concatenate(targets), labels)
        if listing.is_file():
            return _open_listing(listing, labels)
        meshes = [_meshes(place / label / split) for label in labels]
        if any(meshes):
            names = [str(path.relative_to(place)) for paths in meshes for path in paths]
            targets = np.repeat(np.arange(len(labels), dtype=np.int32), [len(paths) for paths in meshes])
            return PointSource(str(place), Names(names), targets, labels, "z")
    raise FileNotFoundError(
        f"ModelNet40 was not found in {folder}; expected modelnet40_{split}_8192pts_fps.dat, ply_data_{split}*.h5, "
        f"modelnet40_{split}.txt with CLASS/ID.txt, or CLASS/{split}/*.off"
    )


def _meshes(folder):
    return sorted(path for path in folder.glob("*.off") if not is_left_behind(path.name))


def _open_listing(listing, labels):
    ids = [line.strip() for line in lines_of(listing, "one CLASS_0001 a line") if line.strip()]
    classes = [name.rpartition("_")[0] for name in ids]
    unknown = sorted({*classes} - {*labels})
    if unknown or not ids:
        raise ValueError(
            f"{listing} has the unknown class {listed(unknown) or 'of no line'}; expected lines CLASS_0001"
        )
    names = [os.path.join(label, f"{name}.txt") for label, name in zip(classes, ids, strict=True)]
    targets = np.array([labels.index(label) for label in classes], np.int32)
    return PointSource(str(listing.parent), Names(names), targets, labels, "y")


class _RefusedError(pickle.UnpicklingError):
    """A pickle names something that is not read."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _HARMLESS:
            raise _RefusedError(f"it asks for {module}.{name}, and only NumPy arrays are read")
        return super().find_class(module, name)


def _read_pickle(path):
    try:
        clouds, targets = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        clouds = [np.asarray(cloud)[:, :3].astype(np.float32) for cloud in clouds]
        targets = np.array([int(np.asarray(target).reshape(())) for target in targets])
    except OSError:
        raise
    except Exception as error:
        why = str(error) if isinstance(error, _RefusedError) else "it is damaged, or holds something else"
        raise ValueError(f"{path} cannot be read as a pickled pair (list of arrays, list of labels): {why}") from error
    return _from_arrays(str(path), clouds, targets, read_labels("modelnet40"))


# ---- HDF5


def _open_scans(name, split, folder):
    file = f"{ {'train': 'training', 'test': 'test'}[split] }_{_SCANS[name]}.h5"
    for place in (folder / "main_split", folder / "h5_files" / "main_split", folder):
        path = place / file
        if path.is_file():
            return _from_arrays(str(path), *_read_h5(path), read_labels("scanobjectnn"))
    raise FileNotFoundError(f"{folder} has no main_split/{file}; give the folder that h5_files.zip unpacks to")


def _read_h5(path):
    """(clouds (n, N, 3) float32, labels (n,)) of a file with the datasets "data" and "label"."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            f"reading {path} needs h5py, which is missing: pip install 'unireplknet_jax[points]'"
        ) from error
    try:
        with h5py.File(path, "r") as file:
            clouds, targets = file["data"][()], file["label"][()].reshape(-1)
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no whole HDF5 file with data and label; fetch it again") from error
    if clouds.ndim != 3 or clouds.shape[2] < 3 or clouds.dtype.kind not in "fiu":
        raise ValueError(
            f"{path} has {clouds.dtype} data of shape {clouds.shape}; expected (shapes, points, 3) numbers"
        )
    if len(targets) != len(clouds):
        raise ValueError(f"{path} has {len(clouds):,} shapes, but {len(targets):,} labels")
    return clouds[..., :3].astype(np.float32), targets
