"""No file of annotations ends in a stack trace, fills the memory or takes for ever."""

import copy
import functools
import json
import logging

import pytest
from box_files import FORMS, WRITERS
from fuzzing import bounded, mutated, survived
from hypothesis import given
from hypothesis import strategies as st

from unireplknet_jax.data.pictures.box_checks import checked
from unireplknet_jax.data.pictures.box_sets import open_source
from unireplknet_jax.data.pictures.instance_masks import unpacked

pytestmark = pytest.mark.slow
FILES = {
    "coco": "annotations/train.json",
    "yolo": "labels/train/2.txt",
    "voc": "annotations/train/2.xml",
    "labelme": "train/2.json",
    "csv": "train.csv",
}


@pytest.mark.parametrize("form", FORMS)
def test_annotations(form, tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    WRITERS[form](tmp_path, **({"polygons": True} if form in ("coco", "yolo", "labelme") else {}))
    path = tmp_path / FILES[form]
    whole, outcomes = path.read_bytes(), []

    @bounded(150)
    @given(mutated([whole], most=2))
    def search(data):
        path.write_bytes(data)
        source = {"name": form, "dir": str(tmp_path)}
        outcomes.append(survived(lambda: checked(open_source(source, "train"), threads=1)))

    search()
    assert {*outcomes} == {True, False}  # some are read all the same


ODD = [None, True, 0, -1, 2.5, 1e300, float("nan"), "", "x", "0", "5.5", [], [[]], [None], [1, 2, 3], {}, {"a": 1}]
ODD += [[{}], [[1, 2], [3, 4], [5, 6]], "\ud800", "a\0b"]


def places_in(document, place=()):
    """The keys that lead to every value of a document."""
    if place:
        yield place
    pairs = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in pairs:
        yield from places_in(value, (*place, key))


@st.composite
def with_odd_values(draw, document):
    """The JSON of a document, in which one or two values are of another kind or left out."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 2))):
        *place, last = draw(st.sampled_from([*places_in(document)]))
        inner = functools.reduce(lambda value, key: value[key], place, document)
        if isinstance(inner, dict) and draw(st.integers(0, 6)) == 0:
            del inner[last]
        else:
            inner[last] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return json.dumps(document).encode()


@pytest.mark.parametrize("form", ["coco", "labelme"])
def test_values_of_other_kinds(form, tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    path, outcomes = WRITERS[form](tmp_path, polygons=True) / FILES[form], []
    document = json.loads(path.read_text())
    if form == "coco":
        document["annotations"][1]["segmentation"] = {"size": [40, 60], "counts": [404, 20, 1976]}

    @bounded(300)
    @given(with_odd_values(document))
    def search(data):
        path.write_bytes(data)
        outcomes.append(
            survived(lambda: checked(open_source({"name": form, "dir": str(tmp_path)}, "train"), threads=1))
        )

    search()
    assert {*outcomes} == {True, False}


def test_run_lengths():
    outcomes = []

    @bounded(300)
    @given(mutated([b"`eU2f0b7?D;F8I6I7K5J6K4L4L4L3N3L4M2N2N2M3N2N2O1N"]))
    def search(data):
        outcomes.append(survived(unpacked, data))

    search()
    assert {*outcomes} == {True, False}
