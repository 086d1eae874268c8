"""What a task is: everything between a user's file and a metric that is not backbone, loop or checkpoint."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.models.unireplknet import UniRepLKNet
from unireplknet_jax.models.variants import create_model
from unireplknet_jax.tasks.names import Names, names_of_task

if TYPE_CHECKING:
    import grain
    from PIL import Image

_LARGEST, _SMALLEST, _BELOW_1 = sys.float_info.max, sys.float_info.min, math.nextafter(1.0, 0.0)
_RANGES = {
    "a number": (-_LARGEST, _LARGEST),
    "1 or more": (1, _LARGEST),
    "from 1 to a million": (1, 1_000_000),
    "0 or more": (0, _LARGEST),
    "above 0": (_SMALLEST, _LARGEST),
    "from 0 to 1": (0, 1),
    "0 or more and below 1": (0, _BELOW_1),
    "above 0 and at most 1": (_SMALLEST, 1),
}
TASKS = {
    "forecasting": "unireplknet_jax.tasks.forecasting:Forecasting",
    "points": "unireplknet_jax.tasks.points:Points",
    "video": "unireplknet_jax.tasks.video:VideoClassification",
    "audio": "unireplknet_jax.tasks.audio:Audio",
    "classification": "unireplknet_jax.tasks.classification:Classification",
}

Example = dict[str, Any]
Record = dict[str, Any]
Batch = Mapping[str, jax.Array]  # {name: (n, ...)} inside a jitted step
Apply = Callable[..., Any]  # the network's `apply`


class Spec(NamedTuple):
    """The shapes of one example: {name: jax.ShapeDtypeStruct} of what the network sees and of what it is to say."""

    inputs: Mapping[str, jax.ShapeDtypeStruct]
    targets: Mapping[str, jax.ShapeDtypeStruct]


class Split(NamedTuple):
    """A split of a data set, opened once in a run: examples with random access, and what errors call them."""

    source: Any
    data: str
    name: str
    broken: str = "refuse"  # what training does with files that cannot be decoded, as `data.broken`


@dataclasses.dataclass(frozen=True)
class Task:
    """A frozen, hashable dataclass of options. `get_task(name, **task.options)` builds it again; card.json holds that.

    Derived classes give `name`, `module`, `specs`, `open`, `examples`, `read`, `inputs`, `loss`, `predict`, `totals`,
    `record` and `metrics`; the rest has defaults. A batch is a dict of arrays (n, ...), those of `specs` and "mask":
    (n,), 0 on padding. Lists and mappings among the options are kept as tuples, a mapping as its sorted items.
    """

    name: ClassVar[str]
    units: ClassVar[Mapping[str, str]] = {}  # of the metrics that have one
    makes_records: ClassVar[bool] = False  # in an evaluation; False: sums suffice, predictions stay where they are
    higher_is_better: ClassVar[bool] = True  # of the first metric
    ranked: ClassVar[bool] = True  # the lists in a record are best first, so that a few may be shown
    mappings: ClassVar[tuple[str, ...]] = ("model",)  # the options that are mappings
    numbers: ClassVar[Mapping[str, str]] = {}  # {option: what `check_number` allows}
    preparation: ClassVar[tuple[str, ...]] = ()  # the options that say how an input is prepared
    sample: ClassVar[str] = "file"  # what a user's file may be called
    hub_task: ClassVar[str] = ""  # the task as the Hugging Face hub calls it
    retired: ClassVar[Mapping[str, Any]] = {}  # options of older checkpoints, and the one value that they may have

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (Mapping, list, tuple)):
                object.__setattr__(self, field.name, freeze(value))
        for name, allowed in self.numbers.items():
            check_number(name, getattr(self, name), allowed)
        for field in dataclasses.fields(self):
            if field.type in (int, "int") and not isinstance(getattr(self, field.name), int):
                raise ValueError(f"{field.name}={getattr(self, field.name)} must be a whole number.")

    @property
    def options(self) -> dict[str, Any]:
        """The JSON-able keyword arguments that build this task, labels apart."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "labels"}
        return fields | {name: dict(fields[name]) for name in self.mappings if name in fields}

    @property
    def names(self) -> Names:
        """The original's names of this task's tensors."""
        return names_of_task(self.name)

    # ---- the network

    def module(self, deploy: bool = False) -> nn.Module:
        """The whole network, in training or in merged form."""
        raise NotImplementedError

    def trunk(self, apart: Sequence[str] = (), **fixed: Any) -> UniRepLKNet:
        """The backbone that the option `model` asks for: of a published "name", whose fields others override, or sizes.

        apart: what the option says of other layers. fixed: arguments that are not the option's to choose.
        """
        options = {name: value for name, value in dict(cast(Any, self).model).items() if name not in apart} | fixed
        if "dtype" in options:
            options["dtype"] = jnp.dtype(options["dtype"])
        name = options.pop("name", None)
        return create_model(name, **options) if name else UniRepLKNet(**options)

    def specs(self, train: bool) -> tuple[Spec, ...]:
        """The shapes of one example, for every kind of batch that gets compiled."""
        raise NotImplementedError

    def inputs(self, batch: Batch) -> tuple[jax.Array, ...]:
        """What the network is applied to, of a batch of `specs(train=False)[0].inputs`; inside jit."""
        raise NotImplementedError

    def init(self, key: jax.Array) -> Mapping[str, Any]:
        """Random variables of the network, layers that only the loss uses among them; inside jit."""
        return self.module().init(key, *self.inputs(self._blank()))

    def abstract_variables(self, deploy: bool = False) -> dict[str, Any]:
        """The variables as `jax.ShapeDtypeStruct`s; nothing is computed."""
        return _abstract_variables(self, deploy)

    def name_table(self, deploy: bool = False) -> dict[str, Any]:
        """{PyTorch name: `torch_names.Entry`} of the whole network."""
        return self.names.table(self.abstract_variables(deploy))

    def _blank(self, count: int = 1) -> dict[str, jax.Array]:
        """`count` examples of zeros."""
        shapes = self.specs(train=False)[0].inputs
        return {name: jnp.zeros((count, *leaf.shape), leaf.dtype) for name, leaf in shapes.items()}

    def input_shapes(self, count: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shapes of what the network is applied to for so many examples."""
        return jax.eval_shape(lambda: self.inputs(self._blank(count)))

    # ---- host

    def open(self, data: Mapping[str, Any], split: str, train: bool = False) -> Split:
        """A split of a recipe's data ("name", "dir", "broken", ...), opened once in a run.

        Not for training, files that cannot be decoded are left out where data["broken"] is "skip", each logged.
        """
        raise NotImplementedError

    def fitted_to(self, train: Split, evaluation: Split | None) -> Task:
        """The task with what only the data know (classes, stations); ValueError for two that do not belong together."""
        del train, evaluation
        return self

    def examples(self, split: Split, train: bool, seed: int = 0) -> grain.MapDataset:
        """Examples of the shapes of `specs`, each with an "id". Training: endless, shuffled and augmented by the seed.

        What else they hold (paths, original sizes, truth of any shape) stays on the host and comes back to `record`.
        """
        raise NotImplementedError

    def shape_keys(self, split: Split) -> Sequence[Hashable] | None:
        """For every example of an evaluation what tells its shapes apart, known without decoding; None: all alike."""
        del split
        return None

    def read(self, source: Any) -> list[Example]:
        """A user's file, a path or bytes with a name, as examples with an "id", which windows or crops of it share.

        Derived classes take arrays (and PIL images) besides, where these say all that a file would. ValueError, one
        sentence, for what cannot be read.
        """
        raise NotImplementedError

    # ---- device, pure, inside jit

    def loss(
        self, apply: Apply, variables: Mapping[str, Any], batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        """A scalar and {"batch_stats": tree, "scalars": {name: (sum, count)}}; owns the forward pass."""
        raise NotImplementedError

    def preview(self, batch: Batch, rng: jax.Array) -> jax.Array | None:
        """(n, h, w, 1 or 3) in 0..1: what the network sees of a training batch, to be looked at; None: nothing."""
        del batch, rng
        return None

    def predict(self, apply: Apply, variables: Mapping[str, Any], inputs: Batch) -> dict[str, jax.Array]:
        """(n, ...) arrays of inputs alone, which end in what a user wants: scores, a map, a forecast."""
        raise NotImplementedError

    def features(self, trunk: Apply, variables: Mapping[str, Any], inputs: Batch) -> jax.Array:
        """(n, c) float32 of inputs alone: the trunk's last map, averaged over its positions and an input's views.

        trunk: as `apply` in `predict`, but gives the mean over the positions of that map, (rows, c). ValueError, one
        sentence, where a task has no such thing.
        """
        return trunk(variables, *self.inputs(inputs))

    def totals(self, pred: Batch, batch: Batch) -> dict[str, jax.Array]:
        """Masked sums of a batch, which are added up on the host in float64 and int64."""
        raise NotImplementedError

    # ---- host, afterwards

    def saved(self, pred: Mapping[str, np.ndarray], batch: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """{name: (n, ...)}: what `evaluate --predictions` writes of a batch."""
        del batch
        return pred

    def record(self, pred: Mapping[str, np.ndarray], example: Example) -> Record | None:
        """A JSON-able row for one example, its "id" among it, or None where sums suffice. Called in threads."""
        raise NotImplementedError

    def combined(self, records: list[Record]) -> list[Record]:
        """The records of a user's file that was read as several examples, as fewer."""
        return records

    def metrics(self, totals: Mapping[str, np.ndarray], records: list[Record]) -> dict[str, float]:
        """The metrics of a whole data set; the first one picks the best checkpoint."""
        raise NotImplementedError

    def draw(self, examples: list[Example], records: list[Record]) -> Image.Image | None:
        """A picture that shows what was predicted for a user's file, as `read` gave it; None: nothing."""
        del examples, records
        return None


@functools.lru_cache(maxsize=16)  # the layers around a trunk are traced
def _abstract_variables(task: Task, deploy: bool) -> dict[str, Any]:
    return abstract_variables(task.module(deploy), *task.input_shapes(1))


def get_task(name: str, **options: Any) -> Task:
    """Build a task by name; its file is imported only now. ValueError for an unknown name or option."""
    known = task_class(name)
    retired = {option for option, value in known.retired.items() if option in options and options[option] == value}
    fields = {field.name: field for field in dataclasses.fields(known)}
    unknown = sorted(options.keys() - fields.keys() - retired)
    needed = [
        option
        for option, field in fields.items()
        if field.default is field.default_factory is dataclasses.MISSING and option not in options
    ]
    if unknown or needed:
        wrong = f"has no {', '.join(unknown)}" if unknown else f"needs {', '.join(needed)}"
        raise ValueError(f"task {name} cannot be built from the options {sorted(options)}: it {wrong}.")
    try:
        return known(**{option: value for option, value in options.items() if option not in retired})
    except TypeError as error:
        raise ValueError(f"task {name} cannot be built from these options: some are of a wrong type.") from error


def task_class(name: str) -> type[Task]:
    """The class behind a task's name; ValueError for an unknown one."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; known tasks: {', '.join(TASKS)}.")
    module, attribute = TASKS[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def check_number(name: str, value: float, allowed: str) -> None:
    """Raise ValueError unless a number is finite and `allowed`, one of `_RANGES`."""
    low, high = _RANGES[allowed]
    if not low <= value <= high:  # so written NaN is outside
        raise ValueError(f"{name}={value} must be {allowed}{'' if math.isfinite(value) else ', and finite'}.")


def freeze(value: Any) -> Any:
    """Hashable, and what JSON can hold: lists to tuples, mappings to sorted tuples of items, dtypes to their names."""
    if isinstance(value, Mapping):
        return tuple(sorted((key, freeze(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(freeze(item) for item in value)
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (str, int, float, type(None))) else jnp.dtype(value).name


def apply_training(
    apply: Apply, variables: Mapping[str, Any], inputs: Sequence[jax.Array], rng: jax.Array
) -> tuple[Any, Any]:
    """(output, new batch statistics) of a network in training, for `Task.loss`."""
    output, updates = apply(variables, *inputs, train=True, rngs={"dropout": rng}, mutable=["batch_stats"])
    return output, updates.get("batch_stats", {})
