"""Both pages in a headless Chromium, that of the server and the one that needs none: pictures dropped, chosen, pasted
and taken get what `predict` says, broken ones their sentence, and nobody else is asked for anything."""

import base64
import contextlib
import functools
import gzip
import http.server
import io
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from asked import Process, png
from PIL import Image
from pixel_jobs import jobs_and_hashes
from small_tasks import make_checkpoint

import unireplknet_jax as urk
from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.data.pictures.decode import read_image
from unireplknet_jax.tasks import made_up, web_folder, web_runtime
from unireplknet_jax.tasks.checkpoint import save_checkpoint
from unireplknet_jax.tasks.export import card_of, export
from unireplknet_jax.tasks.predict import predict
from unireplknet_jax.tasks.see import see
from unireplknet_jax.tasks.see_plot import overlay

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("browse.cjs")
NO_GRAPHICS = "there is no graphics processor for it"


@pytest.fixture(scope="module")
def browse():
    """A function that drives the page at an address with three files, and gives what it saw."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None or shutil.which("node") is None:
        pytest.skip("needs chromium and node: apt-get install chromium nodejs")
    folders = [os.environ.get("NODE_PATH", "")]
    if shutil.which("npm"):
        folders.append(subprocess.run(["npm", "root", "-g"], capture_output=True, text=True).stdout.strip())
    environment = os.environ | {"NODE_PATH": os.pathsep.join(filter(None, folders))}
    script = ["node", "-e", "require('playwright-core')"]
    if subprocess.run(script, env=environment, capture_output=True).returncode:
        pytest.skip("needs playwright-core: npm install -g playwright-core, or a folder with it in NODE_PATH")

    def drive(address, files, jobs=""):
        words = ["node", SCRIPT, address, chromium, *files, jobs]
        done = subprocess.run([*map(str, words)], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return drive


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, files):
    """A PNG that is seen through in places, on white as a JPEG that lies on its side and says so, and no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    with Image.open(files[0]) as picture:
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
        picture.save(folder / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    on_white = read_image(folder / "upright.png")
    on_white.rotate(90, expand=True).save(folder / "turned.jpg", exif=exif, quality=95)
    (folder / "broken.png").write_bytes(png(40, 30)[:70])
    return [folder / name for name in ("upright.png", "turned.jpg", "broken.png")]


@contextlib.contextmanager
def served(folder, unpacks=False):
    """The address of a server of files, which sends no header of its own, and what it was asked for in vain.

    unpacks: it lets browsers unpack what is packed, as some servers do.
    """
    missing = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

        def end_headers(self):
            if unpacks and self.path.endswith(".gz"):
                self.send_header("Content-Encoding", "gzip")
            super().end_headers()

        def send_error(self, code, *words):
            missing.append((code, self.path))
            super().send_error(code, *words)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", missing
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def runtime():
    """Whether what runs networks in a browser is here, or can be fetched."""
    pytest.importorskip("onnxruntime")
    try:
        web_runtime.files()
    except ConnectionError as error:
        pytest.skip(str(error))


def as_shown(predictions):
    return [row["label"] for row in predictions], [f"{100 * row['score']:.1f} %" for row in predictions]


def assert_page_behaves(seen, expected, where):
    """expected: the records of `predict` of the upright picture and of the turned one."""
    shown = {"dropped": expected[0], "rotated": expected[1], "pasted": expected[0]}
    for name, record in shown.items():
        assert (seen[name]["labels"], seen[name]["scores"]) == as_shown(record["predictions"]), name
        assert where in seen[name]["caption"]
    for answer, record in zip(seen["answers"], expected, strict=True):
        for ours, theirs in zip(answer["predictions"], record["predictions"], strict=True):
            assert ours["index"] == theirs["index"]
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
    assert seen["dropped"]["labels"][0] == seen["rotated"]["labels"][0]
    assert len(seen["photographed"]["labels"]) == 5
    assert (seen["elsewhere"], seen["complaints"]) == ([], [])
    assert seen["tabs"] == ["Choose files", "Camera"]
    assert seen["overflow"] <= 0
    assert seen["dark"] == "rgb(21, 23, 26)"


def decoded(address):
    """(h, w, 3) of an address that holds a PNG."""
    data = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_the_page_shows_what_predict_says(browse, checkpoint, pictures, tmp_path):
    save_checkpoint(tmp_path / "tiny", checkpoint)
    running = Process(tmp_path / "tiny", "--batch", "1")
    try:
        seen = browse(f"http://127.0.0.1:{running.port}/", pictures)
    finally:
        running.end()
    assert_page_behaves(seen, [record for (record,) in predict(checkpoint, pictures[:2])], "ms in the server")
    assert seen["broken"]["wrong"] == ["broken.png is truncated or damaged; replace the file with a whole one"]
    assert seen["title"] == "tiny · UniRepLKNet"


def test_the_page_lays_a_mask_over_the_picture(browse, pictures, tmp_path):
    checkpoint = make_checkpoint("segmentation").in_merged_form()
    save_checkpoint(tmp_path / "masks", checkpoint)
    running = Process(tmp_path / "masks", "--batch", "1")
    try:
        seen = browse(f"http://127.0.0.1:{running.port}/", pictures)
    finally:
        running.end()
    ((record,),) = predict(checkpoint, pictures[0])
    assert_mask_is_shown(seen, record)


def assert_mask_is_shown(seen, record):
    assert seen["dropped"]["legend"] == [row["label"] for row in record["classes"]]
    assert seen["dropped"]["layers"] == 1
    assert seen["slider"] == 4  # dropped, chosen, pasted, taken
    assert (seen["elsewhere"], seen["complaints"]) == ([], [])


def test_the_page_without_a_server_shows_what_predict_says(browse, runtime, pictures, tmp_path):
    checkpoint = make_checkpoint("classification", image_size=64, labels=tuple("abcdef"))
    example = EncodedFile(pictures[0].read_bytes(), "Rose <1>.png")
    export(checkpoint, tmp_path / "page", "web", examples=[example])
    jobs, hashes = jobs_and_hashes()
    with served(tmp_path / "page") as (address, missing):
        seen = browse(address, pictures, json.dumps(jobs))
    expected = [record for (record,) in predict(urk.open_checkpoint(tmp_path / "page"), pictures[:2])]
    assert_page_behaves(seen, expected, "ms in WebAssembly")
    assert missing == []
    assert (seen["examples"], seen["example"]["scores"]) == (1, seen["dropped"]["scores"])
    assert seen["title"] == "classification · UniRepLKNet"
    assert seen["broken"]["wrong"] == [
        "broken.png is damaged, or of a kind that this browser does not read; give for example a JPEG or PNG"
    ]
    assert seen["hashes"] == hashes
    _, (sight,) = see(checkpoint, pictures[0])
    (evidence,) = map(decoded, seen["looks"])
    # Weights of half the digits; the tint goes up to 255.
    assert np.abs(evidence - overlay(sight.seen.picture, sight.activation)).max() <= 3


def test_the_page_without_a_server_lays_a_mask_over_the_picture(browse, runtime, pictures, tmp_path):
    export(make_checkpoint("segmentation"), tmp_path / "page", "web", image_size=64)
    opened = urk.open_checkpoint(tmp_path / "page")
    with served(tmp_path / "page", unpacks=True) as (address, missing):
        seen = browse(address, pictures)
    expected = [record for (record,) in predict(opened, pictures[:2])]
    assert_mask_is_shown(seen, expected[0])
    assert missing == []
    for answer, record in zip(seen["answers"], expected, strict=True):
        wrong = decoded(answer["mask"]) != np.array(opened.task.palette)[record["class_map"]]
        assert np.mean(wrong.any(axis=-1)) <= 1e-3  # two classes may be as likely
        assert answer["size"] == record["size"]
        assert [row["label"] for row in answer["classes"]] == [row["label"] for row in record["classes"]]


def test_a_graphics_processor_gives_the_same(browse, runtime, pictures, tmp_path):
    """One made of software, which the page takes only where it is told to."""
    export(make_checkpoint("classification"), tmp_path / "page", "web")
    with served(tmp_path / "page") as (address, missing):
        seen = browse(f"{address}?runtime=webgpu", pictures)
    if NO_GRAPHICS in seen["state"]:
        pytest.skip("this Chromium has no graphics processor made of software")
    assert "ms in WebGPU" in seen["dropped"]["caption"]
    expected = [record for (record,) in predict(urk.open_checkpoint(tmp_path / "page"), pictures[:2])]
    for answer, record in zip(seen["answers"], expected, strict=True):
        for ours, theirs in zip(answer["predictions"], record["predictions"], strict=True):
            assert ours["index"] == theirs["index"]
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)  # of functions that drivers approximate
    assert (missing, seen["elsewhere"]) == ([], [])


