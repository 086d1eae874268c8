"""Every formulation against float64, on shapes that stress padding; and what each does on a mesh."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from meshes import mesh_of

from unireplknet_jax.ops import depthwise, depthwise_toeplitz
from unireplknet_jax.ops.depthwise import (
    IMPLEMENTATIONS,
    crop_kernel,
    depthwise_conv2d,
    prepare_kernel,
    prepared_conv2d,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMPLS = ("auto", *IMPLEMENTATIONS)
# Of the forms on a mesh two are quick: the partitioner splits what "auto" takes here, "fft" splits itself.
SPLIT = [pytest.param(impl, marks=() if impl in ("auto", "fft") else pytest.mark.slow) for impl in IMPLS]
FORMS, SPECTRA, TILED = tuple(IMPLEMENTATIONS), ("fft", "dft"), ("toeplitz", "toeplitz_tpu")
# (n, h, w, c), kernel size, dilation: the network's shapes, odd and thin maps, kernels larger than the map, one pixel;
# and the forms whose test is quick: all those that have code for what is special, and "auto" where it takes each once.
SHAPES = [
    ((2, 14, 14, 8), (3, 3), 1, ("auto",)),
    ((2, 14, 14, 8), (13, 13), 1, IMPLS),
    ((2, 7, 7, 8), (13, 13), 1, FORMS),
    ((2, 9, 4, 3), (7, 7), 2, FORMS),
    ((1, 2, 11, 5), (3, 3), 5, ("shift", *SPECTRA)),
    ((3, 5, 6, 1), (5, 3), 1, FORMS),
    ((2, 3, 2, 4), (17, 17), 1, ()),
    ((1, 1, 1, 6), (13, 13), 1, (*SPECTRA, *TILED)),
    ((2, 28, 28, 4), (13, 13), 1, TILED),
    ((1, 24, 12, 4), (7, 7), 2, TILED),
    ((1, 44, 41, 2), (9, 9), 1, ("auto",)),
]
CASES = [
    pytest.param(*case, impl, marks=() if impl in quick else pytest.mark.slow)
    for *case, quick in SHAPES
    for impl in IMPLS
]
# "shift" alone has other code for a small kernel; "auto" takes the others.
BOTH_SIZES = [
    pytest.param((k, k), impl, marks=() if impl == "shift" or (impl in FORMS and k == 13) else pytest.mark.slow)
    for k in (3, 13)
    for impl in IMPLS
]
# Of the largest value. An FFT spreads the rounding of the largest over all outputs; bfloat16 keeps 8 bits.
TOLERANCE = {"xla": 1e-6, "shift": 1e-6, "fft": 5e-6, "dft": 1e-6, "toeplitz": 1e-6, "toeplitz_tpu": 1e-6, "auto": 5e-6}


def reference(x, kernel, g, dilation):
    """Output, input gradient and kernel gradient by plain loops in float64."""
    x, kernel, g = (np.asarray(a, np.float64) for a in (x, kernel, g))
    (_, h, w, _), (kh, kw) = x.shape, kernel.shape[:2]
    rows, columns = kh // 2 * dilation, kw // 2 * dilation
    padded = np.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    y, dx, dkernel = np.zeros_like(x), np.zeros_like(padded), np.zeros_like(kernel)
    for i in range(kh):
        for j in range(kw):
            seen = (slice(None), slice(i * dilation, i * dilation + h), slice(j * dilation, j * dilation + w))
            y += padded[seen] * kernel[i, j, 0]
            dx[seen] += g * kernel[i, j, 0]
            dkernel[i, j, 0] = np.sum(padded[seen] * g, axis=(0, 1, 2))
    return y, dx[:, rows : rows + h, columns : columns + w], dkernel


def inputs(shape, kernel_size, dtype=jnp.float32):
    shapes = (shape, (*kernel_size, 1, shape[-1]), shape)
    return tuple(np.asarray(normal((seed, *shape, *kernel_size), *s)).astype(dtype) for seed, s in enumerate(shapes))


def forward_and_gradients(x, kernel, g, **options):
    y, pullback = jax.vjp(lambda x, kernel: depthwise_conv2d(x, kernel, **options), x, kernel)
    return y, *pullback(g)


@pytest.mark.parametrize(("shape", "size", "dilation", "impl"), CASES)
def test_output_and_both_gradients_equal_float64(shape, size, dilation, impl):
    x, kernel, g = inputs(shape, size)
    run = jax.jit(lambda *a: forward_and_gradients(*a, dilation=dilation, impl=impl))
    for ours, expected in zip(run(x, kernel, g), reference(x, kernel, g, dilation), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE[impl] * np.abs(expected).max())


@pytest.mark.parametrize(("size", "impl"), BOTH_SIZES)
def test_bfloat16_accumulates_in_float32(impl, size):
    x, kernel, g = inputs((2, 14, 14, 8), size, jnp.bfloat16)
    results = jax.jit(lambda *a: forward_and_gradients(*a, impl=impl))(x, kernel, g)
    for ours, expected in zip(results, reference(x, kernel, g, 1), strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), expected, rtol=0, atol=2**-8 * np.abs(expected).max())


@pytest.mark.parametrize(("size", "impl"), BOTH_SIZES)
def test_no_step_of_a_program_adds_up_in_bfloat16(impl, size):
    """Read off the programs: a CPU widens what it is told to add in bfloat16, so its numbers cannot tell."""
    x, kernel, g = inputs((2, 14, 14, 8), size, jnp.bfloat16)
    traced = jax.jit(lambda *a: forward_and_gradients(*a, impl=impl)).trace(x, kernel, g)
    for platform in ("cpu", "tpu"):
        lines = traced.lower(lowering_platforms=(platform,)).as_text().splitlines()
        adding = [line for line in lines if re.search(r"stablehlo\.(convolution|dot_general|reduce|fft|add)\b", line)]
        results = [re.split("->|:", line)[-1] for line in adding]
        types = {kind for result in results for kind in re.findall(r"(bf16|f32|i32)>", result)}
        assert types - {"i32"} == {"f32"}, adding
    for name in IMPLEMENTATIONS if impl == "auto" else (impl,):
        form = IMPLEMENTATIONS[name]
        assert jax.eval_shape(lambda x, g, f=form: f.kernel_gradient(x, g, kernel.shape, 1), x, g).dtype == jnp.float32


@pytest.mark.parametrize("impl", IMPLS)
def test_works_under_vmap_and_remat(impl):
    x, kernel, _ = inputs((2, 6, 6, 4), (7, 7))
    body = jax.checkpoint(lambda row, k: jnp.sum(jnp.sin(depthwise_conv2d(row[None], k, impl=impl))))

    @jax.jit
    def gradients(kernel):
        plain = jax.grad(lambda k: jnp.sum(jnp.sin(depthwise_conv2d(x, k, impl=impl))))(kernel)
        return plain, jax.grad(lambda k: jnp.sum(jax.vmap(body, in_axes=(0, None))(x, k)))(kernel)

    plain, mapped = gradients(kernel)
    np.testing.assert_allclose(mapped, plain, rtol=0, atol=5e-6 * np.abs(plain).max())


def collectives(compiled):
    names = ("all-gather", "all-reduce", "all-to-all", "collective-permute")
    return {name: len(re.findall(rf" {name}(?:-start)?\(", compiled.as_text())) for name in names}


@pytest.mark.parametrize("impl", SPLIT)
@pytest.mark.parametrize(("size", "dilation"), [(3, 2), (13, 1)])
def test_a_sharded_step_moves_nothing_but_the_kernel_gradient(impl, size, dilation):
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    rows, whole = NamedSharding(mesh, PartitionSpec(("data", "fsdp"))), NamedSharding(mesh, PartitionSpec())
    x, kernel, g = inputs((16, 14, 14, 8), (size, size))
    expected = reference(x, kernel, g, dilation)
    run = jax.jit(
        lambda *a: forward_and_gradients(*a, dilation=dilation, impl=impl),
        in_shardings=(rows, whole, rows),
        out_shardings=(rows, rows, whole),
    )
    with jax.set_mesh(mesh):
        compiled = run.lower(x, kernel, g).compile()
        results = compiled(x, kernel, g)
    assert collectives(compiled) == {"all-gather": 0, "all-reduce": 1, "all-to-all": 0, "collective-permute": 0}
    for ours, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=TOLERANCE[impl] * np.abs(wanted).max())


@pytest.mark.parametrize("impl", SPLIT)
@pytest.mark.parametrize("size", [3, 13])
def test_gradients_are_right_inside_a_shard_map_of_the_users_own(impl, size):
    mesh = jax.make_mesh((8,), ("any",), axis_types=(AxisType.Auto,))
    x, kernel, g = inputs((8, 14, 14, 4), (size, size))

    def local(x, kernel, g):
        return forward_and_gradients(x, kernel, g, impl=impl)

    rows, whole = PartitionSpec("any"), PartitionSpec()
    run = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(rows, whole, rows), out_specs=(rows, rows, whole)))
    for ours, wanted in zip(run(x, kernel, g), reference(x, kernel, g, 1), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=TOLERANCE[impl] * np.abs(wanted).max())


@pytest.mark.parametrize("impl", SPLIT)
@pytest.mark.parametrize("axis", ["data", "stage"])
def test_gradients_are_right_inside_a_shard_map_that_leaves_an_axis_of_the_batch_to_us(axis, impl):
    mesh = jax.make_mesh((4, 2), (axis, "fsdp"), axis_types=(AxisType.Auto,) * 2)
    x, kernel, g = inputs((8, 6, 6, 4), (5, 5))

    def local(x, kernel, g):
        return forward_and_gradients(x, kernel, g, impl=impl)

    rows, whole = PartitionSpec(axis), PartitionSpec()
    specs = dict(in_specs=(rows, whole, rows), out_specs=(rows, rows, whole))
    run = jax.jit(jax.shard_map(local, mesh=mesh, axis_names={axis}, **specs))
    for ours, wanted in zip(run(x, kernel, g), reference(x, kernel, g, 1), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=TOLERANCE[impl] * np.abs(wanted).max())


@pytest.mark.parametrize("impl", IMPLS)
def test_a_kernel_that_is_split_over_the_devices_moves_and_the_batch_does_not(impl):
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    rows, channels = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in (("fsdp",), (None, None, None, "fsdp")))
    x, kernel, _ = inputs((8, 14, 14, 8), (3, 3))
    run = jax.jit(lambda *a: depthwise_conv2d(*a, impl=impl), in_shardings=(rows, channels), out_shardings=rows)
    with jax.set_mesh(mesh):
        text = run.lower(x, kernel).compile().as_text()
    moved = re.findall(r"= \w+\[([\d,]+)\]\S* (?:all-gather|all-to-all|collective-permute)", text)
    assert moved
    assert all(np.prod([int(n) for n in shape.split(",")]) < x.size / 2 for shape in moved), moved


@pytest.mark.parametrize("impl", SPLIT)
@pytest.mark.parametrize(("axes", "n"), [(("data", "fsdp"), 8), (("data", "fsdp"), 4), (("data", "model"), 8)])
def test_a_batch_split_over_some_axes_only_gets_the_right_gradients(axes, n, impl):
    """XLA's partitioner doubles the kernel gradient of a grouped convolution here."""
    mesh = jax.make_mesh((4, 2), axes, axis_types=(AxisType.Auto,) * 2)
    rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    x, kernel, g = inputs((n, 6, 6, 4), (5, 5))
    run = jax.jit(
        lambda *a: forward_and_gradients(*a, impl=impl),
        in_shardings=(rows, whole, rows),
        out_shardings=(rows, rows, whole),
    )
    with jax.set_mesh(mesh):
        results = run(x, kernel, g)
    for ours, wanted in zip(results, reference(x, kernel, g, 1), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=TOLERANCE[impl] * np.abs(wanted).max())


