"""The UniRepLKNet backbone with its optional classifier (original: `unireplknet.py`; paper section 3.1)."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from unireplknet_jax.models.initialize import drawn_variables
from unireplknet_jax.nn.block import KERNEL_SIZES, UniRepLKNetBlock
from unireplknet_jax.nn.layers import LayerNorm, Linear, StridedConv
from unireplknet_jax.ops.depthwise import IMPLEMENTATIONS
from unireplknet_jax.ops.layers import gelu
from unireplknet_jax.ops.valid import halved, only_valid, valid_mask


class UniRepLKNet(nn.Module):
    """Four stages of UniRepLKNet blocks, each behind a downsampler; strides 4, 8, 16 and 32.

    depths, dims, kernel_sizes: blocks and channels of each stage, depthwise kernel size of each block.
    num_classes: None builds no classifier; `output_norms` then adds the per-stage norm0..norm3 of dense-task backbones.
    drop_path_rate: of the last block; the blocks before ramp up linearly from 0.
    layer_scale_init: None or a value <= 0 leaves the layer scale out. head_init_scale multiplies the classifier.
    deploy: the merged form, for the output of `reparameterize`.
    dtype: of the computation (float32 or bfloat16); parameters, norms, GRN and logits are float32 regardless.
    remat: recompute each block in the backward pass instead of keeping its activations.
    bn_group: examples that share batch statistics in training, None: the global batch. bn_frozen: use and keep the
    running statistics. impl: the depthwise implementation (`ops.depthwise`).
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    num_classes: int | None = 1000
    in_chans: int = 3
    output_norms: bool = False
    drop_path_rate: float = 0.0
    layer_scale_init: float | None = 1e-6
    head_init_scale: float = 1.0
    deploy: bool = False
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    bn_group: int | None = None
    bn_frozen: bool = False
    impl: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(isinstance(stage, (list, tuple)) for stage in self.kernel_sizes):
            raise ValueError(f"kernel_sizes must list the blocks of every stage, but is {self.kernel_sizes}.")
        # Lists and names are welcome, but the module has to be hashable and equal to its like.
        object.__setattr__(self, "depths", tuple(self.depths))
        object.__setattr__(self, "dims", tuple(self.dims))
        object.__setattr__(self, "kernel_sizes", tuple(map(tuple, self.kernel_sizes)))
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype))
        lengths = tuple(len(stage) for stage in self.kernel_sizes)
        if not len(self.depths) == len(self.dims) == 4 or lengths != tuple(self.depths):
            raise ValueError(
                f"4 depths, 4 dims and one kernel size per block are needed, but depths={tuple(self.depths)}, "
                f"dims={tuple(self.dims)} and kernel_sizes has {lengths} entries per stage."
            )
        unknown = {size for stage in self.kernel_sizes for size in stage} - set(KERNEL_SIZES)
        if unknown:
            raise ValueError(f"kernel sizes {sorted(unknown)} are not supported, only {KERNEL_SIZES}.")
        if self.output_norms and self.num_classes is not None:
            raise ValueError("output_norms belong to a backbone without classifier: give num_classes=None too.")
        for field in ("num_classes", "in_chans", "bn_group"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field} must be at least 1, but is {value}.")
        if self.impl != "auto" and self.impl not in IMPLEMENTATIONS:
            raise ValueError(f"impl must be 'auto' or one of {sorted(IMPLEMENTATIONS)}, but is {self.impl!r}.")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be in [0, 1), but is {self.drop_path_rate}.")

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """x: (n, h, w, in_chans) -> logits (n, num_classes) in float32; without classifier the last map."""
        return self._forward(x, train)[0]

    def features(self, x: jax.Array, train: bool = False, sizes: jax.Array | None = None) -> tuple[jax.Array, ...]:
        """x: (n, h, w, in_chans) -> the 4 stage maps, (n, h/4, w/4, dims[0]) to (n, h/32, w/32, dims[3]), rounded up.

        A classifier's are the raw stage outputs; with `output_norms` each has gone through its own norm0..norm3.
        sizes: (n, 2), the rows and columns of each picture, which lies in the upper left of x: it gives what it gives
        alone, with zeros around, whatever the rest of x holds. None: all of x.
        """
        return self._forward(x, train, sizes)[1]

    @nn.compact
    def _forward(
        self, x: jax.Array, train: bool, sizes: jax.Array | None = None
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        if x.ndim != 4 or x.shape[-1] != self.in_chans:
            raise ValueError(f"images must have shape (n, h, w, {self.in_chans}), but have {x.shape}.")
        if self.is_initializing():
            self._initialize()
        x = only_valid(x.astype(self.dtype), _valid_of(x, sizes))
        run = self._run_block_program if self._may_run_programs(x, train) else self._run_block
        rates = drop_path_ramp(self.drop_path_rate, self.depths)
        maps = []
        for i, (dim, kernel_sizes) in enumerate(zip(self.dims, self.kernel_sizes, strict=True)):
            downsample = Stem if i == 0 else Downsample
            x = downsample(dim, self.dtype, name=f"downsample_layers_{i}")(x, sizes)
            sizes = _halved(_halved(sizes)) if i == 0 else _halved(sizes)
            valid = _valid_of(x, sizes)
            for j, kernel_size in enumerate(kernel_sizes):
                options = {
                    "kernel_size": kernel_size,
                    "drop_path": next(rates) if train else 0.0,
                    "layer_scale_init": self.layer_scale_init if (self.layer_scale_init or 0) > 0 else None,
                    "deploy": self.deploy,
                    "dtype": self.dtype,
                    "impl": self.impl,
                    "bn_group": self.bn_group,
                    "bn_frozen": self.bn_frozen,
                }
                x = run(f"stages_{i}_{j}", options, x, train, valid)
            normed = LayerNorm(name=f"norm{i}")(x).astype(x.dtype) if self.output_norms else x
            maps.append(only_valid(normed, valid))
        if self.num_classes is None:
            return maps[-1], tuple(maps)
        y = LayerNorm(name="norm")(jnp.mean(x, axis=(1, 2), dtype=jnp.float32))
        return Linear(self.num_classes, init_scale=self.head_init_scale, name="head")(y), tuple(maps)

    def _run_block(
        self, name: str, options: Mapping[str, Any], x: jax.Array, train: bool, valid: jax.Array | None
    ) -> jax.Array:
        block = nn.remat(UniRepLKNetBlock, static_argnums=(2,)) if self.remat else UniRepLKNetBlock
        return block(**options, name=name)(x, train, valid)

    def _run_block_program(
        self, name: str, options: Mapping[str, Any], x: jax.Array, train: bool, valid: jax.Array | None
    ) -> jax.Array:
        variables = {collection: tree[name] for collection, tree in self.variables.items() if name in tree}
        try:
            return _block_program(UniRepLKNetBlock(**options, parent=None), variables, x, valid)
        except flax.errors.FlaxError:  # of a tensor that is missing or has another shape: named by its whole path below
            return self._run_block(name, options, x, train, valid)

    def _may_run_programs(self, x: jax.Array, train: bool) -> bool:
        """Whether each block may be a program of its own: outside of `jax.jit`, in inference, unwatched."""
        # `nn.intercept_methods` would not reach into a program that is there already; it has no public question to ask.
        watched = cast(Any, self.scope).mutable is not False or getattr(nn.module, "_global_interceptor_stack", True)
        return not (train or watched or self.remat or isinstance(x, jax.core.Tracer))

    def _initialize(self) -> None:
        """Draw all variables at once, where the key allows it; the layers below draw what they do not find."""
        stream = cast(Any, self.scope).rngs.get("params")
        variables = (stream and drawn_variables(self, stream.rng, stream.suffix)) or {}
        for collection, tree in variables.items():
            for name, below in tree.items() if self.is_mutable_collection(collection) else ():
                if not self.has_variable(collection, name):
                    self.put_variable(collection, name, below)


@functools.partial(jax.jit, static_argnums=0)
def _block_program(block: nn.Module, variables: Mapping[str, Any], x: jax.Array, valid: jax.Array | None) -> Any:
    """A block outside of `jax.jit`: compiled once for all of its kind, not operation by operation."""
    return block.apply(variables, x, valid=valid)


def _halved(sizes: jax.Array | None) -> jax.Array | None:
    return None if sizes is None else halved(sizes)


def _valid_of(x: jax.Array, sizes: jax.Array | None) -> jax.Array | None:
    return None if sizes is None else valid_mask(sizes, x.shape[1:3])


class Stem(nn.Module):
    """Two strided convolutions: (n, h, w, c) -> (n, h/4, w/4, features), sizes rounded up.

    sizes: (n, 2) of the pictures in the map that comes in (`UniRepLKNet.features`), or None.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
        x = LayerNorm(name="norm1")(StridedConv(self.features // 2, self.dtype, name="conv1")(x))
        sizes = _halved(sizes)
        x = gelu(only_valid(x, _valid_of(x, sizes))).astype(self.dtype)
        x = LayerNorm(name="norm2")(StridedConv(self.features, self.dtype, name="conv2")(x))
        return only_valid(x.astype(self.dtype), _valid_of(x, _halved(sizes)))


class Downsample(nn.Module):
    """A strided convolution and a norm: (n, h, w, c) -> (n, h/2, w/2, features), rounded up; sizes: as of `Stem`."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
        x = LayerNorm(name="norm")(StridedConv(self.features, self.dtype, name="conv")(x))
        return only_valid(x.astype(self.dtype), _valid_of(x, _halved(sizes)))


def drop_path_ramp(rate: float, depths: Sequence[int]) -> Iterator[float]:
    """Yield the drop-path rate of every block in order: linear from 0 at the first block to `rate` at the last."""
    last = max(sum(depths) - 1, 1)
    for block in range(sum(depths)):
        yield rate * block / last
