"""The texts are shortened from what libtpu 0.0.42 printed for a training step, and from other compilers' forms."""

import pytest

from unireplknet_jax.train.collectives import count_collectives

GROUPS = "replica_groups=mesh['axis_0'=4,'axis_1'=2]"
REDUCE = "all-reduce(%x, %y), channel_id=2, " + GROUPS + " {'axis_0'}, to_apply=%add"
GATHER = "all-gather(%p), " + GROUPS + ", device_ids=([2,4]T(1,0)) {'axis_0'}, dimensions={0}"
LOOP = f"""HloModule jit_train_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {{
  ROOT %sum = f32[] add(%a, %b)
}}

%condition.1 (param: (s32[], f32[16])) -> pred[] {{
  %limit = s32[]{{:T(128)}} constant(3)
  %param = (s32[]{{:T(128)}}, f32[16]{{0:T(128)}}) parameter(0)
  %counter = s32[]{{:T(128)}} get-tuple-element(%param), index=0
  ROOT %lt.16 = pred[]{{:T(512)}} compare(%counter, %limit), direction=LT, metadata={{op_name="while/cond/lt"}}
}}

%body.1 (param.1: (s32[], f32[16])) -> (s32[], f32[16]) {{
  %all-reduce.5 = (f32[32]{{0:T(128)}}, /*index=1*/bf16[8,16]{{1,0:T(8,128)}}) {REDUCE}
  %get-tuple-element.9 = f32[32]{{0:T(128)}} get-tuple-element(%all-reduce.5), index=0
}}

ENTRY %main.2 (p: f32[16]) -> f32[16] {{
  %while.1 = (s32[], f32[16]) while(%tuple.1), condition=%condition.1, body=%body.1, metadata={{op_name="scan"}}
  %all-gather.7 = f32[4,64]{{1,0:T(8,128)}} {GATHER}
}}
"""


def entry(line):
    return f"ENTRY %main (p: f32[16]) -> f32[16] {{\n  {line}\n}}\n"


def test_a_loop_counts_as_often_as_its_condition_lets_it_run():
    counted = count_collectives(LOOP, devices=8)
    size = 3 * (4 * 32 + 2 * 8 * 16)
    assert counted["all-reduce"] == {"count": 3, "bytes": size, "sent": size * 2 * 3 / 4}
    assert counted["all-gather"] == {"count": 1, "bytes": 4 * 256, "sent": 4 * 256 * 3 / 4}
    assert list(counted) == ["all-reduce", "all-gather"]


def test_a_loop_until_something_happens_counts_once_and_its_condition_too():
    text = LOOP.replace("direction=LT", "direction=NE").replace(
        "  %counter =", "  %all-reduce.6 = u32[] all-reduce(%z), {'axis_0'}\n  %counter ="
    )
    assert count_collectives(text, devices=8)["all-reduce"]["count"] == 2


@pytest.mark.parametrize(
    ("groups", "group"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
        ("replica_groups=[4,2]<=[8]", 2),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", 4),
        ("replica_groups={}", 8),
        ("replica_groups=mesh['a'=2,'b'=3,'c'=5] {'a','c'}", 10),
    ],
)
def test_what_a_device_sends_depends_on_the_size_of_the_group(groups, group):
    text = entry(f"%r = f32[100]{{0}} all-reduce(%p), {groups}, to_apply=%add")
    assert count_collectives(text, devices=8)["all-reduce"]["sent"] == pytest.approx(400 * 2 * (group - 1) / group)


@pytest.mark.parametrize(
    ("line", "kind", "size", "sent"),
    [
        ("%r = f32[25]{0} reduce-scatter(%p), replica_groups=[1,4]<=[4]", "reduce-scatter", 400, 300),
        ("%r = (f32[4]{0}, f32[16]{0}) all-gather-start(%p), replica_groups=[1,4]<=[4]", "all-gather", 64, 48),
        ("%r = f32[16]{0} all-reduce-start(%p), replica_groups=[1,4]<=[4]", "all-reduce", 64, 96),
        ("%r = (bf16[9]{0}, bf16[9]{0}, u32[], u32[]) collective-permute-start(%p)", "collective-permute", 18, 18),
        ("%r = pred[8,5]{1,0} all-to-all(%p), replica_groups=[1,4]<=[4]", "all-to-all", 40, 30),
    ],
)
def test_every_kind_counts_what_it_works_on(line, kind, size, sent):
    assert count_collectives(entry(line), devices=4) == {kind: {"count": 1, "bytes": size, "sent": sent}}


def test_what_only_mentions_a_collective_is_none():
    lines = [
        "%r = f32[16]{0} all-reduce-done(%s)",
        "%all-reduce.1 = f32[16]{0} fusion(%p), kind=kLoop, calls=%all-reduce.2",
        '%r = f32[16]{0} add(%all-gather.1, %p), metadata={op_name="all-reduce(x)"}',
    ]
    assert count_collectives("".join(map(entry, lines)), devices=4) == {}


def test_a_collective_inside_a_call_or_a_branch_is_found():
    body = "%inner (p: f32[4]) -> f32[4] {\n  %r = f32[4]{0} all-reduce(%p), replica_groups=[1,4]<=[4]\n}\n"
    for call in ("call(%p), to_apply=%inner", "conditional(%p), branch_computations={%none, %inner}"):
        text = body + entry(f"%c = f32[4]{{0}} {call}")
        assert count_collectives(text, devices=4)["all-reduce"]["count"] == 1
