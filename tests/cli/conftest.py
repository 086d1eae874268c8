import logging

import jax
import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.tasks.base import get_task
from unireplknet_jax.tasks.checkpoint import Checkpoint, save_checkpoint


@pytest.fixture(scope="module", autouse=True)
def always_quick_compilation(quick_compilation):
    """Compiling takes most of the time here, and their networks are too small to gain from optimization."""


@pytest.fixture(scope="module", autouse=True)
def silent_waits():
    """Lines that say what a slow machine waits for come or do not: these tests read every line of stderr."""
    logger = logging.getLogger("unireplknet_jax.models.program")
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def tiny(goldens):
    """An official file in training form: 10 classes, random weights that are far from trivial."""
    return str(goldens / "tiny_afp.pth")


@pytest.fixture(scope="session")
def random_variables():
    """(model, seed) -> variables in which scales and variances are near 1 and nothing is 0, so that a mistake shows."""

    def make(model, seed):
        rng = np.random.default_rng(seed)

        def fill(path, leaf):
            if path[-1].key == "kernel":
                return rng.normal(size=leaf.shape, scale=np.prod(leaf.shape[:-1]) ** -0.5).astype(np.float32)
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

        return jax.tree_util.tree_map_with_path(fill, abstract_variables(model))

    return make


@pytest.fixture(scope="session")
def small(random_variables, tmp_path_factory):
    """A directory of ours in training form: 10 classes, images of 32 pixels, quick to compile."""
    path = tmp_path_factory.mktemp("checkpoint") / "small"
    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8), "kernel_sizes": ((3,), (7,), (0,), (3,))}
    task = get_task("classification", model={**sizes, "num_classes": 10}, image_size=32)
    save_checkpoint(path, Checkpoint(task, random_variables(task.module(), seed=1), merged=False))
    return str(path)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Eleven different pictures, as file names."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = [folder / f"{i:02d}.png" for i in range(11)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
        coarse.resize((80, 72), Image.Resampling.BILINEAR).save(path)
    return list(map(str, paths))
