"""Lists and folders of videos, and the synthetic set."""

import pickle

import numpy as np
import pytest
from video_files import write

from unireplknet_jax.data.clips import moving_shapes
from unireplknet_jax.data.clips.frames import read_frames
from unireplknet_jax.data.clips.moving_shapes import MOTIONS, moving_shape, shapes_folder
from unireplknet_jax.data.clips.sets import open_videos


def lists(folder, **texts):
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def examples(source):
    return [(one["path"], one["label"], one["id"]) for one in map(source.__getitem__, range(len(source)))]


@pytest.mark.parametrize(
    "text",
    [
        "a.mp4 2\n/data/b c.mp4 0\n",
        "a.mp4,2\n/data/b c.mp4,0\n",
        '\ufeffpath,label\n"a.mp4", 2\n\n/data/b c.mp4,0',
        "a.mp4\t2\r\n/data/b c.mp4\t0\r\n",
    ],
)
def test_a_list_has_a_path_a_comma_or_blanks_and_a_label(text, tmp_path):
    source = pickle.loads(pickle.dumps(open_videos("video_csv", "train", lists(tmp_path, train=text))))
    assert examples(source) == [(f"{tmp_path}/a.mp4", 2, 0), ("/data/b c.mp4", 0, 1)]
    assert source.labels == ("0", "1", "2")


def test_classes_are_those_of_the_training_list_or_of_the_file_of_names(tmp_path):
    lists(tmp_path, train="a.mp4 jump\nb.mp4 fall\n", val="c.mp4 jump\n")
    val = open_videos("video_csv", "val", tmp_path)
    assert (val.labels, val.targets.tolist()) == (("fall", "jump"), [1])
    (tmp_path / "labels.txt").write_text("jump\nfall\nrun\n")
    val = open_videos("video_csv", "val", tmp_path)
    assert (val.labels, val.targets.tolist()) == (("jump", "fall", "run"), [0])
    (tmp_path / "labels.txt").write_bytes("jump\r\nfall\r\nrun\r\n".encode("utf-8-sig"))
    assert open_videos("video_csv", "val", tmp_path).labels == ("jump", "fall", "run")
    lists(tmp_path, train="a.mp4 2\n", val="c.mp4 1\n")
    assert open_videos("video_csv", "val", tmp_path).targets.tolist() == [1]


def test_only_the_first_line_may_be_a_header(tmp_path):
    source = open_videos("video_csv", "train", lists(tmp_path, train="path,label\na.mp4,price\nb.mp4,label\n"))
    assert source.labels == ("label", "price")
    assert examples(source) == [(f"{tmp_path}/a.mp4", 1, 0), (f"{tmp_path}/b.mp4", 0, 1)]


NUMBERED = [("a.mp4", "0"), ("run, jump.mp4", "1"), ("c.mp4", "2"), ("d.mp4", "10")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.mp4 0\nrun, jump.mp4 1\nc.mp4 2\nd.mp4 10\n", NUMBERED),
        ("a.mp4\t0\nrun, jump.mp4\t1\nc.mp4\t2\nd.mp4\t10\n", NUMBERED),
        ('a.mp4,0\n"run, jump.mp4",1\nc.mp4,2\nd.mp4,10\n', NUMBERED),
        ("path;class\na.mp4;0\nrun, jump.mp4;1\nc.mp4;2\nd.mp4;10\n", NUMBERED),
        ("class,video,start\nx,a.mp4,3\ny,b.mp4,4\n", [("a.mp4", "x"), ("b.mp4", "y")]),
        ('a.mp4,"bartending, shaking"\nb.mp4,riding\n', [("a.mp4", "bartending, shaking"), ("b.mp4", "riding")]),
        ("name,class\na.mp4,x\nb.mp4,y\n", [("a.mp4", "x"), ("b.mp4", "y")]),
        ("path,class\na.mp4,0\nb.mp4,1\n", [("a.mp4", "0"), ("b.mp4", "1")]),
        ("path,class\na.mp4,x\nrun,jump.mp4,y\n", [("a.mp4", "x"), ("run,jump.mp4", "y")]),
        ("sit, run.MP4 x\nrun, jump.MP4 y\n", [("sit, run.MP4", "x"), ("run, jump.MP4", "y")]),
        ("a,0\nb,1\n", [("a", "0"), ("b", "1")]),
        ("a.mp4,target\nb.mp4,x\n", [("a.mp4", "target"), ("b.mp4", "x")]),
        ("label,path\nx,a.mp4\ny,b.mp4\n", [("a.mp4", "x"), ("b.mp4", "y")]),
        ("a.mp4,0\nrun, jump.mp4,1\n", [("a.mp4", "0"), ("run, jump.mp4", "1")]),
        ('a.mp4,"play ""x"""\nb.mp4,y\n', [("a.mp4", 'play "x"'), ("b.mp4", "y")]),
        ("a.mp4,riding a bike\nb.mp4,x\n", [("a.mp4", "riding a bike"), ("b.mp4", "x")]),
    ],
)
def test_lists_as_programs_write_them(text, expected, tmp_path):
    source = open_videos("video_csv", "train", lists(tmp_path, train=text))
    found = [(path.removeprefix(f"{tmp_path}/"), source.labels[label]) for path, label, _ in examples(source)]
    assert found == expected


