"""`models`, and the counts behind it, against the published numbers and against counting by hand."""

import json

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from unireplknet_jax.__main__ import main
from unireplknet_jax.models import complexity
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.models.unireplknet import UniRepLKNet
from unireplknet_jax.train.sharding import make_mesh

# Parameters in training and merged form, GMACs of the merged form at 224 and 384, counted on the original code.
EXPECTED = {
    "unireplknet_a": (4_649_060, 4_437_300, 0.64, None),
    "unireplknet_f": (6_489_328, 6_235_216, 0.91, None),
    "unireplknet_p": (11_080_520, 10_741_704, 1.57, None),
    "unireplknet_n": (18_818_880, 18_318_560, 2.77, None),
    "unireplknet_t": (31_693_420, 31_037_980, 4.90, None),
    "unireplknet_s": (56_456_704, 55_645_984, 9.09, 26.72),
    "unireplknet_b": (99_089_416, 98_008_456, 16.06, 47.18),
    "unireplknet_l": (220_076_056, 218_454_616, 35.88, 105.42),
    "unireplknet_xl": (388_690_984, 386_529_064, 63.57, 186.77),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in EXPECTED if name[12:] not in ("a", "s")]


@pytest.mark.parametrize("name", ["unireplknet_a", "unireplknet_s", *SLOW])
def test_parameters_and_macs_of_the_published_sizes(name, capsys):
    assert main(["models", name, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    training, merged, at_224, at_384 = EXPECTED[name]
    assert row["parameters"] == {"training": training, "merged": merged}
    assert round(row["macs"]["224"]["merged"] / 1e9, 2) == at_224
    assert row["macs"]["224"]["training"] > row["macs"]["224"]["merged"]
    assert ("384" in row["macs"]) == (at_384 is not None)
    if at_384:
        assert round(row["macs"]["384"]["merged"] / 1e9, 2) == at_384
    for size, gmacs in row["published"]["gmacs"].items():
        assert row["macs"][size]["merged"] / 1e9 == pytest.approx(gmacs, abs=0.05, rel=2e-3)  # published rounded
    assert merged / 1e6 == pytest.approx(row["published"]["parameters_millions"], rel=0.01)


def test_the_tables_hold_numbers_and_weights(capsys):
    assert main(["models", "unireplknet_a"]) == 0
    out = capsys.readouterr().out
    cells = ["unireplknet_a", "4,649,060", "4,437,300", "4.4M", "224", "0.67", "0.64", "0.6"]
    assert cells in [line.split() for line in out.splitlines()]
    assert "unireplknet_a_in1k_224_acc77.03.pth" in out
    assert "unireplknet_b" not in out


def test_a_size_has_its_parameters_once_and_weights_that_are_not_the_papers_a_footnote(capsys):
    assert main(["models", "unireplknet_s"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("56,456,704" in line for line in lines) == 1  # for two sizes of images
    assert any(line.endswith("unireplknet_s_in22k_pretrain.pth *") for line in lines)
    notes = [line for line in lines if line.startswith("* ")]
    assert any(note.startswith("* unireplknet_s_in22k_pretrain.pth: trained again") for note in notes)
    assert len(notes) == sum(line.endswith(" *") for line in lines)


def test_an_unknown_name_suggests_near_ones(capsys):
    assert main(["models", "unireplknet_xs"]) == 1
    assert "did you mean" in capsys.readouterr().err


@pytest.mark.parametrize("deploy", [False, True])
def test_counting_by_sizes_gives_what_the_whole_program_computes(deploy):
    model = UniRepLKNet(
        (2, 1, 3, 1), (8, 16, 24, 32), ((3, 3), (13,), (7, 0, 7), (5,)), 7, 4, deploy=deploy, impl="fft"
    )  # of 4 channels, which no zeros are added to
    parameters, macs = complexity.costs(model, 48)
    variables = abstract_variables(model)
    with jax.set_mesh(make_mesh()):  # of CPU devices: for a GPU a block has a small product more
        whole = jax.make_jaxpr(model.clone(impl="xla").apply)(variables, jnp.zeros((1, 48, 48, 4)))
    assert macs == complexity._macs(whole.jaxpr) > 0
    assert parameters == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert complexity.count_parameters(variables) == parameters


def test_macs_count_stride_groups_and_batches():
    def network(x, kernel, depthwise, a, b):
        names = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=names)
        y = lax.conv_general_dilated(y, depthwise, (1, 1), "SAME", dimension_numbers=names, feature_group_count=6)
        return y.sum() + jnp.einsum("nij,njk->nik", a, b).sum()

    shapes = [(2, 8, 8, 4), (3, 3, 4, 6), (5, 5, 1, 6), (3, 4, 5), (3, 5, 7)]
    program = jax.make_jaxpr(network)(*map(jnp.zeros, shapes))
    strided, depthwise, product = 2 * 4 * 4 * 6 * 9 * 4, 2 * 4 * 4 * 6 * 25, 3 * 4 * 5 * 7
    assert complexity._macs(program.jaxpr) == strided + depthwise + product


def test_macs_inside_other_programs_count():
    square = jnp.zeros((4, 4))
    once = 4**3

    @jax.custom_vjp
    def custom(x):
        return x @ x

    custom.defvjp(lambda x: (custom(x), x), lambda x, g: (g @ x,))
    programs = {
        "jit": (lambda x: jax.jit(lambda y: y @ y)(x), 1),
        "remat": (jax.checkpoint(lambda x: x @ x), 1),
        "custom_vjp": (custom, 1),
        "scan": (lambda x: lax.scan(lambda y, _: (y @ y, None), x, length=5)[0], 5),
        "cond": (lambda x: lax.cond(x[0, 0] > 0, lambda y: y @ y @ y, lambda y: y, x), 2),
    }
    for name, (function, times) in programs.items():
        assert complexity._macs(jax.make_jaxpr(function)(square).jaxpr) == times * once, name
    endless = jax.make_jaxpr(lambda x: lax.while_loop(lambda y: y[0, 0] < 1, lambda y: y @ y, x))(square)
    with pytest.raises(ValueError, match="fixed number of rounds"):
        complexity._macs(endless.jaxpr)
