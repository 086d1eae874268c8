"""Where data sets that are made up on this machine lie, and how a split of one is made once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from unireplknet_jax.data.files import staging

_log = logging.getLogger(__name__)


def cache_folder(name: str) -> Path:
    """The folder of a data set among the user's caches."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "unireplknet_jax" / name


def make_split(path: Path, make: Callable[[Path], None], doing: str) -> None:
    """Call make(folder) if the folder `path` is missing; it appears whole or not at all, whoever else makes it, too.

    doing: what is logged before, as in "rendering 240 videos".
    """
    if path.is_dir():
        return
    _log.info("%s into %s", doing, path)
    with staging(path) as folder:
        make(folder)
