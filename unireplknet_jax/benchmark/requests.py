"""How many answers a server gives, and how long each takes, to several clients at once."""

from __future__ import annotations

import contextlib
import http.client
import os
import statistics
import threading
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any

_BOUNDARY = "unireplknet"


def measure_clients(
    address: str, files: Sequence[str | os.PathLike[str]], clients: int, requests: int, token: str | None = None
) -> dict[str, Any]:
    """One row: `clients` threads, each of which sends files to `POST /predict` on one connection, one after the other.

    requests: of all clients together. Raises OSError where nobody answers, ValueError for an answer other than 200 and
    503, which are counted apart.
    """
    place = urllib.parse.urlsplit(address)
    if place.scheme != "http" or not place.hostname:
        raise ValueError(f"the address is {address}; expected one such as http://127.0.0.1:8000.")
    bodies = [_form(path) for path in files]
    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    headers |= {} if token is None else {"Authorization": f"Bearer {token}"}
    seconds: list[tuple[int, float]] = []
    failures: list[BaseException] = []

    def ask(client: int, connection: http.client.HTTPConnection) -> None:
        for number in range(client, requests, clients):
            began = time.perf_counter()
            connection.request("POST", f"{place.path.rstrip('/')}/predict", bodies[number % len(bodies)], headers)
            answer = connection.getresponse()
            said = answer.read()
            if answer.status not in (200, 503):
                raise ValueError(f"{address} answers {answer.status}: {said[:300].decode('utf-8', 'replace')}")
            seconds.append((answer.status, time.perf_counter() - began))

    def work(client: int) -> None:
        try:
            with contextlib.closing(
                http.client.HTTPConnection(str(place.hostname), place.port or 80, timeout=600)
            ) as connection:
                ask(client, connection)
        except BaseException as error:  # raised below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    passed = time.perf_counter() - began
    if failures:
        raise failures[0]
    return {"clients": clients, "requests": requests, **_summary(seconds, passed)}


def _summary(seconds: Sequence[tuple[int, float]], passed: float) -> dict[str, Any]:
    answered = sorted(1000 * each for status, each in seconds if status == 200)
    refused = sorted(1000 * each for status, each in seconds if status == 503)
    return {
        "answers per second": len(answered) / passed,
        "median ms": statistics.median(answered) if answered else None,
        "95 % within ms": _most(answered),
        "refused": len(refused),
        "95 % of these within ms": _most(refused),
    }


def _most(milliseconds: Sequence[float]) -> float | None:
    """Within which 95 % of sorted times are; None of none."""
    return milliseconds[int(0.95 * (len(milliseconds) - 1))] if milliseconds else None


def _form(path: str | os.PathLike[str]) -> bytes:
    """A form of one file."""
    with open(path, "rb") as file:
        data = file.read()
    name = os.path.basename(os.fspath(path)).replace('"', "_")
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    return head + data + f"\r\n--{_BOUNDARY}--\r\n".encode()
