"""Arrays in NumPy's .npy format, of which nothing is run, and no more memory is taken than the file has bytes."""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
import zlib
from typing import BinaryIO

import numpy as np


class PickledObjectsError(ValueError):
    """An array holds Python objects, which only a pickle could give."""


def read_array(file: BinaryIO) -> np.ndarray:
    """The array of an open .npy file.

    Raises PickledObjectsError for one of Python objects, ValueError, which does not name the file, for what is no whole
    array.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    header = read_header(file)
    if header is None:
        raise ValueError("it is no array of NumPy")
    shape, dtype = header
    if dtype.hasobject:
        raise PickledObjectsError("it holds Python objects and no numbers; save numbers")
    if math.prod(shape) * dtype.itemsize > size - file.tell():
        raise ValueError("it is cut short; copy it again")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def read_only_array(file: BinaryIO) -> np.ndarray:
    """The one array of an open .npz file; ValueError, which does not name the file, for another number of them."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) != 1:
                raise ValueError(f"it has {len(members)} arrays, not one")
            if members[0].file_size > 100 * members[0].compress_size + 2**20:
                raise ValueError("it claims to hold far more than the file can; save it again, uncompressed")
            data = io.BytesIO(archive.read(members[0]))
    except (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, EOFError, OverflowError) as error:
        raise ValueError("it is cut short or damaged; copy it again") from error
    return read_array(data)


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype] | None:
    """(shape, dtype) of an open .npy file, which is left where the values begin; None for no such file."""
    try:
        version = np.lib.format.read_magic(file)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        shape, _, dtype = read(file)
    except Exception:  # a damaged header fails in as many ways as Python's own parser
        return None
    return (shape, dtype) if all(isinstance(n, int) and n >= 0 for n in shape) else None
