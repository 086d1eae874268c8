"""ArrayRecord shards: what goes in comes out, nothing is half-written, every damage is named."""

import io
import json
import pickle
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.data.broken import BrokenFileError
from unireplknet_jax.data.pictures import array_records
from unireplknet_jax.data.pictures.array_records import write_array_records
from unireplknet_jax.data.pictures.base import ArraySource
from unireplknet_jax.data.pictures.decode import read_image
from unireplknet_jax.data.pictures.sets import open_source
from unireplknet_jax.data.pipeline import train_batches, training_stream


def jpeg(seed, side=12):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def pictures(tmp_path):
    """Eleven JPEG files of three classes, the last of which is empty."""
    for i in range(11):
        path = tmp_path / "pictures/train" / "ab"[i % 2] / f"{i:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i))
    (tmp_path / "pictures/train/c").mkdir()
    return tmp_path / "pictures"


@pytest.fixture
def source(pictures):
    return open_source("folder", "train", pictures)


@pytest.fixture
def written(source, tmp_path):
    write_array_records(source, tmp_path / "shards", "train", shards=3)
    return tmp_path / "shards"


def test_encoded_pictures_come_back_byte_for_byte(source, written):
    copy = open_source("array_record", "train", written)
    assert (len(copy), copy.labels) == (11, ("a", "b", "c"))
    assert [copy[i] for i in range(11)] == [source[i] for i in range(11)]
    files = sorted(path.name for path in (written / "train").iterdir())
    assert files == ["records.json", *(f"train-{k:05d}-of-00003.array_record" for k in range(3))]
    assert sorted(path.name for path in written.iterdir()) == ["train"]
    card = json.loads((written / "train/records.json").read_text())
    assert (card["records"], card["labels"], card["left_out"]) == ([3, 4, 4], ["a", "b", "c"], [])


def test_batches_are_read_at_once_in_the_order_asked_for(source, written):
    copy = open_source("array_record", "train", written)
    wanted = [10, 0, 4, 4, -1, np.int64(3)]
    assert [example["id"] for example in copy.__getitems__(wanted)] == [10, 0, 4, 4, 10, 3]
    assert copy.__getitems__([]) == []
    for index in (11, -12):
        with pytest.raises(IndexError):
            copy[index]


def test_names_tell_the_record_and_the_picture_but_not_the_writer_s_disk(written, tmp_path):
    copy = open_source("array_record", "train", written)
    assert copy[4]["image"].name == f"record 1 of {written}/train/train-00001-of-00003.array_record (a/08.jpg)"
    content = b"".join(path.read_bytes() for path in (written / "train").iterdir())
    assert str(tmp_path).encode() not in content


def test_opening_reads_no_shard_and_needs_no_tensorflow(written, monkeypatch):
    from array_record.python import array_record_module

    opened = []
    reader = array_record_module.ArrayRecordReader
    monkeypatch.setattr(
        array_record_module, "ArrayRecordReader", lambda path, **options: opened.append(path) or reader(path, **options)
    )
    copy = open_source("array_record", "train", written)
    assert (len(copy), opened) == (11, [])
    copy[0], copy[1]
    assert [path.rpartition("/")[2] for path in opened] == ["train-00000-of-00003.array_record"]
    assert "tensorflow" not in sys.modules


def test_a_source_is_picklable_before_and_after_reading(written):
    copy = open_source("array_record", "train", written)
    fresh = pickle.dumps(copy)
    first = copy[7]
    assert pickle.loads(fresh)[7] == first
    used = pickle.dumps(copy)
    assert len(used) < 2 * len(fresh) < 10_000
    assert pickle.loads(used)[7] == first


def test_threads_read_what_one_thread_reads(written):
    copy = open_source("array_record", "train", written)

    def decode(example, rng):
        return {**example, "image": np.asarray(read_image(example["image"]))}

    def ids(threads):
        batches = train_batches(training_stream(copy, decode, seed=1), 4, num_threads=threads)
        return np.concatenate([next(batches)["id"] for _ in range(6)])

    np.testing.assert_array_equal(ids(0), ids(4))


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_are_stored_without_loss(tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 256, (5, 7, 9, channels), np.uint8)
    source = ArraySource(images, np.array([0, 1, 0, 1, 1]), np.array([8, 6, 4, 2, 0]), ("no", "yes"))
    write_array_records(source, tmp_path, "test", shards=5)
    copy = open_source("array_record", "test", tmp_path)
    for i in range(5):
        example = copy[i]
        assert (example["label"], example["id"]) == (source[i]["label"], source[i]["id"])
        np.testing.assert_array_equal(np.asarray(read_image(example["image"])), np.broadcast_to(images[i], (7, 9, 3)))


