"""PyTorch state dicts in `.pth` and `.safetensors` files, without PyTorch and without running anything in the file."""

from __future__ import annotations

import functools
import os
import re
import shlex
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from unireplknet_jax.models.safe_pickle import Placeholder
from unireplknet_jax.models.torch_zip import STORAGE_OF_DTYPE, StoredTensor, TorchZip, naming, native, write_zip

if TYPE_CHECKING:
    from jax.typing import ArrayLike

__all__ = ["Placeholder", "StoredTensor", "read_state_dict", "write_state_dict"]

_LAYOUTS = ("model", "state_dict", "module", "model_state_dict", "net")
_EMA_LAYOUTS = ("model_ema", "state_dict_ema", "ema_state_dict")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
_SAFETENSORS_DTYPES = {
    **{"F16": np.float16, "F32": np.float32, "F64": np.float64, "BF16": ml_dtypes.bfloat16, "BOOL": np.bool_},
    **{"I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64, "U8": np.uint8},
}


def read_state_dict(
    path: str | os.PathLike[str], ema: bool = False, prefix: str = ""
) -> tuple[dict[str, StoredTensor | Placeholder], list[str]]:
    """Read a state dict; returns ({name: StoredTensor | Placeholder}, notes), the notes being lines for a log.

    path: a `.pth` of PyTorch 1.6 or later, or a `.safetensors`. The state dict is the first of the file's
    entries "model", "state_dict", "module", "model_state_dict" and "net", else the file itself; with `ema` it is
    "model_ema", "state_dict_ema" or "ema_state_dict". A prefix "module." which all names carry is removed. prefix: what
    lies below it alone, "teacher.", is taken, of that state dict, or else of the file's entries, whose keys are
    prefixes, too; it is removed. Optimizer states and other extras are never read. A name whose value depends on a
    class or function that only running the file could provide comes as a `Placeholder`.

    Raises ValueError, naming the file, if it is of another kind, damaged or without tensors; ImportError if a
    `.safetensors` lacks its library.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(512)
    with naming(path):
        root, foreign = _load(path, head)
        state = _below(root, ema, prefix) if prefix else _pick(root, ema)
    entries = {name: value for name, value in state.items() if _is_entry(name, value)}
    notes = []
    if foreign:
        notes.append(f"ignored, never imported: {_listed(sorted(foreign))}")
    if len(entries) < len(state):
        dropped = [ascii(name) for name, value in state.items() if not _is_entry(name, value)]
        notes.append(f"dropped, not tensors: {_listed(dropped)}")
    while entries and all(name.startswith("module.") for name in entries):
        entries = {name.removeprefix("module."): value for name, value in entries.items()}
    return entries, notes


def read_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The plain values in the entry "meta" of a `.pth`, as MMCV and MMEngine write it; {} where there is none.

    Texts, numbers, lists of them, and dicts of these; whatever else is in it is left out, and nothing is run.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(512)
    with naming(path):
        root = _load(path, head)[0]
    meta = root.get("meta") if isinstance(root, dict) else None
    if not isinstance(meta, dict):
        return {}
    named = {name: value for name, value in meta.items() if isinstance(name, str)}
    inner = {name: _plain(value) for name, value in named.items() if isinstance(value, dict)}
    return _plain(named) | inner


def _plain(found: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if isinstance(name, str) and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, str | int | float)


def _is_entry(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, StoredTensor | Placeholder)


def _listed(names: Sequence[str], limit: int = 50) -> str:
    shown = [name[:100] for name in names[:limit]]
    return ", ".join(shown) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _load(path: Path, head: bytes) -> tuple[Any, set[str]]:
    """(what the file holds, the foreign names in it)."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return TorchZip(path).load()
    if not head:
        raise ValueError("it is empty; download or copy it again")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError("it is a Git LFS pointer and not the file itself; fetch that with `git lfs pull`")
    if head.startswith(b"\x1f\x8b"):
        raise ValueError("it is packed by gzip; unpack it with `gunzip` first")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith((b"<?xml", b"{", b"[")):
        raise ValueError("it is a text, perhaps a server's message, and no tensors; download it again")
    if text.lower().startswith((b"<!doctype", b"<html")):
        raise ValueError("it is a web page and not the file itself; download it again from the link of the file")
    if _LEGACY_MAGIC in head[:32]:
        command = _resave_command(path)
        raise ValueError(f"it is in PyTorch's format before 1.6; re-save it where PyTorch is installed: {command}")
    if path.suffix.lower() == ".safetensors" or head[8:10] == b'{"':
        return _load_safetensors(path), set()
    if head.startswith(b"\x80"):
        raise ValueError("it is a bare pickle and not what torch.save writes; save a state_dict() with torch.save")
    raise ValueError(
        "it is neither what torch.save writes nor a .safetensors file; check the path or download it again"
    )


def _resave_command(path: Path) -> str:
    target = path.with_name(f"{path.stem}_zip{path.suffix}")
    code = f"import torch; torch.save(torch.load({str(path)!r}, map_location='cpu'), {str(target)!r})"
    special = set(code) & set('"$`!\\')
    return "python -c " + (shlex.quote(code) if special else f'"{code}"')


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        message = ".safetensors files need the safetensors library, which is missing: pip install safetensors"
        raise ImportError(message) from error
    return safetensors


def _load_safetensors(path: Path) -> dict[str, StoredTensor | Placeholder]:
    library = _safetensors()
    state: dict[str, StoredTensor | Placeholder] = {}
    try:
        file = library.safe_open(path, framework="numpy")
        for name in file.keys():  # noqa: SIM118 (the handle is not iterable)
            entry = file.get_slice(name)
            kind, shape = entry.get_dtype(), tuple(entry.get_shape())
            if kind in _SAFETENSORS_DTYPES:
                read = functools.partial(_read_safetensor, path, file, name)
                state[name] = StoredTensor(shape, np.dtype(_SAFETENSORS_DTYPES[kind]), read)
            else:
                state[name] = Placeholder(f"safetensors.{kind}")
    except (library.SafetensorError, OSError) as error:
        raise ValueError("it is not a sound .safetensors file, or is cut short; download or copy it again") from error
    return state


def _read_safetensor(path: Path, file: Any, name: str) -> np.ndarray:
    try:
        return np.array(file.get_tensor(name))
    except (_safetensors().SafetensorError, OSError) as error:
        raise ValueError(f"cannot read {path}: {name!r} is damaged; download or copy it again") from error


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(
        isinstance(name, str) and isinstance(item, StoredTensor) for name, item in value.items()
    )


def _pick(root: Any, ema: bool) -> dict[Any, Any]:
    """The state dict in what a file holds."""
    if isinstance(root, Placeholder):
        raise ValueError(f"it holds a pickled {root.name} object and not tensors; save its state_dict() instead")
    if not isinstance(root, dict):
        raise ValueError(f"it holds a {type(root).__name__} and not a dict of tensors; save a state_dict() instead")
    # The nested entries come first: tensors beside a "model" (a best score, say) are extras, not a bare state dict.
    for key in _EMA_LAYOUTS if ema else _LAYOUTS:
        if _holds_tensors(root.get(key)):
            return root[key]
    if not ema and _holds_tensors(root):
        return root
    keys = [_described(key, value) for key, value in root.items()]
    found = f"its top-level keys are {_listed(keys)}" if keys else "its top level is empty"
    if networks := _prefixes(_flat(root)):
        found += f", and networks are below the prefixes {_listed(networks)}, of which one may be asked for"
    places = ", ".join(map(repr, _EMA_LAYOUTS if ema else _LAYOUTS))
    if ema:
        raise ValueError(f"no dict of tensors is under {places}, {found}; load it without the EMA")
    raise ValueError(f"no dict of tensors is at its top level or under {places}, {found}; save a state_dict()")


def _below(root: Any, ema: bool, prefix: str) -> dict[str, Any]:
    """{name: value} of what lies below a prefix in the state dict, else in what the file holds."""
    prefix = prefix.strip(".") + "."
    try:
        states = [_pick(root, ema)]
    except ValueError:
        if not isinstance(root, dict):
            raise
        states = []
    states.append(_flat(root))
    for state in states:
        named = {name: value for name, value in state.items() if isinstance(name, str)}
        for outer in ("", "module."):
            found = {
                name.removeprefix(outer + prefix): value
                for name, value in named.items()
                if name.startswith(outer + prefix)
            }
            if any(isinstance(value, StoredTensor) for value in found.values()):
                return found
    known = _prefixes(states[0]) or _prefixes(states[-1])
    where = f"there are networks below {_listed(known)}" if known else "there is no network below any prefix in it"
    raise ValueError(f"no tensor is below the prefix {prefix[:100]}, but {where}; give one of these, or none")


def _flat(root: Any) -> dict[Any, Any]:
    """{name: value} of a file's dict and of the dicts in it, whose keys stand before the names."""
    flat = dict(root) if isinstance(root, dict) else {}
    for key, inner in [*flat.items()]:
        if isinstance(key, str) and isinstance(inner, dict):
            flat |= {f"{key}.{name}": value for name, value in inner.items() if isinstance(name, str)}
    return flat


def _prefixes(state: Mapping[Any, Any]) -> list[str]:
    """The prefixes of names below which the blocks of a network lie, "teacher." for one; none for names without."""
    names = [name for name, value in state.items() if isinstance(name, str) and isinstance(value, StoredTensor)]
    found = (re.match(r"(.+?\.)stages\.0\.", name[:300]) for name in names)
    return [*dict.fromkeys(match[1] for match in found if match)]


def networks_below(state: Mapping[str, StoredTensor]) -> str:
    """The end of a sentence about a state dict that is no network: the prefixes below which there are some."""
    found = _prefixes(state)
    return f"; networks are below the prefixes {_listed(found)}, of which one may be asked for" if found else ""


def _described(key: Any, value: Any) -> str:
    kind = f" (a {value.name} object)" if isinstance(value, Placeholder) else ""
    return f"{ascii(key)[:100]}{kind}"


def write_state_dict(
    path: str | os.PathLike[str],
    arrays: Mapping[str, ArrayLike],
    entry: str = "model",
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write {name: array} as `{entry: OrderedDict}` in a `.pth` of PyTorch 1.6 or later, or as `.safetensors`.

    path: its suffix chooses the format; an existing file is replaced, and only when the new one is complete. arrays:
    in PyTorch's layout already; float16/32/64, bfloat16, int8 to int64, uint8 or bool. meta: {name: texts, whole
    numbers and tuples of them} for an entry "meta" of a `.pth`, which `torch.load(path, weights_only=True)` takes.
    Raises ValueError for another suffix or dtype, FileNotFoundError for a missing folder, ImportError if
    `.safetensors` lacks its library.
    """
    path = Path(path)
    writers: dict[str, Callable[..., None]] = {
        ".pth": functools.partial(write_zip, entry=entry, meta=meta or {}),
        ".safetensors": _write_safetensors,
    }
    if path.suffix.lower() not in writers:
        raise ValueError(f"cannot write {path}: its name ends neither in .pth nor in .safetensors, so choose another")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: its folder does not exist, so create {path.parent} first")
    values = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in values.items():
        if array.dtype.name not in STORAGE_OF_DTYPE:
            known = ", ".join(sorted(STORAGE_OF_DTYPE))
            raise ValueError(f"cannot write {path}: {name!r} is {array.dtype}, so convert it to one of {known}")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        writers[path.suffix.lower()](temporary, values)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    # The library writes the buffers of strided arrays as they lie in memory, so `native` is not only for byte order.
    _safetensors().numpy.save_file({name: native(array) for name, array in arrays.items()}, path, {"format": "pt"})
