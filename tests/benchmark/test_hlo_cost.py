"""Counting kernels, bytes and work in the text of a compiled program."""

import functools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from plugins import need_cuda

from unireplknet_jax.benchmark import gpu_cost, hlo_cost
from unireplknet_jax.nn.block import UniRepLKNetBlock

# As XLA writes it: a cast, a product with a bias and its scratch memory, a map that is turned round and summed, a
# gradient of a convolution, a fusion that takes slices alone, and a loop.
PROGRAM = """HloModule jit_step, is_scheduled=true

%fused_convert (p.0: f32[256,64]) -> bf16[256,64] {
  %p.0 = f32[256,64]{1,0} parameter(0)
  ROOT %convert.0 = bf16[256,64]{1,0} convert(%p.0)
}

%fused_transpose (p.1: bf16[512,256], p.2: f32[256]) -> bf16[256,512] {
  %p.1 = bf16[512,256]{1,0} parameter(0)
  %p.2 = f32[256]{0} parameter(1)
  %convert.1 = f32[512,256]{1,0} convert(%p.1)
  %erf.1 = f32[512,256]{1,0} erf(%convert.1), metadata={op_name="jit(step)/grn/erf"}
  %broadcast.1 = f32[512,256]{1,0} broadcast(%p.2), dimensions={1}
  %multiply.1 = f32[512,256]{1,0} multiply(%erf.1, %broadcast.1), metadata={op_name="jit(step)/grn/mul"}
  %convert.2 = bf16[512,256]{1,0} convert(%multiply.1), metadata={op_name="jit(step)/grn/mul"}
  ROOT %transpose.1 = bf16[256,512]{1,0} transpose(%convert.2), dimensions={1,0}
}

%fused_slices (p.3: f32[1000,8]) -> f32[2,8] {
  %p.3 = f32[1000,8]{1,0} parameter(0)
  %slice.0 = f32[2,8]{1,0} slice(%p.3), slice={[0:2], [0:8]}
  %slice.1 = f32[2,8]{1,0} slice(%p.3), slice={[4:6], [0:8]}
  ROOT %add.0 = f32[2,8]{1,0} add(%slice.0, %slice.1)
}

%body (arg.0: (f32[1024])) -> (f32[1024]) {
  %arg.0 = (f32[1024]{0}) parameter(0)
  %element.0 = f32[1024]{0} get-tuple-element(%arg.0), index=0
  %negate.0 = f32[1024]{0} negate(%element.0)
  ROOT %tuple.0 = (f32[1024]{0}) tuple(%negate.0)
}

ENTRY %main (a: f32[256,64], b: bf16[512,256], c: bf16[64]) -> bf16[256,512] {
  %a = f32[256,64]{1,0} parameter(0), metadata={op_name="a"}
  %b = bf16[512,256]{1,0} parameter(1)
  %c = bf16[64]{0} parameter(2)
  %v = f32[256]{0} parameter(3)
  %x = bf16[8,14,14,32]{3,2,1,0} parameter(4)
  %g = bf16[8,7,7,48]{3,2,1,0} parameter(5)
  %long = f32[1000,8]{1,0} parameter(6)
  %line = (f32[1024]{0}) parameter(7)
  %cast = bf16[256,64]{1,0} fusion(%a), kind=kLoop, calls=%fused_convert, metadata={op_name="jit(step)/pwconv1/cast"}
  %product = (bf16[512,64]{1,0}, s8[4194304]{0}) custom-call(%b, %cast, %c), custom_call_target="__cublas$lt$matmul", \
metadata={op_name="jit(step)/pwconv1/dot_general"}, backend_config={"gemm_backend_config":{"dot_dimension_numbers":\
{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %first = bf16[512,64]{1,0} get-tuple-element(%product), index=0
  %turned = bf16[256,512]{1,0} fusion(%b, %v), kind=kInput, calls=%fused_transpose
  %filter = (bf16[48,3,3,32]{3,2,1,0}, u8[0]{0}) custom-call(%x, %g), window={size=3x3 stride=2x2 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %slices = f32[2,8]{1,0} fusion(%long), kind=kLoop, calls=%fused_slices
  %loop = (f32[1024]{0}) while(%line), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %same = bf16[512,256]{1,0} copy(%b)
  ROOT %other = bf16[512,256]{0,1} copy(%b)
}
"""
CHIP = SimpleNamespace(memory_bandwidth=1e12, flops=1e14, vector_rate=1e13)


@pytest.fixture(scope="module")
def kernels():
    return {kernel.name: kernel for kernel in hlo_cost.kernels(PROGRAM)}


def test_what_computes_is_a_kernel_and_a_loop_runs_its_body_again(kernels):
    assert list(kernels) == ["cast", "product", "turned", "filter", "slices", "negate.0", "same", "other"]
    assert [kernel.times for kernel in kernels.values()] == [1, 1, 1, 1, 1, 5, 1, 1]


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("cast", 256 * 64 * 6),
        ("product", 2 * (512 * 256 + 256 * 64 + 64 + 512 * 64)),  # the scratch memory is none of it
        ("turned", 4 * 512 * 256 + 4 * 256),
        ("filter", 2 * (8 * 196 * 32 + 8 * 49 * 48 + 9 * 32 * 48)),
        ("slices", 3 * 4 * 16),
        ("negate.0", 8 * 1024),
    ],
)
def test_operands_are_read_and_results_written_once(kernels, name, moved):
    assert kernels[name].bytes == moved


