"""Normal numbers for many arrays by one small program, the numbers that `jax.random.normal` gives for each of them.

Compiled array by array, a generator costs a fifth of a second for each: most of a minute for a network. Here one loop
walks over all of them in pieces of one size. An element depends on its array's key and its place alone, so each device
of a mesh draws its own part of what is split.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32
from jax.sharding import AxisType, PartitionSpec

from unireplknet_jax.ops.batch import PARAMETER_AXIS, split_axis

_PIECE = 8192  # elements that are drawn at a time


def can_draw(key: jax.Array) -> bool:
    """Whether a key is of the generator that `draw_normals` repeats, JAX's default one, typed or not."""
    typed, config = jnp.issubdtype(key.dtype, jax.dtypes.prng_key), cast(Any, jax.config)
    name = str(jax.random.key_impl(key)) if typed else str(config.jax_default_prng_impl)
    return name in ("fry", "threefry2x32") and bool(config.jax_threefry_partitionable)


@functools.partial(jax.jit, static_argnames=("shapes",))
def draw_normals(key: jax.Array, folds: jax.Array, shapes: tuple[tuple[int, ...], ...]) -> list[jax.Array]:
    """[`jax.random.normal(jax.random.fold_in(key, fold), shape)` for each], float32.

    key: one that `can_draw`; folds: (arrays,) uint32. Under a context mesh with an axis for parameters an array whose
    shape allows it is split along that (`ops.batch.split_axis`), and every device draws its part.
    """
    data = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    # fold_in of the generator: the fold, as a seed of 64 bits, is a counter.
    keys = _threefry(data[0], data[1], jnp.zeros_like(folds), folds)
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    parts = mesh.shape[PARAMETER_AXIS] if types.get(PARAMETER_AXIS) == AxisType.Auto else 1
    axes = tuple(split_axis(shape, parts) for shape in shapes)
    if parts == 1:
        return _draw_part(keys, shapes, axes, 1, 0)
    specs = [PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, PARAMETER_AXIS) for axis in axes]
    return jax.shard_map(
        lambda *keys: _draw_part(keys, shapes, axes, parts, jax.lax.axis_index(PARAMETER_AXIS)),
        in_specs=PartitionSpec(),
        out_specs=specs,
        axis_names={PARAMETER_AXIS},
        check_vma=False,  # what is not split is drawn alike by all, which cannot be seen from the program
    )(*keys)


def _draw_part(
    keys: tuple[jax.Array, jax.Array],
    shapes: Sequence[tuple[int, ...]],
    axes: Sequence[int | None],
    parts: int,
    part: jax.typing.ArrayLike,
) -> list[jax.Array]:
    """This part of every array: (a / parts, b) of (a, b) with the axis 0, whole with None."""
    owns, table = [], []
    for number, (shape, axis) in enumerate(zip(shapes, axes, strict=True)):
        own = list(shape)
        # Consecutive elements in a part, and where they lie in the whole: every `stride`, `length` of them.
        stride = length = math.prod(shape)
        if axis is not None:
            own[axis] //= parts
            stride = math.prod(shape[axis:])
            length = stride // parts
        owns.append(tuple(own))
        starts = np.arange(0, math.prod(own), _PIECE)
        table += [np.stack(np.broadcast_arrays(number, starts, length, stride), axis=-1)]

    def piece(row: jax.Array) -> jax.Array:
        number, start, length, stride = row[0], row[1], row[2], row[3]
        place = start + jax.lax.iota(jnp.uint32, _PIECE)
        place = place // length * stride + place % length + jnp.where(stride > length, length, 0) * jnp.uint32(part)
        return _normal(*_threefry(keys[0][number], keys[1][number], jnp.zeros_like(place), place))

    pool = jax.lax.map(piece, jnp.asarray(np.concatenate(table), jnp.uint32))
    drawn, row = [], 0
    for shape in owns:
        rows = -(-math.prod(shape) // _PIECE)
        drawn.append(pool[row : row + rows].reshape(-1)[: math.prod(shape)].reshape(shape))
        row += rows
    return drawn


def _threefry(
    first_key: jax.Array, second_key: jax.Array, high: jax.Array, low: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The two words (...,) of the generator for a key of two words and counters of two words (...,)."""
    words = threefry_2x32((first_key, second_key), jnp.concatenate([high.ravel(), low.ravel()]))
    first, second = jnp.split(words, 2)
    return first.reshape(low.shape), second.reshape(low.shape)


def _normal(first: jax.Array, second: jax.Array) -> jax.Array:
    """Normal numbers from the generator's two words, as `jax.random.normal` makes them: by the inverse of erf."""
    bits = ((first ^ second) >> 9) | jnp.uint32(0x3F800000)
    uniform = jax.lax.bitcast_convert_type(bits, jnp.float32) - 1  # [0, 1)
    lowest = np.nextafter(np.float32(-1), np.float32(0))
    uniform = jnp.maximum(lowest, uniform * (np.float32(1) - lowest) + lowest)
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(uniform)
