"""A page that shows what a network says, without a server of its own: a folder for any server of files.

It is the page of `serve`, and in place of the server a worker (`page/network.js`) with the network as an ONNX graph in
ONNX Runtime Web.
"""

from __future__ import annotations

import importlib.resources
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.models.shapes import map_size
from unireplknet_jax.tasks import onnx_file, web_runtime
from unireplknet_jax.tasks.checkpoint import short_name
from unireplknet_jax.tasks.predict import with_labels

NETWORK = "network.onnx"
PAGE = importlib.resources.files(__package__) / "page"
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'"
)
_CHECKED = 16  # classes whose logits tell whether a browser computes right


def write(
    path: Path,
    checkpoint: Any,
    card: Mapping[str, Any],
    half: bool = True,
    examples: Sequence[EncodedFile] = (),
    onnxruntime_web: Any = None,
) -> None:
    """Fill a folder with a merged checkpoint, the page and what runs them; options as of `export`.

    Raises ValueError for a network that the page cannot feed, and what `web_runtime.files` raises.
    """
    task, canvas = checkpoint.task, onnx_file.canvas_of(checkpoint.task)
    _check_inputs(task, canvas)
    runtime = web_runtime.files(onnxruntime_web)
    graph = onnx_file.model(checkpoint, card, half, evidence=task.name == "classification")
    (path / NETWORK).write_bytes(graph.SerializeToString())
    pictures = _write_files(path, runtime, examples)
    named, _ = with_labels(checkpoint, checkpoint.path or "the checkpoint")
    description = {
        **card,
        "name": short_name(checkpoint.path) if checkpoint.path else task.name,
        "labels": named.labels,
        "colours": getattr(task, "palette", ()),
        "channels": len(task.mean),
        "canvas": canvas,
        "sees": task.name == "classification" and math.prod(map_size(canvas, 3)) > 1,
        "tint": _tint(),
        "examples": pictures,
        "check": _check(path, task, canvas),
    }
    (path / "network.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def opened(path: Path) -> tuple[dict[str, Any] | None, str, Any]:
    """As `onnx_file.opened`, of the graph in the folder."""
    return onnx_file.opened(path / NETWORK)


def _check_inputs(task: Any, canvas: tuple[int, int]) -> None:
    if len(task.mean) not in (1, 3):
        raise ValueError(f"a browser gives pictures of 3 channels, and this network takes {len(task.mean)}.")
    if task.name == "classification":
        return
    if getattr(task, "mode", "whole") != "whole" or task.scales != (1.0,) or task.mirror:
        raise ValueError(
            "the page shows a picture to the network once and whole, and this checkpoint sees windows, several scales "
            "or mirrored views; export one of mode whole, of the scale 1 alone and without mirror."
        )
    if task.scale is None or max(task.scale) > min(canvas):
        raise ValueError(
            f"the page brings every picture into one canvas, and {task.scale} does not fit into {canvas[0]} x "
            f"{canvas[1]}; give --image-size N for one that does."
        )


def _write_files(path: Path, runtime: Mapping[str, bytes], examples: Sequence[EncodedFile]) -> list[dict[str, str]]:
    """Write the page, the runtime with its licence, and the examples; -> what the page has to know of these."""
    for file in PAGE.iterdir():
        if file.name != "page.html":
            (path / file.name).write_bytes(file.read_bytes())
    html = (PAGE / "page.html").read_text(encoding="utf-8")
    html = html.replace('<html lang="en">', '<html lang="en" data-network="network.js">')
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    html = html.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n  {policy}')
    (path / "index.html").write_text(html, encoding="utf-8")
    (path / "onnxruntime").mkdir()
    for name, contents in {**runtime, **_licences()}.items():
        (path / "onnxruntime" / name).write_bytes(contents)
    found = []
    for number, example in enumerate(examples):
        name = PurePath(example.name).name
        place = f"examples/{number}{PurePath(name).suffix.lower()}"
        (path / "examples").mkdir(exist_ok=True)
        (path / place).write_bytes(example)
        found.append({"name": name, "file": place})
    return found


def _licences() -> dict[str, bytes]:
    """Those of ONNX Runtime, of which the package for Python, with the same sources, has copies."""
    import onnxruntime

    folder = Path(onnxruntime.__file__).parent
    return {name: (folder / name).read_bytes() for name in ("LICENSE", "ThirdPartyNotices.txt")}


def _check(path: Path, task: Any, canvas: tuple[int, int]) -> dict[str, Any]:
    """What the graph gives of a picture that `network.js` makes, too: of some classes the mean of their logits over all
    positions, and the standard deviation of all logits.
    """
    shape = (1, len(task.mean), *canvas)
    pixels = np.moveaxis((np.arange(math.prod(shape)) % 251).astype(np.uint8).reshape(shape), 1, -1)
    whole = {"image": pixels}
    if task.name == "segmentation":
        whole = {"image_0": pixels[:, None], "size_0": np.array([[canvas]], np.int32)}
    found = opened(path)[2](whole)
    logits = found["logits_0" if "image_0" in whole else "logits"]
    means = logits.reshape(-1, logits.shape[-1]).mean(axis=0)
    return {"logits": means[:_CHECKED].tolist(), "deviation": float(logits.std())}


def _tint() -> list[list[float]]:
    """The colours of `see_plot.overlay`, from 0 to 255."""
    from matplotlib import colormaps

    colours = 255 * colormaps["turbo"](np.arange(256))[:, :3]
    return [[round(float(value), 2) for value in colour] for colour in colours]
