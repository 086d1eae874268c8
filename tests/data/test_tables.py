"""Text tables as programs of several languages write them, and the values that stand for none."""

import numpy as np
import pytest

from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.data.tables import number, rows_of_numbers, rows_of_table, split_missing, without_fills


@pytest.mark.parametrize(
    "line",
    [
        *("0.5 1 -2e-1", "0.5,1,-2e-1", "0.5, 1, -2e-1,", "0.5\t1\t-2e-1", "0.5;1;-2e-1;", "0.5,1 -2e-1"),
        *("0,5 1 -2e-1", "0,5;1;-2e-1", "0,5\t1\t-2e-1", "0,5 ; 1 ; -0,2", "0.5 1 -0.2 red", "0,5 1,0 -0,2 255"),
    ],
)
def test_whatever_separates_the_numbers(line):
    assert rows_of_numbers([line, line], "a.xyz", range(3)) == [[0.5, 1.0, -0.2]] * 2


def test_whole_numbers_between_commas_are_no_decimals():
    assert rows_of_numbers(["1,2,3"], "a.xyz", range(3)) == [[1, 2, 3]]
    assert rows_of_numbers(["1,2,3 255,0,0"], "a.xyz", range(3)) == [[1, 2, 3]]
    assert rows_of_numbers(["1 ,2 ,3"], "a.xyz", range(3)) == [[1, 2, 3]]
    assert rows_of_numbers(["1,2 3"], "a.xyz", range(3)) == [[1, 2, 3]]


def test_decimal_commas_are_said(caplog):
    rows_of_numbers(["0,5 1,0 2"], "a.xyz", range(3))
    assert [record.message for record in caplog.records] == [
        "a.xyz: its commas are taken for decimal ones, as in 0,5 1,0 2"
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1 2 3", "4 5"], "^'4 5' has 2 fields, but the first line has 3$"),
        (["1 2 3", "4 5 6 7"], "^'4 5 6 7' has 4 fields, but the first line has 3$"),
        (["1 2"], "^'1 2' is no line of 3 or more numbers; leave out what is none$"),
        (["x y z"], "^'x y z' is no line of 3 or more numbers; leave out what is none$"),
        (["1,234.5;1;2"], "^'1,234.5' has a point and a comma;"),
        (["0,1 0,2 0.3"], "some numbers have commas and others points, as in '0,1 0,2 0.3'"),
        (["1_0 2 3"], "is no line of 3 or more numbers"),
        (["1.234,5 1 2"], "^'1.234,5' has a point and a comma; write numbers with one of them$"),
    ],
)
def test_other_lines_are_refused(lines, message):
    with pytest.raises(ValueError, match=message):
        rows_of_numbers(lines, "a.xyz", range(3))


@pytest.mark.parametrize("cell", ["", "NA", "n/a", "NaN", " null ", "#N/A", "-", "."])
def test_what_says_that_there_is_no_number(cell):
    assert np.isnan(number(cell))


@pytest.mark.parametrize("fill", [-9999, -999.9, -99, 9999.9, 99999, 9.96921e36, 1e20, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fill_values_are_missing(fill, dtype, caplog):
    values = np.stack([10 + 5 * np.sin(np.arange(60) / 4), np.linspace(8, 14, 60)], axis=1).astype(dtype)
    spoilt = values.copy()
    spoilt[3, 0] = spoilt[7, 1] = fill
    found = without_fills(spoilt, "s.csv")
    assert np.isnan(found[[3, 7], [0, 1]]).all()
    assert np.isnan(found).sum() == 2
    kept = ~np.isnan(found)
    np.testing.assert_array_equal(found[kept], values[kept])
    assert caplog.messages == [f"s.csv: {fill:.6g} taken for missing values, 2 of them (data.missing says otherwise)"]


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        ([-1.0, 2.0, -999.0, 9.96921e36], [2, 3]),  # neither hides the other
        ([0.0, 300.0, 12.0, -99.0], [3]),  # of rain, whose least is 0
    ],
)
def test_fill_values_are_missing_beside_others(values, missing):
    found = without_fills(np.array([values]), "s.csv")
    assert np.flatnonzero(np.isnan(found)).tolist() == missing


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 5000.0, 9999.0],  # metres of sight
        [0.0, 3500.0, 9999.0],  # and a clearer day
        [-90.0, -99.0, -120.0, 40.0],  # degrees at the pole
        [990.0, 999.0, 999.9, 1013.0],  # hectopascals
        [999.0, 1000.0, 1000.0],  # hectopascals that do not change
        [-9999.0, np.nan],  # nothing to judge by
    ],
)
def test_what_may_be_measured_stays(values, caplog):
    np.testing.assert_array_equal(without_fills(np.array([values]), "s.csv"), [values])
    assert not caplog.records


@pytest.mark.parametrize(
    ("missing", "gone"),
    [("auto", [-9999, np.inf]), ("", [np.inf]), ("-1 7.0", [-1, 7, np.inf]), ("auto,-1", [-9999, -1, np.inf])],
)
def test_a_user_says_what_is_missing(missing, gone):
    values = np.array([[10, 12, -9999, -1, 7, 14, np.inf, 11.0]])
    found = without_fills(values, "s.csv", missing)
    assert sorted(values[np.isnan(found)]) == sorted(gone)


def test_words_that_stand_for_missing_values():
    assert split_missing("auto; ND,-99 T") == (True, (-99.0,), ("nd", "-99", "t"))
    assert np.isnan(number(" T ", missing=("t",)))
    with pytest.raises(ValueError, match=r"^'T' is no number$"):
        number("T")


@pytest.mark.parametrize(
    "text",
    [
        "t,a,b\n1,2,3\n",
        "sep=;\nt;a;b\n1;2;3\n",
        '"sep=\t"\nt\ta\tb\n1\t2\t3\n',
        "sep=|\nt|a|b\n1|2|3\n",
        "# a station\n\n# another line\nt,a,b\n1,2,3\n",
        "t,a,b,\n1,2,3,\n",
        "t,a,b\n1,2,3,,\n,,\n",
        'Sep=,\r\nt, "a" ,b\r\n1,2,"3"\r\n\x1a',
    ],
)
def test_tables_as_programs_write_them(text):
    rows, separator = rows_of_table(EncodedFile(text.encode(), "x"), "a table")
    assert [row for _, row in rows] == [["t", "a", "b"], ["1", "2", "3"]]
    assert separator in ",;\t|"
    assert text.replace("\r\n", "\n").split("\n")[rows[1][0] - 1].startswith("1")


def test_a_field_without_an_end_is_one_sentence():
    with pytest.raises(ValueError, match=r"^x is not a table as CSV; expected a table$"):
        rows_of_table(EncodedFile(b't,a\n1,"' + b"2" * 200_000, "x"), "a table")
