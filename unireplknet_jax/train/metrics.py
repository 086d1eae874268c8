"""Where numbers go: JSON lines, TensorBoard and the terminal; only process 0 writes."""

import json
import logging
import os
import pathlib
import time

import jax

_log = logging.getLogger(__name__)
FILE = "metrics.jsonl"


class MetricWriter:
    """Append {"step": ..., name: value} rows to metrics.jsonl and TensorBoard files in `workdir`."""

    def __init__(self, workdir, first_step=0):
        from tensorboardX import SummaryWriter

        self._main = jax.process_index() == 0
        if not self._main:
            return
        path = pathlib.Path(workdir) / FILE
        # A resumed run repeats the steps after its checkpoint: their old rows go.
        kept = [row for row in read_metrics(path) if row["step"] <= first_step]
        part = path.with_suffix(".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(part, path)  # whoever is killed here leaves the old rows or the new ones
        self._file = path.open("a", buffering=1)
        self._board = SummaryWriter(str(pathlib.Path(workdir) / "tensorboard"), purge_step=first_step + 1)

    def write(self, step, values):
        """values: {name: number}; names with a slash are grouped by TensorBoard."""
        if not self._main:
            return
        values = {name: float(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            if value == value:  # NaN is what the data have nothing for, such as objects of a size
                self._board.add_scalar(name, value, step)

    def write_images(self, step, name, images):
        """images: (n, h, w, 1 or 3) in 0..1, shown as one grid by TensorBoard; None: there are none."""
        if self._main and images is not None:
            self._board.add_images(name, images, step, dataformats="NHWC")
            self._board.flush()

    def flush(self):
        """Bring the files up to date; rows are on disk already."""
        if self._main:
            self._board.flush()

    def close(self):
        """Flush and close the files."""
        if self._main:
            self._file.close()
            self._board.close()


def read_metrics(path):
    """The rows of a metrics.jsonl; what a crash made of other lines (cut off, zeros, garbage) is left out."""
    text = pathlib.Path(path).read_text(errors="replace") if pathlib.Path(path).exists() else ""
    rows = map(_parse, text.splitlines())
    return [row for row in rows if isinstance(row, dict) and type(row.get("step")) is int]


def _parse(line):
    try:
        return json.loads(line)
    except ValueError:
        return None


class Progress:
    """How fast a run goes, and one line of progress now and then.

    utilization: the share of all devices' peak that one example a second takes; None: unknown.
    """

    def __init__(self, steps, steps_per_epoch, batch_size, first_step, utilization=None):
        self._steps, self._steps_per_epoch, self._batch_size = steps, steps_per_epoch, batch_size
        self._mark, self._seconds = (time.monotonic(), first_step), None
        self._utilization = utilization

    def measure(self, step):
        """{name: value} since the last call: examples and seconds of a step, device memory and utilization if known."""
        now, (then, last) = time.monotonic(), self._mark
        self._mark = (now, step)
        self._seconds = max(now - then, 1e-9) / (step - last)
        rate = self._batch_size / self._seconds
        measured = {"examples_per_second": rate, "seconds_per_step": self._seconds}
        memory = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        if memory:
            measured["device_memory_gib"] = memory / 2**30
        if self._utilization:
            measured["model_flops_utilization"] = rate * self._utilization
        return measured

    def restart(self, step):
        """Do not count what came since the last `measure` (compilation, an evaluation) as training."""
        self._mark = (time.monotonic(), step)

    def line(self, step, values):
        """Log one line."""
        left = (self._steps - step) * self._seconds
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        clock = f"{left // 3600:.0f}:{left // 60 % 60:02.0f}:{left % 60:02.0f}"
        _log.info("step %d/%d  epoch %.1f  %s  left %s", step, self._steps, step / self._steps_per_epoch, shown, clock)
