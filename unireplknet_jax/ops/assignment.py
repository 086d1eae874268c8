"""Which of the true boxes each anchor or region answers for, and the draw of those that the losses see.

The rules are those of mmdetection 2.28: its MaxIoUAssigner and its RandomSampler. Rows that are padding are named by
masks; a picture may have no true box, or more of them than there are anchors.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unireplknet_jax.ops.boxes import overlap

IGNORED, NEGATIVE = -1, 0
_Triple = tuple[jax.Array, jax.Array, jax.Array]


class Assigned(NamedTuple):
    """What n boxes answer for."""

    truth: jax.Array  # (n,) int32: k + 1 for the true box k, NEGATIVE for none, IGNORED for neither
    best: jax.Array  # (n,) float32: the largest overlap with a true box, 0 without one


def assign(
    boxes: jax.Array,
    truth: jax.Array,
    negative_below: float,
    positive_from: float,
    low_quality_from: float | None = None,
    truth_valid: jax.Array | None = None,
    valid: jax.Array | None = None,
) -> Assigned:
    """Boxes (n, 4) answer for the one of truth (g, 4) that they overlap most, the first one of equals.

    A box is positive from an overlap of positive_from on, negative below negative_below, ignored between. Where
    low_quality_from is given, every true box with such an overlap or a larger one also gets all boxes that share its
    largest overlap, whatever else they answered for; of several true boxes the last one gets them. truth_valid (g,) and
    valid (n,) bool, None for all: the rows that count. Other boxes are ignored and are no one's largest overlap.
    The true boxes are gone through one by one: all overlaps of an 800 x 1333 picture's anchors would be 100 MB.
    """
    truth_valid = jnp.ones(len(truth), bool) if truth_valid is None else truth_valid
    valid = jnp.ones(len(boxes), bool) if valid is None else valid

    def compare(state: _Triple, row: _Triple) -> tuple[_Triple, None]:
        best, first, last = state
        number, box, counts = row
        # Made once, for a value that is made twice may differ from itself in the last digit.
        found = jax.lax.optimization_barrier(jnp.where(valid & counts, overlap(box, boxes), 0))
        better = found > best
        best, first = jnp.where(better, found, best), jnp.where(better, number, first)
        if low_quality_from is not None:
            largest = jnp.max(found, initial=0)
            last = jnp.where((found == largest) & valid & counts & (largest >= low_quality_from), number, last)
        return (best, first, last), None

    none = jnp.zeros(len(boxes), jnp.int32)
    rows = jnp.arange(1, len(truth) + 1, dtype=jnp.int32), jnp.asarray(truth), truth_valid
    (best, first, last), _ = jax.lax.scan(compare, (jnp.zeros(len(boxes)), none, none), rows)
    answers = jnp.where(best < negative_below, NEGATIVE, IGNORED)
    answers = jnp.where((best >= positive_from) & (first > 0), first, answers)
    answers = jnp.where(last > 0, last, answers)
    return Assigned(jnp.where(valid, answers, IGNORED), best)


def with_truth(assigned: jax.Array, truth_valid: jax.Array) -> jax.Array:
    """(g + n,) int32: what the boxes [truth, boxes] answer for: true boxes (g,) for themselves, then assigned (n,)."""
    own = jnp.arange(1, len(truth_valid) + 1, dtype=jnp.int32)
    return jnp.concatenate([jnp.where(truth_valid, own, IGNORED), assigned])


class Sample(NamedTuple):
    """Rows that were drawn, the positive ones first, each kind in the order of the boxes. All fields: (count,)."""

    row: jax.Array  # int32: the box, 0 where it does not count
    truth: jax.Array  # int32: the number of the true box of a positive, else 0
    positive: jax.Array  # bool
    valid: jax.Array  # bool: positive or negative, no padding


def sample(assigned: jax.Array, key: jax.Array, count: int, most_positives: int) -> Sample:
    """Draws `count` of the boxes whose assigned (n,) is positive or negative, at most most_positives positive ones.

    All positives if there are no more than that, the rest negatives; fewer rows count where there are not enough. Every
    set of rows is equally likely. The draw depends on key and assigned alone.
    """
    priority = jax.random.uniform(key, assigned.shape)
    positives, positive_found = _highest(priority, assigned > 0, min(most_positives, count))
    negatives, negative_found = _highest(priority, assigned == NEGATIVE, count)
    place, taken = jnp.arange(count), jnp.sum(positive_found)
    positive = place < taken
    valid = positive | (place < taken + jnp.sum(negative_found))
    # Before they are put in order only as many negatives are kept as there is place for.
    negatives = jnp.sort(jnp.where(negative_found & (place < count - taken), negatives, len(assigned)))
    positives = jnp.sort(jnp.where(positive_found, positives, len(assigned)))
    positives = jnp.pad(positives, (0, count - len(positives)))
    row = jnp.where(positive, positives, negatives[jnp.maximum(place - taken, 0)])
    row = jnp.where(valid, row, 0).astype(jnp.int32)
    truth = assigned[row] - 1 if len(assigned) else jnp.zeros(count, jnp.int32)
    return Sample(row, jnp.where(positive, truth, 0), positive, valid)


def _highest(priority: jax.Array, among: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The rows (count,) of the highest priority (n,) among those, and which of them are there."""
    short = max(count - len(priority), 0)
    found, rows = jax.lax.top_k(jnp.pad(jnp.where(among, priority, -1), (0, short), constant_values=-1), count)
    return rows, found >= 0
