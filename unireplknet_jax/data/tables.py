"""Tables of numbers as text, whatever program and language wrote them: separators, decimal commas, missing values."""

from __future__ import annotations

import csv
import io
import logging
import os
import re
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from unireplknet_jax.data.base import listed
from unireplknet_jax.data.files import EncodedFile, source_name
from unireplknet_jax.data.text import read_text

MISSING = frozenset(
    {"", "na", "n/a", "#n/a", "#na", "nan", "nat", "null", "nil", "none", "missing", "-", "--", "---", ".", "?", "*"}
    | {"n.a.", "n/d", "nd", "n.d.", "no data", "nodata", "m", "#value!", "#div/0!", "#ref!", "#num!", "(null)"}
)
AUTO = "auto"
# What archives write where nothing was measured; netCDF's own is 9.97e36.
FILLS = (-99.0, -999.0, -9999.0, -99999.0, -8888.0, -32767.0, -32768.0, 999.0, 9999.0, 99999.0, 999999.0, 32767.0)
FILLS += (-99.9, -99.99, -999.9, -999.99, -9999.9, -9999.99, 999.9, 999.99, 9999.9, 9999.99, 99999.9, 99999.99)
HUGE = 1e19  # nothing that a station measures
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
_NO_THOUSANDS = re.compile(r"[+-]?(?:0\d*,\d+|\d+,(?:\d{1,2}|\d{4,}))(?:[eE][+-]?\d+)?")
_ABOVE = re.compile(r'\s*(?:#.*|"?sep=(.)"?)?', re.IGNORECASE)  # a table: blanks, comments, what Excel writes
_QUOTED = re.compile(r'"[^"]*"|,')
_BOTH = re.compile(r"[+-]?\d+(?:\.\d+,\d+|,\d+\.\d+)(?:[eE][+-]?\d+)?")
_log = logging.getLogger(__name__)


def separator_of(line: str) -> str | None:
    """What stands between the cells of a line: a semicolon, a tab or a comma, the first of them that is there."""
    return next((mark for mark in ";\t," if mark in line), None)


def rows_of_numbers(lines: Iterable[str], name: str, columns: Sequence[int]) -> list[list[float]]:
    """The numbers in some columns of lines of one form.

    Fields stand between semicolons, tabs, commas or blanks; quotes around them are left out. Commas inside of the
    fields that one of the others or quotes separate are decimal, which is said in the log. name: what the log calls the
    file.
    Raises ValueError for a line of another number of fields than the first or without one of these columns, for one of
    those that is no number, and for numbers with points and commas.
    """
    lines = [_QUOTED.sub(_unquoted, line.strip()) if '"' in line else line.strip() for line in lines]
    rows = [re.split(r"\s*[;\t]\s*|\s+", line.rstrip(";")) for line in lines]
    needed = max(columns) + 1
    cells = [row[column] for row in rows for column in columns] if min(map(len, rows)) >= needed else []
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
            numbers.append([number(row[column], decimal) for column in columns])
        except (ValueError, IndexError):
            raise ValueError(f"{line[:40]!r} is no line of {needed} or more numbers; leave out what is none") from None
    return numbers


def _unquoted(match: re.Match[str]) -> str:
    return ";" if match[0] == "," else match[0].strip('"')


def has_decimal_commas(cells: Iterable[str]) -> bool:
    """Whether some cells are numbers with a comma, and none is one with a point."""
    found = False
    for cell in cells:
        if "." in cell and cell.strip().lower() not in MISSING:
            return False
        found = found or bool(_DECIMAL_COMMA.fullmatch(cell.strip()))
    return found


