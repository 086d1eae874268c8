"""Stations as a tree of equal groups, neighbours together."""

import numpy as np
import pytest

from unireplknet_jax.data.series.stations import check_same_stations, order_stations, standardized


def test_neighbours_share_a_leaf():
    rng = np.random.default_rng(0)
    centres = np.array([[50, 10], [50, -170], [-40, 20], [0, 100], [10, -60], [80, 0]])
    places = np.repeat(centres, 5, axis=0) + rng.normal(0, 0.5, (30, 2))
    shuffled = rng.permutation(30)
    order = shuffled[order_stations(places[shuffled], (2, 3))]
    assert sorted(order) == list(range(30))
    assert all(len({*group}) == 1 for group in (order // 5).reshape(6, 5))


@pytest.mark.parametrize("tree", [(7, 50), (3,), (2, 5, 7)])
def test_every_tree_gets_equal_groups_whatever_the_order_before(tree):
    places = np.random.default_rng(0).uniform((-90, -180), (90, 180), (2100, 2))
    order, turned = order_stations(places, tree), order_stations(places[::-1], tree)
    assert sorted(order) == list(range(2100))
    np.testing.assert_array_equal(places[order], places[::-1][turned])


def test_stations_that_do_not_fill_a_tree():
    with pytest.raises(ValueError, match="10 stations cannot fill the 6 leaves of the tree 2 x 3 equally"):
        order_stations(np.zeros((10, 2)), (2, 3))
    with pytest.raises(ValueError, match="no latitude or longitude"):
        order_stations(np.full((6, 2), np.nan), (2, 3))


def test_stations_that_are_called_alike_are_the_same_in_the_same_order():
    names = ("Port", "Port", "Hill")
    check_same_stations(names, names, "mine")
    with pytest.raises(ValueError, match="station 2 of mine is Hill, but that of the model is Port"):
        check_same_stations(names, ("Port", "Hill", "Port"), "mine")


def test_places_are_standardized():
    found = standardized(np.array([[1.0, 5, 0], [3, 5, 0]]), 2)
    np.testing.assert_array_equal(found, [[-1, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(standardized(None, 2), np.zeros((2, 3)))
