import pytest

from unireplknet_jax.train.hardware import GPUS, TPUS, chip_of


@pytest.mark.parametrize(
    ("kind", "name"), [("TPU v4", "v4"), ("TPU v5 lite", "v5e"), ("TPU v5", "v5p"), ("TPU v5p", "v5p")]
)
def test_a_tpu_is_found_by_what_jax_calls_it(kind, name):
    assert chip_of(kind) is TPUS[name]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA L4", "L4"),
        ("Tesla T4", "T4"),
    ],
)
def test_a_gpu_is_found_by_the_words_of_its_name(kind, name):
    assert chip_of(kind) is GPUS[name]


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA L40S", "NVIDIA GeForce RTX 4090", "TPU v2", ""])
def test_other_devices_are_unknown(kind):
    assert chip_of(kind) is None


def test_the_peaks_are_the_published_ones():
    """bfloat16 TFLOP/s, GB/s to memory and out of the chip: cloud.google.com/tpu/docs/v5e and v6e."""
    assert TPUS["v5e"].bf16_flops == 197e12
    assert (TPUS["v5e"].memory_bandwidth, TPUS["v5e"].link_bandwidth) == (819e9, 200e9)
    assert (TPUS["v6e"].bf16_flops, TPUS["v6e"].memory_bandwidth, TPUS["v6e"].link_bandwidth) == (
        918e12,
        1638e9,
        400e9,
    )
