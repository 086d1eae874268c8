"""Series by name: cut in time, with their places, and whatever is wrong with their files."""

import datetime

import numpy as np
import pytest
from tables import hours, write

from unireplknet_jax.data.series.sets import PLACES, _degrees, open_series, write_ordered


def make_csv(folder, rows=20, places="name,latitude,longitude\na,1,2\nb,3,4\nc,5,6\nd,7,8\n"):
    lines = [f"{time},{i},{i + 0.5},{i + 1},{i + 2}" for i, time in enumerate(hours(rows))]
    write(folder / "series.csv", "\n".join(["time,c,a,d,b", *lines]))
    write(folder / "stations.csv", places)
    return folder


@pytest.mark.parametrize("rows", [2, 9, 10])
def test_a_series_too_short_for_three_parts_is_one_sentence(tmp_path, rows):
    for split in ("train", "val", "test"):
        with pytest.raises(ValueError, match=f"^csv has {rows} rows, too few to cut into three parts"):
            open_series("csv", split, make_csv(tmp_path, rows))


def test_a_csv_is_cut_in_time_and_finds_its_places(tmp_path):
    parts = [open_series("csv", split, make_csv(tmp_path)) for split in ("train", "val", "test")]
    assert [len(part.times) for part in parts] == [14, 2, 4]
    assert parts[2].times[0] == hours(20)[16]
    np.testing.assert_array_equal(parts[0].places, [[5, 6, 0], [1, 2, 0], [7, 8, 0], [3, 4, 0]])


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ("name,latitude,longitude\na,1,2\n", "has no row for c, d, b"),
        ("name,lat,lon\na,1,2\n", "lacks a column"),
        ("name,latitude,longitude\na,north,2\n", "a: 'north' is no number"),
        ("name,latitude,longitude\na,1,\nb,1,2\nc,1,2\nd,1,2\n", "a has no place on Earth"),
        ("latitude,longitude,name\n1,2\n", "has no row for c, a"),
        ("name,latitude,longitude\na,1,2\nb,3,4\nb,3,5\n", "has two rows for b"),
        (f"name,{','.join(PLACES)}\na,1,2,nan\nb,nan,4,0\nc,5,6,0\nd,91,8,0\n", "a, d, b has no place on Earth"),
        (f"name,{','.join(PLACES)}\na,1,2,0\nb,3,361,0\nc,5,360,0\nd,7,-180,0\n", ": b has no place on Earth"),
        ("name,latitude,longitude\na\0,1,2\n", r"stations\.csv is not a text file; expected name,latitude"),
    ],
)
def test_wrong_places_are_one_sentence(tmp_path, places, message):
    with pytest.raises(ValueError, match=message):
        open_series("csv", "train", make_csv(tmp_path, places=places))


@pytest.mark.parametrize(
    ("name", "split", "folder", "message"),
    [
        ("weather", "train", None, "no source of series 'weather'"),
        ("waves", "validation", None, "has no split 'validation'; expected one of train, val, test"),
        ("csv", "train", None, "give their folder as data_dir"),
        ("csv", "train", "gs://bucket/x", "mount the bucket"),
        ("npy", "train", "nowhere", "there is no nowhere"),
        ("irish_wind", "train", "nowhere.rda", "r-cran-gstat"),
    ],
)
def test_unknown_sets_are_one_sentence(name, split, folder, message):
    with pytest.raises(ValueError, match=message):
        open_series(name, split, folder)


def write_global(folder, rows=6, stations=4, times=None):
    values = np.arange(rows * stations, dtype=np.float64).reshape(rows, stations, 1)
    np.save(folder / "temp_global_hourly_train.npy", values)
    np.save(folder / "data_time_train.npy", hours(rows) if times is None else times, allow_pickle=True)
    np.save(folder / "stations_sorted.npy", np.arange(stations * 3.0).reshape(stations, 3))
    return folder


