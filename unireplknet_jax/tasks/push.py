"""A checkpoint of ours as a repository of the Hugging Face hub: tensors, card, and a model card for people."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unireplknet_jax.data.base import listed
from unireplknet_jax.models import directory, hub
from unireplknet_jax.tasks.checkpoint import Checkpoint, open_checkpoint, save_torch_checkpoint
from unireplknet_jax.tasks.convert import describe

MODEL_CARD = "README.md"
_SHOWN = 20  # class names, say, in the model card
_SPLITS = {"trained": "train_split", "evaluated": "eval_split"}


def push(path: str | os.PathLike[str], repository: str, overwrite: bool = False, private: bool = False) -> str:
    """Upload a directory of ours to "USER/REPO", in one commit; the commit's URL.

    The tensors get the official names, `directory.TENSORS`; the card stays, without the folder that the data lay in;
    `model_card` is added. `load_pretrained` and `open_checkpoint` take it back by "hf-hub:USER/REPO".
    Raises ValueError for what is no checkpoint of ours, and what `models.hub.push` raises; nothing is uploaded then.
    """
    repository = hub.writable(repository)
    if not os.fspath(path):
        raise ValueError("the folder to push has an empty name.")
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    if not path.is_dir():
        raise ValueError(
            f"{path} is no directory of this package, which a push takes: `unireplknet convert` writes one from a file."
        )
    checkpoint, card = open_checkpoint(path), directory.read_card(path)
    if card.get("data"):
        card["data"] = {name: value for name, value in card["data"].items() if name != "dir"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_torch_checkpoint(folder / directory.TENSORS, checkpoint.variables)
        (folder / directory.CARD).write_text(json.dumps(card, indent=2) + "\n")
        (folder / MODEL_CARD).write_text(model_card(checkpoint, repository), encoding="utf-8")
        return hub.push(folder, repository, overwrite, private)


def model_card(checkpoint: Checkpoint, repository: str) -> str:
    """The text of a README.md for a checkpoint: task, sizes, classes, data, preparation, and how to use it."""
    task, facts = checkpoint.task, describe(checkpoint)
    rows = {
        "task": task.name,
        "network": f"{facts['model']}, depths {_value(facts['depths'])}, dims {_value(facts['dims'])}",
        "form": f"{facts['form']}, {facts['parameters']:,} parameters, {facts['dtype']}",
        "outputs": _outputs(task.labels, facts["classes"]),
        "data": _data(checkpoint.data),
        **{f"`{name}`": _value(value, task.unset) for name, value in checkpoint.preprocessing.items()},
    }
    return "\n".join(
        [
            "---",
            "library_name: unireplknet_jax",
            f"tags: [{', '.join(dict.fromkeys(('unireplknet', 'jax', 'flax', task.name)))}]",
            *([f"pipeline_tag: {task.hub_task}"] if task.hub_task else []),
            "---",
            "",
            f"# {repository.rpartition('/')[2]}",
            "",
            "A checkpoint of unireplknet_jax, which is UniRepLKNet in JAX/Flax. Its tensors have the names of the",
            "official PyTorch code, and `card.json` says what else belongs to it.",
            "",
            "| what | value |",
            "|---|---|",
            *(f"| {name} | {_cell(value)} |" for name, value in rows.items()),
            "",
            "```python",
            "import unireplknet_jax as urk",
            f'checkpoint = urk.open_checkpoint("{hub.PREFIX}{repository}")',
            _use(task, facts["classes"]),
            "```",
            "",
        ]
    )


def _use(task: Any, classes: int | None) -> str:
    ends_in_maps = classes is None and not task.labels
    result, function = ("vectors", "embed") if ends_in_maps else ("records", "predict")
    return f'{result} = urk.{function}(checkpoint, ["{task.sample}"])'


def _outputs(labels: Sequence[str], classes: int | None) -> str:
    if labels:
        return f"{len(labels):,}: {listed(labels, _SHOWN)}"
    return "no classifier: feature maps" if classes is None else f"{classes:,} classes, which have no names"


def _data(data: Mapping[str, Any] | None) -> str:
    if not data:
        return "not known"
    splits = [f"{what} on {data[key]}" for what, key in _SPLITS.items() if data.get(key)]
    return ", ".join([data.get("name") or "not known", *splits])


def _value(value: Any, unset: str = "") -> str:
    if isinstance(value, tuple):
        return listed([_value(item) for item in value], _SHOWN)
    if value is None:
        return unset
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
