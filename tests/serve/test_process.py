"""A server as a process: a thousand requests of all kinds, Triton's client, and an end that loses nothing."""

import http.client
import json
import threading
import time

import numpy as np
import pytest
from asked import Process, close_to, png

from unireplknet_jax.tasks.checkpoint import save_checkpoint
from unireplknet_jax.tasks.predict import predictor

pytestmark = pytest.mark.slow
LIMITS = ("--batch", "4", "--body", "1", "--pixels", "0.3", "--queue", "16", "--time", "30")


@pytest.fixture(scope="module")
def saved(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("serve") / "tiny"
    save_checkpoint(path, checkpoint)
    return path


@pytest.fixture
def running(saved):
    made = Process(saved, *LIMITS)
    yield made
    made.end()


def encoded(name, data):
    """A form of one file: (body, headers)."""
    head = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    return head + data + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


def post(connection, body, headers, path="/predict"):
    """(status, document, whether the server closes the connection)."""
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read()), answer.getheader("Connection") == "close"


def in_threads(count, function):
    threads = [threading.Thread(target=function, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_thousand_mixed_requests_leave_no_500_and_no_memory_behind(running, files, expected):
    good = [encoded(file.name, file.read_bytes()) for file in files]
    bad = {
        400: [
            encoded("cut.jpg", files[0].read_bytes()[:2000]),
            encoded("noise.png", np.random.default_rng(0).bytes(3000)),
            encoded("large.png", png(1000, 1000)),
            (b'{"inputs": [', {"Content-Type": "application/json"}),
        ],
        413: [encoded("heavy.png", bytes(2**20))],
        415: [(b"text", {"Content-Type": "text/plain"})],
    }
    wanted = [(200, number) for number in (0, 1)] * 3
    wanted += [(status, number) for status, bodies in bad.items() for number in range(len(bodies))]
    wrong = []

    def ask(count):
        def work(worker):
            connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
            for number in range(worker, count, 8):
                status, which = wanted[number % len(wanted)]
                body, headers = good[which] if status == 200 else bad[status][which]
                found, document, _ = post(connection, body, headers)
                right = found == status and (
                    close_to(document["results"][0]["records"], expected[which]) if status == 200 else document["error"]
                )
                if not right:
                    wrong.append((status, which, found, document))
            connection.close()

        in_threads(8, work)

    ask(400)
    before = running.memory()
    ask(1000)
    after = running.memory()
    assert wrong == []
    assert after < 1.05 * before
    assert not [line for line in running.lines if "Traceback" in line or "failed" in line]


def test_an_end_under_load_loses_no_request_that_was_accepted(running, files):
    body, headers = encoded(files[0].name, files[0].read_bytes())
    answered, lost, ended = [], [], threading.Event()

    def work(_):
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        while not ended.is_set():
            try:
                if connection.sock is None:
                    connection.connect()
            except ConnectionRefusedError:
                return  # nobody has accepted anything
            try:
                status, _, closes = post(connection, body, headers)
            except Exception as error:
                lost.append(repr(error))
                return
            answered.append(status)
            if closes:
                connection.close()

    watcher = threading.Timer(1.0, lambda: running.process.send_signal(15))
    watcher.start()
    in_threads(8, work)
    watcher.join()
    assert running.process.wait(60) == 0
    assert lost == []
    assert {*answered} == {200}
    assert len(answered) > 20
    assert any(line.startswith("draining: ") for line in running.lines)


def test_overload_is_answered_sooner_than_what_is_computed(running, files):
    many = [encoded(f"{number}.jpg", files[number % 2].read_bytes()) for number in range(40)]
    seconds = {200: [], 503: []}

    def work(number):
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        connection.connect()
        for _ in range(5):
            began = time.perf_counter()
            status, _, _ = post(connection, *many[number])
            seconds[status].append(time.perf_counter() - began)
        connection.close()

    in_threads(40, work)
    assert all(seconds.values())
    assert np.median(seconds[503]) < np.median(seconds[200])  # on a machine that does nothing else it is 0.1 s


def test_tritons_client_is_served(running, checkpoint, files):
    client = pytest.importorskip("tritonclient.http", reason='pip install "tritonclient[http]"')
    images = np.stack([checkpoint.task.read(str(file))[0]["image"] for file in files])
    expected = predictor(checkpoint)([{"image": image} for image in images])
    with client.InferenceServerClient(f"127.0.0.1:{running.port}") as triton:
        assert triton.is_server_live()
        assert triton.is_server_ready()
        assert triton.is_model_ready("tiny")
        metadata = triton.get_model_metadata("tiny")
        assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}]
        for binary in (True, False):
            given = client.InferInput("image", [*images.shape], "UINT8")
            given.set_data_from_numpy(images, binary_data=binary)
            for outputs in (None, [client.InferRequestedOutput("scores", binary_data=binary)]):
                found = triton.infer("tiny", [given], outputs=outputs, request_id="9").as_numpy("scores")
                np.testing.assert_allclose(found, [row["scores"] for row in expected], rtol=0, atol=1e-5)
        with pytest.raises(client.InferenceServerException, match="there is no model 'other'"):
            triton.infer("other", [given])


def test_a_server_that_is_told_to_end_while_it_compiles_ends(saved):
    made = Process(saved, *LIMITS, ready=False)
    began = time.monotonic()
    assert made.end() == 0
    assert time.monotonic() - began < 20
    assert "drained" in made.lines
