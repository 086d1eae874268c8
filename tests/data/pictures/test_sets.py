import functools
import gzip
import http.server
import io
import os
import pickle
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image
from sklearn.datasets import load_digits

from unireplknet_jax.data.pictures import fashion_mnist, tfds_sets
from unireplknet_jax.data.pictures.decode import read_image
from unireplknet_jax.data.pictures.fashion_mnist import read_idx
from unireplknet_jax.data.pictures.sets import open_source


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_fashion(folder, count=6, prefix="t10k"):
    images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)
    targets = np.arange(count) % 10
    for part, array in (("images-idx3", images), ("labels-idx1", targets)):
        (folder / f"{prefix}-{part}-ubyte.gz").write_bytes(gzip.compress(idx_bytes(array)))
    return images, targets


@pytest.fixture
def offline(monkeypatch, tmp_path):
    def fail(split, data_dir):
        raise OSError("no network\nand more lines")

    monkeypatch.setattr(fashion_mnist, "_from_tfds", fail)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FASHION_MNIST", tmp_path / "debian")


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


@pytest.mark.parametrize("name", ["folder", "array_record", "fashion_mnist", "cifar10", "cifar100"])
def test_a_bucket_has_to_be_mounted(name):
    with pytest.raises(ValueError, match=r"gs://b/x is none; mount the bucket with gcsfuse .launch/tpu\.sh --bucket"):
        open_source(name, "train", "gs://b/x")


def test_an_address_reaches_tfds_as_it_is(monkeypatch):
    asked = []

    def builder(name, **options):
        asked.append((name, options["data_dir"]))
        raise ValueError("not here")

    monkeypatch.setattr(tfds, "builder", builder)
    with pytest.raises(ValueError, match="TFDS cannot open 'imagenet2012': not here"):
        open_source("tfds:imagenet2012", "train", "gs://b/x")
    assert asked == [("imagenet2012", "gs://b/x")]


def test_tfds_looks_for_files_by_hand_in_the_bucket():
    info = SimpleNamespace(full_name="set/1.0.0")
    builder = SimpleNamespace(data_path=epath.Path("gs://b/x/set/1.0.0"), info=info)
    assert str(tfds_sets._data_dir(builder)) == "gs://b/x"


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


def test_fashion_mnist_is_read_once_until_its_files_change(tmp_path, offline):
    write_fashion(tmp_path)
    first = open_source("fashion_mnist", "test", tmp_path)
    assert open_source("fashion_mnist", "test", tmp_path) is first
    assert not first.images.flags.writeable
    write_fashion(tmp_path, 4)
    for path in tmp_path.iterdir():
        os.utime(path, ns=(1, 1))  # two changes within the clock's tick look alike
    assert len(open_source("fashion_mnist", "test", tmp_path)) == 4


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


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    LABEL = tfds.features.ClassLabel(names=["cat", "dog"])

    def _info(self):
        image = tfds.features.Image(shape=(None, None, 3))
        features = tfds.features.FeaturesDict({"image": image, "label": self.LABEL})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(6), "val": self._generate_examples(3)}

    def _generate_examples(self, count):
        for i in range(count):
            file = io.BytesIO()
            Image.new("RGB", (4 + i, 5), (i, 2 * i, 200)).save(file, "PNG")
            file.seek(0)
            yield i, {"image": file, "label": i % 2}


class TinyNumbers(TinyPictures):
    LABEL = tfds.features.Scalar(np.int64)


class NeedsTensorflow(TinyPictures):
    def _split_generators(self, dl_manager):
        raise RuntimeError("cannot extract: No module named 'tensorflow'")


class NeedsNetwork(TinyPictures):
    def _split_generators(self, dl_manager):
        raise ConnectionError("no route")


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


