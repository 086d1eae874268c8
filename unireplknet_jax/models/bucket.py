"""Checkpoints in a bucket, gs://BUCKET/PATH: copied to this machine for as long as the process lives."""

from __future__ import annotations

import atexit
import importlib.util
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

_ADDRESS = re.compile(r"([a-z0-9]{2,}):/+(.+)")  # as pathlib writes it, too: gs:/BUCKET/PATH


def is_address(text: str) -> bool:
    """Whether a text is an address, and no path."""
    return bool(_ADDRESS.fullmatch(text)) and not Path(text).exists()


def fetch(text: str) -> Path:
    """Where a copy of the file or folder at an address lies.

    Raises ValueError for another address than gs://..., ImportError without the extra gcs, OSError where nothing is
    there or it cannot be copied.
    """
    kind, place = _ADDRESS.fullmatch(text).groups()  # type: ignore[union-attr]  # `is_address` has seen it
    address = f"{kind}://{place}"
    if kind != "gs":
        raise ValueError(f"{address} is neither a path nor a gs:// address; copy it to this machine first.")
    if importlib.util.find_spec("gcsfs") is None:
        raise ImportError(
            f"{address} needs the extra gcs: pip install 'unireplknet_jax[gcs]' (in a clone: -e '.[gcs]'), or copy it "
            "to this machine first."
        )
    folder = Path(tempfile.mkdtemp(prefix="unireplknet."))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source = _remote(address)
    try:
        if not source.exists():
            raise FileNotFoundError(f"{address} does not exist.")
        return _copy(source, folder / source.name)
    except FileNotFoundError:
        raise
    except Exception as error:  # no credentials, no permission, no network: gcsfs has many names for them
        raise OSError(f"{address} cannot be read: {_why(error)}.") from error


def _why(error: Exception) -> str:
    """What is to be done about an error of gcsfs or of what it stands on, as far as its text tells."""
    text = f"{type(error).__name__} {error}".lower()
    if re.search(r"anonymous|credential|unauthenticated|\b401\b|refresherror", text):
        return "log in with `gcloud auth application-default login`"
    if re.search(r"permission|forbidden|\b403\b", text):
        return "this account may not; ask its owner for the role Storage Object Viewer"
    if re.search(r"connect|timeout|timed out|network|dns|resolve", text):
        return "the server cannot be reached from here"
    return "copy it to this machine by other means, for example with `gcloud storage cp -r`"


def _remote(address: str) -> Any:
    from etils import epath

    return epath.Path(address)


def _copy(source: Any, target: Path) -> Path:
    if source.is_dir():
        target.mkdir()
        for each in source.iterdir():
            _copy(each, target / each.name)
    else:
        target.write_bytes(source.read_bytes())
    return target
