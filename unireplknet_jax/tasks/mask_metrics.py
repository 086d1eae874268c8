"""Which class was found for which, pixel by pixel, in integers, and what follows from it: IoU and accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

Counts = list[list[int]]  # [class, class that was found, pixels] of every pair that there is


def confusion(label_map: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) int64: how many pixels of each class, the rows, were taken for each.

    label_map, found: (h, w) class indices. Pixels whose label is below 0 are ignored: they count nowhere.
    Raises ValueError, one sentence, for maps of different sizes and for classes that are not among so many.
    """
    if label_map.shape != found.shape:
        raise ValueError(f"the labels are {_size(label_map)} pixels and what was found is {_size(found)}.")
    counted = label_map >= 0
    true, said = label_map[counted].astype(np.int64), found[counted].astype(np.int64)
    if true.size and not (max(true.max(), said.max()) < classes and said.min() >= 0):
        values = sorted({*np.unique(true).tolist(), *np.unique(said).tolist()} - {*range(classes)})
        raise ValueError(f"the classes {', '.join(map(str, values))} are not among the {classes} from 0 on.")
    return np.bincount(true * classes + said, minlength=classes**2).reshape(classes, classes)


def counts_of(matrix: np.ndarray) -> Counts:
    """A confusion matrix as rows that JSON can hold, of the pairs of classes that it has."""
    true, said = np.nonzero(matrix)
    return np.stack([true, said, matrix[true, said]], axis=-1).tolist()


def summed(counts: Iterable[Counts], classes: int) -> np.ndarray:
    """The confusion matrix (classes, classes) int64 of many pictures, given the `counts_of` each."""
    matrix = np.zeros((classes, classes), np.int64)
    for each in counts:
        true, said, pixels = np.asarray(each, np.int64).reshape(-1, 3).T
        np.add.at(matrix, (true, said), pixels)
    return matrix


def metrics(matrix: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
    """{"miou", "macc", "aacc", "iou/LABEL" ..., "acc/LABEL" ...} in percent, of a whole data set's confusion matrix.

    Of a class: the IoU is the pixels that are and were found as it, divided by those that are it, were found as it, or
    both; the accuracy is the share of its pixels that was found. A class that is nowhere and was found nowhere has no
    IoU, one that is nowhere no accuracy: both are NaN, and are left out of the means over classes, "miou" and "macc".
    "aacc" is the share of all pixels that is right. labels: the names of the classes; () numbers them.
    Raises ValueError where no pixel was counted.
    """
    if not matrix.any():
        raise ValueError("there is nothing to evaluate: no pixel of the data set has a class.")
    right, true, said = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore"):
        iou, acc = 100 * (right / (true + said - right)), 100 * (right / true)
    names = labels or [f"class {index}" for index in range(len(matrix))]
    means = {
        "miou": float(np.nanmean(iou)),
        "macc": float(np.nanmean(acc)),
        "aacc": 100 * (int(right.sum()) / int(true.sum())),
    }
    parts = {"iou": iou, "acc": acc}
    return means | {
        f"{part}/{name}": float(value)
        for part, values in parts.items()
        for name, value in zip(names, values, strict=True)
    }


def _size(found: np.ndarray) -> str:
    return "x".join(map(str, found.shape[::-1]))