def test_a_graphics_processor_that_gives_other_numbers_is_not_taken(browse, runtime, pictures, tmp_path):
    export(make_checkpoint("classification"), tmp_path / "page", "web")
    told = json.loads((tmp_path / "page" / "network.json").read_text())
    told["check"]["logits"][0] += 0.1 * told["check"]["deviation"]
    (tmp_path / "page" / "network.json").write_text(json.dumps(told))
    with served(tmp_path / "page") as (address, _):
        seen = browse(f"{address}?runtime=webgpu", pictures)
    if NO_GRAPHICS in seen["state"]:
        pytest.skip("this Chromium has no graphics processor made of software")
    assert seen["state"] == "this browser cannot run the network (WebGPU: it gives other numbers)."
    assert seen["dropped"]["wrong"] == [seen["state"]]


def test_a_page_that_is_opened_as_a_file_asks_for_a_server(browse, runtime, pictures, tmp_path):
    export(make_checkpoint("classification"), tmp_path / "page", "web")
    seen = browse((tmp_path / "page" / "index.html").as_uri(), pictures)
    assert seen["state"].endswith("open this page through a server, such as python -m http.server.")


def test_a_browser_unpacks_less_than_27_mb_for_the_smallest_network(runtime, tmp_path):
    made_up.write(tmp_path, ["a.pth"])
    checkpoint = urk.open_checkpoint(tmp_path / "a.pth").in_merged_form()
    page = tmp_path / "page"
    page.mkdir()
    web_folder.write(page, checkpoint, card_of(checkpoint, "web", None))
    contents = {file.name: file.read_bytes() for file in page.rglob("*") if file.is_file()}
    assert sum(map(len, contents.values())) < 18e6
    sizes = {name: len(gzip.decompress(own) if name.endswith(".gz") else own) for name, own in contents.items()}
    graphics = sum(size for name, size in sizes.items() if "jspi" in name)
    plain = sum(size for name, size in sizes.items() if name.startswith("ort") and "jspi" not in name)
    assert sum(sizes.values()) - min(graphics, plain) < 27e6
