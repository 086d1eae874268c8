"""What `predict` says of forecasts: rows of times and stations, or a long table, as data frames like it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unireplknet_jax.tasks.base import Example, Record

TABLE_COLUMNS = ("station", "time", "variable", "value")


def record(pred: Mapping[str, np.ndarray], example: Example) -> Record:
    """The record of a window that ends before its "times": `pred`, (horizon, stations) each, and if it is known."""
    shown = {name: np.asarray(value, np.float64) for name, value in pred.items()}
    return {"id": example["id"], "known": bool(np.any(example["known"])), "times": example["times"], **shown}


def combined(records: Sequence[Record], stations: Sequence[str], unit: str) -> list[Record]:
    """One record of a file: the forecast, a row for each time; the hindcast with its truth, if there is one."""
    merged = {"id": records[0]["id"], "unit": unit} if records else {}
    for found in records:
        name = "hindcast" if found["known"] else "forecast"
        merged[name] = _rows(found, "forecast", stations)
        if found["known"]:
            merged["truth"] = _rows(found, "truth", stations)
            error = np.square(found["forecast"] - found["truth"])
            merged["rmse of the hindcast"] = _short(np.sqrt(np.nanmean(error)))
    return [merged] if records else []


def table_rows(records: Sequence[Record], stations: Sequence[str]) -> list[tuple[Any, ...]]:
    """A row of `TABLE_COLUMNS` for each station, time and variable: the forecast, and a hindcast with its truth."""
    return [
        (station, row["time"], name, row[station])
        for found in records
        for name in ("forecast", "hindcast", "truth")
        for station in stations
        for row in found.get(name, ())
    ]


def _rows(found: Record, name: str, stations: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"time": time, **dict(zip(stations, map(_short, row), strict=True))}
        for time, row in zip(found["times"], found[name], strict=True)
    ]


def _short(value: float) -> float:
    """Six digits: more than any forecast knows."""
    return float(f"{value:.6g}")
