"""What tasks with class names share: classes of the data, ranked records, hits."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax.data.balance import Balanced, classes_of, cumulated_rarity
from unireplknet_jax.data.broken import AugmentedExamples, TransformedExamples, without_broken
from unireplknet_jax.data.classes import check_same_labels, in_order_of, in_text_order
from unireplknet_jax.data.pipeline import training_stream
from unireplknet_jax.tasks.base import Example, Record, Split, Task

if TYPE_CHECKING:
    import grain


@dataclasses.dataclass(frozen=True)
class Labelled(Task):
    """A task whose network ends in a logit for each class, "num_classes" of the option `model`.

    balance: training draws examples by the inverse frequency of their classes, so that rare classes are seen as often.
    Derived classes give `open_source`, `prepared`, `augmented` and `why_broken` in place of `open` and `examples`.
    """

    model: Mapping[str, Any]
    labels: tuple[str, ...] = ()
    balance: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.waits and self.labels and self.classes != len(self.labels):
            raise ValueError(f"{len(self.labels)} labels do not fit a model of {self.classes} classes.")

    @property
    def waits(self) -> bool:
        """Whether the number of classes is left to the data: num_classes=0."""
        return dict(self.model).get("num_classes") == 0

    @functools.cached_property
    def classes(self) -> int:
        """The number of classes; None for a network that ends in maps."""
        return self.module().num_classes

    def require_classes(self) -> None:
        """Raise ValueError while the number of classes is left to the data."""
        if self.waits:
            raise ValueError("the number of classes is left to the data; give model.num_classes where there is none.")

    # ---- host

    @staticmethod
    def why_broken(example: dict[str, Any]) -> str | None:
        """What is wrong with an example's file; None: nothing."""
        raise NotImplementedError

    def open_source(self, data: Mapping[str, Any], split: str) -> Any:
        """A source with `labels` and examples that have a "label" or "classes" and an "id"."""
        raise NotImplementedError

    def prepared(self, example: Mapping[str, Any]) -> dict[str, Any]:
        """An example of a source as one of an evaluation."""
        raise NotImplementedError

    def augmented(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """An example of a source as one of training."""
        raise NotImplementedError

    def open(self, data: Mapping[str, Any], split: str, train: bool = False) -> Split:
        source, broken, order = self.open_source(data, split), data.get("broken", "refuse"), data.get("class_order")
        if order not in (None, "numbers", "texts"):
            raise ValueError(f"data.class_order is {order!r}; expected 'numbers' or 'texts'.")
        if order == "texts":
            source = in_text_order(source)
        if broken == "skip" and not train:
            source = without_broken(source, why=self.why_broken)
        return Split(source, data["name"], split, broken)

    def fitted_to(self, train: Split, evaluation: Split | None) -> Labelled:
        """The task with the classes of the training data, where it has none and they are as many as the model's.

        Raises ValueError if the training and the evaluation split have other classes.
        """
        labels = tuple(train.source.labels)
        if evaluation is not None:
            check_same_labels(labels, evaluation.source.labels, train.name, evaluation.name)
        if not self.waits and (self.labels or self.classes != len(labels)):
            return self
        return dataclasses.replace(self, model=dict(self.model) | {"num_classes": len(labels)}, labels=labels)

    def identity(self, split: Split) -> dict[str, Any]:
        return {"files": split.source.contents()}

    def matched(self, split: Split) -> Split:
        """The split with the model's classes, found by their names; without names they are as many.

        Raises ValueError for other classes, or another number of them.
        """
        found = split.source.labels
        if not self.labels and len(found) != self.classes:
            raise ValueError(
                f"{split.data} has {len(found)} classes, but the model has {self.classes}; give it data of its own "
                "classes, or train one with as many as these."
            )
        return split._replace(source=in_order_of(self.labels, split.source, split.data))

    def examples(self, split: Split, train: bool, seed: int = 0) -> grain.MapDataset:
        import grain

        split = self.matched(split)
        if train:
            augmented: Callable[..., dict[str, Any]] = self.augmented_examples(split)
            if self.balance:
                augmented = Balanced(augmented, cumulated_rarity(classes_of(split.source), self.classes))
            return training_stream(range(len(split.source)), augmented, seed)
        return grain.MapDataset.source(TransformedExamples(split.source, self.prepared, self.why_broken))

    def augmented_examples(self, split: Split) -> AugmentedExamples:
        return AugmentedExamples(split.source, self.augmented, split.broken, self.why_broken)

    # ---- host, afterwards

    @property
    def has_outcomes(self) -> bool:
        return True

    def true_classes(self, batch: Mapping[str, Any]) -> np.ndarray:
        """(n,) of a batch on the host."""
        return np.asarray(batch["label"])

    def outcomes(self, pred: Mapping[str, np.ndarray], batch: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """As `misses` counts: an example is taken for its class where that stands above all others, alone."""
        logits, true = np.array(pred["logits"], np.float32), self.true_classes(batch)
        own = np.take_along_axis(logits, true[:, None], axis=-1)
        np.put_along_axis(logits, true[:, None], -np.inf, axis=-1)
        hit = np.isfinite(own[:, 0]) & np.all(logits < own, axis=-1)
        other = np.argmax(np.where(np.isnan(logits), -np.inf, logits), axis=-1)
        return true, np.where(hit, true, np.where(other == true, -1, other))

    def record(self, pred: Mapping[str, np.ndarray], example: Example) -> Record | None:
        """All classes, best first; None for an example whose class is known."""
        if "label" in example:
            return None
        return self.ranked_record(example["id"], pred["scores"])

    def ranked_record(self, name: Any, scores: np.ndarray) -> Record:
        names = self.labels or [f"class {index}" for index in range(len(scores))]
        order = np.argsort(-np.asarray(scores), kind="stable")
        return {
            "id": name,
            "predictions": [{"index": int(i), "label": names[i], "score": float(scores[i])} for i in order],
        }

    def table_columns(self, top: int) -> tuple[str, ...]:
        """("label", "score", "label_2", "score_2", ...): the best classes, as many as `top` and the model's."""
        ranks = range(2, min(top, self.classes) + 1)
        return ("label", "score", *(f"{name}_{rank}" for rank in ranks for name in ("label", "score")))

    def table_rows(self, records: Sequence[Record], top: int) -> list[tuple[Any, ...]]:
        best = [record["predictions"][:top] for record in records]
        return [tuple(cell for each in found for cell in (each["label"], each["score"])) for found in best]


def misses(logits: jax.Array, label: jax.Array) -> jax.Array:
    """(n, classes), (n,) -> (n,): how many other classes stand above the label's.

    Ties count against us, and so does a network that gives NaN, however few classes there are.
    """
    own = jnp.take_along_axis(logits, label[:, None], axis=-1)
    return jnp.where(jnp.isfinite(own[:, 0]), jnp.sum(~(logits < own), axis=-1) - 1, jnp.inf)


def masked_sum(mask: jax.Array, values: jax.Array) -> jax.Array:
    """The sum of (n,) values where the mask is above 0; what stands elsewhere may be NaN."""
    return jnp.sum(jnp.where(mask > 0, values, 0.0))


def counted(totals: Mapping[str, np.ndarray]) -> float:
    """totals["count"]; ValueError for none."""
    count = float(totals["count"])
    if not count:
        raise ValueError("there is nothing to evaluate: the data set is empty.")
    return count
