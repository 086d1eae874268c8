"""Predictions for a user's files: the right preparation, batches of one compiled shape, one picture of the results."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from unireplknet_jax.data.files import source_name
from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.models import zoo
from unireplknet_jax.models.program import AheadOfTime

# Input values, those of a dozen pictures, up to which the compiler's optimizations cost more time than they save.
_FEW_VALUES = 2**21
_NAMES_BY_CLASSES = {1000: ("imagenet1k", "ImageNet-1K"), 21841: ("imagenet22k", "ImageNet-22K")}


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The records of one source and the examples they are of, or why it could not be read."""

    source: str
    records: list[dict[str, Any]]
    examples: list[dict[str, Any]]
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
    """Yield a `Prediction` for every source, in order: a path, or bytes with a name.

    Examples of the same shapes go through the network together, padded to full batches, so that few programs are
    compiled; it runs in the form of the checkpoint. Raises ValueError for a checkpoint without classifier.
    """
    require_classifier(checkpoint)
    task, network = checkpoint.task, None
    for chunk in _chunks(task, sources, batch_size):
        examples = [example for _, found, _ in chunk for example in found]
        if network is None and examples:
            network = _Network(checkpoint, examples, batch_size, len(sources) if hasattr(sources, "__len__") else 0)
        preds = iter(network(examples) if examples else ())
        for source, found, error in chunk:
            records = []
            try:
                for example, pred in [(example, next(preds)) for example in found]:
                    record = task.record(pred, example)
                    records += [] if record is None else [record]
                records = task.combined(records)
            except ValueError as failure:
                records, error = [], str(failure)
            yield Prediction(source_name(source), records, found, error)


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


class _Network:
    """A checkpoint's network, compiled for batches of one size for each kind of example."""

    def __init__(self, checkpoint, examples, batch_size, sources):
        """examples: the first ones; sources: how many files there will be at least."""
        task, module = checkpoint.task, checkpoint.module
        self._variables, self._names = checkpoint.variables, list(task.specs(train=False)[0].inputs)
        self._rows = min(batch_size, len(examples))
        values = max(len(examples), sources) * sum(examples[0][name].size for name in self._names)
        jitted = jax.jit(lambda variables, inputs: task.predict(module.apply, variables, inputs))
        self._step = AheadOfTime(jitted, f"the network of {task.name}", quick=values <= _FEW_VALUES)

    def __call__(self, examples):
        """The predictions for every example, {name: array}."""
        found, groups = [None] * len(examples), {}
        for index, example in enumerate(examples):
            groups.setdefault(tuple(np.shape(example[name]) for name in self._names), []).append(index)
        for own in groups.values():
            for start in range(0, len(own), self._rows):
                some = own[start : start + self._rows]
                pred = self._apply([examples[index] for index in some])
                for row, index in enumerate(some):
                    found[index] = {name: value[row] for name, value in pred.items()}
        return found

    def _apply(self, examples):
        """{name: (rows, ...)}; the batch is filled up with zeros."""
        inputs = {}
        for name in self._names:
            stacked = np.stack([example[name] for example in examples])
            inputs[name] = np.pad(stacked, [(0, self._rows - len(stacked))] + [(0, 0)] * (stacked.ndim - 1))
        return jax.device_get(self._step(self._variables, inputs))


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
