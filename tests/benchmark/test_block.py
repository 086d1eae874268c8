"""The training block on a slice of TPUs, compiled ahead of time without one."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from unireplknet_jax.benchmark import block
from unireplknet_jax.train.slices import open_slice


@pytest.mark.slow
def test_a_batch_split_over_v5e_chips_is_not_moved():
    pytest.importorskip("libtpu")
    _, devices = open_slice("v5e:4x4")
    mesh = Mesh(np.array(devices).reshape(8, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    rows, whole = NamedSharding(mesh, PartitionSpec(("data", "fsdp"))), NamedSharding(mesh, PartitionSpec())
    case = block.BlockCase(16 * 32, 14, 128)  # 32 a chip: the matrices' form
    module = block.modules(13, "bfloat16")["block"]
    run = jax.jit(
        block.training_pass(module),
        in_shardings=(whole, whole, rows, rows),
        out_shardings=(rows, whole, (whole, rows)),
    )
    arguments = block.abstract_arguments(module, case, "bfloat16")
    with jax.set_mesh(mesh):
        traced = run.trace(*arguments)
        text = traced.lower(lowering_platforms=("tpu",)).compile().as_text()
    assert "convolution" in text
    assert re.search(r" all-reduce(-start)?\(", text)  # the statistics and the gradients of the parameters
    assert not re.search(r" (all-gather|all-to-all|collective-permute)(-start)?\(", text)
