"""What `export` writes gives what its checkpoint gives, in every runtime, and is refused where it does not."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from small_tasks import FILES, make_checkpoint, make_task, with_lists, write_files

import unireplknet_jax as urk
from unireplknet_jax.ops.batch import SMALL
from unireplknet_jax.ops.layers import LAYER_NORM_EPS
from unireplknet_jax.ops.response_norm import GRN_EPS
from unireplknet_jax.tasks import artefact, export
from unireplknet_jax.tasks.predict import predictor, with_views

# Rounding of float32: logits of standard deviation 1 differ by 1e-6 to 3e-6 between runtimes.
TOLERANCE = 1e-5
ENDINGS = {name: form.suffix for name, form in artefact.FORMATS.items()}
# Of a runtime that is an extra of its own, and of tasks whose networks compile for long, in full runs alone.
RUNTIMES = [
    "onnx",
    pytest.param("openvino", marks=pytest.mark.slow),
    pytest.param("litert", marks=pytest.mark.slow),
]
EVERY_TASK = [name if name == "classification" else pytest.param(name, marks=pytest.mark.slow) for name in FILES]
pytestmark = pytest.mark.usefixtures("quick_compilation")


def exported(folder, form, checkpoint, **options):
    """What is opened of a checkpoint that was exported; skips where its runtime is not installed."""
    for library in (*artefact.FORMATS[form].writing, *artefact.FORMATS[form].running):
        pytest.importorskip(library)
    path = folder / f"it{ENDINGS[form]}"
    found = export.export(checkpoint, path, **options)
    return urk.open_checkpoint(path), found


@pytest.mark.parametrize("name", EVERY_TASK)
def test_stablehlo_gives_the_records_of_every_task(name, tmp_path):
    checkpoint = make_checkpoint(name)
    opened, found = exported(tmp_path, "stablehlo", checkpoint)
    assert (found.format, found.runtime) == ("stablehlo", f"jax {jax.__version__}")
    assert found.difference <= TOLERANCE
    assert found.kept in (1.0, None)
    assert opened.task == checkpoint.task
    assert opened.merged
    with np.load(tmp_path / "it.stablehlo") as file:
        assert jax.export.deserialize(bytearray(file["program_0"])).platforms == ("cpu", "cuda", "tpu")
    files = write_files(tmp_path, name)
    expected, theirs = (with_lists(urk.predict(each, files)) for each in (checkpoint, opened))
    assert_alike(theirs, expected)


def assert_alike(found, expected):
    """The same but for rounding, of nested lists and mappings."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        found, expected = found.values(), expected.values()
    if isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)
    elif isinstance(expected, str | int | None):
        assert found == expected
    else:
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other)


def test_a_canvas_is_as_high_and_wide_as_the_task_has_it():
    pytest.importorskip("onnx")
    from unireplknet_jax.tasks.onnx_file import canvas_of

    assert canvas_of(make_task("segmentation", buckets=((32, 64),))) == (32, 64)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_pictures_of_several_sizes_lie_in_one_canvas(form, tmp_path):
    checkpoint = make_checkpoint("segmentation")
    opened, found = exported(tmp_path, form, checkpoint, image_size=64)
    assert found.difference <= TOLERANCE
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((40, 64), (64, 33), (100, 90))]
    on_canvas = dataclasses.replace(checkpoint, task=opened.task).in_merged_form()
    examples = [  # what is beyond a picture, noise here, must not matter
        {"image_0": rng.integers(0, 256, (1, 64, 64, 3), np.uint8), "size_0": np.array([size], np.int32)}
        for size in ((40, 64), (64, 33), (37, 23), (1, 2))
    ]
    assert export.compare(on_canvas, opened.runtime, examples)[0] <= TOLERANCE
    for (ours,), (theirs,) in zip(*(urk.predict(each, pictures) for each in (on_canvas, opened)), strict=True):
        assert np.mean(ours["class_map"] == theirs["class_map"]) >= 0.999  # two classes may be as likely


@pytest.mark.parametrize("form", RUNTIMES)
def test_one_file_takes_any_number_of_pictures(form, tmp_path):
    checkpoint = make_checkpoint("classification")
    opened, found = exported(tmp_path, form, checkpoint)
    assert found.difference <= TOLERANCE
    assert found.kept == 1
    assert found.size == sum(file.stat().st_size for file in tmp_path.iterdir())
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    expected = predictor(checkpoint.in_merged_form())([{"image": one} for one in pixels])
    for count in (1, 2, 8):
        theirs = opened.runtime({"image": pixels[:count]})
        for name in ("logits", "scores"):
            ours = np.stack([one[name] for one in expected[:count]])
            np.testing.assert_allclose(theirs[name], ours, rtol=0, atol=TOLERANCE * max(1, np.std(ours)))


