"""ModelNet40 in its four forms, ScanObjectNN, class folders and generated solids."""

import itertools
import pickle

import h5py
import numpy as np
import pytest
import trimesh

from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.data.shapes import solids
from unireplknet_jax.data.shapes.points import points_of
from unireplknet_jax.data.shapes.sets import open_points

LABELS = read_labels("modelnet40")


def clouds(count, seed=0, columns=6):
    return np.random.default_rng(seed).standard_normal((count, 16, columns)).astype(np.float32)


def upright(points):
    return np.stack([-points[..., 2], -points[..., 0], points[..., 1]], axis=-1)


def read(example):
    return points_of(example, 100, np.random.default_rng(0))


def write_pickle(path, content):
    path.write_bytes(pickle.dumps(content, protocol=4))


def test_the_pickles_of_the_original(tmp_path):
    shapes = clouds(3)
    write_pickle(tmp_path / "modelnet40_train_8192pts_fps.dat", ([*shapes], [np.array([k]) for k in (4, 0, 39)]))
    source = open_points("modelnet40", "train", tmp_path)
    assert (len(source), source.labels) == (3, LABELS)
    assert [source[i]["label"] for i in range(3)] == [4, 0, 39]
    np.testing.assert_array_equal(read(source[2]), upright(shapes[2, :, :3]))
    assert "8192pts_fps.dat (shape 2)" in source[2]["path"]
    assert len(pickle.loads(pickle.dumps(source))) == 3


def test_a_pickle_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (eval, ("1/0",))

    path = tmp_path / "modelnet40_test_8192pts_fps.dat"
    for content, reason in (
        (([Evil()], [0]), r"asks for builtins\.eval, and only NumPy arrays are read"),
        ((1, 2, 3), "pickled pair"),
    ):
        write_pickle(path, content)
        with pytest.raises(ValueError, match=reason):
            open_points("modelnet40", "test", tmp_path)
    path.write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"8192pts_fps\.dat cannot be read as a pickled pair"):
        open_points("modelnet40", "test", tmp_path)
    write_pickle(path, ([*clouds(2)], [0]))
    with pytest.raises(ValueError, match="has 2 shapes, but 1 labels"):
        open_points("modelnet40", "test", tmp_path)
    write_pickle(path, ([*clouds(2)], [0, 40]))
    with pytest.raises(ValueError, match="labels that are not whole numbers from 0 to 39"):
        open_points("modelnet40", "test", tmp_path)


def write_h5(path, data, label):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = data, label


def test_the_hdf5_files_of_modelnet(tmp_path):
    folder, shapes = tmp_path / "modelnet40_ply_hdf5_2048", clouds(5, columns=3)
    write_h5(folder / "ply_data_test0.h5", shapes[:3], np.array([[1], [2], [3]], np.uint8))
    write_h5(folder / "ply_data_test1.h5", shapes[3:, :9], np.array([[4], [5]], np.uint8))
    source = open_points("modelnet40", "test", tmp_path)
    assert [source[i]["label"] for i in range(5)] == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(read(source[4]), upright(shapes[4, :9]))
    # As many labels as shapes in all, but not in each file.
    write_h5(folder / "ply_data_test0.h5", shapes[:3], np.zeros((2, 1), np.uint8))
    write_h5(folder / "ply_data_test1.h5", shapes[3:], np.zeros((3, 1), np.uint8))
    with pytest.raises(ValueError, match=r"ply_data_test0\.h5 has 3 shapes, but 2 labels"):
        open_points("modelnet40", "test", tmp_path)


def test_the_texts_of_modelnet(tmp_path):
    folder, shapes = tmp_path / "modelnet40_normal_resampled", clouds(2)
    for name, shape in zip(("chair_0001", "night_stand_0002"), shapes, strict=True):
        (folder / name[:-5]).mkdir(parents=True)
        np.savetxt(folder / name[:-5] / f"{name}.txt", shape, delimiter=",", fmt="%.9g")
    (folder / "modelnet40_train.txt").write_text("night_stand_0002\nchair_0001\n")
    source = open_points("modelnet40", "train", tmp_path)
    assert [source.labels[source[i]["label"]] for i in range(2)] == ["night_stand", "chair"]
    np.testing.assert_array_equal(read(source[0]).astype(np.float32), upright(shapes[1, :, :3]))
    (folder / "modelnet40_train.txt").write_text("spoon_0001\n")
    with pytest.raises(ValueError, match=r"modelnet40_train\.txt has the unknown class spoon"):
        open_points("modelnet40", "train", tmp_path)
    (folder / "modelnet40_train.txt").write_bytes(b"\xff\xfe\x00_1\n")
    with pytest.raises(ValueError, match=r"modelnet40_train\.txt has the unknown class"):
        open_points("modelnet40", "train", tmp_path)


