"""Official files in and out: what goes in comes out, and whatever does not fit is named."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from models.archive_builder import Call, save, tensor
from official_files import TINY, assert_equal, leaves, make_state, refusal, write

import unireplknet_jax as urk
from unireplknet_jax.models import zoo
from unireplknet_jax.models.torch_archive import read_state_dict
from unireplknet_jax.tasks.checkpoint import load_checkpoint, load_pretrained, open_checkpoint, save_torch_checkpoint

# In.


def test_every_tensor_lands_where_the_network_looks_for_it(tmp_path, state):
    model, variables = urk.load_checkpoint(write(tmp_path / "a.pth", state))
    assert (model.depths, model.dims, model.kernel_sizes) == (TINY["depths"], TINY["dims"], TINY["kernel_sizes"])
    assert (model.num_classes, model.in_chans, model.deploy) == (10, 3, False)
    ours = leaves(variables)
    assert len(ours) + sum("num_batches_tracked" in name for name in state) == len(state)
    for path, name, axes in [
        ("params/downsample_layers_0/conv1/kernel", "downsample_layers.0.0.weight", (2, 3, 1, 0)),
        ("params/stages_1_0/dwconv/lk_origin/kernel", "stages.1.0.dwconv.lk_origin.weight", (2, 3, 1, 0)),
        ("params/stages_2_1/pwconv1/kernel", "stages.2.1.pwconv1.1.weight", (1, 0)),
        ("params/stages_2_1/grn/gamma", "stages.2.1.act.1.gamma", (0, 1, 2, 3)),
        ("params/stages_3_0/dwconv/dil_bn_k3_2/scale", "stages.3.0.dwconv.dil_bn_k3_2.weight", (0,)),
        ("batch_stats/stages_3_0/pwconv2_bn/var", "stages.3.0.pwconv2.2.running_var", (0,)),
        ("params/norm/bias", "norm.bias", (0,)),
        ("params/head/kernel", "head.weight", (1, 0)),
    ]:
        np.testing.assert_array_equal(ours[path], state[name].transpose(axes), err_msg=path)


def test_a_file_of_other_channels_is_scaled_to_minus_1_to_1(tmp_path):
    for channels in (1, 4):
        task = open_checkpoint(write(tmp_path / f"{channels}.pth", make_state(in_chans=channels))).task
        assert (task.mean, task.std) == ((0.5,) * channels, (0.5,) * channels)


def bare(state):
    return {name: tensor(value) for name, value in state.items()}


def below(prefix, state):
    return {prefix + name: value for name, value in bare(state).items()}


ONE = np.zeros(1, np.float32)
OPTIMIZER = {"state": {0: {"exp_avg": tensor(np.ones(2, np.float32))}}, "param_groups": [{"lr": 0.1}]}
ARGUMENTS = Call("argparse.Namespace", (), {"lr": 0.1})
LAYOUTS = {
    "bare": bare,
    "model": lambda state: {"model": bare(state), "optimizer": OPTIMIZER, "args": ARGUMENTS, "epoch": 299},
    "state_dict": lambda state: {"meta": {"epoch": 1}, "state_dict": bare(state)},
    "module": lambda state: {"module": bare(state), "optimizer": OPTIMIZER},
    "prefixed": lambda state: {f"module.{name}": value for name, value in bare(state).items()},
    "model, prefixed": lambda state: {"model": {f"module.{name}": value for name, value in bare(state).items()}},
    "torch.compile": lambda state: {"model": below("_orig_mod.", state)},
    "DDP of torch.compile": lambda state: {"model": below("module._orig_mod.", state)},
    "Lightning": lambda state: {"state_dict": below("model.", state), "hyper_parameters": {"lr": 0.1}},
    "AveragedModel": lambda state: {"n_averaged": tensor(np.array(3)), **below("module.", state)},
    "thop": lambda state: {**bare(state), "total_ops": tensor(ONE), "norm.total_params": tensor(ONE)},
    "model_state_dict": lambda state: {"model_state_dict": bare(state)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_official_layouts(tmp_path, merged_state, layout):
    checkpoint = open_checkpoint(save(tmp_path / "a.pth", LAYOUTS[layout](merged_state)))
    assert checkpoint.merged
    assert_equal(leaves(checkpoint.variables), leaves(load_checkpoint(write(tmp_path / "b.pth", merged_state))[1]))


def test_a_backbone_is_taken_out_of_a_detection_network(tmp_path, merged_state, caplog):
    trunk = {name: value for name, value in merged_state.items() if not name.startswith(("head.", "norm."))}
    whole = {**below("backbone.", trunk), "neck.lateral_convs.0.conv.weight": tensor(ONE)}
    checkpoint = open_checkpoint(save(tmp_path / "a.pth", {"state_dict": whole}))
    assert checkpoint.module.num_classes is None
    assert_equal(leaves(checkpoint.variables), leaves(load_checkpoint(write(tmp_path / "b.pth", trunk))[1]))
    assert "the network is below backbone.; left out: neck.lateral_convs.0.conv.weight" in caplog.text
    wrapped = {f"model.{name}": value for name, value in whole.items()}
    open_checkpoint(save(tmp_path / "c.pth", {"state_dict": wrapped}))
    assert "the network is below model.backbone.; left out: model.neck.lateral_convs.0.conv.weight" in caplog.text


def test_a_wrapped_network_of_another_task_is_unwrapped(tmp_path, goldens):
    (path,) = (goldens / "audio").glob("*.pth")
    state = {name: stored.numpy() for name, stored in read_state_dict(path)[0].items()}
    found = open_checkpoint(save(tmp_path / "a.pth", below("model.", state)))
    assert found.task.name == "audio"
    assert_equal(leaves(found.variables), leaves(open_checkpoint(path).variables))


def test_prefixes_of_no_network_stay(tmp_path, merged_state):
    sentence = refusal(save(tmp_path / "a.pth", below("model.strange.", merged_state)))
    assert "has no tensors below stages.0 (it has model.strange." in sentence


def test_an_unzipped_file_is_told(tmp_path):
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "data.pkl").touch()
    assert "archive is an unzipped file of PyTorch: open the file itself" in refusal(tmp_path / "archive")
    (tmp_path / "outer").mkdir()
    (tmp_path / "archive").rename(tmp_path / "outer" / "archive")
    assert "card.json; it holds an unzipped file of PyTorch: open the file itself" in refusal(tmp_path / "outer")


def test_a_folder_of_files_for_others_says_which_may_be_opened(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    assert refusal(tmp_path).endswith("it has no card.json; it holds model.safetensors: open one of its files.")
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    assert "it holds pieces of one file, model-00001-of-00002.safetensors, model.safetensors: sa" in refusal(tmp_path)


def test_what_was_ignored_is_logged(tmp_path, merged_state, caplog):
    load_checkpoint(save(tmp_path / "a.pth", LAYOUTS["model"](merged_state)))
    assert "a.pth: ignored, never imported: argparse.Namespace" in caplog.text


def test_ema_takes_the_averaged_weights(tmp_path, merged_state):
    average = {name: value / 2 for name, value in merged_state.items()}
    path = save(tmp_path / "a.pth", {"model": bare(merged_state), "model_ema": bare(average)})
    (_, plain), (_, ema) = load_checkpoint(path), load_checkpoint(path, ema=True)
    assert_equal(leaves(ema), {name: value / 2 for name, value in leaves(plain).items()})


def test_without_an_average_ema_is_an_error(tmp_path, merged_state):
    assert "no dict of tensors is under 'model_ema'" in refusal(write(tmp_path / "a.pth", merged_state), ema=True)


@pytest.mark.parametrize("deploy", [False, True])
def test_without_classifier_and_norms_it_is_a_bare_trunk(tmp_path, deploy):
    state = make_state(num_classes=None, deploy=deploy)
    checkpoint = open_checkpoint(write(tmp_path / "a.pth", state))
    module = checkpoint.module
    assert (module.num_classes, module.output_norms, module.deploy) == (None, False, deploy)
    assert not {"norm", "head", "norm0"} & set(checkpoint.variables["params"])


@pytest.mark.parametrize("deploy", [False, True])
def test_with_norms_but_no_classifier_it_is_a_backbone(tmp_path, deploy):
    state = make_state(num_classes=None, output_norms=True, deploy=deploy)
    model, variables = load_checkpoint(write(tmp_path / "a.pth", state))
    assert (model.num_classes, model.output_norms, model.deploy) == (None, True, deploy)
    np.testing.assert_array_equal(variables["params"]["norm2"]["scale"], state["norm2.weight"])


def test_a_network_without_layer_scale(tmp_path):
    model, variables = load_checkpoint(write(tmp_path / "a.pth", make_state(layer_scale_init=None)))
    assert model.layer_scale_init is None
    assert "gamma" not in variables["params"]["stages_0_0"]


@pytest.mark.parametrize("stored", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_storage_dtype_is_kept_unless_asked_otherwise(tmp_path, merged_state, stored, dtype):
    rounded = {name: value.astype(jnp.dtype(stored)) for name, value in merged_state.items()}
    _, variables = load_checkpoint(write(tmp_path / "a.pth", rounded), dtype=dtype)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {dtype or stored}
    expected = rounded["norm.bias"].astype(jnp.dtype(dtype or stored))
    np.testing.assert_array_equal(variables["params"]["norm"]["bias"], expected)


def test_a_storage_dtype_must_be_floating_point(tmp_path, merged_state):
    with pytest.raises(ValueError, match="dtype must be a floating-point type, but is int8"):
        load_checkpoint(write(tmp_path / "a.pth", merged_state), dtype="int8")


def test_non_finite_weights_are_reported(tmp_path, merged_state, caplog):
    broken = merged_state | {"norm.bias": np.full(32, np.inf, np.float32)}
    load_checkpoint(write(tmp_path / "a.pth", broken))
    assert "a.pth: non-finite values in params/norm/bias" in caplog.text


def test_what_a_narrower_dtype_makes_infinite_is_reported(tmp_path, merged_state, caplog):
    large = merged_state | {"head.bias": np.full(10, 1e6, np.float32)}
    load_checkpoint(write(tmp_path / "a.pth", large), dtype="bfloat16")
    assert caplog.text == ""
    load_checkpoint(tmp_path / "a.pth", dtype="float16")
    assert "non-finite values in params/head/bias" in caplog.text


# Published names.


def test_a_published_file_brings_its_preprocessing_and_labels(tmp_path, monkeypatch):
    weights = zoo.find_weights("unireplknet_s", "in22k_ft_in1k_384")
    path = write(tmp_path / weights.file, make_state(num_classes=1000, deploy=True))
    monkeypatch.setattr(zoo, "download", lambda asked: path if asked is weights else None)
    model, _ = load_pretrained("unireplknet_s", "in22k_ft_in1k_384", dtype="bfloat16")
    assert model.num_classes == 1000
    task = open_checkpoint(path).task
    assert (task.image_size, task.resize, task.mean) == (384, "warp", (0.485, 0.456, 0.406))
    assert (len(task.labels), task.labels[0]) == (1000, "tench")


def test_a_published_name_does_not_make_a_fine_tuned_file_something_else(tmp_path, merged_state):
    path = write(tmp_path / zoo.find_weights("unireplknet_s", "in22k_ft_in1k_384").file, merged_state)
    task = open_checkpoint(path).task
    assert (task.labels, task.image_size, task.module().num_classes) == ((), 224, 10)
    task = open_checkpoint(write(path, make_state(num_classes=1000, in_chans=1, deploy=True))).task
    assert (task.labels, task.image_size, task.mean) == ((), 224, (0.5,))


# And out again.


@pytest.mark.parametrize("form", ["", "_deploy"])
@pytest.mark.parametrize(("case", "suffix"), [("tiny_kernels", ".pth"), ("tiny_backbone", ".safetensors")])
def test_the_way_back_gives_the_very_same_tensors(tmp_path, goldens, case, form, suffix):
    _, variables = load_checkpoint(goldens / f"{case}{form}.pth")
    save_torch_checkpoint(tmp_path / f"a{suffix}", variables)
    original, written = (
        {name: value.numpy() for name, value in read_state_dict(path)[0].items()}
        for path in (goldens / f"{case}{form}.pth", tmp_path / f"a{suffix}")
    )
    counters = {name for name in original if name.endswith("num_batches_tracked")}
    assert bool(counters) == (form == "")
    assert_equal(written, original | {name: np.zeros((), np.int64) for name in counters})


def test_torch_loads_it_strictly(tmp_path, goldens):
    torch = pytest.importorskip("torch")
    _, variables = load_checkpoint(goldens / "tiny_kernels.pth")
    save_torch_checkpoint(tmp_path / "a.pth", variables)
    original = torch.load(goldens / "tiny_kernels.pth", weights_only=True)["model"]
    network = torch.nn.Module()
    for name, value in original.items():
        *modules, leaf = name.split(".")
        owner = network
        for part in modules:
            if not hasattr(owner, part):
                owner.add_module(part, torch.nn.Module())
            owner = getattr(owner, part)
        owner.register_buffer(leaf, torch.zeros_like(value))
    network.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True)["model"], strict=True)
    for name, value in network.state_dict().items():
        assert torch.equal(value, original[name] * ("num_batches_tracked" not in name)), name


def test_storage_dtypes_are_written_as_they_are(tmp_path, merged_state):
    stored = {name: value.astype(ml_dtypes.bfloat16) for name, value in merged_state.items()}
    stored["head.bias"] = merged_state["head.bias"]
    save_torch_checkpoint(tmp_path / "b.pth", load_checkpoint(write(tmp_path / "a.pth", stored))[1])
    assert_equal({name: value.numpy() for name, value in read_state_dict(tmp_path / "b.pth")[0].items()}, stored)


def test_an_existing_file_needs_overwrite(tmp_path, merged_state):
    _, variables = load_checkpoint(write(tmp_path / "a.pth", merged_state))
    (tmp_path / "b.pth").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"b\.pth exists already; remove it"):
        save_torch_checkpoint(tmp_path / "b.pth", variables)
    assert (tmp_path / "b.pth").read_bytes() == b"precious"
    save_torch_checkpoint(tmp_path / "b.pth", variables, overwrite=True)
    assert_equal(leaves(load_checkpoint(tmp_path / "b.pth")[1]), leaves(variables))


def test_variables_with_a_hole_are_not_written(tmp_path, merged_state):
    _, variables = load_checkpoint(write(tmp_path / "a.pth", merged_state))
    del variables["params"]["stages_2_1"]["se"]["up"]
    variables["params"]["extra"] = {"kernel": jnp.zeros((2, 3))}
    with pytest.raises(ValueError, match="not a whole UniRepLKNet: missing") as caught:
        save_torch_checkpoint(tmp_path / "b.pth", variables)
    for name in ("stages.2.1.se.up.weight", "stages.2.1.se.up.bias", "unexpected (1): extra.weight"):
        assert name in str(caught.value)
    assert not (tmp_path / "b.pth").exists()


def test_prepared_variables_are_not_written(tmp_path, merged_state):
    _, variables = load_checkpoint(write(tmp_path / "a.pth", merged_state))
    with pytest.raises(ValueError, match='leave out the collection "prepared"'):
        save_torch_checkpoint(tmp_path / "b.pth", urk.prepare(variables, 32, "cpu"))
    assert not (tmp_path / "b.pth").exists()


def test_variables_of_another_network_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="not those of a UniRepLKNet"):
        save_torch_checkpoint(tmp_path / "a.pth", {"params": {"dense": {"kernel": np.zeros((2, 3))}}})


# Holes: one sentence names all that is missing, unexpected and mis-shaped, wherever it is.

# Two names that go, one that gets another shape, and the form of the file.
HOLES = {
    "anywhere": ("stages.0.0.norm.weight", "stages.3.0.se.up.bias", "stages.2.0.act.1.beta", (5, 5)),
    "stem": ("downsample_layers.0.0.bias", "downsample_layers.0.3.weight", "downsample_layers.0.0.weight", (5, 5)),
    "no stem": ("downsample_layers.0.0.weight", "downsample_layers.0.1.bias", "downsample_layers.0.4.weight", ()),
    "no head": ("head.weight", "head.bias", "norm.weight", (0,)),
    "head": ("norm.weight", "head.bias", "head.weight", ()),
    "flat head": ("norm.weight", "stages.0.0.gamma", "head.weight", (320,)),
    "no large kernel": ("stages.1.0.dwconv.lk_origin.weight", "stages.3.0.dwconv.lk_origin.weight", "head.bias", ()),
    "large kernel": ("stages.1.0.dwconv.origin_bn.bias", "norm.bias", "stages.1.0.dwconv.lk_origin.weight", ()),
    "odd kernel": ("head.bias", "stages.1.0.gamma", "stages.1.0.dwconv.lk_origin.weight", (16, 1, 6, 6)),
    "no small kernel": ("stages.0.0.dwconv.weight", "stages.2.1.dwconv.weight", "stages.2.1.gamma", (1,)),
    "small kernel": ("stages.0.0.norm.bias", "stages.0.0.gamma", "stages.0.0.dwconv.weight", ()),
    "no width": ("stages.1.0.pwconv1.1.weight", "stages.1.0.norm.weight", "stages.1.0.norm.running_mean", (3,)),
    "width": ("stages.1.0.gamma", "stages.1.0.se.up.bias", "stages.1.0.pwconv1.1.weight", (160, 40)),
    "other width": ("stages.1.0.gamma", "head.bias", "stages.1.0.norm.weight", (40,)),
    "statistics": ("stages.3.0.norm.running_var", "stages.0.0.norm.running_mean", "stages.1.0.norm.bias", (4,)),
    "merged head": ("stages.2.1.dwconv.weight", "head.weight", "stages.2.0.dwconv.lk_origin.weight", ()),
    "merged kernel": ("stages.1.0.dwconv.lk_origin.weight", "norm.bias", "stages.0.0.dwconv.weight", (8, 1, 6, 6)),
    "merged width": ("stages.1.0.se.up.weight", "stages.1.0.pwconv2.0.bias", "stages.1.0.pwconv1.1.weight", (64, 0)),
}


@pytest.mark.parametrize("hole", HOLES)
def test_all_five_names_that_do_not_fit_are_listed(tmp_path, state, merged_state, hole):
    first, second, reshaped, shape = HOLES[hole]
    broken = dict(merged_state if hole.startswith("merged") else state)
    del broken[first], broken[second]
    broken |= {reshaped: np.ones(shape, np.float32)}
    broken |= {name: np.ones(2, np.float32) for name in ("stages.2.0.dwconv.made_up", "extra.bias")}
    said = refusal(write(tmp_path / "a.pth", broken))
    assert f"missing (2): {first}, {second};" in said or f"missing (2): {second}, {first};" in said
    assert "unexpected (2): stages.2.0.dwconv.made_up, extra.bias;" in said
    assert f"wrong shape (1): {reshaped} {shape} instead of (" in said


def test_a_whole_block_is_missed(tmp_path, state):
    block = {name for name in state if name.startswith("stages.2.0.")}
    said = refusal(write(tmp_path / "a.pth", {name: value for name, value in state.items() if name not in block}))
    assert "stages.2.0.pwconv1.1.weight" in said
    assert "stages.2.0.norm.running_mean" in said
    assert "unexpected" not in said


def test_a_stage_without_blocks_is_no_unireplknet(tmp_path, state):
    path = write(tmp_path / "a.pth", {name: value for name, value in state.items() if not name.startswith("stages.1.")})
    assert "not a UniRepLKNet checkpoint" in refusal(path)


def test_another_network_is_refused_by_name(tmp_path):
    path = write(tmp_path / "a.pth", {"layer1.0.conv1.weight": np.ones((4, 4, 3, 3), np.float32)})
    assert "not a UniRepLKNet checkpoint" in refusal(path)
    assert "layer1.0.conv1.weight" in refusal(path)


def test_a_missing_file_is_named(tmp_path):
    assert refusal(tmp_path / "none.pth").endswith("none.pth does not exist.")


def test_a_weight_that_only_running_the_file_could_build_is_refused(tmp_path, merged_state):
    root = bare(merged_state) | {"head.weight": Call("shop.Quantized", (tensor(np.ones(2)),))}
    said = refusal(save(tmp_path / "a.pth", {"model": root}))
    assert "head.weight can only be built by running code that the file names (shop.Quantized)" in said


def test_integer_weights_are_refused(tmp_path, merged_state):
    path = write(tmp_path / "a.pth", merged_state | {"head.weight": np.ones((10, 32), np.int8)})
    assert "head.weight are not floating-point" in refusal(path)
