"""The errors of forecasts, over all, for each lead and for each station, from sums over a data set."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from unireplknet_jax.data.series.ridge import Ridge
from unireplknet_jax.data.series.windows import Series, moments
from unireplknet_jax.models.program import announced

_ERRORS = ("mse", "mae", "rmse")
BASELINES = ("persistence", "climatology", "ridge", "start")


def fitted_ridge(open_series: Callable[[], Series], history: int, horizon: int) -> tuple[Ridge | None, list[str]]:
    """(a ridge regression on the same history, fitted to the training part that is opened; why there is none)."""
    try:
        values = open_series().values
    except (ValueError, OSError, ImportError) as error:
        return None, [f"there is no skill against a ridge regression, which needs the training part: {error}"]
    with announced("fitting a ridge regression to compare with"):
        ridge = Ridge.fitted(values, history, horizon, *moments(values))
    few = "there is no skill against a ridge regression: its training part has too few windows with a known future"
    return ridge, [] if ridge else [few]


def metrics(totals: Mapping[str, np.ndarray], stations: Sequence[str]) -> dict[str, float]:
    """{metric: value} of sums (horizon, stations) each: "squared" and "absolute" errors, squared ones of those
    `BASELINES` that there are, "count".

    Skills are 1 - MSE / MSE of the baseline, over all and for each lead; a baseline that is NaN has none. Raises
    ValueError where nothing was counted.
    """
    sums = {name: np.asarray(value, np.float64) for name, value in totals.items()}
    if not sums["count"].sum():
        raise ValueError("there is nothing to evaluate: the data set is empty, or every value of it is missing.")
    known = [name for name in BASELINES if name in sums and np.isfinite(sums[name]).all()]
    found = _errors(sums) | _skills(sums, known)
    found["count"] = sums["count"].sum()
    for index in range(len(sums["count"])):
        at, of = {name: value[index] for name, value in sums.items()}, f"/lead {index + 1}"
        found |= _errors(at, of) | _skills(at, known, of)
    for index, station in enumerate(stations):
        found |= _errors({name: value[:, index] for name, value in sums.items()}, f"/{station}")
    return {name: float(value) for name, value in found.items()}


def _errors(sums: Mapping[str, np.ndarray], of: str = "") -> dict[str, float]:
    """{"mse" + of: ..., ...} of sums of any shape."""
    count = sums["count"].sum()
    mse, mae = _share(sums["squared"].sum(), count), _share(sums["absolute"].sum(), count)
    return {name + of: value for name, value in zip(_ERRORS, (mse, mae, math.sqrt(mse)), strict=True)}


def _skills(sums: Mapping[str, np.ndarray], baselines: Sequence[str], of: str = "") -> dict[str, float]:
    """{"skill_persistence" + of: ..., ...} of sums of any shape."""
    squared = sums["squared"].sum()
    return {f"skill_{name}{of}": 1 - _share(squared, sums[name].sum()) for name in baselines}


def _share(total: float, count: float) -> float:
    return total / count if count else math.nan