def test_shards_can_be_written_from_shards(written, tmp_path):
    first = open_source("array_record", "train", written)
    write_array_records(first, tmp_path / "again", "train", shards=1)
    second = open_source("array_record", "train", tmp_path / "again")
    assert [second[i] for i in range(11)] == [first[i] for i in range(11)]


@pytest.fixture
def broken(pictures):
    (pictures / "train/a/02.jpg").write_bytes(jpeg(2)[:-150])
    (pictures / "train/b/09.jpg").write_bytes(b"")
    return open_source("folder", "train", pictures)


def test_all_broken_pictures_are_refused_together_and_nothing_is_left(broken, tmp_path):
    refused = r"^2 of the pictures .*a/02\.jpg is truncated .*b/09\.jpg is empty"
    with pytest.raises(BrokenFileError, match=refused):
        write_array_records(broken, tmp_path / "out", "train", shards=2)
    assert list((tmp_path / "out").iterdir()) == []


def test_nothing_is_written_once_the_split_is_refused(broken, tmp_path, monkeypatch):
    encode, ids = array_records._encode, []
    monkeypatch.setattr(array_records, "_encode", lambda example: ids.append(example["id"]) or encode(example))
    with pytest.raises(ValueError, match=r"^2 of the pictures"):
        write_array_records(broken, tmp_path / "out", "train", shards=2)
    assert ids == [0]


def test_broken_pictures_are_left_out_by_name(broken, tmp_path):
    card = write_array_records(broken, tmp_path / "out", "train", shards=11, broken="skip")
    assert card["left_out"] == ["a/02.jpg", "b/09.jpg"]
    assert card["records"] == [1, 0, *[1] * 8, 0]
    copy = open_source("array_record", "train", tmp_path / "out")
    assert [copy[i]["id"] for i in range(9)] == [0, 2, 3, 4, 5, 6, 7, 8, 9]
    assert copy[1]["image"].name.startswith(f"record 0 of {tmp_path}/out/train/train-00002-of-00011")
    assert [example["id"] for example in copy.__getitems__([1, 0, 8])] == [2, 0, 9]


def test_a_source_of_broken_pictures_is_refused(pictures, tmp_path):
    for path in pictures.rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"^11 of the pictures .*; none is left to write$") as raised:
        write_array_records(
            open_source("folder", "train", pictures), tmp_path / "out", "train", broken="skip", shards=2
        )
    assert not isinstance(raised.value, BrokenFileError)  # which says that they could be passed over
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failure_leaves_what_was_there(source, written, monkeypatch):
    before = {path.name: path.read_bytes() for path in (written / "train").iterdir()}
    encode, calls = array_records._encode, []

    def fail(example):
        calls.append(example)
        if len(calls) == 6:
            raise OSError(28, "No space left on device")
        return encode(example)

    monkeypatch.setattr(array_records, "_encode", fail)
    with pytest.raises(OSError, match="No space left"):
        write_array_records(source, written, "train", shards=2, overwrite=True)
    assert {path.name: path.read_bytes() for path in (written / "train").iterdir()} == before
    assert [path.name for path in written.iterdir()] == ["train"]


def test_what_exists_is_overwritten_on_request_alone(source, written):
    with pytest.raises(FileExistsError, match="train exists already; remove it"):
        write_array_records(source, written, "train", shards=2)
    write_array_records(source, written, "train", shards=2, overwrite=True)
    assert len(list((written / "train").iterdir())) == 3
    (written / "val").mkdir()
    (written / "val/thesis.txt").write_text("")
    with pytest.raises(FileExistsError, match="val is not a split of picture records"):
        write_array_records(source, written, "val", shards=2, overwrite=True)
    assert (written / "val/thesis.txt").exists()


