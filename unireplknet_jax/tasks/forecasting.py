"""Forecasts for many stations at once: each group of stations is a map of time by features (Corrformer).

Paper: table 12 of the journal version. Original: Time-Series/, which crashes as released; `nn.corrformer` says what had
to be decided.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax.data.base import listed
from unireplknet_jax.data.pipeline import training_stream
from unireplknet_jax.data.series.sets import open_series
from unireplknet_jax.data.series.stations import check_same_stations, check_tree, standardized
from unireplknet_jax.data.series.time_features import fit_seasons, frequency_of, season_basis, time_features
from unireplknet_jax.data.series.windows import Windows, check_measured, checked, continued, read_table
from unireplknet_jax.models.unireplknet import UniRepLKNet
from unireplknet_jax.models.variants import create_model
from unireplknet_jax.nn.corrformer import Corrformer
from unireplknet_jax.tasks import corrformer_names
from unireplknet_jax.tasks.base import check_number
from unireplknet_jax.tasks.classification import freeze
from unireplknet_jax.tasks.forecast_plot import draw_forecast

_ERRORS = ("mse", "mae", "rmse")
_LEAST = {"history": 1, "horizon": 1, "step": 1, "label": 0, "stations": 0}
_SUMS = ("squared", "absolute", "persistence", "climatology", "count")


@dataclasses.dataclass(frozen=True)
class Forecasting:
    """Forecast `horizon` steps of every station from `history` steps of all.

    model: keyword arguments of the trunk, "name" a published size whose fields the others override. decoder: those of
        `nn.corrformer.Corrformer` besides (width, heads, hidden, layers, moving_average, readout, ...).
    tree: children on every level; the stations, in their order, fill its leaves equally. label: the last steps of the
        history that the decoder starts from.
    scaling: "station", each station to mean 0 and deviation 1 of the training data, or "none", as the original.
    The rest is what `fitted_to` learns of the data: stations, their number (0: not known yet), and labels, their names;
    step, seconds; a value times `scale` is in `unit`; places, (stations, 3) latitude, longitude, elevation, or empty;
    mean and std of each station; the climatology, harmonics of year and day: their orders `seasons`, and coefficients
    (basis, stations).
    """

    model: Mapping[str, Any]
    tree: tuple[int, ...]
    labels: tuple[str, ...] = ()
    decoder: Mapping[str, Any] = ()
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

    name: ClassVar[str] = "forecasting"
    makes_records: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = False  # an error leads
    ranked: ClassVar[bool] = False

    def __post_init__(self):
        for field in ("model", "decoder", "labels", "tree", "places", "mean", "std", "seasons", "climatology"):
            object.__setattr__(self, field, freeze(getattr(self, field)))
        for field, least in _LEAST.items():
            if not isinstance(getattr(self, field), int):
                raise ValueError(f"{field}={getattr(self, field)} must be a whole number.")
            check_number(field, getattr(self, field), f"{least} or more")
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
    def options(self):
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "labels"}
        return fields | {"model": dict(self.model), "decoder": dict(self.decoder)}

    @property
    def units(self):
        skill = "1 - MSE / MSE of it"
        own = {"mse": f"{self.unit}²", "mae": self.unit, "rmse": self.unit, "count": "values"}
        return own | {"skill_persistence": skill, "skill_climatology": skill}

    def fitted_to(self, data):
        """The task with the stations, scaling and climatology of the training data; coefficients that it has stay.

        Raises ValueError if the data have other stations than the task or than their evaluation split.
        """
        found = self._open(data, data["train_split"])
        if data["eval_split"] and self._open(data, data["eval_split"]).names != found.names:
            raise ValueError(f"{data['eval_split']} and {data['train_split']} of {data['name']} differ in stations.")
        self._check_stations(found, data["name"])
        check_tree(len(found.names), self.tree)
        if self.labels:
            return self
        known = np.isfinite(found.values)
        check_measured(f"the {data['train_split']} part of {data['name']}", found.values, found.names)
        mean, std = (f(found.values, axis=0, where=known, dtype=np.float64) for f in (np.mean, np.std))
        orders, coefficients = fit_seasons(found.times, found.values)
        return dataclasses.replace(
            self,
            labels=found.names,
            stations=len(found.names),
            step=found.step,
            unit=found.unit,
            scale=found.scale,
            places=() if found.places is None else found.places.tolist(),
            mean=mean.tolist(),
            std=np.where(std > 0, std, 1).tolist(),
            seasons=orders,
            climatology=coefficients.astype(np.float32).tolist(),
        )

    def _check_stations(self, found, name):
        if self.stations and len(found.names) != self.stations:
            raise ValueError(
                f"{name} has {len(found.names)} stations, but the model was built for {self.stations}; give it those."
            )
        if self.labels:
            check_same_stations(self.labels, found.names, name)

    def _network(self, deploy):
        options = {**dict(self.model), "num_classes": None, "in_chans": 1, "deploy": deploy}
        if "dtype" in options:
            options["dtype"] = jnp.dtype(options["dtype"])
        name = options.pop("name", None)
        trunk = create_model(name, **options) if name else UniRepLKNet(**options)
        return Corrformer(trunk, self.tree, self.label, self.horizon, **dict(self.decoder))

    def module(self, deploy=False):
        if not self.stations:
            raise ValueError("the number of stations is left to the data; give task.options.stations without any.")
        return self._network(deploy)

    def shapes(self, train):
        del train

        def shape(*sizes):
            return jax.ShapeDtypeStruct(sizes, jnp.float32)

        return (
            {
                "history": shape(self.history, self.stations),
                "future": shape(self.horizon, self.stations),
                "known": shape(self.horizon, self.stations),
                "history_marks": shape(self.history, self._marks),
                "future_marks": shape(self.label + self.horizon, self._marks),
                "seasons": shape(self.horizon, (1 + 2 * self.seasons[0]) * (1 + 2 * self.seasons[1])),
            },
        )

    @property
    def _marks(self):
        """How many features a timestamp has."""
        return time_features(np.zeros(1, "datetime64[s]"), frequency_of(self.step)).shape[1]

    # ---- host

    @staticmethod
    def _open(data, split):
        return _opened(data["name"], split, data.get("dir") or None)

    def dataset(self, data, split, train):
        import grain

        found = self._open(data, split)
        self._check_stations(found, data["name"])
        if found.step != self.step:
            raise ValueError(f"{data['name']} has a row every {found.step} s, but the model every {self.step} s.")
        windows = self._windows(found)
        return training_stream(windows, _unchanged, data["seed"]) if train else grain.MapDataset.source(windows)

    def _windows(self, series):
        return Windows(series, self.history, self.label, self.horizon, self.seasons, np.array(self.mean))

    def read(self, source):
        """The window that ends a CSV file, to forecast what comes after it, and, if the file is long enough, the one
        `horizon` rows before, whose future the file knows. Columns are found by their names.
        """
        series = self._read_series(source)
        steps = len(series.times)
        if steps < self.history:
            raise ValueError(f"{source} has {steps} rows; expected {self.history} or more, a history of the model.")
        windows = self._windows(continued(series, self.horizon))
        starts, end = [steps - self.history], series.values[-self.horizon :]
        if steps >= self.history + self.horizon and np.any(np.isfinite(end)):
            starts.append(steps - self.history - self.horizon)
        return [windows[start] | {"id": str(source), "times": self._times(windows, start)} for start in starts]

    def _times(self, windows, start):
        now = start + self.history
        return [str(time) for time in windows.series.times[now : now + self.horizon]]

    def _read_series(self, source):
        if not self.labels:
            raise ValueError("this checkpoint does not name its stations; train a recipe from it (config.init) first.")
        path = Path(source)
        if not path.is_file():
            raise ValueError(
                f"there is no file {source}; expected a CSV with time,STATION,... and a row for each time."
            )
        times, values, names = read_table(path)
        missing = [name for name in self.labels if name not in names]
        if missing:
            raise ValueError(
                f"{source} has no column for {listed(missing)}; expected the {len(self.labels)} stations of the model."
            )
        found = checked(str(source), times, values[:, [names.index(name) for name in self.labels]], self.labels)
        if found.step != self.step:
            raise ValueError(f"{source} has a row every {found.step} s; the model expects one every {self.step} s.")
        return found

    # ---- device

    def _scaling(self):
        """(offset, factor), each (stations,): (value - offset) / factor goes through the network."""
        if self.scaling == "none" or not self.mean:
            return np.zeros(self.stations, np.float32), np.ones(self.stations, np.float32)
        return np.array(self.mean, np.float32), np.array(self.std, np.float32)

    def _forward(self, apply, variables, batch, **options):
        offset, factor = self._scaling()
        places = standardized(np.array(self.places) if self.places else None, self.stations).astype(np.float32)
        history = (batch["history"] - offset) / factor
        return apply(variables, history, batch["history_marks"], batch["future_marks"], jnp.asarray(places), **options)

    def loss(self, apply, variables, batch, rng):
        out, updates = self._forward(
            apply, variables, batch, train=True, rngs={"dropout": rng}, mutable=["batch_stats"]
        )
        offset, factor = self._scaling()
        squared = jnp.square(out - (batch["future"] - offset) / factor) * batch["known"]
        total, count = jnp.sum(squared), jnp.sum(batch["known"])
        scalars = {"loss": (total, count)}
        return total / jnp.maximum(count, 1), {"batch_stats": updates.get("batch_stats", {}), "scalars": scalars}

    def predict(self, apply, variables, batch):
        offset, factor = self._scaling()
        forecast = self._forward(apply, variables, batch) * factor + offset
        coefficients = np.array(self.climatology, np.float32) if self.climatology else np.zeros((1, self.stations))
        pred = {
            "forecast": forecast,
            "persistence": jnp.broadcast_to(batch["history"][:, -1:], forecast.shape),
            "climatology": jnp.einsum("npk,ks->nps", batch["seasons"], jnp.asarray(coefficients, jnp.float32)),
            "truth": jnp.where(batch["known"] > 0, batch["future"], jnp.nan),
        }
        return {name: self.scale * value for name, value in pred.items()}

    def totals(self, pred, batch):
        weight = batch["known"] * batch["mask"][:, None, None]

        def summed(values):
            return jnp.sum(jnp.where(weight > 0, values, 0.0), axis=0)

        error = {name: pred[name] - pred["truth"] for name in ("forecast", "persistence", "climatology")}
        return {
            "squared": summed(jnp.square(error["forecast"])),
            "absolute": summed(jnp.abs(error["forecast"])),
            "persistence": summed(jnp.square(error["persistence"])),
            "climatology": summed(jnp.square(error["climatology"])),
            "count": jnp.sum(weight, axis=0),
        }

    # ---- host, afterwards

    def record(self, pred, example):
        if "times" not in example:
            return None
        shown = {name: np.asarray(value, np.float64) for name, value in pred.items()}
        known = bool(np.any(np.isfinite(shown["truth"])))
        return {"id": example["id"], "known": known, "times": example["times"], **shown}

    def combined(self, records):
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

    def _rows(self, record, name):
        return [
            {"time": time, **dict(zip(self.labels, map(_short, row), strict=True))}
            for time, row in zip(record["times"], record[name], strict=True)
        ]

    def metrics(self, totals, records):
        del records
        sums = {name: np.asarray(totals[name], np.float64) for name in _SUMS}
        if not sums["count"].sum():
            raise ValueError("there is nothing to evaluate: the data set is empty, or every value of it is missing.")
        mse, mae, rmse = _errors(sums)
        against = {
            name: 1 - mse / _share(sums[name].sum(), sums["count"].sum()) for name in ("persistence", "climatology")
        }
        found = {"mse": mse, "mae": mae, "rmse": rmse}
        found |= {f"skill_{name}": value for name, value in against.items()} | {"count": sums["count"].sum()}
        for index in range(self.horizon):
            lead = _errors({name: value[index] for name, value in sums.items()})
            found |= {f"{name}/lead {index + 1}": value for name, value in zip(_ERRORS, lead, strict=True)}
        for index, station in enumerate(self.labels):
            own = _errors({name: value[:, index] for name, value in sums.items()})
            found |= {f"{name}/{station}": value for name, value in zip(_ERRORS, own, strict=True)}
        return {name: float(value) for name, value in found.items()}

    def draw(self, source, records):
        series = self._read_series(source)
        basis = season_basis(continued(series, self.horizon).times, *self.seasons)
        return draw_forecast(
            records[0], series.times, self.scale * series.values, self.scale * basis @ np.array(self.climatology),
            self.labels, self.history, self.unit,
        )  # fmt: skip

    # ---- checkpoints

    @classmethod
    def matches(cls, shapes):
        return any(name.startswith("encoder.stages.") for name in shapes) and "decoder.projection.weight" in shapes

    @classmethod
    def from_torch_shapes(cls, shapes):
        """As published where a state dict leaves no trace: tree, heads, readout, moving average, label and horizon."""
        model, decoder, channels, steps, seconds, merged = corrformer_names.infer_options(shapes)
        tree = (7, 50) if channels == 11 else (1,)
        label = steps // 2
        options = {"label": label, "horizon": steps - label, "history": steps, "scaling": "none", "step": seconds}
        return cls(model, tree, decoder=decoder, stations=channels * math.prod(tree), **options), merged

    @classmethod
    def canonical(cls, name):
        return corrformer_names.canonical(name)

    @classmethod
    def aliases(cls, table):
        return corrformer_names.aliases(table)

    @classmethod
    def names_of(cls, variables):
        return corrformer_names.name_table(variables)

    def name_table(self, deploy=False):
        return _name_table(self.module(deploy), self.stations, self.history, self._marks)


@functools.lru_cache(maxsize=8)  # the layers around the trunk are traced
def _name_table(module, stations, history, marks):
    return corrformer_names.name_table(corrformer_names.variables_of(module, stations, history, marks))


@functools.lru_cache(maxsize=3)  # the loop and `fitted_to` ask for the same files
def _opened(name, split, data_dir):
    return open_series(name, split, data_dir)


def _unchanged(example, rng):
    del rng
    return example


def _share(total, count):
    return total / count if count else math.nan


def _errors(sums):
    """(MSE, MAE, RMSE) of sums of any shape."""
    count = sums["count"].sum()
    mse, mae = _share(sums["squared"].sum(), count), _share(sums["absolute"].sum(), count)
    return mse, mae, math.sqrt(mse)


def _short(value):
    """Six digits: more than any forecast knows."""
    return float(f"{value:.6g}")
