"""Nothing in a file is ever run, and whatever is wrong with one is said in a clear sentence."""

import argparse
import builtins
import os
import pickle
import random
import shlex
import struct
import subprocess
import warnings
import zipfile

import numpy as np
import pytest
from archive_builder import (
    ONE,
    TWO,
    Call,
    Name,
    Storage,
    assert_same,
    pack,
    parts_of,
    save,
    sentence,
    tensor,
    values_of,
    view,
)

from unireplknet_jax.models import safe_pickle, torch_zip
from unireplknet_jax.models.torch_archive import Placeholder, StoredTensor, read_state_dict, write_state_dict

# Nothing in a file is ever run.


class Hostile:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("where", ["extra", "wanted", "key", "storage", "state", "new"])
def test_nothing_is_run(tmp_path, protocol, where):
    marker = tmp_path / "marker"
    attacks = {
        f"{os.name}.system": Hostile(os.system, f"touch {marker}"),
        "builtins.eval": Hostile(builtins.eval, f"open({str(marker)!r}, 'w')"),
        "builtins.exec": Hostile(builtins.exec, f"open({str(marker)!r}, 'w')"),
        "subprocess.Popen": Hostile(subprocess.Popen, ["touch", str(marker)]),
        "builtins.getattr": Hostile(getattr, "", "join"),
    }
    for name, attack in attacks.items():
        root = {"model": {"x": tensor(ONE), "y": tensor(TWO)}}
        if where == "extra":
            root["args"] = attack
        elif where == "wanted":
            root["model"]["y"] = attack
        elif where == "key":
            root["model"][attack] = tensor(ONE)
        elif where == "storage":
            root["model"]["y"] = Call("torch._utils._rebuild_tensor_v2", (attack, 0, (2,), (1,), False, {}))
        elif where == "state":
            root["args"] = Call("argparse.Namespace", (), {"lr": attack})
        else:
            root["args"] = Call("collections.OrderedDict", (), attack)
        state, notes = read_state_dict(save(tmp_path / "a.pth", root, protocol=protocol))
        assert not marker.exists()
        assert_same({"x": state["x"].numpy()}, {"x": ONE})
        assert notes[0].startswith("ignored, never imported: ")
        assert name in notes[0]
        if where in ("wanted", "storage"):
            assert isinstance(state["y"], Placeholder)
            assert name in state["y"].name


def test_attacks_are_real(tmp_path):
    """The twin of the test above: these pickles do run under the pickle module."""
    pickle.loads(pickle.dumps(Hostile(os.system, f"touch {tmp_path / 'marker'}")))
    assert (tmp_path / "marker").exists()


def test_extras_of_training_are_named(tmp_path):
    extras = {"args": argparse.Namespace(lr=np.float64(3)), "sets": [{1, 2}, frozenset("a")], "rng": b"\x00\xff"}
    extras |= {"exotic": {(1, 2): 3, None: 2.5, 1: -(2**100)}, "class": argparse.Namespace, "buffer": bytearray(b"1")}
    for protocol in (2, 4, 5):
        path = save(tmp_path / "a.pth", {"model": {"x": tensor(ONE)}, **extras}, protocol=protocol)
        _, notes = read_state_dict(path)
        assert len(notes) == 1
        assert "argparse.Namespace" in notes[0]
        assert "multiarray.scalar" in notes[0]


def test_names_in_notes_cannot_forge_lines(tmp_path):
    path = save(tmp_path / "a.pth", {"x": tensor(ONE), "y": Name("os\nfake.system")}, protocol=4)
    state, notes = read_state_dict(path)
    assert state["y"] == Placeholder(r"'os\nfake.system'")
    assert notes == [r"ignored, never imported: 'os\nfake.system'"]


# Tensors that do not fit.


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((13,), (1,), 0),
        ((2,), (1,), 11),
        ((2, 2), (11, 1), 0),
        ((2**11, 2**10), (0, 0), 0),
        ((4, 4), (0, 4), 0),
        ((2**40,), (0,), 0),
        ((2,), (-1,), 5),
        ((-2,), (1,), 0),
        ((2,), (1,), -1),
        ((2, 2), (1,), 0),
        ((True,), (1,), 0),
        ((2.0,), (1,), 0),
        ((0, 2**62), (1, 1), 0),
        ((2**70,), (1,), 0),
        ((1,), (2**70,), 0),
        ((1,) * 33, (1,) * 33, 0),
        ([2], [1], 0),
    ],
)
def test_tensors_outside_their_storage(tmp_path, shape, strides, offset):
    path = save(tmp_path / "a.pth", {"x": view(Storage(np.zeros(12, np.float32)), shape, strides, offset)})
    assert "tensor" in sentence(path)


