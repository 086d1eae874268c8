"""`split`: a folder of classes in, one with train and val out; what was done is said."""

import pytest

from unireplknet_jax.__main__ import main


@pytest.fixture
def photos(tmp_path, monkeypatch):
    for label, count in (("cat", 10), ("dog", 5)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "photos" / label / f"{number}.jpg").touch()
    (tmp_path / "photos/cat/notes.txt").touch()
    monkeypatch.chdir(tmp_path)


def test_a_folder_of_classes_is_divided(photos, tmp_path, capsys):
    assert main(["split", "photos", "pets", "--val", "0.3", "--test", "0.1"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "class  train  val  test",
        "cat        6    3     1",
        "dog        2    2     1",
        "wrote pets: 2 classes, 8 in train, 5 in val, 2 in test, as symbolic links",
        "a recipe for such folders is trained on it with --config.data.dir=pets",
    ]
    assert err == "note: 1 passed over: cat/notes.txt.\n"
    assert sorted(path.name for path in (tmp_path / "pets").iterdir()) == ["test", "train", "val"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["photos", "pets", "--val", "1"], 1, "the share of val is 1; expected a number between 0 and 1"),
        (["photos", "pets", "--val", "many"], 2, "argument --val: invalid float value: 'many'"),
        (["photos", "pets", "--seed", "-1"], 2, "--seed is -1; expected 0 or more"),
        (["nowhere", "pets"], 1, "there is no folder nowhere"),
        (["photos", "photos/pets"], 1, "choose a folder beside it"),
    ],
)
def test_wrong_usage_is_one_line(words, code, message, photos, tmp_path, capsys):
    assert main(["split", *words]) == code
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
