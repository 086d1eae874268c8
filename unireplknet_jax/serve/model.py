"""A checkpoint that answers: bytes in, the records of `predict` out."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import functools
import io
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from unireplknet_jax.data.base import finite
from unireplknet_jax.data.limits import Limits, limited
from unireplknet_jax.serve.batcher import Batcher
from unireplknet_jax.serve.programs import Programs
from unireplknet_jax.serve.refusal import Refusal
from unireplknet_jax.serve.settings import Settings
from unireplknet_jax.tasks.base import Example, Record, Task
from unireplknet_jax.tasks.checkpoint import Checkpoint
from unireplknet_jax.tasks.predict import shown
from unireplknet_jax.tasks.sources import named

T = TypeVar("T")


class Model:
    """A checkpoint under a name, with its programs, its batcher and the threads that read files for it."""

    def __init__(
        self,
        name: str,
        checkpoint: Checkpoint,
        settings: Settings,
        pool: concurrent.futures.Executor,
        observe: Callable[[int], None] = lambda count: None,
    ) -> None:
        """checkpoint: in the form that is to compute, named classes and all. pool: threads, which models share.

        observe: gets the number of examples of every batch.
        """
        self.name, self.checkpoint, self.task = name, checkpoint, checkpoint.task
        self.programs = Programs(checkpoint, settings.batch)
        self.ready = False
        self.arriving = 0  # files that are being read, and so will wait for a batch soon
        self.batcher = Batcher(self.programs, settings.delay, lambda: self.arriving, observe)
        self._pool, self._limits = pool, Limits(settings.pixels, settings.seconds)
        self._looking = concurrent.futures.ThreadPoolExecutor(1, "look")

    def warm(self) -> None:
        """Compile what requests need."""
        self.programs.warm()
        self.ready = True

    def close(self) -> None:
        """Answer what waits, and end the threads."""
        self.batcher.close()
        self._looking.shutdown(cancel_futures=True)

    @property
    def sees(self) -> bool:
        """Whether `look` works for this task."""
        return type(self.task).seen is not Task.seen and bool(self.checkpoint.variables)

    async def predict(self, source: Any, index: int, top: int, masks: bool) -> dict[str, Any]:
        """{"file", "records"} of an input, as `unireplknet predict --json` has them.

        source: a file's bytes or an array; index: its place in the request. masks: add to a record of a task with masks
        the picture of the mask, "mask", a PNG in base64. Raises Refusal (400), the sentence that the command prints.
        """
        with self._on_the_way():
            examples = await self._in_pool(self._read, source, index)
        with _refused(source, index):
            predictions = await asyncio.wrap_future(self.batcher.submit(examples))
        return await self._in_pool(self._answer, source, index, examples, predictions, top, masks)

    async def infer(self, examples: Sequence[Example]) -> list[dict[str, np.ndarray]]:
        """What the network says of examples of the shapes of `Task.specs`."""
        return await asyncio.wrap_future(self.batcher.submit(examples))

    async def look(self, source: Any, index: int) -> dict[str, Any]:
        """What the network looks at in an input: its class, and pictures in base64.

        "picture": as the network saw it; "evidence": tinted where it speaks for the class, None where nothing tells;
        "field": the contribution of each pixel to the middle of the last map.
        """
        if not self.checkpoint.variables:
            raise Refusal(400, f"{self.name} was exported, and what it looks at takes the weights of its checkpoint.")
        if not self.sees:
            raise Refusal(400, f"the network of the task {self.task.name} sees no single picture of an input.")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._looking, self._look, source, index)

    # ---- in threads

    async def _in_pool(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    @contextlib.contextmanager
    def _on_the_way(self) -> Any:
        self.arriving += 1
        try:
            yield
        finally:
            self.arriving -= 1

    def _read(self, source: Any, index: int) -> list[Example]:
        with limited(self._limits), _refused(source, index):
            return self.task.read(source)

    def _answer(
        self,
        source: Any,
        index: int,
        examples: Sequence[Example],
        predictions: Sequence[dict[str, np.ndarray]],
        top: int,
        masks: bool,
    ) -> dict[str, Any]:
        with _refused(source, index):
            made = [self.task.record(pred, example) for pred, example in zip(predictions, examples, strict=True)]
            records: list[Record] = self.task.combined([record for record in made if record is not None])
        found = shown(self.task, records, top)
        for record, row in zip(records, found, strict=True):
            for name in [name for name, value in row.items() if hasattr(value, "dtype")]:
                del row[name]  # maps of a picture's size
            if masks and hasattr(self.task, "mask"):
                row["mask"] = png(self.task.mask(record))
        return {"file": getattr(source, "name", f"input {index}"), "records": finite(found)}

    def _look(self, source: Any, index: int) -> dict[str, Any]:
        from unireplknet_jax.tasks.see import see_files
        from unireplknet_jax.tasks.see_plot import overlay

        with limited(self._limits), _refused(source, index):
            (sight,) = see_files(self.checkpoint, [source], network=self._looker)
        if sight.error or sight.seen is None or sight.contribution is None:
            raise Refusal(400, named(source, index, sight.error or "there is nothing in it to look at"))
        evidence = None if sight.activation is None else overlay(sight.seen.picture, sight.activation)
        return {
            **{"class": sight.label, "index": sight.index, "score": sight.score},
            "picture": png(Image.fromarray(sight.seen.picture)),
            "evidence": None if evidence is None else png(Image.fromarray(evidence)),
            "field": png(_field(sight.contribution)),
        }

    @functools.cached_property
    def _looker(self) -> Any:
        from unireplknet_jax.tasks.see import looker

        return looker(self.checkpoint)


@contextlib.contextmanager
def _refused(source: Any, index: int) -> Any:
    """Make of an error about a file the answer to its request: the sentence that the command prints."""
    try:
        yield
    except MemoryError as error:
        raise Refusal(413, named(source, index, "the memory does not suffice for it")) from error
    except ImportError as error:
        raise Refusal(501, " ".join(str(error).split())) from error
    except (ValueError, OSError) as error:
        raise Refusal(400, named(source, index, str(error))) from error


def png(picture: Image.Image) -> str:
    """A picture as a PNG in base64."""
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def _field(contribution: np.ndarray) -> Image.Image:
    """(h, w) contributions as colours on a logarithmic scale of four powers of ten."""
    from matplotlib import colormaps

    share = np.log10(np.clip(contribution / (contribution.max() or 1.0), 1e-4, 1)) / 4 + 1
    return Image.fromarray(colormaps["viridis"](share, bytes=True)[..., :3])