@pytest.mark.slow
def test_a_last_map_of_one_position_is_no_trouble(tmp_path):
    model = dict(make_checkpoint("classification").task.model) | {
        "depths": (0, 0, 0, 1),
        "kernel_sizes": ((),) * 3 + ((3,),),
    }
    opened, found = exported(tmp_path, "litert", make_checkpoint("classification", model=model))
    assert (found.difference <= TOLERANCE, found.kept) == (True, 1)
    assert opened.runtime({"image": np.zeros((3, 32, 32, 3), np.uint8)})["logits"].shape == (3, 6)


@pytest.mark.parametrize(
    "form",
    [pytest.param("stablehlo", marks=pytest.mark.slow), "onnx", pytest.param("openvino", marks=pytest.mark.slow)],
)
def test_half_of_the_size_is_half_of_the_digits(form, tmp_path):
    model = {"depths": (1, 1, 0, 0), "dims": (32, 64, 32, 32), "kernel_sizes": ((13,), (7,), (), ()), "num_classes": 6}
    checkpoint = make_checkpoint("classification", model=model)
    opened, found = exported(tmp_path, form, checkpoint, half=True)
    assert 1e-5 < found.difference <= 1e-2
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(checkpoint.in_merged_form().variables))
    assert weights / 2 < found.size < weights / 2 + 250_000  # the program, or the description
    assert opened.task == checkpoint.task
    for value in stored(tmp_path, form) if form != "openvino" else ():
        assert value.dtype == (np.float16 if value.size >= SMALL else np.float32)


def stored(folder, form):
    """The weights and constants in a file, those of float32 and float16."""
    if form == "onnx":
        import onnx

        values = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(folder / "it.onnx").graph.initializer]
    else:
        with np.load(folder / "it.stablehlo") as file:
            values = [file[name] for name in json.loads(file["card.json"])["weights"]]
    return [value for value in values if value.dtype.kind == "f"]


def test_a_graph_has_a_convolution_for_each_kernel_and_turns_no_map(tmp_path):
    onnx = pytest.importorskip("onnx")
    checkpoint = make_checkpoint("classification")
    exported(tmp_path, "onnx", checkpoint, batch=2, opset=21)
    model = onnx.load(tmp_path / "it.onnx")
    onnx.checker.check_model(model, full_check=True)
    nodes = [node.op_type for node in model.graph.node]
    assert nodes.count("Conv") == 5 + 2 * 5  # stem and downsamplers; depthwise, two of SE and two pointwise in a block
    assert nodes.count("Gelu") == 1 + 2
    assert "Transpose" not in nodes
    numbers = {value.item() for value in stored(tmp_path, "onnx") if value.size == 1}
    assert numbers == {255, 1, float(np.float32(LAYER_NORM_EPS)), float(np.float32(GRN_EPS))}  # too small to be felt
    assert model.opset_import[0].version == 21
    assert [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim] == [2, 3, 32, 32]


