"""Sets of sounds: which files belong to which split and class, and what is said where they do not fit."""

import logging
import pickle
import shutil
import tarfile

import numpy as np
import pytest
import soundfile

from unireplknet_jax.data.sounds import speech_synthesis
from unireplknet_jax.data.sounds.sets import ARCHIVE, COMMANDS, TONES, open_sounds
from unireplknet_jax.data.sounds.waveforms import read_sound

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


def write(path, samples=10):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(samples), 16_000)


def listing(source):
    return [(name, *own) for name, own in zip(source.names, source.classes, strict=True)]


# Speech Commands.


@pytest.fixture
def words(tmp_path):
    """Three sounds of every word: one for each split."""
    root = tmp_path / "words"
    for word in COMMANDS:
        for name in ("a", "b", "c"):
            write(root / word / f"{name}.wav")
        (root / word / "._a.wav").write_bytes(b"what macOS knows of a.wav")
    write(root / "_background_noise_" / "hum.wav")
    (root / "README.md").write_text("words")
    (root / "validation_list.txt").write_text("".join(f"{word}/b.wav\n" for word in COMMANDS))
    (root / "testing_list.txt").write_text("".join(f"{word}/c.wav\n" for word in COMMANDS))
    return root


def test_the_lists_say_the_split_and_the_label_file_says_the_order(words):
    for split, name in (("train", "a"), ("validation", "b"), ("test", "c")):
        source = open_sounds("speech_commands", split, words)
        assert listing(source) == [(f"{word}/{name}.wav", index) for index, word in enumerate(COMMANDS)]
        assert source.labels == COMMANDS
    # The order that the original's label file has, which is not alphabetical.
    known = {0: "backward", 1: "follow", 5: "on", 16: "forward", 20: "four", 27: "marvin", 34: "one"}
    assert {index: COMMANDS[index] for index in known} == known
    assert len(set(COMMANDS)) == 35


def test_an_example_is_the_bytes_of_a_file(words):
    source = pickle.loads(pickle.dumps(open_sounds("speech_commands", "test", words)))
    example = source[3]
    assert (example["classes"], example["id"]) == ((3,), 3)
    assert example["path"] == str(words / "bed" / "c.wav") == example["sound"].name
    assert example["sound"] == (words / "bed" / "c.wav").read_bytes()
    (words / "bed" / "c.wav").unlink()
    with pytest.raises(OSError, match=r"bed/c\.wav cannot be read .*it was there when its set was listed"):
        source[3]


def test_the_archive_is_unpacked_once(words, tmp_path, caplog):
    home = tmp_path / "home"
    home.mkdir()
    with tarfile.open(home / ARCHIVE, "w:gz") as file:
        file.add(words, ".")
    with caplog.at_level(logging.INFO, "unireplknet_jax"):
        first = open_sounds("speech_commands", "train", home)
        again = open_sounds("speech_commands", "train", home / ARCHIVE)
    assert caplog.text.count("unpacking") == 1
    assert listing(first) == listing(again) == listing(open_sounds("speech_commands", "train", words))
    assert sorted(path.name for path in home.iterdir()) == ["speech_commands_v0.02", ARCHIVE]


def test_what_is_no_archive_is_one_sentence(tmp_path):
    (tmp_path / ARCHIVE).write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"gz cannot be unpacked \([^:\n]*\); fetch it again, or unpack it by hand$"):
        open_sounds("speech_commands", "train", tmp_path)


def test_half_an_archive_leaves_nothing_behind(words, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    with tarfile.open(home / ARCHIVE, "w:gz") as file:
        file.add(words, ".")
    whole = (home / ARCHIVE).read_bytes()
    (home / ARCHIVE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"v0\.02\.tar\.gz cannot be unpacked .*; fetch it again"):
        open_sounds("speech_commands", "train", home)
    assert [path.name for path in home.iterdir()] == [ARCHIVE]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: shutil.rmtree(root / "bed"), "lacks bed; expected a folder for each of the 35 words"),
        (lambda root: write(root / "bett" / "a.wav"), "also has bett; expected a folder for each"),
        (lambda root: (root / "testing_list.txt").unlink(), "has no testing_list.txt; expected Speech Commands V2"),
        (lambda root: (root / "bed" / "c.wav").unlink(), r"lacks sounds that its lists name: bed/c\.wav"),
    ],
)
def test_a_set_that_is_not_whole_is_refused(words, spoil, message):
    spoil(words)
    with pytest.raises(ValueError, match=message):
        open_sounds("speech_commands", "train", words)


