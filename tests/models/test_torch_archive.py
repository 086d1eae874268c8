"""What is in a `.pth` or `.safetensors` comes out, and what goes in is what PyTorch reads."""

import argparse
import os
import shutil
import struct
import sys
import warnings
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from archive_builder import (
    DTYPES,
    ONE,
    THREE,
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

from unireplknet_jax.models import torch_archive, torch_zip
from unireplknet_jax.models.torch_archive import Placeholder, read_state_dict, write_state_dict

GOLDEN = Path(__file__).parents[1] / "goldens" / "tiny_afp.pth"


def every_dtype():
    rng = np.random.default_rng(0)
    arrays = {name: (rng.normal(size=(3, 4)) * 50).astype(name) for name in DTYPES[:-2] if name != "bfloat16"}
    arrays |= {"bfloat16": rng.normal(size=(5,)).astype(ml_dtypes.bfloat16), "bool": np.array([True, False, True])}
    arrays |= {"uint8": rng.integers(0, 255, (2, 2), np.uint8), "counter": np.array(2**40), "empty": np.zeros((0, 3))}
    arrays["hollow"] = np.zeros((2, 0, 3), np.int8)
    return arrays | {"strided": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[::2]}


# What comes out is what went in.


def test_golden():
    state, notes = read_state_dict(GOLDEN)
    assert len(state) == 626
    assert notes == []
    assert state["stages.0.1.norm.num_batches_tracked"].shape == ()
    assert state["stages.0.1.norm.num_batches_tracked"].dtype == np.int64
    with zipfile.ZipFile(GOLDEN) as archive:
        raw = [np.frombuffer(archive.read(f"tiny_afp/data/{key}"), np.float32) for key in (0, 1, 624, 625)]
    names = ["downsample_layers.0.0.weight", "downsample_layers.0.0.bias", "head.weight", "head.bias"]
    shapes = [(4, 3, 3, 3), (4,), (10, 64), (10,)]
    wanted = {name: array.reshape(shape) for name, array, shape in zip(names, raw, shapes, strict=True)}
    assert_same(values_of({name: state[name] for name in names}), wanted)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_every_dtype(tmp_path, protocol):
    arrays = {name: np.asarray(array, order="C") for name, array in every_dtype().items()}
    path = save(tmp_path / "a.pth", {"model": {k: tensor(v) for k, v in arrays.items()}}, protocol=protocol)
    assert_same(values_of(read_state_dict(path)[0]), arrays)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_writes_every_dtype(tmp_path, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    arrays = every_dtype()
    write_state_dict(tmp_path / f"a{suffix}", arrays | {"big endian": np.arange(3, dtype=">f8")})
    got = values_of(read_state_dict(tmp_path / f"a{suffix}")[0])
    assert_same({name: got[name] for name in [*arrays, "big endian"]}, arrays | {"big endian": np.arange(3.0)})
    assert all(array.flags.c_contiguous and array.flags.writeable for array in got.values())


def test_strided_shared_and_wrapped_tensors(tmp_path):
    values = np.arange(12, dtype=np.float32)
    shared = Storage(values)
    whole = view(shared, (3, 4), (4, 1))
    state = {
        "whole": whole,
        "transposed": view(shared, (4, 3), (1, 4)),
        "part": view(shared, (2, 2), (6, 2), 3),
        "scalar": view(shared, (), (), 7),
        "parameter": Call("torch._utils._rebuild_parameter", (whole, True, {})),
        "with state": Call("torch._utils._rebuild_parameter_with_state", (whole, True, {}, {"tag": 1})),
        "version 1": Call("torch._utils._rebuild_tensor", (shared, 1, (2,), (1,))),
        "size": Call("torch._utils._rebuild_tensor", (shared, 0, Call("torch.Size", ((3,),)), (1,))),
        "sub-class": Call(
            "torch._tensor._rebuild_from_type_v2",
            (
                Name("torch._utils._rebuild_tensor_v2"),
                Name("torch.Tensor"),
                (shared, 2, (2,), (1,), False, {}),
                {"a": 1},
            ),
        ),
    }
    got = values_of(read_state_dict(save(tmp_path / "a.pth", state))[0])
    grid = values.reshape(3, 4)
    part = np.array([[3, 5], [9, 11]], np.float32)
    wanted = {"whole": grid, "transposed": grid.T, "part": part, "scalar": values[7], "parameter": grid}
    wanted |= {"with state": grid, "version 1": values[1:3], "size": values[:3], "sub-class": values[2:4]}
    assert_same(got, wanted)
    got["whole"][:] = 0
    assert got["transposed"].any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int16", "bool"])
def test_byte_order(tmp_path, dtype):
    values = np.array([1, 0, 3, 4]).astype(dtype)
    members = parts_of({"a": tensor(values)})
    members["archive/data/0"] = values.view(f"u{values.itemsize}").byteswap().tobytes()
    path = pack(tmp_path / "a.pth", members | {"archive/byteorder": b"big"})
    assert_same(values_of(read_state_dict(path)[0]), {"a": values})
    assert "byte order" in sentence(pack(path, members | {"archive/byteorder": b"middle"}))
    del members["archive/byteorder"]
    members["archive/data/0"] = values.tobytes()
    assert_same(values_of(read_state_dict(pack(path, members))[0]), {"a": values})


def test_bools_are_zero_or_one(tmp_path):
    members = parts_of({"a": tensor(np.array([True, True, False]))})
    path = pack(tmp_path / "a.pth", members | {"archive/data/0": b"\x02\x01\x00"})
    assert read_state_dict(path)[0]["a"].numpy().view(np.uint8).tolist() == [1, 1, 0]


@pytest.mark.parametrize("top", ["tiny_afp", "a/b"])
def test_any_top_folder(tmp_path, top):
    path = save(tmp_path / "a.pth", {"x": tensor(np.ones(2))}, top=top)
    assert_same(values_of(read_state_dict(path)[0]), {"x": np.ones(2)})


def test_compressed_archive(tmp_path):
    path = pack(tmp_path / "a.pth", parts_of({"x": tensor(np.arange(99))}), zipfile.ZIP_DEFLATED)
    assert_same(values_of(read_state_dict(path)[0]), {"x": np.arange(99)})


# Which part of the file is the state dict.


@pytest.mark.parametrize(
    "root",
    [
        {"x": ONE},
        {"model": {"x": ONE}, "epoch": 3, "best": TWO, "optimizer": {"state": {0: {"exp_avg": TWO}}}},
        {"state_dict": {"x": ONE}, "meta": {"version": "1"}},
        {"module": {"x": ONE}, "model_ema": {"x": TWO}},
        {"module": {"x": TWO}, "state_dict": {"x": TWO}, "model": {"x": ONE}},
        {"module": {"x": TWO}, "state_dict": {"x": ONE}},
        {"model": "unireplknet_t", "state_dict": {"x": ONE}},
        {"model": {"name": "unireplknet_t"}, "x": ONE},
        {"model": {"module.x": ONE}},
        {"module.module.x": ONE},
        {"model_state_dict": {"x": ONE}, "epoch": 3},
    ],
)
def test_layouts(tmp_path, root):
    def build(value):
        if isinstance(value, dict):
            return {key: build(item) for key, item in value.items()}
        return tensor(value) if isinstance(value, np.ndarray) else value

    state, _ = read_state_dict(save(tmp_path / "a.pth", build(root)))
    assert_same(values_of(state), {"x": ONE})


def test_ordered_dicts_and_their_metadata(tmp_path):
    ordered = Call("collections.OrderedDict", ([["x", tensor(ONE)]],), {"_metadata": {"": {"version": 1}}})
    state, notes = read_state_dict(save(tmp_path / "a.pth", {"model": ordered}))
    assert_same(values_of(state), {"x": ONE})
    assert notes == []


def test_one_number_may_stand_for_many(tmp_path):
    """As `torch.Tensor.expand` leaves it."""
    stored = Storage(np.array([1, 2], np.float32))
    state, _ = read_state_dict(save(tmp_path / "a.pth", {"x": view(stored, (3, 2), (0, 1))}))
    np.testing.assert_array_equal(state["x"].numpy(), [[1, 2]] * 3)


def test_prefix_stays_where_one_name_lacks_it(tmp_path):
    path = save(tmp_path / "a.pth", {"module.x": tensor(ONE), "y": tensor(TWO)})
    assert list(read_state_dict(path)[0]) == ["module.x", "y"]


def test_ema(tmp_path):
    path = save(tmp_path / "a.pth", {"model": {"x": tensor(ONE)}, "model_ema": {"module.x": tensor(TWO)}})
    assert_same(values_of(read_state_dict(path, ema=True)[0]), {"x": TWO})
    for average in ("state_dict_ema", "ema_state_dict"):
        save(path, {"state_dict": {"x": tensor(ONE)}, average: {"x": tensor(TWO)}})
        assert_same(values_of(read_state_dict(path, ema=True)[0]), {"x": TWO})
    save(path, {"model": {"x": tensor(ONE)}, "epoch": 3})
    assert "'model', 'epoch'" in sentence(path, ema=True)


def test_no_tensors(tmp_path):
    path = save(tmp_path / "a.pth", {"epoch": 3, "model": Call("shop.Net", ()), 5: tensor(ONE)})
    assert "'epoch', 'model' (a shop.Net object), 5" in sentence(path)
    assert "a pickled shop.Net object" in sentence(save(path, Call("shop.Net", (), {"x": tensor(ONE)})))
    assert "holds a list" in sentence(save(path, [tensor(ONE)]))
    assert "empty" in sentence(save(path, {}))


def test_plain_values_are_dropped_by_name(tmp_path):
    path = save(tmp_path / "a.pth", {"x": tensor(ONE), "step": 3, "name": "a", 7: tensor(ONE), "deep": [tensor(ONE)]})
    state, notes = read_state_dict(path)
    assert list(state) == ["x"]
    assert notes == ["dropped, not tensors: 'step', 'name', 7, 'deep'"]


def test_only_what_is_asked_for_is_read(tmp_path):
    members = parts_of({"model": {"x": tensor(ONE), "y": tensor(TWO)}, "optimizer": {"exp_avg": tensor(THREE)}})
    content = pack(tmp_path / "a.pth", members).read_bytes()
    for damaged in (TWO, THREE):
        assert content.count(damaged.tobytes()) == 1
        content = content.replace(damaged.tobytes(), b"\xff" * damaged.nbytes)
    (tmp_path / "a.pth").write_bytes(content)
    state, _ = read_state_dict(tmp_path / "a.pth")
    assert_same({"x": state["x"].numpy()}, {"x": ONE})
    with pytest.raises(ValueError, match=r"^cannot read .*a\.pth: its 'archive/data/1' is damaged"):
        state["y"].numpy()


# safetensors.


def test_safetensors(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "a.safetensors"
    write_state_dict(path, {"module.x": ONE, "module.y": TWO})
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    assert b'"__metadata__":{"format":"pt"}' in path.read_bytes()[8 : 8 + length]
    assert_same(values_of(read_state_dict(path)[0]), {"x": ONE, "y": TWO})
    assert_same(values_of(read_state_dict(shutil.copy(path, tmp_path / "a.bin"))[0]), {"x": ONE, "y": TWO})
    assert "model_ema" in sentence(path, ema=True)
    header = (
        b'{"x":{"dtype":"U16","shape":[1],"data_offsets":[0,2]},"y":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}'
    )
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"123")
    assert read_state_dict(path)[0]["x"] == Placeholder("safetensors.U16")


def test_safetensors_is_optional(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(ImportError, match="pip install safetensors"):
        read_state_dict(tmp_path / "a.safetensors")
    with pytest.raises(ImportError, match="pip install safetensors"):
        write_state_dict(tmp_path / "b.safetensors", {"x": ONE})
    assert os.listdir(tmp_path) == ["a.safetensors"]


# Writing.


def test_written_archive(tmp_path, monkeypatch):
    for large in (2**30, 8):
        monkeypatch.setattr(torch_zip, "_LARGE", large)
        path = tmp_path / "a.pth"
        write_state_dict(path, {"x": ONE, "y": np.arange(5), "z": np.array(True)})
        content = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            members = archive.infolist()
        names = ["data.pkl", "byteorder", "data/0", "data/1", "data/2", "version"]
        assert [member.filename for member in members] == [f"archive/{name}" for name in names]
        for member in members:
            assert member.compress_type == zipfile.ZIP_STORED
            name, extra = struct.unpack_from("<HH", content, member.header_offset + 26)
            assert (member.header_offset + 30 + name + extra) % 64 == 0
        assert_same(values_of(read_state_dict(path)[0]), {"x": ONE, "y": np.arange(5), "z": np.array(True)})


def test_written_counts_beyond_32_bits(tmp_path):
    write_state_dict(tmp_path / "a.pth", {"x": np.zeros((0, 2**33), np.int8)})
    assert read_state_dict(tmp_path / "a.pth")[0]["x"].numpy().shape == (0, 2**33)


def test_refused_writes(tmp_path):
    with pytest.raises(ValueError, match=r"a\.bin: its name ends neither in \.pth nor in \.safetensors"):
        write_state_dict(tmp_path / "a.bin", {"x": ONE})
    with pytest.raises(FileNotFoundError, match=r"create .*none first"):
        write_state_dict(tmp_path / "none" / "a.pth", {"x": ONE})
    for array in (np.zeros(2, np.complex64), np.zeros(2, np.uint16), np.array(["a"])):
        with pytest.raises(ValueError, match=r"'y' is .*, so convert it to one of bfloat16, bool, "):
            write_state_dict(tmp_path / "a.pth", {"x": ONE, "y": array})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("failing", ["native", "replace"])
def test_failed_writes_leave_nothing(tmp_path, monkeypatch, suffix, failing):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path / f"a{suffix}"
    write_state_dict(path, {"x": ONE})
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    for module in (torch_zip, torch_archive) if failing == "native" else (os,):
        monkeypatch.setattr(module, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        write_state_dict(path, {"x": TWO})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
    write_state_dict(path, {"x": TWO})
    assert_same(values_of(read_state_dict(path)[0]), {"x": TWO})


# Against PyTorch itself.


def test_torch_reads_what_we_write(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = every_dtype()
    write_state_dict(tmp_path / "a.pth", arrays)
    write_state_dict(tmp_path / "a.safetensors", arrays)
    from safetensors.torch import load_file

    for options in ({}, {"mmap": True}):
        loaded = torch.load(tmp_path / "a.pth", weights_only=True, **options)
        assert list(loaded) == ["model"]
        for state in (loaded["model"], load_file(tmp_path / "a.safetensors")):
            assert sorted(state) == sorted(arrays)
            for name, array in arrays.items():
                assert str(state[name].dtype) == f"torch.{array.dtype.name}"
                assert tuple(state[name].shape) == array.shape
                assert state[name].is_contiguous()
                if array.dtype.name == "bfloat16":
                    state[name], array = state[name].float(), array.astype(np.float32)
                np.testing.assert_array_equal(state[name].numpy(), array)
    assert list(loaded["model"]) == list(arrays)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_we_read_what_torch_writes(tmp_path, protocol):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 2, 5, 5, generator=generator)).sum().backward()
    optimizer.step()
    tagged = torch.ones(2)
    tagged.tag = "an attribute"
    state = {f"dtype {name}": (base * 9).to(getattr(torch, name)) for name in DTYPES}
    state |= {
        "t": base.t(),
        "row": base[1],
        "column": base[:, 2],
        "step": base[::2, ::3],
        "again": base,
        "0": torch.tensor(1),
    }
    state |= {"parameter": torch.nn.Parameter(base), "tagged": tagged, "empty": torch.zeros(0, 3), **model.state_dict()}
    extras = {"optimizer": optimizer.state_dict(), "args": argparse.Namespace(lr=np.float64(1)), "dtype": torch.float32}
    path = tmp_path / "a.pth"
    torch.save({"model": state, "epoch": 3, **extras}, path, pickle_protocol=protocol)
    got, notes = read_state_dict(path)
    assert list(got) == list(state)
    for name, wanted in state.items():
        assert got[name].dtype.name == str(wanted.dtype).removeprefix("torch.")
        array = got[name].numpy()
        assert array.shape == tuple(wanted.shape)
        assert array.astype(np.float64).tolist() == wanted.detach().double().tolist(), name
    assert len(notes) == 1
    assert "argparse.Namespace" in notes[0]
    assert "torch.float32" in notes[0]
    assert "_rebuild" not in notes[0]
    # What torch.save wrote, written again by us and read again by it.
    write_state_dict(tmp_path / "b.pth", values_of(got))
    again = torch.load(tmp_path / "b.pth", weights_only=True)["model"]
    assert all(torch.equal(again[name], wanted.detach()) for name, wanted in state.items())


def test_torch_files_that_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pth"
    torch.save({"x": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert "before 1.6" in sentence(path)
    torch.save(torch.nn.Linear(2, 2), path)
    assert "pickled torch.nn.modules.linear.Linear object" in sentence(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    assert "TorchScript" in sentence(path)


def test_golden_against_torch():
    torch = pytest.importorskip("torch")
    wanted = torch.load(GOLDEN, weights_only=True)["model"]
    assert_same(values_of(read_state_dict(GOLDEN)[0]), {name: value.numpy() for name, value in wanted.items()})
