"""Whole networks counted for a TPU without one: each kind of part is compiled by itself, and counts as often as it is.

A program of a whole network takes much longer to compile than its kinds of parts do. What is between parts (the layout
in which one hands its map to the next) and what comes after a step's gradients (the optimizer) is not in it.
"""

import json
import re
import sys
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from unireplknet_jax.benchmark.block import training_pass
from unireplknet_jax.benchmark.network import TASKS
from unireplknet_jax.benchmark.static_cost import CLOCK, MANY, cost_in_process, count_work, measure
from unireplknet_jax.models.shapes import map_size
from unireplknet_jax.models.unireplknet import Downsample, Stem
from unireplknet_jax.models.variants import create_model
from unireplknet_jax.nn.block import UniRepLKNetBlock
from unireplknet_jax.nn.layers import LayerNorm, Linear
from unireplknet_jax.nn.upernet import UPerHead

CHIPS = ("v5e",)  # whose units `static_cost.count_work` knows
CLASSES = ("depthwise", "products", "norms", "layout copies")
_COPIES = ("copy", "reshape", "transpose")
_UNITS = ("seconds", "seconds_if_long", "matrix_seconds", "vector_seconds")


class Part(NamedTuple):
    """A kind of part, how many of it the network has, and the map (h, w, c) that it takes, or the maps of a pyramid."""

    name: str
    times: int
    module: nn.Module
    map: tuple

    def shapes(self, batch, dtype):
        """Of the maps that it takes."""
        maps = self.map if isinstance(self.map[0], tuple) else (self.map,)
        return [jax.ShapeDtypeStruct((batch, *each), dtype) for each in maps]


class _Head(nn.Module):
    """Means, norm and classifier of the network."""

    classes: int

    @nn.compact
    def __call__(self, x):
        y = LayerNorm(name="norm")(jnp.mean(x, axis=(1, 2), dtype=jnp.float32))
        return Linear(self.classes, name="head")(y)


class _Pixels(nn.Module):
    """The norms of a backbone's maps, and the head that gives their pixels classes."""

    classes: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, *maps):
        maps = [LayerNorm(name=f"norm{i}")(x).astype(self.dtype) for i, x in enumerate(maps)]
        return UPerHead(self.classes, dtype=self.dtype, name="decode_head")(maps)


def parts_of(name, size=224, dtype="bfloat16", deploy=True, task="classification"):
    """The kinds of parts of a published network in a task on pictures of size x size, in order."""
    model, dtype = create_model(name, dtype=jnp.dtype(dtype)), jnp.dtype(dtype)
    parts, before, maps = [], (size, size, 3), []
    for stage, (dim, kernels) in enumerate(zip(model.dims, model.kernel_sizes, strict=True)):
        downsample = Stem if stage == 0 else Downsample
        parts.append(Part(f"{'downsample' if stage else 'stem'} {stage}", 1, downsample(dim, dtype), before))
        before = (*map_size((size, size), stage), dim)
        for kernel in dict.fromkeys(kernels):
            block = UniRepLKNetBlock(kernel, deploy=deploy, dtype=dtype)
            parts.append(Part(f"block {stage} k{kernel}", kernels.count(kernel), block, before))
        maps.append(before)
    classes = TASKS[task][1]
    if task == "segmentation":
        return [*parts, Part("decode head", 1, _Pixels(classes, dtype), tuple(maps))]
    return [*parts, Part("head", 1, _Head(classes), before)]


def network_rows(chip, name, batch=128, size=224, dtype="bfloat16", train=False, only=None, task="classification"):
    """Rows of a merged network, or in training of its forward and backward pass, by part and class of instruction.

    A row has the part, how often the network has it ("times"), the class ("all" or one of CLASSES) and what one costs:
    "seconds" and "seconds_if_long" as `static_cost`, "matrix_seconds" and "vector_seconds" that these units are busy at
    least in the program as compiled, and, for "all", memory, scratch memory and compile seconds. The last rows, part
    "all", are the sums of all parts times their numbers. only: a text in the names of the parts that are wanted.
    Raises ValueError for a chip whose units are not known and where no part's name holds the text.
    """
    if chip not in CHIPS:
        expected = " or ".join((*CHIPS, "h100"))
        raise ValueError(f"{chip!r} is no chip that a whole network can be counted for; expected {expected}.")
    if train and task != "classification":
        raise ValueError(f"--static counts training steps of classifiers alone; leave it or --task {task} out.")
    kind, rows, parts = ("train" if train else "model"), [], parts_of(name, size, dtype, not train, task)
    wanted = [part for part in parts if only is None or only in part.name]
    if not wanted:
        raise ValueError(f"no part's name holds {only!r}; {name} has {', '.join(part.name for part in parts)}.")
    for part in wanted:
        cost = cost_in_process(chip, __name__, kind, name, part.name, batch, size, dtype, task)
        classes = cost.pop("classes")
        facts = {"model": name, "batch": batch, "part": part.name, "times": part.times}
        whole = {unit: sum(found[unit] for found in classes.values()) for unit in _UNITS[2:]}
        rows.append({**facts, "class": "all", **cost, **whole})
        rows += [{**facts, "class": found, **costs} for found, costs in classes.items()]
    return rows + _sums(rows)


