"""What a network looks at: how much pixels matter for the middle of the last map, and its positions for a class."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax.models.shapes import map_size, trunk_of, with_trunk

STRIDE = 32  # pixels from one position of the last map to the next; position i is centred on pixel 32 * i
SHARES = (0.2, 0.3, 0.5, 0.99)  # of RepLKNet's table


def attributions(
    model: nn.Module, variables: Mapping[str, Any], inputs: jax.Array, label: int | None = None
) -> dict[str, jax.Array]:
    """What each pixel and each position of the last map contributes, of inputs (n, h, w, c), from one forward pass.

    contribution: (n, h, w) float32. The gradient of the middle position of the last map, the sum of its channels where
    they are positive, by every pixel; of that the positive parts, summed over the pixel's channels, as RepLKNet's
    script has it (erf/visualize_erf.py, after Luo et al. 2016). Its mean over many pictures is the effective receptive
    field.

    Of a network with a classifier also logits: (n, classes); label: (n,), the class in question, by default the one
    with the largest logit; and activation: (n, h / 32, w / 32), Grad-CAM (Selvaraju et al. 2017) before its negative
    parts are cut off: the sum over channels of the last map times the mean gradient of the class's logit by it.

    How exact is it? Behind the last map come the mean over positions, a LayerNorm and a linear layer. Without the
    LayerNorm the logit would be a sum over positions, which is what the class activation map of Zhou et al. (2016)
    draws. With it, that holds for the picture's own statistics alone, and its gradient includes how they change. All
    positions have the same gradient, and because a LayerNorm does not see the scale of its input, their activations
    add up to zero but for its epsilon: what is drawn is where a picture says more for a class than on the average.

    model: a `UniRepLKNet`, or a network around one called "backbone" that applies it once. Pure; inside `jax.jit`.
    """
    trunk = _without_remat(trunk_of(model))
    model = with_trunk(model, trunk)
    change = jnp.zeros((len(inputs), *map_size(inputs.shape[1:3], 3), trunk.dims[-1]), jnp.float32)

    def forward(inputs: jax.Array, change: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        output, last = _with_last_map(model, variables, inputs, change)
        middle = last[:, last.shape[1] // 2, last.shape[2] // 2].astype(jnp.float32)
        return (jnp.sum(jax.nn.relu(middle)), output), last

    (_, output), backward, last = jax.vjp(forward, inputs, change, has_aux=True)
    nothing = jnp.zeros_like(output)
    by_pixel, _ = backward((jnp.ones(()), nothing))
    found = {"contribution": jnp.sum(jax.nn.relu(by_pixel.astype(jnp.float32)), axis=-1)}
    if trunk_of(model) is model and model.num_classes is None:
        return found
    chosen = jnp.argmax(output, axis=-1) if label is None else jnp.full(len(inputs), label)
    _, by_position = backward((jnp.zeros(()), jax.nn.one_hot(chosen, output.shape[-1], dtype=output.dtype)))
    weights = jnp.mean(by_position, axis=(1, 2), keepdims=True)
    activation = jnp.sum(weights * last.astype(jnp.float32), axis=-1)
    return found | {"logits": output, "label": chosen, "activation": activation}


def _without_remat(trunk: nn.Module) -> Any:
    """A trunk whose layers can be watched: recomputed ones hide what goes on in them."""
    return trunk.clone(remat=False)


def _with_last_map(
    model: nn.Module, variables: Mapping[str, Any], inputs: jax.Array, change: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(the output of a network to whose last map a change was added, that map)."""
    blocks = trunk_of(model).depths[-1]
    name = f"stages_3_{blocks - 1}" if blocks else "downsample_layers_3"
    maps = []

    def watch(call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        found = call(*arguments, **options)
        if context.module.name != name or context.method_name != "__call__":
            return found
        maps.append(found + change.astype(found.dtype))
        return maps[-1]

    with nn.intercept_methods(watch):
        output: Any = model.apply(variables, inputs)
    (last,) = maps
    return output, last


def effective_receptive_field(model: nn.Module, variables: Mapping[str, Any], inputs: jax.Array) -> jax.Array:
    """inputs: (n, h, w, c) -> (h, w): the mean of their contributions, see `attributions`. Pure; inside `jax.jit`."""
    return jnp.mean(attributions(model, variables, inputs)["contribution"], axis=0)


def middle_pixel(size: Sequence[int]) -> tuple[int, ...]:
    """The pixel of an input (h, w) on which the middle position of the last map is centred."""
    return tuple(STRIDE * (side // 2) for side in map_size(size, 3))


def square_sides(field: np.ndarray, shares: Sequence[float] = SHARES) -> list[int | None]:
    """For each share, the side in pixels of the smallest square around the middle pixel that holds more than it.

    field: (h, w), 0 or more. At an edge of the picture the square ends there and its side goes on growing; None where
    the field is 0 everywhere.
    """
    rows, columns = (
        np.abs(np.arange(side) - middle) for side, middle in zip(field.shape, middle_pixel(field.shape), strict=True)
    )
    rings = np.maximum(rows[:, None], columns[None, :])  # 0 at the middle pixel, then one square ring after the other
    inside = np.cumsum(np.bincount(rings.ravel(), weights=np.asarray(field, np.float64).ravel()))
    if not inside[-1] > 0:
        return [None] * len(shares)
    return [2 * int(np.argmax(inside >= share * inside[-1])) + 1 for share in shares]


def upsampled(values: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A map (h', w') of the last stage at every pixel of (h, w), linear between the pixels that it is centred on."""

    def hats(pixels: int, count: int) -> np.ndarray:
        places = np.minimum(np.arange(pixels) / STRIDE, count - 1)
        return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(count)))

    down, across = map(hats, size, values.shape)
    return down @ values @ across.T
