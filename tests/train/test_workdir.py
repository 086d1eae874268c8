"""The folder of a run: refused early where it cannot hold the run, mirrored where it is a bucket."""

import errno
import fcntl
import gc
import importlib.util
import pathlib
import re
import shutil
from types import SimpleNamespace

import jax
import pytest
from etils import epath

from unireplknet_jax.train import workdir as module
from unireplknet_jax.train.metrics import MetricWriter, read_metrics
from unireplknet_jax.train.workdir import Workdir, naming_a_full_disk

MIB = 2**20


def test_a_folder_is_made_and_left_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Workdir("new/folder")
    assert place.root == place.local == tmp_path / "new" / "folder"
    assert list(place.root.iterdir()) == []
    (place.root / "a").write_text("kept")
    place.publish()
    assert (Workdir(tmp_path / "new" / "folder").root / "a").read_text() == "kept"


@pytest.mark.parametrize(("below", "reason"), [("", "it is a file"), ("run", "Not a directory")])
def test_a_file_in_the_way_is_one_sentence(tmp_path, below, reason):
    (tmp_path / "file").write_text("precious")
    path = tmp_path / "file" / below if below else tmp_path / "file"
    message = f"^the workdir {re.escape(str(path))} cannot be written \\({reason}\\); choose another --workdir\\.$"
    with pytest.raises(OSError, match=message):
        Workdir(path)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_that_takes_no_files_is_refused(tmp_path, monkeypatch):
    def refuse(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(module.tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match=r"cannot be written \(Read-only file system\)"):
        Workdir(tmp_path)


@pytest.fixture
def free(monkeypatch):
    """Sets how many bytes the disk has free."""
    return lambda size: monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=size))


def test_too_little_room_is_refused(tmp_path, free):
    place = Workdir(tmp_path)
    free(100 * MIB)
    place.require_room(100 * MIB)
    message = (
        f"^the disk of {re.escape(str(tmp_path))} has 100 MiB free, but the checkpoints of this run take 1,500 MiB; "
        r"free some, or choose another --workdir or a smaller checkpoint\.keep\.$"
    )
    with pytest.raises(OSError, match=message):
        place.require_room(1500 * MIB)
    with pytest.raises(OSError, match="MiB free"):
        place.require_room(100 * MIB + 1)


def test_what_checkpoints_hold_already_is_room(tmp_path, free):
    (tmp_path / "checkpoints" / "5" / "state").mkdir(parents=True)
    (tmp_path / "checkpoints" / "5" / "state" / "data").write_bytes(bytes(1000))
    (tmp_path / "checkpoints" / "5" / "facts").write_bytes(bytes(10))
    (tmp_path / "other").write_bytes(bytes(1000))
    place = Workdir(tmp_path)
    free(100)
    place.require_room(1110)
    with pytest.raises(OSError, match="MiB free"):
        place.require_room(1111)


def test_a_bucket_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = r"^the workdir gs://bucket/run needs the extra gcs: pip install 'unireplknet_jax\[gcs\]'"
    with pytest.raises(ImportError, match=message):
        Workdir("gs://bucket/run")


def test_another_kind_of_address_is_refused():
    with pytest.raises(ValueError, match=r"^the workdir s3://bucket/run is neither a folder nor a gs:// address\.$"):
        Workdir("s3://bucket/run")


@pytest.mark.parametrize(
    ("error", "reason"), [(PermissionError("denied.\nmore"), "denied."), (RuntimeError(), "RuntimeError")]
)
def test_a_bucket_that_cannot_be_written_is_one_sentence(monkeypatch, error, reason):
    from etils import epath

    def refuse(text):
        raise error

    folder = SimpleNamespace(mkdir=lambda **_: refuse(""))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(epath, "Path", lambda text: folder)
    with pytest.raises(OSError, match=rf"^the workdir gs://bucket/run cannot be written \({re.escape(reason)}\)\.$"):
        Workdir("gs://bucket/run")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder that stands for gs://bucket/run."""
    folder = tmp_path / "bucket"
    folder.mkdir()
    monkeypatch.setattr(module, "_open_bucket", {"gs://bucket/run": folder}.__getitem__)
    return folder


