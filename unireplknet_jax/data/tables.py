"""Tables of numbers as text, whatever program and language wrote them: separators, decimal commas, missing values."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

import numpy as np

from unireplknet_jax.data.base import listed

MISSING = frozenset(
    {"", "na", "n/a", "#n/a", "#na", "nan", "nat", "null", "nil", "none", "missing", "-", "--", "---", ".", "?", "*"}
)
# What archives write where nothing was measured; netCDF's own is 9.97e36.
FILLS = (-99.0, -999.0, -9999.0, -99999.0, -8888.0, -32767.0, -32768.0, 999.0, 9999.0, 99999.0, 999999.0, 32767.0)
FILLS += (-99.9, -99.99, -999.9, -999.99, -9999.9, -9999.99, 999.9, 999.99, 9999.9, 9999.99, 99999.9, 99999.99)
HUGE = 1e19  # nothing that a station measures
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
_BOTH = re.compile(r"[+-]?\d+(?:\.\d+,\d+|,\d+\.\d+)(?:[eE][+-]?\d+)?")
_log = logging.getLogger(__name__)


def separator_of(line: str) -> str | None:
    """What stands between the cells of a line: a semicolon, a tab or a comma, the first of them that is there."""
    return next((mark for mark in ";\t," if mark in line), None)


def rows_of_numbers(lines: Iterable[str], name: str, columns: int) -> list[list[float]]:
    """The numbers in the first columns of lines of one form.

    Fields stand between semicolons, tabs, commas or blanks. Commas inside of the fields that one of the others
    separates are decimal, which is said in the log. name: what the log calls the file.
    Raises ValueError for a line of another number of fields than the first or of fewer than `columns`, for one of those
    that is no number, and for numbers with points and commas.
    """
    lines = [line.strip() for line in lines]
    rows = [re.split(r"\s*[;\t]\s*|\s+", line.rstrip(";")) for line in lines]
    cells = [cell for row in rows for cell in row[:columns]] if min(map(len, rows)) >= columns else []
    both = next(filter(_BOTH.fullmatch, cells), None)
    if both:
        raise ValueError(f"{both!r} has a point and a comma; write numbers with one of them")
    if any(map(_DECIMAL_COMMA.fullmatch, cells)) and any("." in cell for cell in cells):
        raise ValueError(f"some numbers have commas and others points, as in {lines[0][:40]!r}; write all alike")
    decimal = has_decimal_commas(cells)
    if decimal:
        _log.warning("%s: its commas are taken for decimal ones, as in %s", name, lines[0][:40])
    else:
        rows = [re.split(r"\s*[;,\t]\s*|\s+", line.rstrip(",;")) for line in lines]
    numbers = []
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(rows[0]):
            raise ValueError(f"{line[:40]!r} has {len(row)} fields, but the first line has {len(rows[0])}")
        try:
            numbers.append([number(cell, decimal) for cell in row[:columns]])
        except ValueError:
            numbers.append([])
        if len(numbers[-1]) < columns:
            raise ValueError(f"{line[:40]!r} is no line of {columns} or more numbers; leave out what is none")
    return numbers


def has_decimal_commas(cells: Iterable[str]) -> bool:
    """Whether some cells are numbers with a comma, and none is one with a point."""
    found = False
    for cell in cells:
        if "." in cell and cell.strip().lower() not in MISSING:
            return False
        found = found or bool(_DECIMAL_COMMA.fullmatch(cell.strip()))
    return found


def number(cell: str, decimal_comma: bool = False) -> float:
    """The number in a cell, NaN where it says that there is none; ValueError for another text."""
    cell = cell.strip()
    if cell.lower() in MISSING:
        return float("nan")
    if "_" in cell:  # which Python's own numbers may have
        raise ValueError(f"could not convert string to float: {cell!r}")
    return float(cell.replace(",", ".") if decimal_comma else cell)


def without_fills(values: np.ndarray, name: str) -> np.ndarray:
    """Values (t, n) with NaN in place of what archives write where nothing was measured; said in the log.

    Of `FILLS` those that lie far off all other values of the table, by twice their range, or below 0 where no other
    value does; and what is beyond any measurement. name: what the log calls the table.
    """
    rest = values[np.isfinite(values) & (np.abs(values) < HUGE) & ~_among(values, FILLS)]
    low, high = (rest.min(), rest.max()) if rest.size else (0.0, 0.0)
    gone = [fill for fill in FILLS if rest.size and _is_far(fill, low, high)]
    missing = _among(values, gone) | ~(np.abs(values) < HUGE) & ~np.isnan(values)
    if missing.any():
        found = sorted({f"{value:.6g}" for value in values[missing]})
        _log.warning("%s: %s taken for missing values, %d of them", name, listed(found), int(missing.sum()))
        values = np.where(missing, np.nan, values)
    return values


def _among(values: np.ndarray, fills: Iterable[float]) -> np.ndarray:
    found = np.zeros(values.shape, bool)
    for fill in fills:
        found |= values == np.asarray(fill, values.dtype)  # float32 has -999.9 not quite
    return found


def _is_far(fill: float, low: float, high: float) -> bool:
    if high == low:  # of one value there is no range
        return max(low - fill, fill - high) > 2 * max(abs(low), 1)
    return max(low - fill, fill - high) > 2 * (high - low) or fill < 0 <= low
