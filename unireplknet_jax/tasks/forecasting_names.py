"""The original's names of a Corrformer with a UniRepLKNet inside, and what can be told from them."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from unireplknet_jax.models import torch_names
from unireplknet_jax.tasks.names import Names

_OURS_TO_TORCH = (
    (r"^affine_scale$", "affine_weight"),
    (r"\b(layers|network)_(\d+)\b", r"\1.\2"),
    (r"\bcausal_fusion\b", "inner_correlation.causal_fusion"),
    (r"\bvalue_embedding\b", "value_embedding.tokenConv"),
    (r"\btemporal_embedding\b", "temporal_embedding.embed"),
    (r"\blocation_embedding\b", "national_embedding.location_embedding"),
    (r"^decoder\.norm\b", "decoder.norm.layernorm"),
    (r"(network\.\d+\.conv\d)\.weight$", r"\1.weight_v"),
    (r"(network\.\d+\.conv\d)\.g$", r"\1.weight_g"),
)
# In the original each convolution is registered twice, and a newer PyTorch has other names for its weight norm.
_TWINS = {"conv1": "net.0", "conv2": "net.4"}
_CONVOLUTION = re.compile(r"(.*\.network\.\d+)\.(conv[12])\.(weight_g|weight_v|bias)")
PUBLISHED_HEADS = 16
_PUBLISHED_TREE = (7, 50)
_STEPS = {6: 1, 5: 60, 4: 3600, 3: 86_400, 2: 7 * 86_400, 1: 28 * 86_400}  # features of a timestamp: seconds apart


class ForecastingNames(Names):
    def matches(self, shapes: Mapping[str, Sequence[int]]) -> bool:
        return any(name.startswith("encoder.stages.") for name in shapes) and "decoder.projection.weight" in shapes

    def options(self, shapes: Mapping[str, Sequence[int]]) -> tuple[dict[str, Any], bool]:
        """As published where a state dict leaves no trace: tree, heads, readout, moving average, label and horizon."""
        model, decoder, channels, steps, seconds, merged = _infer(shapes)
        tree = _PUBLISHED_TREE if channels == 11 else (1,)
        label = steps // 2
        sizes = {"label": label, "horizon": steps - label, "history": steps, "scaling": "none", "step": seconds}
        options = {"model": model, "tree": tree, "decoder": decoder, "stations": channels * math.prod(tree), **sizes}
        return options, merged

    def table(self, variables: Mapping[str, Any]) -> dict[str, torch_names.Entry]:
        table = {}
        for path, entry in ((entry.path, entry) for entry in torch_names.name_table(variables).values()):
            name = torch_names.torch_name(path[1:], {"backbone": "encoder"})
            if path[1] != "backbone":
                for pattern, replacement in _OURS_TO_TORCH:
                    name = re.sub(pattern, replacement, name)
            table[name] = entry
        return table

    def canonical(self, name: str) -> str | None:
        """None for what the network has no use for (a classifier)."""
        if name.startswith(("encoder.head.", "encoder.norm.")):
            return None
        for ours, theirs in _TWINS.items():
            name = re.sub(rf"(\.network\.\d+)\.{theirs}\.", rf"\1.{ours}.", name)
        name = name.replace("parametrizations.weight.original0", "weight_g")
        return name.replace("parametrizations.weight.original1", "weight_v")

    def aliases(self, table: Mapping[str, torch_names.Entry]) -> dict[str, str]:
        """Without which the original does not load a file strictly."""
        found = filter(None, map(_CONVOLUTION.fullmatch, table))
        return {f"{match[1]}.{_TWINS[match[2]]}.{match[3]}": match[0] for match in found}


NAMES = ForecastingNames()


def _infer(shapes: Mapping[str, Sequence[int]]) -> tuple[dict[str, Any], dict[str, Any], int, int, int, bool]:
    """({arguments of the trunk}, {of the decoder}, channels, steps, seconds, merged) from {name: PyTorch shape}.

    steps: label + horizon, for the published number of heads or, where that does not fit, the largest one that does.
    seconds: between two steps, by the number of features of a timestamp. Heads, tree, readout, moving average and
    factors leave no trace in a state dict.
    """
    used = {name: shape for name, shape in shapes.items() if NAMES.canonical(name) is not None}
    options, merged = torch_names.infer_trunk(used, "encoder.")
    prefix = "decoder.layers."
    layers = 1 + max((int(name.split(".")[2]) for name in shapes if name.startswith(prefix)), default=0)
    first = f"{prefix}0.multi_correlation."
    network = f"{first}cross_correlation.inner_correlation.causal_fusion.network."
    width = _size(shapes, f"{first}auto_correlation.query_projection.weight", 0)
    hidden, channels = _size(shapes, f"{prefix}0.conv1.weight", 0), _size(shapes, "decoder.projection.weight", 0)
    flat = _size(shapes, f"{network}0.conv1.bias", 0)
    heads = next((n for n in range(PUBLISHED_HEADS, 0, -1) if width % n == 0 and flat % (width // n) == 0), None)
    if heads is None:
        raise ValueError(f"the causal convolution's {flat} channels do not fit a decoder {width} wide.")
    blocks = [int(name[len(network) :].split(".")[0]) for name in shapes if name.startswith(network)]
    decoder = {
        "width": width,
        "heads": heads,
        "hidden": hidden,
        "layers": layers,
        "causal_layers": 1 + max(blocks, default=0),
    }
    seconds = _STEPS.get(_size(shapes, "dec_embedding.temporal_embedding.embed.weight", 1), 3600)
    return options, decoder, channels, flat // (width // heads), seconds, merged


def _size(shapes: Mapping[str, Sequence[int]], name: str, axis: int) -> int:
    shape = shapes.get(name, ())
    if len(shape) <= axis:
        raise ValueError(f"it has no {name}, which tells the sizes of its decoder.")
    return shape[axis]
