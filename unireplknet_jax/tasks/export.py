"""A checkpoint for another runtime: merged, with its preparation and its card, compared with itself, in one file."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax import __version__
from unireplknet_jax.data.files import EncodedFile, staging, whole_file
from unireplknet_jax.tasks import made_up
from unireplknet_jax.tasks.artefact import FORMATS, Runtime, module_of, open_artefact
from unireplknet_jax.tasks.base import Example, Split
from unireplknet_jax.tasks.checkpoint import Checkpoint, require_weights
from unireplknet_jax.tasks.onnx_int8 import Integers, quantize
from unireplknet_jax.tasks.predict import predictor, require_classifier, with_image_size
from unireplknet_jax.tasks.sources import sources_of

# half or not -> the largest difference, of logits of standard deviation 1, that rounding explains: of T it is up to
# 6e-6, of an A whose maps grow to 1e4 1.1e-5; 2e-3 where weights have half of their digits.
TOLERANCE = {False: 5e-5, True: 1e-2}
# Which formats have an option; a program of StableHLO takes any batch.
_OPTIONS = {
    "half": ("stablehlo", "onnx", "openvino", "web", "triton"),
    "batch": ("onnx", "openvino", "litert"),
    "opset": ("onnx", "triton"),
    "examples": ("web",),
    "onnxruntime_web": ("web",),
}
_MULTIPLE = 32  # of which an image size has to be: the stride of the last map
_LARGE = 2**20  # values of an example, above which fewer are compared


class Exported(NamedTuple):
    """What was written: its format, bytes, the largest difference from the checkpoint, the share of examples (or
    pixels, or objects) that keep their class, None where there is none, the runtime, and what was compared.
    """

    format: str
    size: int
    difference: float
    kept: float | None
    runtime: str
    examples: str
    integers: Integers | None = None  # of a file in integers


def export(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    image_size: int | None = None,
    half: bool = False,
    batch: int | None = None,
    opset: int | None = None,
    calibrate: Any = None,
    data: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    examples: Sequence[EncodedFile] = (),
    onnxruntime_web: str | os.PathLike[str] | None = None,
) -> Exported:
    """Write a checkpoint as a file for another runtime, after running it there on the data of the checkpoint.

    "web" is a folder, a page that shows what the network says without a server of its own, and always in half; "triton"
    the folder of a model in a repository of NVIDIA's Triton, which is called as the folder is.

    checkpoint: as `open_checkpoint` gives it; it is merged and computes in float32. format: of `FORMATS`, None: by the
    ending of the path. image_size: as of `predict`, of a task on canvases both sides of the only one. half: large
    weights are stored as float16. batch: the one number of examples that it takes at a time, None: any number, in
    LiteRT 1; StableHLO takes any. opset: of ONNX. calibrate: pictures as `predict` takes them; the convolutions of an
    ONNX file then compute in integers of 8 bits, as many as the accuracy bears (`onnx_int8.quantize`). data: where that
    is measured, a recipe's `data` with a "split"; None: the data of the checkpoint. examples: pictures that the page
    offers; onnxruntime_web: the file that `npm pack` makes of ONNX Runtime Web, None: it is fetched once
    (`tasks.web_runtime`).
    Raises ValueError for what a format cannot hold and for a file that gives other numbers (`TOLERANCE`), ImportError
    where a library is missing, and OSError for a path that cannot be written; then nothing is left behind.
    """
    form = format_for(path, format)
    half = half or form == "web"
    given = {"half": half or None, "batch": batch, "opset": opset, "examples": examples or None}
    options = _options(form, given | {"onnxruntime_web": onnxruntime_web})
    destinations = check_destination(path, form, overwrite)
    _check_source(checkpoint, form)
    module = module_of(form, "write")
    merged = _ready(checkpoint, image_size)
    pictures = None if calibrate is None else sources_of(calibrate)
    split = None if pictures is None else _measured_on(merged, form, half, pictures, data)
    batch = 1 if batch is None and form == "litert" else batch
    compared, told = _examples(merged)
    folder = bool(FORMATS[form].marks)
    with staging(destinations[0].absolute(), replace=overwrite) if folder else whole_file(*destinations) as part:
        module.write(part, merged, card_of(merged, form, batch), **options)
        runtime = open_artefact(part, form)[1]
        difference, kept = compare(merged, runtime, compared)
        if not difference <= TOLERANCE[half]:
            raise ValueError(
                f"in {runtime.name} the {form} file differs by {difference:.2g} from the checkpoint, where logits have "
                f"the standard deviation 1, which exceeds {TOLERANCE[half]:g}; nothing was written."
            )
        integers = None
        if pictures is not None and split is not None:
            integers = quantize(part, merged.task, batch, pictures, split)
            difference, kept = compare(merged, open_artefact(part, form)[1], compared)
        files = part.rglob("*") if folder else [part.with_suffix(end.suffix) for end in destinations]
        size = sum(file.stat().st_size for file in files if file.is_file())
    return Exported(form, size, difference, kept, runtime.name, told, integers)


def format_for(path: str | os.PathLike[str], format: str | None) -> str:
    """The name of the format that is asked for, or that the ending of a path names; ValueError where these differ."""
    suffix = Path(path).suffix.lower()
    endings = {known.suffix: name for name, known in FORMATS.items() if known.suffix}
    if format is None:
        found = endings.get(suffix)
        if found is None:
            shown = ", ".join(f"{ending} ({name})" for ending, name in endings.items())
            raise ValueError(
                f"{path} names no format; end it in one of {shown}, or give --format web or triton for a folder."
            )
        return found
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is unknown; expected one of {', '.join(FORMATS)}.")
    if FORMATS[format].suffix and suffix != FORMATS[format].suffix:
        raise ValueError(f"{path} does not end in {FORMATS[format].suffix}, as files of the format {format} do.")
    return format


def check_destination(path: str | os.PathLike[str], form: str, overwrite: bool = False) -> list[Path]:
    """The files that an export writes, or the folder; OSError for one that may not be written."""
    path = Path(path)
    files = [path, *(path.with_suffix(suffix) for suffix in FORMATS[form].beside)]
    marks = FORMATS[form].marks
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist; create it first.")
    for file in files:
        if file.is_dir() and not marks:
            raise IsADirectoryError(f"{file} is a folder; choose the name of a file.")
        if file.exists() and marks and not all((file / mark).is_file() for mark in marks):
            raise FileExistsError(f"{file} is there and is no folder that such an export wrote; choose another name.")
        if file.exists() and not overwrite:
            raise FileExistsError(f"{file} exists already; remove it, choose another name, or give --overwrite.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"the folder {folder} cannot be written to; choose another one.")
    return files


def _options(form: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the function that writes a format; ValueError for one that it does not have."""
    if given["batch"] is not None and given["batch"] < 1:
        raise ValueError(f"--batch is {given['batch']}; expected 1 or more.")
    for name in given:
        if given[name] is not None and form not in _OPTIONS[name]:
            flag, known = name.replace("_", "-"), ", ".join(_OPTIONS[name])
            raise ValueError(f"the format {form} has no --{flag}, which is for {known}; leave it out.")
    return {name: value for name, value in given.items() if value is not None and name != "batch"}


