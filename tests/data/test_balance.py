"""Rare classes are drawn as often as others."""

from types import SimpleNamespace

import numpy as np
import pytest

from unireplknet_jax.data.balance import Balanced, classes_of, cumulated_rarity
from unireplknet_jax.data.classes import Renumbered


def test_rare_classes_are_drawn_as_often_as_frequent_ones():
    classes = [(0,)] * 90 + [(1,)] * 9 + [(0, 1)]
    shares = cumulated_rarity(classes, 3)
    draws = Balanced(lambda index, rng: index, shares)
    rng = np.random.default_rng(0)
    found = np.bincount([draws(0, rng) for _ in range(4000)], minlength=100)
    by_class = found[:90].sum(), found[90:99].sum(), found[99]
    # 90/91 and 9/10 and 1/91 + 1/10 of their sum, 2; the deviation is 32 of 4,000.
    np.testing.assert_allclose(np.array(by_class) / 4000, np.array([90 / 91, 0.9, 1 / 91 + 0.1]) / 2, atol=0.03)


def test_the_classes_are_told_by_lists_and_renumbered():
    several = SimpleNamespace(classes=[(0, 2), (1,)], labels=("a", "b", "c"))
    one = SimpleNamespace(targets=np.array([1, 0, 1], np.int32), labels=("a", "b"))
    assert classes_of(several) == [(0, 2), (1,)]
    assert classes_of(one) == [(1,), (0,), (1,)]
    assert classes_of(Renumbered(several, ("c", "b", "a"), (2, 1, 0))) == [(2, 0), (1,)]
    assert classes_of(Renumbered(one, ("b", "a"), (1, 0))) == [(0,), (1,), (0,)]
    with pytest.raises(ValueError, match="balance needs the classes of all examples, which these data tell only as"):
        classes_of(SimpleNamespace(labels=("a",)))
