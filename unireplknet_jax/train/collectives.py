"""The collectives of a compiled program, counted in its text."""

import math
import re

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_COLLECTIVE = re.compile(rf" = (\S.*?[\])}}]) ({'|'.join(_KINDS)})(-start)?\(")
_BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "bf16": 16, "f16": 16, "s16": 16, "u16": 16}
_BITS |= {"f32": 32, "s32": 32, "u32": 32, "f64": 64, "s64": 64, "u64": 64, "c64": 64}


def count_collectives(text, devices):
    """{kind: {"count", "bytes", "sent"}} of one run of a program, from `compiled.as_text()`; kinds in a fixed order.

    bytes: the size of what is reduced, gathered, scattered or exchanged, on one device, summed over the run. sent: what
    a device sends at least for it, 2 (n - 1) / n of an all-reduce among n. devices: of the program, the size of a group
    that the text leaves open. What stands in a loop counts as often as the loop runs, once where that depends on data.
    """
    bodies, entry = _computations(text)
    found = {kind: {"count": 0, "bytes": 0, "sent": 0.0} for kind in _KINDS}

    def visit(name, times):
        for line in bodies.get(name, ()):
            call = _COLLECTIVE.search(line)
            if call:
                shapes, kind, starts = call.groups()
                group = _group_size(line) or devices
                size = _payload(shapes, kind, starts, group)
                found[kind]["count"] += times
                found[kind]["bytes"] += times * size
                found[kind]["sent"] += times * size * _share_sent(kind, group)
            loop = re.search(r" while\(.*condition=%?([\w.\-]+)", line)
            rounds = _rounds(bodies.get(loop.group(1), ())) if loop else 1
            for callee in _callees(line):
                visit(callee, times * rounds)

    visit(entry, 1)
    return {kind: entry for kind, entry in found.items() if entry["count"]}


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


def _callees(line):
    """The names of the computations that an instruction runs."""
    names = re.findall(r"(?:condition|body|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)", line)
    for several in re.findall(r"(?:called_computations|branch_computations)=\{([^}]*)\}", line):
        names += re.findall(r"[\w.\-]+", several)
    return names


def _rounds(condition):
    """How often a loop runs that counts from 0 while its counter is below a constant; 1 for any other."""
    constants = dict(re.findall(r"%?([\w.\-]+) = \w+\[\]\S* constant\((\d+)\)", "\n".join(condition)))
    for line in condition:
        below = re.search(r"ROOT .* compare\(%?[\w.\-]+, %?([\w.\-]+)\), direction=LT", line)
        if below and below.group(1) in constants:
            return int(constants[below.group(1)])
    return 1


def _payload(shapes, kind, starts, group):
    """The bytes of what a collective works on, from the shapes of its result.

    An asynchronous one's result is (operands, results, scalars of its own), but for the all-reduce.
    """
    found = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    if starts and kind != "all-reduce":
        arrays = [shape for shape in found if shape != ("u32", "")]
        found = arrays[len(arrays) // 2 :]
    size = sum(_BITS.get(dtype, 32) * math.prod(map(int, filter(None, dims.split(",")))) // 8 for dtype, dims in found)
    return size * group if kind == "reduce-scatter" else size


def _group_size(line):
    """Among how many devices a collective is; None where its text does not say."""
    meshed = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\S+)? \{([^}]*)\}", line)
    if meshed:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", meshed.group(1)))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", meshed.group(2)))
    tiled = re.search(r"replica_groups=\[\d+,(\d+)\]<=", line)
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    return int(tiled.group(1)) if tiled else listed.group(1).count(",") + 1 if listed else None


def _share_sent(kind, group):
    """What a device sends at least, as a share of the payload."""
    if kind == "collective-permute":
        return 1.0
    return (2 if kind == "all-reduce" else 1) * (group - 1) / group