def test_lists_of_kinetics_name_the_files_of_their_splits(tmp_path, caplog):
    rows = ("label,youtube_id,time_start,time_end,split", "testing,---Q,84,94,train", "jump,x_1,3.0,13.0,train")
    text = "\n".join((*rows, "a,gone,0,10,train\n"))
    lists(tmp_path, train=text)
    with pytest.raises(
        ValueError, match=r"none of the 3 videos .* where the first was expected as ---Q_000084_000094\.mp4"
    ):
        open_videos("video_csv", "train", tmp_path)
    for name in ("---Q_000084_000094.mp4", "x_1_000003_000013.mkv"):
        (tmp_path / "train" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "train" / name).touch()
    source = open_videos("video_csv", "train", tmp_path)
    assert source.labels == ("a", "jump", "testing")
    assert [path for path, *_ in examples(source)] == [
        f"{tmp_path}/train/---Q_000084_000094.mp4",
        f"{tmp_path}/train/x_1_000003_000013.mkv",
    ]
    assert "1 of its videos are not in" in caplog.text
    (tmp_path / "b_000000_000010.mp4").touch()
    lists(tmp_path, val="label,youtube_id,time_start,time_end,split\na,b,0,10,val\n")
    assert open_videos("video_csv", "val", tmp_path).labels == ("a", "jump", "testing")


@pytest.mark.parametrize(
    ("texts", "split", "message"),
    [
        ({"train": "a.mp4 0\nb.mp4 1\nc.mp4 jump\n"}, "train", r"line 3 of .*'c\.mp4 jump', .* a name among numbers;"),
        ({"train": "a.mp4 x\nb.mp4 1\nc.mp4 y\n"}, "train", r"line 2 of .*'b\.mp4 1', .* is a number among names;"),
        (
            {"train": "label,youtube_id,time_start,time_end\nx,y,z,1\n"},
            "train",
            "line 2 .*; expected label, youtube_id",
        ),
        (
            {"train": "path,split,label\na.mp4,t,x\nc, d.mp4,t,y\n"},
            "train",
            "line 3 .* has 4 fields, but its header has 3",
        ),
        ({"train": "label,youtube_id,time_start,time_end\nx,y,inf,1\n"}, "train", "line 2 .*; expected label, youtube"),
        ({"train": "a.mp4 1\n"}, "val", r"there is no list .*val\.csv; the lists there are: train\.csv"),
        ({"train": "a.mp4 1\nb.mp4\n"}, "train", r"line 2 of .*train\.csv is 'b\.mp4'; expected a path, a comma or"),
        ({"train": "\n"}, "train", "lists no videos"),
        ({"train": "a.mp4 x\n", "val": "b.mp4 y\n"}, "val", "unknown label y; expected one of the 1 classes: x"),
        ({"train": "a.mp4 x\n", "val": "b.mp4 0\n"}, "val", "unknown label 0; expected one of the 1 classes: x"),
        ({"train": "a.mp4 3\n", "val": "b.mp4 4\n"}, "val", "unknown label 4; expected one of the 4 classes"),
        ({"train": "a.mp4 -1\nb.mp4 1\n"}, "train", "line 1 .* whose label is no number of a class; give all classes"),
        ({"train": "a.mp4 0.5\nb.mp4 1\n"}, "train", "line 1 .* no number of a class"),
        ({"train": "a.mp4 0\nb.mp4 99999999999\n"}, "train", "line 2 .* no number of a class"),
        ({"train": "a.mp4 0\nb.mp4 1000000\n"}, "train", "line 2 .* no number of a class"),
    ],
)
def test_a_wrong_list_is_one_sentence(texts, split, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        open_videos("video_csv", split, lists(tmp_path, **texts))
    assert "\n" not in str(caught.value)


def test_wrong_names_and_folders_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"no source of videos 'video_cvs'; did you mean video_csv"):
        open_videos("video_cvs", "train")
    with pytest.raises(ValueError, match=r"the lists of videos are data_dir/train\.csv, but there is no folder given"):
        open_videos("video_csv", "train")
    with pytest.raises(ValueError, match="data_dir/split/class/video"):
        open_videos("video_folder", "train")
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "1.jpg").touch()
    with pytest.raises(ValueError, match=r"1 class but no videos; expected files like \*\.mp4"):
        open_videos("video_folder", "train", tmp_path)
    (tmp_path / "labels.txt").write_text("a\na\n")
    with pytest.raises(ValueError, match="names a class twice"):
        open_videos("video_csv", "train", lists(tmp_path, train="a.mp4 0\n"))