@pytest.mark.parametrize(
    ("name", "split", "folder", "message"),
    [
        ("speech_commands", "val", "x", "speech_commands has no split 'val'; expected one of train, test, validation"),
        ("speech_commands", "test", None, "needs the folder of its words"),
        (
            "speech_commands",
            "test",
            "nowhere",
            "there is no folder nowhere; expected one that holds Speech Commands V2",
        ),
        ("speech_commands", "test", "gs://bucket", "are files in a folder, and gs://bucket is none"),
        ("speech_comands", "test", None, "no sound source 'speech_comands'; did you mean speech_commands"),
        ("tones", "val", None, "tones has no split 'val'"),
        ("csv", "train", None, "the source csv reads data_dir/class_labels_indices"),
    ],
)
def test_what_is_not_there_is_one_sentence(name, split, folder, message):
    with pytest.raises(ValueError, match=message):
        open_sounds(name, split, folder)


# Folders and lists.


def test_a_folder_per_class(tmp_path):
    for name in ("dog/b.wav", "dog/a.flac", "cat/deep/c.ogg"):
        write(tmp_path / "train" / name)
    (tmp_path / "train" / "dog" / "notes.txt").write_text("x")
    source = open_sounds("folder", "train", tmp_path)
    assert listing(source) == [("cat/deep/c.ogg", 0), ("dog/a.flac", 1), ("dog/b.wav", 1)]
    assert source.labels == ("cat", "dog")
    with pytest.raises(ValueError, match="has no split 'val'; the folders in it are: train"):
        open_sounds("folder", "val", tmp_path)
    (tmp_path / "bare" / "x").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"has 1 class but no sounds; expected files like \*\.wav"):
        open_sounds("folder", "bare", tmp_path)


@pytest.fixture
def tagged(tmp_path):
    """AudioSet's layout: three classes, four rows, three sounds."""
    (tmp_path / "class_labels_indices.csv").write_text(
        'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/0ytgt,"Child speech, kid speaking"\n2,/m/04rlf,Music\n'
    )
    (tmp_path / "eval.csv").write_text(
        "# Segments csv created Sun Mar  5 10:54:25 2017\n# YTID, start_seconds, end_seconds, positive_labels\n"
        '--aaa, 30.000, 40.000, "/m/09x0r,/m/04rlf"\nbbb, 0.000, 10.000, "/m/04rlf"\n'
        'gone, 0.000, 10.000, "/m/04rlf"\nccc.wav, 0.000, 10.000, "Speech,/m/09x0r"\n'
    )
    for name in ("--aaa.wav", "bbb.flac", "ccc.wav"):
        write(tmp_path / "eval" / name)
    return tmp_path


def test_several_labels_to_a_sound(tagged, caplog):
    source = open_sounds("csv", "eval", tagged)
    assert listing(source) == [("--aaa.wav", 0, 2), ("bbb.flac", 2), ("ccc.wav", 0)]
    assert source.labels == ("Speech", "Child speech, kid speaking", "Music")
    assert f"1 of its sounds are not in {tagged / 'eval'}: gone" in caplog.text


def test_lists_that_a_spreadsheet_has_saved_and_names_with_commas(tagged):
    for name in ("class_labels_indices.csv", "eval.csv"):
        text = (tagged / name).read_text() + ' \nbbb,"Child speech, kid speaking"\n' * (name == "eval.csv")
        (tagged / name).write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    expected = [("--aaa.wav", 0, 2), ("bbb.flac", 2), ("ccc.wav", 0), ("bbb.flac", 1)]
    assert listing(open_sounds("csv", "eval", tagged)) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("bbb,0,10,/m/0nope", "eval.csv, line 7: unknown label '/m/0nope'; expected some of the 3 in"),
        ('bbb,0,10,""', "eval.csv, line 7: no label; expected some"),
        ("bbb", "eval.csv, line 7: expected a file's name and its classes, found 'bbb'"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tagged, row, message):
    with (tagged / "eval.csv").open("a") as file:
        file.write(row + "\n")
    with pytest.raises(ValueError, match=message):
        open_sounds("csv", "eval", tagged)


