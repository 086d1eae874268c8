"""The page: what it is made of, that it asks nobody but its own server, and what it is told of the models."""

import importlib.resources
import re

import pytest
from asked import form, png
from small_tasks import make_checkpoint
from starlette.testclient import TestClient

from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.serve.app import Server
from unireplknet_jax.serve.settings import Settings

PAGE = importlib.resources.files("unireplknet_jax.tasks") / "page"
TEXTS = {name: (PAGE / name).read_text() for name in ("page.html", "page.js", "page.css", "network.js", "pixels.js")}


def test_the_page_and_its_files_come_with_a_strict_policy(client):
    for path, name, kind in (
        ("/", "page.html", "text/html"),
        ("/page.js", "page.js", "text/javascript"),
        ("/page.css", "page.css", "text/css"),
    ):
        answer = client.get(path)
        assert answer.text == TEXTS[name]
        assert answer.headers["content-type"].startswith(kind)
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", [*TEXTS])
def test_nothing_of_the_page_lies_elsewhere(name):
    found = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", TEXTS[name])
    assert [address for address in found if "www.w3.org" not in address] == []


def test_the_policy_would_not_stop_the_page_itself():
    html = TEXTS["page.html"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|\bstyle=|\bon\w+=", html)
    for name in ("page.js", "network.js", "pixels.js"):
        assert not re.search(r"\beval\(|new Function|innerHTML|setAttribute\(\"style\"", TEXTS[name]), name


def test_the_script_finds_every_element_that_it_asks_for():
    wanted = {*re.findall(r'byId\("(\w+)"\)', TEXTS["page.js"])}
    there = re.findall(r'\bid="(\w+)"', TEXTS["page.html"])
    assert wanted <= {*there}
    assert len(there) == len({*there})
    classes = {name for names in re.findall(r'class="([\w ]+)"', TEXTS["page.html"]) for name in names.split()}
    assert {*re.findall(r'querySelector\("\.(\w+)"\)', TEXTS["page.js"])} <= classes


def test_every_control_has_a_name():
    html = TEXTS["page.html"]
    for button in re.findall(r"<button[^>]*>([^<]*)</button>", html):
        assert button.strip()
    for control in re.findall(r"<(?:input|select)[^>]*>", html):
        name = re.search(r'\bid="(\w+)"', control)[1]
        labelled = f'for="{name}"' in html or re.search(rf'<label[^>]*>[^<]*<\w+ id="{name}"', html)
        assert labelled or " hidden" in control, control


def test_the_page_is_told_of_models_and_examples(server):
    checkpoint = server.models["tiny"].checkpoint
    seen = EncodedFile(png(4, 4), "a.png")
    made = Server({"tiny": checkpoint, "masks": make_checkpoint("segmentation").in_merged_form()}, Settings(), [seen])
    with TestClient(made.app) as client:
        told = client.get("/models").json()
        assert client.get("/examples/0").content == seen
        assert client.get("/examples/1").status_code == 404
        assert client.get("/examples/-1").status_code == 404
        assert client.get("/examples/..%2Fpage").status_code == 404
        assert client.get("/examples/" + "9" * 5000).status_code == 404
    assert told["examples"] == ["a.png"]
    tiny, masks = told["models"]
    assert (tiny["name"], tiny["task"], tiny["sees"], tiny["ready"]) == ("tiny", "classification", True, False)
    assert ".jpg" in tiny["suffixes"]
    assert masks["sees"] is False
    assert len(masks["colours"]) == 6
    assert told["limits"]["body"] == 32 * 2**20


@pytest.mark.slow
def test_what_the_network_looks_at_comes_as_pictures(client, files, checkpoint):
    import base64
    import io

    import numpy as np
    from PIL import Image

    from unireplknet_jax.tasks.see import see
    from unireplknet_jax.tasks.see_plot import overlay

    _, (expected,) = see(checkpoint, files[0])
    answer = client.post("/see", files=form(files[0]))
    assert answer.status_code == 200
    found = answer.json()
    assert (found["class"], found["index"]) == (expected.label, expected.index)
    assert found["score"] == pytest.approx(expected.score, abs=1e-5)
    pictures = {
        name: None if found[name] is None else np.asarray(Image.open(io.BytesIO(base64.b64decode(found[name]))))
        for name in ("picture", "evidence", "field")
    }
    assert np.array_equal(pictures["picture"], expected.seen.picture)
    assert pictures["field"].shape == (32, 32, 3)
    assert (pictures["evidence"] is None) == (expected.activation is None)
    if expected.activation is not None:
        assert np.array_equal(pictures["evidence"], overlay(expected.seen.picture, expected.activation))
    broken = client.post("/see", files=form(("a.png", b"no picture")))
    assert broken.status_code == 400
    assert broken.json()["error"].startswith("a.png is not an image that Pillow can read")
    assert client.post("/see", files=form(*files)).status_code == 400  # one at a time
