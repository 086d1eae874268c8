"""Shapes on the host: files of all formats, what is wrong with them, normalization, poses and their randomness."""

import io
import sys

import numpy as np
import pytest
import trimesh

from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.data.shapes.points import (
    MESHES,
    SUFFIXES,
    fixed_poses,
    in_unit_sphere,
    pose,
    random_pose,
    read_points,
    resized,
    upright,
    why_broken,
)


def rng(seed=0):
    return np.random.default_rng(seed)


CUBE = trimesh.creation.box((1, 2, 3))


@pytest.mark.parametrize("suffix", [".off", ".ply", ".obj", ".stl", ".OFF"])
def test_points_lie_on_the_surface_of_a_mesh_evenly(tmp_path, suffix):
    path = tmp_path / f"box{suffix}"
    CUBE.export(str(path), file_type=suffix[1:].lower())
    points = read_points(path, 4000, rng())
    assert points.shape == (4000, 3)
    assert points.dtype == np.float64
    on_face = np.abs(np.abs(points) - [0.5, 1, 1.5]) < 1e-5
    assert on_face.any(axis=1).all()
    # Pairs of faces of 6, 3 and 2 of 11 parts of the surface; four deviations.
    np.testing.assert_allclose(on_face.mean(axis=0), np.array([6, 3, 2]) / 11, atol=0.035)
    np.testing.assert_array_equal(points, read_points(path, 4000, rng()))
    assert not np.array_equal(points, read_points(path, 4000, rng(1)))


def test_an_obj_of_several_bodies_is_all_of_them(tmp_path):
    corners = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 9 0 0\nv 10 0 0\nv 9 1 0\n"
    (tmp_path / "two.obj").write_text(f"{corners}usemtl a\nf 1 2 3\nusemtl b\nf 4 5 6\n")
    points = read_points(tmp_path / "two.obj", 200, rng())
    assert 60 < (points[:, 0] > 5).sum() < 140