def test_storages_that_are_not_there(tmp_path):
    path = tmp_path / "a.pth"
    assert "claim otherwise" in sentence(save(path, {"x": view(Storage(ONE, size=3), (2,), (1,))}))
    assert "claim otherwise" in sentence(save(path, {"x": view(Storage(ONE, kind="Double"), (2,), (1,))}))
    members = parts_of({"x": tensor(ONE)})
    del members["archive/data/0"]
    assert "'0' is not in the archive" in sentence(pack(path, members))


def test_unknown_dtypes_are_placeholders(tmp_path):
    complex_tensor = view(Storage(ONE, kind="ComplexFloat"), (1,), (1,))
    rebuilt = Call("torch._utils._rebuild_tensor_v3", (Storage(ONE), 0, (1,), (1,), False, {}, Name("torch.uint16")))
    wrapped = Call("torch._utils._rebuild_parameter", (complex_tensor, True, {}))
    state = {"x": tensor(ONE), "complex": complex_tensor, "v3": rebuilt, "wrapped": wrapped}
    got, notes = read_state_dict(save(tmp_path / "a.pth", state))
    assert got["complex"] == got["wrapped"] == Placeholder("torch.ComplexFloatStorage")
    assert got["v3"] == Placeholder("torch._utils._rebuild_tensor_v3")
    assert "torch.uint16" in notes[0]


# Damaged and hostile files.


