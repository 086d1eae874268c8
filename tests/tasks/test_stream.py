"""A stream computes what is read of it, each once, and forgets what no later round reads."""

import weakref

import numpy as np

from unireplknet_jax.tasks.stream import Stream

ROWS, COLUMNS = 6, 5
WINDOWS = np.arange(ROWS * COLUMNS)


def stream(group, places=range(ROWS * COLUMNS)):
    """(a stream whose arrays hold their place, the (start, stop) that were computed, how many arrays are alive)."""
    asked, made = [], []

    def compute(start, stop):
        asked.append((start, stop))
        found = WINDOWS[start:stop, None].copy()
        made.append(weakref.ref(found))
        return found

    return Stream(compute, group, places), asked, lambda: sum(each() is not None for each in made)


def read(found):
    """Two rows of windows a round, a row further every second round, as strips of a picture read them."""
    for row in [row for row in range(ROWS - 1) for _ in range(2)]:
        for place in range(row * COLUMNS, (row + 2) * COLUMNS):
            assert found[place].tolist() == [place]
            yield


def test_groups_are_computed_once_and_forgotten_behind_the_rounds():
    found, asked, living = stream(4)
    most = max(living() for _ in read(found))
    assert asked == [(start, min(start + 4, 30)) for start in range(0, 30, 4)]
    assert most == 4  # of 4 windows each, in which ten windows lie


def test_slices_are_streams_of_their_own():
    found, asked, _ = stream(4)
    part = found[7:][:5]
    assert len(part) == 5
    assert [int(part[place][0]) for place in range(5)] == [7, 8, 9, 10, 11]
    assert asked == [(7, 11), (11, 12)]
    assert int(part[-1][0]) == 11


def test_what_was_forgotten_is_computed_again():
    found, asked, _ = stream(10)
    for place in (0, 12, 25, 11, 3):
        assert found[place].tolist() == [place]
    assert asked == [(0, 10), (10, 20), (20, 30), (0, 10)]
