"""The ONNX graph that other runtimes are timed with does the same work: equal weights give equal logits."""

import sys

import jax
import numpy as np
import pytest
from networks import lively, small_model

from unireplknet_jax.__main__ import main
from unireplknet_jax.benchmark import runtimes
from unireplknet_jax.models.reparameterize import reparameterize
from unireplknet_jax.models.shapes import abstract_variables

FIELDS = dict(kernel_sizes=((3,), (13,), (5, 7), (9,)), depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), num_classes=5)


def merged_and_images():
    variables = jax.tree.map(np.asarray, reparameterize(lively(abstract_variables(small_model(**FIELDS)))))
    return variables, np.random.default_rng(0).standard_normal((2, 64, 96, 3), np.float32)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", runtimes.NAMES)
def test_equal_weights_give_equal_logits(name):
    for library in runtimes._NEEDED[name]:
        pytest.importorskip(library)
    variables, images = merged_and_images()
    model = small_model(**FIELDS, deploy=True)
    theirs = runtimes.programs([name], model, variables["params"], images)[name].run()
    ours = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())


def test_the_graph_has_one_convolution_for_each_of_the_merged_network():
    pytest.importorskip("onnx")
    from unireplknet_jax.benchmark.onnx_network import build

    variables, images = merged_and_images()
    graph = build(variables["params"], FIELDS["depths"], *images.transpose(0, 3, 1, 2).shape).graph
    nodes = [node.op_type for node in graph.node]
    assert nodes.count("Conv") == 5 + 5 * 5  # stem and downsamplers; depthwise, two of SE and two pointwise in a block
    assert nodes.count("Gelu") == 1 + 5


def test_a_runtime_that_is_unknown_or_not_installed_is_named(monkeypatch, capsys):
    assert main(["benchmark", "model", "unireplknet_a", "--against", "tensorrt"]) == 1
    assert (
        "--against 'tensorrt' is unknown; it takes torch, inductor, openvino, onnxruntime, litert."
        in capsys.readouterr().err
    )
    for name in ("openvino", "torch"):
        monkeypatch.setitem(sys.modules, name, None)
        assert main(["benchmark", "model", "unireplknet_a", "--against", name]) == 1
        assert f"--against {name} needs {name}: pip install {name}" in capsys.readouterr().err


def test_other_runtimes_compute_in_float32_alone(capsys, monkeypatch):
    assert main(["benchmark", "model", "unireplknet_a", "--against", "openvino", "--dtype", "bfloat16"]) == 1
    assert "--against openvino compares float32 on a CPU; leave it out for anything else." in capsys.readouterr().err
    monkeypatch.setattr("unireplknet_jax.benchmark.runtimes.check", lambda names: None)
    assert main(["benchmark", "model", "unireplknet_a", "--against", "torch", "--dtype", "bfloat16"]) == 1
    assert "--against torch: PyTorch computes where jax does, on a CPU in float32 alone" in capsys.readouterr().err
    assert main(["benchmark", "model", "--static", "v5e", "--against", "openvino"]) == 1
    assert "--static counts, so --against has no meaning with it" in capsys.readouterr().err


def test_inductor_is_the_network_of_pytorch_compiled(monkeypatch):
    torch = pytest.importorskip("torch")
    from unireplknet_jax.benchmark import network

    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    model = small_model(**FIELDS, deploy=True)

    def work(torch, module, inputs, precision):
        return lambda: (module, inputs)

    images = merged_and_images()[1]
    programs = network._torch_programs(model, images, work, ("torch", "inductor"), ", tried")
    assert [*programs] == ["torch, tried", "torch, channels last, tried", "inductor, tried"]
    assert [programs["inductor, tried"].run()[0]] == compiled
    assert [*network._torch_programs(model, images, work, ("inductor",))] == ["inductor"]
    assert network._torch_programs(model, images, work, ()) == {}
