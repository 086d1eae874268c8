"""Depthwise convolution: one function, several formulations, and the only place that chooses between them."""

import functools
import math
import types
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from unireplknet_jax.ops import (
    depthwise_dft,
    depthwise_fft,
    depthwise_shift,
    depthwise_toeplitz,
    depthwise_toeplitz_tpu,
    depthwise_xla,
)
from unireplknet_jax.ops.batch import PLATFORMS, batch_shards, by_platform, over_batch_shards, varying_alike

IMPLEMENTATIONS = types.MappingProxyType(
    {
        "xla": depthwise_xla,
        "shift": depthwise_shift,
        "fft": depthwise_fft,
        "dft": depthwise_dft,
        "toeplitz": depthwise_toeplitz,
        "toeplitz_tpu": depthwise_toeplitz_tpu,
    }
)

_Row = tuple[int | None, int | None, int | None, int | None, str]
# What `impl="auto"` takes, by platform and by what is computed: the first row that holds the kernel's larger side, the
# map's larger side, the examples on a device and the dilation (None: any). `unireplknet benchmark depthwise` prints the
# measurements. "prepared": with a kernel of which `prepare_kernel` has computed what depends on it alone. Platforms not
# listed take XLA's convolution.
_CPU = ((5, None, None, None, "shift"), (None, 40, None, None, "dft"), (None, None, None, None, "fft"))
# cuDNN takes up to 100 times as long for a dilated kernel. What `toeplitz` makes of the kernel costs few examples more
# than it saves.
_GPU_LARGE = (
    (None, 40, 31, None, "dft"),
    (None, 40, None, None, "toeplitz"),
    (None, None, None, None, "fft"),
)
_GPU_CUDNN = (5, None, None, 1, "xla")
_GPU_SMALL = ((3, 40, None, None, "shift"), _GPU_CUDNN, (3, None, None, None, "shift"))
# Here `toeplitz` costs few examples memory, too.
_TPU_FEW = (None, None, 31, None, "xla")
_TPU_LARGE = ((3, None, None, None, "xla"), (None, 40, None, None, "toeplitz_tpu"))
_TPU_LARGE_GRADIENT = (_TPU_LARGE[0], (None, 16, None, None, "toeplitz_tpu"), (None, 40, None, None, "toeplitz"))
_BEST: Mapping[str, Mapping[str, tuple[_Row, ...]]] = types.MappingProxyType(
    {
        "cpu": {
            "convolve": _CPU,
            "kernel_gradient": ((3, None, None, None, "shift"), (5, 16, None, None, "dft"), *_CPU),
            "prepared": _CPU,
        },
        "gpu": {
            "convolve": (*_GPU_SMALL, *_GPU_LARGE),
            "kernel_gradient": (_GPU_CUDNN, *_GPU_LARGE),
            "prepared": (*_GPU_SMALL, *_GPU_LARGE[1:]),
        },
        "tpu": {
            "convolve": (_TPU_FEW, (7, 20, None, None, "xla"), *_TPU_LARGE),
            "kernel_gradient": (_TPU_FEW, (5, 20, None, None, "xla"), *_TPU_LARGE_GRADIENT),
            "prepared": ((5, 20, None, None, "xla"), *_TPU_LARGE),
        },
    }
)
_WITHOUT_LAYOUTS = types.MappingProxyType({"toeplitz_tpu": "toeplitz"})
# Up to this side of a map, a small kernel takes the form of the large one that convolves the same input, which then
# computes once for all of them what depends on the input alone.
_SHARED_MAP = types.MappingProxyType({"tpu": 16})


def depthwise_conv2d(
    x: jax.Array, kernel: jax.Array, *, dilation: int = 1, impl: str = "auto", beside: int = 0
) -> jax.Array:
    """Convolve every channel with its own kernel: stride 1, zero "same" padding, float32 accumulation.

    x: (n, h, w, c) and kernel: (kh, kw, 1, c) of one floating-point dtype -> (n, h, w, c) of that dtype. kh and kw are
    odd and may exceed the map. `dilation` spreads the taps. `impl` is "auto" (by the platform of the context mesh or
    else of the lowering, the kernel's and the map's size) or a name in IMPLEMENTATIONS; all give the same numbers.
    `beside` is the size of a larger kernel that convolves the same x, a hint for "auto". Differentiable in reverse
    mode, both arguments. Under a context mesh (`jax.set_mesh`) whose Auto axes for the batch are called "data" and
    "fsdp", no implementation moves the batch between devices. Under other names or without the context the FFT gathers
    it, and "xla" multiplies the kernel gradient of a batch that is split over some of several axes by the size of the
    others (XLA's partitioner does, in jax 0.10 to 0.12). Inside a `jax.shard_map` of one's own it is an operation like
    any other.
    Raises ValueError for shapes, dtypes, dilations or names outside of this.
    """
    _check(x, kernel, dilation, impl)
    return _convolve(x, kernel, dilation, impl, beside)