def test_a_tfds_set_is_read_without_tensorflow(tiny_set):
    source = pickle.loads(pickle.dumps(open_source("tfds:tiny_pictures", "train", tiny_set)))
    assert (len(source), source.labels) == (6, ("cat", "dog"))
    examples = [source[i] for i in range(6)]
    assert [example["id"] for example in examples] == list(range(6))
    for example in examples:
        assert example["image"].startswith(b"\x89PNG")
        assert example["image"].name == f"example {example['id']} of the train split of tfds:tiny_pictures"
        picture = np.asarray(read_image(example["image"]))
        number = picture.shape[1] - 4
        assert picture.shape == (5, 4 + number, 3)
        assert picture[2, 2].tolist() == [number, 2 * number, 200]
        assert example["label"] == number % 2
    assert len(open_source("tfds:tiny_pictures", "train[:50%]", tiny_set)) == 3
    assert "tensorflow" not in sys.modules


def test_a_set_prepared_in_another_format_says_how_to_convert_it(tmp_path):
    open_source("tfds:tiny_pictures", "train", tmp_path)
    info = next(tmp_path.rglob("dataset_info.json"))
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ValueError, match=r"not as ArrayRecord files; convert it once, .*: tfds convert_format --data"):
        open_source("tfds:tiny_pictures", "train", tmp_path)


def test_batches_of_a_tfds_set_are_read_at_once(tiny_set):
    source = open_source("tfds:tiny_pictures", "train", tiny_set)
    batch = source.__getitems__([5, 0, -1, 2])
    assert [example["id"] for example in batch] == [5, 0, 5, 2]
    assert batch == [source[i] for i in (5, 0, 5, 2)]


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("tiny_picture", "train", "TFDS has no set 'tiny_picture'; did you mean tiny_pictures"),
        ("tiny_pictures", "test", "has no split 'test'; expected one of train, val, all"),
        ("tiny_pictures", "train[:x", "cannot read split"),
        ("tiny_numbers", "train", r"has the features \['image', 'label'\]; expected a uint8"),
    ],
)
def test_tfds_errors_are_one_sentence(tiny_set, name, split, message):
    with pytest.raises(ValueError, match=message) as raised:
        open_source(f"tfds:{name}", split, tiny_set)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("needs_tensorflow", ImportError, "preparing tfds:needs_tensorflow needs a module once .*'tensorflow'"),
        ("needs_network", OSError, r"could not prepare tfds:needs_network \(no route\); check the network"),
    ],
)
def test_a_set_that_cannot_be_prepared_says_why(tiny_set, name, kind, message):
    with pytest.raises(kind, match=message):
        open_source(f"tfds:{name}", "train", tiny_set)


class ByHand(NeedsTensorflow):
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Put cats.tar
    into manual_dir."""


def test_a_set_to_download_by_hand_says_what_to_do(tmp_path):
    command = rf"builder\('by_hand/1.0.0', data_dir='{tmp_path}', file_format='array_record'\)\.download_and_prepare"
    todo = rf"Put cats\.tar into manual_dir \(that folder .*pip install tensorflow && python -c .*{command}"
    with pytest.raises(FileNotFoundError, match=rf"not prepared, and {tmp_path}/downloads/manual is empty; {todo}"):
        open_source("tfds:by_hand", "train", tmp_path)
    (tmp_path / "downloads/manual").mkdir(parents=True)
    (tmp_path / "downloads/manual/cats.tar").touch()
    with pytest.raises(ImportError, match=rf"needs a module once .*'tensorflow'.*{todo}") as raised:
        open_source("tfds:by_hand", "train", tmp_path)
    assert "\n" not in str(raised.value)


def test_imagenet_resolves_and_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        open_source("tfds:imagenet2012", "train", tmp_path)
    message = str(raised.value)
    steps = (
        f"{tmp_path}/downloads/manual is empty",
        "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar",
        f"'imagenet2012/5.1.0', data_dir='{tmp_path}', file_format='array_record').download_and_prepare()",
        'the source "folder", which needs no TensorFlow',
    )
    assert [step for step in steps if step not in message] == []
    assert not list(tmp_path.glob("**/*.array_record*"))
