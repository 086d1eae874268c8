"""`plan` with a made-up compiler: what it concludes, stores and says; and one small program by the real one."""

import json
import re

import jax
import numpy as np
import pytest
from dots import LARGEST, SIZES, Dots
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from unireplknet_jax.cli.train import load_config
from unireplknet_jax.tasks import base
from unireplknet_jax.train import plan as planning
from unireplknet_jax.train.collectives import count_collectives
from unireplknet_jax.train.hardware import TPUS
from unireplknet_jax.train.plan import needed_bytes, plan
from unireplknet_jax.train.recipe import completed
from unireplknet_jax.train.setup import training_flops
from unireplknet_jax.train.sharding import make_mesh

GIB = 2**30
SMALL = (
    "--config.task.options.model.depths=(1,0,0,0)",
    "--config.task.options.model.dims=(8,8,8,8)",
    "--config.task.options.model.kernel_sizes=((3,),(),(),())",
)


@pytest.fixture
def recipe(request):
    """(overrides of the digits recipe, without "--config.") -> its config, of a network that is small to trace."""

    def load(*fields):
        overrides = [f"--config.{field}" for field in ("eval_batch_size=256", "data.train_examples=100000", *fields)]
        return load_config(f"{request.config.rootpath}/configs/small_images.py:digits", [*SMALL, *overrides])

    return load


class Compiler:
    """Needs `fixed` bytes and `each` for an example of a micro-batch on a device; notes the batches it is given.

    An evaluation takes `evaluation` bytes.
    """

    def __init__(self, fixed, each, evaluation):
        self.fixed, self.each, self.evaluation, self.batches = fixed, each, evaluation, []

    def compile(self, compiler, batch_size):
        self.batches.append(batch_size)
        mesh, config = compiler._mesh, compiler._config
        memory = int(self.fixed + self.each * batch_size / mesh.size / config.accumulate)
        collectives = {"all-reduce": {"count": 2, "bytes": 4e9, "sent": 6e9}}
        return {"memory": memory, "memory_of": {"temporaries": memory}, "moved": 819e6, "collectives": collectives}


@pytest.fixture
def made_up(monkeypatch):
    """(fixed, each) -> the Compiler that is in libtpu's place, for 8 devices with the numbers of v5e."""

    def make(fixed, each, evaluation=0):
        fake = Compiler(fixed, each, evaluation)
        monkeypatch.setattr(planning, "open_slice", lambda topology: (TPUS["v5e"], jax.devices()))
        monkeypatch.setattr(planning, "libtpu_version", lambda: "0.0.1")
        monkeypatch.setattr(planning._Compiler, "_compile_step", lambda compiler, size, _: fake.compile(compiler, size))
        monkeypatch.setattr(planning._Compiler, "_compile_evaluation", lambda *_: {"memory": fake.evaluation})
        return fake

    return make


def test_two_compilations_predict_the_largest_batch_and_a_third_confirms_it(made_up, recipe):
    fake = made_up(fixed=3 * GIB, each=GIB / 4)  # (15.75 - 3) * 4 = 51 examples on each of 8 devices; 8 at a time: 48
    report = plan(recipe("batch_size=256", "accumulate=2"), "v5e:2x4")
    assert fake.batches == [256, 128, 48 * 16]
    assert (report["largest_batch"], report["largest_batch_compiled"], report["fits"]) == (768, True, True)
    assert report["memory"] == 3 * GIB + 16 * GIB // 4
    assert (report["devices"], report["examples_per_device"], report["accumulate"]) == (8, 16, 2)
    (note,) = report["notes"]
    assert note.startswith("compiled with low effort: ")


def test_a_batch_that_does_not_fit_is_said_with_the_accumulation_that_would(made_up, recipe):
    fake = made_up(fixed=3 * GIB, each=GIB / 4)
    report = plan(recipe("batch_size=1024", "accumulate=1"), "v5e:2x4", full=True)
    assert fake.batches == [1024, 512, 48 * 8]
    assert not report["fits"]
    (note,) = report["notes"]
    assert note.startswith("it does not fit; --config.accumulate=4 should fit, ")  # 32 examples; 3 does not divide 1024