def test_explicit_mesh_axes_are_refused_in_one_sentence():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    x, kernel, g = inputs((8, 6, 6, 4), (5, 5))
    with jax.set_mesh(mesh), pytest.raises(ValueError, match="of type Explicit"):
        jax.jit(forward_and_gradients)(x, kernel, g)


@pytest.mark.skipif(jax.__version_info__ >= (0, 12), reason="XLA splits the FFT by itself from jax 0.12 on")
def test_without_its_shard_map_the_fft_would_gather_the_batch(monkeypatch):
    """The twin of the test above: what it guards against does happen."""
    monkeypatch.setattr("unireplknet_jax.ops.depthwise.over_batch_shards", lambda f, a, b, **_: f(*a, *b))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    x, kernel, _ = inputs((16, 14, 14, 8), (13, 13))
    run = jax.jit(lambda x, k: depthwise_conv2d(x, k, impl="fft"), in_shardings=(rows, whole), out_shardings=rows)
    with jax.set_mesh(mesh):
        assert collectives(run.lower(x, kernel).compile())["all-gather"] > 0


@pytest.mark.parametrize("impl", ["fft", "xla"])
def test_a_batch_that_the_mesh_does_not_divide_still_works(impl):
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    x, kernel, g = inputs((3, 8, 8, 4), (13, 13))

    def run(x, kernel, g):
        x, g = (jax.lax.with_sharding_constraint(a, rows) for a in (x, g))  # 1, 1, 1 and 0 rows
        return forward_and_gradients(x, kernel, g, impl=impl)

    with jax.set_mesh(mesh):
        results = jax.jit(run)(x, kernel, g)
    for ours, expected in zip(results, reference(x, kernel, g, 1), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=5e-6 * np.abs(expected).max())


