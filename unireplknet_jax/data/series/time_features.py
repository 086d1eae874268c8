"""What a network is told of a timestamp: its place in the hour, day, week, month and year."""

from __future__ import annotations

import numpy as np

# Which features belong to which frequency, as in the original (utils/timefeatures.py, after GluonTS).
_OF_FREQUENCY = {
    "s": ("second", "minute", "hour", "weekday", "day", "day_of_year"),
    "t": ("minute", "hour", "weekday", "day", "day_of_year"),
    "h": ("hour", "weekday", "day", "day_of_year"),
    "d": ("weekday", "day", "day_of_year"),
    "b": ("weekday", "day", "day_of_year"),
    "w": ("day", "week"),
    "m": ("month",),
}
_DAY = 86_400


def time_features(times: np.ndarray, frequency: str = "h") -> np.ndarray:
    """(n,) datetime64 -> (n, features) float64, each in -0.5..0.5.

    frequency: "s", "t" (minutes), "h", "d", "b" (business days), "w" or "m". The week is ISO's.
    """
    if frequency not in _OF_FREQUENCY:
        raise ValueError(f"frequency is {frequency!r}; expected one of {', '.join(_OF_FREQUENCY)}")
    seconds = times.astype("datetime64[s]").astype(np.int64)
    days = times.astype("datetime64[D]")
    months, years = times.astype("datetime64[M]"), times.astype("datetime64[Y]")
    number = days.astype(np.int64)
    weekday = (number + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    # A week belongs to the year of its Thursday.
    thursday = days + (3 - weekday)
    week = (thursday - thursday.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64) // 7
    found = {
        "second": seconds % 60 / 59,
        "minute": seconds // 60 % 60 / 59,
        "hour": seconds // 3600 % 24 / 23,
        "weekday": weekday / 6,
        "day": (days - months.astype("datetime64[D]")).astype(np.int64) / 30,
        "day_of_year": (days - years.astype("datetime64[D]")).astype(np.int64) / 365,
        "week": week / 52,
        "month": months.astype(np.int64) % 12 / 11,
    }
    return np.stack([found[name] for name in _OF_FREQUENCY[frequency]], axis=-1) - 0.5


def frequency_of(step: float) -> str:
    """The frequency of samples `step` seconds apart."""
    for least, frequency in ((28 * _DAY, "m"), (7 * _DAY, "w"), (_DAY, "d"), (3600, "h"), (60, "t")):
        if step >= least:
            return frequency
    return "s"


def season_basis(times: np.ndarray, yearly: int, daily: int) -> np.ndarray:
    """(n,) datetime64 -> (n, (1 + 2 yearly) (1 + 2 daily)): harmonics of the year times harmonics of the day."""
    seconds = times.astype("datetime64[s]").astype(np.int64)
    since = (times.astype("datetime64[s]") - times.astype("datetime64[Y]").astype("datetime64[s]")).astype(np.int64)

    def harmonics(phase, count):
        turns = 2 * np.pi * phase[:, None] * np.arange(1, count + 1)
        return np.concatenate([np.ones((len(phase), 1)), np.cos(turns), np.sin(turns)], axis=1)

    year, day = harmonics(since / (365.25 * _DAY), yearly), harmonics(seconds % _DAY / _DAY, daily)
    return (year[:, :, None] * day[:, None, :]).reshape(len(times), -1)


def season_orders(times: np.ndarray) -> tuple[int, int]:
    """(harmonics of the year, of the day) that evenly spaced times can tell: none of the year from less than half."""
    span, step = ((b - a).astype("timedelta64[s]").astype(float) for a, b in ((times[0], times[-1]), times[:2]))
    yearly = 0 if span < 180 * _DAY else 1 if span < 365 * _DAY else 2
    return yearly, int(min(2, max(_DAY / step / 2 - 0.5, 0)))


def fit_seasons(times: np.ndarray, values: np.ndarray) -> tuple[tuple[int, int], np.ndarray]:
    """The climatology of values (n, stations): ((yearly, daily), coefficients (basis, stations)); NaN is left out."""
    orders = season_orders(times)
    basis = season_basis(times, *orders)
    known = np.isfinite(values)
    coefficients = np.zeros((basis.shape[1], values.shape[1]))
    whole = known.all(axis=0)
    if whole.any():
        coefficients[:, whole] = np.linalg.lstsq(basis, values[:, whole].astype(np.float64), rcond=None)[0]
    for column in np.flatnonzero(~whole):
        rows = known[:, column]
        coefficients[:, column] = np.linalg.lstsq(basis[rows], values[rows, column].astype(np.float64), rcond=None)[0]
    return orders, coefficients
