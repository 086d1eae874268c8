"""A small network with every kind of block, and weights under which mistakes show."""

import functools

import flax
import jax
import numpy as np

from unireplknet_jax.models.unireplknet import UniRepLKNet

# Few and different blocks: compiling them is what the suite costs.
SMALL = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), kernel_sizes=((3,), (13,), (0,), (7,)), num_classes=5)


def small_model(**options):
    return UniRepLKNet(**(SMALL | options))


@functools.cache
def compiled(module):
    """`module.apply` under jit, one for all tests that apply an equal module: (variables, *inputs) -> outputs."""
    return jax.jit(module.apply)


def lively(variables, seed=0):
    """The variables with random statistics and gammas: fresh ones hide most mistakes (their layer scale is 1e-6)."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1]
        if name == "var":
            return rng.uniform(0.5, 2, leaf.shape).astype(np.float32)
        if name == "gamma":  # of GRN, or a layer scale: 33 blocks must not amplify rounding
            return rng.normal(0.0 if "grn" in path else 0.3, 0.2, leaf.shape).astype(np.float32)
        if name == "scale":
            return rng.normal(1, 0.2, leaf.shape).astype(np.float32)
        spread = 0.3 / np.sqrt(leaf.size / leaf.shape[-1]) * 3 if name == "kernel" else 0.2
        return rng.normal(0, spread, leaf.shape).astype(np.float32)

    flat = flax.traverse_util.flatten_dict(variables)
    return flax.traverse_util.unflatten_dict({path: draw(path, leaf) for path, leaf in flat.items()})
