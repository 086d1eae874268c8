"""PyTorch's `.pth` format since 1.6, read and written without PyTorch and without running anything in the file.

It is a zip archive: `<top>/data.pkl` is a pickle in which every tensor is (storage, offset, shape, strides), and
`<top>/data/<key>` holds the bytes of one storage. The format is that of torch/serialization.py and
caffe2/serialize/inline_container.cc in PyTorch 2.
"""

import contextlib
import dataclasses
import functools
import math
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from unireplknet_jax.models import safe_pickle
from unireplknet_jax.models.safe_pickle import Placeholder

STORAGES = {
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}
STORAGE_OF_DTYPE = {dtype.name: name for name, dtype in STORAGES.items()}
# Named beside tensors without being called.
_KNOWN_NAMES = {*STORAGES, "torch.Tensor", "torch.nn.parameter.Parameter"}

_MAX_PICKLE_BYTES = 2**28
_MAX_DIMS = 32
_MAX_ELEMENTS = 2**48
_MOST_EXPANDED = 2**20
_ALIGNMENT = 64
_LARGE = 2**30
# All that zipfile raises for damaged archives, at times quoting kilobytes of them; RuntimeError covers unsupported
# versions and encryption.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, EOFError, OSError, ValueError, OverflowError)


@dataclasses.dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor that is still in its file.

    shape: tuple of ints. dtype: NumPy dtype (`ml_dtypes.bfloat16` for bfloat16). read: what `numpy()` calls.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray] = dataclasses.field(repr=False)

    def numpy(self) -> np.ndarray:
        """Read the values: a new, C-contiguous array. Raises ValueError where the file is damaged there."""
        return self.read()


@dataclasses.dataclass(frozen=True)
class _Storage:
    member: zipfile.ZipInfo
    dtype: np.dtype
    size: int


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path to the ValueErrors raised within."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error


