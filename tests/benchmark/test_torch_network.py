"""The PyTorch network that is timed beside ours does the same work: equal weights give equal logits."""

import jax
import numpy as np
import pytest
from networks import lively, small_model

from unireplknet_jax.models.reparameterize import reparameterize
from unireplknet_jax.models.shapes import abstract_variables, with_trunk
from unireplknet_jax.nn.upernet import UPerNet
from unireplknet_jax.tasks.checkpoint import open_checkpoint

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("quick_compilation")


def conv(node):
    kernel = node["kernel"]
    yield kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
    yield from (node[name] for name in ("bias",) if name in node)


def norm(node, below):
    yield from (node["scale"], node["bias"], below["mean"], below["var"], np.zeros(()))


def layer_norm(node):
    yield from (node["scale"], node["bias"])


def tensors(params, stats):
    """Every array of the stages in the order of the PyTorch network's `state_dict`, in PyTorch's layout."""

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


def tensors_of_heads(params, stats):
    """The same of a UPerNet, behind its stages."""
    decode, auxiliary = ((params[name], stats[name]) for name in ("decode_head", "auxiliary_head"))

    def layer(tree, below, name):
        yield from conv(tree[name]["conv"])
        yield from norm(tree[name]["bn"], below[name]["bn"])

    for stage in range(4):
        yield from layer_norm(params["backbone"][f"norm{stage}"])
    names = [f"psp_modules_{i}" for i in range(4)] + ["bottleneck"]
    names += [f"{kind}_convs_{i}" for kind in ("lateral", "fpn") for i in range(3)] + ["fpn_bottleneck"]
    for name in names:
        yield from layer(*decode, name)
    yield from conv(decode[0]["conv_seg"])
    yield from layer(*auxiliary, "convs_0")
    yield from conv(auxiliary[0]["conv_seg"])


def tensors_of_detector(params, stats):
    """The same of a Cascade R-CNN, behind its stages."""
    for stage in range(4):
        yield from layer_norm(params["backbone"][f"norm{stage}"])
    for kind in ("lateral", "fpn"):
        for i in range(4):
            yield from conv(params["neck"][f"{kind}_convs_{i}"])
    for name in ("rpn_conv", "rpn_cls", "rpn_reg"):
        yield from conv(params["rpn_head"][name])
    for stage in range(3):
        head, below = (tree[f"bbox_head_{stage}"] for tree in (params, stats))
        for name in (f"shared_convs_{i}" for i in range(4)):
            yield from conv(head[name]["conv"])
            yield from norm(head[name]["bn"], below[name]["bn"])
        for name in ("shared_fcs_0", "fc_cls", "fc_reg"):
            yield from conv(head[name])
    for stage in range(3):
        for name in (*(f"convs_{i}" for i in range(4)), "upsample", "conv_logits"):
            yield from conv(params[f"mask_head_{stage}"][name])


def loaded(network, arrays):
    """The PyTorch network with these arrays, one after the other."""
    state = network.state_dict()
    for name, array in zip(state, arrays, strict=True):
        assert state[name].shape == array.shape, name
        state[name] = torch.from_numpy(np.array(array))
    network.load_state_dict(state)
    return network.eval()


FIELDS = dict(kernel_sizes=((3,), (13,), (5,), (7,)), depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=5)


@pytest.mark.parametrize("deploy", [False, True])
def test_equal_weights_give_equal_logits(deploy):
    from unireplknet_jax.benchmark.torch_network import Network

    variables = lively(abstract_variables(small_model(**FIELDS)))
    if deploy:
        variables = jax.tree.map(np.asarray, reparameterize(variables))
    params, stats = variables["params"], variables.get("batch_stats", {})
    arrays = [*tensors(params, stats), *layer_norm(params["norm"]), *conv(params["head"])]
    network = loaded(Network(**FIELDS, deploy=deploy), arrays)
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32)
    with torch.inference_mode():
        theirs = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    ours = jax.jit(small_model(**FIELDS, deploy=deploy).apply)(variables, images)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())


def networks_of_pixels(deploy=False):
    """(a small UPerNet without dropout, its variables, the same in PyTorch)."""
    from unireplknet_jax.benchmark.torch_upernet import UPerNet as Twin

    heads = {"channels": 6, "auxiliary_channels": 4, "dropout": 0.0}
    trunk = small_model(**FIELDS | {"num_classes": None}, output_norms=True)
    model = UPerNet(trunk, FIELDS["num_classes"], **heads)
    variables = lively(abstract_variables(model))
    if deploy:
        variables = jax.tree.map(np.asarray, reparameterize(variables))
        model = with_trunk(model, trunk.clone(deploy=True))
    params, stats = variables["params"], variables["batch_stats"]
    arrays = [*tensors(params["backbone"], stats.get("backbone", {})), *tensors_of_heads(params, stats)]
    return model, variables, loaded(Twin(**FIELDS, deploy=deploy, **heads), arrays)


@pytest.mark.slow
@pytest.mark.parametrize("deploy", [False, True])
def test_equal_weights_give_equal_logits_of_pixels(deploy):
    model, variables, twin = networks_of_pixels(deploy)
    images = np.random.default_rng(0).standard_normal((2, 64, 96, 3), np.float32)
    with torch.inference_mode():
        theirs = twin.with_auxiliary(torch.from_numpy(images).permute(0, 3, 1, 2))
    ours = jax.jit(lambda variables: model.apply(variables, images, method="with_auxiliary"))(variables)
    for found, expected in zip(ours, theirs, strict=True):
        expected = expected.permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_a_training_step_has_the_loss_of_its_twin():
    from unireplknet_jax.benchmark.network import pixel_loss

    model, variables, twin = networks_of_pixels()
    images = np.random.default_rng(0).standard_normal((2, 64, 96, 3), np.float32)
    label_map = np.arange(2 * 64 * 96).reshape(2, 64, 96) % FIELDS["num_classes"]
    with torch.no_grad():
        theirs = twin.train().loss(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(label_map))
    ours, _ = jax.jit(lambda variables: pixel_loss(model.apply, variables, images, label_map))(variables)
    assert float(ours) == pytest.approx(float(theirs), rel=2e-6)


@pytest.mark.slow  # `test_equal_weights_give_equal_logits` stays
def test_the_detector_in_pytorch_finds_what_the_original_finds(goldens):
    """As ours does, whose tolerances these are: both are compared with one file."""
    from unireplknet_jax.benchmark.torch_cascade import CascadeRCNN as Twin

    checkpoint, golden = open_checkpoint(goldens / "dense/det_tiny.pth"), np.load(goldens / "dense/det_tiny.npz")
    counts = int(golden["rpn_nms_pre"]), int(golden["rpn_max_per_img"])
    params, stats = (jax.tree.map(np.asarray, checkpoint.variables[name]) for name in ("params", "batch_stats"))
    arrays = [*tensors(params["backbone"], stats["backbone"]), *tensors_of_detector(params, stats)]
    twin = loaded(Twin(checkpoint.module.clone(test_proposals=counts)), arrays)
    with torch.inference_mode():
        ((boxes, scores, labels, masks),) = twin(torch.from_numpy(golden["input_nchw"]), golden["img_hw"].tolist())
    assert labels.tolist() == golden["det_img_labels"].tolist()
    np.testing.assert_allclose(boxes, golden["det_img_boxes"], atol=2e-3)
    np.testing.assert_allclose(scores, golden["det_img_scores"], atol=5e-5)
    np.testing.assert_allclose(masks, golden["mask_prob_mean_at_label"], atol=1e-4)
