"""Starting a server, and ending it without losing what it accepted."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from typing import Any

import uvicorn

from unireplknet_jax.models.program import in_background
from unireplknet_jax.serve.app import Server

_LINGER = 0.5  # seconds after the last connection was accepted in which its request may still come
_log = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; OSError where the address cannot be had. port 0: any that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        named = isinstance(error, socket.gaierror)  # whose numbers are of another kind
        reason = os.strerror(error.errno) if error.errno and not named else error.strerror or error
        raise OSError(
            f"cannot listen on {host}, port {port} ({reason}); choose another with --host and --port."
        ) from error


def run(server: Server, listening: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C: then nothing new is accepted, and what was accepted is answered.

    Raises RuntimeError where the programs could not be compiled.
    """
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    failure: list[BaseException] = []
    config = uvicorn.Config(
        server.app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=int(server.settings.time) + 5,
    )
    running = _Draining(config, server)

    def warm() -> None:
        began = time.monotonic()
        try:
            server.warm()
        except BaseException as error:  # told by the main thread
            failure.append(error)
            running.should_exit = True
            return
        _log.info("ready after %.0f s: http://%s:%d", time.monotonic() - began, shown, port)

    def end(*_: Any) -> None:
        running.should_exit = True

    # For a SIGTERM that comes before uvicorn listens to signals; those that ended it it raises once more at its end.
    before = signal.signal(signal.SIGTERM, end)
    _log.info("listening on http://%s:%d; compiling ...", shown, port)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    in_background(warm, "warm")
    try:
        running.run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)
    if failure:
        raise RuntimeError(f"the programs could not be compiled: {failure[0]}") from failure[0]
    _log.info("drained")


class _Draining(uvicorn.Server):  # type: ignore[misc, unused-ignore]  # where uvicorn is not installed it is Any
    """A server that, told to end, first answers what comes on the connections that it has accepted."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._server = server

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._server.gate.draining = True  # answers close their connections
        listening: list[Any] = [*self.servers, *(sockets or [])]
        for each in listening:
            each.close()
        _log.info("draining: %d files are at work", self._server.gate.busy)
        await asyncio.sleep(_LINGER)
        await super().shutdown(sockets)
