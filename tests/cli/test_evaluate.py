"""Which data `unireplknet evaluate` takes: what the flags name, else what the checkpoint was made with."""

import argparse

import pytest

from unireplknet_jax.cli.evaluate import _data

OWN = {"name": "folder", "dir": "mine", "eval_split": "val", "broken": "skip"}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, ("folder", "mine", "val", "skip")),
        ({"data": "folder"}, ("folder", "mine", "val", "skip")),
        ({"data_dir": "other", "split": "test", "broken": "refuse"}, ("folder", "other", "test", "refuse")),
        ({"data": "digits"}, ("digits", None, "test", "refuse")),  # nothing of the folder belongs to it
    ],
)
def test_flags_come_before_what_the_checkpoint_says_of_the_same_data(flags, expected):
    args = argparse.Namespace(**{"data": None, "data_dir": None, "split": None, "broken": None, **flags})
    assert tuple(_data(args, OWN).values()) == expected
