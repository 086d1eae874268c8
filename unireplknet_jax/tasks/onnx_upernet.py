"""UPerNet as an ONNX graph: pictures in the upper left of one canvas, whose sizes are a second input.

Maps are resized by products with matrices, one for the rows and one for the columns of each picture, which the graph
makes of the sizes, as `ops.resize` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto

from unireplknet_jax.nn.upernet import POOL_SCALES
from unireplknet_jax.ops.layers import BATCH_NORM_EPS
from unireplknet_jax.tasks.onnx_graph import Graph, Tree, Valid, maps_of, normalized, only_valid

_LEVELS = 4
_ACROSS = (False, True)  # of the rows and of the columns


class _Axis(NamedTuple):
    """The rows or columns of a map: how many it has, and the name of how many each picture has, (n, 1) int64."""

    length: int
    valid: str


class _Level(NamedTuple):
    """A map (n, c, h, w) and where its pictures are."""

    map: str
    valid: Valid
    axes: tuple[_Axis, _Axis]


def logits_of(
    graph: Graph, image: str, size: str, canvas: Sequence[int], depths: Sequence[int], variables: Tree, task: Any
) -> str:
    """ "logits" (n, classes, h / 4, w / 4) of the merged variables of a `UPerNet`.

    image: (n, 3, h, w) uint8, of the canvas (h, w); size: (n, 2), rows and columns of each picture; task: of which mean
    and deviation are taken.
    """
    sizes = graph.node("Cast", size, to=TensorProto.INT64)
    axes, valid = [], []
    for halvings in range(_LEVELS + 2):
        if halvings:
            rounded = graph.node("Add", sizes, graph.value([1]))
            sizes = graph.node("Div", rounded, graph.value([2]))
        lengths = [-(-side // 2**halvings) for side in canvas]
        own = [graph.node("Gather", sizes, graph.value([axis]), axis=1) for axis in range(2)]
        axes.append((_Axis(lengths[0], own[0]), _Axis(lengths[1], own[1])))
        valid.append(_valid_of(graph, axes[-1]))
    pixels = only_valid(graph, normalized(graph, image, task.mean, task.std), valid[0])
    params, statistics = variables["params"], variables["batch_stats"]
    maps = maps_of(graph, pixels, params["backbone"], depths, valid)
    levels = [_Level(*own) for own in zip(maps, valid[2:], axes[2:], strict=True)]
    return _head(graph, levels, params["decode_head"], statistics["decode_head"])


def _valid_of(graph: Graph, axes: Sequence[_Axis]) -> Valid:
    inside = [_float(graph, graph.node("Less", _places(graph, axis.length), axis.valid)) for axis in axes]
    rows, columns = (
        graph.node("Unsqueeze", each, graph.value(new)) for each, new in zip(inside, ([1, 3], [1, 2]), strict=True)
    )
    area = graph.node("Mul", *(axis.valid for axis in axes))
    return Valid(graph.node("Mul", rows, columns), graph.node("Unsqueeze", _float(graph, area), graph.value([2, 3])))


def _places(graph: Graph, length: int) -> str:
    return graph.value(np.arange(length)[None])


def _float(graph: Graph, x: str) -> str:
    return graph.node("Cast", x, to=TensorProto.FLOAT)


def _head(graph: Graph, levels: Sequence[_Level], params: Tree, statistics: Tree) -> str:
    """`nn.upernet.UPerHead`, whose parts of a kernel are one convolution here."""

    def conv(name: str, x: str, valid: Valid | None = None) -> str:
        kernel, bias = _folded(params[name], statistics[name]["bn"])
        y = graph.conv(x, kernel, bias, pads=[kernel.shape[0] // 2] * 4)
        return only_valid(graph, graph.node("Relu", y), valid)

    *finer, last = levels
    parts = [last.map]
    for number, bins in enumerate(POOL_SCALES):
        pool = [_mean_matrix(graph, axis, bins, across) for axis, across in zip(last.axes, _ACROSS, strict=True)]
        narrow = conv(f"psp_modules_{number}", _resized(graph, last.map, *pool))
        enlarge = [_bilinear_matrix(graph, bins, *own) for own in zip(last.axes, _ACROSS, strict=True)]
        parts.append(_resized(graph, narrow, *enlarge))
    laterals = [conv(f"lateral_convs_{i}", level.map, level.valid) for i, level in enumerate(finer)]
    laterals.append(conv("bottleneck", graph.node("Concat", *parts, axis=1), last.valid))
    for i in range(len(laterals) - 1, 0, -1):
        enlarged = _between(graph, laterals[i], levels[i], levels[i - 1])
        laterals[i - 1] = graph.node("Add", laterals[i - 1], enlarged)
    outputs = [conv(f"fpn_convs_{i}", x, levels[i].valid) for i, x in enumerate(laterals[:-1])]
    first, *coarser = [*outputs, laterals[-1]]
    others = [_between(graph, x, level, levels[0]) for x, level in zip(coarser, levels[1:], strict=True)]
    y = conv("fpn_bottleneck", graph.node("Concat", first, *others, axis=1), levels[0].valid)
    return graph.conv(y, **params["conv_seg"], name="logits")


def _folded(layer: Tree, statistics: Tree) -> tuple[np.ndarray, np.ndarray]:
    """(kernel, bias) of a convolution without bias and the batch norm behind it."""
    norm = {name: np.asarray(value, np.float64) for name, value in {**layer["bn"], **statistics}.items()}
    factor = norm["scale"] / np.sqrt(norm["var"] + BATCH_NORM_EPS)
    return np.asarray(layer["conv"]["kernel"], np.float64) * factor, norm["bias"] - norm["mean"] * factor


def _between(graph: Graph, x: str, own: _Level, other: _Level) -> str:
    """A map of one level at the size of another."""
    matrices = [_bilinear_matrix(graph, *each) for each in zip(own.axes, other.axes, _ACROSS, strict=True)]
    return _resized(graph, x, *matrices)


def _resized(graph: Graph, x: str, rows: str, columns: str) -> str:
    """x (n, c, h, w) by rows (n, 1, H, h) and columns (n, 1, w, W) -> (n, c, H, W)."""
    return graph.node("MatMul", graph.node("MatMul", rows, x), columns)


# Both matrices are (n, 1, target, own) for the rows and (n, 1, own, target) for the columns.


def _along(graph: Graph, x: str, across: bool, own: bool) -> str:
    """x (n, k) as entries of the own or of the target axis of a matrix, for the rows or, across, the columns."""
    return graph.node("Unsqueeze", x, graph.value([1, 2] if across != own else [1, 3]))


def _bilinear_matrix(graph: Graph, own: _Axis | int, target: _Axis, across: bool) -> str:
    """`ops.resize.bilinear_matrix`: a tent around the place that each entry is read from.

    own: an axis, or as many entries as every picture has of it.
    """
    length = own if isinstance(own, int) else own.length
    valid = graph.value(np.array([[own]], np.float32)) if isinstance(own, int) else _float(graph, own.valid)
    scale = graph.node("Div", valid, _float(graph, target.valid))
    middles = graph.value((np.arange(target.length, dtype=np.float32) + np.float32(0.5))[None])
    source = graph.node("Sub", graph.node("Mul", middles, scale), graph.value(np.float32(0.5)))
    last = graph.node("Sub", valid, graph.value(np.float32(1)))
    source = graph.node("Min", graph.node("Max", source, graph.value(np.float32(0))), last)
    places = graph.value(np.arange(length, dtype=np.float32)[None])
    away = graph.node("Sub", _along(graph, source, across, False), _along(graph, places, across, True))
    tent = graph.node("Relu", graph.node("Sub", graph.value(np.float32(1)), graph.node("Abs", away)))
    inside = _float(graph, graph.node("Less", _places(graph, target.length), target.valid))
    return graph.node("Mul", tent, _along(graph, inside, across, False))


def _mean_matrix(graph: Graph, axis: _Axis, bins: int, across: bool) -> str:
    """`ops.resize.adaptive_mean_matrix`."""
    number, count = np.arange(bins)[None], graph.value([bins])
    first = graph.node("Div", graph.node("Mul", graph.value(number), axis.valid), count)
    end = graph.node("Mul", graph.value(number + 1), axis.valid)
    end = graph.node("Div", graph.node("Add", end, graph.value([bins - 1])), count)
    first, end = (_along(graph, each, across, False) for each in (first, end))
    place = _along(graph, _places(graph, axis.length), across, True)
    inside = graph.node("And", graph.node("GreaterOrEqual", place, first), graph.node("Less", place, end))
    return graph.node("Div", _float(graph, inside), _float(graph, graph.node("Sub", end, first)))
