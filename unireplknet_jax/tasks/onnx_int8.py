"""ONNX in integers of 8 bits: convolutions that are calibrated on pictures, as many as the accuracy bears.

Static, weights by output channel, activations by map (`onnxruntime.quantization`); a pair of QuantizeLinear and
DequantizeLinear before each convolution says so, as ONNX Runtime, OpenVINO and TensorRT read it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unireplknet_jax.data.pipeline import eval_batches
from unireplknet_jax.tasks.artefact import Runtime, open_artefact
from unireplknet_jax.tasks.base import Split, Task
from unireplknet_jax.tasks.onnx_file import asked_of_graph
from unireplknet_jax.tasks.sources import named

LOSS = 1.0  # points of top-1 accuracy that may be lost
_MOST = 128  # pictures to calibrate on
_BATCH = 8
# Layers in the order in which they are tried: each kind joins those before it if the accuracy bears that, too.
_KINDS = ("pointwise", "strided", "depthwise")


class Integers(NamedTuple):
    """What became integers: kinds of layers, the top-1 accuracy in percent before and after, pictures, examples."""

    layers: tuple[str, ...]
    before: float
    after: float
    calibrated: int
    examples: int


def quantize(path: Path, task: Task, batch: int | None, pictures: Sequence[Any], split: Split) -> Integers:
    """Replace a graph of float32 by one with integers, the one with the most kinds of layers that keeps its accuracy.

    batch: the one number of examples that the graph takes, None: any. pictures: what to calibrate on, of
    `sources_of`. split: of `Task.open`, of which the accuracy is measured.
    Raises ValueError for a picture that cannot be read, and where every form loses more than `LOSS` points.
    """
    feeds = _feeds(task, pictures, batch or _BATCH)
    before = _accuracy(path, task, split)
    best, kept, lost = None, path.with_suffix(".kept"), 0.0
    for count in range(1, len(_KINDS) + 1):
        tried = path.with_suffix(".tried")
        _write(path, tried, _KINDS[:count], feeds)
        after = _accuracy(tried, task, split)
        if before - after > LOSS:
            lost = before - after
            break
        best = Integers(_KINDS[:count], before, after, min(len(pictures), _MOST), len(split.source))
        os.replace(tried, kept)
    if best is None:
        raise ValueError(
            f"in integers the top-1 accuracy falls from {before:.2f} to {before - lost:.2f} %, by more than "
            f"{LOSS:g} point; nothing was written. Calibrate on pictures like those of the data, or export with --half."
        )
    os.replace(kept, path)
    return best


def _feeds(task: Task, pictures: Sequence[Any], size: int) -> list[dict[str, np.ndarray]]:
    """Batches of what a graph takes, of pictures evenly chosen among all."""
    places = np.unique(np.linspace(0, len(pictures) - 1, min(len(pictures), _MOST)).astype(int))
    images = []
    for place in places:
        try:
            images += [example["image"] for example in task.read(pictures[place])]
        except (ValueError, OSError) as error:
            raise ValueError(named(pictures[place], int(place), str(error))) from error
    whole = [images[start : start + size] for start in range(0, len(images), size)]
    filled = [rows + [rows[-1]] * (size - len(rows)) for rows in whole]
    return [asked_of_graph({"image": np.stack(rows)}) for rows in filled]


def _accuracy(path: Path, task: Task, split: Split) -> float:
    """The top-1 accuracy in percent of a graph on a split, each example once."""
    runtime: Runtime = open_artefact(path, "onnx")[1]
    spec = task.specs(train=False)[0]
    names = (*spec.inputs, *spec.targets, "mask")
    threads = min(os.cpu_count() or 1, 16)
    batches = eval_batches(task.examples(split, train=False), 32, num_threads=threads, arrays=names)
    right = total = 0
    with contextlib.closing(batches):  # type: ignore[type-var]
        for rows in batches:
            found = runtime({name: rows[name] for name in spec.inputs})
            true, said = task.outcomes(found, rows)
            right += int(np.sum((true == said) & (rows["mask"] > 0)))
            total += int(np.sum(rows["mask"]))
    return 100 * right / total


def _write(path: Path, to: Path, kinds: Sequence[str], feeds: Sequence[Mapping[str, np.ndarray]]) -> None:
    from onnxruntime import quantization

    with _quiet():
        quantization.quantize_static(
            path,
            to,
            _Feeds(feeds),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_quantize=_layers(path, kinds),
        )


def _layers(path: Path, kinds: Sequence[str]) -> list[str]:
    """The names of the convolutions of maps of these kinds; those of squeeze and excitation see vectors, not maps."""
    import onnx

    graph = onnx.load(path).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    sides = {tensor.name: tensor.dims[2] for tensor in graph.initializer if len(tensor.dims) == 4}
    found = []
    for node in graph.node:
        if node.op_type != "Conv" or made_by.get(node.input[0]) in ("GlobalAveragePool", "Relu"):
            continue
        groups = next((each.i for each in node.attribute if each.name == "group"), 1)
        kind = "depthwise" if groups > 1 else "pointwise" if sides[node.input[1]] == 1 else "strided"
        if kind in kinds:
            found.append(node.name)
    return found


class _Feeds:
    """As `onnxruntime.quantization.CalibrationDataReader`, which needs onnxruntime where it is defined."""

    def __init__(self, feeds: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._rest = iter(feeds)

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(self._rest, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that it logs of preparing a graph, which ours does not need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
