"""Clients of a server that answers at once, or not, and no network."""

import http.server
import json
import threading

import pytest

from unireplknet_jax.__main__ import main
from unireplknet_jax.benchmark.requests import measure_clients


@pytest.fixture
def address():
    """Of a server that answers a form with its file, refuses every fifth request, and wants no other address."""
    seen = []

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, body, self.headers.get("Authorization")))
            status = 404 if self.path != "/below/predict" else 503 if len(seen) % 5 == 0 else 200
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/below", seen
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_request_is_counted_once(address, tmp_path):
    where, seen = address
    (tmp_path / "a.txt").write_bytes(b"first")
    (tmp_path / "b.txt").write_bytes(b"second")
    row = measure_clients(where, [tmp_path / "a.txt", tmp_path / "b.txt"], 3, 20, token="t")
    assert (row["clients"], row["requests"], row["refused"]) == (3, 20, 4)
    assert 0 < row["median ms"] <= row["95 % within ms"] < 10_000
    assert row["answers per second"] > 1
    assert len(seen) == 20
    assert sum(b"\r\n\r\nfirst\r\n--" in body for _, body, _ in seen) == 10
    assert {token for *_, token in seen} == {"Bearer t"}


def test_the_command_prints_a_row_for_each_number_of_clients(address, tmp_path, capsys):
    (tmp_path / "a.txt").write_bytes(b"first")
    words = ["benchmark", "serve", address[0], str(tmp_path / "a.txt"), "--rounds", "8"]
    assert main([*words, "--clients", "1,2", "--json"]) == 0
    assert [row["clients"] for row in json.loads(capsys.readouterr().out)["rows"]] == [1, 2]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("clients  requests  answers per second  median ms")
    assert main([*words, "--clients", "0"]) == 2
    assert "--clients is 0; expected numbers" in capsys.readouterr().err


def test_another_answer_and_no_answer_are_errors(address, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"first")
    with pytest.raises(ValueError, match=r"answers 404: \{\}$"):
        measure_clients(address[0].removesuffix("/below"), [tmp_path / "a.txt"], 1, 2)
    with pytest.raises(ValueError, match="the address is nowhere; expected one such as"):
        measure_clients("nowhere", [tmp_path / "a.txt"], 1, 2)