def test_what_is_no_text_is_one_sentence(tmp_path):
    lists(tmp_path, train="a.mp4 0\n")
    for name, expected in (("labels.txt", "one class name a line"), ("train.csv", "a list with a path and a label")):
        (tmp_path / name).write_bytes(b"PK\3\4\0\xff")
        with pytest.raises(ValueError, match=f"{name} is not a text file; expected {expected}"):
            open_videos("video_csv", "train", tmp_path)


@pytest.mark.parametrize(("train", "val"), [("00 01", "1"), ("0.0 1.0", "01"), ("0 1", "+1."), ("Käse Zug", "zug")])
def test_classes_of_lists_are_compared_as_a_person_reads_them(train, val, tmp_path):
    train = "".join(f"{index}.mp4 {label}\n" for index, label in enumerate(train.split()))
    lists(tmp_path, train=train, val=f"c.mp4 {val}\n")
    source = open_videos("video_csv", "val", tmp_path)
    assert (source.targets.tolist(), len(source.labels)) == ([1], 2)


def test_a_folder_has_a_class_in_each_folder(tmp_path):
    for name in ("train/b/1.MKV", "train/a/x/2.mp4", "train/a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    source = open_videos("video_folder", "train", tmp_path)
    assert source.labels == ("a", "b")
    assert examples(source) == [(f"{tmp_path}/train/a/x/2.mp4", 0, 0), (f"{tmp_path}/train/b/1.MKV", 1, 1)]


# The synthetic set.


def places(frames):
    """(t, 2): the mean place of the shape on a ground whose opposite edges meet, as complex angles' arguments."""
    mask = frames.max(axis=-1) >= 128
    angles = 2 * np.pi * np.arange(frames.shape[1]) / frames.shape[1]
    sums = [(mask.sum(axis=axis) * np.exp(1j * angles)).sum(axis=1) for axis in (2, 1)]
    return np.stack([np.angle(total) for total in sums], axis=1)


@pytest.mark.parametrize("motion", MOTIONS)
def test_shapes_move_as_their_class_says(motion):
    expected = np.array([("down" in motion) - ("up" in motion), ("right" in motion) - ("left" in motion)])
    for seed in range(3):
        steps = np.diff(places(moving_shape(motion, np.random.default_rng(seed))), axis=0)
        steps = 64 / (2 * np.pi) * ((steps + np.pi) % (2 * np.pi) - np.pi)
        speeds = steps.mean(axis=0) * expected
        moving = expected != 0
        assert np.all((speeds[moving] > 3.9) & (speeds[moving] < 6.1))
        assert np.abs(steps[:, ~moving]).max(initial=0) < 1e-6


@pytest.mark.parametrize("motion", ["right", "up left"])
def test_the_place_in_the_last_frame_is_as_uniform_as_that_in_the_first(motion):
    """The Kolmogorov-Smirnov distance of n places from the uniform distribution: 99.9 % are below 1.95 / sqrt(n)."""
    frames = [moving_shape(motion, np.random.default_rng(seed))[[0, -1]] for seed in range(150)]
    found = np.array([places(pair) for pair in frames]) / (2 * np.pi) + 0.5  # (150, 2 frames, 2 axes)
    distances = np.abs(np.sort(found, axis=0) - (np.arange(150)[:, None, None] + 0.5) / 150)
    assert distances.max() < 1.95 / np.sqrt(150)


def test_the_set_is_rendered_once_and_the_same_every_time(tmp_path, monkeypatch):
    monkeypatch.setattr(moving_shapes, "PER_CLASS", {"train": 2, "test": 1})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = open_videos("moving_shapes", "train", tmp_path / "a")
    assert (len(source), source.labels) == (16, tuple(MOTIONS))
    again = open_videos("moving_shapes", "train")
    assert again.folder == str(tmp_path / "cache" / "unireplknet_jax" / "moving_shapes" / "train")
    first = read_frames(source[5]["path"], np.arange)
    np.testing.assert_array_equal(first, read_frames(again[5]["path"], np.arange))
    original = moving_shape(source.labels[source[5]["label"]], np.random.default_rng([0, source[5]["label"], 1]))
    assert first.shape == original.shape == (32, 64, 64, 3)
    assert np.abs(first.astype(int) - original).mean() < 3  # grey values: what the compression costs
    marked = write(tmp_path / "a" / "train" / "up" / "000.mp4")
    assert shapes_folder(tmp_path / "a", "train") == tmp_path / "a"
    assert read_frames(marked, np.arange).shape == (40, 48, 64, 3)
    assert not any((tmp_path / "a").glob(".rendering*"))
