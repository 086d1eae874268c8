"""Networks as ONNX graphs, written node by node: maps (n, c, h, w), one convolution for each depthwise kernel.

The linear layers of a block are 1x1 convolutions, GELU is the one operator that stands for it, and no map is turned
round: so the runtimes that people deploy with take a network best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from unireplknet_jax.ops.batch import SMALL
from unireplknet_jax.ops.layers import LAYER_NORM_EPS
from unireplknet_jax.ops.response_norm import GRN_EPS

OPSET = 20  # the first that has Gelu
Tree = Mapping[str, Any]
_TYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int32": TensorProto.INT32}


class Graph:
    """Nodes and constants as they are added; every result is known by its name.

    half: large constants are stored as float16 and widened when they are read; all is computed in float32.
    """

    def __init__(self, half: bool = False) -> None:
        self.half = half
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self._ends: tuple[list[Any], list[Any]] = ([], [])

    def end(self, kind: str, name: str, dtype: str, shape: Sequence[int | str]) -> str:
        """Declare an "input" or "output" of the graph, whose axes may have names in place of lengths; -> its name."""
        info = helper.make_tensor_value_info(name, _TYPES[dtype], shape)
        self._ends[kind == "output"].append(info)
        return name

    def node(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node; -> the name of its result."""
        name = name or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def value(self, array: Any) -> str:
        """Add a constant, float32 or int64; -> its name."""
        array, name = np.asarray(array), f"constant_{len(self.tensors)}"
        dtype = np.int64 if array.dtype.kind == "i" else np.float32
        narrow = self.half and dtype == np.float32 and array.size >= SMALL
        with np.errstate(over="ignore"):  # what becomes infinite is found by the comparison
            stored = np.ascontiguousarray(array, np.float16 if narrow else dtype)
        self.tensors.append(numpy_helper.from_array(stored, name))
        return self.node("Cast", name, to=TensorProto.FLOAT) if narrow else name

    def conv(self, x: str, kernel: Any, bias: Any, **attributes: Any) -> str:
        """kernel: (kh, kw, c, d) or (c, d)."""
        kernel = np.asarray(kernel)
        kernel = kernel if kernel.ndim == 4 else kernel[None, None]
        return self.node("Conv", x, self.value(kernel.transpose(3, 2, 0, 1)), self.value(bias), **attributes)

    def model(self, opset: int = OPSET, metadata: Mapping[str, str] | None = None) -> ModelProto:
        """The whole graph, checked."""
        versions = [helper.make_opsetid("", opset)]
        model = helper.make_model(
            helper.make_graph(self.nodes, "unireplknet", *self._ends, self.tensors),
            opset_imports=versions,
            ir_version=helper.find_min_ir_version_for(versions),
            producer_name="unireplknet_jax",
        )
        helper.set_model_props(model, dict(metadata or {}))
        checker.check_model(model, full_check=True)
        return model


class Valid(NamedTuple):
    """Where the pictures of a batch are in a map (n, c, h, w), which holds zeros beyond (`ops.valid`): the names of a
    mask (n, 1, h, w) and of an area (n, 1, 1, 1), both float32.
    """

    mask: str
    area: str


def maps_of(
    graph: Graph, x: str, params: Tree, depths: Sequence[int], valid: Sequence[Valid | None] = (None,) * 6
) -> list[str]:
    """The four stage maps of the merged parameters of a `UniRepLKNet`, of normalized pictures x (n, c, h, w).

    valid: of the pictures and of the maps at strides 2, 4, 8, 16 and 32; None: all of a map.
    """
    maps = []
    for stage, depth in enumerate(depths):
        layers, own = params[f"downsample_layers_{stage}"], valid[stage + 2]
        if stage == 0:
            x = only_valid(graph, _channel_norm(graph, _strided(graph, x, layers["conv1"]), layers["norm1"]), valid[1])
            x = _channel_norm(graph, _strided(graph, graph.node("Gelu", x), layers["conv2"]), layers["norm2"])
        else:
            x = _channel_norm(graph, _strided(graph, x, layers["conv"]), layers["norm"])
        x = only_valid(graph, x, own)
        for block in range(depth):
            x = _block(graph, x, params[f"stages_{stage}_{block}"], own)
        normed = f"norm{stage}"
        y = _channel_norm(graph, x, params[normed]) if normed in params else x
        maps.append(only_valid(graph, y, own) if normed in params else y)
    return maps


def only_valid(graph: Graph, x: str, valid: Valid | None) -> str:
    """x (n, c, h, w) with zeros beyond its pictures."""
    return x if valid is None else graph.node("Mul", x, valid.mask)


def logits_of(graph: Graph, x: str, params: Tree, depths: Sequence[int], positions: int | None = None) -> str:
    """ "logits" (n, classes) of the merged parameters of a `UniRepLKNet` with classifier, x as of `maps_of`.

    positions: of the last map; with them the graph has a node "activation", too, see `_activation`.
    """
    last = maps_of(graph, x, params, depths)[-1]
    pooled = graph.node("Flatten", graph.node("GlobalAveragePool", last))
    scale_and_bias = [graph.value(params["norm"][name]) for name in ("scale", "bias")]
    normed = graph.node("LayerNormalization", pooled, *scale_and_bias, epsilon=LAYER_NORM_EPS)
    head = [graph.value(params["head"][name]) for name in ("kernel", "bias")]
    logits = graph.node("Gemm", normed, *head, name="logits")
    if positions is not None:
        classes = len(np.asarray(params["head"]["bias"]))
        _activation(graph, last, pooled, logits, (head[0], classes), scale_and_bias[0], positions)
    return logits


