"""TPU slices on a machine without a TPU: libtpu, the TPU compiler, describes them and compiles for them."""

import importlib.metadata
import importlib.util
import math
import os
import re

import jax

from unireplknet_jax.train.hardware import TPUS, Chip

_FLAT = ("v5e", "v6e")  # pods of at most 16x16 chips; libtpu would describe slices that nobody can rent
_ENVIRONMENT = {  # or libtpu looks for the machine it is on, waits for it and complains
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def open_slice(topology):
    """(the chip, a list of devices to compile for) of a slice such as "v5e:4x4"; the CPU stays the default backend.

    A v4 chip is two devices here, each with half of its numbers; a run of jax sees it as one.
    Raises ImportError without libtpu and ValueError for a slice that does not exist.
    """
    generation, sides = _parse(topology)
    libtpu_version()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    # A host of v5e and v6e has 2x2 chips unless the slice is smaller or odd.
    options = {"chips_per_host_bounds": (*sides, 1)[:3]} if sides[0] % 2 or sides[1] % 2 else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except Exception as error:  # libtpu refuses in several ways
        raise ValueError(f"libtpu knows no topology {topology} ({str(error).splitlines()[0]}).") from error
    per_chip = len(found.devices) // math.prod(sides)
    return Chip(*(value / per_chip for value in TPUS[generation])), list(found.devices)


def libtpu_version():
    """The version of libtpu; ImportError, with the command that installs it, where there is none."""
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError(
            f'this needs libtpu, the TPU compiler, which runs without a TPU: pip install "jax[tpu]=={jax.__version__}".'
        )
    return importlib.metadata.version("libtpu")


def _parse(topology):
    """("v5e", (4, 4)) of "v5e:4x4"."""
    generation, _, shape = topology.partition(":")
    if generation not in TPUS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", shape):
        raise ValueError(f"{topology!r} is no topology; expected a chip of {', '.join(TPUS)} and a shape: v5e:4x4.")
    sides = tuple(map(int, shape.split("x")))
    if len(sides) != (2 if generation in _FLAT else 3):
        expected = "two sides, as in v5e:4x4" if generation in _FLAT else "three sides, as in v5p:2x2x1"
        raise ValueError(f"{topology!r} is no topology: a {generation} slice has {expected}.")
    if generation in _FLAT and math.prod(sides) > 256:
        raise ValueError(f"{topology} has {math.prod(sides)} chips; a {generation} slice has at most 256, 16x16.")
    if generation in _FLAT and not {*sides} <= {1, 2, 4, 8, 16}:
        expected = "sides of 1, 2, 4, 8 or 16 chips, as in 4x8"
        raise ValueError(f"there is no slice {topology}; a {generation} slice has {expected}.")
    return generation, sides
