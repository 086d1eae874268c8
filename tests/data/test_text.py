"""Text of any editor: encodings, marks, line ends, and what is no text."""

import json

import pytest

from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.data.label_names import read_label_file
from unireplknet_jax.data.text import lines_of, read_text


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_labels_of_any_editor_are_the_same(encoding, end, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(end.join(["Käse", "\u00a0Zug ", '"air, hot"', "", "\u00a0", ""]).encode(encoding))
    assert read_label_file(path) == ("Käse", "Zug", "air, hot")


def test_marks_of_byte_order_and_of_the_end_are_no_text():
    assert read_text(EncodedFile(b"\xfe\xff\0a\0\r\0\nb"[:-1] + b"\0b", "x"), "words") == "a\nb"
    assert lines_of(EncodedFile("a\x85b\u2028c\n\x1a".encode(), "x"), "words") == ["a", "b", "c", ""]
    assert read_text(EncodedFile("\ufeff\ufeffa".encode(), "x"), "words") == "a"


def test_what_is_not_told_by_the_file_is_said(caplog):
    assert read_text(EncodedFile("5 €".encode("cp1252"), "prices.txt"), "words") == "5 €"
    assert read_text(EncodedFile(b"x\x81", "old.txt"), "words") == "x\x81"  # which Windows-1252 does not have
    assert caplog.messages[0] == (
        "prices.txt is not UTF-8: taken for Windows-1252; save it as UTF-8 if letters are wrong"
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x is empty; expected words$"),
        (b"\n <!DOCTYPE HTML><html>", "x is a web page and not the file itself; expected words$"),
        (b"version https://git-lfs.github.com/spec/v1\n", "x is a Git LFS pointer and not the file itself, which"),
        (b"\x89PNG\r\n\x1a\n\0\xff", "x is not a text file; expected words$"),
        (b"PK\3\4 and so on", "x is not a text file"),
        (b"\xff\xfea\0b", "x is not a text file"),  # half a letter
        (b"a\0\0\0b", "x is not a text file"),
    ],
)
def test_what_is_no_text_is_one_sentence(data, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        read_text(EncodedFile(data, "x"), "words")


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(
        ValueError, match=r"cannot read .*none\.txt \(No such file or directory\); expected the path of"
    ):
        read_text(tmp_path / "none.txt", "words")


@pytest.mark.parametrize(
    "text",
    [
        '["cat", "dog"]',
        '{"1": "dog", "0": "cat"}',
        '{"0": ["n02121808", "cat"], "1": ["n02084071", "dog"]}',
        '{"architectures": [], "id2label": {"0": "cat", "1": "dog"}}',
    ],
)
def test_labels_as_json(text, tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(text)
    assert read_label_file(path) == ("cat", "dog")


def test_labels_in_json_are_in_the_order_of_their_numbers(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({str(number): f"class {number}" for number in reversed(range(12))}))
    assert read_label_file(path) == tuple(f"class {number}" for number in range(12))


@pytest.mark.parametrize("text", ["[1, 2]", '{"a": "cat"}', '{"1": "cat"}', "[", '[""]', "[" * 100_000, '{"0": []}'])
def test_other_json_is_one_sentence(text, tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"^[^\n]*is no JSON of class names; expected a list of them"):
        read_label_file(path)
