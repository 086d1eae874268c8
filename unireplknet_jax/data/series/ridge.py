"""A ridge regression from the history of stations to their future: what a forecast is compared with, or starts from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from unireplknet_jax.data.series.windows import without_gaps

JOINT_MOST = 2**17  # weights, above which the stations share those of their own history
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of a weight's square, for each example
_HELD_OUT = 0.2  # of the windows, the last ones, which choose the form and the penalty
_CHUNK = 2**21  # numbers of a matrix that is made at a time


def fit_ridge(values: np.ndarray, filled: np.ndarray, history: int, horizon: int) -> np.ndarray | None:
    """The weights of a ridge regression on every window of a record; None where it has too few with a known future.

    values: (t, stations), each of mean 0 and deviation 1 or so, NaN where missing; filled: the same without gaps.
    Result: (history + 1, horizon), by which every station sees its own history, or
    (history * stations + 1, horizon * stations), by which every station sees all of them; the latter where these are
    up to `JOINT_MOST` numbers and half of the windows have a future without gaps. The last row belongs to a constant 1
    and is not penalized. Form and penalty are those with the least error on the last fifth of the windows; the weights
    are then fitted to all windows, in closed form and double precision.
    """
    best: tuple[float, np.ndarray] | None = None
    count, stations = len(values) - history - horizon + 1, filled.shape[1]
    if count < 2:
        return None
    cut = round((1 - _HELD_OUT) * count)
    for joint in (False, True):
        if joint and history * horizon * stations**2 > JOINT_MOST:
            continue
        parts = (range(cut), range(cut, count))
        fitted, held = (_sums(_examples(values, filled, history, horizon, joint, part), joint) for part in parts)
        if fitted is None or held is None or (joint and 2 * (fitted.count + held.count).min() < count):
            continue
        error, penalty = min((held.error(fitted.weights(penalty)), penalty) for penalty in PENALTIES)
        if best is None or error < best[0]:
            best = error, (fitted + held).weights(penalty)
    return None if best is None else best[1]


def ridge_forecast(weights: Any, history: Any, horizon: int) -> Any:
    """history (n, t, stations) -> (n, horizon, stations), by the weights of `fit_ridge`; arrays of numpy or of jax."""
    examples, steps, stations = history.shape
    if weights.shape == (steps + 1, horizon):
        return (history.swapaxes(1, 2) @ weights[:-1] + weights[-1]).swapaxes(1, 2)
    found = history.reshape(examples, steps * stations) @ weights[:-1] + weights[-1]
    return found.reshape(examples, horizon, stations)


@dataclass(frozen=True, eq=False)
class Ridge:
    """A regression on the values of the history, and on nothing else, each station less `mean` over `deviation`."""

    weights: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    horizon: int

    @classmethod
    def fitted(
        cls, values: np.ndarray, history: int, horizon: int, mean: np.ndarray, deviation: np.ndarray
    ) -> Ridge | None:
        """The regression of values (t, stations), NaN where missing; None where too little is known (`fit_ridge`)."""
        filled = (without_gaps(values, mean) - mean) / deviation
        weights = fit_ridge((values - mean) / deviation, filled, history, horizon)
        return None if weights is None else cls(weights, mean, deviation, horizon)

    def __call__(self, history: np.ndarray) -> np.ndarray:
        """(t, stations) -> (horizon, stations)."""
        found = ridge_forecast(self.weights, ((history - self.mean) / self.deviation)[None], self.horizon)[0]
        return (found * self.deviation + self.mean).astype(np.float32)


def _examples(
    values: np.ndarray, filled: np.ndarray, history: int, horizon: int, joint: bool, windows: range
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, history and a 1), (rows, targets) in chunks; of joint rows those are left out whose targets have a gap."""
    stations = filled.shape[1]
    past = sliding_window_view(filled, history, axis=0)  # (windows, stations, history)
    future = sliding_window_view(values[history:], horizon, axis=0)
    size = max(_CHUNK // (stations * history), 1)
    for start in range(windows.start, windows.stop, size):
        rows = slice(start, min(start + size, windows.stop))
        x, y = past[rows].astype(np.float64), future[rows].astype(np.float64)
        if joint:
            x, y = (part.swapaxes(1, 2).reshape(len(part), -1) for part in (x, y))
            whole = np.isfinite(y).all(axis=1)
            x, y = x[whole], y[whole]
        else:
            x, y = x.reshape(-1, history), y.reshape(-1, horizon)
        yield np.concatenate([x, np.ones((len(x), 1))], axis=1), y


@dataclass(frozen=True, eq=False)
class _Sums:
    """All that least squares needs of examples: sums of x x' (g, d, d), of x y (g, d, m) and of y y, counts (g,)."""

    xx: np.ndarray
    xy: np.ndarray
    yy: float
    count: np.ndarray

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(self.xx + other.xx, self.xy + other.xy, self.yy + other.yy, self.count + other.count)

    def weights(self, penalty: float) -> np.ndarray:
        """(d, g * m) with the least squared error and penalty; of the constant's that is next to nothing."""
        penalties = np.diag([penalty] * (self.xx.shape[1] - 1) + [1e-9])
        found = np.linalg.solve(self.xx + self.count[:, None, None] * penalties, self.xy)
        return np.moveaxis(found, 0, 1).reshape(found.shape[1], -1)

    def error(self, weights: np.ndarray) -> float:
        """The mean squared error of weights."""
        w = np.moveaxis(weights.reshape(len(weights), len(self.xx), -1), 1, 0)
        total = self.yy - 2 * np.sum(w * self.xy) + np.sum(w * (self.xx @ w))
        return float(total / (self.count.sum() * w.shape[2]))


def _sums(chunks: Iterator[tuple[np.ndarray, np.ndarray]], joint: bool) -> _Sums | None:
    """The sums of all chunks; unless `joint` those of each target apart. None where a target is known nowhere."""
    total = None
    for x, y in chunks:
        known = np.isfinite(y)
        y = np.where(known, y, 0.0)
        whole, xy = x.T @ x, x.T @ y
        if joint:
            found = _Sums(whole[None], xy[None], float(np.sum(y * y)), np.array([len(x)]))
        else:
            gaps = [x[~column] for column in known.T]
            xx = np.stack([whole - gap.T @ gap for gap in gaps])
            found = _Sums(xx, xy.T[:, :, None], float(np.sum(y * y)), known.sum(axis=0))
        total = found if total is None else total + found
    return total if total is not None and total.count.min() > 0 else None
