"""ONNX Runtime Web: the files of its npm package that a page needs, fetched once and kept.

Two builds: WebAssembly alone, and one with WebGPU for browsers whose WebAssembly can wait (JSPI). The binaries are
packed by gzip, to a quarter, because few servers of files pack what they send.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, cast

from unireplknet_jax.data.files import staging
from unireplknet_jax.models.program import announced

VERSION = "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
BINARIES = ("ort-wasm-simd-threaded.wasm", "ort-wasm-simd-threaded.jspi.wasm")
SCRIPTS = ("ort.wasm.bundle.min.mjs", "ort.jspi.bundle.min.mjs")
_REGISTRY = "https://registry.npmjs.org"
_PACKAGE = f"onnxruntime-web-{VERSION}"
_PATIENCE = 20.0  # seconds that the registry may be silent


def files(package: str | os.PathLike[str] | None = None) -> dict[str, bytes]:
    """{name: contents} of what a page needs to run a network.

    package: the file that `npm pack onnxruntime-web@VERSION` makes; None: kept ones, or fetched from npm's registry,
    which the variable npm_config_registry may name. Raises ConnectionError where that cannot be reached, ValueError for
    a file that is not the package of this version, and OSError for one that cannot be read.
    """
    if package is not None:
        return _unpacked(Path(package).read_bytes(), os.fspath(package))
    kept = _cache()
    if not kept.is_dir():
        address = f"{_registry().rstrip('/')}/onnxruntime-web/-/{_PACKAGE}.tgz"
        with announced(f"fetching {address}"):
            found = _unpacked(_fetched(address), address)
        with staging(kept) as folder:
            for name, contents in found.items():
                (folder / name).write_bytes(contents)
    return {file.name: file.read_bytes() for file in kept.iterdir()}


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "unireplknet_jax" / _PACKAGE


def _registry() -> str:
    """npm reads its variables in either case."""
    return next((value for name, value in os.environ.items() if name.lower() == "npm_config_registry"), _REGISTRY)


def _fetched(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=_PATIENCE) as answer:
            contents: bytes = answer.read()
    except (OSError, ValueError) as error:  # ValueError: of an address that is none
        why = getattr(error, "reason", None) or error
        raise ConnectionError(
            f"{address} could not be fetched ({why}); run `npm pack onnxruntime-web@{VERSION}` where there is a "
            "network, and give the file that it makes with --onnxruntime-web."
        ) from error
    return contents


def _unpacked(package: bytes, name: str) -> dict[str, bytes]:
    if base64.b64encode(hashlib.sha512(package).digest()).decode() != SHA512:
        raise ValueError(
            f"{name} is not {_PACKAGE} as npm's registry has it: its SHA-512 is another; give the file that "
            f"`npm pack onnxruntime-web@{VERSION}` makes."
        )
    found = {}
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        for member in (*SCRIPTS, *BINARIES):
            contents = cast(IO[bytes], archive.extractfile(f"package/dist/{member}")).read()
            if member in BINARIES:
                found[f"{member}.gz"] = gzip.compress(contents, mtime=0)
            else:  # servers that do not know .mjs send it as a kind of file that browsers do not run
                found[member.replace(".mjs", ".js")] = contents
    return found
