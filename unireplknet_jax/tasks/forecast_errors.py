"""The errors of forecasts, over all, for each lead and for each station, from sums over a data set."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

_ERRORS = ("mse", "mae", "rmse")
_BASELINES = ("persistence", "climatology")


def metrics(totals: Mapping[str, np.ndarray], stations: Sequence[str]) -> dict[str, float]:
    """{metric: value} of sums (horizon, stations) each: "squared" and "absolute" errors, squared ones of the baselines,
    "count".

    Skills are 1 - MSE / MSE of the baseline. Raises ValueError where nothing was counted.
    """
    sums = {name: np.asarray(value, np.float64) for name, value in totals.items()}
    if not sums["count"].sum():
        raise ValueError("there is nothing to evaluate: the data set is empty, or every value of it is missing.")
    found = _errors(sums)
    for name in _BASELINES:
        found[f"skill_{name}"] = 1 - found["mse"] / _share(sums[name].sum(), sums["count"].sum())
    found["count"] = sums["count"].sum()
    for index in range(len(sums["count"])):
        found |= _errors({name: value[index] for name, value in sums.items()}, f"/lead {index + 1}")
    for index, station in enumerate(stations):
        found |= _errors({name: value[:, index] for name, value in sums.items()}, f"/{station}")
    return {name: float(value) for name, value in found.items()}


def _errors(sums: Mapping[str, np.ndarray], of: str = "") -> dict[str, float]:
    """{"mse" + of: ..., ...} of sums of any shape."""
    count = sums["count"].sum()
    mse, mae = _share(sums["squared"].sum(), count), _share(sums["absolute"].sum(), count)
    return {name + of: value for name, value in zip(_ERRORS, (mse, mae, math.sqrt(mse)), strict=True)}


def _share(total: float, count: float) -> float:
    return total / count if count else math.nan
