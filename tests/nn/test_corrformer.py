"""Corrformer against the original's numbers (tests/goldens/series) and for sizes that the original cannot take."""

import collections

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from networks import compiled

from unireplknet_jax.models import torch_archive, torch_names
from unireplknet_jax.models.reparameterize import reparameterize
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.models.unireplknet import UniRepLKNet
from unireplknet_jax.nn.corrformer import Corrformer, centred_norm, decompose, picture_size
from unireplknet_jax.tasks.forecasting_names import NAMES

TRUNK = UniRepLKNet(
    depths=(2, 2, 6, 2),
    dims=(8, 16, 24, 32),
    kernel_sizes=((3,) * 2, (13,) * 2, (13,) * 6, (11,) * 2),
    num_classes=None,
    in_chans=1,
    layer_scale_init=1.0,
    impl="xla",  # the depthwise form that is traced soonest; the others are tested in tests/ops and tests/models
)
NETWORK = Corrformer(TRUNK, (2, 3), label=8, horizon=8, width=32, heads=4, hidden=64)


@pytest.mark.parametrize("window", [1, 5, 25])
def test_decomposition(goldens, window):
    file = np.load(goldens / "series" / "decomp.npz")
    seasonal, trend = jax.jit(decompose, static_argnums=1)(file[f"k{window}_in"], window)
    np.testing.assert_allclose(trend, file[f"k{window}_trend"], atol=1e-6)
    np.testing.assert_allclose(seasonal, file[f"k{window}_seasonal"], atol=1e-6)


def test_final_norm(goldens):
    file = np.load(goldens / "series" / "layernorm.npz")

    class Norm(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x):
            return centred_norm("norm")(x)

    params = {"norm": {"scale": file["w/layernorm.weight"], "bias": file["w/layernorm.bias"]}}
    np.testing.assert_allclose(jax.jit(Norm().apply)({"params": params}, file["x"]), file["out"], atol=2e-6)


@pytest.fixture(scope="module")
def variables(goldens):
    state, _ = torch_archive.read_state_dict(goldens / "series" / "model.pth", False)
    state = {NAMES.canonical(name): tensor for name, tensor in state.items()}
    shapes = ((1, 16, 12), (1, 16, 4), (1, 16, 4), (12, 3))
    inputs = (jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes)
    table = NAMES.table(abstract_variables(NETWORK, *inputs))
    arrays = {entry.path: torch_names.from_torch(entry, state[name].numpy()) for name, entry in table.items()}
    return flax.traverse_util.unflatten_dict(arrays)


pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize(
    ("run", "merged", "readouts"),
    [
        ("L16", False, ("tokens",)),
        pytest.param("L16ma5", True, ("tokens",), marks=pytest.mark.slow),
        pytest.param("L192", False, ("pool", "tokens_nchw"), marks=pytest.mark.slow),
        ("L192", True, ("tokens",)),
    ],
)
def test_the_originals_forecasts(goldens, variables, run, merged, readouts):
    """Every history, form and readout once. A forecast sums a few thousand products: 2e-5 of its spread."""
    file = np.load(goldens / "series" / f"model_{run}.npz")
    stations = file["stations"]
    places = (stations - stations.mean(axis=0)) / stations.std(axis=0)
    tree = reparameterize(variables) if merged else variables
    for readout in readouts:
        module = NETWORK.clone(
            backbone=TRUNK.clone(deploy=merged), readout=readout, moving_average=5 if run == "L16ma5" else 25
        )
        out = compiled(module)(tree, file["x_enc"], file["x_mark_enc"], file["x_mark_dec"], places)
        expected = file[f"{readout}/out_f64"]
        np.testing.assert_allclose(out, expected, rtol=0, atol=2e-5 * expected.std(), err_msg=readout)


def test_readouts_differ_where_the_map_has_several_positions(goldens):
    file = np.load(goldens / "series" / "model_L192.npz")
    assert not np.allclose(file["tokens/out"], file["pool/out"], atol=1)


def other_network(tree, label, horizon, dims, **options):
    kernels = ((), (), (), (3,))
    trunk = UniRepLKNet((0, 0, 0, 1), dims, kernels, num_classes=None, in_chans=1, remat=True, impl="xla")
    return Corrformer(trunk, tree, label, horizon, width=8, heads=2, hidden=16, **options)


def inputs_of(module, channels, history):
    series = int(np.prod(module.tree)) * channels
    steps = module.label + module.horizon
    shapes = [(2, history, series), (2, history, 4), (2, steps, 4)]
    return [*(normal(seed, *shape) for seed, shape in enumerate(shapes)), np.zeros((series, 3), np.float32)]


def loss_of(module, inputs):
    def loss(variables):
        out, _ = module.apply(
            variables, *inputs, train=True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"]
        )
        assert out.shape == (2, module.horizon, inputs[0].shape[-1])
        return jnp.mean(out**2)

    return loss


