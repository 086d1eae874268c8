"""The records of an evaluation: kept where they are made, gathered, each once, on the process that measures them."""

import json
import tempfile

import jax
import numpy as np

_ROUND = 2**20  # bytes that each process sends at a time


class Records:
    """JSON-able rows of this process, in the order in which they are added; a context manager.

    Of several processes each keeps its own in a temporary file.
    """

    def __enter__(self):
        self._rows = []
        self._file = tempfile.TemporaryFile() if jax.process_count() > 1 else None
        return self

    def __exit__(self, *_):
        if self._file is not None:
            self._file.close()

    def add(self, rows):
        if self._file is None:
            self._rows += rows
        else:
            self._file.writelines(json.dumps(row).encode() + b"\n" for row in rows)

    def merged(self):
        """The rows of all processes on process 0, one for each ("id", "view"), None on the others; a collective."""
        rows = self._rows if self._file is None else _gathered(self._file)
        if rows is None:
            return None
        first = {}
        for row in rows:
            first.setdefault((row["id"], row.get("view")), row)
        return list(first.values())


def _gathered(file):
    """The rows in the files of all processes, in the order of the processes, on process 0, None on the others."""
    from jax.experimental import multihost_utils

    size = file.seek(0, 2)
    sizes = multihost_utils.process_allgather(np.array([size]))[:, 0]
    texts = [bytearray() for _ in sizes]
    file.seek(0)
    for _ in range(-(-int(sizes.max()) // _ROUND)):
        part = np.frombuffer(file.read(_ROUND).ljust(_ROUND, b"\0"), np.uint8)
        parts = multihost_utils.process_allgather(part)
        if jax.process_index() == 0:
            for text, more in zip(texts, parts, strict=True):
                text += more.tobytes()
    if jax.process_index():
        return None
    return [json.loads(line) for text, size in zip(texts, sizes, strict=True) for line in text[:size].splitlines()]