class TorchZip:
    """A `.pth` archive; it stays open, through its tensors, for as long as one of them lives.

    Raises ValueError, which does not name the file, if it is damaged or not an archive of torch.save.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = path.stat().st_size
        try:
            self.zip = zipfile.ZipFile(path)
            members = self.zip.infolist()
        except _ZIP_ERRORS as error:
            raise ValueError("its zip archive is cut short or damaged; download it again") from error
        self.members = {member.filename: member for member in members}
        if len(self.members) != len(members):
            raise ValueError("its zip archive holds one name twice; download or copy it again")
        if any(name.endswith("/constants.pkl") or "/code/" in name for name in self.members):
            raise ValueError("it is a TorchScript program; save the module's state_dict() with torch.save instead")
        pickles = [name for name in self.members if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            found = f"{len(pickles)} data.pkl"
            raise ValueError(f"its zip archive holds {found} and torch.save writes one; save it with torch.save")
        self.top = pickles[0].removesuffix("data.pkl")
        order = self.members.get(f"{self.top}byteorder")
        byteorder = self._read_member(order, limit=16) if order else b"little"
        if byteorder not in (b"little", b"big"):
            raise ValueError(f"its byte order is {byteorder!r}, and little or big is expected; download it again")
        self.swap = byteorder != sys.byteorder.encode()

    def load(self) -> tuple[Any, set[str]]:
        """(the object in data.pkl with `StoredTensor`s as its tensors, the set of foreign names in it)."""
        functions = {
            "collections.OrderedDict": _ordered_dict,
            "torch.Size": _size,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
        }
        # It gets the functions without itself: a hostile file cannot make it recur.
        functions["torch._tensor._rebuild_from_type_v2"] = functools.partial(_rebuild_from_type, dict(functions))
        data = self._read_member(self.members[f"{self.top}data.pkl"], limit=_MAX_PICKLE_BYTES)
        root, foreign = safe_pickle.load(data, functions, self._storage)
        return root, foreign - _KNOWN_NAMES

    def _read_member(self, member: zipfile.ZipInfo, limit: int | None = None) -> bytes:
        name, size, packed = member.filename, member.file_size, member.compress_size
        if limit is not None and size > limit:
            raise ValueError(f"its {name!r} has {size} bytes, more than any state dict's {limit}; save a state_dict()")
        if member.compress_type == zipfile.ZIP_STORED:
            plausible = size == packed <= self.length
        else:
            plausible = packed <= self.length and size <= 100 * packed + 2**20
        if not plausible or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"its {name!r} claims {size} bytes from {packed} in the file; download or save it again")
        try:
            with self.zip.open(member) as file:
                data = file.read(size)
        except _ZIP_ERRORS as error:
            raise ValueError(f"its {name!r} is damaged; download or copy it again") from error
        if len(data) != size:
            raise ValueError(f"its {name!r} ends after {len(data)} of {size} bytes; download or copy it again")
        return data

    def _storage(self, identity: Any) -> _Storage | Placeholder:
        """The storage of a persistent id ("storage", class, key, device, number of elements)."""
        match identity:
            case ("storage", Placeholder(name), str(key), _, int(size)):
                pass
            case _:
                raise ValueError("a persistent id is not that of a tensor's storage")
        dtype = STORAGES.get(name)
        if dtype is None:
            return Placeholder(name)
        member = self.members.get(f"{self.top}data/{key}")
        if member is None:
            raise ValueError(f"the storage {key[:80]!r} is not in the archive")
        if member.file_size != size * dtype.itemsize:
            raise ValueError(f"the storage {key[:80]!r} has {member.file_size} bytes and its tensors claim otherwise")
        return _Storage(member, dtype, size)

    def _tensor(self, arguments: tuple[Any, ...]) -> StoredTensor | Placeholder:
        match arguments:
            case (Placeholder() as unknown, *_):
                return unknown
            case (_Storage() as storage, int(offset), tuple(shape), tuple(strides), *_):
                _check_layout(storage.size, offset, shape, strides)
                read = functools.partial(self._read_tensor, storage, offset, shape, strides)
                return StoredTensor(shape, storage.dtype, read)
        raise ValueError("a tensor is not described as torch.save does it")

    def _read_tensor(
        self, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> np.ndarray:
        dtype = storage.dtype
        step = dtype.itemsize
        if not math.prod(shape):
            return np.empty(shape, dtype)
        with naming(self.path):
            data: bytes | np.ndarray = self._read_member(storage.member)
        if self.swap:
            data = np.frombuffer(data, f"u{step}").byteswap()
        # A byte other than 0 and 1 is no valid NumPy bool, so bools are converted from bytes.
        kind = np.dtype(np.uint8) if dtype == np.bool_ else dtype
        view = np.ndarray(shape, kind, data, offset * step, [stride * step for stride in strides])
        return np.array(view, dtype, order="C")


def _check_layout(size: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """Refuse a view that leaves its storage of `size` elements or that would take much more memory than it."""
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or len(shape) > _MAX_DIMS or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("a tensor's shape and strides are not two equally long tuples of counts")
    if max(numbers) > _MAX_ELEMENTS or math.prod(max(n, 1) for n in shape) > _MAX_ELEMENTS:
        raise ValueError("a tensor's shape is absurdly large")
    if not math.prod(shape):
        return
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    # One number may stand for many, as `expand` leaves it, but not for so many that they fill the memory.
    if math.prod(shape) > max(size, _MOST_EXPANDED if 0 in strides else 0) or last >= size:
        raise ValueError(f"a tensor of shape {shape} does not fit into its storage of {size} elements")


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[str, Any]:
    match arguments:
        case ():
            return {}
        case ([*pairs],) if all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            return {key: value for key, value in pairs if isinstance(key, str)}
    raise ValueError("an OrderedDict is made from something that is not a list of pairs")


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    match arguments:
        case (tuple(size),):
            return size
    raise ValueError("a torch.Size is made from something that is not a tuple")


def _parameter(arguments: tuple[Any, ...]) -> StoredTensor | Placeholder:
    match arguments:
        case (StoredTensor() | Placeholder() as data, *_):
            return data
    raise ValueError("a parameter is made from something that is not a tensor")


def _rebuild_from_type(functions: Mapping[str, Callable[[tuple[Any, ...]], Any]], arguments: tuple[Any, ...]) -> Any:
    match arguments:
        case (Placeholder(name), _, tuple(inner), *_):
            return functions[name](inner) if name in functions else Placeholder(name)
    raise ValueError("a tensor of a sub-class is not described as torch.save does it")


def native(array: np.ndarray) -> np.ndarray:
    """The same values, C-contiguous and in this machine's byte order."""
    return np.asarray(array, STORAGES[STORAGE_OF_DTYPE[array.dtype.name]], order="C")


