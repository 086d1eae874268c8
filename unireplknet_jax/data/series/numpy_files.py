"""Arrays from .npy files, of which nothing is run: pickled ones may hold numbers, texts and times, and nothing else."""

from __future__ import annotations

import datetime
import pickle
from pathlib import Path
from typing import BinaryIO

import numpy as np

from unireplknet_jax.data.arrays import PickledObjectsError, read_array


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file; objects become numbers, texts or datetime64.

    ValueError where the file is missing, damaged or holds other objects.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing; expected an array of NumPy there")
    with path.open("rb") as file:
        try:
            return read_array(file)
        except PickledObjectsError:
            return _objects(path, file)
        except ValueError as error:
            raise ValueError(f"{path} is no array of NumPy ({error})") from error


def _objects(path: Path, file: BinaryIO) -> np.ndarray:
    """The array of objects whose pickle begins where the file is."""
    try:
        return _typed(np.asarray(_Plain(file).load()))
    except OSError:
        raise
    except Exception as error:  # a damaged pickle fails in as many ways as there are types
        why = str(error) if isinstance(error, _RefusedError) else "its pickle is damaged"
        raise ValueError(
            f"{path} holds Python objects that are not read, since they could run code ({why}); save numbers, or times "
            "as datetime64"
        ) from error


def _typed(array: np.ndarray) -> np.ndarray:
    """An array of objects as one of datetime64, texts or float64."""
    if array.dtype != object:
        return array
    first = array.flat[0] if array.size else 0.0
    if isinstance(first, datetime.datetime | datetime.date | np.datetime64):
        return array.astype("datetime64[s]")
    return array.astype(str) if isinstance(first, str) else array.astype(np.float64)


def _timestamp(value, freq=None, tz=None, unit=10):
    """What a pickled pandas.Timestamp stands for; unit: 10 nanoseconds, 9 micro, 8 milli, 7 seconds."""
    del freq, tz
    return np.datetime64(value, {10: "ns", 9: "us", 8: "ms", 7: "s"}[unit])


class _RefusedError(pickle.UnpicklingError):
    """A pickle names something that is not read."""


class _Plain(pickle.Unpickler):
    """Builds arrays and times, and refuses every other name before anything of it is run."""

    def find_class(self, module, name):
        module = module.replace("numpy.core.", "numpy._core.")
        allowed = {
            ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
            ("numpy._core.multiarray", "scalar"): np._core.multiarray.scalar,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("datetime", "datetime"): datetime.datetime,
            ("datetime", "date"): datetime.date,
            ("pandas._libs.tslibs.timestamps", "_unpickle_timestamp"): _timestamp,
            ("_codecs", "encode"): _latin1,
        }
        if (module, name) not in allowed:
            raise _RefusedError(f"it names {module}.{name}")
        return allowed[module, name]


def _latin1(text, encoding):
    if encoding != "latin1":
        raise _RefusedError(f"it asks for the encoding {encoding}")
    return text.encode(encoding)
