"""Who may come in, how many at a time, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from unireplknet_jax.serve.metrics import Metrics
from unireplknet_jax.serve.refusal import Refusal
from unireplknet_jax.serve.settings import Settings

Endpoint = Callable[[Request], Awaitable[Response]]
_GONE = 499  # nginx' number for a client that did not wait; nobody reads it
_log = logging.getLogger(__name__)


class Gate:
    """What stands before every endpoint: the token, the queue's length, the time that a request may take."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.busy = 0  # files at work or waiting
        self.draining = False
        self._token = None if settings.token is None else settings.token.encode()

    def guarded(self, endpoint: Endpoint, path: str, free: bool = False) -> Endpoint:
        """An endpoint that always answers: with JSON {"error": sentence} where it cannot do otherwise.

        path: what it is counted as. free: whether it is open to those without the token.
        """

        async def answer(request: Request) -> Response:
            began = time.perf_counter()
            try:
                if not free:
                    self._check_token(request)
                async with asyncio.timeout(self.settings.time):
                    response = await endpoint(request)
            except Refusal as refusal:
                response = refused(refusal)
            except TimeoutError:
                most = self.settings.time
                response = refused(Refusal(504, f"the request took longer than {most:g} s; send less at a time."))
            except ClientDisconnect:
                response = Response(status_code=_GONE)
            except Exception:
                _log.exception("%s failed", path)
                response = refused(Refusal(500, "the server failed at this request; its log says why."))
            if self.draining:
                response.headers["Connection"] = "close"
            self.metrics.request(path, response.status_code, time.perf_counter() - began)
            return response

        return answer

    @contextlib.asynccontextmanager
    async def room(self, files: int = 1) -> AsyncIterator[None]:
        """Take the place of so many files while the block lasts; Refusal (503) where the queue has none."""
        if self.busy + files > self.settings.queue:
            sentence = f"{self.busy} files are at work or wait, as many as this server takes; come again later."
            raise Refusal(503, sentence, again=1)
        self.busy += files
        try:
            yield
        finally:
            self.busy -= files

    def _check_token(self, request: Request) -> None:
        if self._token is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # Both comparisons take as long for a wrong token as for the right one.
        if not (hmac.compare_digest(given.strip().encode(), self._token) and scheme.lower() == "bearer"):
            refusal = Refusal(401, "this server wants a token: send the header Authorization: Bearer TOKEN.")
            refusal.headers["WWW-Authenticate"] = "Bearer"
            raise refusal


def refused(refusal: Refusal) -> Response:
    """The answer that says why there is no other."""
    document = {"error": refusal.sentence, **refusal.details}
    return JSONResponse(document, refusal.status, headers=refusal.headers)
