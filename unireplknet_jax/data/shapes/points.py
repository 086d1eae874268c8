"""Sets of points on the host: shapes read from files, sampled on their surface, normalized, rotated and scaled.

Points are (N, 3) with the third axis upwards, in float64 until they are normalized. Rules of normalization and
rotation: the original's Point/dataset/modelnet.py, util/rotate.py and dataset/data_transforms.py.
"""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from unireplknet_jax.data.arrays import read_array, read_only_array
from unireplknet_jax.data.files import EncodedFile, file_name, misplaced, opened
from unireplknet_jax.data.tables import rows_of_numbers
from unireplknet_jax.data.text import lines_of

MESHES = (".off", ".ply", ".obj", ".stl")
CLOUDS = (".npy", ".npz", ".txt", ".xyz", ".csv", ".pts")
SUFFIXES = MESHES + CLOUDS
UPWARDS = ("y", "z")
# (theta, phi) in units of pi: the original's validation, and its test, which averages over all.
VALIDATION_ANGLES = tuple((0.1 + 0.2375 * k, -0.35) for k in range(8))
TEST_ANGLES = tuple(itertools.product((0.2 * k for k in range(10)), (-0.4, -1 / 3, -4 / 15, -0.2)))
ANGLES = {1: VALIDATION_ANGLES[:1], 8: VALIDATION_ANGLES, 40: TEST_ANGLES}


# ---- files


def read_points(source: str | os.PathLike | EncodedFile, count: int, rng: np.random.Generator) -> np.ndarray:
    """(M, 3) float64: `count` points on the surface of a mesh, or all points of a file without faces, as they lie.

    source: the path of a file, or its bytes with a name, whose ending tells their format.
    Meshes (OFF, PLY, OBJ, STL) are read by trimesh, of clouds NPY and NPZ (one array) and texts with one point a line
    (`tables.rows_of_numbers`), whose columns are x, y, z and others, such as normals, or have a header that names them.
    Raises FileNotFoundError where there is no file, ImportError without trimesh, and ValueError, one sentence, for a
    file that cannot be read or holds no shape.
    """
    path = file_name(source, "a shape")
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path} is no shape that can be read; expected a file that ends in {', '.join(SUFFIXES)}")
    if not (isinstance(source, EncodedFile) or os.path.isfile(path)):
        raise FileNotFoundError(f"there is no file {path}")
    with opened(source) as file:
        what = misplaced(file.read(512))
    if what:
        raise ValueError(f"{path} is {what}; expected a shape")
    if suffix in MESHES:
        return _mesh_points(source, path, suffix, count, rng)
    return checked(_array_points(source, path, suffix), path)


def checked(points: np.ndarray, name: str) -> np.ndarray:
    """Points as (N, 3) float64; ValueError, with their name, where they are not a shape that a picture can show."""
    points = np.asarray(points)
    rows, columns = points.shape if points.ndim == 2 else (0, 0)
    if columns < 3 or columns > max(rows, 16) or points.dtype.kind not in "fiu":
        raise ValueError(f"{name} has numbers of shape {points.shape}; expected three or more columns, one row a point")
    if not len(points):
        raise ValueError(f"{name} holds no points")
    digits = np.finfo(points.dtype if points.dtype.kind == "f" else np.float64).eps
    points = points[:, :3].astype(np.float64)
    broken = int(np.sum(~np.isfinite(points).all(axis=1)))
    if broken:
        raise ValueError(f"{name} has {broken:,} of {len(points):,} points that are not finite; remove them")
    spread, size = np.ptp(points, axis=0).max(), np.abs(points).max()
    if spread <= 16 * digits * size:
        raise ValueError(f"{name} is no shape: all its {len(points):,} points lie in one place, as far as digits go")
    if not 1e-18 < spread < 1e18:
        raise ValueError(f"{name} is {spread:.3g} wide, which float32 cannot calculate with; scale it to about 1")
    return points


