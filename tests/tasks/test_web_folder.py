"""`export --format web`: a folder that holds all that a page needs, which prepares pictures as Python does."""

import gzip
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from pixel_jobs import jobs_and_hashes
from small_tasks import make_checkpoint, write_files
from web_package import write_package

import unireplknet_jax as urk
from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.models.attribution import attributions
from unireplknet_jax.tasks import export, onnx_file, web_folder, web_runtime

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield write_package(tmp_path_factory.mktemp("package") / "onnxruntime-web.tgz", patch)


@pytest.fixture(scope="module")
def checkpoint():
    """Of pictures of 64 pixels, whose last map has 2 x 2 positions."""
    return make_checkpoint("classification", image_size=64, labels=tuple("abcdef"))


@pytest.fixture(scope="module")
def folder(package, checkpoint, tmp_path_factory):
    """What is exported, and what `export` says of it."""
    path = tmp_path_factory.mktemp("exported") / "page"
    picture = EncodedFile(b"a picture", "somewhere/Rose <1>.JPG")
    found = export.export(checkpoint, path, "web", examples=[picture], onnxruntime_web=package)
    assert os.listdir(path.parent) == ["page"]
    return path, found


def test_the_folder_holds_all_that_the_page_asks_for(folder):
    path, found = folder
    assert (found.format, found.kept) == ("web", 1)
    assert 1e-5 < found.difference <= 1e-2
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    assert found.size == sum(file.stat().st_size for file in files.values())
    texts = {name: file.read_text(encoding="utf-8") for name, file in files.items() if name.endswith((".js", ".html"))}
    asked = {*re.findall(r'(?:src|href|data-network)="([\w.-]+)"', texts["index.html"])}
    asked |= {name for name in re.findall(r'fetched\("([\w.]+)"\)', texts["network.js"])}
    asked |= {name for name in re.findall(r'from "\./([\w.]+)"', texts["network.js"])}
    asked |= {f"onnxruntime/{name}" for name in re.findall(r'(?:script|binary): "([\w.-]+)"', texts["network.js"])}
    assert asked <= {*files}
    assert {"network.onnx", "network.json", "page.js", "onnxruntime/LICENSE"} <= {*files}
    assert "page.html" not in files
    assert b"Copyright (c) Microsoft" in files["onnxruntime/LICENSE"].read_bytes()
    assert gzip.decompress(files[f"onnxruntime/{web_runtime.BINARIES[0]}.gz"].read_bytes()).endswith(b".wasm")


def test_the_policy_lets_the_page_ask_nobody_else(folder):
    path, _ = folder
    html = (path / "index.html").read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy.start() < min(html.index("<script"), html.index("<link"))
    rules = dict(part.strip().split(" ", 1) for part in policy[1].split(";"))
    assert rules["default-src"] == rules["base-uri"] == "'none'"
    assert rules["connect-src"] == rules["worker-src"] == rules["style-src"] == "'self'"
    assert rules["script-src"] == "'self' 'wasm-unsafe-eval'"


def test_the_page_is_told_what_it_needs_to_know(folder, checkpoint):
    path, _ = folder
    told = json.loads((path / "network.json").read_text(encoding="utf-8"))
    assert (told["name"], told["task"], told["labels"]) == ("classification", "classification", [*"abcdef"])
    assert (told["canvas"], told["channels"], told["sees"]) == ([64, 64], 3, True)
    assert told["preprocessing"]["resize"] == "crop"
    assert told["examples"] == [{"name": "Rose <1>.JPG", "file": "examples/0.jpg"}]
    assert (path / "examples/0.jpg").read_bytes() == b"a picture"
    pixels = (np.arange(3 * 64 * 64) % 251).astype(np.uint8).reshape(1, 3, 64, 64)
    expected = urk.tasks.predict.predictor(checkpoint)([{"image": np.moveaxis(pixels[0], 0, -1)}])[0]["logits"]
    np.testing.assert_allclose(told["check"]["logits"], expected, rtol=0, atol=1e-2 * expected.std())  # of float16


def test_the_other_commands_take_the_folder(folder, checkpoint, tmp_path):
    path, _ = folder
    opened = urk.open_checkpoint(path)
    assert opened.task == checkpoint.task
    files = write_files(tmp_path, "classification")
    for (ours,), (theirs,) in zip(*(urk.predict(each, files) for each in (checkpoint, opened)), strict=True):
        for one, other in zip(ours["predictions"], theirs["predictions"], strict=True):
            assert one["label"] == other["label"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-2)  # of float16


