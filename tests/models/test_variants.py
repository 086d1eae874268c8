"""The table of sizes and `create_model`."""

import jax
import numpy as np
import pytest

import unireplknet_jax as urk
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.models.variants import VARIANTS

# image_training.md of the original's analysis: parameters with 1000 classes, training and merged form.
PARAMETERS = {
    "unireplknet_a": (4_649_060, 4_437_300),
    "unireplknet_f": (6_489_328, 6_235_216),
    "unireplknet_p": (11_080_520, 10_741_704),
    "unireplknet_n": (18_818_880, 18_318_560),
    "unireplknet_t": (31_693_420, 31_037_980),
    "unireplknet_s": (56_456_704, 55_645_984),
    "unireplknet_b": (99_089_416, 98_008_456),
    "unireplknet_l": (220_076_056, 218_454_616),
    "unireplknet_xl": (388_690_984, 386_529_064),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_of_whole_models(name):
    for expected, deploy in zip(PARAMETERS[name], (False, True), strict=True):
        params = abstract_variables(urk.create_model(name, deploy=deploy))["params"]
        assert sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(params)) == expected


def test_the_sizes_are_listed_smallest_first():
    assert urk.list_models() == [f"unireplknet_{size}" for size in ("a", "f", "p", "n", "t", "s", "b", "l", "xl", "h")]


def test_the_journals_largest_size():
    h = VARIANTS["unireplknet_h"]
    assert (h.depths, h.dims) == ((3, 3, 27, 3), (480, 960, 1920, 3840))
    assert h.kernel_sizes == VARIANTS["unireplknet_s"].kernel_sizes


@pytest.mark.parametrize(
    ("name", "stage3"),
    [("unireplknet_a", (13,) * 6), ("unireplknet_t", (13, 3) * 9), ("unireplknet_s", (13, 3, 3) * 9)],
)
def test_kernel_sizes_of_the_third_stage(name, stage3):
    assert VARIANTS[name].kernel_sizes[2] == stage3


def test_any_option_can_be_overridden():
    model = urk.create_model(
        "unireplknet_a", num_classes=None, in_chans=1, dims=[8, 16, 24, 32], kernel_sizes=[[3], [0], [7, 5], [17]]
    )
    assert model.depths == (1, 1, 2, 1)
    assert model.dims == (8, 16, 24, 32)
    hash(model)  # lists would make it unusable as a static argument


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unireplknet_x", {}, "did you mean .*unireplknet_xl"),
        ("resnet50", {}, "known models: unireplknet_a"),
        ("unireplknet_a", {"depth": 3}, "unknown model option depth; the options are depths, dims"),
        ("unireplknet_a", {"depths": (1, 1, 2, 1)}, r"for example depths=\(1, 1, 2, 1\), kernel_sizes="),
        ("unireplknet_a", {"kernel_sizes": ((3,), (13,), (13,))}, "one kernel size per block"),
        ("unireplknet_a", {"depths": (2, 2, 6, 2), "kernel_sizes": ((3,), (13,), (13,), (13,))}, "one kernel size per"),
    ],
)
def test_errors_tell_what_to_do(name, options, message):
    with pytest.raises(ValueError, match=message):
        urk.create_model(name, **options)
