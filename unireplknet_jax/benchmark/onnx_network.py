"""The merged classifier as an ONNX graph, for the benchmarks to compare with the runtimes that people deploy with.

One node for each convolution, as these runtimes take them best: maps (n, c, h, w), the linear layers of a block as 1x1
convolutions, GELU by the one operator that stands for it.
"""

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from unireplknet_jax.ops.layers import LAYER_NORM_EPS
from unireplknet_jax.ops.response_norm import GRN_EPS

_OPSET = 20  # the first that has Gelu


def build(params, depths, batch, channels, height, width):
    """The graph of the merged parameters of a `UniRepLKNet` with classifier: images (batch, channels, height, width) ->
    logits (batch, classes), float32.
    """
    graph = _Graph()
    x = "images"
    for stage, depth in enumerate(depths):
        layers = params[f"downsample_layers_{stage}"]
        if stage == 0:
            x = graph.channel_norm(graph.strided(x, layers["conv1"]), layers["norm1"])
            x = graph.channel_norm(graph.strided(graph.node("Gelu", x), layers["conv2"]), layers["norm2"])
        else:
            x = graph.channel_norm(graph.strided(x, layers["conv"]), layers["norm"])
        for block in range(depth):
            x = graph.block(x, params[f"stages_{stage}_{block}"])
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    x = graph.node("LayerNormalization", x, *graph.values(*_scale_and_bias(params["norm"])), epsilon=LAYER_NORM_EPS)
    head = params["head"]
    graph.node("Gemm", x, *graph.values(head["kernel"], head["bias"]), name="logits")
    shapes = {"images": (batch, channels, height, width), "logits": (batch, len(head["bias"]))}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "unireplknet", ends[:1], ends[1:], graph.tensors),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=10,
    )
    checker.check_model(model)
    return model


class _Graph:
    """Nodes and constants as they are added; every result is known by its name."""

    def __init__(self):
        self.nodes, self.tensors = [], []

    def node(self, operator, *inputs, name=None, **attributes):
        """Add a node; -> the name of its result."""
        name = name or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def values(self, *arrays):
        """Add constants; -> their names."""
        names = []
        for array in arrays:
            dtype = np.int64 if np.asarray(array).dtype.kind == "i" else np.float32
            names.append(f"constant_{len(self.tensors)}")
            self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype), names[-1]))
        return names

    def conv(self, x, kernel, bias, **attributes):
        """kernel: (kh, kw, c, d) or (c, d)."""
        kernel = np.asarray(kernel)
        kernel = kernel if kernel.ndim == 4 else kernel[None, None]
        return self.node("Conv", x, *self.values(kernel.transpose(3, 2, 0, 1), bias), **attributes)

    def strided(self, x, layer):
        return self.conv(x, **layer, strides=[2, 2], pads=[1, 1, 1, 1])

    def channel_norm(self, x, layer):
        """LayerNorm over the channels of (n, c, h, w)."""
        x = self.node("Transpose", x, perm=[0, 2, 3, 1])
        x = self.node("LayerNormalization", x, *self.values(*_scale_and_bias(layer)), epsilon=LAYER_NORM_EPS)
        return self.node("Transpose", x, perm=[0, 3, 1, 2])

    def block(self, x, block):
        depthwise = block["dwconv"].get("lk_origin", block["dwconv"])
        radius, channels = depthwise["kernel"].shape[0] // 2, depthwise["kernel"].shape[3]
        y = self.conv(x, **depthwise, group=channels, pads=[radius] * 4)
        gate = self.node("Relu", self.conv(self.node("GlobalAveragePool", y), **block["se"]["down"]))
        y = self.node("Mul", y, self.node("Sigmoid", self.conv(gate, **block["se"]["up"])))
        y = self.node("Gelu", self.conv(y, **block["pwconv1"]))
        norm = self.node("ReduceL2", y, *self.values([2, 3]))
        mean = self.node("Add", self.node("ReduceMean", norm, *self.values([1])), *self.values(np.float32(GRN_EPS)))
        gamma = np.asarray(block["grn"]["gamma"]).transpose(0, 3, 1, 2)
        factor = self.node("Mul", self.node("Div", norm, mean), *self.values(gamma))
        y = self.node("Mul", y, self.node("Add", factor, *self.values(np.float32(1))))
        return self.node("Add", x, self.conv(y, **block["pwconv2"]))


def _scale_and_bias(layer):
    return layer["scale"], layer["bias"]
