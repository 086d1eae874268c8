"""The network against the original's numbers, and its behaviour at the edges."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from flax import nnx
from networks import SMALL, lively, small_model

from unireplknet_jax.models import torch_names
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.models.unireplknet import UniRepLKNet, drop_path_ramp
from unireplknet_jax.models.variants import create_model
from unireplknet_jax.ops.depthwise import IMPLEMENTATIONS
from unireplknet_jax.tasks.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("quick_compilation")

CASES = ("tiny_afp", "tiny_t", "tiny_kernels", "tiny_backbone")
# Of the largest value, float32; a wrong norm epsilon shows at 1e-5.
TOLERANCE = 5e-6


def close(ours, expected, tolerance=TOLERANCE):
    expected = np.asarray(expected)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def images_of(arrays):
    return arrays["input_nchw"].transpose(0, 2, 3, 1)


# Forms are forced where kernels differ most. The unrolled taps of "shift" compile for minutes at kernels above 5:
# tests/ops is its parity suite.
FORCED = [
    pytest.param("tiny_kernels", name, form, marks=pytest.mark.slow)
    for name in IMPLEMENTATIONS
    for form in ("", "_deploy")
    if name != "shift"
]


# Maps of a backbone are quick in tests/nn/test_upernet.py, the kernels of "tiny_t" in "tiny_kernels", and that the
# branches of each kernel give what the merged one gives in test_reparameterize.py.
QUICK = (("tiny_afp", ""), ("tiny_afp", "_deploy"), ("tiny_kernels", "_deploy"))
AUTO = [
    pytest.param(case, "auto", form, marks=() if (case, form) in QUICK else pytest.mark.slow)
    for case in CASES
    for form in ("", "_deploy")
]


@pytest.mark.parametrize(("case", "impl", "form"), [*AUTO, *FORCED])
def test_outputs_equal_the_originals(goldens, case, impl, form):
    arrays = np.load(goldens / f"{case}.npz")
    model, variables = load_checkpoint(goldens / f"{case}{form}.pth")
    model = model.clone(impl=impl)
    # What `__call__` and `features` give is a part each of one pass; for both of them XLA would compile two.
    output, maps = jax.jit(lambda v, x: model.apply(v, x, False, method="_forward"))(variables, images_of(arrays))
    prefix = "deploy_" if form else ""
    names = [f"feature{i}_nchw" if case == "tiny_backbone" else f"stage{i}_nchw" for i in range(4)]
    if case == "tiny_backbone":
        np.testing.assert_array_equal(output, maps[-1])
    else:
        close(output, arrays[f"{prefix}logits"])
    for ours, name in zip(maps, names, strict=True):
        # Stage maps were stored for the training form; merging changes them by rounding only.
        expected = arrays[prefix + name if prefix + name in arrays else name]
        close(np.asarray(ours).transpose(0, 3, 1, 2), expected)


VARIATIONS = [pytest.param(options, marks=pytest.mark.slow) for options in ({"remat": True}, {"bn_group": 2})]


@pytest.mark.parametrize("options", [{"impl": "xla"}, pytest.param({}, marks=pytest.mark.slow), *VARIATIONS])
def test_a_training_step_equals_the_originals(goldens, options):
    """Loss, every gradient and the running statistics after one step; a group of the whole batch is the whole batch."""
    arrays = np.load(goldens / "tiny_afp.npz")
    model, variables = load_checkpoint(goldens / "tiny_afp.pth")
    model = model.clone(**options)
    labels = arrays["train_labels"]

    def loss(params):
        logits, updates = model.apply(
            {**variables, "params": params}, images_of(arrays), train=True, mutable=["batch_stats"]
        )
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
        return -jnp.mean(chosen), (logits, updates)

    (value, (logits, updates)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    np.testing.assert_allclose(value, arrays["train_loss"], rtol=1e-6)
    close(logits, arrays["train_logits"])
    ours = flax.traverse_util.flatten_dict({"params": gradients, **updates})
    for name, entry in torch_names.name_table(variables).items():
        found = torch_names.to_torch(entry, np.asarray(ours[entry.path]))
        if entry.path[0] == "params":
            expected = arrays[f"grad/{name}"]
            # Some gradients are zero but for rounding: a batch norm follows a batch norm.
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max() + 1e-6, err_msg=name)
        else:
            np.testing.assert_allclose(found, arrays[f"after/{name}"], rtol=2e-6, atol=1e-6, err_msg=name)


SLOW_SIZES = ((33, 47), (384, 128), (32, 32), (7, 64))
SIZES = [(1, 1), *(pytest.param(size, marks=pytest.mark.slow) for size in SLOW_SIZES)]


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_no_nan_at_any_size_and_on_empty_images(size, train, dtype):
    few = {"depths": (1, 1, 0, 0), "kernel_sizes": ((0,), (13,), (), ()), "impl": "xla"}
    model = small_model(dtype=dtype, **(few if size == (1, 1) else {}))  # one pixel meets every form in tests/ops
    variables = lively(abstract_variables(model))

    @jax.jit
    def run(variables, x):
        def loss(params):
            output, _ = model.apply({**variables, "params": params}, x, train=train, mutable=["batch_stats"])
            return jnp.sum(output**2)

        if not train:
            return loss(variables["params"]), {}
        return jax.value_and_grad(loss)(variables["params"])

    for x in (normal(1, 1, *size, 3), np.zeros((1, *size, 3), np.float32)):
        value, gradients = run(variables, x)
        assert np.isfinite(value)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("size", [(384, 128), (33, 47), (1, 1), (7, 64)])
def test_the_four_maps_have_strides_4_to_32_rounded_up(size):
    model = small_model(impl="xla")
    variables = abstract_variables(model)
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), variables, x)
    assert [m.shape for m in maps] == [
        (2, *(-(-side // stride) for side in size), dim)
        for stride, dim in zip((4, 8, 16, 32), SMALL["dims"], strict=True)
    ]


def test_bfloat16_follows_float32():
    x = normal(0, 2, 64, 64, 3)
    variables = lively(abstract_variables(small_model()))
    exact, rough = (
        np.asarray(jax.jit(small_model(dtype=dtype, impl="xla").apply)(variables, x))
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert rough.dtype == jnp.float32
    close(rough, exact, 0.05)  # 8 bits through 5 blocks
    assert not np.array_equal(rough, exact)


def test_statistics_are_per_group_and_frozen_ones_stay():
    x = np.asarray(normal(0, 4, 32, 32, 3)) * np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1, 1)
    one_block = {"depths": (0, 1, 0, 0), "kernel_sizes": ((), (7,), (), ()), "impl": "xla"}
    variables = lively(abstract_variables(small_model(**one_block)))

    @functools.cache
    def compiled(**options):
        return jax.jit(
            functools.partial(small_model(**one_block, **options).apply, train=True, mutable=["batch_stats"])
        )

    def train(x, **options):
        return jax.tree.map(np.asarray, compiled(**options)(variables, x))

    ghost, _ = train(x, bn_group=2)
    for rows in (slice(0, 2), slice(2, 4)):
        close(ghost[rows], train(x[rows])[0])
    assert np.abs(ghost - train(x)[0]).max() > 1e-2
    frozen, updates = train(x, bn_frozen=True)
    close(frozen, jax.jit(small_model(**one_block).apply)(variables, x))
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])


def test_the_tree_paths_are_frozen(goldens):
    """Renaming a variable breaks every checkpoint in the world: change this file on purpose only."""
    listed = (goldens / "tree_paths.txt").read_text().splitlines()
    kernels = ((3, 5), (17, 15), (11, 9, 7, 5, 0, 3), (13, 7))
    options = dict(depths=(2, 2, 6, 2), dims=(8, 16, 32, 64), kernel_sizes=kernels)
    models = {
        "classifier": UniRepLKNet(**options, num_classes=5),
        "backbone": UniRepLKNet(**options, num_classes=None, output_norms=True, layer_scale_init=None),
        "merged": UniRepLKNet(**options, num_classes=5, deploy=True),
    }
    paths = []
    for name, model in models.items():
        flat = flax.traverse_util.flatten_dict(abstract_variables(model), sep="/")
        paths += [f"{name}: {path} {'x'.join(map(str, leaf.shape))}" for path, leaf in sorted(flat.items())]
    assert paths == listed


def test_nnx_users_are_served():
    model = small_model(kernel_sizes=((0,), (0,), (0,), (7,)), impl="xla")
    x = normal(0, 1, 32, 32, 3)
    wrapped = nnx.jit(lambda x: nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(x))(x)
    variables = lively(abstract_variables(model))
    for collection, kind in (("params", nnx.Param), ("batch_stats", nnx.BatchStat)):
        state = nnx.state(wrapped, kind)
        nnx.replace_by_pure_dict(state, variables[collection])
        nnx.update(wrapped, state)
    close(nnx.jit(lambda module, x: module(x))(wrapped, x), jax.jit(model.apply)(variables, x), 1e-6)


def test_drop_path_ramps_up_linearly_over_all_blocks():
    np.testing.assert_allclose(list(drop_path_ramp(0.4, (1, 1, 2, 1))), [0, 0.1, 0.2, 0.3, 0.4])
    assert list(drop_path_ramp(0.4, (1, 0, 0, 0))) == [0]


def test_drop_path_of_a_block_removes_its_residual():
    """With a rate close to 1 the last stage is its downsampler alone."""
    x = normal(0, 2, 32, 32, 3)
    variables = lively(abstract_variables(small_model()))
    model = small_model(drop_path_rate=1 - 1e-6, bn_frozen=True, impl="xla")

    @jax.jit
    def features(variables, x, key):
        return model.apply(variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"], method="features")

    # The ramp gives 0, 1/3, 2/3 and 1 of the rate: only the last block is (almost) surely dropped.
    maps, _ = features(variables, x, jax.random.key(3))
    down = variables["params"]["downsample_layers_3"]
    convolve = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = np.asarray(convolve(maps[2], down["conv"]["kernel"], (2, 2), ((1, 1), (1, 1))))
    y = y + down["conv"]["bias"]
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
    close(maps[3], y * down["norm"]["scale"] + down["norm"]["bias"], 1e-5)


def test_initialization_follows_the_original():
    """Normal(0.02) for every kernel, whatever its fan-in; a 2-sigma cut would give a deviation of 0.0176."""
    model = small_model(dims=(64, 128, 128, 128), layer_scale_init=1e-6, head_init_scale=0.001, num_classes=100)
    drawn = jax.tree.map(np.asarray, jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32)))
    for path, leaf in flax.traverse_util.flatten_dict(drawn, sep="/").items():
        name = path.rsplit("/", 1)[1]
        if name == "kernel":
            expected = 2e-5 if "head" in path else 0.02
            assert abs(np.std(leaf) / expected - 1) < 5 / np.sqrt(2 * leaf.size), path  # five standard errors
            if leaf.size > 1e4:
                assert np.abs(leaf).max() > 3 * expected, path
        else:
            value = {"scale": 1, "var": 1, "bias": 0, "mean": 0, "beta": 0}.get(name)
            value = (0 if "grn" in path else 1e-6) if name == "gamma" else value
            np.testing.assert_array_equal(leaf, np.float32(value), err_msg=path)


def test_layer_scale_can_be_left_out():
    for off in (None, 0, -1.0):
        params = abstract_variables(small_model(layer_scale_init=off))["params"]
        assert "gamma" not in params["stages_0_0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(kernel_sizes=((4,), (13,), (13,), (13,))), r"kernel sizes \[4\]"),
        (dict(depths=(1, 1, 2, 1)), "one kernel size per block"),
        (dict(kernel_sizes=(3, 3, 3, 3)), "list the blocks of every stage"),
        (dict(output_norms=True), "num_classes=None"),
        (dict(num_classes=0), "num_classes must be at least 1"),
        (dict(bn_group=-1), "bn_group must be at least 1"),
        (dict(impl="cudnn"), "impl must be"),
        (dict(drop_path_rate=1.0), r"\[0, 1\)"),
    ],
)
def test_impossible_networks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small_model(**options)


def test_lists_and_names_make_the_same_hashable_module():
    model = small_model(dims=[8, 16, 24, 32], kernel_sizes=[[3], [13], [0], [7]], dtype="bfloat16")
    assert model == small_model(dtype=jnp.bfloat16)
    assert hash(model.clone(dims=[8, 16, 24, 32])) == hash(small_model(dtype=jnp.bfloat16))


def test_wrong_channels_are_named():
    with pytest.raises(ValueError, match=r"\(n, h, w, 3\)"):
        create_model("unireplknet_a").init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