def _activation(
    graph: Graph, last: str, pooled: str, logits: str, head: tuple[str, int], scale: str, positions: int
) -> str:
    """ "activation" (n, h / 32, w / 32), what speaks for the likeliest class, as of `models.attribution.attributions`.

    A position changes the logit through the mean over positions alone, so that all have the same gradient, which is
    that of the LayerNorm, written out here. head: its kernel (channels, classes), and how many classes there are.
    """
    channels, (kernel, classes) = graph.value([1]), head
    label = graph.node("ArgMax", logits, axis=1, keepdims=0)
    chosen = graph.node("OneHot", label, graph.value([classes]), graph.value(np.array([0, 1], np.float32)), axis=1)
    weights = graph.node("Mul", graph.node("Gemm", chosen, kernel, transB=1), scale)
    centred = graph.node("Sub", pooled, graph.node("ReduceMean", pooled, channels))
    variance = graph.node("ReduceMean", graph.node("Mul", centred, centred), channels)
    deviation = graph.node("Sqrt", graph.node("Add", variance, graph.value(np.float32(LAYER_NORM_EPS))))
    normed = graph.node("Div", centred, deviation)
    along = graph.node("ReduceMean", graph.node("Mul", weights, normed), channels)
    rest = graph.node("Sub", weights, graph.node("ReduceMean", weights, channels))
    rest = graph.node("Sub", rest, graph.node("Mul", normed, along))
    gradient = graph.node("Div", rest, graph.node("Mul", deviation, graph.value(np.float32(positions))))
    spread = graph.node("Unsqueeze", gradient, graph.value([2, 3]))
    return graph.node("ReduceSum", graph.node("Mul", last, spread), channels, name="activation", keepdims=0)


def normalized(graph: Graph, x: str, mean: Sequence[float], std: Sequence[float]) -> str:
    """Pixels x (n, c, h, w) uint8 -> float32, the arithmetic of `PixelClassifier.normalized`."""
    scaled = graph.node("Div", graph.node("Cast", x, to=TensorProto.FLOAT), graph.value(np.float32(255)))
    shift, scale = (graph.value(np.reshape(np.asarray(each, np.float32), (1, -1, 1, 1))) for each in (mean, std))
    return graph.node("Div", graph.node("Sub", scaled, shift), scale)


def _strided(graph: Graph, x: str, layer: Tree) -> str:
    return graph.conv(x, layer["kernel"], layer["bias"], strides=[2, 2], pads=[1, 1, 1, 1])


def _channel_norm(graph: Graph, x: str, layer: Tree) -> str:
    """LayerNorm over the channels of (n, c, h, w): the operator of that name would need them to be the last axis."""
    channels = graph.value([1])
    centred = graph.node("Sub", x, graph.node("ReduceMean", x, channels))
    variance = graph.node("ReduceMean", graph.node("Mul", centred, centred), channels)
    deviation = graph.node("Sqrt", graph.node("Add", variance, graph.value(np.float32(LAYER_NORM_EPS))))
    scale, bias = (graph.value(np.reshape(layer[name], (1, -1, 1, 1))) for name in ("scale", "bias"))
    return graph.node("Add", graph.node("Mul", graph.node("Div", centred, deviation), scale), bias)


def _block(graph: Graph, x: str, block: Tree, valid: Valid | None) -> str:
    y = x
    if "dwconv" in block:
        depthwise = block["dwconv"].get("lk_origin", block["dwconv"])
        radius, channels = depthwise["kernel"].shape[0] // 2, depthwise["kernel"].shape[3]
        y = graph.conv(x, depthwise["kernel"], depthwise["bias"], group=channels, pads=[radius] * 4)
    y = only_valid(graph, y, valid)
    if valid is None:
        pooled = graph.node("GlobalAveragePool", y)
    else:
        pooled = graph.node("Div", graph.node("ReduceSum", y, graph.value([2, 3])), valid.area)
    gate = graph.node("Relu", graph.conv(pooled, **block["se"]["down"]))
    y = graph.node("Mul", y, graph.node("Sigmoid", graph.conv(gate, **block["se"]["up"])))
    y = graph.node("Gelu", only_valid(graph, graph.conv(y, **block["pwconv1"]), valid))
    norm = graph.node("ReduceL2", y, graph.value([2, 3]))
    mean = graph.node("Add", graph.node("ReduceMean", norm, graph.value([1])), graph.value(np.float32(GRN_EPS)))
    gamma = np.asarray(block["grn"]["gamma"]).transpose(0, 3, 1, 2)
    factor = graph.node("Mul", graph.node("Div", norm, mean), graph.value(gamma))
    y = graph.node("Mul", y, graph.node("Add", factor, graph.value(np.float32(1))))
    return only_valid(graph, graph.node("Add", x, graph.conv(y, **block["pwconv2"])), valid)