def _mesh_points(source, path, suffix, count, rng):
    try:
        import trimesh
    except ImportError as error:
        raise ImportError(
            "reading meshes needs trimesh, which is missing: pip install 'unireplknet_jax[points]'"
        ) from error
    try:
        if suffix == ".off":
            with opened(source) as file:
                scene = trimesh.load_scene(io.BytesIO(_in_triangles(file.read())), file_type="off", process=False)
        elif isinstance(source, EncodedFile):
            scene = trimesh.load_scene(opened(source), file_type=suffix[1:], process=False)
        else:  # which may name other files beside it
            scene = trimesh.load_scene(path, process=False)
        parts = scene.dump()
        vertices = np.concatenate([np.asarray(part.vertices) for part in parts] or [np.zeros((0, 3))])
        meshes = [part for part in parts if len(getattr(part, "faces", ()))]
        mesh = trimesh.util.concatenate(meshes) if meshes else None
    except OSError:
        raise
    except Exception as error:  # its readers fail in as many ways as files are broken
        raise ValueError(
            f"{path} cannot be read as a mesh (it is damaged, or its reader does not know its form); export it again"
        ) from error
    if not len(vertices):
        raise ValueError(f"{path} cannot be read as a mesh (it holds no vertices, or was cut short)")
    declared = _declared(source, suffix)
    found = len(vertices), len(mesh.faces) if mesh else 0
    if any(there < said for there, said in zip(found, declared, strict=True)):
        raise ValueError(
            f"{path} cannot be read as a mesh (its header says {declared[0]:,} vertices and {declared[1]:,} faces, but "
            f"it holds {found[0]:,} and {found[1]:,})"
        )
    points = checked(vertices, path)
    if mesh is None:
        return points
    if mesh.faces.min() < 0 or mesh.faces.max() >= len(mesh.vertices):
        raise ValueError(f"{path} cannot be read as a mesh (a face names a vertex that is not there)")
    if not 0 < mesh.area < np.inf:
        raise ValueError(f"{path} has {len(mesh.faces):,} faces without any area, on which no points can lie")
    return trimesh.sample.sample_surface(mesh, count, seed=int(rng.integers(2**32)))[0]


def _in_triangles(data):
    """An OFF file whose faces of more than four corners are fans of triangles, which trimesh does not make of them.

    Raises ValueError for one that ends in the midst of its faces, which trimesh passes over if they are no triangles.
    """
    lines = [line for line in (re.sub(rb"#.*", b"", line).strip() for line in data.splitlines()) if line]
    lines = re.sub(rb"^C?OFF\s*", b"", b"\n".join(lines)).split(b"\n")
    try:
        vertices, faces = map(int, lines[0].split()[:2])
        corners = [line.split() for line in lines[1 + vertices : 1 + vertices + faces]]
        sizes = [int(line[0]) for line in corners]
        corners = [line[1 : 1 + size] for size, line in zip(sizes, corners, strict=True)]
    except (IndexError, ValueError):  # damaged, which trimesh says
        return data
    if sizes != [*map(len, corners)] or (len(sizes) < faces and max(sizes, default=0) > 3):
        raise ValueError("it ends in the midst of its faces")
    if max(sizes, default=0) < 5:
        return data
    fans = [[b"3", face[0], *pair] for face in corners for pair in itertools.pairwise(face[1:])]
    head = f"OFF\n{vertices} {len(fans)} 0".encode()
    return b"\n".join([head, *lines[1 : 1 + vertices], *map(b" ".join, fans)])


def _declared(source, suffix):
    """How many vertices and faces the header of an OFF or PLY file says there are; trimesh passes over missing ones."""
    with opened(source) as file:
        head = file.read(1 << 14).partition(b"end_header")[0]
    if suffix == ".off":
        counts = re.match(rb"\s*C?OFF\s*(\d+)\s+(\d+)", re.sub(rb"#.*", b"", head))
        return tuple(map(int, counts.groups())) if counts else (0, 0)
    said = dict(re.findall(rb"^element\s+(vertex|face)\s+(\d+)", head, re.MULTILINE)) if head[:3] == b"ply" else {}
    return tuple(int(said.get(kind, 0)) for kind in (b"vertex", b"face"))


