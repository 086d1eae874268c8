"""Artefacts: what `export` makes of a checkpoint for another runtime, told apart, opened and run.

Each carries the card of its checkpoint in its own metadata, so that nothing has to be known beside the file.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from unireplknet_jax.models.directory import CARD

Arrays = Mapping[str, np.ndarray]  # {name: (n, ...)}
Kind = tuple[tuple[str, tuple[int, ...]], ...]
Run = Callable[[Arrays], dict[str, np.ndarray]]


class Format(NamedTuple):
    """A kind of artefact.

    suffix: how the names of its files end. module: of this package, what writes and opens it. writing, running: the
    libraries that each needs beside jax; extra: of this package, which brings them. tasks: those whose networks it
    can hold, () for all. beside: the endings of further files that belong to one. marks: of a folder in place of a
    file, what is in each; the suffix is "" then.
    """

    suffix: str
    module: str
    writing: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    extra: str = ""
    tasks: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


_PICTURES = ("classification", "segmentation")
FORMATS: Mapping[str, Format] = {
    "stablehlo": Format(".stablehlo", "stablehlo_file"),
    "onnx": Format(".onnx", "onnx_file", ("onnx",), ("onnxruntime",), "export", _PICTURES),
    "openvino": Format(".xml", "openvino_file", ("onnx", "openvino"), ("openvino",), "openvino", _PICTURES, (".bin",)),
    "litert": Format(
        ".tflite", "litert_file", ("litert_converter",), ("ai_edge_litert",), "litert", ("classification",)
    ),
    "web": Format(
        *("", "web_folder", ("onnx",), ("onnxruntime",), "export", _PICTURES),
        marks=("index.html", "network.js", "network.onnx"),
    ),
    "triton": Format(
        *("", "triton_folder", ("onnx",), ("onnxruntime",), "export", _PICTURES), marks=("config.pbtxt", "1/model.onnx")
    ),
}


class Runtime:
    """An artefact in its own runtime: {name: (n, ...)} of a task's inputs -> what `Task.predict` gives of them.

    name: of the runtime, with its version. kinds: the shapes of the examples that it takes, {name: shape} each. batch:
    the one number of examples that it takes at a time, to which others are brought; None: any.
    """

    def __init__(self, name: str, run: Run, kinds: Sequence[Mapping[str, Sequence[int]]], batch: int | None) -> None:
        self.name, self._run, self._kinds, self.batch = name, run, [*map(kind_of, kinds)], batch

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        kind = kind_of({name: value.shape[1:] for name, value in inputs.items()})
        if kind not in self._kinds:
            known = " or ".join(map(_shown, self._kinds))
            raise ValueError(f"what was exported takes {known}, and not {_shown(kind)}; export it for that, too.")
        size, count = self.batch, len(next(iter(inputs.values())))
        if size is None:
            return self._run(inputs)
        parts = []
        for start in range(0, count, size):
            own = {name: value[start : start + size] for name, value in inputs.items()}
            missing = size - min(size, count - start)
            parts.append(self._run({name: _with_more(value, missing) for name, value in own.items()}))
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


def kind_of(shapes: Mapping[str, Sequence[int]]) -> Kind:
    """What has to be the same of examples that a program takes, of their shapes by name."""
    return tuple((name, tuple(shapes[name])) for name in sorted(shapes))


def _shown(kind: Kind) -> str:
    return ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in kind)


def _with_more(value: np.ndarray, missing: int) -> np.ndarray:
    return np.pad(value, [(0, missing)] + [(0, 0)] * (value.ndim - 1))


def format_of(path: str | os.PathLike[str]) -> str | None:
    """The format of a file, by its content, where that tells, else by the ending of its name, or of a folder, by its
    files; None: no artefact.
    """
    path = Path(path)
    if path.is_dir():
        folders = ((name, form.marks) for name, form in FORMATS.items() if form.marks)
        return next((name for name, marks in folders if all((path / mark).is_file() for mark in marks)), None)
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(b"PK"):
        return "stablehlo" if _has_card(path) else None
    if head[4:8] == b"TFL3":
        return "litert"
    return next((name for name in ("onnx", "openvino") if path.suffix.lower() == FORMATS[name].suffix), None)


def _has_card(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return CARD in file.namelist()
    except zipfile.BadZipFile:  # whoever reads it as a checkpoint of PyTorch says what is wrong with it
        return False


def module_of(name: str, to: str) -> ModuleType:
    """The module that writes and opens a format; ImportError, one sentence, where its libraries are missing.

    to: what for, "write" or "run".
    """
    form = FORMATS[name]
    for library in form.writing + form.running if to == "write" else form.running:
        if importlib.util.find_spec(library) is None:
            raise ImportError(
                f"the format {name} needs {library}, which is not installed: "
                f"pip install 'unireplknet_jax[{form.extra}]' (in a clone: -e '.[{form.extra}]')."
            )
    return importlib.import_module(f"{__package__}.{form.module}")


def open_artefact(path: str | os.PathLike[str], name: str) -> tuple[dict[str, Any], Runtime]:
    """(the card, the artefact in its runtime) of a file of a format; ValueError for one that cannot be run."""
    module = module_of(name, "run")
    missing = [Path(path).with_suffix(suffix) for suffix in FORMATS[name].beside]
    missing = [file for file in missing if not file.is_file()]
    if missing:
        raise ValueError(f"{missing[0]} is missing, which belongs to {path}; copy both, or export it again.")
    try:
        card, runtime, run = module.opened(Path(path))
        opened = None if card is None else Runtime(runtime, run, card["kinds"], card["batch"])
    except Exception as error:  # every runtime has its own for a file that is damaged
        lines = [line for line in str(error).splitlines() if not line.startswith("Exception from")]  # OpenVINO's source
        why = next(filter(None, lines), type(error).__name__).rstrip(".")
        raise ValueError(f"{path} cannot be read as {name}: {why}; export it again.") from error
    if opened is None:
        raise ValueError(
            f"{path} has no card of this package in it, which says what its inputs and outputs mean; "
            "give what `unireplknet export` wrote."
        )
    return card, opened
