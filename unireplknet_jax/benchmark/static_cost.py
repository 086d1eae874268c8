"""What a program costs on a TPU core, counted in the compiler's own output, without a TPU.

libtpu compiles for one chip and writes down the final instruction bundles of every kernel; a core issues one a cycle.
The count times the turns of the loops around them is the static cost. It leaves out waiting for memory, so the time
through the memory stands beside it, and it reads loops that the matrix unit holds up 17 % low; differences below a
third mean nothing. The dump is undocumented and libtpu's own, so this belongs into no test of a number.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import SingleDeviceSharding

from unireplknet_jax.benchmark import block, depthwise
from unireplknet_jax.models.program import announced, compile_lowered
from unireplknet_jax.train.slices import libtpu_version, open_slice

CLOCK = {"v4": 1.05e9, "v5e": 1.5e9, "v5p": 1.75e9, "v6e": 1.75e9}  # Hz, assumed
_ONE_CHIP = {"v4": "v4:2x2x1", "v5e": "v5e:1x1", "v5p": "v5p:2x2x1", "v6e": "v6e:1x1"}
_MATRIX_UNITS = 4  # of a core of v5e; a row of 128 numbers a cycle goes through each
# Rows that one instruction sends there; "lmr" is a form that XLA takes for what a product's depth leaves over 128.
_ROWS = {"bf16": 16, "f32": 8, "lmr": 8}
MANY = 8  # turns that `seconds_if_long` gives a loop whose number of turns cannot be read


def static_cost(chip, program, *arguments):
    """The cost of one program on a chip such as "v5e", from a process of its own.

    program and arguments: "depthwise", form, pass, case, dtype, or "block", name, case, dtype; cases as texts.
    {"seconds": static cost, "seconds_if_long": with every loop whose turns cannot be read run 8 times, "unknown_loops",
    "memory_seconds": arguments in and results out once, "scratch_bytes": in the chip's memory, "compile_seconds"}.
    Raises ImportError without libtpu, ValueError for an unknown chip and where the compiler fails.
    """
    return cost_in_process(chip, __name__, program, *arguments)


def cost_in_process(chip, module, *arguments):
    """What `python -m module` prints, a JSON document, of the chip, a folder of dumps and the arguments."""
    if chip not in CLOCK:
        raise ValueError(f"{chip!r} is no chip whose cost can be counted; expected one of {', '.join(CLOCK)}.")
    libtpu_version()
    what = " ".join(map(str, arguments))
    with tempfile.TemporaryDirectory() as folder, announced(f"counting {what}"):
        flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=.*final.*"
        done = subprocess.run(
            [sys.executable, "-m", module, chip, folder, *map(str, arguments)],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "LIBTPU_INIT_ARGS": flags, "TPU_LOG_DIR": "disabled"},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if re.match(r"[\w.]+(Error|Exception): ", line)]
        reason = reasons[-1] if reasons else done.stderr.strip()[-300:]
        raise ValueError(f"{what} cannot be counted: {reason[:300]}")
    return json.loads(done.stdout.splitlines()[-1])


# The shapes of S at 224 pixels, of 192 and 384 pixels, and of B, L and XL.
_SIDES_AND_WIDTHS = (
    *((14, 384), (7, 768), (28, 192)),
    *((12, 384), (24, 192), (6, 768)),
    *((14, 512), (7, 1024), (28, 256)),
    *((14, 768), (7, 1536), (28, 384)),
    *((14, 1024), (7, 2048), (28, 512)),
)
DEPTHWISE_CASES = (
    *(f"128x{side}x{side}x{c} k13" for side, c in _SIDES_AND_WIDTHS),
    *(f"128x{side}x{side}x{c} k3" for side, c in _SIDES_AND_WIDTHS[:3]),
)
BLOCK_CASES = tuple(f"128x{side}x{side}x{c} k13" for side, c in _SIDES_AND_WIDTHS[:3])


def depthwise_rows(chip, cases=None, forms=None, dtype="bfloat16"):
    """Rows of `static_cost`, "times xla" among them, of every pass of the cases by "xla" and "auto", or by `forms`."""
    forms = list(forms or ("xla", "auto"))
    rows = []
    for case in cases or DEPTHWISE_CASES:
        for name in depthwise.PASSES:
            costs = {form: static_cost(chip, "depthwise", form, name, case, dtype) for form in forms}
            rows += _beside({"case": case, "pass": name}, costs, "xla", "times xla")
    return rows


def block_rows(chip, cases=None, dtype="bfloat16"):
    """Rows of `static_cost` of forward and backward through a training block, beside one large kernel by XLA."""
    rows, names = [], ("one kernel, xla", "one kernel", "block")
    for case in cases or BLOCK_CASES:
        costs = {name: static_cost(chip, "block", name, case, dtype) for name in names}
        rows += _beside({"case": case}, costs, "one kernel, xla", "times one kernel, xla")
    return rows


def _beside(facts, costs, first, ratio):
    """Rows of costs {form: cost}; a ratio is of the larger of time through the memory and cost with long loops."""
    bounds = {form: max(cost["seconds_if_long"], cost["memory_seconds"]) for form, cost in costs.items()}
    return [
        {**facts, "form": form, **cost, ratio: bounds[form] / bounds[first] if first in bounds else None}
        for form, cost in costs.items()
    ]


def _function(program, *arguments):
    """(function, shapes of its arguments)."""
    if program == "block":
        name, case, dtype = arguments
        case = depthwise.parse_case(case)
        module = block.modules(case.k, dtype)[name]
        return block.training_pass(module), block.abstract_arguments(module, case, dtype)
    form, name, case, dtype = arguments
    case = depthwise.parse_case(case)
    shapes = jax.eval_shape(lambda: depthwise.operands(case, dtype))
    return depthwise.pass_of(name, form, case.dilation), shapes


def measure(chip, folder, function, shapes):
    """(the cost of a function for arguments of these shapes, the compiled program), in a process that dumps there."""
    numbers, devices = open_slice(_ONE_CHIP[chip])
    one = SingleDeviceSharding(devices[0])
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one), shapes)
    lowered = jax.jit(function, out_shardings=one).trace(*shapes).lower(lowering_platforms=("tpu",))
    began = time.monotonic()
    compiled = compile_lowered(lowered)
    seconds, memory = time.monotonic() - began, compiled.memory_analysis()
    moved = memory.argument_size_in_bytes + memory.output_size_in_bytes
    cycles, unknown = count_cycles(folder, 1)
    unknown += compiled.as_text().count(" while(")  # loops over whole kernels, whose turns are not multiplied in
    cost = {
        "seconds": cycles / CLOCK[chip],
        "seconds_if_long": count_cycles(folder, MANY)[0] / CLOCK[chip],
        "unknown_loops": unknown,
        "memory_seconds": moved / numbers.memory_bandwidth,
        "scratch_bytes": memory.temp_size_in_bytes,
        "compile_seconds": seconds,
    }
    return cost, compiled


class Work(NamedTuple):
    """Cycles of a kernel: counted, and what its matrix units and its vector unit are busy for at least."""

    cycles: float
    matrix: float
    vector: float


def count_cycles(folder, unknown_turns):
    """(cycles of every kernel in a folder of dumps, number of loops whose turns cannot be read)."""
    cycles = unknown = 0
    for _, path in _kernels(folder):
        _, turns, missed = _bundles_and_turns(path, unknown_turns)
        cycles, unknown = cycles + sum(turns), unknown + missed
    return cycles, unknown


def count_work(folder, unknown_turns):
    """{kernel: Work} of a folder of dumps; a kernel has the name of its instruction in the compiled program.

    How many slots of the vector unit a bundle fills stands in another dump, a line for every bundle.
    """
    found = {}
    for name, path in _kernels(folder):
        bundles, turns, _ = _bundles_and_turns(path, unknown_turns)
        (use,) = Path(folder).glob(f"{_prefix(path)}-*-final_hlo-static-per-bundle-utilization.txt")
        _, units, slots, _, *lines = use.read_text().splitlines()
        column = [unit.strip() for unit in units.split(",")].index("VALU")
        filled = [int(line.split()[column]) for line in lines]
        vector = sum(a * b for a, b in zip(filled, turns, strict=True)) / int(slots.split()[column])
        rows = sum(
            turn * sum(_ROWS[kind] for kind in re.findall(r" = vmatmul\.(?:msk\.)?(bf16|f32|lmr)", text))
            for text, turn in zip(bundles, turns, strict=True)
        )
        found[name] = Work(sum(turns), rows / _MATRIX_UNITS, vector)
    return found


def _kernels(folder):
    """(name, path of its bundles) of every kernel in a folder of dumps."""
    for path in sorted(Path(folder).glob("*-final_bundles.txt")):
        if not re.search(r"schedule-analysis|late-|TLP", path.name):
            yield _prefix(path).partition("-")[2], path


def _prefix(path):
    """The time and the kernel that the names of its dumps begin with."""
    return re.sub(r"-\d+-final_bundles\.txt$", "", path.name)


def _bundles_and_turns(path, unknown_turns):
    """(the bundles of a kernel, how often each of them runs, number of loops whose turns cannot be read)."""
    bundles = _bundles(path.read_text(errors="replace"))
    turns, unknown = [1.0] * len(bundles), 0
    for first, last, count in _loops(bundles):
        unknown += count is None
        for index in range(first, last + 1):
            turns[index] *= unknown_turns if count is None else max(1, count)
    return bundles, turns, unknown


def _bundles(text):
    """The texts of a kernel's bundles in order; a bundle may go over several lines."""
    bundles = []
    for line in text.splitlines():
        if re.match(r"\s*(?:0x[0-9a-f]+|\d+)\s+(?:(?:LH|LB|LE|PB|PF|CT):?\s*)*:\s*(?:>\s*)*\{", line):
            bundles.append(line)
        elif bundles:
            bundles[-1] += "\n" + line
    return bundles


def _loops(bundles):
    """(first bundle, last bundle, turns or None) of every loop: a branch back, and the comparison that decides it."""
    starts = {}
    for index, text in enumerate(bundles):
        for region in re.findall(r"Start region (\d+)", text):
            starts.setdefault(region, index)
    for last, text in enumerate(bundles):
        branch = re.search(r"sbr\.rel \(!?(%p\d+)(?:_p\d+)?\) target = \$region(\d+)", text)
        if branch and starts.get(branch.group(2), last + 1) <= last:
            first = starts[branch.group(2)]
            yield first, last, _turns(bundles[first : last + 1], branch.group(1))


def _turns(body, predicate):
    """How often a loop runs whose last comparison sets `predicate`; None where that is no constant."""
    test = re.compile(rf"{re.escape(predicate)}(?:_p\d+)? = scmp\.(?:ge|gt|eq|ne|lt)\.[\w.]+ [^,]+, (\S+)")
    bound = next((found.group(1) for text in reversed(body) if (found := test.search(text))), "")
    bound = bound.rstrip(",;")
    if not re.fullmatch(r"-?\d+", bound):
        return None
    # A software pipeline takes two turns more than its body runs, to fill and to drain.
    pipelined = "loop exit test" in "".join(body[-40:]) and "iteration index, stage" in "".join(body[:12])
    return max(1, int(bound) - 2) if pipelined and int(bound) else int(bound)


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:3], *_function(*sys.argv[3:]))[0]))
