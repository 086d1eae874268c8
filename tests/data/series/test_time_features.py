"""Time features as the original computes them, and seasons fitted to a series."""

import numpy as np
import pytest
from tables import hours

from unireplknet_jax.data.series.time_features import (
    fit_seasons,
    frequency_of,
    season_basis,
    season_orders,
    time_features,
)


@pytest.mark.parametrize("pair", ["h h", "t min", "s s", "d D", "b B", "w W", "m ME"])
def test_time_features_are_the_originals(goldens, pair):
    ours, theirs = pair.split()
    file = np.load(goldens / "series" / "timefeatures.npz")
    found = time_features(file["stamps"].astype("datetime64[s]"), ours)
    np.testing.assert_allclose(found, file[f"freq_{theirs}"], rtol=0, atol=1e-15)


def test_time_features_know_the_frequency():
    assert [frequency_of(step) for step in (1, 60, 900, 3600, 86_400, 7 * 86_400)] == ["s", "t", "t", "h", "d", "w"]
    with pytest.raises(ValueError, match="frequency is 'y'"):
        time_features(hours(2), "y")


def test_a_climatology_goes_on_beyond_what_it_was_fitted_to():
    times = hours(24 * 600)
    seconds = (times - times[0]).astype(float)
    values = 10 + 8 * np.cos(2 * np.pi * seconds / 86_400 / 365.25) + 3 * np.sin(2 * np.pi * seconds / 86_400)
    values = np.stack([values, values + 5], axis=1)
    known = values[: 24 * 400].copy()
    known[100:300, 1] = np.nan
    orders, coefficients = fit_seasons(times[: len(known)], known)
    assert orders == (2, 2)
    np.testing.assert_allclose(
        season_basis(times, *orders) @ coefficients, values, atol=0.15
    )  # a year is not 365.25 days
    assert fit_seasons(hours(24 * 30), values[:720])[0] == (0, 2)  # a month says nothing about the year
    orders = [season_orders(hours(24 * days + 1)[::24])[0] for days in (179, 180, 364, 365)]
    assert orders == [0, 1, 1, 2]
    assert fit_seasons(hours(900)[::24], values[:900:24])[0] == (0, 0)
