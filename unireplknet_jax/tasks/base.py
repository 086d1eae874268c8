"""What a task is: everything between a user's file and a metric that is not backbone, loop or checkpoint."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax.models.shapes import abstract_variables, trunk_of
from unireplknet_jax.models.unireplknet import UniRepLKNet
from unireplknet_jax.models.variants import create_model
from unireplknet_jax.tasks.names import Names, names_of_task
from unireplknet_jax.tasks.options import check_number, check_options, freeze

if TYPE_CHECKING:
    import grain
    from PIL import Image

    from unireplknet_jax.tasks.drawing import Axes

TASKS = {
    "detection": "unireplknet_jax.tasks.detection:Detection",
    "segmentation": "unireplknet_jax.tasks.segmentation:Segmentation",
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


class Seen(NamedTuple):
    """What the network sees of an example in one pass, to be looked at.

    inputs: its arrays, as in `Spec.inputs`. picture: (h, w, 3) uint8, each pixel one of the map that `Task.inputs`
    makes of them. axes: the picture's units; None: pixels, the first row on top.
    """

    inputs: Mapping[str, np.ndarray]
    picture: np.ndarray
    axes: Axes | None = None


class Split(NamedTuple):
    """A split of a data set, opened once in a run: examples with random access, and what errors call them."""

    source: Any
    data: str
    name: str
    broken: str = "refuse"  # what training does with files that cannot be decoded, as `data.broken`
    baseline: Any = None  # what predictions are compared with, of `Task.compared`


@dataclasses.dataclass(frozen=True)
class Task:
    """A frozen, hashable dataclass of options. `get_task(name, **task.options)` builds it again; card.json holds that.

    Derived classes give `name`, `module`, `specs`, `open`, `examples`, `read`, `inputs`, `loss`, `predict`, `totals`,
    `record` and `metrics`; the rest has defaults. A batch is a dict of arrays (n, ...), those of `specs` and "mask":
    (n,), 0 on padding. Lists and mappings among the options are kept as tuples, a mapping as its sorted items.
    """

    name: ClassVar[str]
    units: ClassVar[Mapping[str, str]] = {}  # of the metrics that have one
    absent: ClassVar[Mapping[str, str]] = {}  # metrics that some data do not have, and why
    makes_records: ClassVar[bool] = False  # in an evaluation; False: sums suffice, predictions stay where they are
    higher_is_better: ClassVar[bool] = True  # of the first metric
    outcomes_of: ClassVar[str] = "examples"  # what has one class each; of others, "pixels", the records tell
    ranked: ClassVar[bool] = True  # the lists in a record are best first, so that a few may be shown
    mappings: ClassVar[tuple[str, ...]] = ("model",)  # the options that are mappings
    numbers: ClassVar[Mapping[str, str]] = {}  # {option: what `check_number` allows}
    augmentations: ClassVar[tuple[str, ...]] = ()  # the options that change training examples, unless they are off
    preparation: ClassVar[tuple[str, ...]] = ()  # the options that say how an input is prepared
    unset: ClassVar[str] = "by the official rule"  # what None among these means
    together: ClassVar[int] = 32  # examples on a device in one batch of an evaluation, where nobody says how many
    sample: ClassVar[str] = "file"  # what a user's file may be called
    suffixes: ClassVar[tuple[str, ...]] = ("",)  # how the names of files end that `read` takes, of those in a folder
    part_suffixes: ClassVar[tuple[str, ...]] = ()  # and those of files that are too long for it, which have parts
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
            value = getattr(self, field.name)
            if field.type in (int, "int") and (not isinstance(value, int) or isinstance(value, bool)):
                raise ValueError(f"{field.name}={value} must be a whole number.")
            if field.type in (bool, "bool") and not isinstance(value, bool):
                raise ValueError(f"{field.name}={value!r} must be True or False.")

    @property
    def options(self) -> dict[str, Any]:
        """The JSON-able keyword arguments that build this task, labels apart."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "labels"}
        return fields | {name: dict(fields[name]) for name in self.mappings if name in fields}

    @property
    def preparation_rules(self) -> dict[str, Any]:
        """{option: value} of `preparation`, for whoever prepares inputs without this package: no None to be guessed."""
        return {name: self.options[name] for name in self.preparation}

    @property
    def names(self) -> Names:
        """The original's names of this task's tensors."""
        return names_of_task(self.name)

    @property
    def torch_meta(self) -> dict[str, Any]:
        """What the original expects in a file beside its tensors: {name: texts, whole numbers and tuples of them}."""
        return {}

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
        check_options("the network", UniRepLKNet, options.keys(), whole=False)
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

    def training_shapes(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shapes of what the network is applied to for one training example; here those of an evaluation."""
        return self.input_shapes(1)

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

    def compared(self, split: Split, open_train: Callable[[], Split]) -> tuple[Split, list[str]]:
        """(the split of an evaluation with its `baseline`, fitted on the training split, notes on why there is none).

        open_train: opens the training split, where a task needs it.
        """
        del open_train
        return split, []

    def identity(self, split: Split) -> dict[str, Any]:
        """{name: JSON-able value}: what has to be the same of a split where a run is resumed on it, classes apart.

        A value may be {group: [count, checksum]}, as the `contents` of sources are.
        """
        del split
        return {}

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

    def read_parts(self, source: Any) -> Iterator[list[Example]]:
        """As `read`, of a file of `part_suffixes` one part after the other, each of which has a prediction of its own.

        The example and the record of a part have its number, "frame", and its "time" in seconds.
        """
        yield self.read(source)

    # ---- device, pure, inside jit

    def loss(
        self, apply: Apply, variables: Mapping[str, Any], batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        """A scalar and {"batch_stats": tree, "scalars": {name: (sum, count)}}; owns the forward pass."""
        raise NotImplementedError

    @property
    def training_only(self) -> tuple[str, ...]:
        """What makes the loss of a training batch another number than that of an evaluation, for a legend."""
        options = self.options
        found = ["augmentation"] if any(options[name] for name in self.augmentations) else []
        found += [name for name in ("mixup", "cutmix") if options.get(name)]
        trunk = trunk_of(self.module())
        smoothing, drop_path = options.get("label_smoothing"), getattr(trunk, "drop_path_rate", 0)
        found += [f"label smoothing {smoothing:g}"] if smoothing else []
        found += [f"drop path up to {drop_path:g}"] if drop_path else []
        return (*found, *([] if getattr(trunk, "bn_frozen", True) else ["batch statistics of batch norm"]))

    def preview(self, batch: Batch, rng: jax.Array) -> jax.Array | None:
        """(n, h, w, 1 or 3) in 0..1: what the network sees of a training batch, to be looked at; None: nothing."""
        del batch, rng
        return None

    def predict(self, apply: Apply, variables: Mapping[str, Any], inputs: Batch) -> dict[str, jax.Array]:
        """(n, ...) arrays of inputs alone, which end in what a user wants: scores, a map, a forecast."""
        raise NotImplementedError

    @property
    def streams(self) -> Mapping[str, Mapping[str, str]]:
        """{array of `predict`: {one of its inputs: what takes its place in an example}}: what is large and can be had
        part by part.

        The first axis of all these arrays of an example counts windows. Of some windows `predict` gives one array, by
        whatever name, with the same numbers for each as of all. `record` then gets a `tasks.network.Stream`.
        """
        return {}

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

    def seen(self, example: Example) -> Seen:
        """What the network sees of an example of `read`; ValueError, one sentence, where that is no picture."""
        del example
        raise ValueError(
            f"the network of the task {self.name} sees no single picture of an input, so there is none to draw on; "
            "`see` is for classifiers of pictures, sounds and clips."
        )

    def saved(self, pred: Mapping[str, np.ndarray], batch: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """{name: (n, ...)}: what `evaluate --predictions` writes of a batch."""
        del batch
        return pred

    @property
    def has_outcomes(self) -> bool:
        """Whether every example of a data set, or what `outcomes_of` says, has one class that was taken for another."""
        return False

    def outcomes(self, pred: Mapping[str, np.ndarray], batch: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """((n,) the classes of the examples, (n,) those that were predicted, -1 for none), where a task has them."""
        raise NotImplementedError

    def counted_outcomes(self, records: list[Record]) -> list[list[int]]:
        """[class, predicted class, how often] of a data set's records, in place of `outcomes` of whole examples."""
        raise NotImplementedError

    def record(self, pred: Mapping[str, np.ndarray], example: Example) -> Record | None:
        """A JSON-able row for one example, its "id" among it, or None where sums suffice. Called in threads."""
        raise NotImplementedError

    def combined(self, records: list[Record]) -> list[Record]:
        """The records of a user's file that was read as several examples, as fewer."""
        return records

    @property
    def has_masks(self) -> bool:
        """Whether records say of the pixels of a picture what they are, for `save_mask`."""
        return False

    def save_mask(self, path: os.PathLike[str], record: Record) -> None:
        """Write the mask of a record as a PNG file, where a task has masks."""
        raise NotImplementedError

    def results(self, records: list[Record]) -> list[Any]:
        """The records of an evaluation as other programs read them in JSON; ValueError where there is no such form."""
        raise ValueError(f"the task {self.name} has no form of results in JSON; give a name that ends in .npz.")

    def table_columns(self, top: int) -> tuple[str, ...]:
        """What the rows of `table_rows` hold; ValueError, one sentence, where a task has none."""
        raise ValueError(f"the task {self.name} has no rows for a table; ask for JSON.")

    def table_rows(self, records: Sequence[Record], top: int) -> list[tuple[Any, ...]]:
        """The combined records of one user's file as rows of texts and numbers, lists cut to their `top` best."""
        raise NotImplementedError

    def metrics(self, totals: Mapping[str, np.ndarray], records: list[Record]) -> dict[str, float]:
        """The metrics of a whole data set; the first one picks the best checkpoint."""
        raise NotImplementedError

    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics before anything is measured; () where they depend on records."""
        if self.makes_records:
            return ()
        spec = self.specs(train=False)[0]
        targets = {name: jnp.zeros((1, *leaf.shape), leaf.dtype) for name, leaf in spec.targets.items()}

        def totals(variables: Mapping[str, Any]) -> dict[str, jax.Array]:
            seen = self._blank()
            pred = self.predict(self.module().apply, variables, seen)
            return self.totals(pred, {**seen, **targets, "mask": jnp.ones(1)})

        sums = jax.eval_shape(totals, self.abstract_variables())
        return tuple(self.metrics({name: np.ones(leaf.shape) for name, leaf in sums.items()}, []))

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
    check_options(f"the task {name}", known, options.keys() - retired)
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
