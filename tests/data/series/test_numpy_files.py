"""NumPy files whose pickles run nothing."""

import numpy as np
import pytest

from unireplknet_jax.data.series.numpy_files import read_npy


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


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_pandas_are_read_in_every_unit(unit, tmp_path):
    pandas = pytest.importorskip("pandas")
    times = [pandas.Timestamp(text).as_unit(unit) for text in ("2024-01-31 13:00", "1999-12-31 23:59:59")]
    np.save(tmp_path / "times.npy", np.array(times, object), allow_pickle=True)
    expected = np.array(["2024-01-31T13:00:00", "1999-12-31T23:59:59"], "datetime64[s]")
    np.testing.assert_array_equal(read_npy(tmp_path / "times.npy"), expected)
