"""Archives as torch.save writes them, made by plain Python: also hostile and damaged ones, and without PyTorch."""

import dataclasses
import io
import pickle
import zipfile

import numpy as np
import pytest

from unireplknet_jax.models.torch_archive import read_state_dict

DTYPES = ["float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool"]
_CLASSES = ["Float", "Double", "Half", "BFloat16", "Char", "Short", "Int", "Long", "Byte", "Bool"]
KINDS = dict(zip(DTYPES, _CLASSES, strict=True))
ONE, TWO, THREE = (np.full(2, value, np.float32) for value in (1, 2, 3))


class Name:
    """A class or function by its name alone: it need not exist where the pickle is made."""

    def __init__(self, name):
        self.module, _, self.attribute = name.rpartition(".")

    def __call__(self):
        raise AssertionError("only named, never called")


@dataclasses.dataclass
class Call:
    """Pickled as an instruction to call `name` with `arguments`, then to set `state` on what it returned."""

    name: str
    arguments: tuple
    state: object = None

    def __reduce__(self):
        return (Name(self.name), self.arguments, *(() if self.state is None else (self.state,)))


@dataclasses.dataclass(eq=False)
class Storage:
    values: np.ndarray
    size: int | None = None
    kind: str | None = None
    key: str = ""


class Pickler(pickle._Pickler):
    """Writes `Name`s without importing them and `Storage`s as persistent ids, collecting them in `self.storages`."""

    def __init__(self, file, protocol):
        super().__init__(file, protocol, fix_imports=False)
        self.storages = {}

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        if obj not in self.storages:
            obj.key = str(len(self.storages))
            self.storages[obj] = obj.values
        kind = Name(f"torch.{obj.kind or KINDS[obj.values.dtype.name]}Storage")
        return ("storage", kind, obj.key, "cpu", obj.values.size if obj.size is None else obj.size)

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Name) and self.proto >= 4:
            super().save(obj.module)
            super().save(obj.attribute)
            self.write(pickle.STACK_GLOBAL)
        elif isinstance(obj, Name):
            self.write(f"c{obj.module}\n{obj.attribute}\n".encode())
        else:
            super().save(obj, save_persistent_id)


def view(storage, shape, strides, offset=0):
    return Call("torch._utils._rebuild_tensor_v2", (storage, offset, shape, strides, False, {}))


def tensor(values):
    values = np.asarray(values, order="C")
    strides = tuple(stride // values.itemsize for stride in values.strides)
    return view(Storage(values.reshape(-1)), values.shape, strides)


def parts_of(root, protocol=2, top="archive"):
    """The members of the archive that torch.save would write for `root`: {name: bytes}."""
    file = io.BytesIO()
    pickler = Pickler(file, protocol)
    pickler.dump(root)
    members = {f"{top}/data.pkl": file.getvalue(), f"{top}/byteorder": b"little", f"{top}/version": b"3\n"}
    return members | {f"{top}/data/{storage.key}": values.tobytes() for storage, values in pickler.storages.items()}


def pack(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def save(path, root, **options):
    return pack(path, parts_of(root, **options))


def values_of(state):
    return {name: entry.numpy() for name, entry in state.items()}


def assert_same(got, wanted):
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].shape == array.shape, name
        assert got[name].tobytes() == array.tobytes(), name


def sentence(path, **options):
    """The one sentence with which `path` is refused, after the part that names it."""
    with pytest.raises(ValueError, match=r"^cannot read ") as caught:
        values_of(read_state_dict(path, **options)[0])
    opening = f"cannot read {path}: "
    text = str(caught.value)
    assert text.startswith(opening)
    assert "\n" not in text
    assert len(text) < 1000
    return text.removeprefix(opening)
