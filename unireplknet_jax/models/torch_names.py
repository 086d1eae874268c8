"""The official PyTorch names and layouts of the backbone's tensors, in both directions.

The variable tree is the reference: each of its leaves has exactly one PyTorch name, so a table built from a module's
(abstract) variables is total, and comparing it with a file finds every missing, unexpected and mis-shaped tensor.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import numpy as np

from unireplknet_jax.models.variants import VARIANTS
from unireplknet_jax.nn.block import BRANCHES

# Sub-modules that are entries of a torch.nn.Sequential in the original: the only names that are not carried over.
_SEQUENTIAL = {
    "downsample_layers_0/conv1": "downsample_layers.0.0",
    "downsample_layers_0/norm1": "downsample_layers.0.1",
    "downsample_layers_0/conv2": "downsample_layers.0.3",
    "downsample_layers_0/norm2": "downsample_layers.0.4",
    **{f"downsample_layers_{i}/conv": f"downsample_layers.{i}.0" for i in (1, 2, 3)},
    **{f"downsample_layers_{i}/norm": f"downsample_layers.{i}.1" for i in (1, 2, 3)},
}
_BLOCK_SEQUENTIAL = {"pwconv1": "pwconv1.1", "grn": "act.1", "pwconv2": "pwconv2.0", "pwconv2_bn": "pwconv2.2"}
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
COUNTER = "num_batches_tracked"


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a PyTorch tensor lives in the variable tree: (collection, *path), and its shape in PyTorch's layout.

    flattened: (h, w, c) of the map whose values are the rows of a dense kernel, which PyTorch orders as (c, h, w).
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    flattened: tuple[int, int, int] | None = None

    @property
    def is_kernel(self) -> bool:
        return self.path[-1] == "kernel"


def torch_name(path: tuple[str, ...], prefixes: Mapping[str, str] | None = None) -> str:
    """The official name of a backbone leaf, ("stages_0_1", "dwconv", "kernel") -> "stages.0.1.dwconv.weight".

    prefixes: {beginning of a path: name that takes its place} in a larger network, {"backbone": "v", ...}; of several
    that fit, the longest.
    """
    for length in range(len(path) - 1, 0, -1):
        prefix = (prefixes or {}).get("/".join(path[:length]))
        if prefix:
            return f"{prefix}.{torch_name(path[length:])}"
    *modules, leaf = path
    leaf = _LEAVES.get(leaf, leaf)
    module = "/".join(modules)
    if module in _SEQUENTIAL:
        return f"{_SEQUENTIAL[module]}.{leaf}"
    stage = re.fullmatch(r"stages_(\d+)_(\d+)", modules[0]) if modules else None
    if stage:
        inner = [_BLOCK_SEQUENTIAL.get(name, name) for name in modules[1:]]
        return ".".join(["stages", *stage.groups(), *inner, leaf])
    return ".".join([*modules, leaf])


def name_table(variables: Mapping[str, Any], prefixes: Mapping[str, str] | None = None) -> dict[str, Entry]:
    """{torch name: Entry} for every leaf of a backbone's variables (arrays or `jax.ShapeDtypeStruct`s).

    prefixes: as of `torch_name`.
    """
    table = {}
    for path, leaf in flax.traverse_util.flatten_dict(variables).items():
        entry = Entry(path, _torch_shape(path, leaf.shape))
        table[torch_name(path[1:], prefixes)] = entry
    return table


def shapes_by_name(table: Mapping[str, Entry], variables: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """{torch name: PyTorch shape} of variables, named as in a table; a leaf that is not in it is named by its path."""
    names = {entry.path: name for name, entry in table.items()}
    flat = flax.traverse_util.flatten_dict(variables)
    return {names.get(path) or torch_name(path[1:]): _torch_shape(path, leaf.shape) for path, leaf in flat.items()}


def counters(table: Mapping[str, Entry]) -> list[str]:
    """The names of PyTorch's batch counters: one per batch norm, int64 scalars that we do not keep."""
    return [name.replace("running_mean", COUNTER) for name, entry in table.items() if entry.path[-1] == "mean"]