def test_the_card_says_what_a_stranger_needs(tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    labels = tuple("abcdef")
    checkpoint = dataclasses.replace(
        make_checkpoint("classification", labels=labels, mean=(0.1, 0.2, 0.3), image_size=64),
        data={"name": "folder", "dir": "/home/me/flowers", "eval_split": "val"},
        source="a.pth",
    )
    exported(tmp_path, "onnx", checkpoint)
    session = onnxruntime.InferenceSession(tmp_path / "it.onnx")
    text = session.get_modelmeta().custom_metadata_map["unireplknet_jax"]
    card = json.loads(text)
    assert (card["task"], card["labels"], card["source"]) == ("classification", [*labels], "a.pth")
    assert card["preprocessing"]["mean"] == [0.1, 0.2, 0.3]
    assert (card["preprocessing"]["image_size"], card["preprocessing"]["resize"]) == (64, "crop")
    assert card["data"] == {"name": "folder", "eval_split": "val"}
    assert "/home/me" not in text


def test_it_is_compared_on_the_data_of_the_checkpoint_where_these_are_there(tmp_path):
    model = make_checkpoint("classification").task.model
    checkpoint = make_checkpoint("classification", model={**dict(model), "num_classes": 10})
    checkpoint = dataclasses.replace(checkpoint, data={"name": "digits", "eval_split": "test"})
    assert export._examples(checkpoint)[1] == "8 examples of digits, test"
    elsewhere = dataclasses.replace(checkpoint, data={"name": "folder", "dir": "/nowhere", "eval_split": "val"})
    assert export._examples(elsewhere)[1] == "8 made-up examples"


def test_other_numbers_are_refused_and_nothing_is_left(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from unireplknet_jax.tasks import onnx_graph

    monkeypatch.setattr(onnx_graph, "LAYER_NORM_EPS", 1e-4)  # a difference that only halves of digits would excuse
    with pytest.raises(ValueError, match=r"differs by .* which exceeds 5e-05; nothing was written\.$"):
        export.export(make_checkpoint("classification"), tmp_path / "it.onnx")
    assert os.listdir(tmp_path) == []


def test_probabilities_are_compared_as_they_are_and_boxes_by_their_spread():
    boxes, masks = np.array([[0, 200.0]], np.float32), np.array([[0.4, 0.41]], np.float32)
    units = export._units([{"boxes_0": boxes, "masks_0": masks, "scores_0": masks, "labels_0": np.arange(2)}])
    assert units == {"boxes_0": 100, "masks_0": 1, "scores_0": 1}


def test_the_share_of_classes_that_stay_is_counted():
    checkpoint = make_checkpoint("classification").in_merged_form()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    examples = [{"image": one} for one in pixels]
    logits = np.stack([one["logits"] for one in predictor(checkpoint)(examples)])
    scores = np.stack([one["scores"] for one in predictor(checkpoint)(examples)])
    logits[1, np.argmin(logits[1])] = np.max(logits[1]) + 1
    runtime = artefact.Runtime(
        "made up", lambda _: {"logits": logits, "scores": scores}, [{"image": pixels.shape[1:]}], None
    )
    difference, kept = export.compare(checkpoint, runtime, examples)
    assert difference > 0.5
    assert kept == 0.75


def test_no_file_gives_way_unasked(tmp_path):
    for name in ("it.stablehlo", "other.bin"):
        (tmp_path / name).write_text("mine")
    checkpoint = make_checkpoint("classification")
    with pytest.raises(FileExistsError, match=r"it\.stablehlo exists already; remove it"):
        export.export(checkpoint, tmp_path / "it.stablehlo")
    with pytest.raises(FileExistsError, match=r"other\.bin exists already; remove it"):
        export.check_destination(tmp_path / "other.xml", "openvino")
    assert (tmp_path / "it.stablehlo").read_text() == "mine"


def test_what_is_not_finite_is_refused(tmp_path):
    checkpoint = make_checkpoint("classification")
    checkpoint.variables["params"]["head"]["bias"][0] = np.nan
    with pytest.raises(ValueError, match="differs by nan"):
        export.export(checkpoint, tmp_path / "it.stablehlo")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "ending", "options", "match"),
    [
        ("classification", ".h5", {}, r"it\.h5 names no format; end it in one of \.stablehlo \(stablehlo\), \.onnx"),
        ("classification", ".onnx", {"format": "openvino"}, r"does not end in \.xml, as files of the format openvino"),
        ("classification", ".onnx", {"format": "tensorrt"}, r"format 'tensorrt' is unknown; expected one of stablehlo"),
        ("audio", ".onnx", {}, "the format onnx is for classification and segmentation, not for audio; give "),
        ("classification", ".stablehlo", {"opset": 20}, "the format stablehlo has no --opset, which is for onnx"),
        ("classification", ".onnx", {"opset": 17}, r"--opset is 17; expected 20, the first that has Gelu, to \d+"),
        ("classification", ".onnx", {"image_size": 40}, "--image-size is 40; expected a multiple of 32"),
        ("audio", ".stablehlo", {"image_size": 64}, "the task audio has no image size to change"),
        (
            "classification",
            ".stablehlo",
            {"batch": 2},
            "the format stablehlo has no --batch, which is for onnx, openvino",
        ),
        ("classification", ".onnx", {"batch": 0}, "--batch is 0; expected 1 or more"),
        ("segmentation", ".onnx", {"image_size": 32, "batch": 2}, "for masks a graph takes any number of windows"),
        ("segmentation", ".onnx", {}, "a graph takes pictures of one size, and this checkpoint has 2 canvases"),
    ],
)
def test_what_a_format_cannot_do_is_a_sentence(name, ending, options, match, tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(ValueError, match=match) as raised:
        export.export(make_checkpoint(name), tmp_path / f"it{ending}", **options)
    assert str(raised.value).count(". ") == 0
    assert os.listdir(tmp_path) == []


def test_a_network_without_classifier_cannot_be_exported(tmp_path):
    model = {**dict(make_checkpoint("classification").task.model), "num_classes": None}
    with pytest.raises(ValueError, match="this checkpoint has no classifier"):
        export.export(make_checkpoint("classification", model=model), tmp_path / "it.stablehlo")


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"the format onnx needs onnx, .*: pip install 'unireplknet_jax\[export\]'"):
        export.export(make_checkpoint("classification"), tmp_path / "it.onnx")
    with pytest.raises(ValueError, match="the format onnx is for classification and segmentation, not for audio"):
        export.export(make_checkpoint("audio"), tmp_path / "it.onnx")  # which no library would help