def test_products_and_gradients_of_convolutions_are_counted(kernels):
    assert kernels["product"].flops == 2 * 512 * 256 * 64
    assert kernels["filter"].flops == 2 * (8 * 49 * 48) * (9 * 32)
    assert sum(kernel.flops for kernel in kernels.values()) == kernels["product"].flops + kernels["filter"].flops


def test_a_map_is_turned_by_a_transposition_or_a_copy_to_another_order(kernels):
    assert [name for name, kernel in kernels.items() if kernel.turned] == ["turned", "other"]


def test_a_kernel_without_a_name_has_that_of_most_of_its_operations(kernels):
    assert kernels["turned"].source == "jit(step)/grn/mul"
    assert kernels["product"].source == "jit(step)/pwconv1/dot_general"


def test_the_slowest_of_memory_products_vectors_and_launch_counts(kernels):
    chip = SimpleNamespace(**vars(CHIP))
    assert kernels["slices"].seconds(chip) == hlo_cost.KERNEL_SECONDS
    chip.memory_bandwidth = 1e9
    assert kernels["product"].seconds(chip) == kernels["product"].bytes / 1e9
    assert kernels["turned"].seconds(chip) == pytest.approx(kernels["turned"].bytes / 0.3e9)
    chip.memory_bandwidth, chip.flops = 1e20, 1e9
    assert kernels["product"].seconds(chip) == kernels["product"].flops / 1e9
    chip.vector_rate = 1e9
    assert kernels["turned"].seconds(chip) == 512 * 256 * (40 + 3) / 1e9  # erf, two conversions, a product


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no text of a compiled program"):
        hlo_cost.kernels("HloModule nothing")


def test_a_gpu_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"'h1' is no GPU .* expected one of h100"):
        gpu_cost.inference_rows("h1", "unireplknet_a", 1)


def test_without_the_plugin_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=re.escape('pip install "jax[cuda13]==')):
        gpu_cost.inference_rows("h100", "unireplknet_a", 1)


@pytest.fixture(scope="module")
def h100():
    """An H100 to compile for; not here where jax's plugin for CUDA is not installed."""
    need_cuda()
    return gpu_cost.open_gpu("h100")


def block_rows(h100, n, side, c, deploy, kernel_size):
    """{class: row} of a block, merged and prepared, or forward and backward, and the bytes of its map."""
    block, x = (
        UniRepLKNetBlock(kernel_size, deploy=deploy, dtype=jnp.bfloat16),
        jnp.zeros((n, side, side, c), jnp.bfloat16),
    )
    variables = jax.eval_shape(block.init, jax.random.key(0), x)
    if deploy:
        variables = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, x.dtype), variables)

    def both_passes(variables, x, g):
        y, pullback = jax.vjp(
            lambda *arguments: block.apply(*arguments, train=True, mutable=["batch_stats"])[0], variables, x
        )
        return y, pullback(g)

    arguments = (block.apply, variables, x) if deploy else (both_passes, variables, x, x)
    return {row["class"]: row for row in gpu_cost.rows_of("h100", h100, *arguments)}, x.nbytes


@pytest.mark.parametrize(
    ("side", "c", "deploy", "kernel_size", "maps"),
    [
        # convolution 2, SE's sum 1, product 5, GELU and its sum 8, product 6, a copy 2; kernels, 1, take both factors
        (32, 64, True, 3, 25.5),
        # convolution and SE's sum 2, scale 2, product 5, sum 4, GELU and factor 8, product 6, a copy 2, and the kernels
        (8, 128, True, 3, 30.25),
        (32, 64, True, 0, 25),  # SE 3 in place of all that is in front of the product, which takes GRN's factor alone
        (8, 128, True, 0, 30),
        (32, 64, False, 0, 82),  # products 42, GELU and GRN 32, SE 7 and the batch norm 7, less what is fused
    ],
)
def test_compiled_for_an_h100_a_block_turns_no_map_round(h100, side, c, deploy, kernel_size, maps):
    """What no later change may bring back. maps: how often as many bytes as the block's input has are moved."""
    rows, one = block_rows(h100, 256, side, c, deploy, kernel_size)
    assert rows["all"]["turned_bytes"] < 0.1 * one
    assert rows["all"]["bytes"] < maps * one


def test_compiled_for_four_h100s_no_map_is_gathered(h100):
    """A constraint of a layout is nothing that XLA's partitioner can split; each device has its own."""
    from jax.experimental import topologies

    found = topologies.get_topology_desc(platform="cuda", target_config=gpu_cost.GPUS["h100"].target, topology="1x1x4")
    assert found.devices[0].platform == h100.platform
    mesh = Mesh(np.array(found.devices).reshape(2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    block, x = UniRepLKNetBlock(0, dtype=jnp.bfloat16), jax.ShapeDtypeStruct((128, 16, 16, 32), jnp.bfloat16)
    variables = jax.eval_shape(block.init, jax.random.key(0), x)

    def both_passes(variables, x, g):
        forward = functools.partial(block.apply, train=True, mutable=["batch_stats"])
        y, pullback, updates = jax.vjp(forward, variables, x, has_aux=True)
        return y, pullback(g), updates

    shardings = {"in_shardings": (whole, split, split), "out_shardings": (split, (whole, split), whole)}
    with jax.set_mesh(mesh):
        traced = jax.jit(both_passes, **shardings).trace(variables, x, x)
        text = traced.lower(lowering_platforms=("cuda",)).compile(gpu_cost._OPTIONS).as_text()
    assert re.search(r" all-reduce(-start)?\(", text)
    assert not re.search(r" (all-gather|all-to-all|collective-permute)(-start)?\(", text)
