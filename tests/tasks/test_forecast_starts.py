"""Forecasts that start from the last value, the climatology or a regression, and skill against a ridge regression."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from splits import examples_of, fitted_to
from waves import DATA, DECODER, make_task

from unireplknet_jax.data.series.sets import open_series
from unireplknet_jax.models.unireplknet import UniRepLKNet
from unireplknet_jax.nn.corrformer import Corrformer, normalized
from unireplknet_jax.tasks import forecast_errors
from unireplknet_jax.tasks.base import get_task

STARTS = ("last", "climatology", "regression")
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def tasks():
    return {start: fitted_to(make_task(start=start), DATA) for start in STARTS}


def compared(task, split="val", open_train=None):
    """The split of an evaluation with its ridge regression, and the notes on it."""
    return task.compared(task.open(DATA, split), open_train or (lambda: task.open(DATA, "train")))


def batch_of(dataset, count=3):
    examples = [dataset[index] for index in range(count)]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]} | {"mask": np.ones(count)}


def saying(number):
    """A network that says the same number of everything, and keeps what it was told."""
    told = []

    def apply(variables, history, *rest, **options):
        told.append(history)
        out = jnp.full((len(history), 4, history.shape[-1]), number, jnp.float32)
        return (out, {}) if options else out

    return apply, told


# The start.


@pytest.mark.parametrize("start", STARTS)
def test_the_networks_numbers_are_errors_of_the_start_in_units_of_its_own(tasks, start):
    task = dataclasses.replace(tasks[start], scale=0.1)
    batch = batch_of(examples_of(task, DATA, "val"))
    (zero, told), (one, _) = saying(0.0), saying(1.0)
    found, more = (task.predict(apply, {}, batch) for apply in (zero, one))
    spread = np.array(task.spread)
    np.testing.assert_allclose((more["forecast"] - found["forecast"])[1], 0.1 * spread, rtol=1e-3)
    before = batch["history"][:, -1:]
    if start != "last":
        before = batch["history_seasons"] @ np.array(task.climatology)
    np.testing.assert_allclose(told[0], (batch["history"] - before) / np.array(task.std), rtol=1e-3, atol=1e-4)
    if start == "regression":
        np.testing.assert_array_equal(found["start"], found["forecast"])
        error = np.asarray(found["forecast"]) - 0.1 * batch["future"]
        assert np.mean(error**2) < 0.5 * np.mean((np.asarray(found["persistence"]) - 0.1 * batch["future"]) ** 2)
    else:
        same = {"last": "persistence"}.get(start, start)
        np.testing.assert_allclose(found["forecast"], found[same], rtol=1e-5)
        assert "start" not in found
    loss, _ = task.loss(one, {}, batch, None)
    residual = (batch["future"] - 10 * np.asarray(found["forecast"])) / spread
    assert loss == pytest.approx(np.mean((1 - residual) ** 2), rel=1e-3)


def test_a_last_value_that_is_missing_is_the_last_one_measured(tasks):
    task = tasks["last"]
    split = task.open(DATA, "val")
    values = split.source.values.copy()
    values[9:12, 2] = np.nan  # the end of the first window
    values[:12, 3] = np.nan  # all of it
    split = split._replace(source=dataclasses.replace(split.source, values=values))
    pred = task.predict(saying(0.0)[0], {}, batch_of(task.examples(split, train=False), 1))
    np.testing.assert_allclose(pred["forecast"][0, :, 2], values[8, 2], rtol=1e-6)
    np.testing.assert_allclose(pred["forecast"][0, :, 3], task.mean[3], rtol=1e-6)


def test_a_users_file_starts_as_a_window_of_the_data_does(tasks, tmp_path):
    task, series = tasks["regression"], open_series("waves", "test")
    lines = [f"{time},{','.join(map(str, row))}" for time, row in zip(series.times, series.values, strict=True)]
    path = tmp_path / "a.csv"
    path.write_text("\n".join([",".join(["time", *series.names]), *lines[:12]]))
    (example,) = task.read(path)
    inputs = {name: np.asarray(example[name])[None] for name in task.specs(train=False)[0].inputs}
    found = task.predict(saying(0.5)[0], {}, inputs)
    expected = task.predict(saying(0.5)[0], {}, batch_of(examples_of(task, DATA, "test"), 1))
    np.testing.assert_allclose(found["forecast"], expected["forecast"], rtol=1e-5)


def test_a_card_keeps_what_the_start_needs_and_an_older_one_has_none(tasks):
    task = tasks["regression"]
    card = json.loads(json.dumps({"options": task.options, "labels": task.labels}))
    assert get_task("forecasting", **card["options"], labels=card["labels"]) == task
    older = {name: value for name, value in card["options"].items() if name not in ("start", "regression", "spread")}
    found = get_task("forecasting", **older, labels=card["labels"])
    assert found.start == "none"
    assert "history_seasons" not in found.specs(train=False)[0].inputs
    assert not found.module().residual


def test_what_a_start_cannot_be():
    with pytest.raises(ValueError, match="start is 'first'; expected one of none, last, climatology, regression"):
        make_task(start="first")
    with pytest.raises(ValueError, match="normalization is 'batch'; expected one of window, none"):
        make_task(decoder=DECODER | {"normalization": "batch"})


# The network.

TRUNK = UniRepLKNet((1, 1, 1, 1), (4, 4, 4, 8), ((3,),) * 4, num_classes=None, in_chans=1)
NETWORK = Corrformer(TRUNK, (2,), 4, 3, width=8, heads=2, hidden=16, residual=True)


@pytest.mark.slow  # the formula around it is tested above
def test_an_untrained_residual_network_says_zero_and_learns():
    inputs = normal(0, 2, 10, 4), normal(1, 2, 10, 4), normal(2, 2, 7, 4), jnp.zeros((4, 3))

    def run(inputs):
        variables = NETWORK.init(jax.random.key(0), *inputs)

        def loss(params):
            return jnp.mean((NETWORK.apply({**variables, "params": params}, *inputs) - 1) ** 2)

        gradient = jax.grad(loss)(variables["params"])
        return NETWORK.apply(variables, *inputs), gradient["decoder"]["projection"]["kernel"]

    out, gradient = jax.jit(run)(inputs)
    np.testing.assert_array_equal(out, 0)
    assert np.all(np.isfinite(gradient))
    assert np.any(gradient)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("normalization", ["window", "none"])
def test_a_normalized_window_comes_back_whatever_it_holds(residual, normalization):
    """Of departures 0 stays 0. Windows of one value, as of a station that is silent, have finite gradients."""
    scale, bias = jnp.full((1, 1, 4), 1.5), jnp.full((1, 1, 4), 0.3)

    def there_and_back(x):
        y, restore = normalized(x, scale, bias, normalization, residual)
        return y, restore(y), restore(bias + 0 * y)

    x = normal(0, 2, 10, 4) * jnp.array([1.0, 50.0, 0.0, 0.0]) + jnp.array([0.0, 3.0, 0.0, 7.0])
    y, back, zero = there_and_back(x)
    np.testing.assert_allclose(back, x, rtol=1e-4, atol=1e-4)
    middle = x.mean(axis=1, keepdims=True) if (normalization == "window" and not residual) else 0 * x[:, :1]
    np.testing.assert_allclose(zero, np.broadcast_to(middle, x.shape), rtol=1e-4, atol=1e-5)
    size = jnp.sqrt(jnp.mean(((y - 0.3) / 1.5) ** 2, axis=1))[:, :2]
    assert np.allclose(size, 1, atol=1e-3) == (normalization == "window")
    gradient = jax.grad(lambda x: sum(jnp.sum(part**2) for part in there_and_back(x)))(x)
    assert np.all(np.isfinite(gradient))


# Skill against a ridge regression.


def test_skill_is_over_all_and_for_each_lead():
    shapes = {"squared": (2.0, 6.0), "persistence": (4.0, 6.0), "ridge": (1.0, 12.0), "start": (8.0, 8.0)}
    sums = {name: np.array(value)[:, None] * np.ones((1, 3)) for name, value in shapes.items()}
    found = forecast_errors.metrics({**sums, "absolute": sums["squared"], "count": np.ones((2, 3))}, ())
    for name, expected in {
        "persistence": (0.2, 0.5, 0),
        "ridge": (1 - 8 / 13, -1, 0.5),
        "start": (0.5, 0.75, 0.25),
    }.items():
        keys = [f"skill_{name}{of}" for of in ("", "/lead 1", "/lead 2")]
        assert [found[key] for key in keys] == pytest.approx(expected)
    assert next(iter(found)) == "mse"
    unknown = forecast_errors.metrics(
        {**sums, "ridge": np.nan * sums["ridge"], "absolute": sums["squared"], "count": np.ones((2, 3))}, ()
    )
    assert not [name for name in unknown if "ridge" in name]


def test_a_forecast_of_the_ridge_regression_has_no_skill_against_it(tasks):
    task = dataclasses.replace(tasks["regression"], scale=0.5)
    split, notes = compared(task)
    assert notes == []
    batch = batch_of(task.examples(split, train=False))
    pred = task.predict(saying(0.0)[0], {}, batch)
    saved = task.saved(jax.device_get(pred), batch)
    np.testing.assert_allclose(saved["ridge"][1], 0.5 * split.baseline(batch["history"][1]), rtol=1e-5)
    own = {**pred, "forecast": saved["ridge"]}
    found = task.metrics(jax.device_get(jax.jit(task.totals)(own, batch)), [])
    assert found["skill_ridge"] == pytest.approx(0, abs=1e-6)
    assert found["skill_persistence"] > 0.5
    start = task.metrics(jax.device_get(jax.jit(task.totals)(pred, batch)), [])
    assert start["skill_start"] == pytest.approx(0, abs=1e-6)
    assert task.units["skill_ridge"] == "1 - MSE / MSE of it"


def test_without_a_training_part_there_is_no_skill_against_ridge_and_a_note(tasks):
    task = tasks["last"]

    def lost():
        raise ValueError("there is no /data; expected the files of csv there")

    for open_train, words in (
        (lost, "needs the training part: there is no /data; expected the files"),
        (
            lambda: task.open(DATA, "train")._replace(source=open_series("waves", "train").rows(0, 13)),
            "too few windows",
        ),
    ):
        split, (note,) = compared(task, open_train=open_train)
        assert words in note
        batch = batch_of(task.examples(split, train=False))
        found = task.metrics(jax.device_get(jax.jit(task.totals)(task.predict(saying(0.0)[0], {}, batch), batch)), [])
        assert "skill_ridge" not in found
        assert found["skill_climatology"] > 0