def write_zip(path: Path, arrays: Mapping[str, np.ndarray], entry: str, meta: Mapping[str, Any]) -> None:
    """Write {name: array of a dtype in `STORAGES`} as `{entry: OrderedDict}`, one array at a time.

    meta: what stands beside it as "meta", texts, whole numbers and tuples; {}: nothing.
    """
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        _add_member(archive, file, "data.pkl", _state_pickle(arrays, entry, meta))
        _add_member(archive, file, "byteorder", sys.byteorder.encode())
        for key, array in enumerate(arrays.values()):
            _add_member(archive, file, f"data/{key}", native(array).reshape(-1).view(np.uint8).data)
        _add_member(archive, file, "version", b"3\n")


def _add_member(archive: zipfile.ZipFile, file: IO[bytes], name: str, data: bytes | memoryview) -> None:
    """Store `data` so that it begins at a multiple of 64 bytes, because PyTorch can map storages from the file."""
    member = zipfile.ZipInfo(f"archive/{name}")
    large = len(data) >= _LARGE
    # Its local header: 30 bytes, the name, 20 more with zip64, then this padding with 4 bytes of its own.
    begin = file.tell() + 30 + len(member.filename) + 20 * large + 4
    padding = -begin % _ALIGNMENT
    member.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    with archive.open(member, "w", force_zip64=large) as entry:
        entry.write(data)


def _state_pickle(arrays: Mapping[str, np.ndarray], entry: str, meta: Mapping[str, Any]) -> bytes:
    """The pickle, in protocol 2, of {entry: OrderedDict of tensors}; tensor number i is all of storage i."""
    ordered_dict = _global("collections.OrderedDict") + b")R"
    parts = [b"\x80\x02}"]
    if meta:
        items = b"".join(_pickled(name) + _pickled(value) for name, value in meta.items())
        parts += [_pickled("meta"), b"}(", items, b"us"]
    parts += [_pickled(entry), ordered_dict, b"("]
    for key, (name, array) in enumerate(arrays.items()):
        storage = _global(STORAGE_OF_DTYPE[array.dtype.name])
        identity = [_pickled("storage"), storage, _pickled(str(key)), _pickled("cpu"), _pickled(array.size)]
        strides = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
        layout = [_pickled(0), _pickled(array.shape), _pickled(strides)]
        arguments = [b"((", *identity, b"tQ", *layout, b"\x89", ordered_dict, b"t"]
        parts += [_pickled(name), _global("torch._utils._rebuild_tensor_v2"), *arguments, b"R"]
    return b"".join([*parts, b"us."])


def _global(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def _pickled(value: str | int | tuple[Any, ...]) -> bytes:
    """The instructions that push a string, a count or a tuple of such."""
    if isinstance(value, str):
        text = value.encode()
        return b"X" + struct.pack("<I", len(text)) + text
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value) if value < 2**31 else b"\x8a\x08" + struct.pack("<q", value)
    return b"(" + b"".join(map(_pickled, value)) + b"t"