def from_torch(entry: Entry, array: np.ndarray) -> np.ndarray:
    """An array in PyTorch's layout -> ours: (out, in, *spatial) -> (*spatial, in, out) for kernels."""
    if not entry.is_kernel:
        return array
    if entry.flattened:
        h, w, c = entry.flattened
        return array.reshape(-1, c, h, w).transpose(2, 3, 1, 0).reshape(h * w * c, -1)
    return np.transpose(array, (*range(2, array.ndim), 1, 0))


def to_torch(entry: Entry, array: np.ndarray) -> np.ndarray:
    """An array in our layout -> PyTorch's: (*spatial, in, out) -> (out, in, *spatial) for kernels."""
    if not entry.is_kernel:
        return array
    if entry.flattened:
        h, w, c = entry.flattened
        return array.reshape(h, w, c, -1).transpose(3, 2, 0, 1).reshape(-1, c * h * w)
    return np.transpose(array, (array.ndim - 1, array.ndim - 2, *range(array.ndim - 2)))


def differences(table: Mapping[str, Entry], shapes: Mapping[str, Sequence[int]]) -> str:
    """One clause that lists all missing, unexpected and mis-shaped names of {name: shape} against a table, or ""."""
    ignored = set(counters(table))
    missing = [name for name in table if name not in shapes]
    unexpected = [name for name in shapes if name not in table and name not in ignored]
    wrong = [
        f"{name} {tuple(shapes[name])} instead of {entry.shape}"
        for name, entry in table.items()
        if name in shapes and tuple(shapes[name]) != entry.shape
    ]
    clauses = {"missing": missing, "unexpected": unexpected, "wrong shape": wrong}
    return "; ".join(f"{clause} ({len(names)}): {', '.join(names)}" for clause, names in clauses.items() if names)