def _sums(rows):
    sums = []
    for name in ("all", *CLASSES):
        of = [row for row in rows if row["class"] == name]
        units = (*_UNITS, "memory_seconds") if name == "all" else _UNITS
        totals = {unit: sum(row["times"] * row[unit] for row in of) for unit in units}
        if of:
            sums.append({**{key: of[0][key] for key in ("model", "batch")}, "part": "all", "class": name, **totals})
    return sums


def times_floor(row):
    """What a row of class "all" is counted at, as a multiple of the largest of its floors; None for another row."""
    floors = [row.get(unit) for unit in ("matrix_seconds", "vector_seconds", "memory_seconds")]
    return None if None in floors else row["seconds_if_long"] / max(floors)


def part_program(kind, name, part, batch, size, dtype, task="classification"):
    """(function, shapes of its arguments) of a part of a network; kind: "model" (merged) or "train"."""
    part = next(found for found in parts_of(name, int(size), dtype, kind == "model", task) if found.name == part)
    first = isinstance(part.module, Stem)
    maps = part.shapes(int(batch), jnp.float32 if first else jnp.dtype(dtype))
    variables = jax.eval_shape(part.module.init, jax.random.key(0), *maps)
    if kind == "model":
        return part.module.apply, (variables, *maps)
    (x,) = maps
    g = jax.eval_shape(part.module.apply, variables, x)
    if isinstance(part.module, UniRepLKNetBlock):
        return training_pass(part.module), (variables["params"], variables["batch_stats"], x, g)
    return _plain_training_pass(part.module, first), (variables, x, g)


def _plain_training_pass(module, first):
    """(variables, x, g) -> (y, gradients) of a part without batch statistics; the first one's pictures need none."""

    def run(variables, x, g):
        wanted = (variables,) if first else (variables, x)
        y, pullback = jax.vjp(lambda variables, x=x: module.apply(variables, x), *wanted)
        return y, pullback(g)

    return run


def classify(text):
    """{instruction: one of CLASSES} of a program from `compiled.as_text()`.

    Whatever XLA fused into a product is a product. What bears no operation's name belongs to what it is made for.
    """
    lines, users = {}, {}
    for line in text.splitlines():
        found = re.match(r"\s*(?:ROOT )?%([\w.\-]+) = ", line)
        if found:
            lines[found.group(1)] = line
            for operand in set(re.findall(r"%([\w.\-]+)", line.partition(" = ")[2])):
                users.setdefault(operand, found.group(1))

    def operation(name):
        for _ in range(len(lines)):
            found = re.search(r'op_name="([^"]*)"', lines.get(name, ""))
            if found or name not in users:
                return found.group(1) if found else ""
            name = users[name]
        return ""

    def kind(name):
        opcode = re.search(r" ([a-z][\w\-]*)\(", lines[name].partition(" = ")[2])
        if name.startswith(_COPIES) or (opcode and opcode.group(1) in _COPIES):
            return "layout copies"
        done = operation(name)
        if re.search(r"(?<!\.)_convolve", done):  # of ops.depthwise, and no method of a layer
            return "depthwise"
        product = re.search(r"dot_general|conv_general_dilated", done)
        return "products" if product or "kind=kOutput" in lines[name] else "norms"

    return {name: kind(name) for name in lines}


def seconds_of_classes(chip, folder, text):
    """{class: {unit: seconds}} of a program (`compiled.as_text()`) whose kernels are dumped in a folder."""
    kinds, short, long = classify(text), count_work(folder, 1), count_work(folder, MANY)
    totals = {name: dict.fromkeys(_UNITS, 0.0) for name in CLASSES}
    for kernel, work in short.items():
        costs = work.cycles, long[kernel].cycles, long[kernel].matrix, long[kernel].vector
        total = totals[kinds.get(kernel, "norms")]
        for unit, cost in zip(_UNITS, costs, strict=True):
            total[unit] += cost / CLOCK[chip]
    return totals


if __name__ == "__main__":
    _chip, _folder, *_part = sys.argv[1:]
    _cost, _compiled = measure(_chip, _folder, *part_program(*_part))
    print(json.dumps({**_cost, "classes": seconds_of_classes(_chip, _folder, _compiled.as_text())}))
