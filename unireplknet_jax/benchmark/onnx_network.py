"""The merged classifier as an ONNX graph, for the benchmarks to compare with the runtimes that people deploy with."""

from unireplknet_jax.tasks.onnx_graph import Graph, logits_of


def build(params, depths, batch, channels, height, width):
    """The graph of the merged parameters of a `UniRepLKNet` with classifier: images (batch, channels, height, width) ->
    logits (batch, classes), float32.
    """
    graph = Graph()
    images = graph.end("input", "images", "float32", (batch, channels, height, width))
    graph.end("output", logits_of(graph, images, params, depths), "float32", (batch, len(params["head"]["bias"])))
    return graph.model()
