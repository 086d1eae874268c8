"""Fashion-MNIST from its IDX files, wherever they lie, and from a download."""

import functools
import gzip
import http.server
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fashion_files import idx_bytes, write_fashion

from unireplknet_jax.data.pictures import fashion_mnist
from unireplknet_jax.data.pictures.fashion_mnist import read_idx
from unireplknet_jax.data.pictures.sets import open_source


@pytest.fixture
def offline(monkeypatch, tmp_path):
    def fail(split, data_dir):
        raise OSError("no network\nand more lines")

    monkeypatch.setattr(fashion_mnist, "_from_tfds", fail)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FASHION_MNIST", tmp_path / "debian")


def test_fashion_mnist_is_read_from_idx_files(tmp_path, offline):
    images, targets = write_fashion(tmp_path)
    source = open_source("fashion_mnist", "test", tmp_path)
    assert (len(source), len(source.labels), source.labels[9]) == (6, 10, "Ankle boot")
    for i in range(6):
        np.testing.assert_array_equal(source[i]["image"], images[i][..., None])
        assert (source[i]["label"], source[i]["id"]) == (targets[i], i)


def test_fashion_mnist_is_found_where_debian_installs_it(tmp_path, offline):
    (tmp_path / "debian").mkdir()
    write_fashion(tmp_path / "debian", 3, "train")
    assert len(open_source("fashion_mnist", "train")) == 3


def test_fashion_mnist_lists_the_places_looked_at(tmp_path, offline):
    with pytest.raises(FileNotFoundError) as raised:
        open_source("fashion_mnist", "train", tmp_path)
    message = str(raised.value)
    for place in (f"{tmp_path} (", f"{tmp_path / 'debian'} (", "TFDS (no network)", "apt-get install"):
        assert place in message
    assert "\n" not in message


def test_a_missing_half_of_fashion_mnist_is_named(tmp_path, offline):
    write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no t10k-labels-idx1-ubyte\.gz"):
        open_source("fashion_mnist", "test", tmp_path)


def test_fashion_mnist_checks_that_images_and_labels_belong_together(tmp_path, offline):
    write_fashion(tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte.gz"
    for wrong in (np.arange(5), np.array([0, 1, 2, 3, 4, 10])):
        labels.write_bytes(gzip.compress(idx_bytes(wrong)))
        with pytest.raises(ValueError, match=r"t10k-labels.*expected 6 labels from 0 to 9"):
            open_source("fashion_mnist", "test", tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.zeros((6, 8, 8)))))
    with pytest.raises(ValueError, match=r"t10k-images.*\(6, 8, 8\); expected \(n, 28, 28\)"):
        open_source("fashion_mnist", "test", tmp_path)


@pytest.mark.skipif(not fashion_mnist.DEBIAN_FASHION_MNIST.is_dir(), reason="needs the package dataset-fashion-mnist")
def test_the_real_fashion_mnist():
    train, test = open_source("fashion_mnist", "train"), open_source("fashion_mnist", "test")
    assert (len(train), len(test)) == (60000, 10000)
    assert [train[i]["label"] for i in range(10)] == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert [test[i]["label"] for i in range(10)] == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert np.bincount(train.targets).tolist() == [6000] * 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(idx_bytes(np.arange(2000) % 251))[:-30], "is not a whole gzip file"),
        (b"no gzip at all", "is not a whole gzip file"),
        (gzip.compress(b""), "does not begin with an IDX header"),
        (gzip.compress(b"\x00\x00\x0d\x01" + bytes(8)), "does not begin with an IDX header"),
        (gzip.compress(b"\x00\x00\x08\x03" + bytes(8)), "does not begin with an IDX header"),
        (gzip.compress(idx_bytes(np.zeros((4, 5)))[:-1]), r"holds 19 bytes of data, but its header states \(4, 5\)"),
    ],
    ids=["cut off", "no gzip", "empty", "floats", "short header", "short data"],
)
def test_damaged_idx_files_are_named(tmp_path, content, message):
    path = tmp_path / "data.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"data.gz {message}"):
        read_idx(path)


def test_fashion_mnist_is_downloaded_without_tensorflow(tmp_path, monkeypatch):
    pytest.importorskip("importlib_resources")
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    (tmp_path / "www").mkdir()
    images, _ = write_fashion(tmp_path / "www")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setattr(tfds.image_classification.FashionMNIST, "URL", url)
    np.testing.assert_array_equal(open_source("fashion_mnist", "test", tmp_path)[4]["image"][..., 0], images[4])
    server.shutdown()
    server.server_close()
    again = open_source("fashion_mnist", "test", tmp_path)
    np.testing.assert_array_equal(again[5]["image"][..., 0], images[5])
