"""Forecasts for many stations at once: each group of stations is a map of time by features (Corrformer).

Paper: table 12 of the journal version. Original: Time-Series/, which crashes as released; `nn.corrformer` says what had
to be decided.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from unireplknet_jax.data.files import source_name
from unireplknet_jax.data.pipeline import training_stream
from unireplknet_jax.data.series.sets import open_series
from unireplknet_jax.data.series.stations import check_same_stations, check_tree, standardized
from unireplknet_jax.data.series.time_features import fit_seasons, frequency_of, season_basis, time_features
from unireplknet_jax.data.series.windows import Series, Windows, check_measured, continued, read_stations
from unireplknet_jax.data.tables import AUTO
from unireplknet_jax.nn.corrformer import Corrformer
from unireplknet_jax.tasks import forecast_errors
from unireplknet_jax.tasks.base import Apply, Batch, Example, Record, Spec, Split, Task, apply_training
from unireplknet_jax.tasks.forecast_plot import draw_forecast

if TYPE_CHECKING:
    import grain


@dataclasses.dataclass(frozen=True)
class Forecasting(Task):
    """Forecast `horizon` steps of every station from `history` steps of all.

    model: keyword arguments of the trunk, "name" a published size whose fields the others override. decoder: those of
        `nn.corrformer.Corrformer` besides (width, heads, hidden, layers, moving_average, readout, ...).
    tree: children on every level; the stations, in their order, fill its leaves equally. label: the last steps of the
        history that the decoder starts from.
    scaling: "station", each station to mean 0 and deviation 1 of the training data, or "none", as the original.
    The rest is what `fitted_to` learns of the data: stations, their number (0: not known yet), and labels, their names;
    step, seconds; missing, as of `data.tables.split_missing`; a value times `scale` is in `unit`; places, (stations, 3)
    latitude, longitude, elevation, or empty; mean and std of each station; the climatology, harmonics of year and day:
    their orders `seasons`, and coefficients (basis, stations).
    """

    model: Mapping[str, Any]
    tree: tuple[int, ...]
    labels: tuple[str, ...] = ()
    decoder: Mapping[str, Any] | tuple[()] = ()
    history: int = 48
    label: int = 24
    horizon: int = 24
    scaling: str = "station"
    stations: int = 0
    step: int = 3600
    unit: str = ""
    scale: float = 1.0
    places: tuple[tuple[float, ...], ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    seasons: tuple[int, int] = (0, 0)
    climatology: tuple[tuple[float, ...], ...] = ()
    missing: str = AUTO

    name: ClassVar[str] = "forecasting"
    sample: ClassVar[str] = "stations.csv"
    hub_task: ClassVar[str] = "time-series-forecasting"
    preparation: ClassVar[tuple[str, ...]] = ("history", "step", "scaling", "mean", "std")
    higher_is_better: ClassVar[bool] = False  # an error leads
    ranked: ClassVar[bool] = False

    mappings: ClassVar[tuple[str, ...]] = ("model", "decoder")
    numbers: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("history", "horizon"), "from 1 to a million"),
        **{"step": "1 or more", "label": "0 or more", "stations": "0 or more"},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label > self.history:
            raise ValueError(f"label={self.label} must not exceed history={self.history}, whose last steps it counts.")
        if self.scaling not in ("station", "none"):
            raise ValueError(f"scaling is {self.scaling!r}; expected 'station' or 'none'.")
        if self.stations:
            check_tree(self.stations, self.tree)
            for field in ("labels", "places", "mean", "std"):
                count = len(getattr(self, field))
                if count not in (0, self.stations):
                    raise ValueError(f"{field} has {count} entries for {self.stations} stations.")
        self._network(False)

    @property
    def units(self) -> Mapping[str, str]:  # type: ignore[override]  # they depend on the data here
        skill = "1 - MSE / MSE of it"
        own = {"mse": f"{self.unit}²", "mae": self.unit, "rmse": self.unit, "count": "values"}
        return own | dict.fromkeys(("skill_persistence", "skill_climatology"), skill)

    def fitted_to(self, train: Split, evaluation: Split | None) -> Forecasting:
        """The task with the stations, scaling and climatology of the training data; coefficients that it has stay.

        Raises ValueError if the data have other stations than the task or than their evaluation split.
        """
        found = train.source
        if evaluation is not None and evaluation.source.names != found.names:
            raise ValueError(f"{evaluation.name} and {train.name} of {train.data} differ in stations.")
        self._check_stations(train)
        check_tree(len(found.names), self.tree)
        if self.labels:
            return self
        known = np.isfinite(found.values)
        check_measured(f"the {train.name} part of {train.data}", found.values, found.names)
        mean, std = (np.asarray(f(found.values, axis=0, where=known, dtype=np.float64)) for f in (np.mean, np.std))
        orders, coefficients = fit_seasons(found.times, found.values)
        return dataclasses.replace(
            self,
            labels=found.names,
            stations=len(found.names),
            step=found.step,
            unit=found.unit,
            scale=found.scale,
            missing=found.missing,
            places=() if found.places is None else found.places.tolist(),
            mean=mean.tolist(),
            std=np.where(std > 0, std, 1).tolist(),
            seasons=orders,
            climatology=coefficients.astype(np.float32).tolist(),
        )

    def _check_stations(self, split: Split) -> None:
        names = split.source.names
        if self.stations and len(names) != self.stations:
            raise ValueError(
                f"{split.data} has {len(names)} stations, but the model was built for {self.stations}; give it those."
            )
        if self.labels:
            check_same_stations(self.labels, names, split.data)

    def _network(self, deploy: bool) -> Corrformer:
        trunk = self.trunk(num_classes=None, in_chans=1, deploy=deploy)
        return Corrformer(trunk, self.tree, self.label, self.horizon, **dict(self.decoder))

    def module(self, deploy: bool = False) -> Corrformer:
        if not self.stations:
            raise ValueError("the number of stations is left to the data; give task.options.stations without any.")
        return self._network(deploy)

    def specs(self, train: bool) -> tuple[Spec, ...]:
        del train

        def shape(*sizes: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(sizes, jnp.float32)

        inputs = {
            "history": shape(self.history, self.stations),
            "history_marks": shape(self.history, self._marks),
            "future_marks": shape(self.label + self.horizon, self._marks),
            "seasons": shape(self.horizon, (1 + 2 * self.seasons[0]) * (1 + 2 * self.seasons[1])),
        }
        future = shape(self.horizon, self.stations)
        return (Spec(inputs, {"future": future, "known": future}),)

    def inputs(self, batch: Batch) -> tuple[jax.Array, ...]:
        offset, factor = self._scaling()
        places = standardized(np.array(self.places) if self.places else None, self.stations).astype(np.float32)
        history = (batch["history"] - offset) / factor
        return history, batch["history_marks"], batch["future_marks"], jnp.asarray(places)

    @property
    def _marks(self) -> int:
        """How many features a timestamp has."""
        return time_features(np.zeros(1, "datetime64[s]"), frequency_of(self.step)).shape[1]

    # ---- host

    def open(self, data: Mapping[str, Any], split: str, train: bool = False) -> Split:
        facts = data.get("dir") or None, data.get("missing", self.missing)
        return Split(open_series(data["name"], split, *facts), data["name"], split)

    def examples(self, split: Split, train: bool, seed: int = 0) -> grain.MapDataset:
        import grain

        self._check_stations(split)
        if split.source.step != self.step:
            raise ValueError(f"{split.data} has a row every {split.source.step} s, but the model every {self.step} s.")
        rows, least = len(split.source.times), self.history + self.horizon
        if rows < least:
            raise ValueError(
                f"{split.data}, split {split.name}, has {rows} rows; expected {least} or more, "
                f"history={self.history} and horizon={self.horizon}."
            )
        windows = self._windows(split.source)
        return training_stream(windows, _unchanged, seed) if train else grain.MapDataset.source(windows)

    def _windows(self, series: Series) -> Windows:
        return Windows(series, self.history, self.label, self.horizon, self.seasons, np.array(self.mean))

    def read(self, source: Any) -> list[Example]:
        """The window that ends a CSV file, to forecast what comes after it, and, if the file is long enough, the one
        `horizon` rows before, whose future the file knows. Columns are found by their names.
        """
        series = self._read_series(source)
        steps = len(series.times)
        if steps < self.history:
            raise ValueError(f"{source_name(source)} has {steps} rows; expected {self.history} or more, a history.")
        windows = self._windows(continued(series, self.horizon))
        starts, end = [steps - self.history], series.values[-self.horizon :]
        if steps >= self.history + self.horizon and np.any(np.isfinite(end)):
            starts.append(steps - self.history - self.horizon)
        return [
            windows[start] | {"id": source_name(source), "times": self._times(windows, start), "series": series}
            for start in starts
        ]

    def _times(self, windows: Windows, start: int) -> list[str]:
        now = start + self.history
        return [str(time) for time in windows.series.times[now : now + self.horizon]]

    def _read_series(self, source: Any) -> Series:
        if not self.labels:
            raise ValueError("this checkpoint does not name its stations; train a recipe from it (config.init) first.")
        return read_stations(source, self.labels, self.step, self.missing)

    # ---- device

    def _scaling(self) -> tuple[np.ndarray, np.ndarray]:
        """(offset, factor), each (stations,): (value - offset) / factor goes through the network."""
        if self.scaling == "none" or not self.mean:
            return np.zeros(self.stations, np.float32), np.ones(self.stations, np.float32)
        return np.array(self.mean, np.float32), np.array(self.std, np.float32)

    def loss(
        self, apply: Apply, variables: Mapping[str, Any], batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        out, batch_stats = apply_training(apply, variables, self.inputs(batch), rng)
        offset, factor = self._scaling()
        squared = jnp.square(out - (batch["future"] - offset) / factor) * batch["known"]
        total, count = jnp.sum(squared), jnp.sum(batch["known"])
        scalars = {"loss": (total, count)}
        return total / jnp.maximum(count, 1), {"batch_stats": batch_stats, "scalars": scalars}

    def predict(self, apply: Apply, variables: Mapping[str, Any], inputs: Batch) -> dict[str, jax.Array]:
        """(n, horizon, stations) each, in `unit`: the forecast, the last value and the climatology."""
        offset, factor = self._scaling()
        forecast = apply(variables, *self.inputs(inputs)) * factor + offset
        coefficients = np.array(self.climatology) if self.climatology else np.zeros((1, self.stations))
        pred = {
            "forecast": forecast,
            "persistence": jnp.broadcast_to(inputs["history"][:, -1:], forecast.shape),
            "climatology": jnp.einsum("npk,ks->nps", inputs["seasons"], jnp.asarray(coefficients, jnp.float32)),
        }
        return {name: self.scale * value for name, value in pred.items()}

    def features(self, trunk: Apply, variables: Mapping[str, Any], inputs: Batch) -> jax.Array:
        raise ValueError(
            "a table of stations has no embedding: its trunk sees each group of stations as a map of its own."
        )

    def totals(self, pred: Batch, batch: Batch) -> dict[str, jax.Array]:
        weight = batch["known"] * batch["mask"][:, None, None]
        truth = self.scale * batch["future"]

        def summed(values: jax.Array) -> jax.Array:
            return jnp.sum(jnp.where(weight > 0, values, 0.0), axis=0)

        error = {name: pred[name] - truth for name in ("forecast", "persistence", "climatology")}
        return {
            "squared": summed(jnp.square(error["forecast"])),
            "absolute": summed(jnp.abs(error["forecast"])),
            "persistence": summed(jnp.square(error["persistence"])),
            "climatology": summed(jnp.square(error["climatology"])),
            "count": jnp.sum(weight, axis=0),
        }

    # ---- host, afterwards

    def _truth(self, example: Mapping[str, Any]) -> np.ndarray:
        return np.where(np.asarray(example["known"]) > 0, self.scale * np.asarray(example["future"]), np.nan)

    def saved(self, pred: Mapping[str, np.ndarray], batch: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        return {**pred, "truth": self._truth(batch)}

    def record(self, pred: Mapping[str, np.ndarray], example: Example) -> Record | None:
        if "times" not in example:
            return None
        shown = {**pred, "truth": self._truth(example)}
        shown = {name: np.asarray(value, np.float64) for name, value in shown.items()}
        return {"id": example["id"], "known": bool(np.any(example["known"])), "times": example["times"], **shown}

    def combined(self, records: list[Record]) -> list[Record]:
        """One record of a file: the forecast, a row for each time; the hindcast with its truth, if there is one."""
        merged = {"id": records[0]["id"], "unit": self.unit} if records else {}
        for record in records:
            name = "hindcast" if record["known"] else "forecast"
            merged[name] = self._rows(record, "forecast")
            if record["known"]:
                merged["truth"] = self._rows(record, "truth")
                error = np.square(record["forecast"] - record["truth"])
                merged["rmse of the hindcast"] = _short(np.sqrt(np.nanmean(error)))
        return [merged] if records else []

    def _rows(self, record: Record, name: str) -> list[dict[str, Any]]:
        return [
            {"time": time, **dict(zip(self.labels, map(_short, row), strict=True))}
            for time, row in zip(record["times"], record[name], strict=True)
        ]

    def metrics(self, totals: Mapping[str, np.ndarray], records: list[Record]) -> dict[str, float]:
        del records
        return forecast_errors.metrics(totals, self.labels)

    def draw(self, examples: list[Example], records: list[Record]) -> Image.Image:
        series = examples[0]["series"]
        basis = season_basis(continued(series, self.horizon).times, *self.seasons)
        unknown = np.full((basis.shape[1], self.stations), np.nan)  # of which no line is drawn
        climatology = self.scale * basis @ (np.array(self.climatology) if self.climatology else unknown)
        values = self.scale * series.values
        return draw_forecast(records[0], series.times, values, climatology, self.labels, self.history, self.unit)


def _unchanged(example: Example, rng: np.random.Generator) -> Example:
    del rng
    return example


def _short(value: float) -> float:
    """Six digits: more than any forecast knows."""
    return float(f"{value:.6g}")