def test_the_meshes_of_modelnet(tmp_path):
    for label, split in itertools.product(("bed", "vase"), ("train", "test")):
        (tmp_path / "ModelNet40" / label / split).mkdir(parents=True)
        trimesh.creation.box((1, 1, 5)).export(str(tmp_path / "ModelNet40" / label / split / f"{label}_0001.off"))
        (tmp_path / "ModelNet40" / label / split / f"._{label}_0001.off").touch()
    source = open_points("modelnet40", "test", tmp_path)
    assert [(source.labels[source[i]["label"]], source[i]["up"]) for i in range(2)] == [("bed", "z"), ("vase", "z")]
    assert np.ptp(read(source[0])[:, 2]) > 4


def test_no_form_of_modelnet(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ModelNet40 was not found in .*; expected modelnet40_train_8192pts"):
        open_points("modelnet40", "train", tmp_path)
    with pytest.raises(ValueError, match="but there is no folder given"):
        open_points("modelnet40", "train")
    with pytest.raises(ValueError, match="modelnet40 has no split 'val'; expected one of train, test"):
        open_points("modelnet40", "val", tmp_path)
    with pytest.raises(ValueError, match="there is no source of shapes 'modelnet'; did you mean modelnet40"):
        open_points("modelnet", "train", tmp_path)


@pytest.mark.parametrize(
    ("name", "stem"),
    [("scanobjectnn", "objectdataset_augmentedrot_scale75"), ("scanobjectnn_objects", "objectdataset")],
)
def test_scanobjectnn(tmp_path, name, stem):
    shapes = clouds(2, columns=3)
    write_h5(tmp_path / "main_split" / f"training_{stem}.h5", shapes, np.array([0, 14]))
    source = open_points(name, "train", tmp_path)
    assert [source.labels[source[i]["label"]] for i in range(2)] == ["bag", "toilet"]
    np.testing.assert_array_equal(read(source[1]), upright(shapes[1]))
    with pytest.raises(FileNotFoundError, match=rf"has no main_split/test_{stem}\.h5"):
        open_points(name, "test", tmp_path)


def test_damaged_hdf5_files(tmp_path):
    path = tmp_path / "main_split" / "test_objectdataset.h5"
    for data in (np.zeros((2, 5)), 3.0, np.full((2, 4, 3), b"a"), np.zeros((2, 4, 3), complex)):
        write_h5(path, data, np.zeros(2, int))
        with pytest.raises(
            ValueError, match=r"objectdataset\.h5 has .* data of shape \(.*\); expected \(shapes, points, 3"
        ):
            open_points("scanobjectnn_objects", "test", tmp_path)
    write_h5(path, np.zeros((2, 4, 3)), "no labels")
    with pytest.raises(ValueError, match=r"objectdataset\.h5 is no whole HDF5 file with data and label"):
        open_points("scanobjectnn_objects", "test", tmp_path)
    for content in (b"", b"x" * 3000):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"test_objectdataset\.h5 is no whole HDF5 file with data and label"):
            open_points("scanobjectnn_objects", "test", tmp_path)


def test_a_folder_of_shapes(tmp_path):
    for split, label in itertools.product(("train", "val"), ("b", "a")):
        (tmp_path / split / label).mkdir(parents=True)
        np.savetxt(tmp_path / split / label / "1.xyz", clouds(1)[0])
    source = open_points("shape_folder", "val", tmp_path, up="y")
    assert (source.labels, source[1]["label"], source[1]["up"], source[1]["id"]) == (("a", "b"), 1, "y", 1)
    with pytest.raises(ValueError, match="up is 'x'; expected 'y' or 'z'"):
        open_points("shape_folder", "val", tmp_path, up="x")


def test_solids_are_generated_once_and_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(solids, "PER_CLASS", {"train": 4, "test": 1})
    source = open_points("solids", "train", tmp_path / "a")
    assert (len(source), source.labels) == (40, solids.KINDS)
    files = sorted((tmp_path / "a" / "train").rglob("*.*"))
    assert {path.suffix for path in files} == set(solids.FORMATS)
    open_points("solids", "train", tmp_path / "b")
    for path in files:
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path
    monkeypatch.setattr(solids, "_generate", None)
    open_points("solids", "train", tmp_path / "a")
    assert open_points("solids", "train", tmp_path / "a", up="y")[0]["up"] == "z"  # of the user's files alone
    for example in (source[i] for i in range(40)):
        assert read(example).shape == (100, 3)
    one, other = (solids.random_solid("cone", np.random.default_rng(seed)) for seed in (0, 1))
    assert one.volume != pytest.approx(other.volume, rel=0.01)
