"""Predictions for what a user gives: the right preparation and the records."""

import collections
import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from unireplknet_jax.data.broken import check_policy
from unireplknet_jax.data.files import source_name
from unireplknet_jax.data.label_names import read_label_file, read_labels
from unireplknet_jax.models import zoo
from unireplknet_jax.models.program import announced
from unireplknet_jax.tasks.base import Example, Record, Task
from unireplknet_jax.tasks.checkpoint import Checkpoint
from unireplknet_jax.tasks.network import InRuntime, Network
from unireplknet_jax.tasks.sources import in_chunks, named, sources_of
from unireplknet_jax.tasks.stream import Stream
from unireplknet_jax.tasks.torch_files import preparation_told

_log = logging.getLogger(__name__)
_NAMES_BY_CLASSES: dict[Any, tuple[str | None, str | None]] = {
    1000: ("imagenet1k", "ImageNet-1K"),
    21841: ("imagenet22k", "ImageNet-22K"),
}


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The records of one source, or of a part of it, and the examples they are of, or why it could not be read.

    place: the number of the source among all.
    """

    source: str
    records: list[dict[str, Any]]
    examples: list[dict[str, Any]]
    place: int
    error: str | None = None


def with_image_size(
    checkpoint: Checkpoint, path: str | os.PathLike[str], image_size: int | None = None
) -> tuple[Checkpoint, list[str]]:
    """(the checkpoint for inputs of another size, notes on how inputs are prepared if that is not known for certain).

    image_size: pixels, resized by the official rule for that size; None keeps the checkpoint's. path: its file.
    """
    task = checkpoint.task
    if checkpoint.runtime is not None:
        if image_size not in (None, task.options.get("image_size")):
            raise ValueError(f"{path} takes images as it was exported; leave out --image-size, or export it for that.")
        return checkpoint, []
    if image_size is not None:
        if "image_size" not in task.options:
            raise ValueError(f"the task {task.name} has no image size to change.")
        rule = {"resize": None} if "resize" in task.options else {}
        task = dataclasses.replace(task, image_size=image_size, **rule)
        reason = "the size was asked for"
    elif not (Path(path).is_dir() or zoo.weights_of_file(path) or preparation_told(task.names, Path(path))):
        reason = f"{path} is none of the published files, so these are the defaults of {task.name}"
    else:
        return checkpoint, []
    return dataclasses.replace(checkpoint, task=task), [f"inputs are prepared with {_preparation(task)}: {reason}."]


def with_views(checkpoint: Checkpoint, views: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint that sees each input in other views: {option of its task: value}.

    Raises ValueError, one sentence, for an option that its task does not have and for a value that it cannot have.
    """
    task = checkpoint.task
    for name in views:
        if name not in task.options:
            flag = {"only": "classes"}.get(name, name)
            raise ValueError(f"the task {task.name} has no option {name} to change; leave out --{flag}.")
        if checkpoint.runtime is not None and name in task.preparation:
            raise ValueError(f"{checkpoint.path} takes inputs as it was exported; leave out --{name}.")
    return dataclasses.replace(checkpoint, task=dataclasses.replace(task, **views))


def with_labels(
    checkpoint: Checkpoint, path: str | os.PathLike[str], labels: str | os.PathLike[str] | None = None
) -> tuple[Checkpoint, list[str]]:
    """(the checkpoint with class names, notes on where they come from if that is a guess).

    labels: a file of names (`data.label_names.read_label_file`). Without it, a file that names no classes gets those of
    ImageNet if it has as many; a checkpoint that says what it was trained on does not.
    """
    task, notes = checkpoint.task, []
    if labels is not None:
        task = dataclasses.replace(task, labels=read_label_file(labels))
    elif not task.labels and checkpoint.data is None:
        names, set_name = _NAMES_BY_CLASSES.get(getattr(task.module(), "num_classes", None), (None, None))
        if names:
            task = dataclasses.replace(task, labels=read_labels(names))
            notes.append(f"{path} names no classes; it has as many as {set_name}, whose names are shown.")
    return dataclasses.replace(checkpoint, task=task), notes


def _preparation(task: Task) -> str:
    shown = {name: task.options[name] for name in task.preparation}
    return ", ".join(f"{name} {task.unset if value is None else value}" for name, value in shown.items())


def require_classifier(checkpoint: Checkpoint) -> None:
    """Raise ValueError for a network that ends in feature maps, which no artefact of `export` does."""
    if checkpoint.runtime is None and getattr(checkpoint.module, "num_classes", 0) is None:
        raise ValueError(
            "this checkpoint has no classifier, so it yields feature maps and no predictions; "
            "give a checkpoint with one, or train one on top of it."
        )


