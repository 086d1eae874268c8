"""Sets of TFDS without TensorFlow, and what has to be done for those that need it."""

import io
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from unireplknet_jax.data.pictures import tfds_sets
from unireplknet_jax.data.pictures.decode import read_image
from unireplknet_jax.data.pictures.sets import open_source


def test_an_address_reaches_tfds_as_it_is(monkeypatch):
    asked = []

    def builder(name, **options):
        asked.append((name, options["data_dir"]))
        raise ValueError("not here")

    monkeypatch.setattr(tfds, "builder", builder)
    with pytest.raises(ValueError, match="TFDS cannot open 'imagenet2012': not here"):
        open_source("tfds:imagenet2012", "train", "gs://b/x")
    assert asked == [("imagenet2012", "gs://b/x")]


@pytest.mark.parametrize("name", ["set/1.0.0", "set/config/1.0.0"])
def test_tfds_looks_for_files_by_hand_in_the_bucket(name):
    info = SimpleNamespace(full_name=name)
    builder = SimpleNamespace(data_path=epath.Path(f"gs://b/x/{name}"), info=info)
    assert str(tfds_sets._data_dir(builder)) == "gs://b/x"


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
