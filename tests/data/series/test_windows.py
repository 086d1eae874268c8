"""Time features, tables of series and their windows, stations as a tree, NumPy files."""

import datetime
import pickle

import numpy as np
import pytest

from unireplknet_jax.data.series.numpy_files import read_npy
from unireplknet_jax.data.series.sets import PLACES, open_series, write_ordered
from unireplknet_jax.data.series.stations import order_stations, standardized
from unireplknet_jax.data.series.time_features import fit_seasons, frequency_of, season_basis, time_features
from unireplknet_jax.data.series.windows import Series, Windows, checked, continued, read_table, without_gaps

HOUR = np.timedelta64(3600, "s")


def hours(count, start="2024-01-01"):
    return np.datetime64(start, "s") + np.arange(count) * HOUR


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
    assert fit_seasons(hours(900)[::24], values[:900:24])[0] == (0, 0)


def test_rows_that_are_left_out_come_back_empty():
    times, values = hours(6)[[0, 1, 4, 5]], np.arange(8.0).reshape(4, 2)
    found = checked("x", times, values, ("a", "b"))
    assert found.step == 3600
    np.testing.assert_array_equal(found.times, hours(6))
    np.testing.assert_array_equal(np.isnan(found.values[:, 0]), [False, False, True, True, False, False])


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (hours(4)[[0, 2, 1, 3]], r"x: 2024-01-01T01:00:00 comes after 2024-01-01T02:00:00 \(row 3\)"),
        (hours(4)[[0, 1, 1, 2]], r"x: 2024-01-01T01:00:00 occurs twice \(row 3\)"),
        (hours(4) + np.array([0, 0, 7, 7]) * np.timedelta64(1, "s"), "evenly spaced times"),
        (np.array([*hours(3), "NaT"], "datetime64[s]"), "row 4 has no timestamp"),
        (hours(400)[[0, 1, 2, 399]], "lacks 396 of its rows"),
    ],
)
def test_wrong_times_are_one_sentence(times, message):
    with pytest.raises(ValueError, match=message):
        checked("x", times, np.ones((4, 2)), ("a", "b"))


def test_a_station_without_any_value_is_named():
    values = np.ones((5, 3))
    values[:, 1] = np.nan
    with pytest.raises(ValueError, match="x has no value at all for b;"):
        checked("x", hours(5), values, ("a", "b", "c"))


def test_gaps_are_filled_from_the_past_alone():
    values = np.array([[np.nan, 1], [2, np.nan], [np.nan, np.nan], [5, 6]])
    np.testing.assert_array_equal(without_gaps(values, np.array([9, 8])), [[9, 1], [2, 1], [2, 1], [5, 6]])


def make_windows(rows=10, **options):
    values = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    values[7, 1] = np.nan
    sizes = {"history": 4, "label": 2, "horizon": 3, "seasons": (0, 1), **options}
    return Windows(Series(hours(rows), values, ("a", "b")), first=np.zeros(2), **sizes)


def test_a_window_is_history_then_future():
    windows = make_windows()
    assert len(windows) == 4
    example = windows[2]
    np.testing.assert_array_equal(example["history"][:, 0], [4, 6, 8, 10])
    np.testing.assert_array_equal(example["future"], [[12, 13], [14, 0], [16, 17]])
    np.testing.assert_array_equal(example["known"], [[1, 1], [1, 0], [1, 1]])
    marks = time_features(hours(10), "h").astype(np.float32)
    np.testing.assert_array_equal(example["history_marks"], marks[2:6])
    np.testing.assert_array_equal(example["future_marks"], marks[4:9])
    np.testing.assert_allclose(example["seasons"], season_basis(hours(10), 0, 1)[6:9], atol=1e-6)
    np.testing.assert_array_equal(windows[3]["history"][:, 1], [7, 9, 11, 13])
    assert windows[-1]["id"] == 3
    assert pickle.loads(pickle.dumps(windows))[1]["id"] == 1


def test_a_series_too_short_for_a_window_is_one_sentence():
    for rows in (6, 2):
        with pytest.raises(ValueError, match=f"^{rows} rows hold no window of 4 rows of history and 3 of future"):
            Windows(Series(hours(rows), np.ones((rows, 2)), ("a", "b")), 4, 2, 3, (0, 0), np.zeros(2))


def test_a_series_is_continued_by_unknown_rows():
    found = continued(Series(hours(3), np.ones((3, 2), np.float32), ("a", "b")), 2)
    np.testing.assert_array_equal(found.times, hours(5))
    assert np.isnan(found.values[3:]).all()


def write(path, text):
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path