def rows_of_table(
    source: str | os.PathLike[str] | EncodedFile, expected: str
) -> tuple[list[tuple[int, list[str]]], str]:
    """([(line, cells), ...], separator) of a table as CSV, its header first, blank rows and comments above it left out.

    Cells stand between semicolons, tabs or commas, whichever the header or Excel's line `sep=;` above it has, without
    the blanks around them. Empty cells after the last one of the header are left out.
    expected: what the table should be, as in "time,STATION,... and a row for each time".

    Raises ValueError, one sentence, where the file is no such text.
    """
    name = source_name(source)
    lines = read_text(source, expected).split("\n")
    start, separator = 0, None
    while start < len(lines) and (told := _ABOVE.fullmatch(lines[start])):
        separator = told[1] or separator
        start += 1
    head = lines[start] if start < len(lines) else ""
    separator = separator or separator_of(re.sub(r'"[^"]*"', "", head)) or ","
    try:
        reader = csv.reader(io.StringIO("\n".join(lines[start:])), delimiter=separator, skipinitialspace=True)
        rows = [(start + reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:  # a field that is longer than any
        raise ValueError(f"{name} is not a table as CSV; expected {expected}") from error
    rows = [(line, row) for line, row in rows if any(row)]
    if rows:
        width = max(place for place, cell in enumerate(rows[0][1], 1) if cell)
        rows = [(line, row[:width] if not any(row[width:]) else row) for line, row in rows]
    return rows, separator


def has_quoted_decimals(cells: Iterable[str]) -> bool:
    """Whether cells between commas are numbers with decimal commas, and none may have commas between thousands."""
    return has_decimal_commas(cells := [*cells]) and all(
        _NO_THOUSANDS.fullmatch(cell) for cell in cells if _DECIMAL_COMMA.fullmatch(cell)
    )


def number(cell: str, decimal_comma: bool = False, missing: Collection[str] = ()) -> float:
    """The number in a cell, NaN where it says that there is none; ValueError for another text.

    missing: texts besides `MISSING` that say so, in small letters.
    """
    cell = cell.strip()
    if cell.lower() in MISSING or cell.lower() in missing:
        return float("nan")
    try:
        if "_" in cell:  # which Python's own numbers may have
            raise ValueError
        return float(cell.replace(",", ".") if decimal_comma else cell)
    except ValueError:
        raise ValueError(f"{cell[:40]!r} is no number") from None


def split_missing(missing: str) -> tuple[bool, tuple[float, ...], tuple[str, ...]]:
    """(whether `FILLS` are looked for, numbers, texts in small letters) of an option: words between commas or blanks.

    "auto" looks for `FILLS`; other words are what stands for a missing value, a number or a text. "" takes all numbers
    as they are.
    """
    words = re.split(r"[\s,;]+", missing.strip().lower())
    numbers = [float(word) for word in words if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", word)]
    return AUTO in words, tuple(numbers), tuple(word for word in words if word and word != AUTO)


def without_fills(values: np.ndarray, name: str, missing: str = AUTO) -> np.ndarray:
    """Values (t, n) with NaN in place of what archives write where nothing was measured; said in the log.

    missing: as in `split_missing`. Of `FILLS` those are taken that lie far off all other values of the table, by twice
    their range, or below 0 where no other value does; and what is beyond any measurement. name: what the log calls the
    table.
    """
    guess, stated, _ = split_missing(missing)
    values = np.where(_among(values, stated), np.nan, values)
    if not guess:
        return np.where(np.isinf(values), np.nan, values)
    rest = values[np.isfinite(values) & (np.abs(values) < HUGE) & ~_among(values, FILLS)]
    low, high = (rest.min(), rest.max()) if rest.size else (0.0, 0.0)
    gone = [fill for fill in FILLS if rest.size and _is_far(fill, low, high)]
    absent = _among(values, gone) | ~(np.abs(values) < HUGE) & ~np.isnan(values)
    if absent.any():
        found = sorted({f"{value:.6g}" for value in values[absent]})
        _log.warning(
            "%s: %s taken for missing values, %d of them (data.missing says otherwise)",
            *(name, listed(found), int(absent.sum())),
        )
        values = np.where(absent, np.nan, values)
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