def test_the_largest_map_of_the_networks():
    x, kernel, g = inputs((1, 224, 224, 2), (13, 13))
    for ours, expected in zip(jax.jit(forward_and_gradients)(x, kernel, g), reference(x, kernel, g, 1), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=5e-6 * np.abs(expected).max())


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize(("side", "size", "dilation"), [(14, 13, 1), (7, 13, 1), (28, 13, 1), (14, 3, 2), (70, 13, 1)])
def test_a_prepared_kernel_gives_the_same_numbers(platform, side, size, dilation):
    x, kernel, _ = inputs((2, side, side, 8), (size, size))
    options = dict(dtype=x.dtype, platform=platform, dilation=dilation)
    chosen = depthwise.choose(platform, "prepared", kernel.shape, (side, side), dilation=dilation)
    prepare = jax.jit(lambda kernel: prepare_kernel(kernel, (side, side), **options))
    prepared = jax.eval_shape(prepare, kernel)
    assert list(prepared) == ([chosen] if hasattr(IMPLEMENTATIONS[chosen], "prepare") else [])
    if prepared:

        @jax.jit
        def both(x, kernel):
            ours = prepared_conv2d(x, prepare(kernel), kernel.shape, dilation=dilation)
            return ours, depthwise_conv2d(x, kernel, dilation=dilation, impl=chosen)

        ours, expected = both(x, kernel)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.slow  # large maps
