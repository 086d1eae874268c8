"""Where forecasts start from, by hand; what is fitted to records with gaps, constants and too few rows."""

import dataclasses

import numpy as np
import pytest

from unireplknet_jax.data.series.ridge import ridge_forecast
from unireplknet_jax.data.series.sets import open_series
from unireplknet_jax.data.series.starts import fit_statistics, start_curves
from unireplknet_jax.data.series.time_features import season_basis
from unireplknet_jax.data.series.windows import Windows


def batch_of(series, statistics, history=6, horizon=3, count=4):
    windows = Windows(series, history, 2, horizon, statistics["seasons"], np.array(statistics["mean"]))
    examples = [windows[index] for index in range(count)]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def curves(start, batch, statistics):
    weights = np.array(statistics.get("regression", []))
    facts = np.array(statistics["climatology"]), np.array(statistics["std"]), weights
    return start_curves(start, batch["history"], batch["history_seasons"], batch["seasons"], *facts)


def test_the_starts_by_hand():
    series = open_series("waves", "train")
    statistics = fit_statistics(series, "regression", 6, 3)
    batch = batch_of(series, statistics)
    season = season_basis(series.times, *statistics["seasons"]) @ np.array(statistics["climatology"])
    before, after = curves("last", batch, statistics)
    np.testing.assert_array_equal(before[2, 0], series.values[7])
    np.testing.assert_array_equal(after[2], np.tile(series.values[7], (3, 1)))
    before, after = curves("climatology", batch, statistics)
    np.testing.assert_allclose(before[2], season[2:8], rtol=1e-5)
    np.testing.assert_allclose(after[2], season[8:11], rtol=1e-5)
    before, after = curves("regression", batch, statistics)
    std, weights = np.array(statistics["std"]), np.array(statistics["regression"])
    departures = (series.values[2:8] - season[2:8]) / std
    expected = season[8:11] + std * ridge_forecast(weights, departures[None], 3)[0]
    np.testing.assert_allclose(before[2], season[2:8], rtol=1e-5)
    np.testing.assert_allclose(after[2], expected, rtol=1e-4)
    assert np.mean((after[2] - series.values[8:11]) ** 2) < np.mean((series.values[7] - series.values[8:11]) ** 2)


@pytest.mark.parametrize("start", ["last", "climatology", "regression"])
def test_the_spread_is_the_error_of_the_start_where_it_is_known(start):
    series = open_series("waves", "train").rows(0, 60)
    values = series.values.copy()
    values[20:30, 0] = values[-1] = np.nan
    series = dataclasses.replace(series, values=values)
    statistics = fit_statistics(series, start, 6, 3)
    batch = batch_of(series, statistics, count=60 - 8)
    error = np.where(batch["known"] > 0, curves(start, batch, statistics)[1] - batch["future"], np.nan)
    np.testing.assert_allclose(statistics["spread"], np.sqrt(np.nanmean(error**2, axis=0)), rtol=1e-5)


def test_a_constant_station_has_a_spread_that_can_be_divided_by():
    series = open_series("waves", "train").rows(0, 200)
    values = series.values.copy()
    values[:, 1] = 101_325
    for start in ("last", "climatology", "regression"):
        statistics = fit_statistics(dataclasses.replace(series, values=values), start, 6, 3)
        assert statistics["std"][1] == 1
        np.testing.assert_allclose(np.array(statistics["spread"])[:, 1], 1e-3, rtol=20)
        assert np.all(np.isfinite(statistics["spread"]))
        assert np.array(statistics["spread"]).min() >= 1e-3 * min(statistics["std"])


def test_the_published_form_keeps_nothing_of_a_start():
    assert set(fit_statistics(open_series("waves", "val"), "none", 6, 3)) == {"mean", "std", "seasons", "climatology"}


def test_a_record_too_short_for_a_start_is_one_sentence():
    series = open_series("waves", "train")
    with pytest.raises(ValueError, match=r"8 rows to train on hold no window of 6 rows of history and 3 of future;"):
        fit_statistics(series.rows(0, 8), "last", 6, 3)
    short = dataclasses.replace(series.rows(0, 12), values=series.values[:12].copy())
    short.values[7:] = np.nan
    with pytest.raises(ValueError, match=r"hold too few windows .* for a regression; .* start='climatology'"):
        fit_statistics(short, "regression", 6, 3)