@functools.partial(jax.jit, static_argnums=1)
def laid_out_beside(x: jax.Array, kernel_size: int) -> jax.Array:
    """x: (n, h, w, c) as it is: a map that several convolutions, the largest of that size, take in or are summed up to.

    On a TPU it is laid out in memory as these convolutions want it, where they share a form, so that it is turned once
    and not by each of them; what is computed elementwise beside it follows. Its cotangent is, too.
    """
    _check_map_size(x)
    batch = x.shape[0] // batch_shards(x.shape[0])
    form = choose("tpu", "convolve", (kernel_size, kernel_size), x.shape[1:3], batch)
    if form != "toeplitz_tpu" or max(x.shape[1:3]) > _SHARED_MAP["tpu"]:
        return x

    def lay_out(x: jax.Array) -> jax.Array:
        return over_batch_shards(depthwise_toeplitz_tpu.lay_out, (x,), ())

    return by_platform(x, default=lambda x: x, tpu=lay_out)


def prepare_kernel(
    kernel: jax.Array, map_size: Sequence[int], *, dtype: DTypeLike, platform: str, dilation: int = 1
) -> dict[str, jax.Array]:
    """What a convolution computes from its kernel alone, ahead of time: {implementation: array}, {} if nothing.

    kernel: (kh, kw, 1, c), map_size: (h, w) of the inputs, dtype and platform ("cpu", "tpu", "gpu", ...): those of the
    convolution. The array has a form of the implementation's own, in float32 or, where products are exact, in dtype.
    """
    kernel = crop_kernel(kernel.astype(dtype), map_size, dilation)
    name = choose(platform, "prepared", kernel.shape, map_size, dilation=dilation)
    if not hasattr(IMPLEMENTATIONS[name], "prepare"):
        return {}
    return {name: _prepare(kernel, name, tuple(map_size), dilation, PLATFORMS.get(platform, platform))}


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _prepare(kernel: jax.Array, name: str, map_size: tuple[int, ...], dilation: int, platform: str = "") -> jax.Array:
    implementation = IMPLEMENTATIONS[name]
    if hasattr(implementation, "prepare_for"):
        return implementation.prepare_for(kernel, map_size, dilation, platform)
    return implementation.prepare(kernel, map_size, dilation)


def prepared_conv2d(
    x: jax.Array, prepared: Mapping[str, jax.Array], kernel_shape: Sequence[int], *, dilation: int = 1
) -> jax.Array:
    """`depthwise_conv2d` of x (n, h, w, c) with a kernel (kh, kw, 1, c) in the form that `prepare_kernel` gave.

    Raises ValueError if it was prepared for maps of another size.
    """
    _check_map_size(x)
    ((name, array),) = prepared.items()
    return _convolve_prepared(x, array, name, tuple(kernel_shape), dilation)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _convolve_prepared(
    x: jax.Array, array: jax.Array, name: str, kernel_shape: tuple[int, ...], dilation: int
) -> jax.Array:
    kernel = jax.ShapeDtypeStruct(kernel_shape, x.dtype)
    kernel = jax.eval_shape(lambda kernel: crop_kernel(kernel, x.shape[1:3], dilation), kernel)
    expected = [
        jax.eval_shape(lambda kernel: _prepare(kernel, name, x.shape[1:3], dilation, platform), kernel).shape  # noqa: B023
        for platform in ("", "gpu")
    ]
    if array.shape not in expected:
        raise ValueError(
            f"a kernel was prepared for maps of another size than {x.shape[1:3]} (its {name} form is {array.shape}, "
            f"not {expected[0]}): call unireplknet_jax.prepare for this input size."
        )

    def convolve(x: jax.Array, array: jax.Array) -> jax.Array:
        return IMPLEMENTATIONS[name].convolve_prepared(x, array, kernel.shape, dilation)

    return over_batch_shards(convolve, (x,), (array,))


