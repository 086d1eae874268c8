"""What a task is: everything between a user's file and a metric that is not backbone, loop or checkpoint."""

import importlib
import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    import grain

_LARGEST, _SMALLEST, _BELOW_1 = sys.float_info.max, sys.float_info.min, math.nextafter(1.0, 0.0)
_RANGES = {
    "a number": (-_LARGEST, _LARGEST),
    "1 or more": (1, _LARGEST),
    "0 or more": (0, _LARGEST),
    "above 0": (_SMALLEST, _LARGEST),
    "from 0 to 1": (0, 1),
    "0 or more and below 1": (0, _BELOW_1),
    "above 0 and at most 1": (_SMALLEST, 1),
}
# Whose names a PyTorch file has is asked in this order; every UniRepLKNet with a classifier passes for one of images.
TASKS = {
    "forecasting": "unireplknet_jax.tasks.forecasting:Forecasting",
    "points": "unireplknet_jax.tasks.points:Points",
    "video": "unireplknet_jax.tasks.video:VideoClassification",
    "audio": "unireplknet_jax.tasks.audio:Audio",
    "classification": "unireplknet_jax.tasks.classification:Classification",
}


class Task(Protocol):
    """A frozen, hashable dataclass. `get_task(name, **task.options)` builds it again; card.json holds just that.

    A batch is a dict of arrays (n, ...); batch["mask"] is (n,), 0 on padding.
    """

    name: str
    labels: tuple[str, ...]
    units: Mapping[str, str]  # of the metrics that have one
    makes_records: bool  # in an evaluation; False: sums suffice, and predictions stay where they are. Default: True
    higher_is_better: bool  # of the first metric. Default: True
    ranked: bool  # the lists in a record are best first, so that a few may be shown. Default: True

    @property
    def options(self) -> Mapping[str, Any]:
        """The JSON-able keyword arguments that build this task, labels apart."""

    def module(self, deploy: bool = False) -> nn.Module:
        """The whole network, in training or in merged form."""

    def shapes(self, train: bool) -> tuple[dict[str, jax.ShapeDtypeStruct], ...]:
        """The shapes of one example, for every kind of batch that gets compiled."""

    def fitted_to(self, data: Mapping[str, Any]) -> "Task":
        """The task with what only the data of a recipe knows (its classes, say); most return themselves."""

    def dataset(self, data: Mapping[str, Any], split: str, train: bool) -> "grain.MapDataset":
        """Examples of those shapes. Training: endless, shuffled and augmented by data["seed"]."""

    def read(self, source: str) -> list[dict[str, Any]]:
        """A user's file as examples with an "id"; windows or crops of one file share it."""

    def loss(self, apply, variables, batch, rng) -> tuple[jax.Array, dict[str, Any]]:
        """A scalar and {"batch_stats": tree, "scalars": {name: (sum, count)}}; owns the forward pass."""

    def preview(self, batch, rng) -> jax.Array | None:
        """(n, h, w, 1 or 3) in 0..1: what the network sees of a training batch, to be looked at; None: nothing."""

    def predict(self, apply, variables, batch) -> dict[str, jax.Array]:
        """(n, ...) arrays, inside jit; where it calls `apply(variables, *inputs)` the network is initialized, too."""

    def totals(self, pred, batch) -> dict[str, jax.Array]:
        """Masked sums that add up over batches."""

    def record(self, pred, example) -> dict[str, Any] | None:
        """A JSON-able row for one example, or None where sums suffice."""

    def combined(self, records) -> list[dict[str, Any]]:
        """The records of a user's file that was read as several examples, as fewer; without this method they stay."""

    def metrics(self, totals, records) -> dict[str, float]:
        """The metrics of a whole data set; the first one picks the best checkpoint."""

    def draw(self, source, records):
        """A PIL image that shows what was predicted for a user's file, or None."""

    @classmethod
    def matches(cls, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether PyTorch tensors of these names, {name: shape}, are this task's."""

    @classmethod
    def from_torch_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> tuple["Task", bool]:
        """The task that fits a PyTorch state dict {name: shape}, and whether that is in merged form."""

    @classmethod
    def names_of(cls, variables) -> dict[str, Any]:
        """{PyTorch name: `torch_names.Entry`} of variables that may be this task's, or another's under other names."""

    def name_table(self, deploy: bool = False) -> dict[str, Any]:
        """{PyTorch name: `torch_names.Entry`} of the whole network."""

    @classmethod
    def canonical(cls, name: str) -> str | None:
        """The name in `name_table` of a tensor that files have under other names, too; None: it has no use here.

        Without this method every name is the only one.
        """

    @classmethod
    def aliases(cls, table: Mapping[str, Any]) -> dict[str, str]:
        """{second name: name} of the tensors that the original registers twice; without this method there are none."""


def get_task(name: str, **options) -> Task:
    """Build a task by name; its file is imported only now. ValueError for an unknown name or option."""
    known = task_class(name)
    try:
        return known(**options)
    except TypeError as error:
        raise ValueError(f"task {name} cannot be built from the options {sorted(options)}: {error}.") from None


def fresh_variables(task, seed):
    """Random variables of a task's network.

    Only the task knows what its network takes, so the network is initialized where `predict` applies it.
    """
    module, example, variables = task.module(), task.shapes(train=False)[0], {}

    def apply(_, *inputs, **options):
        output, made = module.init_with_output(jax.random.key(seed), *inputs, **options)
        variables.update(made)
        return output

    task.predict(apply, {}, {name: jnp.zeros((1, *leaf.shape), leaf.dtype) for name, leaf in example.items()})
    return variables


def check_number(name: str, value: float, allowed: str) -> None:
    """Raise ValueError unless a number is finite and `allowed`, one of `_RANGES`."""
    low, high = _RANGES[allowed]
    if not low <= value <= high:  # so written NaN is outside
        raise ValueError(f"{name}={value} must be {allowed}{'' if math.isfinite(value) else ', and finite'}.")


def task_class(name: str):
    """The class behind a task's name; ValueError for an unknown one."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; known tasks: {', '.join(TASKS)}.")
    module, attribute = TASKS[name].split(":")
    return getattr(importlib.import_module(module), attribute)