def test_a_state_that_fills_the_memory_leaves_no_batch(made_up, recipe):
    fake = made_up(fixed=16 * GIB, each=GIB / 4)
    report = plan(recipe("batch_size=64"), "v5e:2x4")
    assert len(fake.batches) == 2
    assert (report["largest_batch"], report["largest_batch_compiled"]) == (0, False)
    assert "no accumulate makes this batch fit" in report["notes"][0]


def test_examples_that_share_statistics_stay_together(made_up, recipe):
    fake = made_up(fixed=3 * GIB, each=GIB)  # 12 examples on a device; groups of 40 on 8 devices: in steps of 5
    report = plan(recipe("batch_size=80", "task.options.model.bn_group=40"), "v5e:2x4")
    assert fake.batches == [80, 40]
    assert (report["largest_batch"], report["largest_batch_compiled"]) == (80, True)
    message = (
        "batch_size=64 is not a multiple of 40: 8 devices x 5 examples, for whole groups of "
        "task.options.model.bn_group; --config.batch_size=80 works."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plan(recipe("batch_size=64", "task.options.model.bn_group=40"), "v5e:2x4")


def test_groups_that_are_torn_over_devices_are_noted(made_up, recipe):
    made_up(fixed=0, each=1)
    fields = ("task.options.model.bn_group=16", "data.train_examples=1000")
    notes = plan(recipe("batch_size=192", *fields), "v5e:2x4")["notes"]
    assert notes[0].startswith(
        "a device has 24 examples and 16 share the statistics of a batch norm (bn_group): neither"
    )
    for batch in ("batch_size=64", "batch_size=256"):
        assert len(plan(recipe(batch, *fields), "v5e:2x4")["notes"]) == 1


def test_a_batch_that_does_not_divide_names_the_accumulation_that_works(made_up, recipe):
    made_up(0, 1)
    message = (
        "batch_size=96 is not a multiple of 64: accumulate=8 x 8 devices; "
        "--config.accumulate=6 or --config.batch_size=128 works."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plan(recipe("batch_size=96", "accumulate=8"), "v5e:2x4")
    with pytest.raises(ValueError, match=r"100 is not a multiple of 8: 8 devices; --config\.batch_size=96 works\.$"):
        plan(recipe("batch_size=100"), "v5e:2x4")


@pytest.mark.parametrize(("batch_size", "works"), [(100, 256), (400, 512), (5, 256)])
def test_a_batch_that_no_accumulation_divides_names_one_that_works(made_up, recipe, batch_size, works):
    made_up(0, 1)
    fields = ("accumulate=8", "task.options.model.bn_group=32")  # of 8 devices, each has 4 of a group
    message = f"batch_size={batch_size} is not a multiple of 256: accumulate=8 x 8 devices x 4 examples, "
    with pytest.raises(ValueError, match=rf"^{message}.*; --config\.batch_size={works} works\.$"):
        plan(recipe(f"batch_size={batch_size}", *fields), "v5e:2x4")
    assert plan(recipe(f"batch_size={works}", *fields), "v5e:2x4")["fits"]


def test_a_slice_that_cannot_be_is_said_before_the_batch(recipe):
    with pytest.raises(ValueError, match=r"there is no slice v5e:3x5"):
        plan(recipe("batch_size=100"), "v5e:3x5")


@pytest.mark.parametrize(("examples", "warmups"), [(100_000, (1000, 0)), (0, (0, 0))])
def test_a_warm_up_in_steps_does_not_bound_the_batches_that_are_tried(recipe, monkeypatch, examples, warmups):
    """The run of the larger batch has 48 steps, and how many it has of unknown data nobody knows."""
    config = recipe(f"data.train_examples={examples}", "epochs=2", "optim.warmup_steps=1000")
    real, found = planning.set_up, []

    class Stopped(Exception):
        """Before anything is compiled."""

    def set_up_alone(*args):
        found.append(int(np.argmax(real(*args).schedule)))
        raise Stopped

    monkeypatch.setattr(planning, "set_up", set_up_alone)
    compiler = planning._Compiler(config, planning.make_task(config), make_mesh(), True, None)
    for batch_size in (64, 4096):
        with pytest.raises(Stopped):
            compiler._compile_step(batch_size, compiler.trained[0])
    assert tuple(found) == tuple(max(steps - 1, 0) for steps in warmups)  # the first step at the full rate


def test_an_evaluation_that_does_not_fit_is_said_apart(made_up, recipe):
    made_up(fixed=3 * GIB, each=GIB / 4, evaluation=16 * GIB)
    report = plan(recipe("batch_size=256", "accumulate=2"), "v5e:2x4", full=True)
    assert (report["fits"], report["memory"], report["largest_batch"]) == (False, 7 * GIB, 768)
    said = "an evaluation does not fit beside the state of the training; "
    assert report["notes"] == [f"{said}an eval_batch_size below 256 takes less."]
    notes = plan(recipe("eval_batch_size=8"), "v5e:2x4", full=True)["notes"]
    assert notes == [f"{said}a larger mesh.fsdp splits the state."]
    assert plan(recipe("data.eval_split="), "v5e:2x4")["fits"]  # without evaluations


@pytest.fixture
def dots(monkeypatch):
    """A recipe of a task whose pictures have several sizes; those of training, too, with (4, 4) among them."""
    monkeypatch.setitem(base.TASKS, "dots", f"{Dots.__module__}:Dots")
    monkeypatch.setattr(Dots, "specs", specs_of_dots)
    data = {"name": "pictures", "train_split": "train", "eval_split": "test", "train_examples": 640}
    recipe = {"task": {"name": "dots"}, "data": data, "batch_size": 32, "eval_batch_size": 20, "epochs": 1}
    return ConfigDict(recipe)


def specs_of_dots(task, train):
    sizes = [(4, 4), (LARGEST, LARGEST), (4, 4)] if train else SIZES
    return tuple(task._spec(size, train) for size in sizes)


class Program:
    """In the place of a compiled one."""

    def __init__(self, lowered):
        shapes = [leaf.shape for leaf in jax.tree.leaves(lowered.in_avals)]
        pictures = max(shapes, key=lambda shape: (len(shape), shape))  # (micro-batches,) n, h, w
        self.pictures, self.argument_size_in_bytes = pictures, 1000 * int(np.prod(pictures))
        self.output_size_in_bytes = self.alias_size_in_bytes = self.temp_size_in_bytes = 0
        self.generated_code_size_in_bytes = 0

    def memory_analysis(self):
        return self

    def as_text(self):
        return ""


def test_every_shape_of_training_and_of_evaluations_is_compiled(monkeypatch, dots, caplog):
    compiled = []
    monkeypatch.setattr(planning, "open_slice", lambda topology: (TPUS["v5e"], jax.devices()))
    monkeypatch.setattr(planning, "libtpu_version", lambda: "0.0.1")
    monkeypatch.setattr(planning, "compile_lowered", lambda *args: compiled.append(Program(args[0])) or compiled[-1])
    caplog.set_level("INFO")
    report = plan(dots, "v5e:2x4")
    assert [program.pictures for program in compiled] == [
        *((1, 32, *size) for size in [(4, 4), (6, 6)]),
        *((24, *size) for size in SIZES),  # 20 examples do not divide over 8 devices
        *((1, batch, 6, 6) for batch in (16, 640)),  # of the step that takes the most
    ]
    assert "compiling the step for batch 640 (7 of at most 7)" in caplog.text
    state = planning._Compiler(completed(dots), base.get_task("dots"), make_mesh(), False, None)._state
    rest = planning._bytes_of(state) - planning._bytes_of({"params": state["params"]})
    assert rest == 2 * 4 * 4 + 3 * 4  # two moments of four numbers; counters of the optimizer and of the run
    assert [(program["what"], program["shapes"]["x"], program["memory"]) for program in report["programs"]] == [
        *(("training", [*size], 1000 * 32 * int(np.prod(size))) for size in [(4, 4), (6, 6)]),
        *(("evaluation", [*size], 1000 * 24 * int(np.prod(size)) + rest) for size in SIZES),
    ]
    assert [program["examples_per_device"] for program in report["programs"]] == [4, 4, 3, 3, 3]
    assert (report["memory"], report["largest_batch"]) == (1000 * 32 * 36, 640)
    assert report["model_flops_per_step"] == 32 * 6 * 36  # one product for each pixel of a training picture


def test_what_would_stop_the_run_later_is_noted(made_up, recipe):
    made_up(0, GIB)
    notes = plan(recipe("batch_size=64", "eval_batch_size=100"), "v4:2x2x1", full=True)["notes"]
    assert notes[0] == "training refuses eval_batch_size=100: no multiple of 8 devices."
    assert notes[1].startswith("a v4 chip counts as two devices")


def test_the_data_set_bounds_the_largest_batch(made_up, recipe):
    fake = made_up(fixed=GIB, each=0)
    report = plan(recipe("batch_size=64", "data.train_examples=1437"), "v5e:2x4")
    assert report["largest_batch"] == 1408 == fake.batches[-1]  # 8 devices x 176; 177 x 8 = 1416 is no multiple of 64


def test_the_bounds_are_peaks_and_the_highest_counts(made_up, recipe):
    made_up(GIB, GIB / 4)
    config = recipe("batch_size=64")
    report = plan(config, "v5e:2x4")
    flops = 64 * training_flops(planning.make_task(config))
    assert report["model_flops_per_step"] == flops == 8 * report["model_flops_per_device"]
    assert report["step_bounds"] == {
        "arithmetic": pytest.approx(flops / 8 / 197e12),
        "memory": pytest.approx(1e-3),  # 819 MB at 819 GB/s
        "links": pytest.approx(0.03),  # 6 GB at 200 GB/s
    }
    assert report["step_seconds_at_least"] == report["step_bounds"]["links"]
    assert report["epochs_per_day_at_most"] == pytest.approx(86400 / (0.03 * (100000 // 64)))


def test_an_interrupted_plan_goes_on_and_a_finished_one_is_known(made_up, recipe, tmp_path, monkeypatch):
    fake = made_up(3 * GIB, GIB / 4)
    whole = plan(recipe("batch_size=256"), "v5e:2x4")
    compile, fake.batches = fake.compile, []

    def interrupted(compiler, batch_size):
        if fake.batches:
            raise KeyboardInterrupt
        return compile(compiler, batch_size)

    monkeypatch.setattr(fake, "compile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plan(recipe("batch_size=256"), "v5e:2x4", cache=tmp_path)
    monkeypatch.setattr(fake, "compile", compile)
    assert plan(recipe("batch_size=256"), "v5e:2x4", cache=tmp_path) == whole
    assert fake.batches == [256, 128, 384]
    assert plan(recipe("batch_size=256"), "v5e:2x4", cache=tmp_path) == whole
    assert len(fake.batches) == 3
    assert json.loads(json.dumps(whole)) == whole


def test_another_recipe_slice_effort_flag_or_compiler_is_compiled_anew(made_up, recipe, tmp_path, monkeypatch):
    fake = made_up(3 * GIB, GIB / 4)
    plan(recipe("batch_size=256"), "v5e:2x4", cache=tmp_path)
    for config, options in (
        (recipe("batch_size=256", "seed=1"), {"topology": "v5e:2x4"}),
        (recipe("batch_size=256"), {"topology": "v5e:4x2"}),
        (recipe("batch_size=256"), {"topology": "v5e:2x4", "full": True}),
    ):
        fake.batches.clear()
        plan(config, cache=tmp_path, **options)
        assert len(fake.batches) == 3
    fake.batches.clear()
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_scoped_vmem_limit_kib=65536")
    plan(recipe("batch_size=256"), "v5e:2x4", cache=tmp_path)
    assert len(fake.batches) == 3
    fake.batches.clear()
    monkeypatch.setattr(planning, "libtpu_version", lambda: "0.0.2")
    plan(recipe("batch_size=256"), "v5e:2x4", cache=tmp_path)
    assert len(fake.batches) == 3


def largest(memory_for, first, limit=100, unit=1, cap=10**6, group=1):
    compiled = []

    def compile(count):
        compiled.append(count)
        return memory_for(count)

    return planning._largest(compile, (first, memory_for(first)), limit, unit, cap, group), compiled


@pytest.mark.parametrize(
    ("memory_for", "first", "options", "expected", "compiled"),
    [
        (lambda n: 20 + 10 * n, 4, {}, (8, True), [2, 8]),
        (lambda n: 20 + 10 * n, 4, {"cap": 5}, (5, True), [2, 5]),
        (lambda n: 20 + 10 * n, 6, {"unit": 3}, (6, True), [3]),
        (lambda n: 20 + 10 * n, 1, {}, (8, True), [2, 8]),
        (lambda n: 20 + 10 * n, 20, {}, (8, True), [10, 8]),
        (lambda n: 50, 4, {"cap": 30}, (24, True), [2, 24]),  # nothing grows
        (lambda n: 200, 4, {"cap": 30}, (0, False), [2, 24]),
        (lambda n: 20 + 10 * n + 30 * (n > 6), 4, {}, (6, False), [2, 8]),  # between 60 for 4 and 130 for 8: 6.3
        (lambda n: 20 + 10 * n + 99 * (n > 6), 4, {"unit": 4}, (4, True), [8]),
        (lambda n: 20 + 10 * n + 400 * (n > 6), 4, {}, (4, True), [2, 8]),  # between 60 for 4 and 500 for 8: 4.4
        (lambda n: 20 + n, 32, {"group": 64, "unit": 4}, (64, True), [16, 64]),  # not 80: XLA would gather the maps
        (lambda n: 20 + n // 4, 32, {"group": 64, "unit": 4}, (320, True), [16, 320]),
    ],
)
def test_the_largest_batch(memory_for, first, options, expected, compiled):
    assert largest(memory_for, first, **options) == (expected, compiled)


def test_the_bytes_of_a_refused_program_are_read_off_the_error():
    """Both texts are libtpu 0.0.42's; the second stops before arguments are placed."""
    placed = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    placed += "Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G. Memory usage report: "
    early = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (24.5M) "
    early += "exceeds available HBM (15.75G)."
    assert needed_bytes(RuntimeError(placed), arguments=7) == 20.5 * GIB
    assert needed_bytes(RuntimeError(early), arguments=7) == 24.5 * 2**20 + 7
    for other in ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem.", "INTERNAL: Used 1G of 2G"):
        with pytest.raises(RuntimeError, match=re.escape(other)):
            needed_bytes(RuntimeError(other), arguments=7)


def test_the_bytes_on_one_device_follow_the_sharding():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), devices=jax.devices())
    split = jax.sharding.NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    whole = jax.sharding.NamedSharding(mesh, PartitionSpec())
    tree = [
        jax.ShapeDtypeStruct((16, 3), np.float32, sharding=split),
        jax.ShapeDtypeStruct((5,), np.uint8, sharding=whole),
    ]
    assert planning._bytes_of(tree) == 2 * 3 * 4 + 5


@pytest.mark.slow  # all but the compiler itself is tested above
def test_libtpu_compiles_the_step_of_a_small_recipe(recipe, monkeypatch):
    pytest.importorskip("libtpu")
    texts = []
    monkeypatch.setattr(planning, "_largest", lambda memory_for, first, *_: (first[0], True))
    monkeypatch.setattr(planning, "count_collectives", lambda *args: texts.append(args[0]) or count_collectives(*args))
    report = plan(recipe("batch_size=64", "accumulate=2"), "v5e:2x2")
    assert report["fits"]
    assert report["memory"] == sum(report["memory_of"].values())
    assert 10_000 < report["memory_of"]["arguments"] < report["memory"] < GIB
    assert 0 < report["memory_of"]["results"] < 10_000  # the new state lies where the old one was
    assert "feature_group_count=8" in texts[0]  # XLA's depthwise convolution, as on a TPU: a CPU's form has none
    gradients = report["collectives"]["all-reduce"]
    assert gradients["count"] >= 2  # at least one of each micro-batch
    assert gradients["count"] % 2 == 0
    assert gradients["sent"] == pytest.approx(1.5 * gradients["bytes"])  # four devices


@pytest.mark.slow
def test_libtpu_refuses_a_batch_that_is_too_large(recipe):
    pytest.importorskip("libtpu")
    fields = ("batch_size=4194304", "data.train_examples=10000000")
    report = plan(recipe(*fields), "v5e:2x2")
    assert not report["fits"]
    assert 0 < report["largest_batch"] < 4194304