def test_lists_without_sounds_or_classes_are_refused(tagged):
    with pytest.raises(ValueError, match=r"there is no .*train\.csv; expected a CSV file"):
        open_sounds("csv", "train", tagged)
    shutil.rmtree(tagged / "eval")
    with pytest.raises(ValueError, match=r"none of the 4 sounds of .* put them there"):
        open_sounds("csv", "eval", tagged)
    (tagged / "eval.csv").write_text("# YTID\n")
    with pytest.raises(ValueError, match=r"eval\.csv lists no sounds; expected a file's name"):
        open_sounds("csv", "eval", tagged)
    (tagged / "x.csv").mkdir()
    with pytest.raises(ValueError, match=r"there is no .*x\.csv; expected a CSV file"):
        open_sounds("csv", "x", tagged)
    (tagged / "class_labels_indices.csv").write_text("index,mid,display_name\n1,/m/09x0r,Speech\n")
    with pytest.raises(
        ValueError, match=r"indices\.csv, line 2: expected 0,mid,display_name, found '1,/m/09x0r,Speech'"
    ):
        open_sounds("csv", "eval", tagged)


# Made up.


def test_tones_are_what_they_are_called():
    train, test = (open_sounds("tones", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (400, 100)
    for index in range(0, 100, 7):
        sound = test[index]["sound"]
        peak = np.argmax(np.abs(np.fft.rfft(sound))) * 16_000 / len(sound)
        expected = float(TONES[test.classes[index][0]].split()[0])
        assert abs(peak / expected - 1) < 0.08
        np.testing.assert_array_equal(sound, test[index]["sound"])
    assert not np.array_equal(train[0]["sound"][:8000], test[0]["sound"][:8000])


@needs_espeak
def test_words_are_spoken_by_other_voices_in_every_split(tmp_path, monkeypatch):
    voices = {"train": ["m1"], "validation": ["m2"], "test": ["f3"]}
    monkeypatch.setattr(speech_synthesis, "VOICES", voices)
    monkeypatch.setattr(speech_synthesis, "TAKES", {"train": 2, "validation": 1, "test": 1})
    folder = tmp_path / "spoken"
    train = open_sounds("synthetic_commands", "train", folder)
    test = open_sounds("synthetic_commands", "test", folder)
    assert len(train) == 2 * 35
    assert [name for name, _ in listing(test)] == [f"{word}/f3_0.wav" for word in COMMANDS]
    assert not {name.split("/")[1][:2] for name in test.names} & {name.split("/")[1][:2] for name in train.names}
    sounds = [read_sound(example["sound"], 16_000) for example in (train[0], train[1], test[0])]
    for sound in sounds:
        assert len(sound) == 16_000
        assert 0.25 < np.abs(sound).max() <= 1
    before = (folder / "bed" / "m1_0.wav").read_bytes()
    shutil.rmtree(folder)
    open_sounds("synthetic_commands", "train", folder)
    assert (folder / "bed" / "m1_0.wav").read_bytes() == before


@needs_espeak
def test_no_two_voices_sound_alike():
    """espeak-ng passes over a variant that it does not know: a misspelt voice would be heard twice."""
    voices = [voice for names in speech_synthesis.VOICES.values() for voice in names]
    plain = speech_synthesis.speak("go", "en-us").tobytes()
    spoken = {speech_synthesis.speak("go", f"en-us+{voice}").tobytes() for voice in voices}
    assert len(spoken - {plain}) == len(voices) == 58


@needs_espeak
def test_a_voice_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="espeak-ng does not say 'go' in the voice xx"):
        speech_synthesis.speak("go", "xx")


def test_without_espeak_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for call in (
        lambda: open_sounds("synthetic_commands", "train", tmp_path / "a"),
        lambda: speech_synthesis.speak("go"),
    ):
        with pytest.raises(
            ImportError, match="needs the program espeak-ng, which is missing: apt-get install espeak-ng"
        ):
            call()
    assert list(tmp_path.iterdir()) == []


def test_words_are_not_spoken_into_a_folder_that_is_in_use(tmp_path):
    (tmp_path / "letter.txt").write_text("x")
    with pytest.raises(ValueError, match="holds something else than spoken words"):
        open_sounds("synthetic_commands", "train", tmp_path)
