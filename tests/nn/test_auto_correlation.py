"""Correlation layers and causal convolutions against the original's numbers (tests/goldens/series)."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from networks import compiled, lively

from unireplknet_jax.models import torch_names
from unireplknet_jax.nn.auto_correlation import AutoCorrelation, CrossCorrelation, MultiCorrelation, mix_shifts
from unireplknet_jax.nn.causal_conv import CausalConvs
from unireplknet_jax.tasks.forecasting_names import NAMES

pytestmark = pytest.mark.usefixtures("quick_compilation")


def close(found, expected):
    """Within float32 of float64: a few sums of some hundred products."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


def with_weights(module, file, *inputs):
    """The variables of a module, filled from a golden file's "w/<PyTorch name>"."""
    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    arrays = {
        entry.path: torch_names.from_torch(entry, file[f"w/{name}"]) for name, entry in NAMES.table(variables).items()
    }
    assert len(arrays) == sum(name.startswith("w/") for name in file.files)
    return flax.traverse_util.unflatten_dict(arrays)


def run(module, variables, *inputs):
    """The module applied, compiled as a whole; a numpy array."""
    return np.asarray(compiled(module)(variables, *inputs))


def initial(module, *inputs):
    """Lively variables; nothing is computed to get them."""
    return lively(jax.eval_shape(module.init, jax.random.key(0), *inputs))


@pytest.mark.parametrize(("case", "features"), [(0, (12,)), (1, (12, 12)), (2, (10,))])
def test_causal_convolutions(goldens, case, features):
    file = np.load(goldens / "series" / f"causalconv{case}.npz")
    module, x = CausalConvs(features), np.swapaxes(file["x_ncl"], 1, 2)
    y = run(module, with_weights(module, file, x), x)
    close(np.swapaxes(y, 1, 2), file["out_f64"])


def test_causal_convolutions_do_not_look_ahead():
    module, x = CausalConvs((4, 4)), np.asarray(normal(0, 1, 12, 4))
    variables, changed = initial(module, x), np.where(np.arange(12)[:, None] < 7, x, np.float32(9))
    before, after = (run(module, variables, y) for y in (x, changed))
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert not np.allclose(before[:, 7], after[:, 7])


@pytest.mark.parametrize(("case", "factor"), [(0, 1), (1, 2), (2, 1)])
def test_auto_correlation(goldens, case, factor):
    file = np.load(goldens / "series" / f"autocorr{case}.npz")
    module, inputs = AutoCorrelation(2, factor), [file[name] for name in ("queries", "keys", "values")]
    close(run(module, with_weights(module, file, *inputs), *inputs), file["out_f64"])


def test_the_sign_of_a_lag_turns_the_shift_around():
    one_hot = np.eye(10, dtype=np.float32)
    moved = jax.jit(mix_shifts)(one_hot[3], one_hot[5][:, None])
    assert np.argmax(moved) == 2
    k = np.tile(one_hot[5][None, :, None], (1, 1, 2))
    module, inputs = AutoCorrelation(1, lag_sign=-1), (np.roll(k, 3, 1), k, k)
    variables = jax.tree.map(  # projections that change nothing
        lambda leaf: np.eye(*leaf.shape, dtype=np.float32) if leaf.ndim == 2 else np.zeros_like(leaf),
        initial(module, *inputs),
    )
    assert not np.allclose(run(module, variables, *inputs), run(AutoCorrelation(1), variables, *inputs))


@pytest.mark.parametrize(("case", "factor"), [(0, 1), (1, 2), (2, 1)])
def test_cross_correlation(goldens, case, factor):
    file = np.load(goldens / "series" / f"crosscorr{case}.npz")
    module = CrossCorrelation(2, factor)
    inputs = [file[name].reshape(2, 3, *file[name].shape[1:]) for name in ("queries", "keys", "values")]
    out = run(module, with_weights(module, file, *inputs), *inputs)
    close(out.reshape(6, 8, 8), file["out_f64"])


@pytest.mark.parametrize("case", [0, 1])
def test_multi_correlation(goldens, case):
    file = np.load(goldens / "series" / f"multicorr{case}.npz")
    module, inputs = MultiCorrelation((2, 3), 2), (file["x"], file["cross"])
    close(run(module, with_weights(module, file, *inputs), *inputs), file["out_f64"])


@pytest.mark.parametrize(
    ("tree", "length"),
    [((2, 2, 2), 7), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in (((5,), 7), ((1, 3), 1)))],
)
def test_trees_of_any_depth_and_odd_lengths(tree, length):
    rows = 2 * int(np.prod(tree))
    x = normal(0, rows, length, 8)
    module = MultiCorrelation(tree, 4, dropout=0.1)
    variables = initial(module, x, x)

    def loss(params):
        return jnp.sum(module.apply({"params": params}, x, x, True, rngs={"dropout": jax.random.key(2)}) ** 2)

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
    assert np.any(gradients["cross_correlation"]["value_projection"]["kernel"])


@pytest.mark.parametrize(
    ("silent", "dropouts"),
    [("cross_correlation", 2), pytest.param("auto_correlation", 1, marks=pytest.mark.slow)],
)
def test_leaves_are_dropped_twice_and_the_levels_of_the_tree_once(silent, dropouts):
    rate = 0.3
    module, x = MultiCorrelation((2, 3), 2, dropout=rate), normal(0, 120, 8, 8)
    params = flax.traverse_util.flatten_dict(initial(module, x, x)["params"])
    # One of both says nothing, and the causal convolutions add nothing, or what they drop themselves would show.
    for path in params:
        if path[:2] == (silent, "out_projection") or ("causal_fusion" in path and path[-1] in ("g", "bias")):
            params[path] = np.zeros_like(params[path])
    variables = {"params": flax.traverse_util.unflatten_dict(params)}
    whole = run(module, variables, x, x)
    train = jax.jit(lambda key: module.apply(variables, x, x, True, rngs={"dropout": key}))
    dropped = np.asarray(train(jax.random.key(2)))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], whole[kept] / (1 - rate) ** dropouts, rtol=1e-5, atol=1e-6)
    assert kept.mean() == pytest.approx((1 - rate) ** dropouts, abs=0.03)  # 5 standard deviations of 7,680 draws
