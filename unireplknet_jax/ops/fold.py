"""Folding linear layers into one kernel: batch norms into convolutions, dilated kernels into large ones.

Kernels are (*spatial, in, out) of any spatial rank, as Flax stores them: (k, k, 1, c) for a 2-D depthwise
convolution, (k, in, out) for a 1-D one, (in, out) for a Dense layer. NumPy arrays are folded by NumPy, JAX's by JAX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import jax
    import numpy as np

Array = TypeVar("Array", "np.ndarray", "jax.Array")


def fold_batch_norm(
    kernel: Array,
    bias: Array | None,
    *,
    scale: Array,
    shift: Array,
    mean: Array,
    var: Array,
    eps: float = 1e-5,
    out_axis: int = -1,
) -> tuple[Array, Array]:
    """The kernel and bias of "convolution, then batch norm (inference form)" as one convolution.

    kernel: (*spatial, in, out); bias: (out,) or None; scale, shift, mean, var: (out,) of the batch norm -> kernel of
    the same shape, bias (out,). For a transposed convolution that stores its kernel as (*spatial, out, in)
    (`flax.linen.ConvTranspose(transpose_kernel=True)`) give out_axis=-2; with transpose_kernel=False the default holds.
    Raises ValueError where the statistics do not fit the kernel's output axis.
    """
    channels = kernel.shape[out_axis]
    for name, value in dict(bias=bias, scale=scale, shift=shift, mean=mean, var=var).items():
        if value is not None and value.shape != (channels,):
            raise ValueError(
                f"{name} must have shape ({channels},) to fit kernel {kernel.shape}, but has {value.shape}."
            )
    factor = scale / kernel.__array_namespace__().sqrt(var + eps)
    offset = mean if bias is None else mean - bias
    along_output = [1] * kernel.ndim
    along_output[out_axis] = channels
    return kernel * factor.reshape(along_output), shift - offset * factor


def dilate_kernel(kernel: Array, dilation: int) -> Array:
    """Spread kernel (*spatial, in, out) by writing dilation - 1 zeros between its taps: k -> (k - 1) * dilation + 1."""
    if dilation < 1:
        raise ValueError(f"dilation must be at least 1, but is {dilation}.")
    xp = kernel.__array_namespace__()
    for axis, length in enumerate(kernel.shape[:-2]):
        shape, behind = list(kernel.shape), [(0, 0)] * (kernel.ndim + 1)
        shape[axis], behind[axis + 1] = length * dilation, (0, dilation - 1)
        spread = xp.pad(xp.expand_dims(kernel, axis + 1), behind).reshape(shape)
        kernel = spread[(slice(None),) * axis + (slice((length - 1) * dilation + 1),)]
    return kernel


def pad_kernel(kernel: Array, size: int) -> Array:
    """Center kernel (*spatial, in, out) in zeros so that every spatial axis has length `size`.

    Raises ValueError if an axis is longer than `size` or cannot be centered (the difference is odd).
    """
    missing = [size - length for length in kernel.shape[:-2]]
    if any(m < 0 or m % 2 for m in missing):
        raise ValueError(f"a kernel of shape {kernel.shape} cannot be centered in one of size {size}.")
    return kernel.__array_namespace__().pad(kernel, [(m // 2, m // 2) for m in missing] + [(0, 0), (0, 0)])


def merge_branch(kernel: Array, branch: Array, dilation: int) -> Array:
    """Add a parallel dilated branch (*spatial, in, out) to the center of a large kernel (*spatial, in, out).

    The sum acts on an input as both convolutions added up, each with "same" padding (paper section 3.1, "Dilated
    Reparam Block"). All spatial axes of `kernel` have one length.
    """
    return kernel + pad_kernel(dilate_kernel(branch, dilation), kernel.shape[0])