def test_on_a_gpu_fewer_and_larger_tiles_give_the_same_numbers():
    """Four of seven rows, with windows of 19 rows, both sides padded to a multiple of 8."""
    x, kernel, _ = inputs((2, 28, 28, 4), (13, 13))
    narrow, wide = (x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)), depthwise_conv2d(x, kernel, impl="xla")
    prepared = prepare_kernel(kernel, (28, 28), dtype=jnp.bfloat16, platform="cuda")
    assert prepared["toeplitz"].shape == (4, 19 * 28 + 4, 7 * 28 + 4)
    matrix = depthwise_toeplitz.prepare_for(narrow[1], (28, 28), 1, "gpu")
    np.testing.assert_array_equal(matrix, prepared["toeplitz"])
    on_a_gpu = depthwise_toeplitz._of_platform(narrow[0], matrix, kernel.shape, 1, "gpu")
    for ours in (on_a_gpu, prepared_conv2d(narrow[0], prepared, kernel.shape)):
        np.testing.assert_allclose(np.float32(ours), wide, rtol=0, atol=2**-7 * np.abs(wide).max())
    traced = jax.jit(lambda *a: depthwise_conv2d(*a, impl="toeplitz")).trace(*narrow)
    windows = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda")}
    assert ["4x2x4x536x" in text for text in windows.values()] == [False, True]


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize(("size", "other"), [((14, 14), (12, 12)), ((8, 4), (4, 8)), ((14, 7), (7, 14))])
def test_a_kernel_prepared_for_another_size_is_refused(platform, size, other):
    x, kernel, _ = inputs((1, *size, 4), (13, 13))
    prepared = jax.eval_shape(lambda kernel: prepare_kernel(kernel, other, dtype=x.dtype, platform=platform), kernel)
    with pytest.raises(ValueError, match=rf"maps of another size than \({size[0]}, {size[1]}\)"):
        jax.eval_shape(lambda x, prepared: prepared_conv2d(x, prepared, kernel.shape), x, prepared)


