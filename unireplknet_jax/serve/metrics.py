"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from unireplknet_jax import __version__

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server; their names are those of docs/serving.md."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "unireplknet_requests",
            "Requests by what they asked and how they ended.",
            ["path", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "unireplknet_request_seconds",
            "From a request's head to its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._files = Counter(
            "unireplknet_files", "Files and arrays that were answered.", ["model"], registry=self._registry
        )
        self._batches = Histogram(
            "unireplknet_batch_examples", "Examples in a batch.", ["model"], buckets=_SIZES, registry=self._registry
        )
        self._busy = Gauge("unireplknet_files_at_work", "Files at work or waiting.", registry=self._registry)
        self._waiting = Gauge(
            "unireplknet_examples_waiting", "Examples that wait for a batch.", ["model"], registry=self._registry
        )
        self._programs = Gauge(
            "unireplknet_programs", "Programs that were compiled.", ["model"], registry=self._registry
        )
        self._ready = Gauge("unireplknet_ready", "1 once all programs are warm.", ["model"], registry=self._registry)
        Gauge("unireplknet_version", "The version.", ["version"], registry=self._registry).labels(__version__).set(1)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def files(self, model: str, count: int) -> None:
        """Count files that were answered."""
        self._files.labels(model).inc(count)

    def batch(self, model: str, examples: int) -> None:
        """Count a batch."""
        self._batches.labels(model).observe(examples)

    def text(self, busy: int, models: Iterable[tuple[str, bool, int, int]]) -> bytes:
        """All numbers. models: (name, ready, examples that wait, programs)."""
        self._busy.set(busy)
        for name, ready, waiting, programs in models:
            self._ready.labels(name).set(ready)
            self._waiting.labels(name).set(waiting)
            self._programs.labels(name).set(programs)
        return generate_latest(self._registry)
