"""The original's PyTorch names of a Corrformer with a UniRepLKNet inside, and what can be told from them."""

import re

import jax
import numpy as np

from unireplknet_jax.models import torch_names
from unireplknet_jax.models.shapes import abstract_variables

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
_STEPS = {6: 1, 5: 60, 4: 3600, 3: 86_400, 2: 7 * 86_400, 1: 28 * 86_400}  # features of a timestamp: seconds apart


def name_table(variables):
    """{PyTorch name: Entry} of a network's variables (arrays or shapes)."""
    table = {}
    for path, entry in ((entry.path, entry) for entry in torch_names.name_table(variables).values()):
        name = torch_names.torch_name(path[1:], {"backbone": "encoder"})
        if path[1] != "backbone":
            for pattern, replacement in _OURS_TO_TORCH:
                name = re.sub(pattern, replacement, name)
        table[name] = entry
    return table


def canonical(name):
    """The name by which a tensor goes here; None for one that the network has no use for (a classifier)."""
    if name.startswith(("encoder.head.", "encoder.norm.")):
        return None
    for ours, theirs in _TWINS.items():
        name = re.sub(rf"(\.network\.\d+)\.{theirs}\.", rf"\1.{ours}.", name)
    name = name.replace("parametrizations.weight.original0", "weight_g")
    return name.replace("parametrizations.weight.original1", "weight_v")


def aliases(table):
    """{the second name of a tensor: its name}, without which the original does not load a file strictly."""
    found = filter(None, map(_CONVOLUTION.fullmatch, table))
    return {f"{match[1]}.{_TWINS[match[2]]}.{match[3]}": match[0] for match in found}


def infer_options(shapes):
    """({arguments of the trunk}, {of the decoder}, channels, steps, seconds, merged) from {name: PyTorch shape}.

    steps: label + horizon, for the published number of heads or, where that does not fit, the largest one that does.
    seconds: between two steps, by the number of features of a timestamp. Heads, tree, readout, moving average and
    factors leave no trace in a state dict.
    """
    trunk = {
        name.removeprefix("encoder."): shape
        for name, shape in shapes.items()
        if name.startswith("encoder.") and canonical(name) is not None
    }
    options = torch_names.infer_options(trunk)
    merged = options.pop("deploy")
    options = {name: options[name] for name in ("depths", "dims", "kernel_sizes", "layer_scale_init")}
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


def _size(shapes, name, axis):
    shape = shapes.get(name, ())
    if len(shape) <= axis:
        raise ValueError(f"it has no {name}, which tells the sizes of its decoder.")
    return shape[axis]


def variables_of(module, series, history, marks):
    """The shapes of a network's variables, at little cost."""

    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, np.float32)

    steps = module.label + module.horizon
    inputs = shape(1, history, series), shape(1, history, marks), shape(1, steps, marks), shape(series, 3)
    return abstract_variables(module, *inputs)
