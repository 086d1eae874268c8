"""What `export` writes gives what its checkpoint gives, in every runtime, and is refused where it does not."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from small_tasks import FILES, make_checkpoint, with_lists, write_files

import unireplknet_jax as urk
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


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_pictures_of_several_sizes_lie_in_one_canvas(form, tmp_path):
    checkpoint = make_checkpoint("segmentation")
    opened, found = exported(tmp_path, form, checkpoint, image_size=64)
    assert found.difference <= TOLERANCE
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((40, 64), (64, 33), (100, 90))]
    on_canvas = dataclasses.replace(checkpoint, task=opened.task)
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


@pytest.mark.parametrize("form", ["stablehlo", "onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_half_of_the_size_is_half_of_the_digits(form, tmp_path):
    model = {"depths": (1, 1, 0, 0), "dims": (32, 64, 32, 32), "kernel_sizes": ((13,), (7,), (), ()), "num_classes": 6}
    checkpoint = make_checkpoint("classification", model=model)
    opened, found = exported(tmp_path, form, checkpoint, half=True)
    assert 1e-5 < found.difference <= 1e-2
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(checkpoint.in_merged_form().variables))
    assert weights / 2 < found.size < weights / 2 + 250_000  # the program, or the description
    assert opened.task == checkpoint.task


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

    monkeypatch.setattr(onnx_graph, "LAYER_NORM_EPS", 1e-3)
    with pytest.raises(ValueError, match=r"differs by .* which exceeds 5e-05; nothing was written\.$"):
        export.export(make_checkpoint("classification"), tmp_path / "it.onnx")
    assert os.listdir(tmp_path) == []


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


@pytest.mark.parametrize("merged", [False, True])
def test_the_form_and_the_type_of_a_checkpoint_do_not_matter(merged, tmp_path):
    checkpoint = make_checkpoint("classification")
    checkpoint = checkpoint.in_merged_form() if merged else checkpoint
    narrow = {**dict(checkpoint.task.model), "dtype": "bfloat16"}
    checkpoint = dataclasses.replace(checkpoint, task=dataclasses.replace(checkpoint.task, model=narrow))
    opened, found = exported(tmp_path, "stablehlo", checkpoint)
    assert found.difference <= TOLERANCE
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
    found = opened.runtime({"image": np.zeros((5, 32, 32, 3), np.uint8)})  # of two at a time
    assert found["logits"].shape == (5, 6)
    np.testing.assert_array_equal(found["logits"][0], found["logits"][4])
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
