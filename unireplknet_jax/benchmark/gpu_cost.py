"""What whole networks cost on a GPU, counted in programs that are compiled for it on a machine without one."""

import collections
import importlib.metadata
import importlib.util
import re
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import SingleDeviceSharding

from unireplknet_jax.benchmark import hlo_cost
from unireplknet_jax.benchmark.network import training_step
from unireplknet_jax.models.prepare import prepare
from unireplknet_jax.models.program import announced, compile_lowered
from unireplknet_jax.models.reparameterize import reparameterize
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.models.variants import create_model


class Gpu(NamedTuple):
    """What a GPU reaches: bytes/s, bfloat16 FLOP/s and instructions/s of all vector units; XLA's description of it."""

    memory_bandwidth: float
    flops: float
    vector_rate: float
    target: str


# The limits of compute capability 9.0 (CUDA C++ Programming Guide, "Compute Capabilities") and NVIDIA's data sheet.
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  device_memory_size: 84942979072
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# Nine tenths of the memory's bandwidth and half of the tensor cores' peak; 132 cores of 128 lanes at 1.755 GHz.
GPUS = {"h100": Gpu(3.0e12, 480e12, 132 * 128 * 1.755e9, _H100)}
# Without a device the other generator of products finds no configuration; they are calls of cuBLAS instead. The rest
# saves a part of the time for machine code, which nobody runs.
_OPTIONS = {
    "xla_gpu_enable_triton_gemm": False,
    "xla_backend_optimization_level": 0,
    "xla_gpu_disable_gpuasm_optimizations": True,
}
# What a kernel belongs to, by the operation of the model that it comes from: the first expression that is found.
_CLASSES = (
    ("SE", r"/se/|jit\(linear_of_excited\).*/(add|mul|convert_element_type)"),
    ("GRN", r"/grn/|jit\(gelu\)"),
    ("norms", r"bn_?\w*/|/norm\d?/|/norm\d?\b"),
    ("depthwise", r"/dwconv\b"),
    ("products", r"/pwconv\d/|/head/"),
    ("downsamplers", r"/downsample_layers_\d/"),
)


def open_gpu(chip):
    """A device to compile for. ImportError without jax's plugin for CUDA, ValueError for an unknown chip."""
    if chip not in GPUS:
        raise ValueError(f"{chip!r} is no GPU whose cost can be counted; expected one of {', '.join(GPUS)}.")
    plugin_version()
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform="cuda", target_config=GPUS[chip].target, topology="1x1x1")
    except Exception as error:  # the plugin refuses in several ways
        raise ValueError(f"jax's plugin for CUDA cannot compile for {chip} ({str(error).splitlines()[0]}).") from error
    return found.devices[0]


def plugin_version():
    """{name: version} of jax's plugin for CUDA; ImportError, with the command that installs it, where there is none."""
    for name in ("jax_cuda13_plugin", "jax_cuda12_plugin"):
        if importlib.util.find_spec(name):
            return {name: importlib.metadata.version(name)}
    raise ImportError(
        "this needs jax's plugin for CUDA, the compiler for NVIDIA's GPUs, which runs without one: "
        f'pip install "jax[cuda13]=={jax.__version__}".'
    )


def compile_for(device, function, *arguments):
    """A function compiled for a device that need not be there; arguments: trees of arrays or of their shapes."""
    one = SingleDeviceSharding(device)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one), arguments)
    lowered = jax.jit(function, out_shardings=one).trace(*shapes).lower(lowering_platforms=("cuda",))
    with announced("compiling a program to count"):
        return compile_lowered(lowered, _OPTIONS)


def inference_rows(chip, name, batch, size=224, dtype="bfloat16", **options):
    """Rows of `rows_of` of the merged and of the prepared model on (batch, size, size, 3); options: of the model."""
    device, dtype = open_gpu(chip), jnp.dtype(dtype)
    model = create_model(name, dtype=dtype, **options)
    images = jax.ShapeDtypeStruct((batch, size, size, model.in_chans), jnp.float32)
    merged = jax.eval_shape(reparameterize, abstract_variables(model))
    prepared = jax.eval_shape(lambda tree: prepare(tree, size, "cuda", dtype), merged)
    apply = model.clone(deploy=True).apply
    return [
        {"model": name, "batch": batch, "form": form, **row}
        for form, tree in {"merged": merged, "prepared": prepared}.items()
        for row in rows_of(chip, device, apply, tree, images)
    ]


def training_rows(chip, name, batch, size=224, dtype="bfloat16", **options):
    """Rows of `rows_of` of a step: forward, backward, AdamW."""
    device = open_gpu(chip)
    model = create_model(name, dtype=jnp.dtype(dtype), **options)
    variables, optimizer = abstract_variables(model), optax.adamw(1e-3)
    state = variables, jax.eval_shape(optimizer.init, variables["params"])
    images = jax.ShapeDtypeStruct((batch, size, size, model.in_chans), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    step = training_step(model.apply, optimizer)
    rows = rows_of(chip, device, step, state, images, labels)
    return [{"model": name, "batch": batch, "form": "training", **row} for row in rows]


def rows_of(chip, device, function, *arguments):
    """Rows {"class", "kernels", "bytes", "turned_bytes", "flops", "seconds"}, the dearest class first, "all" last.

    turned_bytes: of the kernels that turn a map round. The last row has "compile_seconds" and "temporary_bytes", too.
    """
    began = time.monotonic()
    compiled = compile_for(device, function, *arguments)
    seconds = time.monotonic() - began
    sums = collections.defaultdict(collections.Counter)
    for kernel in hlo_cost.kernels(compiled.as_text()):
        own = kernel.seconds(GPUS[chip])
        numbers = {
            "kernels": 1,
            "bytes": kernel.bytes,
            "turned_bytes": kernel.bytes * kernel.turned,
            "flops": kernel.flops,
            "seconds": own,
        }
        for name in (_class(kernel, own), "all"):
            sums[name].update({key: value * kernel.times for key, value in numbers.items()})
    whole = sums.pop("all")
    memory = compiled.memory_analysis().temp_size_in_bytes
    rows = sorted(sums.items(), key=lambda item: -item[1]["seconds"])
    last = {"class": "all", **whole, "compile_seconds": seconds, "temporary_bytes": memory}
    return [*({"class": name, **numbers} for name, numbers in rows), last]


def _class(kernel, seconds):
    if seconds <= hlo_cost.KERNEL_SECONDS:
        return "small kernels"
    return next((name for name, words in _CLASSES if re.search(words, kernel.source)), "others")