def with_pickle(path, pickled):
    return pack(path, {"archive/data.pkl": pickled})


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (b"", "unknown, or cut short"),
        (b"\x80\x02}", "unknown, or cut short"),
        (b"\x80\x02X\xff\x00\x00\x00ab", "unknown, or cut short"),
        (b"\x80\x02\xfe.", "unknown, or cut short"),
        (b"\x80\x63}.", "protocol 99"),
        (b"\x80\x02.", "more values"),
        (b"\x80\x02}(0s.", "more values"),
        (b"\x80\x02\x85.", "more values"),
        (b"\x80\x02K\x01\x86.", "more values"),
        (b"\x80\x04\x8f(]\x90.", "holds a set"),
        (b"\x80\x04(]\x91.", "holds a frozenset"),
        (b"\x80\x02}(K\x01u.", "no value"),
        (b"\x80\x02}K\x01K\x02e.", "a mark"),
        (b"\x80\x02h\x07.", "memo 7"),
        (b"\x80\x02K\x01)R.", "not a function"),
        (b"\x80\x02ca\nb\nK\x01R.", "not a function"),
        (b"\x80\x02K\x01)}\x92.", "not a class"),
        (b"\x80\x02K\x01K\x02\x93.", "not a string"),
        (b"\x80\x02K\x01K\x02K\x03s.", "not a dict"),
        (b"\x80\x02K\x01K\x02a.", "not a list"),
        (b"\x80\x02K\x01(K\x02\x90.", "not a set"),
        (b"\x80\x02K\x01Q.", "persistent id"),
        (b"\x80\x02X\x01\x00\x00\x00\xff.", "unknown, or cut short"),
        (b"\x80\x02I12\n.", "unsupported instruction INT"),
        (b"\x80\x02S'\\q'\n.", "unknown, or cut short"),
        (b"\x80\x02\x82\x01.", "unsupported instruction EXT1"),
        (b"\x80\x05\x97.", "unsupported instruction NEXT_BUFFER"),
        (b"\x80\x02\x8b" + struct.pack("<i", 4000) + b"\x7f" * 4000 + b".", "bits"),
        (b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x7f.", "unknown, or cut short"),
        (b"\x80\x02Fx" + b"1" * 9999 + b"\n.", "unknown, or cut short"),
        (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "OrderedDict"),
        (b"\x80\x02ctorch\nSize\n)R.", "torch.Size"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "not described"),
        (b"\x80\x02ctorch._utils\n_rebuild_parameter\nK\x01\x85R.", "not a tensor"),
        (b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n)R.", "sub-class"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_damaged_pickles(tmp_path, pickled, words):
    assert words in sentence(with_pickle(tmp_path / "a.pth", pickled))


@pytest.mark.parametrize("shell", [(b"]", b"a"), (b"(", b"l"), (b"", b"\x85"), (b"}K\x01", b"s"), (b"(", b"")])
def test_deep_nesting(tmp_path, shell):
    before, after = shell
    pickled = b"\x80\x02" + before * 100_000 + b"K\x01" + after * 100_000 + b"."
    assert "save a state_dict()" in sentence(with_pickle(tmp_path / "a.pth", pickled))


def test_deep_keys_and_nested_rebuilds(tmp_path):
    key = b"K\x01" + b"\x85" * 100_000
    path = with_pickle(tmp_path / "a.pth", b"\x80\x02}" + key + b"K\x01s.")
    assert "top level is empty" in sentence(path)
    rebuild = b"ctorch._tensor\n_rebuild_from_type_v2\n"
    nested = b"(" + (rebuild + b"N(") * 50_000 + b"t" * 50_000 + b"t"
    assert "pickled torch._tensor" in sentence(with_pickle(path, b"\x80\x02" + rebuild + nested + b"R."))


def test_containers_that_hold_themselves(tmp_path):
    root = {"x": tensor(ONE), "items": []}
    root["items"].append(root["items"])
    root["model"] = root["state_dict"] = root
    state, notes = read_state_dict(save(tmp_path / "a.pth", root))
    assert_same(values_of(state), {"x": ONE})
    assert notes == ["dropped, not tensors: 'items', 'model', 'state_dict'"]


def test_limits(tmp_path, monkeypatch):
    path = save(tmp_path / "a.pth", {"x": tensor(ONE)})
    monkeypatch.setattr(safe_pickle, "MAX_INSTRUCTIONS", 9)
    assert "more than 9 instructions" in sentence(path)
    monkeypatch.setattr(torch_zip, "_MAX_PICKLE_BYTES", 99)
    assert "more than any state dict's 99" in sentence(path)


def test_bomb(tmp_path):
    members = parts_of({"x": tensor(np.zeros(10**6, np.float32))})
    assert "claims 4000000 bytes" in sentence(pack(tmp_path / "a.pth", members, zipfile.ZIP_DEFLATED))


def patched(path, members, name, **fields):
    """An archive whose local header ("name_length") or directory entry (others) for `name` has these values."""
    content = bytearray(
        pack(path, members, zipfile.ZIP_DEFLATED if "size" in fields else zipfile.ZIP_STORED).read_bytes()
    )
    local = content.index(f"archive/{name}".encode()) - 30
    entry = content.rindex(f"archive/{name}".encode()) - 46
    offsets = {
        "packed_size": (entry + 20, "<I"),
        "size": (entry + 24, "<I"),
        "flags": (entry + 8, "<H"),
        "kind": (entry + 10, "<H"),
        "first_letter": (entry + 46, "B"),
        "name_length": (local + 26, "<H"),
    }
    for field, value in fields.items():
        offset, kind = offsets[field]
        struct.pack_into(kind, content, offset, value)
    path.write_bytes(content)
    return path


def test_sizes_that_the_archive_only_claims(tmp_path):
    path = tmp_path / "a.pth"
    members = parts_of({"x": view(Storage(ONE, size=3), (3,), (1,))})
    assert "ends after 8 of 12 bytes" in sentence(patched(path, members, "data/0", size=12))
    assert "claims 8 bytes from 12" in sentence(patched(path, parts_of({"x": tensor(ONE)}), "data/0", packed_size=12))
    assert "claims 8 bytes from 2" in sentence(patched(path, parts_of({"x": tensor(ONE)}), "data/0", packed_size=2**31))


@pytest.mark.parametrize(
    "fields", [{"flags": 0x800, "first_letter": 0xFF}, {"flags": 1}, {"kind": 12}, {"kind": 8}, {"packed_size": 0}]
)
def test_damaged_headers(tmp_path, fields):
    text = sentence(patched(tmp_path / "a.pth", parts_of({"x": tensor(ONE)}), "data.pkl", **fields))
    assert "damaged" in text or "claims" in text


def test_long_reports_of_damage_are_cut(tmp_path):
    members = parts_of({"x": tensor(np.zeros(999))})
    assert "'archive/data.pkl' is damaged" in sentence(
        patched(tmp_path / "a.pth", members, "data.pkl", name_length=9999)
    )


def test_archives_of_another_kind(tmp_path):
    path = tmp_path / "a.pth"
    members = parts_of({"x": tensor(ONE)})
    assert "TorchScript" in sentence(pack(path, members | {"archive/constants.pkl": b"\x80\x02)."}))
    assert "TorchScript" in sentence(pack(path, members | {"archive/code/__torch__.py": b""}))
    assert "holds 0 data.pkl" in sentence(pack(path, {"notes.txt": b"hello"}))
    assert "holds 0 data.pkl" in sentence(pack(path, {}))
    assert "holds 2 data.pkl" in sentence(pack(path, members | {"other/data.pkl": b"\x80\x02}."}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(pack(path, members), "a") as archive:
            archive.writestr("archive/data/0", b"12345678")
    assert "twice" in sentence(path)
    pack(path, members)
    path.write_bytes(path.read_bytes()[:-40])
    assert "cut short" in sentence(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"<HTML>", "web page"),
        (b"\xef\xbb\xbf <html>", "web page"),
        (b"<?xml version='1.0'?><Error>", "a text, perhaps a server's message"),
        (b'{"error": "not found"}', "a text, perhaps a server's message"),
        (b"\x1f\x8b\x08", "packed by gzip; unpack it"),
        (b"hello", "neither"),
        (b"\x89HDF\r\n", "neither"),
        (pickle.dumps({"x": 1}), "bare pickle"),
    ],
)
def test_files_of_another_kind(tmp_path, content, words):
    (tmp_path / "a.pth").write_bytes(content)
    assert words in sentence(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["old.pth", "it's old.pth", 'a "quoted" $HOME `name`.pth'])
def test_old_format_names_the_command(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2))
    with pytest.raises(ValueError, match=r"before 1\.6") as caught:
        read_state_dict(path)
    command = str(caught.value).partition(": python ")[2]
    flag, code = shlex.split(command)
    target = path.with_name(f"{path.stem}_zip.pth")
    assert flag == "-c"
    assert code == f"import torch; torch.save(torch.load({str(path)!r}, map_location='cpu'), {str(target)!r})"
    if name == "old.pth":
        assert command == f'-c "{code}"'


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        read_state_dict(tmp_path / "none.pth")


