"""How the commands print: tables for people, JSON for programs, remedies in errors."""

import contextlib
import json
import os
import pathlib
import re
import sys
import time


@contextlib.contextmanager
def naming_remedy(option):
    """Add to an error about broken files what a command passes over them with, as in "--broken skip"."""
    try:
        yield
    except ValueError as error:
        from unireplknet_jax.data.broken import BrokenFileError

        if not isinstance(error, BrokenFileError):
            raise
        raise BrokenFileError(f"{error}; to pass over what is broken: {option}") from error


@contextlib.contextmanager
def naming_file(option):
    """Add to an error about a checkpoint that could not be fetched which option takes a file instead."""
    try:
        yield
    except ConnectionError as error:
        if type(error) is not ConnectionError:  # a connection that broke, of whatever else
            raise
        raise ConnectionError(f"{str(error).rstrip('.')}: {option}=FILE.") from error


def check_output(flag, path, inputs=()):
    """Raise OSError for a file that could not be written, and ValueError for one that is an input, by its flag."""
    path = pathlib.Path(path)
    folder = path.absolute().parent
    if path.resolve() in [pathlib.Path(source).resolve() for source in inputs]:
        raise ValueError(f"{flag} {path} would overwrite an input; choose another name.")
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of {flag} {path} does not exist; create it first.")
    if path.is_dir():
        raise IsADirectoryError(f"{flag} {path} is a folder; choose the name of a file.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"the folder of {flag} {path} cannot be written to; choose another one.")


def print_table(columns, rows):
    """Print rows of cells under their column names; columns of numbers are aligned to the right, None is blank."""
    cells = [[shown(cell) for cell in row] for row in rows]
    by_column = list(zip(columns, *cells, strict=True))
    right = [all(re.fullmatch(r"[-+\d.,e]*", cell) for cell in column[1:]) for column in by_column]
    widths = [max(map(len, column)) for column in by_column]
    for line in [columns, *cells]:
        aligned = zip(line, widths, right, strict=True)
        print(
            "  ".join(
                cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in aligned
            ).rstrip()
        )


def shown(value):
    """A value as text: thousands separated, fractions rounded to four places."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


class Progress:
    """A line on stderr every few seconds; called with how many of `total` are done, None: nobody knows of how many."""

    def __init__(self, total, what, seconds=10.0):
        self.total, self.what, self.seconds = total, what, seconds
        self.start = self.last = time.monotonic()

    def __call__(self, done):
        now = time.monotonic()
        if now - self.last >= self.seconds:
            self.last = now
            rate = done / (now - self.start)
            told = f"{done:,} {self.what}, {rate:,.3g} per second"
            if self.total is not None:
                left = (self.total - done) / rate
                told = f"{done:,} of {self.total:,} {self.what}, {rate:,.0f} per second, {left / 60:,.0f} minutes left"
            print(told, file=sys.stderr)


def print_notes(notes):
    """Print what the user should know on stderr, where it does not get into tables and JSON."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def print_file_error(command, result):
    """Print why a file has no result; `result` has its name, `source`, and its `error`."""
    sentence = result.error if result.source in result.error else f"{result.source}: {result.error}"
    print(f"unireplknet {command}: error: {' '.join(sentence.split())}", file=sys.stderr)  # names may hold line ends


def print_json(document):
    """Print one JSON document; what JSON has no word for (NaN, infinity) becomes null."""
    from unireplknet_jax.data.base import finite

    print(json.dumps(finite(document), indent=2))
