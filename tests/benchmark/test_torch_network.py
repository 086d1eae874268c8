"""The PyTorch network that is timed beside ours does the same work: equal weights give equal logits."""

import jax
import numpy as np
import pytest
from networks import lively, small_model

from unireplknet_jax.models.reparameterize import reparameterize
from unireplknet_jax.models.shapes import abstract_variables

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("quick_compilation")


def tensors(variables):
    """Every array in the order of the PyTorch network's `state_dict`, in PyTorch's layout."""
    params, stats = variables["params"], variables.get("batch_stats", {})

    def weight(node):
        kernel = node["kernel"]
        return kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T

    def conv(node):
        yield weight(node)
        yield from (node[name] for name in ("bias",) if name in node)

    def norm(node, below):
        yield from (node["scale"], node["bias"], below["mean"], below["var"], np.zeros(()))

    def layer_norm(node):
        yield from (node["scale"], node["bias"])

    def spatial(node, below):
        if "lk_origin" not in node["dwconv"]:
            yield from conv(node["dwconv"])
        else:
            branches = sorted((name for name in node["dwconv"] if name.startswith("dil_conv")), key=lambda n: n[-1])
            for name in ("lk_origin", *branches):
                yield from conv(node["dwconv"][name])
            for name in ("origin_bn", *(name.replace("conv", "bn") for name in branches)) if branches else ():
                yield from norm(node["dwconv"][name], below["dwconv"][name])
        if "norm" in node:
            yield from norm(node["norm"], below["norm"])

    def block(node, below):
        yield from (
            node["grn"]["gamma"].reshape(-1),
            *([node["grn"]["beta"].reshape(-1)] if "beta" in node["grn"] else []),
        )
        yield from ([node["gamma"].reshape(-1, 1, 1)] if "gamma" in node else [])
        yield from spatial(node, below)
        for name in ("down", "up"):
            yield from conv(node["se"][name])
        for name in ("pwconv1", "pwconv2"):
            yield from conv(node[name])
        if "pwconv2_bn" in node:
            yield from norm(node["pwconv2_bn"], below["pwconv2_bn"])

    for stage in range(4):
        down = params[f"downsample_layers_{stage}"]
        for c, n in (("conv1", "norm1"), ("conv2", "norm2")) if stage == 0 else (("conv", "norm"),):
            yield from conv(down[c])
            yield from layer_norm(down[n])
        for name in sorted(name for name in params if name.startswith(f"stages_{stage}_")):
            yield from block(params[name], stats.get(name, {}))
    yield from layer_norm(params["norm"])
    yield from conv(params["head"])


@pytest.mark.parametrize("deploy", [False, True])
def test_equal_weights_give_equal_logits(deploy):
    from unireplknet_jax.benchmark.torch_network import Network

    fields = dict(kernel_sizes=((3,), (13,), (5,), (7,)), depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=5)
    variables = lively(abstract_variables(small_model(**fields)))
    if deploy:
        variables = jax.tree.map(np.asarray, reparameterize(variables))
    network = Network(**fields, deploy=deploy).eval()
    state = network.state_dict()
    for name, array in zip(state, tensors(variables), strict=True):
        assert state[name].shape == array.shape, name
        state[name] = torch.from_numpy(np.array(array))
    network.load_state_dict(state)
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32)
    with torch.inference_mode():
        theirs = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    ours = jax.jit(small_model(**fields, deploy=deploy).apply)(variables, images)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())
