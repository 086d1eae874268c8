"""Which task a PyTorch file belongs to, told by the names of its tensors before any task is imported.

Every task has a file of its own for its names, `<task>_names.py`, with an object `NAMES` of a class made from `Names`.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from unireplknet_jax.models import torch_names

# Where the blocks are, most telling first: every UniRepLKNet with a classifier passes for one of pictures.
_TRUNKS = {
    "encoder.stages.": ("forecasting",),
    "base_model.stages.": ("points",),
    "v.stages.": ("audio",),
    "backbone.stages.": ("detection", "segmentation"),
    "stages.": ("video", "classification"),
}
NAMED = ("detection", "segmentation", "forecasting", "points", "video", "audio", "classification")


class Names:
    """The original's names of a task's tensors. shapes: {PyTorch name: shape}.

    entry: the entry of a `.pth` that the original looks for them in.
    """

    entry: ClassVar[str] = "model"

    def matches(self, shapes: Mapping[str, Sequence[int]]) -> bool:
        """Whether tensors of these names are this task's."""
        raise NotImplementedError

    def options(self, shapes: Mapping[str, Sequence[int]]) -> tuple[dict[str, Any], bool]:
        """(the task's options that fit a state dict, whether it is in merged form); ValueError for what fits none."""
        raise NotImplementedError

    def table(self, variables: Mapping[str, Any]) -> dict[str, torch_names.Entry]:
        """{PyTorch name: `torch_names.Entry`} of a network's variables, arrays or shapes."""
        return torch_names.name_table(variables)

    def canonical(self, name: str) -> str | None:
        """The name in `table` of a tensor that files have under other names, too; None: it has no use here."""
        return name

    def told_by(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """The task's options that an entry "meta" of a file tells, as far as they are sound."""
        del meta
        return {}

    def prepared_for(self, file: str, meta: Mapping[str, Any]) -> dict[str, Any]:
        """The task's options for how inputs are prepared that a file's name and its entry "meta" tell, if any."""
        del file, meta
        return {}

    def aliases(self, table: Mapping[str, torch_names.Entry]) -> dict[str, str]:
        """{second name: name} of the tensors that the original registers twice."""
        del table
        return {}


def names_of_task(name: str) -> Names:
    """The `Names` of a task; ValueError for an unknown one."""
    if name not in NAMED:
        raise ValueError(f"unknown task {name!r}; known tasks: {', '.join(NAMED)}.")
    return importlib.import_module(f"unireplknet_jax.tasks.{name}_names").NAMES


def task_of_file(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """The name of the task whose tensors these are; None for those of no UniRepLKNet."""
    trunks = [prefix for prefix in _TRUNKS if any(tensor.startswith(prefix) for tensor in shapes)]
    candidates = {name for prefix in trunks for name in _TRUNKS[prefix]}
    return next((name for name in NAMED if name in candidates and names_of_task(name).matches(shapes)), None)


def task_of_variables(variables: Mapping[str, Any]) -> tuple[str | None, dict[str, torch_names.Entry]]:
    """(the name of the task whose network these variables are, {PyTorch name: Entry} of them); (None, {}) for none."""
    for name in NAMED:
        names = names_of_task(name)
        table = names.table(variables)
        if names.matches({tensor: entry.shape for tensor, entry in table.items()}):
            return name, table
    return None, {}
