"""Forecasts for many stations at once: each group of stations is a map of time by features (Corrformer).

Paper: table 12 of the journal version. Original: Time-Series/, which crashes as released; `nn.corrformer` says what had
to be decided.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from unireplknet_jax.data.files import source_name
from unireplknet_jax.data.pipeline import training_stream
from unireplknet_jax.data.series.ridge import Ridge
from unireplknet_jax.data.series.sets import open_series
from unireplknet_jax.data.series.starts import STARTS, fit_statistics, start_curves
from unireplknet_jax.data.series.stations import check_same_stations, check_tree, standardized
from unireplknet_jax.data.series.time_features import frequency_of, season_basis, time_features
from unireplknet_jax.data.series.windows import Series, Windows, check_measured, continued, read_stations
from unireplknet_jax.data.tables import AUTO
from unireplknet_jax.nn.corrformer import Corrformer
from unireplknet_jax.tasks import forecast_errors, forecast_records
from unireplknet_jax.tasks.base import Apply, Batch, Example, Record, Spec, Split, Task
from unireplknet_jax.tasks.forecast_plot import draw_forecast
from unireplknet_jax.tasks.training import apply_training

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
    start: what the network's numbers are added to: "none", as the original; the "last" value; the "climatology"; or the
        "regression", a ridge regression of the departures from the climatology (`data.series.starts`). Of all but
        "none" the network sees the history's departures, and its numbers are in units of the start's own errors,
        `spread`, so that an untrained one forecasts the start.
    The rest is what `fitted_to` learns of the data: stations, their number (0: not known yet), and labels, their names;
    step, seconds; missing, as of `data.tables.split_missing`; a value times `scale` is in `unit`; places, (stations, 3)
    latitude, longitude, elevation, or empty; mean and std of each station; the climatology, harmonics of year and day:
    their orders `seasons`, and coefficients (basis, stations); regression, the weights of `fit_ridge`, and spread,
    (horizon, stations), of the start.
    """

    model: Mapping[str, Any]
    tree: tuple[int, ...]
    labels: tuple[str, ...] = ()
    decoder: Mapping[str, Any] | tuple[()] = ()
    history: int = 48
    label: int = 24
    horizon: int = 24
    scaling: str = "station"
    start: str = "none"
    stations: int = 0
    step: int = 3600
    unit: str = ""
    scale: float = 1.0
    places: tuple[tuple[float, ...], ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    seasons: tuple[int, int] = (0, 0)
    climatology: tuple[tuple[float, ...], ...] = ()
    regression: tuple[tuple[float, ...], ...] = ()
    spread: tuple[tuple[float, ...], ...] = ()
    missing: str = AUTO

    name: ClassVar[str] = "forecasting"
    sample: ClassVar[str] = "stations.csv"
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv", ".txt")
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
        if self.start not in STARTS:
            raise ValueError(f"start is {self.start!r}; expected one of {', '.join(STARTS)}.")
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
        own = {"mse": self.unit and f"{self.unit}²", "mae": self.unit, "rmse": self.unit, "count": "values"}
        return own | {f"skill_{name}": skill for name in forecast_errors.BASELINES}

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
        check_measured(f"the {train.name} part of {train.data}", found.values, found.names)
        return dataclasses.replace(
            self,
            labels=found.names,
            stations=len(found.names),
            step=found.step,
            unit=found.unit,
            scale=found.scale,
            missing=found.missing,
            places=() if found.places is None else found.places.tolist(),
            **fit_statistics(found, self.start, self.history, self.horizon),
        )

    def identity(self, split: Split) -> dict[str, Any]:
        return {"rows": " to ".join(str(time) for time in split.source.times[[0, -1]])}

    def _check_stations(self, split: Split) -> Series:
        names = split.source.names
        if self.stations and len(names) != self.stations:
            raise ValueError(
                f"{split.data} has {len(names)} stations, but the model was built for {self.stations}; give it those."
            )
        if self.labels:
            check_same_stations(self.labels, names, split.data)
        return split.source

    def _network(self, deploy: bool) -> Corrformer:
        trunk = self.trunk(num_classes=None, in_chans=1, deploy=deploy)
        options = {"residual": self.start != "none", **dict(self.decoder)}
        return Corrformer(trunk, self.tree, self.label, self.horizon, **options)

    def module(self, deploy: bool = False) -> Corrformer:
        if not self.stations:
            raise ValueError("the number of stations is left to the data; give task.options.stations without any.")
        return self._network(deploy)

    def specs(self, train: bool) -> tuple[Spec, ...]:
        def shape(*sizes: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(sizes, jnp.float32)

        basis = len(self._climatology())
        inputs = {
            "history": shape(self.history, self.stations),
            "history_marks": shape(self.history, self._marks),
            "future_marks": shape(self.label + self.horizon, self._marks),
            "seasons": shape(self.horizon, basis),
        }
        if self.start != "none":
            inputs["history_seasons"] = shape(self.history, basis)
        future = shape(self.horizon, self.stations)
        return (Spec(inputs, {"future": future, "known": future} | ({} if train else {"ridge": future})),)

    def inputs(self, batch: Batch) -> tuple[jax.Array, ...]:
        places = standardized(np.array(self.places) if self.places else None, self.stations).astype(np.float32)
        history = (batch["history"] - self._from(batch)[0]) / self._scaling()[1]
        return history, batch["history_marks"], batch["future_marks"], jnp.asarray(places)

    @property
    def _marks(self) -> int:
        """How many features a timestamp has."""
        return time_features(np.zeros(1, "datetime64[s]"), frequency_of(self.step)).shape[1]

    # ---- host

    def open(self, data: Mapping[str, Any], split: str, train: bool = False) -> Split:
        facts = data.get("dir") or None, data.get("missing", self.missing)
        return Split(open_series(data["name"], split, *facts), data["name"], split)

    def compared(self, split: Split, open_train: Callable[[], Split]) -> tuple[Split, list[str]]:
        sizes = self.history, self.horizon
        ridge, notes = forecast_errors.fitted_ridge(lambda: self._check_stations(open_train()), *sizes)
        return split._replace(baseline=ridge), notes

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
        windows = self._windows(split.source, split.baseline)
        return training_stream(windows, _unchanged, seed) if train else grain.MapDataset.source(windows)

    def _windows(self, series: Series, ridge: Ridge | None = None) -> Windows:
        return Windows(series, self.history, self.label, self.horizon, self.seasons, np.array(self.mean), ridge)

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
        times = [list(map(str, windows.series.times[start + self.history :][: self.horizon])) for start in starts]
        facts = {"id": source_name(source), "series": series}
        return [windows[start] | facts | {"times": ahead} for start, ahead in zip(starts, times, strict=True)]

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

    def _from(self, batch: Batch) -> tuple[Any, Any, Any]:
        """(what the history departs from, what the forecast starts from, the unit of the network's numbers): arrays
        that broadcast to (n, history or horizon, stations).
        """
        if self.start == "none":
            offset, factor = self._scaling()
            return offset, offset, factor
        deviation = np.array(self.std or np.ones(self.stations), np.float32)
        weights = np.array(self.regression or np.zeros((self.history + 1, self.horizon)), np.float32)
        curves = batch["history_seasons"], batch["seasons"], self._climatology(), deviation, weights
        with jax.default_matmul_precision("highest"):
            before, after = start_curves(self.start, batch["history"], *curves)
        return before, after, np.array(self.spread or np.ones((self.horizon, self.stations)), np.float32)

    def _climatology(self) -> np.ndarray:
        """(basis, stations), zeros where it is not known."""
        basis = (1 + 2 * self.seasons[0]) * (1 + 2 * self.seasons[1])
        return np.array(self.climatology or np.zeros((basis, self.stations)), np.float32)

    def loss(
        self, apply: Apply, variables: Mapping[str, Any], batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        out, batch_stats = apply_training(apply, variables, self.inputs(batch), rng)
        _, start, spread = self._from(batch)
        squared = jnp.square(out - (batch["future"] - start) / spread) * batch["known"]
        total, count = jnp.sum(squared), jnp.sum(batch["known"])
        scalars = {"loss": (total, count)}
        return total / jnp.maximum(count, 1), {"batch_stats": batch_stats, "scalars": scalars}

    def predict(self, apply: Apply, variables: Mapping[str, Any], inputs: Batch) -> dict[str, jax.Array]:
        """(n, horizon, stations) each, in `unit`: the forecast, the last value and the climatology; the regression that
        it starts from, if it does.
        """
        _, start, spread = self._from(inputs)
        forecast = apply(variables, *self.inputs(inputs)) * spread + start
        with jax.default_matmul_precision("highest"):
            climatology = inputs["seasons"] @ self._climatology()
        last = jnp.broadcast_to(inputs["history"][:, -1:], forecast.shape)
        pred = {"forecast": forecast, "persistence": last, "climatology": climatology}
        if self.start == "regression":
            pred["start"] = start
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

        shown = {"squared": pred["forecast"], "ridge": self.scale * batch["ridge"]}
        shown |= {name: pred[name] for name in forecast_errors.BASELINES if name in pred}
        squared = {name: summed(jnp.square(value - truth)) for name, value in shown.items()}
        absolute = summed(jnp.abs(pred["forecast"] - truth))
        return {**squared, "absolute": absolute, "count": jnp.sum(weight, axis=0)}

    # ---- host, afterwards

    def _truth(self, example: Mapping[str, Any]) -> np.ndarray:
        return np.where(np.asarray(example["known"]) > 0, self.scale * np.asarray(example["future"]), np.nan)

    def saved(self, pred: Mapping[str, np.ndarray], batch: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        return {**pred, "ridge": self.scale * np.asarray(batch["ridge"]), "truth": self._truth(batch)}

    def record(self, pred: Mapping[str, np.ndarray], example: Example) -> Record | None:
        return forecast_records.record({**pred, "truth": self._truth(example)}, example) if "times" in example else None

    def combined(self, records: list[Record]) -> list[Record]:
        return forecast_records.combined(records, self.labels, self.unit)

    def table_columns(self, top: int) -> tuple[str, ...]:
        return forecast_records.TABLE_COLUMNS

    def table_rows(self, records: Sequence[Record], top: int) -> list[tuple[Any, ...]]:
        return forecast_records.table_rows(records, self.labels)

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