def predict_files(
    checkpoint: Checkpoint,
    sources: Iterable[Any],
    batch_size: int = 8,
    network: Network | None = None,
    broken: str = "skip",
) -> Iterator[Prediction]:
    """Yield a `Prediction` for every source, in order: what `Task.read` takes, a path, say, or bytes with a name.

    A source with parts (`Task.read_parts`) has a prediction for each, and where it breaks off, one that says why.
    Examples of the same shapes go through the network together, padded to full batches, so that few programs are
    compiled; it runs in the form of the checkpoint. network: of `predictor`, where it is at hand. broken: "refuse"
    raises ValueError for the first source without a prediction. Raises ValueError for a checkpoint without classifier.
    """
    require_classifier(checkpoint)
    task, network = checkpoint.task, network or predictor(checkpoint, batch_size)
    count = len(sources) if isinstance(sources, Sized) else 0
    done = 0
    for chunk in in_chunks(task, sources, batch_size, broken):
        examples_of_all = [example for reading in chunk for example in reading.examples]
        done += len(examples_of_all)
        preds = collections.deque(network(examples_of_all, max(count, done)))
        for source, examples, place, error in chunk:
            records, own = [], [preds.popleft() for _ in examples]
            try:
                records = _records(task, own, examples)
            except ValueError as failure:
                if broken == "refuse":
                    raise ValueError(named(source, place, str(failure))) from failure
                records, error = [], str(failure)
            yield Prediction(source_name(source), records, examples, place, error)


def _records(task: Task, preds: list[dict[str, Any]], examples: Sequence[Example]) -> list[Record]:
    """The records of a source's examples. The predictions are taken out of their list: streams hold much once read."""
    records = []
    for example in examples:
        pred = preds.pop(0)
        streamed = any(isinstance(value, Stream) for value in pred.values())
        with announced(f"predicting {example['id']}") if streamed else contextlib.nullcontext():
            record = task.record(pred, example)
        records += [] if record is None else [record]
    return task.combined(records)


def predictor(checkpoint: Checkpoint, batch_size: int = 8) -> Network:
    """The network of a checkpoint as it predicts."""
    task = checkpoint.task
    if checkpoint.runtime is not None:
        return InRuntime(checkpoint, checkpoint.runtime, batch_size)
    return Network(
        checkpoint,
        lambda module, variables, inputs: task.predict(module.apply, variables, inputs),
        batch_size,
        task.streams,
    )


def merged_once(checkpoint: Any) -> Checkpoint:
    """The checkpoint in inference form, merged when it is first asked for.

    How inputs are prepared is logged where it is a guess, as the commands print it.
    """
    if not isinstance(checkpoint, Checkpoint):
        raise TypeError(f"expected what open_checkpoint gives, not a {type(checkpoint).__name__}.")
    if "merged" not in checkpoint.cache:
        if checkpoint.path:
            _warn(with_image_size(checkpoint, checkpoint.path)[1])
        checkpoint.cache["merged"] = checkpoint.in_merged_form()
    return checkpoint.cache["merged"]


def predict(
    checkpoint: Checkpoint, inputs: Any, *, top: int | None = 5, broken: str = "refuse", batch_size: int = 8
) -> list[list[Record]]:
    """What a checkpoint sees in inputs: for each, in order, the list of records of `unireplknet predict --json`.

    checkpoint: as `open_checkpoint` gives it. inputs: one or several of: the path of a file, its bytes (`EncodedFile`
    gives them a name), or what the file would hold: a PIL image, an array of a picture (h, w, c) or of all frames of a
    video (t, h, w, 3), both uint8, a waveform (samples,) of floats at the checkpoint's rate, points (N, 3).
    Networks that look at pictures take the files of videos, too, of which every frame has a record.
    top: how many entries lists show that are best first; None: all. batch_size: examples at a time.
    broken: "refuse" raises ValueError for the first input that cannot be read; "skip" logs it and gives no records.

    The network is merged first, which gives the same numbers to rounding; further calls use it and its compiled
    programs again. Where JSON has null, records have NaN.
    """
    check_policy(broken)
    sources, merged = sources_of(inputs), merged_once(checkpoint)
    if "named" not in merged.cache:
        merged.cache["named"], notes = with_labels(merged, merged.path or "the checkpoint")
        _warn(notes)
    key = "predict", batch_size
    network = merged.cache[key] = merged.cache.get(key) or predictor(merged, batch_size)
    found: list[list[Record]] = [[] for _ in sources]
    for prediction in predict_files(merged.cache["named"], sources, batch_size, network, broken):
        log_skipped(sources[prediction.place], prediction.place, prediction.error)
        found[prediction.place] += shown(merged.task, prediction.records, top)
    return found


def shown(task: Task, records: Sequence[Record], top: int | None = None) -> list[Record]:
    """Records without their ids, whose lists, where a task has them best first, hold at most `top` entries."""
    top = top if task.ranked else None
    return [
        {name: value[:top] if isinstance(value, list) else value for name, value in record.items() if name != "id"}
        for record in records
    ]


def log_skipped(source: Any, index: int, error: str | None) -> None:
    """Say which source was passed over, if there is an error of it."""
    if error:
        _log.warning("skipped: %s", named(source, index, error))


def _warn(notes: Iterable[str]) -> None:
    for note in notes:
        _log.warning("%s", note)
