"""Whole networks counted by parts: which parts, which class an instruction is of, what the sums are."""

import jax
import jax.numpy as jnp
import pytest

from unireplknet_jax.benchmark import static_cost, static_network
from unireplknet_jax.benchmark.static_network import classify, network_rows, parts_of, times_floor
from unireplknet_jax.models.variants import create_model


def test_the_parts_of_t_are_its_stages_and_what_is_between_them():
    assert [(part.name, part.times, part.map) for part in parts_of("unireplknet_t")] == [
        ("stem 0", 1, (224, 224, 3)),
        ("block 0 k3", 3, (56, 56, 80)),
        ("downsample 1", 1, (56, 56, 80)),
        ("block 1 k13", 3, (28, 28, 160)),
        ("downsample 2", 1, (28, 28, 160)),
        ("block 2 k13", 9, (14, 14, 320)),
        ("block 2 k3", 9, (14, 14, 320)),
        ("downsample 3", 1, (14, 14, 320)),
        ("block 3 k13", 3, (7, 7, 640)),
        ("head", 1, (7, 7, 640)),
    ]


@pytest.mark.parametrize("kind", ["model", "train"])
def test_every_part_has_a_program(kind):
    for part in parts_of("unireplknet_a", 64, deploy=kind == "model"):
        function, shapes = static_network.part_program(kind, "unireplknet_a", part.name, 2, 64, "bfloat16")
        assert callable(function)
        x = shapes[-1 if kind == "model" else -2]
        assert x.shape == (2, *part.map)
    assert sum(part.times for part in parts_of("unireplknet_a")) == sum(create_model("unireplknet_a").depths) + 5


def test_the_head_for_pixels_takes_all_maps():
    part = parts_of("unireplknet_a", 64, task="segmentation")[-1]
    assert part.map == ((16, 16, 40), (8, 8, 80), (4, 4, 160), (2, 2, 320))
    function, shapes = static_network.part_program(
        "model", "unireplknet_a", part.name, 2, 64, "bfloat16", "segmentation"
    )
    logits = jax.eval_shape(function, *shapes)
    assert (logits.shape, logits.dtype) == ((2, 16, 16, 150), jnp.float32)


PROGRAM = """
%fused_computation (a: bf16[8]) -> bf16[8] {
  ROOT %convert.1 = bf16[8]{0} convert(%a)
}
ENTRY %main (x: bf16[8,8], w: bf16[8,8]) -> bf16[8,8] {
  %x = bf16[8,8]{1,0} parameter(0)
  %fusion.1 = bf16[8,8]{1,0} fusion(%x), kind=kLoop, calls=%fused_computation
  %copy.1 = bf16[8,8]{0,1} copy(%fusion.1), metadata={op_name="jit(f)/dwconv/jit(_convolve)/reshape"}
  %fusion.2 = bf16[8,8]{1,0} fusion(%copy.1), kind=kOutput, metadata={op_name="jit(f)/jit(_convolve)/dot_general"}
  %reduce.1 = bf16[8,8]{1,0} fusion(%fusion.2), kind=kLoop, metadata={op_name="jit(f)/dwconv/origin_bn/reduce_sum"}
  %copy_bitcast_fusion = bf16[8,8]{0,1} fusion(%reduce.1), kind=kLoop, metadata={op_name="jit(f)/transpose"}
  ROOT %fusion.3 = bf16[8,8]{1,0} fusion(%copy_bitcast_fusion), kind=kOutput, metadata={op_name="a._convolve/dot"}
}
"""


def test_instructions_are_told_apart_by_what_they_do():
    kinds = classify(PROGRAM)
    expected = {"copy.1": "layout copies", "copy_bitcast_fusion": "layout copies", "fusion.2": "depthwise"}
    expected |= {"reduce.1": "norms", "fusion.3": "products"}
    expected["fusion.1"] = "depthwise"  # it has no name of its own, and is made for the convolution
    assert {name: kinds[name] for name in expected} == expected


def test_units_are_counted_with_the_turns_of_their_loops(tmp_path):
    bundles = [
        "%s1 = nop /* Start region 1 */",
        "%1 = vmatmul.bf16.gmra.mxu0 %2  ;;  %3 = vmatmul.lmr.bf16.gmra.16.mxu1 %2",
        "%p7_p0 = scmp.ge.s32.totalorder %s2, 10",
        "%9 = sbr.rel (!%p7_p0) target = $region1",
    ]
    text = "".join(f"  {index:#x}   :  {{ {line} }}\n" for index, line in enumerate(bundles))
    (tmp_path / "17-fusion.3-03-final_bundles.txt").write_text(text)
    use = "== CAPACITY:\nMXU, VALU, VPOP\n    4     4     2\n== UTILIZATION:\n0 2 1\n4 0 0\n0 0 0\n0 1 0\n"
    (tmp_path / "17-fusion.3-01-final_hlo-static-per-bundle-utilization.txt").write_text(use)
    assert static_cost.count_work(tmp_path, 1) == {"fusion.3": (4 * 10, (16 + 8) / 4 * 10, 3 / 4 * 10)}


def test_the_sums_count_every_part_as_often_as_the_network_has_it(monkeypatch):
    units = {"seconds": 1.0, "seconds_if_long": 2.0, "matrix_seconds": 0.5, "vector_seconds": 0.25}
    none = dict.fromkeys(units, 0.0)

    def counted(chip, module, kind, name, part, *arguments):
        classes = dict.fromkeys(static_network.CLASSES, none) | {"products": units}
        whole = {"seconds": 1.0, "seconds_if_long": 2.0, "memory_seconds": 0.8, "scratch_bytes": 5}
        return {**whole, "compile_seconds": 1.0, "classes": classes}

    monkeypatch.setattr(static_network, "cost_in_process", counted)
    rows = network_rows("v5e", "unireplknet_t", only="block 2")
    assert [(row["part"], row["class"]) for row in rows[:2]] == [("block 2 k13", "all"), ("block 2 k13", "depthwise")]
    assert times_floor(rows[0]) == 2.0 / 0.8
    assert times_floor(rows[1]) is None
    sums = {row["class"]: row for row in rows if row["part"] == "all"}
    assert sums["all"]["seconds_if_long"] == sums["products"]["seconds_if_long"] == 2.0 * 18
    assert sums["all"]["memory_seconds"] == pytest.approx(0.8 * 18)
    assert sums["depthwise"]["matrix_seconds"] == 0


def test_a_chip_whose_units_are_not_known_is_refused():
    with pytest.raises(ValueError, match="'v4' is no chip that a whole network can be counted for; expected v5e"):
        network_rows("v4", "unireplknet_t")


@pytest.mark.slow
def test_a_part_is_counted():
    pytest.importorskip("libtpu")
    rows = network_rows("v5e", "unireplknet_a", 32, 64, only="block 2 k13")
    found = {row["class"]: row for row in rows if row["part"] != "all"}
    assert set(found) == {"all", *static_network.CLASSES}
    parts = sum(found[name]["seconds_if_long"] for name in static_network.CLASSES)
    assert parts == pytest.approx(found["all"]["seconds_if_long"])
    assert found["products"]["matrix_seconds"] > 0