def test_the_published_files(tmp_path):
    found = open_series("global_temp", "train", write_global(tmp_path))
    assert found.values.shape == (6, 4)
    assert (found.unit, found.scale) == ("°C", 0.1)
    np.testing.assert_array_equal(found.places[1], [3, 4, 5])
    with pytest.raises(ValueError, match=r"temp_global_hourly_val\.npy is missing"):
        open_series("global_temp", "val", tmp_path)
    np.save(tmp_path / "stations_sorted.npy", np.ones((5, 3)))
    with pytest.raises(ValueError, match="for 4 stations; expected latitude, longitude and elevation"):
        open_series("global_temp", "train", tmp_path)


@pytest.mark.parametrize("kind", [np.datetime64, datetime.datetime, str])
def test_times_of_any_kind(tmp_path, kind):
    times = hours(6)
    if kind is datetime.datetime:
        times = np.array(times.tolist(), object)
    if kind is str:
        times = times.astype(str).astype(object)
    found = open_series("global_temp", "train", write_global(tmp_path, times=times))
    np.testing.assert_array_equal(found.times, hours(6))


def test_times_as_texts_with_offsets_are_brought_to_utc(tmp_path):
    found = open_series(
        "global_temp", "train", write_global(tmp_path, times=np.array([f"{t}+01:00" for t in hours(6)]))
    )
    np.testing.assert_array_equal(found.times, hours(6, "2023-12-31T23"))
    with pytest.raises(ValueError, match=r"data_time_train\.npy, row 2: 'x' is no time"):
        open_series("global_temp", "train", write_global(tmp_path, times=np.array(["2024-01-01", "x"] * 3)))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("temp_global_hourly_train", np.ones((6, 4), complex), "is complex128 .* expected numbers"),
        ("stations_sorted", np.full((4, 3), "1"), "is <U1 .* for 4 stations"),
        (
            "stations_sorted",
            np.full((4, 3), np.nan),
            "station 0, station 1, station 2, station 3 has no place on Earth",
        ),
    ],
)
def test_arrays_of_a_wrong_kind_are_one_sentence(tmp_path, name, array, message):
    np.save(write_global(tmp_path) / f"{name}.npy", array)
    with pytest.raises(ValueError, match=message):
        open_series("global_temp", "train", tmp_path)


def test_a_folder_is_written_in_order(tmp_path):
    (tmp_path / "mine").mkdir()
    names = write_ordered(make_csv(tmp_path / "mine"), tmp_path / "ordered", (2, 2))
    assert {frozenset(names[:2]), frozenset(names[2:])} == {frozenset("ab"), frozenset("cd")}
    before, after = (open_series("csv", "train", tmp_path / folder) for folder in ("mine", "ordered"))
    for column, name in enumerate(after.names):
        own = before.names.index(name)
        np.testing.assert_array_equal(after.values[:, column], before.values[:, own])
        np.testing.assert_array_equal(after.places[column], before.places[own])
    with pytest.raises(FileExistsError, match="exists already"):
        write_ordered(tmp_path / "mine", tmp_path / "ordered", (2, 2))


@pytest.mark.parametrize(
    ("text", "degrees"),
    [("53d26'N", 53 + 26 / 60), ("6d21'36\"W", -6.36), ("10d30'E", 10.5), (" 0d06'S", -0.1)],
)
def test_degrees_minutes_and_seconds_have_a_side(text, degrees):
    assert _degrees(text) == pytest.approx(degrees)


def test_places_of_another_language_and_encoding(tmp_path):
    make_csv(tmp_path, places="name;latitude;longitude;elevation\nA;1,5;2;7\nb;3;4\nC;5;6;\nd;7;8;1\n")
    np.testing.assert_array_equal(open_series("csv", "train", tmp_path).places[:2], [[5, 6, 0], [1.5, 2, 7]])


def test_what_is_missing_is_an_option(tmp_path):
    path = make_csv(tmp_path) / "series.csv"
    path.write_text(path.read_text().replace(",3,3.5,4,5", ",-9999,T,-1,5"))
    found = [open_series("csv", "train", tmp_path, missing).values[3] for missing in ("auto,t", "-1 t")]
    np.testing.assert_array_equal(found, [[np.nan, np.nan, -1, 5], [-9999, np.nan, np.nan, 5]])
    assert open_series("csv", "train", tmp_path, "t").missing == "t"