def test_what_is_written_here_is_mirrored_there(bucket):
    place = Workdir("gs://bucket/run")
    assert place.root == bucket
    assert bucket not in (place.local, *place.local.parents)
    writer = MetricWriter(place.local)
    writer.write(1, {"a": 1})
    (place.local / "model" / "variables").mkdir(parents=True)
    (place.local / "model" / "variables" / "data").write_bytes(b"\0\1")
    assert list(bucket.iterdir()) == []
    place.publish()
    assert read_metrics(bucket / "metrics.jsonl") == [{"step": 1, "a": 1.0}]
    assert (bucket / "model" / "variables" / "data").read_bytes() == b"\0\1"
    writer.write(2, {"a": 2})
    (place.local / "model" / "variables" / "data").write_bytes(b"new")
    writer.close()
    place.publish()
    assert [row["step"] for row in read_metrics(bucket / "metrics.jsonl")] == [1, 2]
    assert (bucket / "model" / "variables" / "data").read_bytes() == b"new"
    assert {path.name for path in bucket.iterdir()} == {"metrics.jsonl", "model", "tensorboard"}


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_best(place, number):
    """A checkpoint of two files whose names differ every time, as Orbax's do."""
    shutil.rmtree(place.local / "best", ignore_errors=True)
    (place.local / "best" / "variables" / "ocdbt.process_0").mkdir(parents=True)
    for index in range(2):
        (place.local / "best" / "variables" / "ocdbt.process_0" / f"{number}_{index}").write_bytes(bytes([number]))
    (place.local / "best" / "variables" / "manifest").write_text(f"of {number}")
    (place.local / "best" / "card.json").write_text(f'{{"number": {number}}}')


@pytest.mark.parametrize("kind", [pathlib.Path, epath.Path])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_bucket_holds_the_last_best_and_nothing_more(bucket, monkeypatch, kind, resumed):
    monkeypatch.setattr(module, "_open_bucket", lambda text: kind(bucket))
    place = Workdir("gs://bucket/run")
    (place.local / "metrics.jsonl").write_text("{}\n")
    (bucket / "checkpoints" / "5").mkdir(parents=True)
    (bucket / "checkpoints" / "5" / "state").write_text("not ours to delete")
    for number in range(3):
        if resumed and number == 2:
            place = Workdir("gs://bucket/run")
        write_best(place, number)
        place.publish()
        assert contents(bucket / "best") == contents(place.local / "best")
    assert len(contents(bucket)) == 4 + 2
    place = Workdir("gs://bucket/run")  # and a part of the run without a new best leaves it there
    place.publish()
    assert len(contents(bucket)) == 4 + 2


def test_what_has_not_changed_is_not_sent_again(bucket):
    place = Workdir("gs://bucket/run")
    write_best(place, 1)
    place.publish()
    for path in (bucket / "best").rglob("*"):
        if path.is_file():
            path.write_text("untouched")
    (place.local / "metrics.jsonl").write_text("{}\n")
    place.publish()
    assert set(contents(bucket / "best").values()) == {b"untouched"}
    assert (bucket / "metrics.jsonl").read_text() == "{}\n"


