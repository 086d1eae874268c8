"""Forecasting: the original's checkpoint, windows in and forecasts out, metrics by hand, wrong files."""

import dataclasses
import json
import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import lively
from splits import examples_of, fitted_to
from waves import DATA, DECODER, MODEL, make_task

import unireplknet_jax as urk
from unireplknet_jax.data.series.sets import open_series
from unireplknet_jax.data.series.time_features import frequency_of, season_basis, time_features
from unireplknet_jax.data.series.windows import Series
from unireplknet_jax.models.reparameterize import reparameterize
from unireplknet_jax.models.torch_archive import read_state_dict, write_state_dict
from unireplknet_jax.models.torch_names import Entry, from_torch
from unireplknet_jax.tasks import convert, forecast_errors, forecast_plot, forecast_records, forecasting_names
from unireplknet_jax.tasks.base import Split, get_task
from unireplknet_jax.tasks.checkpoint import Checkpoint, initial_variables, open_checkpoint, save_checkpoint
from unireplknet_jax.tasks.forecast_plot import draw_forecast
from unireplknet_jax.tasks.forecasting import Forecasting
from unireplknet_jax.tasks.names import names_of_task
from unireplknet_jax.tasks.predict import predict_files
from unireplknet_jax.train.evaluate import evaluate

# In official names the tensors of its blocks tell the depth of a stage, which is 1 or more.
NAMED = MODEL | {"depths": (1, 1, 1, 1), "kernel_sizes": ((3,), (7,), (3,), (3,))}
OPTIONS = {"heads": 4}
GOLDEN = {"decoder": OPTIONS, "tree": (2, 3), "stations": 12, "label": 8, "horizon": 8, "history": 16}


pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def path(goldens):
    return goldens / "series" / "model.pth"


@pytest.fixture(scope="module")
def fitted():
    return fitted_to(make_task(), DATA)


@pytest.fixture(scope="module")
def variables(fitted):
    """Random, with batch statistics that are not trivial."""
    made = jax.jit(fitted.init)(jax.random.key(0))
    return {**made, "batch_stats": jax.tree.map(lambda leaf: leaf + 0.3, made["batch_stats"])}


# Against the original.


def test_the_originals_checkpoint_forecasts_as_it_did(path, goldens):
    file = np.load(goldens / "series" / "model_L16.npz")
    checkpoint = open_checkpoint(path, options={**GOLDEN, "places": file["stations"].tolist()})
    task = checkpoint.task
    batch = {"history": file["x_enc"], "history_marks": file["x_mark_enc"], "future_marks": file["x_mark_dec"]}
    batch |= {"seasons": np.ones((2, 8, 1)), "future": np.zeros((2, 8, 12)), "known": np.zeros((2, 8, 12))}
    pred = jax.jit(lambda variables, batch: task.predict(checkpoint.module.apply, variables, batch))(
        checkpoint.variables, batch
    )
    expected = file["tokens/out_f64"]
    np.testing.assert_allclose(pred["forecast"], expected, rtol=0, atol=2e-5 * expected.std())


def test_the_originals_names_there_and_back(path, tmp_path):
    """The file that is written holds every tensor of the original's, the convolutions twice, as it does."""
    state = {name: tensor.numpy() for name, tensor in read_state_dict(path)[0].items()}
    model, variables = urk.load_checkpoint(path, options=GOLDEN)
    assert (model.heads, model.tree, model.width, model.hidden) == (4, (2, 3), 32, 64)
    urk.save_torch_checkpoint(tmp_path / "back.pth", variables)
    back = {name: tensor.numpy() for name, tensor in read_state_dict(tmp_path / "back.pth")[0].items()}
    assert set(back) == set(state)
    for name, value in state.items():
        if "num_batches" not in name:
            np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_what_a_file_does_not_tell_is_as_published(path):
    task = open_checkpoint(path).task
    assert (task.tree, task.stations, dict(task.decoder)["heads"]) == ((1,), 2, 16)
    with pytest.raises(ValueError, match="the task forecasting has no options heads; it has model, tree"):
        open_checkpoint(path, options={"heads": 4})


