"""Predictions for a user's files: the right preparation, batches of one compiled shape, one picture of the results."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.models import zoo
from unireplknet_jax.models.program import AheadOfTime

# Input values, those of a dozen pictures, up to which the compiler's optimizations cost more time than they save.
_FEW_VALUES = 2**21
_NAMES_BY_CLASSES = {1000: ("imagenet1k", "ImageNet-1K"), 21841: ("imagenet22k", "ImageNet-22K")}


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The records of one source, or why it could not be read."""

    source: str
    records: list[dict[str, Any]]
    error: str | None = None


def with_image_size(checkpoint, path, image_size=None):
    """(the checkpoint for inputs of another size, notes on how inputs are prepared if that is not known for certain).

    image_size: pixels, resized by the official rule for that size; None keeps the checkpoint's. path: its file.
    """
    task = checkpoint.task
    if image_size is not None:
        if "image_size" not in task.options:
            raise ValueError(f"the task {task.name} has no image size to change.")
        task = dataclasses.replace(task, image_size=image_size, resize=None)
        reason = "the size was asked for"
    elif not Path(path).is_dir() and not zoo.weights_of_file(path):
        reason = f"{path} is none of the published files, so these are the defaults of {task.name}"
    else:
        return checkpoint, []
    return dataclasses.replace(checkpoint, task=task), [f"inputs are prepared with {_preparation(task)}: {reason}."]


def with_labels(checkpoint, path, labels=None):
    """(the checkpoint with class names, notes on where they come from if that is a guess).

    labels: a file with one name a line. Without it, a file that names no classes gets those of ImageNet if it has as
    many; a checkpoint that says what it was trained on does not.
    """
    task, notes = checkpoint.task, []
    if labels is not None:
        task = dataclasses.replace(task, labels=_read_names(labels))
    elif not task.labels and checkpoint.data is None:
        names, set_name = _NAMES_BY_CLASSES.get(getattr(task.module(), "num_classes", None), (None, None))
        if names:
            task = dataclasses.replace(task, labels=read_labels(names))
            notes.append(f"{path} names no classes; it has as many as {set_name}, whose names are shown.")
    return dataclasses.replace(checkpoint, task=task), notes


def _preparation(task):
    shown = {
        name: task.options[name]
        for name in (
            "image_size",
            "resize",
            "rate",
            "frames",
            "mels",
            "points",
            "view_size",
            "neighbours",
            "mean",
            "std",
        )
        if name in task.options
    }
    return ", ".join(f"{name} {'by the official rule' if value is None else value}" for name, value in shown.items())


def _read_names(path):
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file; expected one class name a line.") from None
    return tuple(line.strip() for line in lines if line.strip())


def require_classifier(checkpoint):
    """Raise ValueError for a network that ends in feature maps."""
    if getattr(checkpoint.module, "num_classes", 0) is None:
        raise ValueError(
            "this checkpoint has no classifier, so it yields feature maps and no predictions; "
            "give a checkpoint with one, or train one on top of it."
        )


def predict_files(checkpoint, sources, batch_size=8):
    """Yield a `Prediction` for every source, in order; examples are padded to full batches, so one program is compiled.

    The network runs in the form of the checkpoint. Raises ValueError for a checkpoint without classifier.
    """
    require_classifier(checkpoint)
    task, module = checkpoint.task, checkpoint.module
    jitted = jax.jit(lambda variables, batch: task.predict(module.apply, variables, batch))
    combined, rows, step = getattr(task, "combined", list), None, None
    for chunk in _chunks(task, sources, batch_size):
        examples = [example for _, found, _ in chunk for example in found]
        if step is None and examples:
            rows = min(batch_size, len(examples))
            count = max(len(examples), len(sources) if hasattr(sources, "__len__") else 0)
            values = count * sum(examples[0][name].size for name in _array_names(examples[0]))
            step = AheadOfTime(jitted, f"the network of {task.name}", quick=values <= _FEW_VALUES)
        records = iter(_records(task, step, checkpoint.variables, examples, rows))
        for source, found, error in chunk:
            own = [record for record in (next(records) for _ in found) if record is not None]
            yield Prediction(str(source), combined(own), error)


def _chunks(task, sources, size):
    """Yield lists of (source, examples, error) with at least `size` examples, as long as there are any."""
    chunk = []
    for source in sources:
        try:
            chunk.append((source, task.read(source), None))
        except (ValueError, OSError) as error:
            chunk.append((source, [], str(error)))
        if sum(len(examples) for _, examples, _ in chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _records(task, step, variables, examples, rows):
    """The record of every example; `rows` go through the network at a time, the last ones filled up with zeros."""
    for start in range(0, len(examples), rows or 1):
        batch = examples[start : start + rows]
        arrays = {name: np.stack([example[name] for example in batch]) for name in _array_names(batch[0])}
        arrays["mask"] = np.ones(len(batch), np.float32)
        padded = {name: np.pad(x, [(0, rows - len(x))] + [(0, 0)] * (x.ndim - 1)) for name, x in arrays.items()}
        pred = jax.device_get(step(variables, padded))
        for i, example in enumerate(batch):
            yield task.record({name: value[i] for name, value in pred.items()}, example)


def _array_names(example):
    return [name for name, value in example.items() if isinstance(value, np.ndarray) and name != "id"]


def tile(pictures, gap=8):
    """One PIL image with all pictures in a grid about as wide as high; None for none."""
    if not pictures:
        return None
    columns = math.ceil(math.sqrt(len(pictures)))
    width, height = (max(picture.size[axis] for picture in pictures) + gap for axis in (0, 1))
    sheet = Image.new("RGB", (columns * width + gap, math.ceil(len(pictures) / columns) * height + gap), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (gap + i % columns * width, gap + i // columns * height))
    return sheet
