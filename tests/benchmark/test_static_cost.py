"""Counting bundles: loops, nested ones, pipelined ones and those whose turns cannot be read."""

import re

import pytest

from unireplknet_jax.benchmark import static_cost
from unireplknet_jax.benchmark.static_cost import count_cycles


def kernel(*lines):
    """The text of a kernel of these bundles."""
    return "".join(f"  {index:#x}   :  {{ {line} }}\n" for index, line in enumerate(lines))


def loop(bound, region=1, predicate=7, body=()):
    """Three bundles and the body's: region start, comparison, branch back."""
    return (
        f"%s1 = nop /* Start region {region} */",
        *body,
        f"%p{predicate}_p0 = scmp.ge.s32.totalorder %s2, {bound}",
        f"%9 = sbr.rel (!%p{predicate}_p0) target = $region{region}",
    )


def counted(tmp_path, *lines, unknown_turns=1):
    (tmp_path / "1-fusion-03-final_bundles.txt").write_text(kernel(*lines))
    return count_cycles(tmp_path, unknown_turns)


def test_bundles_without_a_loop_count_once(tmp_path):
    assert counted(tmp_path, "%s1 = nop", "%s2 = nop") == (2, 0)


def test_a_loop_counts_as_often_as_it_turns(tmp_path):
    assert counted(tmp_path, "%s1 = nop", *loop(50)) == (1 + 3 * 50, 0)


def test_nested_loops_multiply(tmp_path):
    assert counted(tmp_path, *loop(10, 1, 7, body=loop(5, 2, 8))) == (10 * (3 + 3 * 5), 0)


def test_unknown_turns_are_counted_and_may_be_assumed(tmp_path):
    assert counted(tmp_path, "%s1 = nop", *loop("%s77")) == (1 + 3, 1)
    assert counted(tmp_path, "%s1 = nop", *loop("%s77"), unknown_turns=8) == (1 + 3 * 8, 1)


def test_a_software_pipeline_turns_twice_more_than_its_body(tmp_path):
    body = ("%s5 = sphi 0 /* iteration index, stage = 0 */", "%s6 = nop /* loop exit test */")
    assert counted(tmp_path, *loop(50, body=body)) == (5 * 48, 0)


def test_other_dumps_are_left_out(tmp_path):
    (tmp_path / "1-fusion-02-schedule-analysis_final_bundles.txt").write_text(kernel("%s1 = nop"))
    assert counted(tmp_path, "%s1 = nop") == (1, 0)


def test_a_chip_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"'v9' is no chip .* expected one of v4, v5e, v5p, v6e"):
        static_cost.static_cost("v9", "depthwise")


@pytest.mark.slow
def test_the_compiler_is_asked_in_a_process_of_its_own():
    pytest.importorskip("libtpu")
    rows = static_cost.depthwise_rows("v5e", ["16x7x7x128 k13"])
    assert [(row["pass"], row["form"]) for row in rows] == [
        (name, form) for name in static_cost.depthwise.PASSES for form in ("xla", "auto")
    ]
    for row in rows:
        assert 0 < row["seconds"] <= row["seconds_if_long"]
        assert row["memory_seconds"] == pytest.approx(2 * 16 * 49 * 128 * 2 / 819e9, rel=0.2)
    assert [row["times xla"] for row in rows[::2]] == [1, 1, 1]


@pytest.mark.slow
def test_what_the_compiler_refuses_is_one_sentence():
    pytest.importorskip("libtpu")
    with pytest.raises(
        ValueError, match=re.escape("depthwise nothing forward 1x7x7x8 k3 float32 cannot be counted: ValueError")
    ):
        static_cost.static_cost("v5e", "depthwise", "nothing", "forward", "1x7x7x8 k3", "float32")
