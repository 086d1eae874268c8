"""Forecasts as a long table: a row for each station, time and variable, as spreadsheets and data frames like them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from unireplknet_jax.tasks.base import Record, Task

_VARIABLES = ("forecast", "hindcast", "truth")


@dataclasses.dataclass(frozen=True)
class LongTable(Task):
    """A task whose records hold, for each variable, a row {"time": ..., station: value} for each time.

    The last two variables are there where a file is long enough. Derived classes have `labels`, the stations.
    """

    def table_columns(self, top: int) -> tuple[str, ...]:
        return ("station", "time", "variable", "value")

    def table_rows(self, records: Sequence[Record], top: int) -> list[tuple[Any, ...]]:
        stations: tuple[str, ...] = self.labels  # type: ignore[attr-defined]
        return [
            (station, row["time"], name, row[station])
            for record in records
            for name in _VARIABLES
            for station in stations
            for row in record.get(name, ())
        ]
