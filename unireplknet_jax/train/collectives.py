"""The collectives of a compiled program, counted in its text."""

import math
import re

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}


def count_collectives(text):
    """{kind: {"count", "bytes"}} of one run of a program, from `compiled.as_text()`.

    Bytes are those of the results on one device. What stands in a loop counts as often as the loop runs, once where the
    compiler does not know.
    """
    bodies, entry = _computations(text)
    found = {}

    def visit(name, times):
        for line in bodies.get(name, ()):
            for kind in _KINDS:
                if re.search(rf" {kind}(?:-start)?\(", line):
                    entry_of = found.setdefault(kind, {"count": 0, "bytes": 0})
                    entry_of["count"] += times
                    entry_of["bytes"] += times * _result_bytes(line, kind)
            loop = re.search(r"known_trip_count\D*(\d+)", line) if " while(" in line else None
            for callee in re.findall(r"(?:body|calls|to_apply|called_computations)=\{?%?([\w.\-]+)", line):
                visit(callee, times * (int(loop.group(1)) if loop else 1))

    visit(entry, 1)
    return found


def _computations(text):
    """({name: lines}, name of the entry) of a program."""
    bodies, entry, lines = {}, None, None
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$", line)
        if head:
            lines = bodies.setdefault(head.group(2), [])
            entry = head.group(2) if head.group(1) else entry
        elif line.startswith("}"):
            lines = None
        elif lines is not None:
            lines.append(line)
    return bodies, entry


def _result_bytes(line, kind):
    """The bytes of an instruction's result; an asynchronous one's is a pair (operands, results)."""
    shapes = line.split(" = ", 1)[1].split(f" {kind}", 1)[0]
    sizes = [
        _BYTES.get(dtype, 4) * math.prod(int(length) for length in dims.split(",") if length)
        for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    ]
    return sum(sizes) // (2 if f" {kind}-start(" in line and kind != "all-reduce" else 1)