def test_a_spectrum_of_one_column_more_is_refused():
    """Rows of 48 and of 49 points have equally many frequencies, but others."""
    x, kernel, _ = inputs((1, 50, 43, 2), (13, 13))
    prepared = jax.eval_shape(lambda kernel: prepare_kernel(kernel, (50, 42), dtype=x.dtype, platform="cpu"), kernel)
    assert list(prepared) == ["fft"]
    with pytest.raises(ValueError, match="maps of another size"):
        jax.eval_shape(lambda x, prepared: prepared_conv2d(x, prepared, kernel.shape), x, prepared)


def test_auto_follows_the_platform_of_the_lowering():
    x, kernel, _ = inputs((1, 70, 70, 2), (13, 13))
    traced = jax.jit(depthwise_conv2d).trace(x, kernel)
    cpu, tpu = (traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "tpu"))
    assert "fft" in cpu
    assert "stablehlo.convolution" not in cpu
    assert "stablehlo.convolution" in tpu
    assert "fft" not in tpu


def test_small_kernels_share_the_form_of_the_large_one_beside_them():
    assert depthwise.choose("tpu", "convolve", (3, 3, 1, 8), (14, 14)) == "xla"
    assert depthwise.choose("tpu", "convolve", (3, 3, 1, 8), (14, 14), beside=13) == "toeplitz_tpu"
    assert depthwise.choose("tpu", "kernel_gradient", (3, 3, 1, 8), (28, 28), beside=13) == "xla"
    assert depthwise.choose("cpu", "convolve", (3, 3, 1, 8), (14, 14), beside=13) == "shift"
    x, kernel, g = inputs((32, 14, 14, 8), (3, 3))
    traced = jax.jit(lambda *a: forward_and_gradients(*a, dilation=3, beside=13)).trace(x, kernel, g)
    assert "stablehlo.convolution" not in traced.lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize(("n", "side", "laid_out"), [(32, 14, True), (32, 7, True), (8, 14, False), (32, 28, False)])
def test_a_tpu_lays_a_map_out_once_for_several_convolutions(n, side, laid_out):
    x = jax.ShapeDtypeStruct((n, side, side, 2), np.float32)
    traced = jax.jit(lambda x: depthwise.laid_out_beside(x, 13)).trace(x)
    texts = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "cuda", "tpu")}
    found = {platform: "LayoutConstraint" in text for platform, text in texts.items()}
    assert found == {"cpu": False, "cuda": False, "tpu": laid_out}


def test_few_examples_on_a_device_take_another_form():
    assert depthwise.choose("tpu", "convolve", (13, 13, 1, 8), (14, 14), batch=32) == "toeplitz_tpu"
    assert depthwise.choose("tpu", "convolve", (13, 13, 1, 8), (14, 14), batch=31) == "xla"
    assert depthwise.choose("tpu", "prepared", (13, 13, 1, 8), (14, 14), batch=1) == "toeplitz_tpu"
    assert depthwise.choose("tpu", "kernel_gradient", (13, 13, 1, 8), (14, 14), batch=32) == "toeplitz_tpu"
    assert depthwise.choose("tpu", "kernel_gradient", (13, 13, 1, 8), (28, 28), batch=32) == "toeplitz"
    x, kernel, _ = inputs((64, 14, 14, 4), (13, 13))

    def convolves():
        text = jax.jit(depthwise_conv2d).trace(x, kernel).lower(lowering_platforms=("tpu",)).as_text()
        return "stablehlo.convolution" in text

    assert not convolves()  # 64 on the device
    with jax.sharding.use_abstract_mesh(mesh_of("tpu")):
        assert convolves()  # 8 on each


def test_a_gpu_takes_forms_that_cudnn_is_slow_at():
    def choose(use, size, side, **options):
        return depthwise.choose("gpu", use, (size, size, 1, 8), (side, side), **options)

    assert [choose("convolve", 13, 14, batch=n) for n in (8, 32)] == ["dft", "toeplitz"]
    assert [choose("convolve", 3, side, dilation=3) for side in (14, 64)] == ["shift", "shift"]
    assert [choose("convolve", 5, 14, dilation=r) for r in (1, 2)] == ["xla", "toeplitz"]
    assert [choose("kernel_gradient", 3, 14, dilation=r) for r in (1, 3)] == ["xla", "toeplitz"]
    assert choose("convolve", 13, 64, batch=8) == "fft"
    assert choose("prepared", 13, 14, batch=1) == "toeplitz"
    kernel = np.ones((13, 13, 1, 2), np.float32)
    prepared = jax.eval_shape(lambda kernel: prepare_kernel(kernel, (14, 14), dtype="float32", platform="cuda"), kernel)
    assert list(prepared) == ["toeplitz"]