def test_a_checkpoint_in_a_bucket_is_whole_whenever_sending_stops(bucket, monkeypatch):
    """What a card or a manifest refers to is there, at every moment of a publication."""
    place = Workdir("gs://bucket/run")
    write_best(place, 1)
    place.publish()
    write_best(place, 2)
    states, write, unlink = [], pathlib.Path.write_bytes, pathlib.Path.unlink

    def watched(real):
        def call(path, *args):
            real(path, *args)
            states.append(contents(bucket / "best"))

        return call

    monkeypatch.setattr(pathlib.Path, "write_bytes", watched(write))
    monkeypatch.setattr(pathlib.Path, "unlink", watched(unlink))
    place.publish()
    assert len(states) == 2 + 2 + 2  # data, what refers to it, and what is deleted
    for state in states:
        number = state["variables/manifest"].decode().removeprefix("of ")
        assert {f"variables/ocdbt.process_0/{number}_0", f"variables/ocdbt.process_0/{number}_1"} <= state.keys()
    cards = [state["card.json"] for state in states]
    assert cards == [b'{"number": 1}'] * 3 + [b'{"number": 2}'] * 3


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    ValueError("INTERNAL: write to /x failed: No space left on device [more]"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_disk_says_what_is_saved_and_what_to_do(tmp_path, error):
    for name in ("9", "10", "11.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    with pytest.raises(OSError, match="is full") as caught, naming_a_full_disk(tmp_path):
        raise error
    assert str(caught.value) == (
        f"the disk of the workdir {tmp_path} is full; the last saved step is 10; make room and run the same command "
        "again to go on from there."
    )
    with pytest.raises(OSError, match="; no step has been saved; "), naming_a_full_disk(tmp_path / "new"):
        raise error
    with pytest.raises(OSError, match="is full; what is saved is in gs://b/run; "), naming_a_full_disk("gs://b/run"):
        raise error


def test_another_error_stays_what_it_is(tmp_path):
    error = OSError(errno.EIO, "Input/output error")
    with pytest.raises(OSError, match="Input/output") as caught, naming_a_full_disk(tmp_path):
        raise error
    assert caught.value is error


def test_a_resumed_run_goes_on_with_the_metrics_of_the_bucket(bucket):
    (bucket / "metrics.jsonl").write_text('{"step": 4, "a": 1.0}\n')
    place = Workdir("gs://bucket/run")
    writer = MetricWriter(place.local, first_step=4)
    writer.write(5, {"a": 2})
    writer.close()
    place.publish()
    assert [row["step"] for row in read_metrics(bucket / "metrics.jsonl")] == [4, 5]


def test_only_process_0_writes_into_the_bucket(bucket, monkeypatch):
    place = Workdir("gs://bucket/run")
    (place.local / "metrics.jsonl").write_text("{}\n")
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    place.publish()
    assert list(bucket.iterdir()) == []


def test_nothing_stays_outside_the_bucket(bucket):
    place = Workdir("gs://bucket/run")
    local = place.local
    (local / "metrics.jsonl").write_text("{}")
    assert local.is_dir()
    del place
    gc.collect()
    assert not local.exists()


def test_a_bucket_always_has_room(bucket, free):
    free(0)
    Workdir("gs://bucket/run").require_room(10**15)


def test_of_two_runs_in_a_bucket_the_later_goes_on(bucket):
    places = [Workdir("gs://bucket/run")]
    (places[0].local / "run.json").write_text('{"starts": [{"host": "a", "process": 1, "time": "today"}]}')
    places[0].publish()
    places[0].publish()
    places.append(Workdir("gs://bucket/run"))
    assert (places[1].local / "run.json").read_text() == (bucket / "run.json").read_text()
    (places[1].local / "run.json").write_text('{"starts": [{"host": "b", "process": 2, "time": "later"}]}')
    places[1].publish()
    (places[0].local / "metrics.jsonl").write_text("{}")
    message = (
        r"another run has begun in the workdir .* \(process 2 on b, later\); this one ends and leaves it to that\."
    )
    with pytest.raises(OSError, match=message):
        places[0].publish()
    assert not (bucket / "metrics.jsonl").exists()
    places[1].publish()


def test_a_disk_without_locks_is_named(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level("WARNING"), Workdir(tmp_path).held():
        assert "cannot be locked (No locks available)" in caplog.text
