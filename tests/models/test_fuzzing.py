"""No checkpoint, whatever is in it, ends in a stack trace, fills the memory or takes for ever: searched with seeds."""

import json

import numpy as np
import pytest
from archive_builder import Storage, save, tensor, view
from fuzzing import bounded, mutated, survived
from hypothesis import given
from hypothesis import strategies as st
from official_files import make_state

from unireplknet_jax.models.torch_archive import read_state_dict, write_state_dict
from unireplknet_jax.tasks.checkpoint import open_checkpoint, save_checkpoint, save_torch_checkpoint

pytestmark = pytest.mark.slow


def read_all(path):
    for value in read_state_dict(path)[0].values():
        if hasattr(value, "numpy"):
            value.numpy()


def test_archives(tmp_path):
    arrays = {"stages.0.0.weight": np.ones((3, 4), np.float32), "b": np.zeros(5, np.float16), "n": np.array(7)}
    files = []
    for name in ("a.pth", "a.safetensors"):
        write_state_dict(tmp_path / name, arrays)
        files.append((tmp_path / name).read_bytes())
    for protocol in (2, 4):
        root = {"model": {name: tensor(array) for name, array in arrays.items()}, "epoch": 3, "args": [1.5, "x", None]}
        files.append(save(tmp_path / "b.pth", root, protocol=protocol).read_bytes())
    files.append(
        save(tmp_path / "b.pth", {"x": view(Storage(np.zeros(1, np.float32)), (1000, 1000), (0, 0))}).read_bytes()
    )

    @bounded(1500)
    @given(mutated(files), st.sampled_from(("c.pth", "c.safetensors", "c.bin")))
    def search(data, name):
        (tmp_path / name).write_bytes(data)
        survived(read_all, tmp_path / name)

    search()


def test_whole_networks(tmp_path):
    write_state_dict(tmp_path / "a.safetensors", make_state(deploy=True))
    data = (tmp_path / "a.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    names = [name for name in header if name != "__metadata__"]

    @bounded(150)
    @given(
        st.sampled_from(names),
        st.sampled_from(("", "stages.0.99.x", "stages.3.0.dwconv.weight", "head.weight", "\ud800", "stages.0.0")),
        st.lists(st.integers(0, 2**40), max_size=5),
        st.sampled_from(("F32", "I64", "F16", "F8_E4M3", "BOOL", "X")),
    )
    def search(name, new, shape, kind):
        changed = {(new or name) if key == name else key: value for key, value in header.items()}
        changed[new or name] = {**header[name], "shape": shape or header[name]["shape"], "dtype": kind}
        text = json.dumps(changed).encode()
        (tmp_path / "b.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + rest)
        survived(open_checkpoint, tmp_path / "b.safetensors")

    search()


def places(value, path=()):
    """All places in a JSON document, as tuples of keys."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*path, key))


def changed(document, path, value):
    """The document with another value in one place."""
    if not path:
        return value
    copy = document.copy()
    copy[path[0]] = changed(document[path[0]], path[1:], value)
    return copy


OTHERS = {  # tasks, and options of cards whose tensors are others
    "audio": {"model": {"num_classes": 10}, "frames": 16, "seconds": 0.0},
    "points": {"model": {"num_classes": 10, "graph_dim": 8, "trans_dim": 8}, "points": 64, "raw_points": 64},
    "forecasting": {
        "tree": [2, 3],
        "decoder": {"width": 8, "heads": 2, "hidden": 16},
        "stations": 6,
        "seasons": [0, 1],
    },
}
VALUES = st.one_of(
    st.sampled_from([None, True, -1, 0, 1, 3, 7, 1000, 2**31, 10**12, 1e308, -0.5, 1.5, float("nan"), float("inf")]),
    st.sampled_from(["", "a", "bfloat16", "float8", "unireplknet_a", {}, {"name": "unireplknet_xl"}, [], [0]]),
    st.sampled_from([[[3], [7]], [1, 1, 1, 1], [10**9] * 4]),
    st.lists(st.integers(-3, 300), max_size=5),
    st.text(max_size=5),
)


@pytest.mark.parametrize("task", ["classification", "video", *OTHERS])
def test_cards(task, tmp_path):
    write_state_dict(tmp_path / "a.pth", make_state(deploy=True))
    checkpoint = open_checkpoint(tmp_path / "a.pth", task=None if task in OTHERS else task)
    save_checkpoint(tmp_path / "saved", checkpoint)
    card = json.loads((tmp_path / "saved" / "card.json").read_text())
    if task in OTHERS:
        model = {"depths": [1, 1, 1, 1], "dims": [4, 4, 4, 8], "kernel_sizes": [[3], [7], [3], [3]]}
        card |= {"task": task, "options": {**OTHERS[task], "model": model | OTHERS[task].get("model", {})}}
        card["labels"] = []
    (tmp_path / "net").mkdir()
    save_torch_checkpoint(tmp_path / "net" / "model.safetensors", checkpoint.variables)
    spots = [*places(card)]

    @bounded(150)
    @given(st.lists(st.tuples(st.sampled_from(spots), VALUES), min_size=1, max_size=2), st.binary(max_size=3))
    def search(changes, garbage):
        document = card
        for path, value in changes:
            try:
                document = changed(document, path, value)
            except (KeyError, IndexError, TypeError, AttributeError):  # the place is gone by an earlier change
                continue
        (tmp_path / "net" / "card.json").write_bytes(json.dumps(document).encode() + garbage[2:])
        survived(open_checkpoint, tmp_path / "net")

    search()