def test_a_table_with_missing_values_and_offsets(tmp_path):
    text = "time,a,b\n2024-01-01T01:00:00+01:00,1.5,NA\n2024-01-01 01:00,,2\n\n2024-01-01T02:00Z,3,nan\n"
    times, values, names = read_table(write(tmp_path / "x.csv", text))
    np.testing.assert_array_equal(times, hours(3))
    assert names == ("a", "b")
    np.testing.assert_array_equal(values, [[1.5, np.nan], [np.nan, 2], [3, np.nan]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("time,a\n", "has no rows"),
        ("time,a\n2024-01-01,1,2\n", "line 2: 3 cells, but the header has 2"),
        ("time,a\nyesterday,1\n", "line 2: 'yesterday' is no time"),
        ("time,a\n0001-01-01T00:00+05:00,1\n", "line 2: '0001-01-01T00:00.05:00' is no time"),
        ("time;a\n2024-01-01;1\n", "line 2: '2024-01-01;1' is no time"),
        ("2024-01-01,1\n2024-01-02,2\n", "begins with the time 2024-01-01; expected a header"),
        ("time\n2024-01-01\n", "or no stations"),
        ("time,a,time\n2024-01-01,1,2\n", "names two columns alike"),
        ("time,a\n2024-01-01,warm\n", "line 2: could not convert string to float: 'warm'; expected numbers for a"),
        ("time,a,a\n2024-01-01,1,2\n", "names two columns alike"),
    ],
)
def test_wrong_tables_are_one_sentence(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_table(write(tmp_path / "x.csv", text))


def test_what_float32_cannot_hold_is_missing(tmp_path):
    path = write(tmp_path / "x.csv", "time,a\n2024-01-01,1e39\n2024-01-02,inf\n2024-01-03,1\n")
    times, values, names = read_table(path)
    np.testing.assert_array_equal(checked("x", times, values, names).values[:, 0], [np.nan, np.nan, 1])


def test_a_picture_is_no_table(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    with pytest.raises(ValueError, match="is no CSV file in UTF-8"):
        read_table(tmp_path / "x.csv")


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
        ("name,latitude,longitude\na,north,2\n", "could not convert"),
        ("name,latitude,longitude\na,1,\n", "a: could not convert"),
        ("latitude,longitude,name\n1,2\n", "has no row for c, a"),
        ("name,latitude,longitude\na,1,2\nb,3,4\nb,3,5\n", "has two rows for b"),
        (f"name,{','.join(PLACES)}\na,1,2,nan\nb,nan,4,0\nc,5,6,0\nd,91,8,0\n", "a, d, b has no place on Earth"),
        ("name,latitude,longitude\na\udcfc,1,2\n", r"stations\.csv is no CSV file in UTF-8"),
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


class Harmful:
    def __reduce__(self):
        return print, ("run",)


def test_nothing_in_a_numpy_file_is_run(tmp_path, capsys):
    path = tmp_path / "x.npy"
    np.save(path, np.array([Harmful()], object), allow_pickle=True)
    with pytest.raises(ValueError, match="could run code"):
        read_npy(path)
    path.write_bytes(b"no array")
    with pytest.raises(ValueError, match="no array of NumPy"):
        read_npy(path)
    np.save(path, np.zeros((7, 2)))
    path.write_bytes(path.read_bytes().replace(b"(7, 2), }" + b" " * 14, b"(700000000000000, 2), }"))
    with pytest.raises(ValueError, match="no array of NumPy"):
        read_npy(path)
    assert capsys.readouterr().out == ""


def test_neighbours_share_a_leaf():
    rng = np.random.default_rng(0)
    centres = np.array([[50, 10], [50, -170], [-40, 20], [0, 100], [10, -60], [80, 0]])
    places = np.repeat(centres, 5, axis=0) + rng.normal(0, 0.5, (30, 2))
    shuffled = rng.permutation(30)
    order = shuffled[order_stations(places[shuffled], (2, 3))]
    assert sorted(order) == list(range(30))
    assert all(len({*group}) == 1 for group in (order // 5).reshape(6, 5))


@pytest.mark.parametrize("tree", [(7, 50), (3,), (2, 5, 7)])
def test_every_tree_gets_equal_groups_whatever_the_order_before(tree):
    places = np.random.default_rng(0).uniform((-90, -180), (90, 180), (2100, 2))
    order, turned = order_stations(places, tree), order_stations(places[::-1], tree)
    assert sorted(order) == list(range(2100))
    np.testing.assert_array_equal(places[order], places[::-1][turned])


def test_stations_that_do_not_fill_a_tree():
    with pytest.raises(ValueError, match="10 stations cannot fill the 6 leaves of the tree 2 x 3 equally"):
        order_stations(np.zeros((10, 2)), (2, 3))
    with pytest.raises(ValueError, match="no latitude or longitude"):
        order_stations(np.full((6, 2), np.nan), (2, 3))


def test_places_are_standardized():
    found = standardized(np.array([[1.0, 5, 0], [3, 5, 0]]), 2)
    np.testing.assert_array_equal(found, [[-1, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(standardized(None, 2), np.zeros((2, 3)))


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