def test_files_of_points_are_read_as_they_are(tmp_path):
    points = rng().standard_normal((20, 6)).astype(np.float32)
    np.save(tmp_path / "a.npy", points)
    np.savez(tmp_path / "a.npz", points)
    np.savetxt(tmp_path / "a.txt", points, delimiter=",", fmt="%.9g")
    np.savetxt(tmp_path / "a.xyz", points, fmt="%.9g")
    np.savetxt(tmp_path / "a.csv", points, delimiter=", ", fmt="%.9g")
    np.savetxt(tmp_path / "a.pts", points, fmt="%.9g", header="20", comments="")
    np.savetxt(tmp_path / "without_a_count.pts", points, fmt="%.9g")
    trimesh.PointCloud(points[:, :3]).export(str(tmp_path / "a.ply"))
    for path in tmp_path.iterdir():
        found = read_points(path, 5, rng()).astype(np.float32)
        np.testing.assert_array_equal(found, points[:, :3], err_msg=path.name)
    assert {path.suffix for path in tmp_path.iterdir()} | {".off", ".obj", ".stl"} == {*SUFFIXES}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bytes_give_what_the_file_gives(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix in MESHES:
        CUBE.export(str(path))
    elif suffix in (".npy", ".npz"):
        (np.save if suffix == ".npy" else np.savez)(path, rng().standard_normal((20, 3)))
    else:
        np.savetxt(path, rng().standard_normal((20, 3)))
    content = path.read_bytes()
    found = read_points(EncodedFile(content, f"b{suffix}"), 50, rng())
    np.testing.assert_array_equal(found, read_points(path, 50, rng()))
    with pytest.raises(ValueError, match=rf"^b\{suffix} "):
        read_points(EncodedFile(content[: len(content) // 2] + b"x", f"b{suffix}"), 50, rng())


def test_bytes_without_an_ending_are_no_shape():
    with pytest.raises(ValueError, match=r"^upload is no shape that can be read; expected a file that ends in \.off"):
        read_points(EncodedFile(b"0 0 0", "upload"), 5, rng())


def test_a_shape_far_from_the_origin_keeps_its_digits(tmp_path):
    points = rng().standard_normal((20, 3))
    np.savetxt(tmp_path / "near.xyz", points, fmt="%.12f")
    np.savetxt(tmp_path / "far.xyz", points + np.array([4e5, 5.4e6, 100]), fmt="%.12f")  # in metres, on a map
    near, far = (in_unit_sphere(read_points(tmp_path / name, 5, rng())) for name in ("near.xyz", "far.xyz"))
    np.testing.assert_allclose(far, near, rtol=0, atol=1e-8)


def test_texts_as_other_programs_write_them(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf# x, y, z\r\n\r\n1,\t2, 3, 255\r\n4 5 6 0\r\n")
    np.testing.assert_array_equal(read_points(tmp_path / "a.txt", 5, rng()), [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    "text",
    [
        "x,y,z\n1,2,3\n4,5,6\n",
        'id;"X";Y;Z;name\n0;1;2;3;a\n1;4;5;6;b\n',
        "//Z Y X\n3 2 1\n6 5 4\n",
        "2\n1 2 3\n4 5 6\n",
        '"1.0","2","3"\n"4","5","6"\n',
        '"1,0","2,0","3,0"\n"4","5","6"\n',
        "1\u00a02\u00a03\r4 5 6\r",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_texts_with_headers_counts_and_quotes(text, encoding):
    found = read_points(EncodedFile(text.encode(encoding), "a.csv"), 5, rng())
    np.testing.assert_array_equal(found, [[1, 2, 3], [4, 5, 6]])


def test_fields_of_an_array_are_found_by_their_names(tmp_path):
    points = np.zeros(4, [("intensity", "f4"), ("z", "f4"), ("y", "f4"), ("x", "f4")])
    points["x"], points["y"], points["z"] = np.arange(12.0).reshape(3, 4)
    np.save(tmp_path / "a.npy", points)
    np.testing.assert_array_equal(read_points(tmp_path / "a.npy", 5, rng()), np.arange(12.0).reshape(3, 4).T)


def test_headers_that_count_are_read_in_all_forms(tmp_path):
    corners = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n"
    for name, text in (
        ("quad.off", f"OFF\n# of one face\n4 1 0 # 9 9\n{corners}4 0 1 2 3\n"),
        ("joined.off", f"OFF4 1 0\n{corners}4 0 1 2 3\n"),
        ("colours.off", "COFF\n3 1 0\n0 0 0 9 9 9 9\n1 0 0 9 9 9 9\n0 1 0 9 9 9 9\n3 0 1 2\n"),
    ):
        (tmp_path / name).write_text(text)
        assert read_points(tmp_path / name, 7, rng()).shape == (7, 3)


PLY = "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
QUADS = "OFF\n4 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n4 3 2 1 0"


def packed(*arrays):
    file = io.BytesIO()
    np.savez_compressed(file, *arrays)
    return file.getvalue()


def unpacked(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


NPY = unpacked(np.zeros((20, 3)))
BROKEN = {
    "cloud.ply": (PLY + "0 0 0\n1 1 1\n", "its header says 4 vertices and 0 faces, but it holds 2 and 0"),
    "faces.off": (
        "OFF\n3 2 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n",
        "header says 3 vertices and 2 faces, but it holds 3 and 1",
    ),
    "joined.off": (
        "# 2 faces\nCOFF3 2 0 # 0 edges\n0 0 0 9 9 9 9\n1 0 0 9 9 9 9\n0 1 0 9 9 9 9\n3 0 1 2\n",
        "header says 3 vertices and 2 faces, but it holds 3 and 1",
    ),
    "across.npy": (np.eye(3, 17), r"has numbers of shape \(3, 17\); expected three or more columns, one row a point"),
    "far.npy": (np.eye(3, dtype=np.float32) + 1e7, "all its 3 points lie in one place, as far as digits go"),
    "header.csv": ("a,b,c\n1,2,3\n", "'a,b,c' is no line of 3 or more numbers; leave out what is none"),
    "molecule.xyz": ("2\nwater\nH 1 2 3\nO 4 5 6\n", "'2' is no line of 3 or more numbers"),
    "half.npy": (NPY[:-9], "cannot be read as points .it is cut short; copy it again"),
    "bomb.npy": (NPY.replace(b"(20, 3)", b"(20000000000,3)   "), "cannot be read as points .it is"),
    "bomb.npz": (packed(np.zeros((9_000_000, 3))), "cannot be read as points .it claims to hold far more than"),
    "two.npz": (packed(np.zeros((4, 3)), np.zeros(3)), "cannot be read as points .it has 2 arrays, not one"),
    "half.npz": (packed(np.zeros((4, 3)))[:-30], "cannot be read as points .it is cut short or damaged; copy it"),
    "quads.off": (QUADS[:-6], "cannot be read as a mesh"),
    "fewer.off": (QUADS[:-8], "cannot be read as a mesh"),
    "page.ply": ("<!DOCTYPE html>", "is a web page and not the file itself; expected a shape"),
    "pointer.npy": ("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer and not the file itself"),
    "none.npy": (np.zeros((0, 3)), "holds no points"),
    "flat.npy": (np.zeros((4, 2)), r"has numbers of shape \(4, 2\); expected three or more columns"),
    "nan.npy": (np.array([[0, 0, 0], [1, 1, np.nan], [1, 0, np.inf]]), "has 2 of 3 points that are not finite"),
    "one.npy": (np.full((9, 3), 5.1), "is no shape: all its 9 points lie in one place"),
    "huge.npy": (np.eye(3) * 1e30, "is 1e\\+30 wide, which float32 cannot calculate with"),
    "words.npy": (np.array([["a", "b", "c"]]), "has numbers of shape"),
    "words.txt": ("1 2 x\n", "cannot be read as points .*'1 2 x' is no line of 3 or more numbers"),
    "ragged.txt": ("1 2 3\n4 5\n", "cannot be read as points .*'4 5' has 2 fields"),
    "empty.txt": ("", "is empty; expected a shape"),
    "blank.txt": ("\n", "holds no points"),
    "empty.npy": (b"", "is empty; expected a shape"),
    "code.npy": (np.array([{}], object), "cannot be read as points .it holds Python objects and no numbers; save num"),
    "text.off": ("no mesh at all\n", "cannot be read as a mesh"),
    "cut.off": ("OFF\n4 4 6\n0 0 0\n1 0 0\n", "cannot be read as a mesh"),
    "empty.stl": (b"", "is empty; expected a shape"),
    "cut.stl": (CUBE.export(file_type="stl")[:300], "cannot be read as a mesh .it holds no vertices, or was cut short"),
    "blank.obj": ("\n", "cannot be read as a mesh|holds no points"),
    "index.off": ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", "cannot be read as a mesh"),
    "line.off": ("OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n", "has 1 faces without any area"),
    "nan.off": ("OFF\n3 1 0\n0 0 0\n1 0 nan\n0 1 0\n3 0 1 2\n", "has 1 of 3 points that are not finite"),
    "shape.jpg": (b"x", "is no shape that can be read; expected a file that ends in .off, .ply"),
}


@pytest.mark.parametrize("head", ["OFF\n12 8 0\n", "OFF 12 8 0\n", "# a prism\nOFF12 8 0 # counts\n\n"])
def test_faces_of_any_number_of_corners(head, tmp_path):
    """A prism over a hexagon, whose two hexagons stand beside squares."""
    angles = np.arange(6) * np.pi / 3
    corners = [(x, y, z) for z in (0, 1) for x, y in zip(np.cos(angles), np.sin(angles), strict=True)]
    sides = [(i, (i + 1) % 6, (i + 1) % 6 + 6, i + 6) for i in range(6)]
    lines = [" ".join(map(str, row)) for row in corners]
    lines += [f"{len(face)} {' '.join(map(str, face))}" for face in ((5, 4, 3, 2, 1, 0), range(6, 12), *sides)]
    (tmp_path / "a.off").write_text(head + "\n".join(lines))
    points = read_points(tmp_path / "a.off", 20_000, np.random.default_rng(0))
    hexagon = 1.5 * np.sqrt(3)
    assert np.mean(points[:, 2] > 1 - 1e-6) == pytest.approx(hexagon / (2 * hexagon + 6), abs=0.01)
    assert np.abs(points[:, :2]).max() < 1 + 1e-6


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_one_sentence(tmp_path, name):
    content, message = BROKEN[name]
    path = tmp_path / name
    if isinstance(content, np.ndarray):
        np.save(path, content, allow_pickle=True)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=message) as caught:
        read_points(path, 10, rng())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert why_broken({"path": str(path), "up": "z"}) == str(caught.value)


def test_a_whole_file_is_not_broken_and_a_missing_one_is_no_value(tmp_path):
    CUBE.export(str(tmp_path / "a.off"))
    assert why_broken({"path": str(tmp_path / "a.off"), "up": "z"}) is None
    assert "is no shape" in why_broken({"path": "b", "up": "z", "points": np.zeros((3, 3))})
    with pytest.raises(FileNotFoundError, match=r"there is no file .*gone\.off"):
        read_points(tmp_path / "gone.off", 10, rng())


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    CUBE.export(str(tmp_path / "a.off"))
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(ImportError, match=r"needs trimesh, which is missing: pip install 'unireplknet_jax\[points\]'"):
        read_points(tmp_path / "a.off", 10, rng())


# Geometry.


def test_poses_are_the_originals(goldens):
    arrays = np.load(goldens / "points" / "points_misc.npz")
    found = np.stack([pose(theta, phi) for theta, phi in arrays["val_theta_phi"].astype(float)])
    np.testing.assert_allclose(found, arrays["val_rotation"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(fixed_poses(8), arrays["val_rotation"], rtol=0, atol=1e-6)
    turned = np.einsum("vij,nj->vni", found, arrays["val_in"])
    np.testing.assert_allclose(turned, arrays["val_rotated"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(fixed_poses(1), fixed_poses(8)[:1])
    votes = fixed_poses(40)
    assert votes.shape == (40, 3, 3)
    np.testing.assert_allclose(votes[0], pose(0, -0.4 * np.pi), atol=1e-6)
    np.testing.assert_allclose(votes[39], pose(1.8 * np.pi, -0.2 * np.pi), atol=1e-6)


def test_upright_and_in_the_unit_sphere():
    points = rng().standard_normal((50, 3)).astype(np.float32) * [1, 5, 2] + 7
    np.testing.assert_array_equal(upright(points, "z"), points)
    np.testing.assert_array_equal(upright(points, "y"), np.stack([-points[:, 2], -points[:, 0], points[:, 1]], axis=1))
    unit = in_unit_sphere(points)
    np.testing.assert_allclose(unit.mean(axis=0), 0, atol=1e-6)
    assert np.sqrt((unit**2).sum(axis=1)).max() == pytest.approx(1)
    ratio = np.ptp(unit, axis=0) / np.ptp(points, axis=0)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_resizing_leaves_out_or_repeats_all_alike():
    points = np.arange(30, dtype=np.float32).reshape(10, 3)
    fewer, more = resized(points, 6, rng()), resized(points, 25, rng())
    assert len(np.unique(fewer[:, 0])) == 6
    counts = np.unique(more[:, 0], return_counts=True)[1]
    assert (len(counts), counts.min(), counts.max()) == (10, 2, 3)


def test_random_poses_scale_after_turning_within_bounds():
    poses = np.stack([random_pose(rng(seed)) for seed in range(300)])
    scales = np.linalg.norm(poses, axis=2)  # a turn has rows of length 1
    assert 2 / 3 - 1e-6 <= scales.min() < 0.7 < 1.4 < scales.max() <= 1.5 + 1e-6
    turns = poses / scales[..., None]
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (300, 3, 3)), atol=1e-5)
    up = turns[:, 2, 2]  # cos(phi)
    assert np.cos(0.4 * np.pi) - 1e-6 <= up.min() < 0.35 < 0.78 < up.max() <= np.cos(0.2 * np.pi) + 1e-6
    np.testing.assert_allclose(np.linalg.norm(random_pose(rng(), None), axis=1), 1, atol=1e-6)
