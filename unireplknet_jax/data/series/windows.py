"""Series of many stations at even steps of time: checked, without gaps, and as windows of history and future."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unireplknet_jax.data.base import listed
from unireplknet_jax.data.classes import places_among
from unireplknet_jax.data.files import EncodedFile, file_name, source_name
from unireplknet_jax.data.series.time_features import frequency_of, season_basis, time_features
from unireplknet_jax.data.tables import (
    AUTO,
    MISSING,
    has_decimal_commas,
    has_quoted_decimals,
    number,
    rows_of_table,
    split_missing,
    without_fills,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Series:
    """times: (t,) datetime64[s], evenly spaced; values: (t, stations) float32, NaN where missing.

    places: (stations, 3) latitude, longitude (degrees), elevation, or None. A value times `scale` is in `unit`.
    missing: what stood for missing values (`tables.split_missing`).
    """

    times: np.ndarray
    values: np.ndarray
    names: tuple[str, ...]
    places: np.ndarray | None = None
    unit: str = ""
    scale: float = 1.0
    missing: str = AUTO

    @property
    def step(self) -> int:
        """Seconds between two rows."""
        return int((self.times[1] - self.times[0]).astype(np.int64))

    def rows(self, start: int, stop: int) -> Series:
        """The rows from start up to stop."""
        return dataclasses.replace(self, times=self.times[start:stop], values=self.values[start:stop])


def checked(
    name: str, times: np.ndarray, values: np.ndarray, names: Sequence[str], missing: str = AUTO, **facts
) -> Series:
    """A `Series` with rows of NaN in place of timestamps that are left out.

    name: what to call it in errors. Values that archives write where nothing was measured become NaN
    (`tables.without_fills`, by `missing`). ValueError for times that are not sorted, that occur twice or are not
    multiples of one step apart, for a station without any value or with a place that is none, and for fewer than two
    rows.
    """
    times = times.astype("datetime64[s]")
    if len(times) < 2:
        raise ValueError(f"{name} has {len(times)} row(s); expected at least two, a step apart")
    if len(times) != len(values):
        raise ValueError(f"{name} has {len(times)} timestamps for {len(values)} rows of values; expected as many")
    if np.isnat(times).any():
        raise ValueError(f"{name}: row {int(np.argmax(np.isnat(times))) + 1} has no timestamp; give every row one")
    gaps = np.diff(times).astype(np.int64)
    if not np.all(gaps > 0):
        row = int(np.argmax(gaps <= 0))
        what = "occurs twice" if gaps[row] == 0 else f"comes after {times[row]}"
        raise ValueError(f"{name}: {times[row + 1]} {what} (row {row + 2}); sort the rows and keep one for each time")
    lengths, counts = np.unique(gaps, return_counts=True)
    step = int(lengths[np.argmax(counts)])
    if np.any(gaps % step):
        row = int(np.argmax(gaps % step != 0))
        raise ValueError(
            f"{name}: {times[row + 1]} comes {gaps[row]} s after the row above, but rows are {step} s apart; expected "
            "evenly spaced times, of which some may be left out"
        )
    with np.errstate(over="ignore"):  # too large for float32 is missing, as infinity is
        values = np.asarray(values, np.float32)
    values = without_fills(values, name, missing)
    check_measured(name, values, names)
    if facts.get("places") is not None:
        _check_places(name, facts["places"], names)
    positions = np.concatenate([[0], np.cumsum(gaps // step)])
    if positions[-1] + 1 > 10 * len(times):
        raise ValueError(f"{name} lacks {positions[-1] + 1 - len(times):,} of its rows, most of all; give it in parts")
    if positions[-1] + 1 != len(times):
        filled = np.full((positions[-1] + 1, values.shape[1]), np.nan, np.float32)
        filled[positions] = values
        times, values = times[0] + np.arange(len(filled)) * np.timedelta64(step, "s"), filled
    return Series(times, values, tuple(names), missing=missing, **facts)


def check_measured(name: str, values: np.ndarray, names: Sequence[str]) -> None:
    """Raise ValueError for a column of values (t, stations) that is NaN alone. name: what to call them."""
    empty = [names[column] for column in np.flatnonzero(~np.isfinite(values).any(axis=0))]
    if empty:
        raise ValueError(f"{name} has no value at all for {listed(empty)}; leave out what was never measured")


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the deviation of known values (t, stations), in double precision; 1 for a deviation of 0."""
    known = np.isfinite(values)
    mean, std = (np.asarray(f(values, axis=0, where=known, dtype=np.float64)) for f in (np.mean, np.std))
    return mean, np.where(std > 0, std, 1)


