"""The published sizes, one row each (paper tables 4 and J-4), and `create_model`."""

import dataclasses
import difflib
from typing import Any

from unireplknet_jax.models.unireplknet import UniRepLKNet

_FULL = (13, 3, 3) * 9


@dataclasses.dataclass(frozen=True)
class Variant:
    """Blocks per stage, channels per stage and the depthwise kernel size of every block."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...]


def _variant(width: int, stage3: tuple[int, ...], others: int = 2) -> Variant:
    """Kernels are 3 in the first stage, 13 in the second and last; `stage3` lists those of the third."""
    kernel_sizes = ((3,) * others, (13,) * others, stage3, (13,) * others)
    return Variant(tuple(map(len, kernel_sizes)), tuple(width * 2**stage for stage in range(4)), kernel_sizes)


VARIANTS = {
    "unireplknet_a": _variant(40, (13,) * 6),
    "unireplknet_f": _variant(48, (13,) * 6),
    "unireplknet_p": _variant(64, (13,) * 6),
    "unireplknet_n": _variant(80, (13,) * 8),
    "unireplknet_t": _variant(80, (13, 3) * 9, others=3),
    "unireplknet_s": _variant(96, _FULL, others=3),
    "unireplknet_b": _variant(128, _FULL, others=3),
    "unireplknet_l": _variant(192, _FULL, others=3),
    "unireplknet_xl": _variant(256, _FULL, others=3),
    "unireplknet_h": _variant(480, _FULL, others=3),  # journal version only; never released
}


def list_models() -> list[str]:
    """The names that `create_model` knows, smallest first."""
    return list(VARIANTS)


def create_model(name: str, **options: Any) -> UniRepLKNet:
    """A `UniRepLKNet` module of a published size; `options` override any of its fields (num_classes, dims, ...).

    Raises ValueError for an unknown name or option, and for depths that differ from the variant's without the kernel
    sizes of every block (the original looked them up from the depths and crashed on new ones).
    """
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known models: {', '.join(VARIANTS)}."
        raise ValueError(f"unknown model {name!r}; {hint}")
    unknown = sorted(options.keys() - {field.name for field in dataclasses.fields(UniRepLKNet)})
    if unknown:
        fields = [field.name for field in dataclasses.fields(UniRepLKNet) if field.name not in ("parent", "name")]
        raise ValueError(f"unknown model option {', '.join(unknown)}; the options are {', '.join(fields)}.")
    variant = VARIANTS[name]
    kernel_sizes = options.pop("kernel_sizes", None)
    depths = tuple(options.get("depths", variant.depths if kernel_sizes is None else map(len, kernel_sizes)))
    if kernel_sizes is None:
        if depths != variant.depths:
            raise ValueError(
                f"depths {depths} differ from those of {name} {variant.depths}, so the kernel size of every block is "
                "needed too, for example depths=(1, 1, 2, 1), kernel_sizes=((3,), (13,), (13, 3), (13,))."
            )
        kernel_sizes = variant.kernel_sizes
    kernel_sizes = tuple(tuple(stage) for stage in kernel_sizes)
    dims = tuple(options.pop("dims", variant.dims))
    return UniRepLKNet(**{**options, "depths": depths, "dims": dims, "kernel_sizes": kernel_sizes})
