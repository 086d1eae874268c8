"""What a program costs on a GPU, counted in the text of the program that XLA has optimized for it.

Every instruction of the entry computation that computes is one kernel. It reads its operands and writes its results
once through the memory, and it takes the longest of four times: through the memory, in the matrix units, in the vector
units, and the least that any kernel takes. What the caches keep from one kernel to the next, and how well a kernel is
written, is not in it: such a sum is a bound that tells two programs apart, not a forecast.
"""

import collections
import math
import re
from typing import NamedTuple

KERNEL_SECONDS = 2e-6  # of the shortest kernel, from one launch to the next
_TURNED = 0.3  # of the bandwidth is left to a kernel that turns a map round in shared memory
_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "c64": 8, "c128": 16}
# Instructions of the vector unit for one element; 1 where nothing is listed, 0 for what moves data or names it.
_WORK = {
    **dict.fromkeys(("erf",), 40),
    **dict.fromkeys(("exponential", "log", "tanh", "logistic", "power", "sine", "cosine"), 16),
    **dict.fromkeys(("divide", "sqrt", "rsqrt", "remainder", "cbrt"), 8),
    **dict.fromkeys(("parameter", "constant", "broadcast", "bitcast", "reshape", "transpose", "tuple"), 0),
    **dict.fromkeys(("get-tuple-element", "slice", "concatenate", "pad", "copy", "iota", "reverse", "fusion"), 0),
    **dict.fromkeys(("dynamic-slice", "dynamic-update-slice", "gather", "bitcast-convert", "dot", "convolution"), 0),
}
_NO_KERNEL = {
    *("parameter", "constant", "bitcast", "get-tuple-element", "tuple", "after-all", "opt-barrier", "partition-id"),
    *("replica-id", "add-dependency", "copy-done", "async-done", "async-update"),
}
_SLICES = ("slice", "dynamic-slice", "gather")


class Kernel(NamedTuple):
    """One kernel: its name, where in the model it comes from, what it moves and computes, and how often it runs.

    turned: whether it turns a map round, that is writes it in another order of axes than it reads it. flops: of
    products, at the rate of the matrix units for bfloat16 where `narrow`, else of the vector units. work: instructions
    of the vector units.
    """

    name: str
    source: str
    bytes: float
    turned: bool
    flops: float
    narrow: bool
    work: float
    times: int

    def seconds(self, chip):
        """The time of one run on a chip with `memory_bandwidth`, `flops` and `vector_rate`."""
        bandwidth = chip.memory_bandwidth * (_TURNED if self.turned else 1)
        product = self.flops / chip.flops if self.narrow else self.flops / 2 / chip.vector_rate
        return max(KERNEL_SECONDS, self.bytes / bandwidth, product, self.work / chip.vector_rate)


class _Instruction(NamedTuple):
    name: str
    type: str
    opcode: str
    operands: list[str]
    attributes: str
    root: bool


def kernels(text):
    """The list of `Kernel` that a program runs; text: `compiled.as_text()`, ValueError where it is no such text."""
    computations, entry = _computations(text)
    if entry is None:
        raise ValueError("this is no text of a compiled program: it has no ENTRY computation.")
    return list(_run(computations, entry, 1))


def _run(computations, name, times):
    instructions = computations[name]
    types = {instruction.name: instruction.type for instruction in instructions}
    for one in instructions:
        if one.opcode == "while":
            turns = re.search(r'"known_trip_count":\{"n":"(\d+)"', one.attributes)
            yield from _run(computations, _called(one, "body"), times * int(turns.group(1) if turns else 1))
        elif one.opcode == "call":
            yield from _run(computations, _called(one, "to_apply"), times)
        elif one.opcode == "conditional":  # a list of branches, of which one runs: the first stands for all
            yield from _run(computations, re.search(r"branch_computations=\{%([\w.-]+)", one.attributes)[1], times)
        elif one.opcode not in _NO_KERNEL:
            yield _kernel(computations, types, one, times)


def _kernel(computations, types, one, times):
    body = computations.get(_called(one, "calls"), []) if one.opcode == "fusion" else []
    moved = _written(one, body) + sum(
        _read(index, types[name], body) for index, name in enumerate(one.operands) if name in types
    )
    inner = {other.name: other.type for other in body}
    products = [(other, inner) for other in body if other.opcode in ("dot", "convolution")]
    products += [(one, types)] if one.opcode in ("custom-call", "dot", "convolution") else []
    return Kernel(
        name=one.name,
        source=_source(one, body),
        bytes=moved,
        turned=any(other.opcode == "transpose" for other in body) or _turns(one, types),
        flops=sum(_flops(product, known) for product, known in products),
        narrow=all("bf16" in _operand_types(product, known) for product, known in products),
        work=sum(_work(other, inner) for other in body) if body else _work(one, types),
        times=times,
    )


