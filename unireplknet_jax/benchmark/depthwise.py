"""The depthwise convolution, form by form: forward pass, input gradient and kernel gradient."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax.benchmark.timing import (
    jax_program,
    measure,
    measured_roofline,
    torch_and_device,
    torch_program,
)
from unireplknet_jax.ops.depthwise import (
    IMPLEMENTATIONS,
    choose,
    crop_kernel,
    depthwise_conv2d,
    prepare_kernel,
    prepared_conv2d,
)

PASSES = ("forward", "input gradient", "kernel gradient")


class Case(NamedTuple):
    """One shape: batch, side of the map, channels, kernel size, dilation."""

    n: int
    side: int
    c: int
    k: int
    dilation: int = 1

    def __str__(self):
        dilated = f" d{self.dilation}" if self.dilation > 1 else ""
        return f"{self.n}x{self.side}x{self.side}x{self.c} k{self.k}{dilated}"


# The stages of A and S at 224 pixels, and the branches of a training block.
CASES = (
    *(Case(8, 56, 40, k) for k in (3,)),
    *(Case(8, 28, 80, k) for k in (3, 13)),
    *(Case(8, 14, 160, k, d) for k, d in ((3, 1), (3, 5), (5, 1), (7, 2), (13, 1))),
    Case(8, 14, 320, 13),
    Case(8, 7, 320, 13),
    Case(8, 7, 640, 13),
)


def parse_case(text):
    """The `Case` of "8x14x14x320 k13" or "8x14x14x320 k3 d5"; ValueError for another form."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x\2x([1-9]\d*) k(\d*[13579])(?: d([1-9]\d*))?", text)
    if not found:
        raise ValueError(
            f"{text!r} is no shape that can be measured; expected NxSxSxC kK [dD], a square map and an odd kernel, "
            'as in "8x14x14x320 k13".'
        )
    return Case(*map(int, found.groups(default="1")))


def check_forms(names):
    """Raise ValueError for a name that is no implementation's, nor "auto"."""
    for name in names:
        if name not in (*IMPLEMENTATIONS, "auto"):
            raise ValueError(f"--form {name!r} is unknown; it takes {', '.join(IMPLEMENTATIONS)} and auto.")


def operands(case, dtype):
    """(x, kernel, cotangent) of a case, random."""
    rng = np.random.default_rng(0)
    shapes = (case.n, case.side, case.side, case.c), (case.k, case.k, 1, case.c), (case.n, case.side, case.side, case.c)
    return tuple(jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes)


def pass_of(name, impl, dilation):
    """The function (x, kernel, cotangent) -> result of one of PASSES by one implementation, or "auto"."""

    def convolve(x, kernel):
        return depthwise_conv2d(x, kernel, dilation=dilation, impl=impl)

    return {
        "forward": lambda x, kernel, g: convolve(x, kernel),
        "input gradient": lambda x, kernel, g: jax.vjp(lambda x: convolve(x, kernel), x)[1](g)[0],
        "kernel gradient": lambda x, kernel, g: jax.vjp(lambda kernel: convolve(x, kernel), kernel)[1](g)[0],
    }[name]


def chosen(platform, name, case):
    """The implementation that "auto" takes on a platform for one of PASSES."""
    use = "kernel_gradient" if name == "kernel gradient" else "convolve"
    map_size = (case.side, case.side)
    kernel = crop_kernel(np.empty((case.k, case.k, 1, case.c)), map_size, case.dilation)
    return choose(platform, use, kernel.shape, map_size, case.n, dilation=case.dilation)


def measure_case(case, dtype="float32", rounds=9, forms=None):
    """Rows {"case", "pass", "form", "auto", "seconds", ..., "times xla", "roofline"} of one case.

    forms: names of implementations, None: all. "prepared" is the chosen one with the kernel's part done ahead.
    "auto" marks the form that `impl="auto"` takes here.
    roofline: the time of the direct sum at this device's float32 peak and the speed of its main memory, as a share of
    the time; above 1 where the arrays fit a cache.
    """
    dtype = jnp.dtype(dtype)
    arrays, forms = operands(case, dtype), list(forms or IMPLEMENTATIONS)
    rows = []
    for name in PASSES:
        taken = chosen(jax.default_backend(), name, case)
        programs = {form: jax_program(pass_of(name, form, case.dilation), *arrays) for form in forms}
        if name == "forward":
            programs |= _prepared(case, arrays, dtype)
        programs |= _torch_programs(name, case, arrays)
        timings, floor = measure(programs, rounds), _floor(case, dtype)
        rows += [
            {
                "case": str(case),
                "pass": name,
                "form": form,
                "auto": "*" if form in (taken, f"{taken}, prepared") else "",
                **timing._asdict(),
                "times xla": timing.median / timings["xla"].median if "xla" in timings else None,
                "roofline": floor / timing.median,
            }
            for form, timing in timings.items()
        ]
    return rows


def _prepared(case, arrays, dtype):
    x, kernel, _ = arrays
    options = dict(dtype=dtype, platform=jax.default_backend(), dilation=case.dilation)
    prepared = prepare_kernel(kernel, (case.side, case.side), **options)
    if not prepared:
        return {}
    (form,) = prepared

    def run(x, prepared):
        return prepared_conv2d(x, prepared, kernel.shape, dilation=case.dilation)

    return {f"{form}, prepared": jax_program(run, x, prepared)}


def _torch_programs(name, case, arrays):
    """PyTorch's own convolution, on maps (n, c, h, w) that lie in memory as such, or as (n, h, w, c)."""
    torch, device = torch_and_device()
    if device is None:
        return {}
    x, kernel, g = (
        torch.from_numpy(np.array(array.astype(jnp.float32)))
        .permute(order)
        .contiguous()
        .to(device, getattr(torch, str(arrays[0].dtype)))
        for array, order in zip(arrays, ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)), strict=True)
    )
    padding = case.k // 2 * case.dilation

    def program(layout):
        own_x, own_g = (a.contiguous(memory_format=layout) for a in (x, g))

        def run():
            with torch.set_grad_enabled(name != "forward"):
                if name == "forward":
                    torch.conv2d(own_x, kernel, None, 1, padding, case.dilation, case.c)
                else:
                    torch.ops.aten.convolution_backward(
                        own_g, own_x, kernel, None, (1, 1), (padding,) * 2, (case.dilation,) * 2, False, (0, 0), case.c,
                        (name == "input gradient", name == "kernel gradient", False),
                    )  # fmt: skip

        return torch_program(run, torch, device)

    return {
        "torch": program(torch.contiguous_format),
        "torch, channels last": program(torch.channels_last),
    }


def _floor(case, dtype):
    """Seconds of the direct sum at full speed: every tap that meets the map once, every array through memory once."""
    peak, bandwidth = measured_roofline()
    positions = np.arange(case.side)
    taps = case.dilation * (np.arange(case.k) - case.k // 2)
    valid = np.sum((positions[:, None] + taps >= 0) & (positions[:, None] + taps < case.side))
    flops = 2 * case.n * case.c * float(valid) ** 2
    moved = dtype.itemsize * (2 * case.n * case.c * case.side**2 + case.k**2 * case.c)
    return max(flops / peak, moved / bandwidth)
