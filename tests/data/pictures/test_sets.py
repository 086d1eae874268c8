"""Pictures by name: the digits, and names, splits and places that are none."""

import pickle
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from unireplknet_jax.data.pictures.sets import open_source


def test_the_digits_have_a_fixed_stratified_split():
    train, test = open_source("digits", "train"), open_source("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    ids = [[example["id"] for example in split] for split in (train, test)]
    assert sorted(ids[0] + ids[1]) == list(range(1797))
    assert ids[1][:12] == [0, 2, 4, 17, 21, 26, 28, 31, 33, 45, 48, 54]
    share = np.bincount(test.targets) / (np.bincount(train.targets) + np.bincount(test.targets))
    assert np.abs(share - 0.2).max() < 0.006
    assert test.labels == tuple("0123456789")


def test_the_digits_are_scaled_from_0_16_to_0_255():
    bundle = load_digits()
    scale = [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]
    for split in ("train", "test"):
        for example in open_source("digits", split):
            assert example["label"] == bundle.target[example["id"]]
            expected = np.array(scale)[bundle.images[example["id"]].astype(int)]
            assert example["image"].shape == (8, 8, 1)
            assert example["image"].dtype == np.uint8
            np.testing.assert_array_equal(example["image"][..., 0], expected)


def test_the_digits_ask_for_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        open_source("digits", "train")


def test_a_source_is_picklable_and_gives_python_integers():
    source = open_source("digits", "test")
    copy = pickle.loads(pickle.dumps(source))
    assert type(copy[5]["label"]) is type(copy[5]["id"]) is int
    np.testing.assert_array_equal(copy[5]["image"], source[5]["image"])
    with pytest.raises(IndexError):
        source[360]


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("digit", "train", "'digit'; did you mean digits?"),
        ("cats", "train", "expected one of digits, fashion_mnist, cifar10, cifar100, folder, array_record, tfds:NAME"),
        ("digits", "val", "digits has no split 'val'; expected one of train, test"),
        ("fashion_mnist", "valid", "fashion_mnist has no split 'valid'; expected one of train, test"),
        ("tfds:", "train", "the image source 'tfds:' names no set; write one after it, such as tfds:imagenet2012"),
        ("tfds:fashion_mnst", "train", "TFDS has no set 'fashion_mnst'; did you mean fashion_mnist"),
    ],
)
def test_unknown_names_and_splits_are_answered(name, split, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        open_source(name, split)


def test_a_folder_may_lie_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    picture = tmp_path / "mine" / "train" / "cat" / "a.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"a picture")
    assert open_source("folder", "train", "~/mine")[0]["image"].name == str(picture)


@pytest.mark.parametrize("name", ["folder", "array_record", "fashion_mnist", "cifar10", "cifar100"])
def test_a_bucket_has_to_be_mounted(name):
    with pytest.raises(ValueError, match=r"gs://b/x is none; mount the bucket with gcsfuse .launch/tpu\.sh --bucket"):
        open_source(name, "train", "gs://b/x")