@pytest.mark.parametrize("merged", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_form_and_the_type_of_a_checkpoint_do_not_matter(merged, tmp_path):
    checkpoint = make_checkpoint("classification")
    checkpoint = checkpoint.in_merged_form() if merged else checkpoint
    coarse = jax.tree.map(lambda leaf: np.asarray(jnp.asarray(leaf, jnp.bfloat16)), checkpoint.variables)
    wide = dataclasses.replace(checkpoint, variables=jax.tree.map(lambda leaf: leaf.astype(np.float32), coarse))
    narrow = {**dict(checkpoint.task.model), "dtype": "bfloat16"}
    checkpoint = dataclasses.replace(
        checkpoint, variables=coarse, task=dataclasses.replace(checkpoint.task, model=narrow)
    )
    opened, found = exported(tmp_path, "stablehlo", checkpoint)
    assert found.difference <= TOLERANCE
    examples = [{"image": np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)}]
    assert export.compare(wide.in_merged_form(), opened.runtime, examples)[0] <= TOLERANCE
    assert "dtype" not in opened.task.options["model"]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("exported") / "it.onnx"
    export.export(make_checkpoint("classification"), path, batch=2)
    return urk.open_checkpoint(path)


def test_an_artefact_takes_inputs_as_it_was_exported(opened, tmp_path):
    with pytest.raises(ValueError, match=r"takes images as it was exported; leave out --image-size"):
        urk.tasks.predict.with_image_size(opened, opened.path, 64)
    with pytest.raises(ValueError, match="the task classification has no option mirror"):
        with_views(opened, {"mirror": True})
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    found = opened.runtime({"image": pixels})  # of two at a time
    assert found["logits"].shape == (5, 6)
    last = opened.runtime({"image": pixels[3:]})["logits"][1]
    np.testing.assert_allclose(found["logits"][4], last, rtol=0, atol=TOLERANCE)
    with pytest.raises(ValueError, match="takes image 32 x 32 x 3, and not image 64 x 64 x 3; export it for that"):
        opened.runtime({"image": np.zeros((2, 64, 64, 3), np.uint8)})


def test_what_needs_weights_refuses_an_artefact(opened, tmp_path):
    why = "is what `unireplknet export` wrote, which can predict and be evaluated"
    for use in (
        lambda: urk.embed(opened, [np.zeros((32, 32, 3), np.uint8)]),
        lambda: urk.load_checkpoint(opened.path),
        lambda: urk.export(opened, tmp_path / "again.stablehlo"),
    ):
        with pytest.raises(ValueError, match=why):
            use()
    with pytest.raises(ValueError, match="cannot be changed: open it as it is"):
        urk.open_checkpoint(opened.path, num_classes=3)


@pytest.mark.parametrize("ending", [".onnx", ".tflite", ".stablehlo"])
def test_a_damaged_file_is_a_sentence(ending, tmp_path):
    path = tmp_path / f"it{ending}"
    if ending == ".stablehlo":
        import zipfile

        with zipfile.ZipFile(path, "w") as file:
            file.writestr("card.json", '{"weights": ["a"]}')
    else:
        path.write_bytes(b"\x1c\0\0\0TFL3 and no more")
    form = artefact.format_of(path)
    for library in artefact.FORMATS[form].running:
        pytest.importorskip(library)
    with pytest.raises(ValueError, match=r"cannot be read as \w+: .*; export it again\.$"):
        urk.open_checkpoint(path)


def test_a_part_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(artefact, "module_of", lambda *_: None)  # nothing of the library is needed to see that
    (tmp_path / "it.xml").write_text("<net/>")
    with pytest.raises(ValueError, match=r"it\.bin is missing, which belongs to .*it\.xml; copy both, or export it"):
        urk.open_checkpoint(tmp_path / "it.xml")


# The lines of docs/export.md, in an environment that has neither flax nor this package.
WITH_JAX_ALONE = """
import json, sys
for name in ("flax", "unireplknet_jax"):
    sys.modules[name] = None
import numpy as np
from jax import export

file = np.load(sys.argv[1])
card = json.loads(file["card.json"])
program = export.deserialize(bytearray(file[card["programs"][0]["entry"]]))
weights = {name: file[name] for name in card["weights"]}
expected = np.load(sys.argv[2])
for count in (1, 3):
    found = program.call(weights, {"image": expected["image"][:count]})
    difference = np.abs(found["logits"] - expected["logits"][:count]).max() / expected["logits"].std()
    assert difference <= 1e-5, difference
print(card["task"], card["labels"])
"""


def test_a_file_of_an_earlier_version_runs_with_jax_alone(goldens):
    """Written once and kept: what was exported has to outlive the version that wrote it."""
    folder = goldens / "export"
    files = [str(folder / name) for name in ("tiny.stablehlo", "tiny.npz")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITH_JAX_ALONE, *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["classification", "['a',", "'b',", "'c',", "'d',", "'e',", "'f']"]
