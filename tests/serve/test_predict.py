"""`POST /predict`: files and arrays in, the records of the command out."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from asked import close_to, form, png
from PIL import Image
from small_tasks import KINDS, make_checkpoint, with_lists, write_files
from starlette.testclient import TestClient

import unireplknet_jax as urk
from unireplknet_jax.__main__ import main
from unireplknet_jax.data.base import finite
from unireplknet_jax.serve.app import Server
from unireplknet_jax.serve.settings import Settings
from unireplknet_jax.tasks.checkpoint import save_checkpoint
from unireplknet_jax.tasks.predict import predict


def test_files_of_a_form_get_the_records_of_predict(client, files, expected):
    answer = client.post("/predict", files=form(*files))
    assert answer.status_code == 200
    document = answer.json()
    assert [result["file"] for result in document["results"]] == [file.name for file in files]
    for result, records in zip(document["results"], expected, strict=True):
        assert close_to(result["records"], records)
    assert (document["model"], document["task"], document["errors"]) == ("tiny", "classification", [])
    assert 0 < document["seconds"] < 20


@pytest.mark.parametrize("ending", [".onnx", ".stablehlo"])
def test_what_was_exported_is_served_as_its_checkpoint(ending, checkpoint, files, expected, tmp_path):
    pytest.importorskip("onnxruntime") if ending == ".onnx" else None
    urk.export(checkpoint, tmp_path / f"tiny{ending}")
    server = Server({"tiny": urk.open_checkpoint(tmp_path / f"tiny{ending}")}, Settings(batch=2))
    server.warm()
    with TestClient(server.app) as client:
        document = client.post("/predict", files=form(*files, files[0])).json()
        assert [result["file"] for result in document["results"]] == [file.name for file in (*files, files[0])]
        for result, records in zip(document["results"], [*expected, expected[0]], strict=True):
            assert close_to(result["records"], records)
        assert client.get("/models").json()["models"][0]["sees"] is False
        answer = client.post("/see", files=form(files[0]))
        assert (answer.status_code, answer.json()["error"].startswith("tiny was exported")) == (400, True)
        metadata = client.get("/v2/models/tiny").json()
        assert {each["name"] for each in metadata["outputs"]} == {"logits", "scores"}


def test_json_takes_base64_names_and_arrays(client, checkpoint, files, expected):
    text = base64.b64encode(files[1].read_bytes()).decode()
    pixels = np.asarray(Image.open(files[1]).resize((50, 40)))
    given = [text, f"data:image/jpeg;base64,{text}", {"name": "../b\n.jpg", "data": text}, pixels.tolist()]
    *found, of_pixels = client.post("/predict", json={"inputs": given}).json()["results"]
    assert [result["file"] for result in found] == ["input 0", "input 1", "b .jpg"]
    for result in found:
        assert close_to(result["records"], expected[1])
    assert of_pixels["file"] == "input 3"
    assert close_to(of_pixels["records"], predict(checkpoint, pixels)[0])


def test_top_says_how_many_classes_come(client, files):
    (result,) = client.post("/predict?top=2", files=form(files[0])).json()["results"]
    assert len(result["records"][0]["predictions"]) == 2
    answer = client.post("/predict?top=0", files=form(files[0]))
    assert answer.status_code == 400
    assert answer.json() == {"error": "top is '0'; expected a whole number from 1 on."}


def test_a_broken_file_gets_the_sentence_that_the_command_prints(client, checkpoint, files, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(png(40, 30)[:70])
    save_checkpoint(tmp_path / "tiny", checkpoint)
    assert main(["predict", str(tmp_path / "tiny"), str(broken)]) == 1
    printed = capsys.readouterr().err.strip().splitlines()[-1].removeprefix("unireplknet predict: error: ")
    answer = client.post("/predict", files=form(broken))
    assert answer.status_code == 400
    assert answer.json()["error"] == printed.replace(str(broken), "broken.png")


def test_a_broken_file_leaves_the_others_their_records(client, files, expected):
    answer = client.post("/predict", files=form(files[0], ("b.png", b"no picture"), files[1]))
    assert answer.status_code == 400
    document = answer.json()
    assert [result["file"] for result in document["results"]] == [file.name for file in files]
    assert close_to(document["results"][1]["records"], expected[1])
    assert [row["file"] for row in document["errors"]] == ["b.png"]
    assert document["error"] == document["errors"][0]["error"]
    assert document["error"].startswith("b.png is not an image that Pillow can read")


@pytest.mark.parametrize(
    ("body", "kind", "status", "said"),
    [
        (b"{", "application/json", 400, "the body is no JSON that can be read; expected files in a form"),
        (b"[" * 100_000, "application/json", 400, "the body is no JSON"),
        (b"\xff\xfe", "application/json", 400, "the body is no JSON"),
        (b'{"inputs": 3}', "application/json", 400, "the document has no list of inputs"),
        (b'{"inputs": []}', "application/json", 400, "the request holds no input"),
        (b'{"inputs": ["%%"]}', "application/json", 400, "input 0 is no base64 text"),
        (b'{"inputs": [{"data": 3}]}', "application/json", 400, "input 0 holds neither a text nor a list"),
        (b'{"inputs": [{"name": 3, "data": "AAAA"}]}', "application/json", 400, "the name of input 0 is no text"),
        (b'{"inputs": [[[1, 2], [3]]]}', "application/json", 400, "input 0 is no array of numbers"),
        (b'{"inputs": [[["a"]]]}', "application/json", 400, "input 0 is no array of numbers"),
        (b'{"inputs": [[[1.5, 2]]]}', "application/json", 400, "input 0: an array of float64 (1, 2) is not a picture"),
        (json.dumps({"inputs": ["/etc/hosts12"]}).encode(), "application/json", 400, "input 0 is not an image"),
        (json.dumps({"inputs": [""] * 9}).encode(), "application/json", 413, "the request has 9 inputs; this server"),
        (b"--x\r\n", "multipart/form-data", 400, "the form cannot be read (Missing boundary in multipart"),
        (b"--x\r\nnonsense", "multipart/form-data; boundary=x", 400, "the request holds no input"),
        (b"nonsense\r\n--x", "multipart/form-data; boundary=x", 400, "the form cannot be read ("),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 400, "the request holds no input"),
        (b"GIF89a", "image/gif", 415, "the body is of the type 'image/gif'; expected files in a form"),
        (b"", "", 415, "the body is of the type ''"),
    ],
)
def test_a_body_that_is_no_input_is_refused_in_one_sentence(client, body, kind, status, said):
    answer = client.post("/predict", content=body, headers={"content-type": kind})
    assert answer.status_code == status
    assert answer.json()["error"].startswith(said)
    assert "\n" not in answer.json()["error"]


def test_an_address_or_a_method_that_is_none_is_said_in_json(client):
    assert client.get("/nothing").status_code == 404
    assert client.get("/nothing").json() == {"error": "GET /nothing is no address of this server: Not Found."}
    assert client.get("/models/", follow_redirects=False).status_code == 404
    answer = client.get("/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.fixture(scope="module", params=[name for name in KINDS if name != "classification"])
def other(request, tmp_path_factory):
    """A server of another task, its checkpoint and two files."""
    checkpoint = make_checkpoint(request.param).in_merged_form()
    made = Server({"other": checkpoint}, Settings(batch=1))
    made.warm()
    files = [Path(path) for path in write_files(tmp_path_factory.mktemp("files"), request.param)]
    with TestClient(made.app) as client:
        yield client, checkpoint, files


def test_every_task_answers_as_predict_does(other):
    client, checkpoint, files = other
    answer = client.post("/predict", files=form(*files))
    assert answer.status_code == 200
    found = [result["records"] for result in answer.json()["results"]]
    for records, wanted in zip(found, finite(with_lists(predict(checkpoint, files, batch_size=1))), strict=True):
        assert_close(records, [{name: row[name] for name in row if name != "class_map"} for row in wanted])
    answer = client.post("/predict", files=form(("nothing.jpg", b"nothing")))
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("nothing.jpg")


def assert_close(found, wanted):
    """Numbers within 1e-5 of their size (kernels are prepared, and so sums have another order), all else equal."""
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for name in wanted:
            assert_close(found[name], wanted[name])
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_close(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    else:
        assert found == wanted