def infer_options(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The keyword arguments of `UniRepLKNet` that fit a backbone state dict {torch name: shape}, as far as it tells.

    Tensors that say the same are asked together and the majority counts, so that a file with holes and wrong shapes
    still gets a full list of them. Raises ValueError if the names are not those of a UniRepLKNet.
    """
    blocks: dict[tuple[int, int], dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        match = re.match(r"stages\.([0-3])\.(\d{1,3})\.(.+)", name)
        if match:
            blocks.setdefault((int(match[1]), int(match[2])), {})[match[3]] = tuple(shape)
    depths = tuple(1 + max((j for i, j in blocks if i == stage), default=-1) for stage in range(4))
    if sum(depths) > 2 * len(blocks) + 8:  # a few holes are worth a list of what is missing; a wild index is not
        raise ValueError(f"its names ask for {sum(depths)} blocks, but it has tensors of {len(blocks)} only.")
    if 0 in depths:
        raise ValueError(
            "this is not a UniRepLKNet checkpoint: it has no tensors named stages.0 to stages.3 with blocks below them."
        )
    merged = not any(re.search(r"\.(norm|pwconv2\.2|dwconv\.origin_bn)\.", name) for name in shapes if "stages" in name)
    dims = tuple(_width(blocks, stage) for stage in range(4))
    stem = shapes.get("downsample_layers.0.0.weight", ())
    classes = _classes(shapes, dims[-1])
    return {
        "depths": depths,
        "dims": dims,
        "kernel_sizes": _kernel_sizes(blocks, depths),
        "num_classes": classes,
        "in_chans": (stem[1] if len(stem) == 4 else 0) or 3,
        "output_norms": classes is None and any(re.match(r"norm[0-3]\.", name) for name in shapes),
        "layer_scale_init": 1e-6 if merged or any("gamma" in names for names in blocks.values()) else None,
        "deploy": merged,
    }


def infer_trunk(shapes: Mapping[str, Sequence[int]], prefix: str) -> tuple[dict[str, Any], bool]:
    """(the sizes of a trunk whose tensors begin with a prefix, whether it is in merged form), as `infer_options`."""
    below = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    options = infer_options(below)
    return {name: options[name] for name in ("depths", "dims", "kernel_sizes", "layer_scale_init")}, options["deploy"]


def _width(blocks: Mapping[tuple[int, int], Mapping[str, tuple[int, ...]]], stage: int) -> int:
    names = ("pwconv1.1.weight", "se.down.weight", "se.up.weight", "se.up.bias", "pwconv2.0.weight", "norm.weight")
    axes = dict(zip(names, (1, 1, 0, 0, 0, 0), strict=True))
    widths = collections.Counter(
        shape[axes[name]]
        for (i, _), tensors in blocks.items()
        for name, shape in tensors.items()
        if i == stage and name in axes and len(shape) > axes[name] and shape[axes[name]] >= 4
    )
    if not widths:
        raise ValueError(f"the width of stage {stage} cannot be told: none of its blocks has a sound pwconv1.1.weight.")
    return widths.most_common(1)[0][0]


def _classes(shapes: Mapping[str, Sequence[int]], width: int) -> int | None:
    """The number of classes; 1 where only the rest of a classifier is there, so that its head is missed."""
    weight, bias = (tuple(shapes.get(f"head.{leaf}", ())) for leaf in ("weight", "bias"))
    if len(weight) == 2 and (weight[1] == width or len(bias) != 1):
        return max(weight[0], 1)
    if len(bias) == 1:
        return max(bias[0], 1)
    return 1 if any(name.startswith(("head.", "norm.")) for name in shapes) else None


def _kernel_sizes(
    blocks: Mapping[tuple[int, int], Mapping[str, tuple[int, ...]]], depths: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """The kernel size of every block; of those that do not tell, as in the published size that the others fit."""
    told: list[list[Any]] = [
        [_kernel_size(blocks.get((i, j), {})) for j in range(depth)] for i, depth in enumerate(depths)
    ]
    for variant in VARIANTS.values():
        pairs = itertools.zip_longest(itertools.chain(*told), itertools.chain(*variant.kernel_sizes))
        if variant.depths == depths and all(size in (None, published) for size, published in pairs):
            return variant.kernel_sizes
    for i, stage in enumerate(told):
        usual = collections.Counter(size for size in stage if size).most_common(1) or [(3, 0)]
        for j, size in enumerate(stage):
            if size is None:
                # All that is lost of the depthwise part is more likely to be one tensor than many.
                stage[j] = 3 if (i, j) in blocks else usual[0][0]
    return tuple(map(tuple, told))


def _kernel_size(names: Mapping[str, tuple[int, ...]]) -> int | None:
    """The kernel size that a block's tensors {name: shape} tell, 0 without depthwise part, None where they do not."""
    if not names:
        return None
    if not any(name.startswith(("dwconv.", "norm.")) for name in names):
        return 0
    large = names.get("dwconv.lk_origin.weight", (0,))[-1:]
    size = large[0] if large and large[0] in BRANCHES else None
    matches = (re.match(r"dwconv\.dil_\w+_k(\d+)_(\d+)", name) for name in names)
    found = {tuple(map(int, match.groups())) for match in matches if match}
    if found and (size is None or not found <= set(BRANCHES[size])):
        return min(BRANCHES, key=lambda k: (len(found ^ set(BRANCHES[k])), k != size, -k))
    if size or any(name.startswith(("dwconv.lk_origin.", "dwconv.origin_bn.")) for name in names):
        return size or 13
    small = names.get("dwconv.weight", ())
    if len(small) == 4 and small[-1] in (3, 5):
        return small[-1]
    return 3 if "dwconv.weight" in names or "dwconv.bias" in names else None


def _torch_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[::-1][:2] + shape[:-2]) if path[-1] == "kernel" else tuple(shape)
