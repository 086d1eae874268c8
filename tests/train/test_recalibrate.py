"""Statistics of batch norm that are averages over training batches, by numbers."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear import Linear

from unireplknet_jax.nn.layers import BatchNorm
from unireplknet_jax.tasks.training import apply_training
from unireplknet_jax.train import recalibrate as module
from unireplknet_jax.train.recalibrate import Recalibration, make_statistics_step, recalibrate
from unireplknet_jax.train.sharding import make_mesh

GROUP = 4


class Norms(nn.Module):
    """Three batch norms, of which training leaves the one in the middle alone."""

    @nn.compact
    def __call__(self, x, train):
        y = BatchNorm(GROUP, name="first")(3 * x[:, None, None], train)
        y = BatchNorm(frozen=True, name="frozen")(y, train)
        return BatchNorm(GROUP, name="second")(nn.relu(y), train)[:, 0, 0]


class Normed(nn.Module):
    """The norms, and a table that only lies among their statistics."""

    remat: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        self.variable("batch_stats", "views", jnp.arange, 3.0)
        norms = nn.remat(Norms, static_argnums=(2,)) if self.remat else Norms
        return nn.Dense(1, use_bias=False)(norms(name="norms")(x, train))


@dataclasses.dataclass(frozen=True)
class Task(Linear):
    remat: bool = False

    def module(self, deploy=False):
        return Normed(self.remat)

    def loss(self, apply, variables, batch, rng):
        y, statistics = apply_training(apply, variables, (batch["x"],), rng)
        return jnp.mean(jnp.square(y)), {"batch_stats": statistics, "scalars": {}}


def made(task=Task()):
    """(variables, three batches of 16 rows)."""
    rng = np.random.default_rng(0)
    variables = task.module().init(jax.random.key(0), np.ones((16, 4)))
    norms = variables["batch_stats"]["norms"]
    norms["frozen"] = {"mean": jnp.full(4, 0.25), "var": jnp.full(4, 2.0)}
    norms["first"]["mean"] = jnp.full(4, 1e6)  # of which nothing may stay
    return variables, [
        {"x": rng.normal(k, 1 + k, (16, 4)).astype(np.float32), "y": np.zeros(16, np.float32)} for k in range(3)
    ]


def moments(x):
    """(mean, unbiased variance, both averaged over groups, x normalized) of rows in float64."""
    groups = x.reshape(-1, GROUP, 4)
    mean, var = groups.mean(1, keepdims=True), groups.var(1, keepdims=True)
    normalized = (groups - mean) / np.sqrt(var + 1e-5)
    return mean.mean((0, 1)), var.mean((0, 1)) * GROUP / (GROUP - 1), normalized.reshape(x.shape)


def by_hand(batches):
    """The statistics of `Normed` over batches, in float64."""
    rows = []
    for batch in batches:
        *first, y = moments(3.0 * batch["x"].astype(np.float64))
        *second, _ = moments(np.maximum((y - 0.25) / np.sqrt(2.0 + 1e-5), 0))
        rows.append([*first, *second])
    first_mean, first_var, second_mean, second_var = (np.mean(column, axis=0) for column in zip(*rows, strict=True))
    return {"first": {"mean": first_mean, "var": first_var}, "second": {"mean": second_mean, "var": second_var}}


@pytest.mark.parametrize(("devices", "fsdp", "remat"), [(1, 1, False), (8, 1, False), (8, 4, False), (1, 1, True)])
def test_they_are_the_averages_over_the_batches_on_any_mesh(devices, fsdp, remat):
    task = Task(remat=remat)
    variables, batches = made(task)
    before = jax.tree.map(np.asarray, variables)
    mesh = make_mesh(fsdp, jax.devices()[:devices])
    found = recalibrate(task, variables, iter(batches), mesh=mesh)
    expected = by_hand(batches)
    for norm, name in (("first", "mean"), ("first", "var"), ("second", "mean"), ("second", "var")):
        # Of 16 float32 numbers up to 20, and of the square root of their variance.
        np.testing.assert_allclose(
            found["batch_stats"]["norms"][norm][name], expected[norm][name], rtol=3e-6, atol=1e-6
        )
    jax.tree.map(np.testing.assert_array_equal, variables, before)  # nothing was changed in place
    assert found["params"] is variables["params"]
    np.testing.assert_array_equal(found["batch_stats"]["views"], [0, 1, 2])
    np.testing.assert_array_equal(found["batch_stats"]["norms"]["frozen"]["var"], [2] * 4)


def test_a_compiled_step_serves_again():
    variables, batches = made()
    step = make_statistics_step(Task(), make_mesh())
    first = recalibrate(Task(), variables, batches, statistics_step=step)
    again = recalibrate(Task(), first, batches, statistics_step=step)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert len(step._compiled) == 1


def test_statistics_keep_the_type_that_they_are_stored_in():
    variables, batches = made()
    variables["batch_stats"]["norms"]["first"]["mean"] = jnp.zeros(4)  # float16 ends at 65504
    half = {**variables, "batch_stats": jax.tree.map(lambda leaf: leaf.astype(jnp.float16), variables["batch_stats"])}
    found = recalibrate(Task(), half, batches)["batch_stats"]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {"float16"}
    np.testing.assert_allclose(
        found["norms"]["second"]["var"], by_hand(batches)["second"]["var"], rtol=1e-3
    )  # half of float16's


def test_a_network_without_batch_norm_is_left_alone_and_reads_nothing():
    variables = {"params": {"kernel": np.ones((4, 1))}, "batch_stats": {}}
    assert recalibrate(Linear(), variables, None) is variables


def test_no_batch_is_no_estimate():
    with pytest.raises(ValueError, match="no training batches"):
        recalibrate(Task(), made()[0], [])


def test_every_form_of_a_run_has_statistics_of_its_own_once_for_a_step(monkeypatch):
    variables, batches = made()
    state = {**variables, "step": jnp.int32(5), "ema": jax.tree.map(lambda leaf: leaf + 1, variables)}
    asked = []
    monkeypatch.setattr(module, "micro_batches", lambda *_: (batch for batch in batches))

    def noted(task, variables, batches, **_):
        asked.append((float(variables["params"]["norms"]["first"]["scale"][0]), len(list(batches))))
        return {**variables, "batch_stats": len(asked)}

    monkeypatch.setattr(module, "recalibrate", noted)
    config = type("Config", (), {"seed": 0})
    some = Recalibration(config, Task(), "a stream", make_mesh(), 2)
    for _ in range(2):
        forms = some.forms(state)
        assert [forms[form]["batch_stats"] for form in ("", "ema")] == [1, 2]
        assert forms["ema"]["params"] is state["ema"]["params"]
    assert asked == [(1.0, 2), (2.0, 2)]
    assert some.forms({**state, "step": jnp.int32(6)})[""]["batch_stats"] == 3
    off = Recalibration(config, Task(), "a stream", make_mesh(), 0).forms(state)
    assert off[""]["batch_stats"] is state["batch_stats"]
    assert off["ema"] is state["ema"]
    assert len(asked) == 4
