"""What tests send to a server, and how they compare what it answers."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image


def form(*files):
    """Paths, or (name, bytes), as the files of a form."""
    parts = [(file.name, file.read_bytes()) if isinstance(file, Path) else file for file in files]
    return [("file", part) for part in parts]


def png(height, width, **options):
    """The bytes of a picture of one colour."""
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 9, np.uint8)).save(file, format="PNG", **options)
    return file.getvalue()


def close_to(found, expected):
    """Whether records have the same classes in the same order, and scores within 1e-5."""
    return all(
        [row["label"] for row in a["predictions"]] == [row["label"] for row in b["predictions"]]
        and np.allclose(
            [row["score"] for row in a["predictions"]], [row["score"] for row in b["predictions"]], rtol=0, atol=1e-5
        )
        for a, b in zip(found, expected, strict=True)
    )


class Process:
    """`unireplknet serve` as a process of its own, ready or not; `port`, and `lines`, what it has printed so far."""

    def __init__(self, *words, ready=True):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
        environment.pop("UNIREPLKNET_TOKEN", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "unireplknet_jax", "serve", *map(str, words), "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.lines, self._reader = [], threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(self._line("listening on ").split(":")[2].split(";")[0])
        if ready:
            self._line("ready after ")

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def _line(self, begin):
        for _ in range(3000):
            found = [line for line in self.lines if line.startswith(begin)]
            if found:
                return found[0]
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError(f"no line {begin!r} among {self.lines}")

    def memory(self):
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    def end(self):
        """Ask it to end; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()  # or it would outlive the tests
            raise
        self._reader.join(10)
        self.process.stderr.close()
        return code
