"""Where stations are: their neighbourhoods as a tree of equal groups."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from unireplknet_jax.data.classes import places_among


def order_stations(places: np.ndarray, tree: Sequence[int]) -> np.ndarray:
    """The indices (n,) that put stations into the leaves of a tree, neighbours together, every group equally large.

    places: (n, 2 or more), latitude and longitude in degrees first. tree: children of the root, of each of these, ...
    Groups are halved across the longest extent of their stations on the sphere, in proportion to the children that go
    either way. The published order comes from a clustering whose code was not released (Corrformer, issue 2).
    ValueError where the stations do not fill the leaves equally or a place is not a number.
    """
    check_tree(len(places), tree)
    if not np.all(np.isfinite(places[:, :2])):
        raise ValueError("some stations have no latitude or longitude; give every station's, in degrees")
    latitude, longitude = np.radians(places[:, :2].astype(np.float64)).T
    on_sphere = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1
    )

    def split(indices, children):
        """The indices in `children` equal groups, one after the other."""
        if children == 1:
            return [indices]
        points = on_sphere[indices]
        axis = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2][0]
        axis = axis * np.sign(axis[np.argmax(np.abs(axis))])  # the sign of a singular vector is nobody's choice
        ranked = indices[np.argsort(points @ axis, kind="stable")]
        first = children // 2
        cut = len(indices) // children * first
        return split(ranked[:cut], first) + split(ranked[cut:], children - first)

    groups = [np.arange(len(places))]
    for children in tree:
        groups = [part for group in groups for part in split(group, children)]
    return np.concatenate(groups)


def check_tree(stations: int, tree: Sequence[int]) -> None:
    """Raise ValueError unless the leaves of a tree can be given equally many stations."""
    leaves = math.prod(tree)
    if not tree or min(tree) < 1 or stations % leaves or not stations:
        shown = " x ".join(map(str, tree)) or "()"
        raise ValueError(
            f"{stations} stations cannot fill the {leaves} leaves of the tree {shown} equally; leave some out, or "
            "choose a tree whose product divides their number"
        )


def check_same_stations(expected: Sequence[str], found: Sequence[str], name: str) -> None:
    """Raise ValueError where the data called `name` have other stations than a model, or its own in another order."""
    for index, place in enumerate(places_among(expected, found)):
        if place != index and found[index] != expected[index]:
            raise ValueError(
                f"station {index + 1} of {name} is {found[index]}, but that of the model is {expected[index]}; give "
                "the columns in the model's order"
            )


def standardized(places: np.ndarray | None, stations: int) -> np.ndarray:
    """(n, 3) latitude, longitude, elevation -> each with mean 0 and deviation 1 over the stations; None gives zeros."""
    if places is None:
        return np.zeros((stations, 3))
    spread = places.std(axis=0)
    return (places - places.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
