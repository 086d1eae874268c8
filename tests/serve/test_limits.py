"""What a server refuses: too much, too many, too long, and those without the token."""

import asyncio
import threading
import time

import pytest
from asked import form, png
from starlette.requests import Request
from starlette.testclient import TestClient

from unireplknet_jax.serve.app import Server
from unireplknet_jax.serve.bodies import whole_body
from unireplknet_jax.serve.refusal import Refusal
from unireplknet_jax.serve.settings import Settings


def wait_until(there):
    """Until something is so, and no longer than ten seconds."""
    end = time.monotonic() + 10
    while not there():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def running(server):
    """A function that starts a server of other settings, with the programs of the one that is warm."""
    clients = []

    def start(**settings):
        made = Server({"tiny": server.models["tiny"].checkpoint}, Settings(**{"batch": 2} | settings))
        model = made.models["tiny"]
        model.programs = model.batcher.programs = server.models["tiny"].programs
        model.ready = True
        clients.append(TestClient(made.app))
        clients[-1].__enter__()
        return made, clients[-1]

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def held(server, monkeypatch):
    """The network waits until this event is set."""
    event, run = threading.Event(), server.models["tiny"].programs.run
    monkeypatch.setattr(server.models["tiny"].programs, "run", lambda *arguments: event.wait(10) and run(*arguments))
    yield event
    event.set()


def test_a_body_of_more_bytes_is_refused_by_what_it_says_and_by_what_it_has(client):
    large = b"x" * (2**20 + 1)
    answer = client.post("/predict", files=form(("a.png", large)))
    assert answer.status_code == 413
    assert answer.json() == {"error": "the request has more than 1,048,576 bytes, which this server takes at most."}
    sent = []

    def parts():  # without a length, so that it has to be counted
        for _ in range(100):
            sent.append(1)
            yield b"x" * 2**17

    for kind in ("application/json", "multipart/form-data; boundary=x"):
        answer = client.post("/predict", content=parts(), headers={"content-type": kind})
        assert answer.status_code == 413


@pytest.mark.parametrize("path", ["/predict", "/v2/models/tiny/infer"])
def test_a_compressed_body_is_called_so(client, path):
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = client.post(path, content=b"\x1f\x8b", headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (
        415,
        "the body is encoded as 'gzip'; send it as it is, without Content-Encoding.",
    )


def test_a_length_that_is_stated_is_refused_before_anything_is_read():
    async def receive():
        pytest.fail("the body is read")

    request = Request({"type": "http", "headers": [(b"content-length", b"11")]}, receive)
    with pytest.raises(Refusal, match="more than 10 bytes"):
        asyncio.run(whole_body(request, 10))


def test_a_picture_of_more_pixels_is_refused_in_the_words_of_the_reader(client):
    answer = client.post("/predict", files=form(("a.png", png(1000, 301))))
    assert answer.status_code == 400
    assert answer.json()["error"] == (
        "a.png has 301 x 1,000 pixels; expected 300,000 at most, so make it smaller first"
    )


def test_a_full_queue_is_said_at_once_and_with_when_to_come_again(running, held, files):
    made, client = running(queue=2)
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(client.post("/predict", files=form(files[0])))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: made.gate.busy == 2)
    began = time.perf_counter()
    refused = client.post("/predict", files=form(files[0]))
    assert time.perf_counter() - began < 0.1
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"].startswith("2 files are at work or wait, as many as this server takes; come again")
    held.set()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200, 200]
    assert made.gate.busy == 0


def test_the_files_of_one_request_count_each(running, held, files):
    made, client = running(queue=3)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(client.post("/predict", files=form(*files))))
    thread.start()
    wait_until(lambda: made.gate.busy == 2)
    assert client.post("/predict", files=form(*files)).status_code == 503
    held.set()
    thread.join()
    assert answers[0].status_code == 200
    assert client.post("/predict", files=form(*files, *files)).status_code == 400  # more than the queue ever takes


