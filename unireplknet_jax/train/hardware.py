"""What the chips can do at most: for the utilization of a run and for `plan`."""

from typing import NamedTuple


class Chip(NamedTuple):
    """Peak numbers of one chip: bfloat16 FLOP/s, bytes of memory, bytes/s to it and to other chips (all links, out)."""

    bf16_flops: float
    memory: float
    memory_bandwidth: float
    link_bandwidth: float


# TPU: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, the system architecture tables (links: half of "bidirectional").
# Memory is what libtpu 0.0.42 lets a program use, as it says when it refuses one; published are 32, 16, 95 and 32 GB.
TPUS = {
    "v4": Chip(275e12, 30.5 * 2**30, 1228e9, 300e9),
    "v5e": Chip(197e12, 15.75 * 2**30, 819e9, 200e9),
    "v5p": Chip(459e12, 95.74 * 2**30, 2765e9, 600e9),
    "v6e": Chip(918e12, 31.25 * 2**30, 1638e9, 400e9),
}
# GPU: NVIDIA's data sheets, dense tensor-core numbers (the T4 has float16 only). Names are words of `device_kind`; of
# several that fit the first counts.
GPUS = {
    "H200 NVL": Chip(835e12, 141e9, 4.8e12, 450e9),
    "H200": Chip(989e12, 141e9, 4.8e12, 450e9),
    "H100 NVL": Chip(835e12, 94e9, 3.9e12, 300e9),
    "H100 PCIe": Chip(756e12, 80e9, 2.0e12, 300e9),
    "H100": Chip(989e12, 80e9, 3.35e12, 450e9),
    "A100 40GB": Chip(312e12, 40e9, 1.555e12, 300e9),
    "A100": Chip(312e12, 80e9, 2.0e12, 300e9),
    "L4": Chip(121e12, 24e9, 0.3e12, 32e9),
    "T4": Chip(65e12, 16e9, 0.32e12, 16e9),
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
    words = {*device_kind.replace("-", " ").split()}
    return next((chip for name, chip in GPUS.items() if words.issuperset(name.split())), None)