def mutations(content, count, rng):
    for _ in range(count):
        damaged = bytearray(content)
        if rng.random() < 0.3:
            del damaged[rng.randrange(len(damaged)) :]
        for _ in range(rng.choice((0, 1, 3)) if len(damaged) < len(content) else 1):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        yield bytes(damaged)


def outcome(path):
    """ "read", or the sentence with which `path` or one of its tensors is refused."""
    try:
        for entry in read_state_dict(path)[0].values():
            if isinstance(entry, StoredTensor):
                assert entry.numpy().shape == entry.shape
    except ValueError as error:
        return str(error)
    return "read"


def assert_sound(outcomes):
    assert "read" in outcomes
    refused = [text for text in outcomes if text != "read"]
    assert refused
    assert all(text.startswith("cannot read ") and len(text) < 1000 for text in refused)


def test_random_damage(tmp_path):
    """Damage anywhere in the file, and in the pickle of an otherwise sound archive, which checksums do not catch."""
    root = {"model": {"a": tensor(np.ones((2, 3))), "b": tensor(np.array(3)), "c": tensor(ONE)}, "args": {"s": {1}}}
    path = tmp_path / "a.pth"
    members = parts_of(root, protocol=4)
    rng = random.Random(0)
    outcomes = []
    for content in mutations(pack(path, members).read_bytes(), 200, rng):
        path.write_bytes(content)
        outcomes.append(outcome(path))
    assert_sound(outcomes)
    pickles = mutations(members["archive/data.pkl"], 300, rng)
    assert_sound([outcome(pack(path, members | {"archive/data.pkl": pickled})) for pickled in pickles])


def test_random_damage_of_safetensors(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "a.safetensors"
    write_state_dict(path, {"x": ONE, "y": TWO})
    outcomes = []
    for content in mutations(path.read_bytes(), 150, random.Random(0)):
        path.write_bytes(content)
        outcomes.append(outcome(path))
    assert_sound(outcomes)


# Parts of a file.


def test_entries_of_a_file_are_prefixes_too(tmp_path):
    network = {"stages.0.0.x": tensor(ONE)}
    root = {"epoch": 3, "ema": {f"backbone.{name}": value for name, value in network.items()}}
    path = save(tmp_path / "a.pth", {**root, "student": {"stages.0.0.x": tensor(TWO)}})
    for prefix, expected in (("ema.backbone", ONE), ("ema.backbone.", ONE), ("student", TWO)):
        found = values_of(read_state_dict(path, prefix=prefix)[0])
        np.testing.assert_array_equal(found["stages.0.0.x"], expected)
    assert "networks are below the prefixes ema.backbone., student., of which one may be asked for" in sentence(path)
    assert "below the prefix nets., but there are networks below ema.backbone., student.;" in sentence(
        path, prefix="nets"
    )
    only = save(tmp_path / "b.pth", {"model": {"x": tensor(ONE)}})
    assert "but there is no network below any prefix in it" in sentence(only, prefix="net")
    wrapped = save(tmp_path / "c.pth", {f"module.a.{name}": value for name, value in network.items()})
    np.testing.assert_array_equal(values_of(read_state_dict(wrapped, prefix="a")[0])["stages.0.0.x"], ONE)
