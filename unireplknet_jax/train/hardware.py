"""What the chips can do at most: for the utilization of a run and for `plan`."""

from typing import NamedTuple


class Chip(NamedTuple):
    """Peak numbers of one chip: bfloat16 FLOP/s, bytes of memory, bytes/s to it and to other chips (all links)."""

    bf16_flops: float
    memory: float
    memory_bandwidth: float
    link_bandwidth: float


# TPU: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, the system architecture tables (links: Gbit/s / 8).
# Memory is what the compiler lets a program use; it keeps some of the published 16, 32, 32 and 95 GiB to itself.
TPUS = {
    "v4": Chip(275e12, 30.75 * 2**30, 1228e9, 300e9),
    "v5e": Chip(197e12, 15.75 * 2**30, 819e9, 200e9),
    "v5p": Chip(459e12, 95.74 * 2**30, 2765e9, 600e9),
    "v6e": Chip(918e12, 31.25 * 2**30, 1640e9, 448e9),
}
# GPU: NVIDIA's data sheets, dense tensor-core numbers (the T4 has float16 only).
GPUS = {
    "H200": Chip(989e12, 141e9, 4.8e12, 900e9),
    "H100": Chip(989e12, 80e9, 3.35e12, 900e9),
    "A100": Chip(312e12, 80e9, 2.0e12, 600e9),
    "L4": Chip(121e12, 24e9, 0.3e12, 64e9),
    "T4": Chip(65e12, 16e9, 0.32e12, 32e9),
}
_TPU_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}


def chip_of(device_kind):
    """The chip behind jax's `device.device_kind`, or None where it is not in these tables."""
    if device_kind in _TPU_KINDS:
        return TPUS[_TPU_KINDS[device_kind]]
    words = device_kind.replace("-", " ").split()
    return next((chip for name, chip in GPUS.items() if name in words), None)