def test_the_graph_says_what_speaks_for_the_class(checkpoint, tmp_path):
    merged = checkpoint.in_merged_form()
    card = export.card_of(merged, "web", None)
    (tmp_path / "it.onnx").write_bytes(onnx_file.model(merged, card, evidence=True).SerializeToString())
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    found = onnx_file.opened(tmp_path / "it.onnx")[2]({"image": pixels})["activation"]
    expected = jax.jit(lambda x: attributions(merged.module, merged.variables, merged.task.normalized(x)))(pixels)
    expected = np.asarray(expected["activation"])
    assert expected.shape == (3, 2, 2)
    # Sums of 32 products of both signs, in float32.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_only_a_folder_of_the_same_kind_is_replaced(folder, checkpoint, package, tmp_path):
    path = tmp_path / "page"
    shutil.copytree(folder[0], path)
    (path / "index.html").write_text("old")
    options = {"format": "web", "onnxruntime_web": package}
    with pytest.raises(FileExistsError, match="exists already; remove it, choose another name, or give --overwrite"):
        export.export(checkpoint, path, **options)
    assert (path / "index.html").read_text() == "old"
    export.export(checkpoint, path, overwrite=True, **options)
    assert (path / "index.html").read_text() != "old"
    assert not (path / "examples").exists()
    holiday = tmp_path / "holiday"
    holiday.mkdir()
    (holiday / "beach.jpg").write_bytes(b"")
    with pytest.raises(FileExistsError, match="is there and is no folder that such an export wrote; choose another"):
        export.export(checkpoint, holiday, overwrite=True, **options)
    assert {*os.listdir(tmp_path)} == {"page", "holiday"}
    assert os.listdir(holiday) == ["beach.jpg"]


@pytest.mark.parametrize(
    ("name", "changes", "options", "match"),
    [
        ("detection", {}, {}, "the format web is for classification and segmentation, not for detection; give stable"),
        ("classification", {}, {"batch": 2}, "the format web has no --batch, which is for onnx"),
        ("classification", {}, {"opset": 21}, "the format web has no --opset"),
        ("segmentation", {}, {}, "this checkpoint has 2 canvases"),
        (
            "segmentation",
            {"mode": "slide", "stride": 16},
            {"image_size": 64},
            "once and whole, and this checkpoint sees windows",
        ),
        ("segmentation", {"buckets": ((32, 64),)}, {}, r"\(64, 32\) does not fit into 32 x 64; give --image-size N"),
    ],
)
def test_what_the_page_cannot_show_is_a_sentence(name, changes, options, match, package, tmp_path):
    with pytest.raises(ValueError, match=match) as raised:
        export.export(make_checkpoint(name, **changes), tmp_path / "page", "web", onnxruntime_web=package, **options)
    assert str(raised.value).count(". ") == 0
    assert os.listdir(tmp_path) == []


def test_examples_are_for_pages_alone(checkpoint, tmp_path):
    picture = EncodedFile(b"", "a.png")
    with pytest.raises(ValueError, match="the format onnx has no --examples, which is for web; leave it out"):
        export.export(checkpoint, tmp_path / "it.onnx", examples=[picture])
    with pytest.raises(ValueError, match="the format onnx has no --onnxruntime-web, which is for web; leave it out"):
        export.export(checkpoint, tmp_path / "it.onnx", onnxruntime_web="a.tgz")


def test_the_runtime_is_fetched_once_and_kept(package, tmp_path, monkeypatch):
    registry = tmp_path / "registry" / "onnxruntime-web" / "-"
    registry.mkdir(parents=True)
    shutil.copy(package, registry / f"onnxruntime-web-{web_runtime.VERSION}.tgz")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_registry", f"{(tmp_path / 'registry').as_uri()}/")
    first = web_runtime.files()
    shutil.rmtree(tmp_path / "registry")
    assert web_runtime.files() == first
    scripts = {name.replace(".mjs", ".js") for name in web_runtime.SCRIPTS}
    assert {*first} == scripts | {f"{name}.gz" for name in web_runtime.BINARIES}


def test_the_docs_name_the_version_that_is_fetched():
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    assert {*re.findall(r"(?:onnxruntime-web@|onnxruntime-web\) )([\d.]+\d)", page)} == {web_runtime.VERSION}


def test_without_a_network_a_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", (tmp_path / "nowhere").as_uri())
    with pytest.raises(
        ConnectionError, match=r"could not be fetched .*; run `npm pack onnxruntime-web@.* --onnxruntim"
    ):
        web_runtime.files()
    assert not (tmp_path / "cache").exists()


def test_another_package_is_refused(package, tmp_path, monkeypatch):
    other = tmp_path / "other.tgz"
    other.write_bytes(package.read_bytes() + b"\0")
    with pytest.raises(
        ValueError, match=r"other\.tgz is not onnxruntime-web-1.* its SHA-512 is another; give the file"
    ):
        web_runtime.files(other)
    with pytest.raises(FileNotFoundError):
        web_runtime.files(tmp_path / "missing.tgz")


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node: apt-get install nodejs")
def test_pictures_are_prepared_bit_for_bit_as_here():
    """By Pillow's antialiased bicubic filter, by OpenCV's bilinear one, and as Pillow makes grey."""
    jobs, expected = jobs_and_hashes()
    words = ["node", Path(__file__).with_name("pixel_hashes.mjs"), web_folder.PAGE / "pixels.js", json.dumps(jobs)]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [job for job, one, other in zip(jobs, found, expected, strict=True) if one != other] == []
