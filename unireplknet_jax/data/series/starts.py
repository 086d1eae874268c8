"""Where a forecast may start from: the last value, the climatology, or a regression on departures from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from unireplknet_jax.data.series.ridge import fit_ridge, ridge_forecast
from unireplknet_jax.data.series.time_features import fit_seasons, season_basis
from unireplknet_jax.data.series.windows import Series, moments, without_gaps

STARTS = ("none", "last", "climatology", "regression")
_LEAST_SPREAD = 1e-3  # of a station's deviation; below, rounding counts
_CHUNK = 2**22  # numbers of an array that is made at a time


def start_curves(
    start: str, history: Any, past: Any, future: Any, climatology: Any, deviation: Any, weights: Any
) -> tuple[Any, Any]:
    """(what a history departs from, (n, t, stations), what its forecast starts from, (n, horizon, stations)).

    history: (n, t, stations) without gaps; past, future: (n, t, k) and (n, horizon, k), the basis of the climatology,
    whose coefficients are (k, stations); deviation: (stations,); weights: of `fit_ridge` on departures over
    `deviation`. Arrays of numpy or of jax.
    """
    if start == "last":
        last = history[:, -1:]
        return last, last + 0 * future[:, :, :1]
    before, after = past @ climatology, future @ climatology
    if start == "regression":
        departures = (history - before) / deviation
        after = after + deviation * ridge_forecast(weights, departures, future.shape[1])
    return before, after


def fit_statistics(series: Series, start: str, history: int, horizon: int) -> dict[str, Any]:
    """What a forecaster keeps of its training part, as lists.

    "mean" and "std" of each station, a deviation of 0 as 1; "climatology", coefficients (k, stations), and its orders,
    "seasons". Unless the start is "none", "spread", (horizon, stations): how far the starts are off, the root mean
    square over all windows and at least a thousandth of "std"; and "regression", the weights of `fit_ridge`, of that
    start. ValueError where the record has too few windows with a known future for a regression.
    """
    mean, std = moments(series.values)
    seasons, coefficients = fit_seasons(series.times, series.values)
    coefficients = coefficients.astype(np.float32)  # as it is kept
    found: dict[str, Any] = {"seasons": seasons, "climatology": coefficients, "mean": mean, "std": std}
    if start != "none":
        if len(series.times) < history + horizon:
            raise ValueError(
                f"{len(series.times)} rows to train on hold no window of {history} rows of history and {horizon} of "
                "future; give a longer series, or shorten history or horizon"
            )
        weights = np.zeros((0, 0))
        if start == "regression":
            curve = season_basis(series.times, *seasons) @ coefficients.astype(np.float64)
            known, filled = ((rows - curve) / std for rows in (series.values, without_gaps(series.values, mean)))
            weights = fit_ridge(known, filled, history, horizon)
            if weights is None:
                raise ValueError(
                    f"{len(series.times)} rows hold too few windows of {history} rows of history and {horizon} of "
                    "known future for a regression; give a longer series, or start='climatology'"
                )
            found["regression"] = weights = weights.astype(np.float32)
        spread = _errors(series, start, history, horizon, found, weights)
        found["spread"] = np.maximum(spread, _LEAST_SPREAD * std)
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in found.items()}


def _errors(
    series: Series, start: str, history: int, horizon: int, found: Mapping[str, Any], weights: np.ndarray
) -> np.ndarray:
    """(horizon, stations): how far the starts of all windows are off, root mean square over known values."""
    basis = season_basis(series.times, *found["seasons"])
    filled = without_gaps(series.values, found["mean"]).astype(np.float64)

    def windows(rows: np.ndarray, length: int) -> np.ndarray:
        return np.moveaxis(sliding_window_view(rows, length, axis=0), -1, 1)

    past, truth = windows(filled, history), windows(series.values[history:], horizon)
    before, after = windows(basis, history), windows(basis[history:], horizon)
    squared, count = (np.zeros((horizon, filled.shape[1])) for _ in range(2))
    size = max(_CHUNK // ((history + horizon) * filled.shape[1]), 1)
    for first in range(0, len(truth), size):
        last = min(first + size, len(truth))
        inputs = past[first:last], before[first:last], after[first:last]
        error = start_curves(start, *inputs, found["climatology"], found["std"], weights)[1] - truth[first:last]
        squared += np.nansum(np.square(error), axis=0)
        count += np.isfinite(error).sum(axis=0)
    return np.sqrt(squared / np.maximum(count, 1))
