"""The bodies of requests: bytes counted as they come, and the files and arrays that are in them."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
from python_multipart.exceptions import FormParserError
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.serve.refusal import Refusal

_FIELDS = 32  # of a form, beside its files
EXPECTED = (
    'expected files in a form (multipart/form-data), or JSON {"inputs": [...]} of base64 texts, of '
    '{"name": "a.wav", "data": base64 text} or of nested arrays'
)
_NAME = 255  # characters of a file's name that are kept


async def counted(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """The body of a request in parts; Refusal (413) as soon as it has more than `most` bytes, or says so, (415) for one
    that is compressed, since a small one may hold much.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Refusal(415, f"the body is encoded as {encoding[:80]!r}; send it as it is, without Content-Encoding.")
    too_large = Refusal(413, f"the request has more than {most:,} bytes, which this server takes at most.")
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > most:
        raise too_large
    length = 0
    async for part in request.stream():
        length += len(part)
        if length > most:
            raise too_large
        yield part


async def whole_body(request: Request, most: int) -> bytes:
    """The body of a request, which has up to `most` bytes."""
    return b"".join([part async for part in counted(request, most)])


async def files_of_form(request: Request, most: int, count: int) -> list[EncodedFile]:
    """The files of a form, in order, whatever their fields are called; up to `count` of them."""
    parser = MultiPartParser(
        request.headers, counted(request, most), max_files=count, max_fields=_FIELDS, max_part_size=most
    )
    parser.spool_max_size = most + 1  # in memory: nothing of a request gets to a disk
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError) as error:
        why = getattr(error, "message", str(error)).rstrip(".")
        raise Refusal(400, f"the form cannot be read ({why}); {EXPECTED}.") from error
    try:
        files = [value for _, value in form.multi_items() if not isinstance(value, str)]
        return [
            EncodedFile(await file.read(), _safe_name(file.filename or f"input {index}"))
            for index, file in enumerate(files)
        ]
    finally:
        await form.close()


def inputs_of_json(body: bytes, count: int) -> list[Any]:
    """The inputs of a JSON document: files and arrays, up to `count` of them; Refusal (400) for anything else."""
    document = document_of(body)
    inputs = document.get("inputs") if isinstance(document, dict) else None
    if not isinstance(inputs, list):
        raise Refusal(400, f"the document has no list of inputs; {EXPECTED}.")
    if len(inputs) > count:
        raise Refusal(413, f"the request has {len(inputs):,} inputs; this server takes {count:,} at most.")
    return [_input(given, index) for index, given in enumerate(inputs)]


def document_of(body: bytes) -> Any:
    """A JSON document; Refusal (400) for what is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON that can be read; {EXPECTED}.") from error


def _input(given: Any, index: int) -> Any:
    name, data = f"input {index}", given
    if isinstance(given, dict):
        name, data = given.get("name", name), given.get("data")
        if not isinstance(name, str):
            raise Refusal(400, f"the name of input {index} is no text; {EXPECTED}.")
    if isinstance(data, str):
        try:
            return EncodedFile(base64.b64decode(data.partition("base64,")[2] or data, validate=True), _safe_name(name))
        except (binascii.Error, ValueError) as error:
            raise Refusal(400, f"input {index} is no base64 text; {EXPECTED}.") from error
    if isinstance(data, list):
        return _array(data, index)
    raise Refusal(400, f"input {index} holds neither a text nor a list; {EXPECTED}.")


def _array(values: list[Any], index: int) -> np.ndarray:
    """Nested lists as an array: uint8 where a map has whole numbers of a byte, as pixels, else floats."""
    try:
        found = np.array(values)
    except (ValueError, OverflowError, RecursionError):
        found = np.array(None)
    if found.dtype.kind not in "iuf" or not found.size:
        raise Refusal(400, f"input {index} is no array of numbers whose rows are equally long; {EXPECTED}.")
    if found.dtype.kind in "iu" and found.ndim > 1 and found.min() >= 0 and found.max() <= 255:
        return found.astype(np.uint8)
    return found.astype(np.float64)


def _safe_name(name: str) -> str:
    """A name as it may stand in a line: without what leads up to it, and without control characters."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter if letter.isprintable() else " " for letter in last)[-_NAME:] or "input"