def test_progress_and_splits_beside_each_other(source, written):
    seen = []
    write_array_records(source, written, "val", shards=1, threads=2, progress=seen.append)
    assert seen == list(range(1, 12))
    assert len(open_source("array_record", "val", written)) == len(open_source("array_record", "train", written)) == 11


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shards": 12}, "shards is 12 for 11 pictures; expected 1 to their number"),
        ({"shards": 0}, "shards is 0"),
        ({"split": "../x"}, "split is '../x'; expected a plain word"),
        ({"split": ""}, "split is ''"),
        ({"broken": "mend"}, "broken is 'mend'"),
    ],
)
def test_wrong_arguments_are_refused(source, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_array_records(source, tmp_path / "out", **{"split": "train", "shards": 2, **arguments})
    assert not (tmp_path / "out").exists()


def shard(written, k=1):
    return written / f"train/train-{k:05d}-of-00003.array_record"


def test_a_missing_or_truncated_shard_is_named_at_once(written):
    content = shard(written).read_bytes()
    for other in (content[:-1], content + b"x"):
        shard(written).write_bytes(other)
        sizes = f"has {len(other):,} bytes, but its card states {len(content):,}"
        with pytest.raises(ValueError, match=rf"train-00001-of-00003\.array_record {sizes}; copy it again"):
            open_source("array_record", "train", written)
    shard(written).unlink()
    with pytest.raises(ValueError, match=r"train-00001-of-00003\.array_record is missing; copy it again"):
        open_source("array_record", "train", written)


def test_shards_are_looked_at_beside_each_other(written, monkeypatch):
    barrier = threading.Barrier(3, timeout=30)  # one after the other they would wait for each other in vain
    monkeypatch.setattr(array_records, "_check_size", lambda path, size: barrier.wait())
    assert len(open_source("array_record", "train", written)) == 11


@pytest.mark.parametrize("below", ["", "deeper/still", "train"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_way_is_named(source, tmp_path, below, overwrite):
    file = tmp_path / "file"
    file.touch()
    if below == "train":
        file = tmp_path / "out" / "train"
        file.parent.mkdir()
        file.touch()
    with pytest.raises(FileExistsError, match=rf"^{file} is a file; give a folder"):
        write_array_records(
            source, tmp_path / "out" if below == "train" else file / below, "train", 2, overwrite=overwrite
        )


def test_a_damaged_shard_is_named_when_it_is_read(written):
    size = shard(written).stat().st_size
    shard(written).write_bytes(b"\xa5" * size)
    copy = open_source("array_record", "train", written)
    assert copy[0]["id"] == 0
    for read in (lambda: copy[4], lambda: copy.__getitems__([4, 5])):
        with pytest.raises(ValueError, match=r"train-00001-of-00003\.array_record cannot be read") as raised:
            read()
        assert "\n" not in str(raised.value)


def test_a_flipped_bit_is_noticed(written):
    content = bytearray(shard(written).read_bytes())
    at = content.index(jpeg(8)[100:120])
    content[at] ^= 1
    shard(written).write_bytes(content)
    copy = open_source("array_record", "train", written)
    with pytest.raises(ValueError, match=r"train-00001-of-00003\.array_record cannot be read"):
        [copy[i] for i in range(11)]


def test_records_of_another_kind_are_named(written):
    import msgpack
    from array_record.python.array_record_module import ArrayRecordWriter

    good = {"image": b"x", "label": 0, "id": 0, "name": "x"}
    for wrong in (b"\xc1", msgpack.packb([1]), msgpack.packb({**good, "label": 3}), msgpack.packb({"image": b""})):
        writer = ArrayRecordWriter(str(shard(written)), "group_size:1")
        for _ in range(4):
            writer.write(wrong)
        writer.close()
        card = json.loads((written / "train/records.json").read_text())
        card["bytes"][1] = shard(written).stat().st_size
        (written / "train/records.json").write_text(json.dumps(card))
        with pytest.raises(ValueError, match=r"record 1 of .*train-00001-of-00003\.array_record is no picture record"):
            open_source("array_record", "train", written)[4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2, but this package reads 1; update it"),
        ({"format": "other"}, "does not describe picture records"),
        ({"records": [3, 4]}, "does not describe picture records"),
        ({"records": None}, "cannot be read"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(written, change, message):
    path = written / "train/records.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=f"records.json .*{message}"):
        open_source("array_record", "train", written)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"records\.json cannot be read"):
        open_source("array_record", "train", written)


def test_a_missing_split_lists_those_there(written):
    with pytest.raises(ValueError, match=r"val holds no picture records .*the splits in .* are: train; `unirep"):
        open_source("array_record", "val", written)
    with pytest.raises(ValueError, match="give the folder of the splits as data_dir"):
        open_source("array_record", "val")