def _check_source(checkpoint: Checkpoint, form: str) -> None:
    """Raise ValueError for a checkpoint that a format cannot hold."""
    require_weights(checkpoint)
    require_classifier(checkpoint)
    name, tasks = checkpoint.task.name, FORMATS[form].tasks
    if tasks and name not in tasks:
        others = [other for other, known in FORMATS.items() if not known.tasks or name in known.tasks]
        raise ValueError(f"the format {form} is for {' and '.join(tasks)}, not for {name}; give {' or '.join(others)}.")


def _ready(checkpoint: Checkpoint, image_size: int | None) -> Checkpoint:
    """The merged checkpoint in float32, for images of a size."""
    task = checkpoint.task
    if image_size is not None:
        if image_size < 1 or image_size % _MULTIPLE:
            raise ValueError(f"--image-size is {image_size}; expected a multiple of {_MULTIPLE}, the network's stride.")
        if "buckets" in task.options:
            canvas = (image_size, image_size)
            checkpoint = dataclasses.replace(
                checkpoint, task=dataclasses.replace(task, scale=canvas, buckets=(canvas,))
            )
        else:
            checkpoint = with_image_size(checkpoint, checkpoint.path or "the checkpoint", image_size)[0]
    task = checkpoint.task
    if "dtype" in task.options.get("model", {}):
        model = {name: value for name, value in task.options["model"].items() if name != "dtype"}
        task = dataclasses.replace(task, model=model)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), checkpoint.variables)
    merged = dataclasses.replace(checkpoint, task=task, variables=variables).in_merged_form()
    return dataclasses.replace(merged, merged=True)


