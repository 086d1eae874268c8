"""The page in a headless Chromium: pictures dropped and chosen get what `predict` says, broken ones their sentence."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from asked import Process, png
from PIL import Image
from small_tasks import make_checkpoint

from unireplknet_jax.tasks.checkpoint import save_checkpoint
from unireplknet_jax.tasks.predict import predict

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("browse.cjs")


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

    def drive(port, *files):
        words = ["node", SCRIPT, f"http://127.0.0.1:{port}/", chromium, *files]
        done = subprocess.run([*map(str, words)], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return drive


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, files):
    """A PNG, a JPEG that lies on its side and says so, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    with Image.open(files[0]) as picture:
        picture.save(folder / "upright.png")
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.rotate(90, expand=True).save(folder / "turned.jpg", exif=exif, quality=95)
    (folder / "broken.png").write_bytes(png(40, 30)[:70])
    return [folder / name for name in ("upright.png", "turned.jpg", "broken.png")]


def test_the_page_shows_what_predict_says(browse, checkpoint, pictures, tmp_path):
    save_checkpoint(tmp_path / "tiny", checkpoint)
    running = Process(tmp_path / "tiny", "--batch", "1")
    try:
        seen = browse(running.port, *pictures)
    finally:
        running.end()
    upright, turned = ((record,) for (record,) in predict(checkpoint, pictures[:2]))
    for name, (record,) in (("dropped", upright), ("rotated", turned)):
        rows = record["predictions"]
        assert seen[name]["labels"] == [row["label"] for row in rows]
        assert seen[name]["scores"] == [f"{100 * row['score']:.1f} %" for row in rows]
        assert "ms in the server" in seen[name]["caption"]
    assert seen["dropped"]["labels"][0] == seen["rotated"]["labels"][0]
    assert seen["broken"]["wrong"] == ["broken.png is truncated or damaged; replace the file with a whole one"]
    assert (seen["elsewhere"], seen["complaints"]) == ([], [])
    assert seen["title"] == "tiny · UniRepLKNet"
    assert seen["tabs"] == ["Choose files", "Camera"]
    assert seen["overflow"] <= 0
    assert seen["dark"] == "rgb(21, 23, 26)"


def test_the_page_lays_a_mask_over_the_picture(browse, pictures, tmp_path):
    checkpoint = make_checkpoint("segmentation").in_merged_form()
    save_checkpoint(tmp_path / "masks", checkpoint)
    running = Process(tmp_path / "masks", "--batch", "1")
    try:
        seen = browse(running.port, *pictures)
    finally:
        running.end()
    ((record,),) = predict(checkpoint, pictures[0])
    assert seen["dropped"]["legend"] == [row["label"] for row in record["classes"]]
    assert seen["dropped"]["layers"] == 1
    assert seen["slider"] == 2
    assert (seen["elsewhere"], seen["complaints"]) == ([], [])
