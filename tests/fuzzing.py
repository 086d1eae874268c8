"""Files that are wrong in ways that nobody thought of: mutations of whole ones, and what may come of reading them."""

import os
import re
import time
import warnings
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

MOST_MEMORY, MOST_SECONDS = 2**30, 10
# Names of Python's and of libraries' classes, and parts of stack traces, which are no sentence of ours.
_INNER = re.compile(
    r"\b[A-Z]\w*(?:Error|Exception|Warning)\b|Traceback|<class|object at 0x|NoneType|__\w+__|numpy\.\w|codec can't"
)
_VALUES = [
    b"\0",
    b"\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0" * 8,
    b"\x80" * 8,
]
_TEXTS = [
    b"\n",
    b"\r",
    b" ",
    b",",
    b";",
    b"-1",
    b"0",
    b"99999999999",
    b"1e999",
    b"nan",
    b'"',
    b"#",
    b"\xc3\xa9",
    b"\xe9",
    b"{",
    b"]",
]


def bounded(examples):
    """The settings of a seeded and bounded search; FUZZING=20 in the environment makes it so many times as long."""
    examples *= int(os.environ.get("FUZZING", "1"))
    return settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=[*HealthCheck]
    )


@st.composite
def mutated(draw, files, most=6):
    """The bytes of one of the files, changed in up to `most` places: bytes, truncations, parts left out or repeated."""
    data = draw(st.sampled_from(files))
    for _ in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from((1, 1, 2, 4, 8, 40, len(data)))))
        kind = draw(st.sampled_from(("value", "value", "text", "bytes", "cut", "left out", "repeated", "swapped")))
        if kind in ("value", "text"):
            value = draw(st.sampled_from(_VALUES if kind == "value" else _TEXTS))
            data = data[:start] + value + data[start + len(value) :]
        elif kind == "bytes":
            data = data[:start] + draw(st.binary(max_size=8)) + data[end:]
        elif kind == "cut":
            data = data[:start]
        elif kind == "left out":
            data = data[:start] + data[end:]
        elif kind == "repeated":
            data = data[:end] + data[start:end] * draw(st.integers(1, 3)) + data[end:]
        else:
            data = data[:start] + data[start:end][::-1] + data[end:]
    return data[:1_000_000]


def memory(name):
    """Of this process in bytes: "VmRSS", what it has now, or "VmHWM", the most since that was forgotten."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^{name}:\s*(\d+) kB", status, re.MULTILINE)[1])


def survived(read, *arguments):
    """Whether `read(*arguments)` gives something; a refusal is one sentence, and either costs little."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of what ran before
    before, start = memory("VmRSS"), time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, about files that they read all the same
            read(*arguments)
        refused = None
    except (ValueError, OSError) as error:
        refused = str(error)
    spent, more = time.process_time() - start, memory("VmHWM") - before
    assert spent < MOST_SECONDS, f"{spent:.1f} s"
    assert more < MOST_MEMORY, f"{more / 2**20:.0f} MiB"
    if refused is not None:
        assert refused
        assert "\n" not in refused, refused
        assert not _INNER.search(refused), refused
    return refused is None