def _measured_on(
    merged: Checkpoint, form: str, half: bool, pictures: Sequence[Any], data: Mapping[str, Any] | None
) -> Split:
    """The split on which a file in integers is measured; ValueError where there can be none."""
    if form != "onnx" or merged.task.name != "classification":
        raise ValueError("integers of 8 bits are for classifiers of pictures in ONNX; leave out --int8.")
    if half:
        raise ValueError("weights are stored as float16 or as integers, not both; leave out --half or --int8.")
    if not pictures:
        raise ValueError("there is no picture to calibrate on; give some like those that the network will see.")
    data = data or merged.data
    if not data:
        raise ValueError(
            "the accuracy in integers has to be measured, and the checkpoint does not say which data it belongs to; "
            "name them, for example --data folder --data-dir flowers --split val."
        )
    return merged.task.open(data, data.get("split") or data.get("eval_split", "test"))


def card_of(merged: Checkpoint, form: str, batch: int | None) -> dict[str, Any]:
    """What an artefact says of itself: the card of its checkpoint, without the folder that its data lay in."""
    task = merged.task
    data = {name: value for name, value in (merged.data or {}).items() if name != "dir"}
    return {
        "format": form,
        "task": task.name,
        "options": task.options,
        "labels": task.labels,
        "form": "merged",
        "data": data or None,
        "source": merged.source,
        "preprocessing": task.preparation_rules,
        "batch": batch,
        "kinds": [{name: [*leaf.shape] for name, leaf in spec.inputs.items()} for spec in task.specs(train=False)],
        "versions": {
            "unireplknet_jax": __version__,
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
    }


def _examples(merged: Checkpoint) -> tuple[list[Example], str]:
    """(a few examples that a network may meet, what they are of): of the data of the checkpoint, where these are there,
    else made up.
    """
    task, data = merged.task, merged.data
    shapes = task.specs(train=False)[0].inputs.values()
    count = 8 if sum(int(np.prod(leaf.shape)) for leaf in shapes) <= _LARGE else 2
    if data:
        try:
            name = data.get("eval_split", "test")
            found = task.examples(task.open(data, name), train=False)
            places = np.unique(np.linspace(0, len(found) - 1, count).astype(int))
            return [found[int(place)] for place in places], f"{len(places)} examples of {data['name']}, {name}"
        except (ValueError, OSError, ImportError):  # the data may be on another machine
            pass
    found = made_up.examples(task, count)
    return found, f"{len(found)} made-up examples"


def compare(merged: Checkpoint, runtime: Runtime, examples: Sequence[Example]) -> tuple[float, float | None]:
    """(the largest difference between what a checkpoint and its artefact give, the share of classes that are kept).

    Differences of logits and other numbers are in units of their standard deviation, those of scores and of the
    probabilities of masks in 1.
    """
    expected = predictor(merged)(examples)
    found = predictor(dataclasses.replace(merged, variables={}, runtime=runtime))(examples)
    units, differences, kept = _units(expected), [0.0], list[np.ndarray]()
    for ours, theirs in zip(expected, found, strict=True):
        for name, value in ours.items():
            other = theirs[name]
            if np.issubdtype(value.dtype, np.floating):
                differences.append(float(np.max(np.abs(value - other), initial=0.0)) / units[name])
            else:
                kept.append(np.ravel(value == other))
            if name.startswith("logits"):
                kept.append(np.ravel(np.argmax(value, axis=-1) == np.argmax(other, axis=-1)))
    return float(np.max(differences)), float(np.mean(np.concatenate(kept))) if kept else None


def _units(found: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """What the differences of each output are measured in."""
    units = {
        name: float(np.std(np.concatenate([np.ravel(one[name]) for one in found]))) or 1.0
        for name, value in found[0].items()
        if np.issubdtype(value.dtype, np.floating)
    }
    units |= dict.fromkeys((name for name in units if name.startswith(("scores_", "masks_"))), 1.0)
    if "scores" in units and "logits" in units:
        units["scores"] = max(1.0, units["logits"])
    return units