def test_a_request_that_takes_too_long_is_given_up_and_not_computed(running, held, files):
    made, client = running(time=0.2)
    began = time.perf_counter()
    answer = client.post("/predict", files=form(files[0]))
    assert 0.15 < time.perf_counter() - began < 5
    assert answer.status_code == 504
    assert answer.json() == {"error": "the request took longer than 0.2 s; send less at a time."}
    assert made.gate.busy == 0


def test_an_error_of_the_network_is_a_500_that_says_nothing_of_it(running, server, files, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("secret")

    _, client = running()
    monkeypatch.setattr(server.models["tiny"].programs, "run", fail)
    answer = client.post("/predict", files=form(files[0]))
    assert (answer.status_code, answer.json()) == (
        500,
        {"error": "the server failed at this request; its log says why."},
    )


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 401),
        ("Bearer wrong-token", 401),
        ("Basic right-token", 401),
        ("right-token", 401),
        ("Bearer right-tokén", 401),
        ("Bearer right-token", 200),
        ("bearer right-token", 200),
    ],
)
def test_a_token_opens_all_but_health_and_the_page(running, files, given, status):
    _, client = running(token="right-token")
    headers = {} if given is None else {"authorization": given.encode()}
    assert client.post("/predict", files=form(files[0]), headers=headers).status_code == status
    for path in ("/models", "/metrics", "/v2", "/v2/models/tiny", "/v2/models/tiny/ready"):
        answer = client.get(path, headers=headers)
        assert answer.status_code == status
        if status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"].startswith("this server wants a token")
    for path in ("/", "/page.js", "/page.css", "/v2/health/live", "/v2/health/ready"):
        assert client.get(path, headers=headers).status_code == 200


def test_a_server_is_not_ready_before_its_programs_are(server, files):
    made = Server({"tiny": server.models["tiny"].checkpoint}, Settings(batch=1))
    with TestClient(made.app) as client:
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/models/tiny/ready").status_code == 503
        answer = client.post("/predict", files=form(files[0]))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["error"] == "the model tiny is not ready yet: its programs are being compiled."
        made.models["tiny"].ready = True
        assert client.get("/v2/health/ready").status_code == 200
        made.gate.draining = True
        ready = client.get("/v2/health/ready")
        assert (ready.status_code, ready.headers["connection"]) == (503, "close")


def test_several_models_are_asked_for_by_name(server, files):
    checkpoint = server.models["tiny"].checkpoint
    made = Server({"one": checkpoint, "two": checkpoint}, Settings(batch=1))
    for model in made.models.values():
        model.programs = model.batcher.programs = server.models["tiny"].programs
        model.ready = True
    with TestClient(made.app) as client:
        assert client.post("/predict?model=two", files=form(files[0])).json()["model"] == "two"
        answer = client.post("/predict", files=form(files[0]))
        assert answer.status_code == 400
        assert answer.json()["error"] == "this server has several models; add ?model= and one of one, two."
        answer = client.post("/predict?model=tow", files=form(files[0]))
        assert (answer.status_code, answer.json()["error"]) == (404, "there is no model 'tow'; did you mean two?")
        assert [model["name"] for model in client.get("/models").json()["models"]] == ["one", "two"]


def test_metrics_count_what_was_asked(running, files):
    _, client = running(queue=8)
    for _ in range(3):
        client.post("/predict", files=form(*files))
    client.post("/predict", files=form(("a.png", b"no")))
    lines = client.get("/metrics").text.splitlines()
    for line in (
        'unireplknet_requests_total{path="/predict",status="200"} 3.0',
        'unireplknet_requests_total{path="/predict",status="400"} 1.0',
        'unireplknet_files_total{model="tiny"} 6.0',
        'unireplknet_batch_examples_sum{model="tiny"} 6.0',
        'unireplknet_request_seconds_count{path="/predict"} 4.0',
        'unireplknet_ready{model="tiny"} 1.0',
        "unireplknet_files_at_work 0.0",
    ):
        assert line in lines
