"""The training block: a large kernel with its dilated branches and batch norms beside one large kernel and its norm."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax.benchmark.timing import (
    jax_program,
    measure,
    torch_and_device,
    torch_program,
)
from unireplknet_jax.nn.block import BRANCHES, DepthwiseConv, DilatedReparamBlock
from unireplknet_jax.nn.layers import BatchNorm


class BlockCase(NamedTuple):
    """Batch, side of the map, channels, size of the large kernel."""

    n: int
    side: int
    c: int
    k: int = 13

    def __str__(self):
        return f"{self.n}x{self.side}x{self.side}x{self.c} k{self.k}"


CASES = (BlockCase(8, 28, 80), BlockCase(8, 14, 160), BlockCase(8, 7, 320))


class OneKernel(nn.Module):
    """A large depthwise kernel and its batch norm, without branches: what the block is compared with."""

    kernel_size: int
    dtype: jnp.dtype = jnp.float32
    impl: str = "auto"

    @nn.compact
    def __call__(self, x, train=False):
        y = DepthwiseConv(self.kernel_size, 1, False, self.dtype, self.impl, name="conv")(x)
        return BatchNorm(name="norm")(y, train)


def check_case(case):
    """Raise ValueError for a shape that is no block's."""
    if case.k not in BRANCHES or getattr(case, "dilation", 1) != 1:
        raise ValueError(f"{case} is no training block: its kernel is one of {', '.join(map(str, sorted(BRANCHES)))}.")
    if case.n * case.side**2 < 2:
        raise ValueError(
            f"{case} has one value for each channel, which is no batch to take statistics of; expected two or more: "
            "take more examples or a larger map."
        )


def modules(k, dtype):
    """{name: module} of what is compared."""
    dtype = jnp.dtype(dtype)
    return {
        "one kernel, xla": OneKernel(k, dtype, "xla"),
        "one kernel": OneKernel(k, dtype),
        "block": DilatedReparamBlock(k, dtype=dtype),
        "block, xla": DilatedReparamBlock(k, dtype=dtype, impl="xla"),
    }


def training_pass(module):
    """(params, batch_stats, x, g) -> (y, new batch_stats, gradients of params and x): forward and backward."""

    def run(params, batch_stats, x, g):
        def forward(params, x):
            variables = {"params": params, "batch_stats": batch_stats}
            return module.apply(variables, x, train=True, mutable=["batch_stats"])

        y, pullback, updates = jax.vjp(forward, params, x, has_aux=True)
        return y, updates, pullback(g)

    return run


def abstract_arguments(module, case, dtype):
    """The shapes of `training_pass`'s arguments."""
    x = jax.ShapeDtypeStruct((case.n, case.side, case.side, case.c), jnp.dtype(dtype))
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    return variables["params"], variables["batch_stats"], x, x


def measure_case(case, dtype="float32", rounds=9):
    """Rows {"case", "form", "seconds", ..., "times one kernel", "temporary_bytes"} of one case."""
    dtype, rng, programs = jnp.dtype(dtype), np.random.default_rng(0), {}
    x, g = (jnp.asarray(rng.standard_normal((case.n, case.side, case.side, case.c)), dtype) for _ in range(2))
    for name, module in modules(case.k, dtype).items():
        variables = module.init(jax.random.key(0), x)
        arguments = variables["params"], variables["batch_stats"], x, g
        programs[name] = jax_program(training_pass(module), *arguments)
    programs |= _torch_programs(case, x, g)
    timings = measure(programs, rounds)
    return [
        {
            "case": str(case),
            "form": name,
            **timing._asdict(),
            "times one kernel": timing.median / timings["one kernel"].median,
        }
        for name, timing in timings.items()
    ]


def _torch_programs(case, x, g):
    (torch, device), dtype = torch_and_device(), str(x.dtype)
    if device is None or (device, dtype) == ("cpu", "bfloat16"):
        return {}
    from unireplknet_jax.benchmark.torch_network import DepthwiseBranches, in_precision

    x, g = (
        torch.from_numpy(np.array(a.astype(jnp.float32))).permute(0, 3, 1, 2).to(device, getattr(torch, dtype))
        for a in (x, g)
    )

    def program(layout):
        block = DepthwiseBranches(case.c, case.k, deploy=False).to(device, memory_format=layout).train()
        own_x, own_g = (a.contiguous(memory_format=layout) for a in (x, g))
        own_x.requires_grad_()

        def run():
            block.zero_grad()
            own_x.grad = None
            with in_precision(device, dtype):
                y = block(own_x)
            y.backward(own_g.to(y.dtype))

        return torch_program(run, torch, device)

    return {
        "block, torch": program(torch.contiguous_format),
        "block, torch, channels last": program(torch.channels_last),
    }
