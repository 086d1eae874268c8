"""Tables of series, checked times, gaps, and windows of history and future."""

import pickle

import numpy as np
import pytest
from tables import hours, write

from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.data.series.time_features import season_basis, time_features
from unireplknet_jax.data.series.windows import (
    Series,
    Windows,
    checked,
    continued,
    read_stations,
    read_table,
    without_gaps,
)


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
        (
            hours(4) + np.array([0, 0, 0, -1800]) * np.timedelta64(1, "s"),
            "T02:30:00 comes 1800 s after .* 3600 s apart",
        ),
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


def test_a_table_with_missing_values_and_offsets(tmp_path):
    text = "time,a,b\n2024-01-01T01:00:00+01:00,1.5,NA\n2024-01-01 01:00,,2\n\n2024-01-01T02:00Z,3,nan\n"
    times, values, names = read_table(write(tmp_path / "x.csv", text))
    np.testing.assert_array_equal(times, hours(3))
    assert names == ("a", "b")
    np.testing.assert_array_equal(values, [[1.5, np.nan], [np.nan, 2], [3, np.nan]])


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_table_of_another_language(tmp_path, separator):
    lines = ["time;a;b", "2024-01-01;1,5;n/a", "2024-01-02;2;-0,25"]
    _, values, names = read_table(write(tmp_path / "x.csv", "\n".join(lines).replace(";", separator)))
    assert names == ("a", "b")
    np.testing.assert_array_equal(values, [[1.5, np.nan], [2, -0.25]])


def test_fill_values_of_archives_are_missing():
    values = np.linspace(8, 12, 20).reshape(10, 2)
    values[4, 1] = -999.9
    found = checked("s.csv", hours(10), values, ("a", "b")).values
    assert np.argwhere(np.isnan(found)).tolist() == [[4, 1]]


def test_stations_are_found_by_their_names_in_a_file_or_its_bytes(tmp_path):
    path = write(tmp_path / "x.csv", "time,b,c,a\n2024-01-01,2,9,1\n2024-01-02,4,9,3\n")
    for source in (path, str(path), EncodedFile(path.read_bytes(), "x")):
        series = read_stations(source, ("a", "b"), 86_400)
        assert series.names == ("a", "b")
        np.testing.assert_array_equal(series.values, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.csv", "there is no file nowhere.csv; expected a CSV"),
        (EncodedFile(b"time,a\n2024-01-01,1\n", "x"), "x has no column for b; expected the 2 stations"),
        (EncodedFile(b"time,a,b\n2024-01-01,1,2\n2024-01-02,1,2\n", "x"), "x has a row every 86400 s; .* 3600 s"),
        (EncodedFile(b"time,a,b\n2024-01-01,1\n", "x"), "x, line 2: 2 cells, but the header has 3"),
        (np.zeros((5, 2)), r"cannot read the array of shape \(5, 2\); expected a table of stations, CSV: its path"),
    ],
)
def test_what_is_no_table_of_these_stations_is_one_sentence(source, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        read_stations(source, ("a", "b"), 3600)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.csv is empty; expected time,STATION"),
        ("time,a\n", "has no rows"),
        ("time,a\n2024-01-01,1,2\n", "line 2: 3 cells, but the header has 2"),
        ("time,a\nyesterday,1\n", "line 2: 'yesterday' is no time"),
        ("time,a\n0001-01-01T00:00+05:00,1\n", "line 2: '0001-01-01T00:00.05:00' is no time"),
        ("time;a\n2024-01-01;1.234,5\n", r"line 2: '1\.234,5' is no number; expected numbers for a"),
        ("2024-01-01,1\n2024-01-02,2\n", "begins with the time 2024-01-01; expected a header"),
        ("time\n2024-01-01\n", "or no stations"),
        ("time,a,time\n2024-01-01,1,2\n", "names two columns alike"),
        ("time,a\n2024-01-01,warm\n", "line 2: 'warm' is no number; expected numbers for a"),
        ("time,a,a\n2024-01-01,1,2\n", "names two columns alike"),
        ('time,a\n2024-01-01,"1,234"\n2024-01-02,"0,5"\n', "line 2: '1,234' is no number"),  # or a thousand
        ("time,a\nUTC,1\n2024-01-01,1\n2024-01-02,2\n", "line 2: 'UTC' is no time"),  # no row of units
        (",time,a\n0,x,1\n1,2024-01-01,2\n", "line 2: '0' is no time"),
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
    with pytest.raises(ValueError, match=r"x\.csv is not a text file; expected time,STATION"):
        read_table(tmp_path / "x.csv")


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\ntime;a;b\n2024-01-01;1,5;2\n2024-01-02;3;4\n",
        'time,a,b\n2024-01-01,"1,5",2\n2024-01-02,3,4\n',
        "time,a,b\n,°C,m/s\n2024-01-01,1.5,2\n2024-01-02,3,4\n",
        "time,a,b,\n2024-01-01,1.5,2,\n2024-01-02,3,4,\n",
        ",time,a,b\n0,2024-01-01,1.5,2\n1,2024-01-02,3,4\n",
        "# station 7\r\ntime,a,b\r\n2024-01-01,1.5,2\r\n2024-01-02,3,4\r\n\x1a",
    ],
)
def test_tables_of_spreadsheets_and_loggers(text):
    times, values, names = read_table(EncodedFile(text.encode("utf-16"), "x.csv"))
    assert (names, times.astype(str).tolist()) == (("a", "b"), ["2024-01-01T00:00:00", "2024-01-02T00:00:00"])
    np.testing.assert_array_equal(values, [[1.5, 2], [3, 4]])


def test_stations_are_found_as_a_person_reads_them_and_without_what_is_missing():
    text = "time,KÄSE ,b\n2024-01-01,1,T\n2024-01-02,-1,4\n"
    series = read_stations(EncodedFile(text.encode("latin-1"), "x"), ("b", "Ka\u0308se"), 86_400, "-1 t")
    np.testing.assert_array_equal(series.values, [[np.nan, 1], [4, np.nan]])
    assert series.missing == "-1 t"