def _check_places(name: str, places: np.ndarray, names: Sequence[str]) -> None:
    on_earth = np.isfinite(places).all(axis=1) & (np.abs(places[:, 0]) <= 90) & (np.abs(places[:, 1]) <= 360)
    if not on_earth.all():
        raise ValueError(
            f"{name}: {listed([names[row] for row in np.flatnonzero(~on_earth)])} has no place on Earth; expected "
            "latitude (-90 to 90), longitude and elevation, all numbers"
        )


def read_table(
    source: str | os.PathLike | EncodedFile, missing: str = AUTO
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """(times (t,), values (t, n), column names) of a CSV file: a header, then a timestamp and a value per column.

    source: its path, or its bytes with a name, as `tables.rows_of_table` reads it. Numbers between semicolons, tabs or
    quotes may have decimal commas. Timestamps are ISO 8601; those with an offset are brought to UTC. Empty cells, NA,
    NaN and their like (`tables.MISSING`), and texts of `missing` (`tables.split_missing`) are missing values. A row of
    units below the header and the row numbers that pandas writes before the times are passed over.
    """
    path, texts = source_name(source), split_missing(missing)[2]
    rows, separator = rows_of_table(source, "time,STATION,... and a row for each time")
    rows = _without_row_numbers(rows)
    header = rows[0][1] if rows else []
    if len(rows) > 2 and _is_row_of_units(rows[1][1]):
        _log.warning("%s, line %d: %s passed over as units", path, rows[1][0], listed(rows[1][1]))
        del rows[1]
    names = tuple(header[1:])
    if not names or len(rows) < 2:
        raise ValueError(f"{path} has no rows or no stations; expected a header time,STATION,... and a row a time")
    if _is_time(header[0]):
        raise ValueError(f"{path} begins with the time {header[0]}; expected a header time,STATION,... above it")
    if len({*header}) != len(header) or "" in names:
        raise ValueError(f"{path} names two columns alike, or one not at all; give every station a name of its own")
    wrong = next(((line, row) for line, row in rows if len(row) != len(header)), None)
    if wrong:
        raise ValueError(f"{path}, line {wrong[0]}: {len(wrong[1])} cells, but the header has {len(header)}")
    times = [parse_time(row[0], f"{path}, line {line}") for line, row in rows[1:]]
    cells = [cell for _, row in rows[1:] for cell in row[1:]]
    decimal = has_quoted_decimals(cells) if separator == "," else has_decimal_commas(cells)
    if decimal:
        _log.warning("%s: its commas are taken for decimal ones", path)
    values = [_parse_values(row[1:], names, f"{path}, line {line}", decimal, texts) for line, row in rows[1:]]
    return np.array(times, "datetime64[s]"), np.array(values, np.float64), names


def _without_row_numbers(rows: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """Rows without their first cells if these are the numbers that pandas writes, of which the times come after."""
    numbered = len(rows) > 1 and rows[0][1][0] in ("", "Unnamed: 0") and len(rows[0][1]) > 2
    if numbered and all(len(row) > 1 and row[0].isdecimal() and _is_time(row[1]) for _, row in rows[1:]):
        return [(line, row[1:]) for line, row in rows]
    return rows


def _is_row_of_units(row: Sequence[str]) -> bool:
    """Whether a row has texts alone, and no time."""

    def is_number(cell: str) -> bool:
        try:
            return np.isfinite(number(cell, True))
        except ValueError:
            return False

    texts = [cell for cell in row[1:] if cell.lower() not in MISSING]
    return bool(texts) and not _is_time(row[0]) and not any(map(is_number, row))


def read_stations(
    source: str | os.PathLike | EncodedFile, names: Sequence[str], step: int, missing: str = AUTO
) -> Series:
    """The stations of a model, found by their names in a CSV file with a row every `step` seconds.

    Names are compared as a person reads them (`classes.places_among`). missing: as in `read_table`.
    Raises ValueError, one sentence, for another kind of source and for a file that misses a station or has other steps.
    """
    path = file_name(source, "a table of stations, CSV")
    if not (isinstance(source, EncodedFile) or Path(path).is_file()):
        raise ValueError(f"there is no file {path}; expected a CSV with time,STATION,... and a row for each time.")
    times, values, found = read_table(source, missing)
    columns = places_among(found, names)
    absent = [name for name, column in zip(names, columns, strict=True) if column is None]
    if absent:
        raise ValueError(f"{path} has no column for {listed(absent)}; expected the {len(names)} stations of the model.")
    series = checked(path, times, values[:, [*columns]], names, missing)
    if series.step != step:
        raise ValueError(f"{path} has a row every {series.step} s; the model expects one every {step} s.")
    return series


def parse_time(text: str, where: str) -> datetime.datetime:
    """An ISO 8601 text as a time of UTC, in which texts without an offset are. where: how the error begins."""
    try:
        time = datetime.datetime.fromisoformat(text)
        return time.astimezone(datetime.UTC).replace(tzinfo=None) if time.tzinfo else time
    except (ValueError, OverflowError):
        raise ValueError(f"{where}: {text!r} is no time; expected one like 2024-01-31 13:00") from None


def _is_time(text: str) -> bool:
    try:
        return bool(parse_time(text, ""))
    except ValueError:
        return False


def _parse_values(
    cells: Sequence[str], names: Sequence[str], where: str, decimal: bool, missing: Sequence[str]
) -> list[float]:
    try:
        return [number(cell, decimal, missing) for cell in cells]
    except ValueError as error:
        raise ValueError(f"{where}: {error}; expected numbers for {listed(names)}") from None


def without_gaps(values: np.ndarray, first: np.ndarray | float) -> np.ndarray:
    """Values (t, n) with each NaN replaced by the last value before it, or by `first`, (n,), where there is none.

    Nothing flows back from a later row, so a window knows no more than its own time did.
    """
    known = np.isfinite(values)
    last = np.maximum.accumulate(np.where(known, np.arange(len(values))[:, None], -1), axis=0)
    filled = np.take_along_axis(values, np.maximum(last, 0), axis=0)
    return np.where(last >= 0, filled, np.asarray(first, np.float32)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Windows:
    """Every window of a series, a step apart: `history` rows, then `horizon` rows to forecast; picklable.

    Example i, for n stations: {"history": (history, n) without gaps, "future": (horizon, n), 0 where missing, "known":
    (horizon, n) 1 where it is not, "history_marks": (history, m) and "future_marks": (label + horizon, m) features of
    time, "history_seasons": (history, k) and "seasons": (horizon, k) the basis of the climatology of orders `seasons`,
    "ridge": (horizon, n) what `ridge` forecasts of the history, NaN without one, "id": i}.
    """

    series: Series
    history: int
    label: int
    horizon: int
    seasons: tuple[int, int]
    first: np.ndarray
    ridge: Callable[[np.ndarray], np.ndarray] | None = None

    def __post_init__(self):
        rows = len(self.series.times)
        if rows < self.history + self.horizon:
            raise ValueError(
                f"{rows} rows hold no window of {self.history} rows of history and {self.horizon} of "
                "future; give a longer series, or shorten history or horizon"
            )
        series = self.series
        arrays = {
            "_filled": without_gaps(series.values, self.first),
            "_marks": time_features(series.times, frequency_of(series.step)).astype(np.float32),
            "_basis": season_basis(series.times, *self.seasons).astype(np.float32),
        }
        for name, array in arrays.items():
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.series.times) - self.history - self.horizon + 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        now = index + self.history
        future = self.series.values[now : now + self.horizon]
        known, history = np.isfinite(future), self._filled[index:now]
        return {
            "history": history,
            "future": np.where(known, future, np.float32(0)),
            "known": known.astype(np.float32),
            "history_marks": self._marks[index:now],
            "future_marks": self._marks[now - self.label : now + self.horizon],
            "history_seasons": self._basis[index:now],
            "seasons": self._basis[now : now + self.horizon],
            "ridge": np.full_like(future, np.nan) if self.ridge is None else self.ridge(history),
            "id": index,
        }


def continued(series: Series, steps: int) -> Series:
    """The series with `steps` rows of NaN after its last one."""
    more = series.times[-1] + np.arange(1, steps + 1) * np.timedelta64(series.step, "s")
    blank = np.full((steps, series.values.shape[1]), np.nan, np.float32)
    return dataclasses.replace(
        series, times=np.concatenate([series.times, more]), values=np.concatenate([series.values, blank])
    )
