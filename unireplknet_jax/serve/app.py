"""The server's addresses: what answers `POST /predict`, the protocol below /v2, the page and the metrics."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from unireplknet_jax import __version__
from unireplknet_jax.data.base import nearest
from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.serve import bodies, protocol
from unireplknet_jax.serve.gate import Endpoint, Gate, refused
from unireplknet_jax.serve.metrics import Metrics
from unireplknet_jax.serve.model import Model
from unireplknet_jax.serve.refusal import Refusal
from unireplknet_jax.serve.settings import Settings
from unireplknet_jax.tasks.checkpoint import Checkpoint
from unireplknet_jax.tasks.web_folder import PAGE

_PAGE = {
    "": ("page.html", "text/html"),
    "page.js": ("page.js", "text/javascript"),
    "page.css": ("page.css", "text/css"),
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Server:
    """Models by name, and the addresses at which they answer."""

    def __init__(
        self, checkpoints: Mapping[str, Checkpoint], settings: Settings, examples: Sequence[EncodedFile] = ()
    ) -> None:
        """checkpoints: merged, by the names of their models. examples: pictures that the page offers, in memory."""
        self.settings, self.metrics = settings, Metrics()
        self.gate = Gate(settings, self.metrics)
        self.pool = concurrent.futures.ThreadPoolExecutor(settings.threads, "files")
        self.models = {
            name: Model(name, checkpoint, settings, self.pool, functools.partial(self.metrics.batch, name))
            for name, checkpoint in checkpoints.items()
        }
        self._examples = [*examples]
        self.app = Starlette(
            routes=self._routes(), lifespan=self._lifespan, exception_handlers={HTTPException: _no_such_address}
        )
        self.app.router.redirect_slashes = False  # a proxy's path before the address would be lost

    @property
    def _all(self) -> list[Model]:
        return [*self.models.values()]

    def warm(self) -> None:
        """Compile what requests need, model by model; each is ready when its own programs are."""
        for model in self._all:
            model.warm()

    @property
    def ready(self) -> bool:
        """Whether every model is, and the server is not about to end."""
        return not self.gate.draining and all(model.ready for model in self._all)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        for model in self._all:
            await asyncio.to_thread(model.close)
        self.pool.shutdown(cancel_futures=True)

    def _routes(self) -> list[Route]:
        def route(path: str, endpoint: Endpoint, free: bool = False, method: str = "GET") -> Route:
            return Route(path, self.gate.guarded(endpoint, path, free), methods=[method])

        model = "/v2/models/{model}"
        versioned = f"{model}/versions/{{version}}"
        return [
            *(route(f"/{path}", self._page, free=True) for path in _PAGE),
            route("/models", self._describe),
            route("/examples/{number}", self._example),
            route("/predict", self._predict, method="POST"),
            route("/see", self._see, method="POST"),
            route("/metrics", self._metrics),
            route("/v2", self._server_metadata),
            route("/v2/health/live", self._live, free=True),
            route("/v2/health/ready", self._is_ready, free=True),
            *(route(path, self._model_metadata) for path in (model, versioned)),
            *(route(f"{path}/ready", self._model_ready) for path in (model, versioned)),
            *(route(f"{path}/infer", self._infer, method="POST") for path in (model, versioned)),
        ]

    # ---- models

    def _model(self, name: str | None, ready: bool = True) -> Model:
        """A model by its name, the only one without; Refusal (404, 400) for another, (503) for one not ready yet."""
        if name is None and len(self.models) == 1:
            (name,) = self.models
        if name is None:
            raise Refusal(400, f"this server has several models; add ?model= and one of {', '.join(self.models)}.")
        model = self.models.get(name)
        if model is None:
            raise Refusal(404, f"there is no model {name[:80]!r}; {nearest(name[:80], [*self.models])}")
        if ready and not model.ready:
            raise Refusal(503, f"the model {name} is not ready yet: its programs are being compiled.", again=5)
        return model

    def _named_model(self, request: Request, ready: bool = True) -> Model:
        version = request.path_params.get("version", protocol.VERSION)
        if version != protocol.VERSION:
            raise Refusal(404, f"there is no version {version[:80]!r} of a model; expected {protocol.VERSION}.")
        return self._model(request.path_params["model"], ready)

    # ---- files in, records out

    async def _predict(self, request: Request) -> Response:
        model, began = self._model(request.query_params.get("model")), time.perf_counter()
        top, masks = _whole_number(request, "top", 5), request.query_params.get("masks") == "png"
        async with self._inputs(request) as inputs:
            asked = (model.predict(source, index, top, masks) for index, source in enumerate(inputs))
            found = await asyncio.gather(*asked, return_exceptions=True)
        results = [each for each in found if isinstance(each, dict)]
        self.metrics.files(model.name, len(results))
        document = {"model": model.name, "task": model.task.name, "results": results, "errors": []}
        document["seconds"] = round(time.perf_counter() - began, 4)
        for each in found:
            if isinstance(each, BaseException) and not isinstance(each, Refusal):
                raise each
        failed = [(index, each) for index, each in enumerate(found) if isinstance(each, Refusal)]
        if failed:
            names = [getattr(source, "name", f"input {index}") for index, source in enumerate(inputs)]
            document["errors"] = [{"file": names[index], "error": str(each)} for index, each in failed]
            first = failed[0][1]
            raise Refusal(first.status, first.sentence, details=document)
        return JSONResponse(document)

    async def _see(self, request: Request) -> Response:
        model, began = self._model(request.query_params.get("model")), time.perf_counter()
        async with self._inputs(request, most=1) as inputs:
            found = await model.look(inputs[0], 0)
        return JSONResponse({"model": model.name, **found, "seconds": round(time.perf_counter() - began, 4)})

    @contextlib.asynccontextmanager
    async def _inputs(self, request: Request, most: int | None = None) -> AsyncIterator[list[Any]]:
        """The files and arrays of a request, which count as at work while the block lasts."""
        most, bytes_ = most or self.settings.queue, self.settings.body
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.gate.room())
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind == "multipart/form-data":
                inputs: list[Any] = await bodies.files_of_form(request, bytes_, most)
            elif kind == "application/json":
                body = await bodies.whole_body(request, bytes_)
                inputs = await asyncio.get_running_loop().run_in_executor(self.pool, bodies.inputs_of_json, body, most)
            else:
                raise Refusal(415, f"the body is of the type {kind[:80]!r}; {bodies.EXPECTED}.")
            if not inputs:
                raise Refusal(400, f"the request holds no input; {bodies.EXPECTED}.")
            await stack.enter_async_context(self.gate.room(len(inputs) - 1))
            yield inputs

    # ---- the protocol

    async def _infer(self, request: Request) -> Response:
        model, loop = self._named_model(request), asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.gate.room())
            body = await bodies.whole_body(request, self.settings.body)
            length = request.headers.get(protocol.HEADER_LENGTH)
            call = await loop.run_in_executor(self.pool, protocol.read_call, body, length, model, self.settings.queue)
            await stack.enter_async_context(self.gate.room(len(call.examples) - 1))
            predictions = await model.infer(call.examples)
            content, headers = await loop.run_in_executor(self.pool, protocol.write_answer, call, predictions, model)
        return Response(content, headers=headers)

    async def _server_metadata(self, request: Request) -> Response:
        del request
        return JSONResponse({"name": "unireplknet_jax", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def _model_metadata(self, request: Request) -> Response:
        return JSONResponse(protocol.model_metadata(self._named_model(request)))

    async def _live(self, request: Request) -> Response:
        del request
        return JSONResponse({"live": True})

    async def _is_ready(self, request: Request) -> Response:
        del request
        return JSONResponse({"ready": self.ready}, 200 if self.ready else 503)

    async def _model_ready(self, request: Request) -> Response:
        model = self._named_model(request, ready=False)
        return JSONResponse({"name": model.name, "ready": model.ready}, 200 if model.ready else 503)

    # ---- the page

    async def _page(self, request: Request) -> Response:
        name, kind = _PAGE[request.url.path.rpartition("/")[2]]
        content = (PAGE / name).read_bytes()
        return Response(content, media_type=kind, headers=_HEADERS | {"Cache-Control": "no-cache"})

    async def _describe(self, request: Request) -> Response:
        """What the page needs to know of the models."""
        del request
        models = [
            {
                **{"name": model.name, "task": model.task.name, "ready": model.ready, "sees": model.sees},
                **{"labels": [*model.checkpoint.labels], "suffixes": [*model.task.suffixes]},
                "colours": [*getattr(model.task, "palette", ())],
                "score": getattr(model.task, "score", None),
            }
            for model in self._all
        ]
        limits = {name: getattr(self.settings, name) for name in ("body", "pixels", "seconds", "queue", "time")}
        names = [example.name for example in self._examples]
        return JSONResponse({"version": __version__, "models": models, "limits": limits, "examples": names})

    async def _example(self, request: Request) -> Response:
        number = request.path_params["number"]
        example = {str(index): example for index, example in enumerate(self._examples)}.get(number)
        if example is None:
            raise Refusal(404, f"there is no example {number[:80]!r}.")
        return Response(bytes(example), media_type="application/octet-stream", headers=_HEADERS)

    async def _metrics(self, request: Request) -> Response:
        del request
        models = [
            (model.name, model.ready, model.batcher.waiting(), model.programs.compiled)
            for model in self.models.values()
        ]
        return Response(
            self.metrics.text(self.gate.busy, models), media_type="text/plain; version=0.0.4; charset=utf-8"
        )


def _whole_number(request: Request, name: str, default: int) -> int:
    """A positive number of the address; Refusal (400) for what is none."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and int(text[:9]) > 0):
        raise Refusal(400, f"{name} is {text[:40]!r}; expected a whole number from 1 on.")
    return int(text[:9])


async def _no_such_address(request: Request, error: Any) -> Response:
    """The answer to an address or a method that there is not; error: an HTTPException."""
    there = f"{request.method} {request.url.path[:80]} is no address of this server: {error.detail}."
    response = refused(Refusal(error.status_code, there))
    response.headers.update(error.headers or {})  # of a method that there is not: those that there are
    return response