def renamed(state, changes):
    return {changes(name): value for name, value in state.items()}


def test_weight_norm_of_a_newer_pytorch_and_classifiers_are_taken(path, tmp_path, caplog):
    state = {name: tensor.numpy() for name, tensor in read_state_dict(path)[0].items()}
    newer = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): value
        for name, value in state.items()
        if ".net." not in name
    }
    newer["encoder.head.weight"] = np.zeros((1000, 32), np.float32)
    newer["encoder.norm.weight"] = np.zeros(32, np.float32)
    write_state_dict(tmp_path / "newer.pth", newer)
    expected, found = (
        jax.tree.leaves(urk.load_checkpoint(file, options=GOLDEN)[1]) for file in (path, tmp_path / "newer.pth")
    )
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    assert "without use and left out: encoder.head.weight, encoder.norm.weight" in caplog.text


def test_twins_that_differ_and_missing_tensors_are_refused(path, tmp_path):
    state = {name: tensor.numpy() for name, tensor in read_state_dict(path)[0].items()}
    twin = next(name for name in state if name.endswith("net.4.bias"))
    write_state_dict(tmp_path / "twins.pth", {**state, twin: state[twin] + 1})
    lost = np.full_like(state[twin], np.nan)  # as a training leaves it that has diverged: reported, and no difference
    write_state_dict(tmp_path / "lost.pth", {**state, twin: lost, names_of_task("forecasting").canonical(twin): lost})
    urk.load_checkpoint(tmp_path / "lost.pth", options=GOLDEN)
    with pytest.raises(ValueError, match="are the same tensor in the original, but differ here"):
        urk.load_checkpoint(tmp_path / "twins.pth", options=GOLDEN)
    del state["affine_bias"]
    write_state_dict(tmp_path / "missing.pth", state)
    with pytest.raises(ValueError, match=r"missing \(1\): affine_bias"):
        urk.load_checkpoint(tmp_path / "missing.pth", options=GOLDEN)


@pytest.mark.parametrize(
    ("name", "length", "message"),
    [
        ("decoder.layers.0.conv1.weight", None, "has no decoder.layers.0.conv1.weight, which tells the sizes"),
        ("network.0.conv1.bias", 127, "the causal convolution's 127 channels do not fit a decoder 32 wide"),
    ],
)
def test_a_decoder_whose_sizes_cannot_be_told_is_refused(path, tmp_path, name, length, message):
    state = {name: tensor.numpy() for name, tensor in read_state_dict(path)[0].items() if ".net." not in name}
    for full in [full for full in state if full.endswith(name)]:
        state[full] = None if length is None else state[full][:length]
    write_state_dict(tmp_path / "a.pth", {full: value for full, value in state.items() if value is not None})
    with pytest.raises(ValueError, match=message):
        urk.load_checkpoint(tmp_path / "a.pth", options=GOLDEN)


@pytest.mark.parametrize(
    "options",
    [
        {"step": 86_400},
        pytest.param({"decoder": {**DECODER, "width": 6, "causal_layers": 2}}, marks=pytest.mark.slow),
        {"decoder": {**DECODER, "width": 48, "heads": 3, "layers": 2}},  # 16 heads divide the width, but do not fit
    ],
)
def test_other_steps_and_widths_have_names_too(fitted, options, tmp_path):
    task = dataclasses.replace(fitted, model=NAMED, **options)
    flat = {entry.path: np.full(entry.shape, 0.5, np.float32) for entry in task.name_table().values()}
    flat = {path: from_torch(Entry(path, leaf.shape), leaf) for path, leaf in flat.items()}
    variables = flax.traverse_util.unflatten_dict(flat)
    urk.save_torch_checkpoint(tmp_path / "a.pth", variables)
    again = open_checkpoint(tmp_path / "a.pth")
    assert jax.tree.structure(again.variables) == jax.tree.structure(variables)
    assert again.task.step == task.step


