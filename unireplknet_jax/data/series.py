"""Series of many stations at even steps of time: checked, without gaps, and as windows of history and future."""

from __future__ import annotations

import csv
import dataclasses
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unireplknet_jax.data.base import listed
from unireplknet_jax.data.time_features import frequency_of, season_basis, time_features

_MISSING = frozenset({"", "na", "nan", "null", "none", "-"})


@dataclass(frozen=True, eq=False)
class Series:
    """times: (t,) datetime64[s], evenly spaced; values: (t, stations) float32, NaN where missing.

    places: (stations, 3) latitude, longitude (degrees), elevation, or None. A value times `scale` is in `unit`.
    """

    times: np.ndarray
    values: np.ndarray
    names: tuple[str, ...]
    places: np.ndarray | None = None
    unit: str = ""
    scale: float = 1.0

    @property
    def step(self) -> int:
        """Seconds between two rows."""
        return int((self.times[1] - self.times[0]).astype(np.int64))

    def rows(self, start: int, stop: int) -> Series:
        """The rows from start up to stop."""
        return dataclasses.replace(self, times=self.times[start:stop], values=self.values[start:stop])


def checked(name: str, times: np.ndarray, values: np.ndarray, names: Sequence[str], **facts) -> Series:
    """A `Series` with rows of NaN in place of timestamps that are left out.

    name: what to call it in errors. ValueError for times that are not sorted, that occur twice or are not multiples of
    one step apart, for a station without any value, and for fewer than two rows.
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
    values = np.asarray(values, np.float32)
    values = np.where(np.isfinite(values), values, np.float32(np.nan))
    empty = [names[column] for column in np.flatnonzero(~np.isfinite(values).any(axis=0))]
    if empty:
        raise ValueError(f"{name} has no value at all for {listed(empty)}; leave out what was never measured")
    positions = np.concatenate([[0], np.cumsum(gaps // step)])
    if positions[-1] + 1 > 10 * len(times):
        raise ValueError(f"{name} lacks {positions[-1] + 1 - len(times):,} of its rows, most of all; give it in parts")
    if positions[-1] + 1 != len(times):
        filled = np.full((positions[-1] + 1, values.shape[1]), np.nan, np.float32)
        filled[positions] = values
        times, values = times[0] + np.arange(len(filled)) * np.timedelta64(step, "s"), filled
    return Series(times, values, tuple(names), **facts)


def read_table(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """(times (t,), values (t, n), column names) of a CSV file: a header, then a timestamp and a value per column.

    Timestamps are ISO 8601; those with an offset are brought to UTC. Empty cells, NA and NaN are missing values.
    """
    times, rows, names = [], [], ()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, row in enumerate(csv.reader(file), 1):
                if not any(cell.strip() for cell in row):
                    continue
                if not names:
                    names = tuple(cell.strip() for cell in row[1:])
                    continue
                if len(row) != len(names) + 1:
                    raise ValueError(f"{path}, line {line}: {len(row)} cells, but the header has {len(names) + 1}")
                times.append(_parse_time(row[0].strip(), path, line))
                rows.append(_parse_values(row[1:], names, path, line))
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(f"{path} is no CSV file in UTF-8; expected time,STATION,... and a row for each time") from None
    if not names or not rows:
        raise ValueError(f"{path} has no rows; expected a header time,STATION,... and a row for each time")
    if len({*names}) != len(names) or "" in names:
        raise ValueError(f"{path} names two columns alike, or one not at all; give every station a name of its own")
    return np.array(times, "datetime64[s]"), np.array(rows, np.float32), names


def _parse_time(text: str, path: Path, line: int) -> datetime.datetime:
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{path}, line {line}: {text!r} is no time; expected one like 2024-01-31 13:00") from None
    return time.astimezone(datetime.UTC).replace(tzinfo=None) if time.tzinfo else time


def _parse_values(cells: Sequence[str], names: Sequence[str], path: Path, line: int) -> list[float]:
    try:
        return [np.nan if cell.strip().lower() in _MISSING else float(cell) for cell in cells]
    except ValueError as error:
        raise ValueError(f"{path}, line {line}: {error}; expected numbers for {listed(names)}") from None


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
    time, "seasons": (horizon, k) the basis of the climatology of orders `seasons`, "id": i}.
    """

    series: Series
    history: int
    label: int
    horizon: int
    seasons: tuple[int, int]
    first: np.ndarray

    def __post_init__(self):
        if len(self) < 1:
            raise ValueError(
                f"{len(self.series.times)} rows hold no window of {self.history} rows of history and {self.horizon} of "
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
        known = np.isfinite(future)
        return {
            "history": self._filled[index:now],
            "future": np.where(known, future, np.float32(0)),
            "known": known.astype(np.float32),
            "history_marks": self._marks[index:now],
            "future_marks": self._marks[now - self.label : now + self.horizon],
            "seasons": self._basis[now : now + self.horizon],
            "id": index,
        }


def continued(series: Series, steps: int) -> Series:
    """The series with `steps` rows of NaN after its last one."""
    more = series.times[-1] + np.arange(1, steps + 1) * np.timedelta64(series.step, "s")
    blank = np.full((steps, series.values.shape[1]), np.nan, np.float32)
    return dataclasses.replace(
        series, times=np.concatenate([series.times, more]), values=np.concatenate([series.values, blank])
    )
