"""Examples of many requests, gathered into batches and run on one thread."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence

from unireplknet_jax.serve.programs import Kind, Prediction, Programs
from unireplknet_jax.tasks.base import Example

Answer = concurrent.futures.Future[list[Prediction]]


@dataclasses.dataclass
class _Ticket:
    """What one caller gave: its predictions so far, how many are missing, and whom they go to."""

    answer: Answer
    found: list[Prediction]
    left: int
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def give(self, index: int, prediction: Prediction) -> None:
        with self.lock:
            self.found[index] = prediction
            self.left -= 1
            last = not self.left
        if last:
            with contextlib.suppress(concurrent.futures.InvalidStateError):  # nobody waits any more
                self.answer.set_result(self.found)

    def fail(self, error: BaseException) -> None:
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self.answer.set_exception(error)


@dataclasses.dataclass
class _Job:
    """One example of a ticket."""

    ticket: _Ticket
    index: int
    example: Example
    since: float


class Batcher:
    """Runs a model's programs on one thread, on batches of examples of one kind each, what waits longest first.

    A batch that is not full waits up to `delay` seconds for more, but only while `arriving()` says that requests are on
    their way. A kind without a program is compiled on a thread of its own, so that others do not wait for it.
    """

    def __init__(
        self,
        programs: Programs,
        delay: float,
        arriving: Callable[[], int] = lambda: 0,
        observe: Callable[[int], None] = lambda count: None,
    ) -> None:
        """observe: gets the number of examples of every batch."""
        self.programs, self.delay = programs, delay
        self._arriving, self._observe = arriving, observe
        self._waiting: dict[Kind, collections.deque[_Job]] = {}
        self._condition = threading.Condition()
        self._closed = False
        self._aside = concurrent.futures.ThreadPoolExecutor(1, "compile")
        self._thread = threading.Thread(target=self._work, name="network", daemon=True)
        self._thread.start()

    def submit(self, examples: Sequence[Example]) -> Answer:
        """The predictions of a file's examples, in order. Those of a future that was cancelled are not computed."""
        answer: Answer = concurrent.futures.Future()
        if not examples:
            answer.set_result([])
            return answer
        ticket, now = _Ticket(answer, [{}] * len(examples), len(examples)), time.monotonic()
        with self._condition:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            for index, example in enumerate(examples):
                kind = self.programs.kind_of(example)
                self._waiting.setdefault(kind, collections.deque()).append(_Job(ticket, index, example, now))
            self._condition.notify()
        return answer

    def waiting(self) -> int:
        """How many examples wait for a batch."""
        with self._condition:
            return sum(map(len, self._waiting.values()))

    def close(self) -> None:
        """Run what waits, and end the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join()
        self._aside.shutdown()

    def _work(self) -> None:
        while True:
            with self._condition:
                batch = self._next()
            if batch is None:
                return
            kind, size, jobs = batch
            if self.programs.is_warm(kind):
                self._run(kind, size, jobs)
            else:
                self._aside.submit(self._run, kind, size, jobs)

    def _next(self) -> tuple[Kind, int, list[_Job]] | None:
        """The next batch, waited for; None where there is none any more. Called with the lock."""
        while True:
            self._forget_cancelled()
            if not self._waiting:
                if self._closed:
                    return None
                self._condition.wait()
                continue
            kind, jobs = min(self._waiting.items(), key=lambda item: item[1][0].since)
            left = jobs[0].since + self.delay - time.monotonic()
            if len(jobs) < self.programs.most(kind) and left > 0 and self._arriving() and not self._closed:
                self._condition.wait(left)
                continue
            size = self.programs.size_for(kind, len(jobs))
            taken = [jobs.popleft() for _ in range(min(size, len(jobs)))]
            return kind, size, taken

    def _forget_cancelled(self) -> None:
        for kind in [*self._waiting]:
            left = [job for job in self._waiting[kind] if not job.ticket.answer.done()]
            if left:
                self._waiting[kind] = collections.deque(left)
            else:
                del self._waiting[kind]

    def _run(self, kind: Kind, size: int, jobs: Sequence[_Job]) -> None:
        try:
            jobs = [job for job in jobs if not job.ticket.answer.done()]
            if not jobs:
                return
            self._observe(len(jobs))
            for job, prediction in zip(jobs, self.programs.run(kind, size, [j.example for j in jobs]), strict=True):
                job.ticket.give(job.index, prediction)
        except Exception as error:  # of the network: it is those callers' error, and the thread goes on
            for job in jobs:
                job.ticket.fail(error)