def test_on_a_gpu_cudnn_is_not_asked_for_float32_results():
    x, kernel, g = (a.astype(jnp.bfloat16) for a in inputs((2, 56, 56, 8), (3, 3)))
    traced = jax.jit(lambda *a: forward_and_gradients(*a, impl="xla")).trace(x, kernel, g)
    types = {}
    for platform in ("cuda", "tpu"):
        lines = traced.lower(lowering_platforms=(platform,)).as_text().splitlines()
        types[platform] = {line[line.rindex("x") + 1 : line.rindex(">")] for line in lines if "convolution(" in line}
    assert types == {"cuda": {"bf16"}, "tpu": {"f32"}}


def test_on_a_gpu_one_kernel_shifts_all_examples():
    x, kernel, _ = inputs((2, 14, 14, 8), (3, 3))
    traced = jax.jit(lambda x, kernel: depthwise_conv2d(x, kernel, impl="shift")).trace(x, kernel)
    assert "stablehlo.while" in traced.lower(lowering_platforms=("cpu",)).as_text()
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.while" not in text
    assert "optimization_barrier" not in text  # what sums it up is a part of the same kernel


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="x is empty"):
        depthwise_conv2d(np.zeros((0, 4, 4, 2)), np.zeros((3, 3, 1, 2)))


@pytest.mark.parametrize("impl", [pytest.param("auto", marks=pytest.mark.slow), *FORMS])
def test_float64_is_float64_throughout(impl):
    with jax.enable_x64(True):
        x, kernel, g = (a.astype(jnp.float64) for a in inputs((2, 14, 14, 3), (13, 13)))
        run = jax.jit(lambda *a: forward_and_gradients(*a, impl=impl))
        for ours, expected in zip(run(x, kernel, g), reference(x, kernel, g, 1), strict=True):
            assert ours.dtype == jnp.float64
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


def test_cropping_keeps_every_tap_that_can_meet_the_map():
    kernel = np.ones((13, 13, 1, 1))
    assert crop_kernel(kernel, (7, 7)).shape[:2] == (13, 13)
    assert crop_kernel(kernel, (6, 2)).shape[:2] == (11, 3)
    assert crop_kernel(kernel, (7, 4), dilation=2).shape[:2] == (7, 3)
    assert crop_kernel(kernel, (1, 1)).shape[:2] == (1, 1)


@pytest.mark.parametrize(
    ("x", "kernel", "options", "message"),
    [
        ((8, 8, 4), (3, 3, 1, 4), {}, r"\(n, h, w, c\)"),
        ((1, 8, 8, 4), (3, 3, 1, 5), {}, r"\(kh, kw, 1, c\)"),
        ((1, 8, 8, 4), (3, 3, 4, 4), {}, r"\(kh, kw, 1, c\)"),
        ((1, 8, 8, 4), (4, 3, 1, 4), {}, "odd kernel sizes"),
        ((1, 8, 8, 4), (3, 3, 1, 4), {"dilation": 0}, "positive integer"),
        ((1, 8, 8, 4), (3, 3, 1, 4), {"impl": "cudnn"}, "'auto' or one of"),
    ],
)
def test_wrong_arguments_are_named(x, kernel, options, message):
    with pytest.raises(ValueError, match=message):
        depthwise_conv2d(np.zeros(x, np.float32), np.zeros(kernel, np.float32), **options)


def test_mixed_dtypes_are_refused():
    with pytest.raises(ValueError, match="one floating-point dtype"):
        depthwise_conv2d(np.zeros((1, 4, 4, 2), np.float32), np.zeros((3, 3, 1, 2), jnp.bfloat16))


def test_every_choice_of_auto_is_an_implementation():
    chosen = {name for uses in depthwise._BEST.values() for rows in uses.values() for *_, name in rows}
    assert chosen <= set(IMPLEMENTATIONS)
