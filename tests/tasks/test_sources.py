"""What a user may give, one or many, and how errors call it."""

import io
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.tasks.sources import in_chunks, named, sources_of


def test_one_is_a_list_of_one_and_many_are_kept():
    array, picture = np.zeros((4, 4, 3), np.uint8), Image.new("RGB", (3, 3))
    for one in ("a.jpg", EncodedFile(b"x", "b"), array, picture):
        assert sources_of(one)[0] is one
        assert len(sources_of(one)) == 1
    assert sources_of(("a", "b")) == sources_of(name for name in "ab") == ["a", "b"]
    assert sources_of([]) == []


def test_bytes_are_called_by_their_place_and_jax_arrays_become_numpy():
    first, second = sources_of([b"x", bytearray(b"y")])
    assert [(first, first.name), (second, second.name)] == [(b"x", "input 0"), (b"y", "input 1")]
    (array,) = sources_of(jnp.ones(3))
    assert type(array) is np.ndarray


@pytest.mark.parametrize("given", [1, 2.5, None, {"a": "b.jpg"}, io.BytesIO(b"x"), [["a.jpg"]], [1.0, 2.0]])
def test_anything_else_is_refused(given):
    with pytest.raises(
        TypeError, match=r"^input 0 is of the type \w+; expected a path, bytes, an array or a PIL image\.$"
    ):
        sources_of(given)


def test_an_error_says_whose_it_is_once():
    assert named("a.jpg", 3, "cannot read a.jpg") == "cannot read a.jpg"
    assert named("a.jpg", 3, "too small") == "a.jpg: too small"
    assert named(EncodedFile(b"", "b"), 3, "is empty") == "b: is empty"
    assert named(np.zeros(2), 3, "too small") == "input 3: too small"


def test_a_chunk_ends_as_soon_as_it_fills_a_batch():
    task = SimpleNamespace(read=lambda source: [{"id": source}] * int(source))
    chunks = list(in_chunks(task, ["1", "1", "x", "3", "1"], size=2))
    assert [[reading.source for reading in chunk] for chunk in chunks] == [["1", "1"], ["x", "3"], ["1"]]
    assert [reading.source for chunk in chunks for reading in chunk if reading.error] == ["x"]
