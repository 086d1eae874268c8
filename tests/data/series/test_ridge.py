"""The ridge regression that forecasts are compared with: closed form, by hand and on records whose answer is known."""

import numpy as np
import pytest

from unireplknet_jax.data.series import ridge
from unireplknet_jax.data.series.ridge import Ridge, fit_ridge, ridge_forecast


def record(steps=400, stations=3, seed=0):
    return np.random.default_rng(seed).standard_normal((steps, stations))


def test_weights_are_those_of_least_squares_with_a_penalty():
    """Both forms, against the same problem with the penalty as further rows."""
    values = record()
    for joint in (False, True):
        chunks = list(ridge._examples(values, values, 5, 2, joint, range(300)))
        x, y = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        assert x.shape == ((300, 16) if joint else (900, 6))
        penalized = np.sqrt(0.1 * len(x)) * np.eye(x.shape[1])[:-1]
        rows, targets = np.concatenate([x, penalized]), np.concatenate([y, np.zeros((len(penalized), y.shape[1]))])
        sums = ridge._sums(iter(chunks), joint)
        found = sums.weights(0.1)
        np.testing.assert_allclose(found, np.linalg.lstsq(rows, targets, rcond=None)[0], atol=1e-8)
        assert sums.error(found) == pytest.approx(np.mean((x @ found - y) ** 2))


def test_a_gap_in_the_future_leaves_its_own_example_out():
    values = record(60, 2)
    values[30:33, 1] = np.nan
    filled = np.nan_to_num(values)
    chunks = list(ridge._examples(values, filled, 4, 3, False, range(54)))
    x, y = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    found = ridge._sums(iter(chunks), False).weights(0)
    for lead in range(3):
        known = np.isfinite(y[:, lead])
        assert known.sum() == 2 * 54 - 3
        expected = np.linalg.lstsq(x[known], y[known, lead], rcond=None)[0]
        np.testing.assert_allclose(found[:, lead], expected, atol=1e-6)
    (x, y), *_ = ridge._examples(values, filled, 4, 3, True, range(54))
    assert len(x) == 54 - 5
    assert np.all(np.isfinite(y))


def test_stations_that_follow_each_other_see_each_other():
    values = record(600, 2)
    values[2:, 1] = values[:-2, 0]
    weights = fit_ridge(values, values, 4, 2)
    assert weights.shape == (9, 4)
    window = values[None, 100:104]
    np.testing.assert_allclose(ridge_forecast(weights, window, 2)[0, :, 1], values[104:106, 1], atol=0.01)


def test_stations_that_have_nothing_to_do_with_each_other_share_weights():
    values = record(300, 4)
    for row in range(1, 300):
        values[row] += 0.9 * values[row - 1]
    weights = fit_ridge(values, values, 4, 2)
    assert weights.shape == (5, 2)
    np.testing.assert_allclose(weights[3], (0.9, 0.81), atol=0.1)


def test_the_penalty_is_chosen_on_the_last_fifth():
    """What the record followed before it is noise there, so that the least weights are the best."""
    values = record(500, 1)
    for row in range(1, 400):
        values[row] = 0.97 * values[row - 1] + 0.3 * values[row]
    examples = ridge._examples(values, values, 4, 2, False, range(495))
    expected = ridge._sums(examples, False).weights(max(ridge.PENALTIES))
    np.testing.assert_allclose(fit_ridge(values, values, 4, 2), expected, rtol=1e-9)


def test_many_stations_share_weights_whatever_they_are_to_each_other(monkeypatch):
    values = record(600, 2)
    values[2:, 1] = values[:-2, 0]
    monkeypatch.setattr(ridge, "JOINT_MOST", 4 * 2 * 2 * 2 - 1)
    assert fit_ridge(values, values, 4, 2).shape == (5, 2)


def test_a_long_record_is_read_in_parts(monkeypatch):
    values = record()
    values[50, 1] = np.nan
    whole = fit_ridge(values, np.nan_to_num(values), 5, 2)
    monkeypatch.setattr(ridge, "_CHUNK", 100)
    np.testing.assert_allclose(fit_ridge(values, np.nan_to_num(values), 5, 2), whole, atol=1e-10)


def test_too_little_to_fit_gives_none():
    values = record(6, 2)
    assert fit_ridge(values, values, 4, 2) is None
    assert fit_ridge(values, values, 8, 2) is None
    unknown = np.full((50, 2), np.nan)
    assert fit_ridge(unknown, np.zeros((50, 2)), 4, 2) is None


def test_a_regression_forecasts_in_the_unit_of_the_data():
    """Of a constant station the constant; of a rising line the line, whose level and slope are far from the mean."""
    values = np.stack([np.full(300, 7.0), 1000 + 2.0 * np.arange(300)], axis=1)
    fitted = Ridge.fitted(values, 6, 3, np.array([7.0, 1300.0]), np.array([1.0, 170.0]))
    forecast = fitted(values[250:256].astype(np.float32))
    assert (forecast.shape, forecast.dtype) == ((3, 2), np.float32)
    np.testing.assert_allclose(forecast[:, 0], 7, atol=1e-3)
    np.testing.assert_allclose(forecast[:, 1], 1512 + 2 * np.arange(3), atol=1)