def _computations(text):
    """({name: instructions}, name of the entry)."""
    found, entry, current = {}, None, None
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%([\w.-]+) \(.*\{$", line):
            current = found.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif current is not None and (instruction := _instruction(line)):
            current.append(instruction)
    return found, entry


def _instruction(line):
    head = re.match(r"\s+(ROOT )?%([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)", line)
    if not head:
        return None
    operands, _, attributes = head[5].partition(")")
    names = re.findall(r"%([\w.-]+)", operands) or [operands]  # of a parameter its number
    return _Instruction(head[2], head[3], head[4], names, attributes, bool(head[1]))


def _called(instruction, attribute):
    found = re.search(rf"\b{attribute}=%([\w.-]+)", instruction.attributes)
    return found and found[1]


def _shapes(type_):
    """[(element type, dimensions, order of the axes in memory)] of a type or of a tuple of them."""
    found = re.findall(r"(\w+)\[([\d,]*)\](?:\{([\d,]*))?", type_)
    return [(name, [int(n) for n in sizes.split(",") if n], order) for name, sizes, order in found]


def _size(type_):
    return sum(_element(name) * math.prod(sizes) for name, sizes, _ in _shapes(type_))


def _element(name):
    return _BYTES[name] if name in _BYTES else int(found[0]) / 8 if (found := re.findall(r"\d+", name)) else 0


def _written(one, body):
    """Bytes of the results; a library's own scratch memory is none."""
    if one.opcode == "custom-call":
        return sum(
            _element(name) * math.prod(sizes) for name, sizes, _ in _shapes(one.type) if name not in ("s8", "u8")
        )
    inner = {other.name: other for other in body}
    root = next((other for other in body if other.root), None)
    if root and root.opcode == "dynamic-update-slice":  # in place: nothing but the slice is written
        return _size(inner[root.operands[1]].type)
    return _size(one.type)


def _read(index, type_, body):
    """Bytes that a kernel reads of its operand of that index: all, or where a fusion takes only slices, these."""
    parameter = next((one.name for one in body if one.opcode == "parameter" and one.operands == [str(index)]), None)
    uses = [other for other in body if parameter in other.operands]
    if uses and all(use.opcode in _SLICES and use.operands[0] == parameter for use in uses):
        return min(_size(type_), sum(_size(use.type) for use in uses))
    if uses and all(use.opcode == "dynamic-update-slice" and use.operands[0] == parameter for use in uses):
        return 0
    return _size(type_)


def _turns(one, types):
    """Whether a copy or a transposition that is a kernel of its own changes the order in memory."""
    if one.opcode == "transpose":
        return True
    return one.opcode in ("copy", "copy-start") and _shapes(one.type)[0][2] != _shapes(types[one.operands[0]])[0][2]


def _work(one, types):
    sizes = [math.prod(sizes) for _, sizes, _ in _shapes(one.type)]
    if one.opcode in ("reduce", "reduce-window", "select-and-scatter", "scatter", "sort"):
        sizes = [math.prod(sizes) for name in one.operands for _, sizes, _ in _shapes(types.get(name, ""))]
    return _WORK.get(one.opcode, 0 if one.opcode == "custom-call" else 1) * max(sizes, default=0)


def _operand_types(one, types):
    return {name for operand in one.operands[:2] for name, _, _ in _shapes(types.get(operand, ""))}


def _flops(one, types):
    """Of a product of matrices or of a convolution: twice its multiplications."""
    if len(one.operands) < 2 or not {*one.operands[:2]} <= types.keys():
        return 0
    (_, left, _), (_, right, _), (_, result, _) = (
        _shapes(type_)[0] for type_ in (types[one.operands[0]], types[one.operands[1]], one.type)
    )
    if labels := re.search(r"dim_labels=(\w+)_(\w+)->", one.attributes):
        # Of the map in front, the kernel and the map behind, one is the result: the gradients are convolutions, too.
        backward = re.search(r"convBackward(Filter|Input)", one.attributes)
        behind, kernel = (
            (result, right) if not backward else (right, result) if backward[1] == "Filter" else (left, right)
        )
        return 2 * math.prod(behind) * math.prod(kernel) // kernel[labels[2].index("o")]
    if found := re.search(r'lhs_contracting_dim(?:ension)?s"?[=:][\[{]([",\d]*)', one.attributes):
        return 2 * math.prod(result) * math.prod(left[int(axis)] for axis in re.findall(r"\d+", found[1]))
    return 0


def _source(one, body):
    """The operation of the model that a kernel comes from: of a fusion without a name, the one most of it has."""
    own = re.search(r'op_name="([^"]*)"', one.attributes)
    if own:
        return own[1]
    names = [found[1] for other in body if (found := re.search(r'op_name="([^"]*)"', other.attributes))]
    return collections.Counter(names).most_common(1)[0][0] if names else ""