def _array_points(source, path, suffix):
    try:
        if suffix in (".npy", ".npz"):
            with opened(source) as file:
                found = read_array(file) if suffix == ".npy" else read_only_array(file)
            fields = found.dtype.names or ()
            return np.stack([found[axis] for axis in "xyz"], axis=-1) if {*"xyz"} <= {*fields} else found
        return _points_in_text(source, path)
    except OSError:
        raise
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as points ({str(error).rstrip('.')})") from error


def _points_in_text(source, path):
    """(N, 3) of a text with one point a line, after comments, the number of points and a header, if there are any."""
    lines = [line.removeprefix("//").strip() for line in lines_of(source, "one point a line")]
    lines = [line for line in lines if line and not line.startswith("#")]
    if lines and lines[0].isdecimal() and (int(lines[0]) == len(lines) - 1 or path.lower().endswith(".pts")):
        del lines[0]
    columns, header = range(3), re.split(r"[\s;,]+", lines[0].replace('"', "").lower()) if lines else []
    if {*"xyz"} <= {*header}:
        columns = [header.index(axis) for axis in "xyz"]
        del lines[0]
    return np.array(rows_of_numbers(lines, path, columns) if lines else np.zeros((0, 3)))


def points_of(example: Mapping[str, Any], count: int, rng: np.random.Generator) -> np.ndarray:
    """The points (M, 3) of an example, upright, as `read_points` gives them; ValueError where it is broken.

    example: {"path", "up"}, with "points" (N, 3) or the bytes "file" where they are at hand.
    """
    if "points" in example:
        points = checked(example["points"], example["path"])
    else:
        points = read_points(example.get("file", example["path"]), count, rng)
    return upright(points, example["up"])


def why_broken(example: dict[str, Any]) -> str | None:
    """The sentence that names the file of an example and says why it cannot be used; None where it can."""
    try:
        points_of(example, 1, np.random.default_rng(0))
    except ValueError as error:
        return str(error)
    return None


# ---- geometry


def upright(points: np.ndarray, up: str) -> np.ndarray:
    """Points (N, 3) whose axis `up`, "y" or "z", points upwards, with z upwards: (x, y, z) becomes (-z, -x, y)."""
    return points if up == "z" else np.stack([-points[:, 2], -points[:, 0], points[:, 1]], axis=1)


def in_unit_sphere(points: np.ndarray) -> np.ndarray:
    """Points (N, 3) around their mean, the farthest at the distance 1."""
    points = points - points.mean(axis=0)
    return points / np.sqrt(np.max(np.sum(points**2, axis=1)))


def resized(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 3): all points in another order, some left out, or all repeated as often as needed."""
    order = [rng.permutation(len(points)) for _ in range(-(-count // len(points)))]
    return points[np.concatenate(order)[:count]]


def pose(theta: float, phi: float) -> np.ndarray:
    """(3, 3) float32: a turn by -phi about the horizontal axis (sin theta, -cos theta, 0), then by -theta about z.

    Radians. What stands upright is looked at from above where phi is negative.
    """
    sideways = _turn(np.array([np.sin(theta), -np.cos(theta), 0.0]), -phi)
    return (_turn(np.array([0.0, 0.0, 1.0]), -theta) @ sideways).astype(np.float32)


def _turn(axis, angle):
    """The matrix of a turn about a unit vector (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)


def fixed_poses(count: int) -> np.ndarray:
    """(count, 3, 3): the original's 8 of validation, 40 of test, or the first of them."""
    return np.stack([pose(theta * np.pi, phi * np.pi) for theta, phi in ANGLES[count]])


def random_pose(rng: np.random.Generator, scale: tuple[float, float] | None = (2 / 3, 3 / 2)) -> np.ndarray:
    """(3, 3) float32: a random pose, and then a random scale along each axis.

    Theta in (0.04, 1.94) pi, phi in (-0.4, -0.2) pi. The original's shift, by up to 0.2, has no effect: clouds fill
    their pictures wherever they are.
    """
    turned = pose(rng.uniform(0.04, 1.94) * np.pi, rng.uniform(-0.4, -0.2) * np.pi)
    return turned if scale is None else (turned * rng.uniform(*scale, 3)[:, None]).astype(np.float32)
