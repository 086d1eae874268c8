"""The merged classifier in the runtimes with which people deploy it on a CPU."""

import functools
import importlib.util

import jax
import numpy as np

from unireplknet_jax.benchmark.timing import Program, measure, usable_cores
from unireplknet_jax.tasks import made_up
from unireplknet_jax.tasks.checkpoint import open_checkpoint

_NEEDED = {
    "torch": ("torch",),
    "inductor": ("torch",),
    "openvino": ("openvino", "onnx"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "litert": ("litert_converter", "ai_edge_litert"),
}
NAMES = ("openvino", "onnxruntime", "litert")  # of those that take what is exported
TORCH = ("torch", "inductor")  # as it is, and by `torch.compile`


def check(names):
    """Raise ValueError for a name that is none of `TORCH` and `NAMES`, ImportError for what is not installed."""
    for name in names:
        if name not in _NEEDED:
            raise ValueError(f"--against {name!r} is unknown; it takes {', '.join(_NEEDED)}.")
        for module in _NEEDED[name]:
            if importlib.util.find_spec(module) is None:
                raise ImportError(f"--against {name} needs {module}: pip install {module}")


def programs(names, model, params, images):
    """{name: `Program`} of the merged parameters of a classifier on images (n, h, w, c), in float32 on all threads
    that this process may use. `run` returns the logits.
    """
    images = np.asarray(images)
    graph = functools.cache(lambda: _graph(model, params, images))  # one for all that take it
    make = {
        "openvino": lambda: _openvino(*graph()),
        "onnxruntime": lambda: _onnxruntime(*graph()),
        "litert": lambda: _litert(model, params, images),
    }
    return {name: Program(make[name](), wait=lambda result: None) for name in names}


def _graph(model, params, images):
    """(the graph for images, these as it takes them)."""
    from unireplknet_jax.benchmark.onnx_network import build

    inputs = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return build(params, model.depths, *inputs.shape).SerializeToString(), inputs


def _openvino(graph, inputs):
    from unireplknet_jax.tasks.openvino_file import library

    openvino = library()
    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": usable_cores(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(core.read_model(graph), "CPU", options).create_infer_request()
    return lambda: request.infer({0: inputs}, share_inputs=True)[0]


def _onnxruntime(graph, inputs):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": inputs})[0]


def _litert(model, params, images):
    from ai_edge_litert.interpreter import Interpreter

    from unireplknet_jax.tasks.litert_file import SIGNATURE, converted

    def logits(inputs):
        return {"logits": model.clone(impl="xla").apply({"params": params}, inputs["images"])}

    data = converted(logits, {"images": jax.ShapeDtypeStruct(images.shape, images.dtype)})
    interpreter = Interpreter(model_content=data, num_threads=usable_cores())
    run = interpreter.get_signature_runner(SIGNATURE)
    return lambda: run(images=images)["logits"]


def artefact_rows(path, batch, rounds=9):
    """Rows as `benchmark.network.measure_inference` gives them of what `unireplknet export` wrote, in its own runtime.

    ValueError for another file.
    """
    checkpoint = open_checkpoint(path)
    if checkpoint.runtime is None:
        raise ValueError(f"{path} was not written by `unireplknet export`; give what was, or the name of a size.")
    examples = made_up.examples(checkpoint.task, 1)
    names = checkpoint.task.specs(train=False)[0].inputs
    inputs = {name: np.stack([examples[0][name]] * batch) for name in names}
    program = Program(lambda: checkpoint.runtime(inputs), wait=lambda result: None)
    timing = measure({"it": program}, rounds)["it"]
    return [{"model": str(path), "batch": batch, "form": checkpoint.runtime.name, **timing._asdict()}]
