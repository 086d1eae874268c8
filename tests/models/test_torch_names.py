"""The official names, and what is read off them."""

import flax
import numpy as np
import pytest

from unireplknet_jax.models import torch_archive, torch_names
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.models.unireplknet import UniRepLKNet

CASES = [
    f"{case}{form}" for case in ("tiny_afp", "tiny_t", "tiny_kernels", "tiny_backbone") for form in ("", "_deploy")
]


def shapes_of(goldens, case):
    state, _ = torch_archive.read_state_dict(goldens / f"{case}.pth")
    return {name: tensor.shape for name, tensor in state.items()}


@pytest.mark.parametrize("case", CASES)
def test_names_and_shapes_of_official_files_are_matched_completely(goldens, case):
    shapes = shapes_of(goldens, case)
    options = torch_names.infer_options(shapes)
    table = torch_names.name_table(abstract_variables(UniRepLKNet(**options)))
    assert torch_names.differences(table, shapes) == ""
    assert set(table) | set(torch_names.counters(table)) == set(shapes)
    assert options["deploy"] == case.endswith("_deploy")


def test_options_are_read_off_the_tensors(goldens):
    options = torch_names.infer_options(shapes_of(goldens, "tiny_kernels"))
    assert options["kernel_sizes"] == ((3, 5), (17, 15), (11, 9, 7, 5, 0, 3), (13, 7))
    assert options["dims"] == (8, 16, 32, 64)
    assert (options["num_classes"], options["in_chans"], options["output_norms"]) == (5, 3, False)
    backbone = torch_names.infer_options(shapes_of(goldens, "tiny_backbone"))
    assert (backbone["num_classes"], backbone["output_norms"]) == (None, True)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("downsample_layers_0/conv1/kernel", "downsample_layers.0.0.weight"),
        ("downsample_layers_0/norm2/bias", "downsample_layers.0.4.bias"),
        ("downsample_layers_2/norm/scale", "downsample_layers.2.1.weight"),
        ("stages_2_16/dwconv/lk_origin/kernel", "stages.2.16.dwconv.lk_origin.weight"),
        ("stages_2_16/dwconv/dil_bn_k5_1/mean", "stages.2.16.dwconv.dil_bn_k5_1.running_mean"),
        ("stages_0_1/dwconv/kernel", "stages.0.1.dwconv.weight"),
        ("stages_0_1/grn/gamma", "stages.0.1.act.1.gamma"),
        ("stages_0_1/gamma", "stages.0.1.gamma"),
        ("stages_0_1/pwconv2_bn/var", "stages.0.1.pwconv2.2.running_var"),
        ("norm3/scale", "norm3.weight"),
        ("head/bias", "head.bias"),
    ],
)
def test_names_follow_the_original(path, name):
    assert torch_names.torch_name(tuple(path.split("/"))) == name


@pytest.mark.parametrize("order", [1, -1])
def test_the_longest_of_nested_prefixes_takes_the_place_of_a_path(order):
    items = [("net", "a"), ("net/trunk", "b.v"), ("net/trunk/stages_0_1", "c")]
    prefixes = dict(items[::order])
    names = {
        "net/head/kernel": "a.head.weight",
        "net/trunk/head/bias": "b.v.head.bias",
        "net/trunk/stages_0_2/norm/var": "b.v.stages.0.2.norm.running_var",
        "net/trunk/stages_0_1/norm/scale": "c.norm.weight",
        "other/net/scale": "other.net.weight",
    }
    for path, name in names.items():
        assert torch_names.torch_name(tuple(path.split("/")), prefixes) == name
    leaves = {path: np.zeros(3) for path in names}
    variables = {"params": flax.traverse_util.unflatten_dict(leaves, sep="/")}
    assert set(torch_names.name_table(variables, prefixes)) == set(names.values())


@pytest.mark.parametrize("shape", [(6, 4), (8, 1, 13, 13), (6, 4, 3, 3), (6, 4, 3, 3, 3)])
def test_layouts_there_and_back(shape):
    array = np.arange(np.prod(shape)).reshape(shape)
    entry = torch_names.Entry(("params", "x", "kernel"), shape)
    ours = torch_names.from_torch(entry, array)
    assert ours.shape == (*shape[2:], shape[1], shape[0])
    assert ours[(0,) * (len(shape) - 2) + (0, 5)] == array[(5, 0) + (0,) * (len(shape) - 2)]
    np.testing.assert_array_equal(torch_names.to_torch(entry, ours), array)


def test_foreign_names_are_not_a_unireplknet():
    with pytest.raises(ValueError, match="not a UniRepLKNet"):
        torch_names.infer_options({"layer1.0.conv1.weight": (64, 64, 3, 3)})


def test_a_dense_kernel_on_a_flattened_map_changes_the_order_of_its_rows():
    """Against the product itself: a map flattened as each side flattens it gives the same output."""
    rng = np.random.default_rng(0)
    h, w, c, out = 2, 3, 4, 5
    theirs, image = rng.normal(size=(out, c * h * w)), rng.normal(size=(h, w, c))
    entry = torch_names.Entry(("params", "fc", "kernel"), theirs.shape, flattened=(h, w, c))
    ours = torch_names.from_torch(entry, theirs)
    np.testing.assert_allclose(image.ravel() @ ours, theirs @ image.transpose(2, 0, 1).ravel())
    np.testing.assert_array_equal(torch_names.to_torch(entry, ours), theirs)
