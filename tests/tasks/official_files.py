"""Official state dicts with random numbers, and what the tests do with them."""

import re

import flax
import numpy as np
import pytest

from unireplknet_jax.models import torch_names
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.models.torch_archive import write_state_dict
from unireplknet_jax.models.unireplknet import UniRepLKNet
from unireplknet_jax.tasks.checkpoint import load_checkpoint

TINY = {
    "depths": (1, 1, 2, 1),
    "dims": (8, 16, 24, 32),
    "kernel_sizes": ((3,), (7,), (7, 3), (7,)),
    "num_classes": 10,
}


def make_state(seed=0, **options):
    """A random official state dict, {torch name: array in PyTorch's layout}."""
    table = torch_names.name_table(abstract_variables(UniRepLKNet(**{**TINY, **options})))
    rng = np.random.default_rng(seed)
    state = {name: rng.standard_normal(entry.shape, np.float32) for name, entry in table.items()}
    return state | {name: np.array(7, np.int64) for name in torch_names.counters(table)}


def write(path, state):
    write_state_dict(path, state)
    return path


def leaves(variables):
    return {name: np.asarray(leaf) for name, leaf in flax.traverse_util.flatten_dict(variables, sep="/").items()}


def assert_equal(ours, expected):
    assert set(ours) == set(expected)
    for name, array in expected.items():
        assert ours[name].dtype == array.dtype, name
        assert ours[name].shape == array.shape, name
        assert ours[name].tobytes() == array.tobytes(), name


def refusal(path, **options):
    """The one sentence with which `path` is refused."""
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        load_checkpoint(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
