"""What whoever starts a server decides."""

from __future__ import annotations

import dataclasses
import os


@dataclasses.dataclass(frozen=True)
class Settings:
    """The limits of a server and what its models do.

    batch: examples that go through a network together at most; delay: seconds that a batch waits for more of them.
    body: bytes of a request; pixels and seconds: of a picture and of a sound or clip (`data.limits`). queue: files that
    are at work or wait, of all requests together; those beyond are told to come again. time: seconds for a request.
    threads: that decode files and make records. token: what requests must bear; None: nothing.
    """

    batch: int = 8
    delay: float = 0.005
    body: int = 32 * 2**20
    pixels: int = 50_000_000
    seconds: float = 300.0
    queue: int = 64
    time: float = 60.0
    threads: int = dataclasses.field(default_factory=lambda: max(2, min(4, os.cpu_count() or 2)))
    token: str | None = None