def crop_kernel(kernel: jax.Array, map_size: Sequence[int], dilation: int = 1) -> jax.Array:
    """Drop the outer taps of kernel (kh, kw, 1, c) that see nothing but padding on a map of `map_size` (h, w)."""
    reach = [min(k // 2, (length - 1) // dilation) for k, length in zip(kernel.shape, map_size, strict=False)]
    rows, columns = (slice(k // 2 - r, k // 2 + r + 1) for k, r in zip(kernel.shape, reach, strict=False))
    return kernel[rows, columns]


# Traced once for all blocks of the same shapes. What a trace depends on beside them (the context mesh and its devices,
# the matmul precision, x64) jax.jit looks at itself, and without a mesh the platform is left to the lowering.
@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _convolve(x: jax.Array, kernel: jax.Array, dilation: int, impl: str, beside: int) -> jax.Array:
    x, kernel = varying_alike(x, crop_kernel(kernel, x.shape[1:3], dilation))
    return _differentiable(x, kernel, dilation, impl, beside)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _differentiable(x: jax.Array, kernel: jax.Array, dilation: int, impl: str, beside: int) -> jax.Array:
    return _dispatch("convolve", x, kernel, kernel.shape, dilation, impl, beside)


def _convolve_forward(
    x: jax.Array, kernel: jax.Array, dilation: int, impl: str, beside: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _differentiable(x, kernel, dilation, impl, beside), (x, kernel)


def _convolve_backward(
    dilation: int, impl: str, beside: int, residuals: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    # With stride 1 and "same" padding the input's gradient is the same convolution with the taps turned round.
    dx = _differentiable(g, kernel[::-1, ::-1], dilation, impl, beside)
    return dx, _dispatch("kernel_gradient", x, g, kernel.shape, dilation, impl, beside)


_differentiable.defvjp(_convolve_forward, _convolve_backward)


def _dispatch(
    function: str, x: jax.Array, other: jax.Array, kernel_shape: Sequence[int], dilation: int, impl: str, beside: int
) -> jax.Array:
    """IMPLEMENTATIONS[...].function(x, other, ...), chosen by the platform of the lowering, not of the process.

    Every device computes on its own examples. Left to itself, XLA's partitioner gathers the batch around a transform,
    moves it where a kernel is split over the devices, and adds up the kernel gradient of a batch that is split over
    some axes of a mesh only once too often for every device along the others.
    """

    def run(name: str, x: jax.Array, other: jax.Array) -> jax.Array:
        implementation = IMPLEMENTATIONS[name]
        if function == "convolve":
            return over_batch_shards(lambda x, kernel: implementation.convolve(x, kernel, dilation), (x,), (other,))

        def gradient(x: jax.Array, g: jax.Array) -> jax.Array:
            return implementation.kernel_gradient(x, g, kernel_shape, dilation)

        return over_batch_shards(gradient, (x, other), (), sum_output=True).astype(x.dtype)

    if impl != "auto":
        return run(impl, x, other)
    batch = x.shape[0] // batch_shards(x.shape[0])

    def best(platform: str) -> str:
        return choose(platform, function, kernel_shape, x.shape[1:3], batch, beside, dilation)

    names = {target: best(platform) for target, platform in PLATFORMS.items()}
    forms = {target: functools.partial(run, name) for target, name in names.items() if name != "xla"}
    return by_platform(x, other, default=functools.partial(run, "xla"), **forms)


def choose(
    platform: str,
    use: str,
    kernel_shape: Sequence[int],
    map_size: Sequence[int],
    batch: float = math.inf,
    beside: int = 0,
    dilation: int = 1,
) -> str:
    """The name of the implementation that a platform takes for `batch` examples on a device.

    A symbolic batch (`jax.export.symbolic_shape`) counts as many examples: its program has to serve these, too, and
    pins no layouts, which `jax.export` does not write.
    use: "convolve", "kernel_gradient" or "prepared"; `beside` as in `depthwise_conv2d`.
    """
    side, size = max(map_size), max(kernel_shape[:2])
    if side <= _SHARED_MAP.get(platform, 0):
        size = max(size, beside)
    symbolic = not isinstance(batch, int | float)
    values = (size, side, math.inf if symbolic else batch, dilation)
    for *limits, name in _BEST.get(PLATFORMS.get(platform, platform), {}).get(use, ()):
        if all(limit is None or value <= limit for value, limit in zip(values, limits, strict=True)):
            return _WITHOUT_LAYOUTS.get(name, name) if symbolic else name
    return "xla"


def _check(x: jax.Array, kernel: jax.Array, dilation: int, impl: str) -> None:
    if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[2:] != (1, x.shape[-1]):
        raise ValueError(
            "depthwise_conv2d takes x of shape (n, h, w, c) and a kernel of shape (kh, kw, 1, c), "
            f"but x is {x.shape} and the kernel {kernel.shape}."
        )
    if not (kernel.shape[0] % 2 and kernel.shape[1] % 2):
        raise ValueError(f'"same" padding is defined for odd kernel sizes only, but the kernel is {kernel.shape[:2]}.')
    if x.dtype != kernel.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x and kernel must share one floating-point dtype, but are {x.dtype} and {kernel.dtype}.")
    _check_map_size(x)
    if 0 in x.shape:
        raise ValueError(f"x is empty: its shape is {x.shape}.")
    if not isinstance(dilation, int) or dilation < 1:
        raise ValueError(f"dilation must be a positive integer, but is {dilation!r}.")
    if impl != "auto" and impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be 'auto' or one of {sorted(IMPLEMENTATIONS)}, but is {impl!r}.")


def _check_map_size(x: jax.Array) -> None:
    """Raise ValueError for maps (n, h, w, c) whose height or width is symbolic."""
    if not all(isinstance(side, int) for side in x.shape[1:3]):
        raise ValueError(
            f"the maps have the symbolic size {x.shape[1]} x {x.shape[2]}, but how a kernel is computed depends on "
            "it; export for images of one size, only the batch may be symbolic."
        )
