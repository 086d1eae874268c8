"""Synthetic solids of ten kinds with random proportions, made by trimesh, as OFF, PLY, OBJ and STL files by turns.

A set to try the whole pipeline on, where a number says that learning works, and no more.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unireplknet_jax.data.made_up import cache_folder, make_split

KINDS = ("box", "bracket", "capsule", "cone", "cylinder", "ellipsoid", "prism", "table", "torus", "tube")
PER_CLASS = {"train": 60, "test": 20}
FORMATS = (".off", ".ply", ".obj", ".stl")


def solids_folder(folder: Path | None, split: str) -> Path:
    """The folder that holds the generated splits; the missing one of `split` is generated first (seconds).

    folder: None takes the user's cache folder. What is generated is a function of trimesh's version alone. Raises
    ImportError without trimesh.
    """
    folder = folder or cache_folder("solids")
    if split in PER_CLASS:
        doing = f"generating {PER_CLASS[split] * len(KINDS)} solids"
        make_split(folder / split, lambda path: _generate(path, split), doing)
    return folder


def random_solid(kind: str, rng: np.random.Generator):
    """A trimesh.Trimesh of one of `KINDS`, z upwards, with random proportions, turn about z and fineness."""
    try:
        from trimesh import creation, transformations, util
    except ImportError as error:
        raise ImportError(
            "generating solids needs trimesh, which is missing: pip install 'unireplknet_jax[points]'"
        ) from error
    a, b, c = rng.uniform(0.5, 1.5, 3)
    sections = int(rng.integers(16, 49))

    def box(size, middle):
        return creation.box(size, transformations.translation_matrix(middle))

    if kind == "box":
        mesh = creation.box((a, b, c))
    elif kind == "bracket":
        thickness = rng.uniform(0.15, 0.3)
        foot, back = (a, b, thickness), (thickness, b, c)
        mesh = util.concatenate([box(foot, (a / 2, 0, thickness / 2)), box(back, (thickness / 2, 0, c / 2))])
    elif kind == "capsule":
        mesh = creation.capsule(height=a + b, radius=rng.uniform(0.3, 0.6), count=(sections, sections))
    elif kind == "cone":
        mesh = creation.cone(radius=0.7 * a, height=b + c, sections=sections)
    elif kind == "cylinder":
        mesh = creation.cylinder(radius=0.7 * a, height=b + 0.5 * c, sections=sections)
    elif kind == "ellipsoid":
        mesh = creation.icosphere(subdivisions=3)
        mesh.apply_scale((a, b, c))
    elif kind == "prism":
        mesh = creation.cylinder(radius=0.7 * a, height=b + 0.5 * c, sections=3)
    elif kind == "table":
        leg = rng.uniform(0.08, 0.2)
        corners = [(x * (a - leg) / 2, y * (b - leg) / 2, -c / 2) for x in (-1, 1) for y in (-1, 1)]
        mesh = util.concatenate([box((a, b, leg), (0, 0, 0)), *(box((leg, leg, c), corner) for corner in corners)])
    elif kind == "torus":
        mesh = creation.torus(a, a * rng.uniform(0.2, 0.45), major_sections=sections, minor_sections=sections // 2)
    else:
        mesh = creation.annulus(r_min=a * rng.uniform(0.5, 0.85), r_max=a, height=b + c, sections=sections)
    mesh.apply_transform(transformations.rotation_matrix(rng.uniform(0, 2 * np.pi), (0, 0, 1)))
    return mesh


def _generate(folder, split):
    for label, kind in enumerate(KINDS):
        (folder / kind).mkdir(parents=True)
        for index in range(PER_CLASS[split]):
            mesh = random_solid(kind, np.random.default_rng([list(PER_CLASS).index(split), label, index]))
            mesh.export(str(folder / kind / f"{index:03}{FORMATS[index % len(FORMATS)]}"))