def test_eleven_stations_a_leaf_are_the_published_tree():
    task = make_task(model=NAMED, tree=(1,), stations=11, decoder={**DECODER, "heads": 8})
    shapes = {name: entry.shape for name, entry in task.name_table().items()}
    options, merged = task.names.options(shapes)
    found = get_task("forecasting", **options)
    assert (found.tree, found.stations, found.label, found.horizon, merged) == ((7, 50), 3850, 5, 5, False)
    assert (found.scaling, found.history) == ("none", 10)


@pytest.mark.slow  # `test_the_originals_checkpoint_forecasts_as_it_did` reads the file, tasks/test_fit.py fits others
def test_training_starts_from_the_originals_file(path, caplog):
    task = Forecasting(**{**open_checkpoint(path, options=GOLDEN).task.options, "tree": (3,), "stations": 6})
    made = initial_variables(task, path)
    assert "made: nothing" in caplog.text
    assert made["params"]["affine_scale"].shape == (1, 1, 2)


# The data.


def test_the_task_learns_stations_scaling_and_climatology(fitted):
    train = open_series("waves", "train")
    assert fitted.labels == train.names
    assert (fitted.stations, fitted.step, fitted.unit, fitted.seasons) == (12, 3600, "m", (0, 2))
    np.testing.assert_allclose(fitted.mean, train.values.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(fitted.std, train.values.std(axis=0), rtol=1e-4)
    assert fitted_to(fitted, DATA) is fitted
    card = json.loads(json.dumps({"options": fitted.options, "labels": fitted.labels}))
    assert get_task("forecasting", **card["options"], labels=card["labels"]) == fitted


def test_values_of_a_scaled_set_are_forecast_in_its_unit():
    series = dataclasses.replace(open_series("waves", "train"), unit="°C", scale=0.1)
    task = make_task().fitted_to(Split(series, "mine", "train"), None)
    assert (task.unit, task.scale) == ("°C", 0.1)


def write_series(folder, values, names):
    """A csv set of hourly values (t, stations); the data of a recipe that reads it."""
    times = np.datetime64("2024-01-01", "s") + np.arange(len(values)) * np.timedelta64(3600, "s")
    write_csv(folder / "series.csv", Series(times, values, names))
    return {**DATA, "name": "csv", "dir": str(folder)}


def test_scaling_is_fitted_in_double_precision(tmp_path):
    """In float32 the mean of so many values is off by a hundred deviations."""
    values = np.full((20_000, 2), 101_325.1, np.float32)
    values[:, 1] += np.tile([-1.0, 1.0], 10_000)
    task = fitted_to(make_task(tree=(2,)), write_series(tmp_path, values, ("a", "b")))
    np.testing.assert_allclose(task.mean, values[0, 0], rtol=1e-9, atol=0.01)
    np.testing.assert_allclose(task.std, 1, rtol=0.01)


def test_a_station_without_values_to_train_on_is_named(tmp_path):
    values = np.ones((200, 2), np.float32)
    values[:150, 1] = np.nan
    with pytest.raises(ValueError, match="the train part of csv has no value at all for b;"):
        fitted_to(make_task(tree=(2,)), write_series(tmp_path, values, ("a", "b")))


def test_what_is_missing_is_learned_of_the_data_and_holds_for_a_users_file(tmp_path):
    data = write_series(tmp_path, np.arange(400, dtype=np.float32).reshape(200, 2), ("a", "b"))
    task = fitted_to(make_task(tree=(2,)), data | {"missing": "6 7"})
    assert (task.missing, task.mean[0]) == ("6 7", pytest.approx(np.mean([2.0 * i for i in range(140) if i != 3])))
    series = task.read(tmp_path / "series.csv")[0]["series"]
    np.testing.assert_array_equal(np.argwhere(np.isnan(series.values[:200])), [[3, 0], [3, 1]])
    assert np.isnan(task.open({**data}, "train").source.values).sum() == 2


def test_stations_are_the_same_as_a_person_reads_them(fitted):
    names = tuple(f" {name.upper()}" for name in fitted.labels)
    split = Split(dataclasses.replace(open_series("waves", "train"), names=names), "mine", "train")
    assert fitted.fitted_to(split, None) is fitted


def test_stations_in_another_order_are_refused(fitted, tmp_path):
    names = (*fitted.labels[:2], fitted.labels[3], fitted.labels[2], *fitted.labels[4:])
    data = write_series(tmp_path, np.ones((200, 12), np.float32), names)
    for use in (lambda data: fitted_to(fitted, data), lambda data: examples_of(fitted, data, "test", train=False)):
        with pytest.raises(ValueError, match="station 3 of csv is buoy 3, but that of the model is buoy 2;"):
            use(data)


def test_windows_depend_on_seed_and_index_alone(fitted):
    first, again = (examples_of(fitted, DATA, "train", train=True) for _ in range(2))
    other = examples_of(fitted, {**DATA, "seed": 1}, "train", train=True)
    ids = [[int(stream[i]["id"]) for i in range(2000)] for stream in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]
    epoch = len(examples_of(fitted, DATA, "train", train=False))
    assert sorted(ids[0][:epoch]) == list(range(epoch))
    (spec,) = fitted.specs(train=True)
    shapes = {**spec.inputs, **spec.targets}
    assert {name: np.shape(first[0][name]) for name in shapes} == {name: leaf.shape for name, leaf in shapes.items()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tree": (5,)}, "12 stations cannot fill the 5 leaves"),
        ({"stations": 6}, "waves has 12 stations, but the model was built for 6"),
    ],
)
def test_other_stations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fitted_to(make_task(**options), DATA)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon=0 must be from 1 to a million"),
        ({"horizon": 10**9}, "horizon=1000000000 must be from 1 to a million"),
        ({"label": 13}, "label=13 must not exceed history=12"),
        ({"label": 2.5}, "label=2.5 must be a whole number"),
        ({"step": 0}, "step=0 must be 1 or more"),
        ({"stations": -6}, "stations=-6 must be 0 or more"),
        ({"scaling": "all"}, "scaling is 'all'"),
        ({"stations": 12, "mean": (1.0,)}, "mean has 1 entries for 12 stations"),
        ({"decoder": {"heads": 5}}, "cannot be split into 5 heads"),
        ({"decoder": {"depth": 3}}, "depth"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make_task(**options)


# Loss, predictions and metrics.


def predict(checkpoint, batch):
    """The forecasts of a batch, compiled."""
    step = jax.jit(lambda variables, batch: checkpoint.task.predict(checkpoint.module.apply, variables, batch))
    return np.asarray(step(checkpoint.variables, batch)["forecast"])


def make_batch(task, count=3, split="val"):
    dataset = examples_of(task, DATA, split, train=False)
    examples = [dataset[i] for i in range(count)]
    batch = {name: np.stack([example[name] for example in examples]) for name in dataset[0] if name != "id"}
    batch["known"][0, 1, 2] = batch["future"][0, 1, 2] = 0
    return batch | {"mask": np.array([1.0] * (count - 1) + [0.0], np.float32)}


def test_metrics_are_the_errors_of_known_values_in_physical_units(fitted):
    task = dataclasses.replace(fitted, scale=0.1)
    batch, rng = make_batch(task), np.random.default_rng(0)
    forecast = 0.1 * batch["future"] + rng.normal(size=batch["future"].shape)
    pred = task.predict(lambda variables, x, *rest, **options: jnp.zeros((3, 4, 12)), {}, batch)
    np.testing.assert_allclose(pred["forecast"][1, 0], 0.1 * np.array(task.mean), rtol=1e-5)
    np.testing.assert_allclose(pred["persistence"][0, 3], 0.1 * batch["history"][0, -1], rtol=1e-5)
    times = open_series("waves", "val").times[13:17]
    expected = 0.1 * season_basis(times, 0, 2) @ np.array(task.climatology)
    np.testing.assert_allclose(pred["climatology"][1], expected, rtol=1e-4)
    assert np.isnan(task.saved(pred, batch)["truth"][0, 1, 2])
    found = task.metrics(jax.device_get(jax.jit(task.totals)({**pred, "forecast": forecast}, batch)), [])

    known = batch["known"][:2] > 0
    errors = {"forecast": forecast, "persistence": pred["persistence"], "climatology": pred["climatology"]}
    errors = {name: (np.asarray(value) - 0.1 * batch["future"])[:2] for name, value in errors.items()}
    squared = {name: np.square(error)[known].mean() for name, error in errors.items()}
    assert next(iter(found)) == "mse"
    assert found["mse"] == pytest.approx(squared["forecast"], rel=1e-5)
    assert found["mae"] == pytest.approx(np.abs(errors["forecast"])[known].mean(), rel=1e-5)
    assert found["rmse"] == pytest.approx(found["mse"] ** 0.5)
    for name in ("persistence", "climatology"):
        assert found[f"skill_{name}"] == pytest.approx(1 - squared["forecast"] / squared[name], rel=1e-4)
    assert found["count"] == known.sum() == 2 * 4 * 12 - 1
    lead = np.square(errors["forecast"])[:, 1][known[:, 1]].mean()
    assert found["mse/lead 2"] == pytest.approx(lead, rel=1e-5)
    station = np.abs(errors["forecast"])[:, :, 2][known[:, :, 2]].mean()
    assert found[f"mae/{task.labels[2]}"] == pytest.approx(station, rel=1e-5)
    assert task.units["mse"] == "m²"
    assert dataclasses.replace(task, unit="").units["mse"] == ""  # of a table that says none


def test_a_forecast_that_is_not_finite_is_no_good_forecast(fitted):
    batch = make_batch(fitted)
    pred = fitted.predict(lambda *inputs, **options: jnp.full((3, 4, 12), jnp.nan), {}, batch)
    assert np.isnan(fitted.metrics(jax.device_get(jax.jit(fitted.totals)(pred, batch)), [])["mse"])
    with pytest.raises(ValueError, match="nothing to evaluate"):
        fitted.metrics(jax.device_get(jax.jit(fitted.totals)(pred, {**batch, "known": 0 * batch["known"]})), [])


def test_a_station_without_known_values_has_no_error():
    sums = np.array([[4.0, 0.0], [8.0, 0.0]])
    totals = {name: sums for name in ("squared", "absolute", "persistence", "climatology")}
    found = forecast_errors.metrics({**totals, "count": np.array([[1, 0], [2, 0]])}, ("here", "there"))
    assert (found["mse"], found["mse/here"], found["mse/lead 1"], found["mse/lead 2"]) == (4, 4, 4, 4)
    assert all(np.isnan(found[f"{name}/there"]) for name in ("mse", "mae", "rmse"))


def test_the_loss_is_over_known_values_alone(fitted):
    batch = make_batch(fitted)

    def loss(batch, scaling="station"):
        task = dataclasses.replace(fitted, scaling=scaling)
        return task.loss(lambda *inputs, **options: (jnp.ones((3, 4, 12)), {}), {}, batch, None)[0]

    known = batch["known"] > 0
    scaled = (batch["future"] - np.array(fitted.mean)) / np.array(fitted.std)
    assert loss(batch) == pytest.approx(np.square(1 - scaled)[known].mean(), rel=1e-5)
    assert loss(batch, "none") == pytest.approx(np.square(1 - batch["future"])[known].mean(), rel=1e-5)
    other = {**batch, "future": np.where(known, batch["future"], 1e6)}
    assert loss(other) == pytest.approx(loss(batch))


@pytest.mark.slow  # the merged forecasts of the original stay
def test_merged_inference_gives_the_same_forecast(fitted, tmp_path):
    fitted = dataclasses.replace(fitted, model=NAMED)
    variables = lively(fitted.abstract_variables())
    checkpoint = Checkpoint(fitted, variables, merged=False)
    merged, error = convert.merge(checkpoint, tolerance=1e-4)
    assert error < 1e-5
    batch = make_batch(fitted)
    plain, again = predict(checkpoint, batch), predict(merged, batch)
    np.testing.assert_allclose(again, plain, rtol=0, atol=1e-4)
    assert not np.allclose(plain, np.array(fitted.mean), atol=0.1)
    assert convert.describe(merged)["classes"] is None
    save_checkpoint(tmp_path / "merged", merged)
    assert open_checkpoint(tmp_path / "merged").task == fitted
    urk.save_torch_checkpoint(tmp_path / "merged.pth", merged.variables)
    assert reparameterize(variables).keys() == merged.variables.keys()


@pytest.mark.slow  # train/test_evaluate.py saves predictions of 8 devices
def test_an_evaluation_on_8_devices_saves_what_it_predicts(fitted, variables, tmp_path):
    dataset = examples_of(fitted, DATA, "val", train=False)[:13]
    metrics = evaluate(fitted, variables, dataset, 8, predictions=tmp_path / "a.npz")
    file = np.load(tmp_path / "a.npz")
    assert file["labels"].tolist() == list(fitted.labels)
    assert file["id"].tolist() == list(range(13))
    assert file["forecast"].shape == file["climatology"].shape == (13, 4, 12)
    np.testing.assert_allclose(file["truth"][5], dataset[5]["future"], rtol=1e-6)
    assert metrics["mse"] == pytest.approx(np.square(file["forecast"] - file["truth"]).mean(), rel=1e-5)
    alone = predict(Checkpoint(fitted, variables, merged=False), make_batch(fitted, 2))
    np.testing.assert_allclose(file["forecast"][1], alone[1], rtol=1e-4)


# A user's files.


def write_csv(path, series, rows=None, names=None):
    names = names or series.names
    columns = [series.names.index(name) for name in names]
    lines = [
        f"{time},{','.join('' if np.isnan(value) else str(value) for value in row[columns])}"
        for time, row in zip(series.times[:rows], series.values[:rows], strict=True)
    ]
    path.write_text("\n".join([f"time,{','.join(names)}", *lines]))
    return path


def test_a_file_becomes_a_forecast_and_a_hindcast(fitted, variables, tmp_path):
    series = open_series("waves", "test")
    path = write_csv(tmp_path / "a.csv", series, 20, series.names[::-1])
    task = dataclasses.replace(fitted, scale=0.5)
    checkpoint = Checkpoint(task, variables, merged=False)
    # History and horizon, one row less, and no more than a part of the history.
    shorter = [write_csv(tmp_path / f"{rows}.csv", series, rows) for rows in (16, 15, 12)]
    prediction, both, one_less, short = predict_files(checkpoint, [path, *shorter], batch_size=2)
    assert prediction.error is None
    (record,) = prediction.records
    assert record["id"] == str(path)
    assert [row["time"] for row in record["forecast"]] == [str(time) for time in series.times[20:24]]
    assert [row["time"] for row in record["hindcast"]] == [str(time) for time in series.times[16:20]]
    truth = np.array([[row[name] for name in series.names] for row in record["truth"]])
    np.testing.assert_allclose(truth, 0.5 * series.values[16:20], rtol=1e-5)
    example = examples_of(task, DATA, "test", train=False)[8]
    batch = {name: np.asarray(value)[None] for name, value in example.items() if name != "id"}
    expected = predict(checkpoint, batch)[0]
    found = np.array([[row[name] for name in series.names] for row in record["forecast"]])
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    json.dumps(prediction.records)
    rows = task.table_rows(prediction.records, 1)
    assert len(rows) == 3 * len(series.names) * 4
    assert {len(row) for row in rows} == {len(task.table_columns(1))}
    time = str(series.times[17])
    (value,) = [row[3] for row in rows if row[:3] == (series.names[1], time, "truth")]
    assert value == pytest.approx(0.5 * series.values[17, 1], rel=1e-5)
    picture = np.asarray(task.draw(prediction.examples, prediction.records))
    assert picture.shape[2] == 3
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    assert set(both.records[0]) == {"id", "unit", "forecast", "hindcast", "truth", "rmse of the hindcast"}
    assert set(one_less.records[0]) == {"id", "unit", "forecast"}
    assert set(short.records[0]) == {"id", "unit", "forecast"}
    assert task.draw(short.examples, short.records).size[0] > 100


def test_without_a_baseline_there_is_no_skill_though_a_station_was_never_measured():
    """Where nothing is known the sums of a baseline that is NaN are 0."""
    totals = {name: np.array([[6.0, 0.0]]) for name in ("squared", "absolute", "persistence")}
    totals |= {"ridge": np.array([[np.nan, 0.0]]), "count": np.array([[3.0, 0.0]])}
    found = forecast_errors.metrics(totals, ("a", "b"))
    assert (found["mse"], found["skill_persistence"]) == (2, 0)
    assert not any("ridge" in name for name in found)


def test_the_step_that_a_number_of_features_tells_has_as_many():
    for count, seconds in forecasting_names._STEPS.items():
        assert time_features(np.zeros(1, "datetime64[s]"), frequency_of(seconds)).shape == (1, count)


def test_the_error_of_a_hindcast_is_that_of_known_values():
    pred = {"forecast": np.array([[1.0, 2.0], [5.0, 9.0]]), "truth": np.array([[4.0, np.nan], [5.0, np.nan]])}
    example = {"id": "a.csv", "known": np.array([[1, 0], [1, 0]]), "times": ["2024-01-01", "2024-01-02"]}
    (found,) = forecast_records.combined([forecast_records.record(pred, example)], ("a", "b"), "m")
    assert found["rmse of the hindcast"] == pytest.approx(math.sqrt(9 / 2), rel=1e-5)  # written with six digits


@pytest.mark.slow  # `test_a_file_becomes_a_forecast_and_a_hindcast` draws one that has it
def test_a_forecast_without_a_climatology_is_drawn(fitted, variables, tmp_path):
    """Such is a forecaster of the official code, to which its stations have been named."""
    task = dataclasses.replace(fitted, climatology=())
    path = write_csv(tmp_path / "a.csv", open_series("waves", "test").rows(0, 20))
    (prediction,) = predict_files(Checkpoint(task, variables, merged=False), [path], batch_size=2)
    colours = np.asarray(task.draw(prediction.examples, prediction.records)).reshape(-1, 3)
    with_one = np.asarray(fitted.draw(prediction.examples, prediction.records)).reshape(-1, 3)
    blue = [np.sum(np.all(picture == (31, 119, 180), axis=1)) for picture in (colours, with_one)]  # climatology's
    assert blue[0] < blue[1]  # in the legend alone


def test_rows_without_any_value_at_the_end_of_a_file_have_no_hindcast(fitted, variables, tmp_path):
    series = open_series("waves", "test").rows(0, 20)
    series = dataclasses.replace(series, values=series.values.copy())
    series.values[16:] = np.nan
    path = write_csv(tmp_path / "a.csv", series)
    (prediction,) = predict_files(Checkpoint(fitted, variables, merged=False), [path], batch_size=2)
    assert set(prediction.records[0]) == {"id", "unit", "forecast"}
    after = series.times[-1] + np.timedelta64(3600, "s")
    assert prediction.records[0]["forecast"][0]["time"] == str(after)
    fitted.draw(prediction.examples, prediction.records)


def test_a_forecast_is_drawn_with_its_file_units_and_years(monkeypatch):
    figures, render = [], forecast_plot.rendered
    monkeypatch.setattr(forecast_plot, "rendered", lambda figure: figures.append(figure) or render(figure))
    times = np.datetime64("2023-12-30T20:00:00", "s") + np.arange(40) * np.timedelta64(3600, "s")
    names = ("Z\u00fcrich", "$x_{$", "c" * 200, "d", "e")
    record = {
        "id": "logs/" + "long_" * 40 + "winter.csv",
        "forecast": [{"time": "2024-01-01T12:00:00", **dict.fromkeys(names, 1.0)}] * 2,
        "hindcast": [{"time": "2024-01-01T11:00:00", **dict.fromkeys(names, 1.0)}] * 2,
    }
    picture = draw_forecast(record, times, np.ones((40, 5)), np.ones((42, 5)), names, 40, "\u00b0C")
    assert picture.width <= 800
    (figure,) = figures
    assert figure.get_suptitle().endswith("(the first 4 of 5 stations)")
    panels = figure.axes
    assert [axes.get_title(loc="left")[:7] for axes in panels] == ["Z\u00fcrich", "$x_{$", "ccccccc", "d"]
    assert {axes.get_ylabel() for axes in panels} == {"\u00b0C"}
    assert panels[-1].get_xlabel() == "time, from 2023-12-30 20:00 to 2024-01-01 12:00"
    days = [text.get_text() for text in panels[-1].get_xticklabels()]
    assert {"2023-12-31", "2024"} & {*days}  # a new year has its number
    (legend,) = figure.legends
    entries = ["measured", "forecast", "persistence", "climatology", "a forecast begins"]
    assert [text.get_text() for text in legend.get_texts()] == entries
    frame = legend.get_window_extent()
    assert not any(frame.overlaps(axes.get_tightbbox()) for axes in panels)
    assert frame.x0 >= 0
    assert frame.x1 <= picture.width


def test_persistence_is_drawn_from_the_last_known_value():
    times = np.datetime64("2024-01-01", "s") + np.arange(3) * np.timedelta64(3600, "s")
    record = {"forecast": [{"time": "2024-01-01T03:00:00", "a": 1.0}, {"time": "2024-01-01T04:00:00", "a": 2.0}]}

    def grey_pixels(*values):
        picture = draw_forecast(record, times, np.array(values)[:, None], np.zeros((5, 1)), ("a",), 3, "")
        return np.sum(np.all(np.asarray(picture) == 127, axis=-1))  # as persistence is drawn

    unknown, known = grey_pixels(np.nan, np.nan, np.nan), grey_pixels(1, 2, np.nan)
    assert known > unknown + 20


def test_a_split_is_known_by_its_first_and_last_row(fitted):
    split = fitted.open(DATA, "val")
    shorter = split._replace(source=split.source.rows(1, 12))
    first, last = (str(split.source.times[row]) for row in (1, 11))
    assert fitted.identity(shorter) == {"rows": f"{first} to {last}"} != fitted.identity(split)


def test_a_split_too_short_for_a_window_is_named(fitted):
    split = fitted.open(DATA, "val")
    short = split._replace(source=split.source.rows(0, 12))
    with pytest.raises(
        ValueError, match=r"waves, split val, has 12 rows; expected \d+ or more, history=\d+ and horizon="
    ):
        fitted.examples(short, train=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "\n".join(text.splitlines()[:8]), "has 7 rows; expected 12 or more"),
        (lambda text: text.replace("buoy 3", "buoy x"), "has no column for buoy 3; expected the 12 stations"),
        (lambda text: "\n".join([text.splitlines()[0], *text.splitlines()[:0:-1]]), "comes after"),
        (lambda text: "\n".join([*text.splitlines(), text.splitlines()[-1]]), "occurs twice"),
        (lambda text: "\n".join(text.splitlines()[::2]), "has a row every 7200 s; the model expects one every 3600"),
        (lambda text: "", "is empty; expected time,STATION"),
    ],
)
def test_wrong_files_are_one_sentence_and_lose_nothing(fitted, variables, tmp_path, change, message):
    series = open_series("waves", "test")
    good = write_csv(tmp_path / "good.csv", series, 30)
    bad = tmp_path / "bad.csv"
    bad.write_text(change(good.read_text()))
    with pytest.raises(ValueError, match=message):
        fitted.read(bad)


def test_a_station_that_was_never_measured_is_named(fitted, tmp_path):
    series = open_series("waves", "test")
    series.values[:, 1] = np.nan
    with pytest.raises(ValueError, match="has no value at all for buoy 1"):
        fitted.read(write_csv(tmp_path / "a.csv", series, 30))


def test_a_checkpoint_without_stations_says_what_to_do(path, tmp_path):
    with pytest.raises(ValueError, match="does not name its stations"):
        open_checkpoint(path).task.read(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="there is no file"):
        fitted_to(make_task(), DATA).read(tmp_path / "a.csv")
