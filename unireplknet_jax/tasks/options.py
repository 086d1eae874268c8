"""Options of tasks and networks: which there are, which numbers they may be, and how they are kept."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from unireplknet_jax.data.base import nearest

_LARGEST, _SMALLEST, _BELOW_1 = sys.float_info.max, sys.float_info.min, math.nextafter(1.0, 0.0)
_RANGES = {
    "a number": (-_LARGEST, _LARGEST),
    "1 or more": (1, _LARGEST),
    "from 1 to a million": (1, 1_000_000),
    "0 or more": (0, _LARGEST),
    "above 0": (_SMALLEST, _LARGEST),
    "from 0 to 1": (0, 1),
    "0 or more and below 1": (0, _BELOW_1),
    "above 0 and at most 1": (_SMALLEST, 1),
}


def check_options(what: str, known: type, options: Iterable[str], whole: bool = True) -> None:
    """Raise ValueError for options that a dataclass does not have, or, as a `whole`, that it needs besides.

    what: its name in the sentence.
    """
    fields = {field.name: field for field in dataclasses.fields(known) if field.name not in ("parent", "name")}
    unknown = sorted({*options} - fields.keys())
    if unknown:
        raise ValueError(f"{what} has no option {unknown[0]!r}; {nearest(unknown[0], [*fields])}.")
    needed = [name for name, field in fields.items() if field.default is field.default_factory]
    missing = sorted({*needed} - {*options})
    if whole and missing:
        raise ValueError(f"{what} cannot be built: it needs the options {', '.join(missing)}.")


def check_number(name: str, value: float, allowed: str) -> None:
    """Raise ValueError unless a number is finite and `allowed`, one of `_RANGES`."""
    low, high = _RANGES[allowed]
    if not low <= value <= high:  # so written NaN is outside
        raise ValueError(f"{name}={value} must be {allowed}{'' if math.isfinite(value) else ', and finite'}.")


def freeze(value: Any) -> Any:
    """Hashable, and what JSON can hold: lists to tuples, mappings to sorted tuples of items, dtypes to their names."""
    if isinstance(value, Mapping):
        return tuple(sorted((key, freeze(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(freeze(item) for item in value)
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (str, int, float, type(None))) else jnp.dtype(value).name
