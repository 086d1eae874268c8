"""No file of annotations ends in a stack trace, fills the memory or takes for ever."""

import logging

import pytest
from box_files import FORMS, WRITERS
from fuzzing import bounded, mutated, survived
from hypothesis import given

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


def test_run_lengths():
    outcomes = []

    @bounded(300)
    @given(mutated([b"`eU2f0b7?D;F8I6I7K5J6K4L4L4L3N3L4M2N2N2M3N2N2O1N"]))
    def search(data):
        outcomes.append(survived(unpacked, data))

    search()
    assert {*outcomes} == {True, False}
