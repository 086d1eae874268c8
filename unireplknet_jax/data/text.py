"""Text that users hand over, labels, lists and tables, in whatever encoding and line ends an editor saved it."""

from __future__ import annotations

import codecs
import functools
import logging
import os
import re

from unireplknet_jax.data.files import EncodedFile, misplaced, read_file

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # which begins as the next does
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LINE_ENDS = re.compile("\r\n|[\r\x85\u2028\u2029]")
_NO_TEXT = re.compile("[\0-\x08\x0e-\x1f\x7f\ufffe\uffff]")
_log = logging.getLogger(__name__)


def read_text(source: str | os.PathLike[str] | EncodedFile, expected: str) -> str:
    """The text of a file, given as its path or its bytes, with "\\n" at the end of each line.

    UTF-8, UTF-16 and UTF-32 are told by their byte order marks, UTF-8 and UTF-16 without one by their bytes. What is
    none of them is taken for Windows-1252, that of Western Europe, which is said in the log. Lines may end as those of
    Unix, Windows, old Macs and mainframes do. The end-of-file mark of DOS is left out.
    expected: what the file should be, as in "a list of class names, one a line".

    Raises ValueError, one sentence, where the file cannot be read or is no text.
    """
    file = read_file(source, f"a text file, {expected}")
    text = None if misplaced(file) else _decoded(bytes(file), file.name)
    if text is None:
        what = misplaced(file) or "not a text file"
        raise ValueError(f"{file.name} is {what}; expected {expected}")
    return text


def lines_of(source: str | os.PathLike[str] | EncodedFile, expected: str) -> list[str]:
    """The lines of a text file, as `read_text` reads it; empty ones stay, so line n has the index n - 1."""
    return read_text(source, expected).split("\n")


def _decoded(data: bytes, name: str) -> str | None:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _checked(data[len(mark) :], encoding)
    half = len(data) // 2
    for encoding, zeros in (("utf-16-le", data[1::2]), ("utf-16-be", data[::2])):
        if len(data) % 2 == 0 and zeros.count(0) > 0.7 * half:
            return _checked(data, encoding)
    text = _checked(data, "utf-8")
    if text is None:
        text = _checked(data, "cp1252") or _checked(data, "latin-1")
        if text is not None:
            _say_once(name)
    return text


def _checked(data: bytes, encoding: str) -> str | None:
    try:
        text = data.decode(encoding).rstrip("\0\x1a").removeprefix("\ufeff")
    except UnicodeDecodeError:
        return None
    return None if _NO_TEXT.search(text) else _LINE_ENDS.sub("\n", text)


@functools.lru_cache(maxsize=64)
def _say_once(name: str) -> None:
    _log.warning("%s is not UTF-8: taken for Windows-1252; save it as UTF-8 if letters are wrong", name)