@pytest.mark.parametrize(
    ("tree", "channels", "history", "label", "horizon", "dims"),
    [
        ((2, 2), 3, 12, 6, 1, (4, 8, 8, 12)),
        pytest.param((2, 1, 3), 1, 9, 9, 30, (4, 4, 4, 8), marks=pytest.mark.slow),
        pytest.param((1,), 2, 7, 3, 4, (4, 4, 4, 8), marks=pytest.mark.slow),
    ],
)
def test_other_sizes_have_a_gradient(tree, channels, history, label, horizon, dims):
    """Traced, not computed."""
    module = other_network(tree, label, horizon, dims, layers=2, causal_layers=2)
    inputs = inputs_of(module, channels, history)
    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    assert ("token_projection" in variables["params"]) == (dims[-1] != 8)
    gradients = jax.eval_shape(jax.grad(loss_of(module, inputs)), variables)
    assert jax.tree.map(lambda leaf: leaf.shape, gradients) == jax.tree.map(lambda leaf: leaf.shape, variables)


def test_everything_is_dropped_that_the_original_drops():
    """Each use of a dropout in a training pass, by the module that uses it; traced, not computed."""
    trunk = UniRepLKNet((0,) * 4, (4, 4, 4, 8), ((),) * 4, num_classes=None, in_chans=1)
    module = Corrformer(trunk, (2, 3), 4, 5, width=8, heads=2, hidden=16, dropout=0.05)
    inputs, used = inputs_of(module, 1, 10), []

    def note(call, args, options, context):
        if isinstance(context.module, flax.linen.Dropout):
            used.append(("/".join(context.module.path[:-1]), context.module.rate, context.module.deterministic))
        return call(*args, **options)

    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    with flax.linen.intercept_methods(note):
        jax.eval_shape(loss_of(module, inputs), variables)
    layer = "decoder/layers_0"
    assert collections.Counter(used) == {
        ("enc_embedding", 0.05, False): 1,
        ("dec_embedding", 0.05, False): 1,
        (layer, 0.05, False): 2,  # before and after the second of the two linear layers
        **{(f"{layer}/{kind}multi_correlation", 0.05, False): 3 for kind in ("", "cross_")},
        **{  # two for each of the two levels of the tree
            (f"{layer}/{kind}multi_correlation/cross_correlation/causal_fusion/network_0", 0.2, False): 4
            for kind in ("", "cross_")
        },
    }


@pytest.mark.slow  # `test_other_sizes_have_a_gradient` stays
def test_every_parameter_learns():
    """All but what batch norms take away in the trunk and the weights of places, which are zero here."""
    module = other_network((3,), 4, 5, (4, 4, 4, 8))
    inputs = inputs_of(module, 1, 10)
    variables = jax.jit(module.init)(jax.random.key(2), *inputs)
    gradients = flax.traverse_util.flatten_dict(jax.jit(jax.grad(loss_of(module, inputs)))(variables)["params"])
    assert all(np.all(np.isfinite(leaf)) for leaf in gradients.values())
    still = {"/".join(path) for path, leaf in gradients.items() if not np.any(leaf)}
    assert not [name for name in still if not name.startswith("backbone/") and "location" not in name]


def test_rows_of_a_batch_do_not_mix(goldens, variables):
    file = np.load(goldens / "series" / "model_L16.npz")
    inputs = [file[name] for name in ("x_enc", "x_mark_enc", "x_mark_dec")]
    places, apply = np.zeros((12, 3), np.float32), compiled(NETWORK.clone(backbone=TRUNK.clone(deploy=False)))
    both, turned = apply(variables, *inputs, places), apply(variables, *(x[::-1] for x in inputs), places)
    np.testing.assert_allclose(np.asarray(turned)[::-1], both, rtol=0, atol=2e-5 * np.std(both))


def test_a_picture_is_as_square_as_it_can_be():
    assert [picture_size(n) for n in (36864, 512, 6144, 13)] == [(192, 192), (16, 32), (64, 96), (1, 13)]


def test_what_cannot_be_is_one_sentence():
    for options, words in [
        ({"heads": 5}, "cannot be split into 5 heads"),
        ({"moving_average": 4}, "must be odd"),
        ({"readout": "max"}, "expected one of tokens, pool"),
        ({"tree": ()}, "children of every level"),
        ({"heads": 0}, "heads=0 must be a whole number, 1 or more"),
        ({"moving_average": -1}, "moving_average=-1 must be a whole number"),
        ({"factor_spatial": 0}, "factor_spatial=0 must be a whole number"),
        ({"factor_spatial": 17}, "exceeds the 16 lags"),
        ({"dropout": 1.5}, "dropout=1.5 must be 0 or more and below 1"),
        ({"lag_sign": 0}, "lag_sign=0 must be 1 or -1"),
    ]:
        with pytest.raises(ValueError, match=words):
            NETWORK.clone(**options)

    def trace(module, steps, series):
        shapes = [(1, steps, series), (1, steps, 4), (1, 16, 4), (series, 3)]
        jax.eval_shape(module.init, jax.random.key(0), *(np.zeros(shape, np.float32) for shape in shapes))

    with pytest.raises(ValueError, match="does not give tokens 28 wide; choose another readout"):
        trace(NETWORK.clone(width=28, readout="tokens_nchw"), 16, 12)
    with pytest.raises(ValueError, match="13 series cannot be shared equally by the 6 leaves"):
        trace(NETWORK, 16, 13)
    with pytest.raises(ValueError, match="label=8 must be from 0 to the 4 steps"):
        trace(NETWORK, 4, 12)
