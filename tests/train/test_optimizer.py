import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from linear import ADAMW, adamw

from unireplknet_jax.models import torch_names
from unireplknet_jax.models.shapes import abstract_variables
from unireplknet_jax.models.unireplknet import UniRepLKNet
from unireplknet_jax.train.optimizer import (
    cosine_schedule,
    decays,
    layer_id,
    make_optimizer,
    make_schedule,
    multistep_schedule,
    parameter_groups,
    polynomial_schedule,
)
from unireplknet_jax.train.recipe import base_config

# The learning rates of the original's recipes at some steps (utils.py, cosine_scheduler).
FROM_SCRATCH = {
    0: 0.0,
    1: 6.411283859592884e-07,
    3120: 2.0003205641929795e-03,
    6239: 4e-3,
    6240: 4e-3,
    6241: 3.999999998707098e-03,
    49920: 2.0005e-03,
    93599: 1.0000012929028863e-06,
}
FINE_TUNING = {0: 5e-5, 37530: 2.55e-5, 75059: 1.0000000214594552e-06}


@pytest.mark.parametrize(
    ("arguments", "length", "expected"),
    [((4e-3, 1e-6, 300, 312, 20), 93600, FROM_SCRATCH), ((5e-5, 1e-6, 30, 2502), 75060, FINE_TUNING)],
)
def test_the_schedule_is_the_originals(arguments, length, expected):
    schedule = cosine_schedule(*arguments)
    assert len(schedule) == length
    for step, rate in expected.items():
        assert schedule[step] == pytest.approx(rate, rel=1e-12), step


def test_warm_up_begins_at_0_and_ends_at_the_base_rate_which_comes_twice():
    schedule = cosine_schedule(1.0, 0.0, 2, 10, 0.5)
    np.testing.assert_allclose(schedule[:5], [0, 0.25, 0.5, 0.75, 1], rtol=1e-15)
    assert schedule[5] == 1.0
    assert np.all(np.diff(schedule[5:]) < 0)
    assert schedule[-1] > 0


def test_without_warm_up_it_begins_at_the_base_rate():
    schedule = cosine_schedule(1.0, 0.25, 1, 4)
    by_hand = [1.0, 0.25 + 0.75 * (0.5 + 0.5**1.5), 0.625, 0.25 + 0.75 * (0.5 - 0.5**1.5)]
    np.testing.assert_allclose(schedule, by_hand, rtol=1e-15)


def test_epochs_may_be_parts():
    assert len(cosine_schedule(1.0, 0.0, 0.5, 10, 0.25)) == 5


@pytest.mark.parametrize(("epochs", "warmup"), [(2, 3), (2, -1), (0, 0)])
def test_a_warm_up_that_does_not_fit_is_refused(epochs, warmup):
    with pytest.raises(ValueError, match=f"warmup_epochs={warmup} does not fit a run of {epochs} epochs"):
        cosine_schedule(1.0, 0.0, epochs, 10, warmup)


def test_steps_are_taken_after_the_epochs_that_are_milestones():
    """The original's sound recipe, range(5, 1000) and 0.85: epoch e, from 1, has 0.85 ** max(0, e - 5)."""
    schedule = multistep_schedule(2.5e-4, range(5, 1000), 0.85, 100, 7)
    expected = [2.5e-4 * 0.85 ** max(0, epoch - 5) for epoch in range(1, 101) for _ in range(7)]
    np.testing.assert_allclose(schedule, expected, rtol=1e-12)
    np.testing.assert_array_equal(multistep_schedule(1.0, (), 0.1, 2, 3), np.ones(6))


def test_steps_may_be_warmed_up_to():
    schedule = multistep_schedule(1.0, (1, 3), 0.5, 4, 4, warmup_epochs=0.5)
    np.testing.assert_array_equal(schedule, [0, 1, 1, 1, *[0.5] * 8, *[0.25] * 4])
    with pytest.raises(ValueError, match="warmup_epochs=5 does not fit a run of 4 epochs"):
        multistep_schedule(1.0, (1,), 0.5, 4, 4, warmup_epochs=5)


def test_steps_are_those_of_torch():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3, 7], gamma=0.5)
    rates = []
    for _ in range(9):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(multistep_schedule(0.3, [2, 3, 7], 0.5, 9, 1), rates, rtol=1e-12)


def test_a_polynomial_falls_to_its_end_by_its_power():
    np.testing.assert_allclose(polynomial_schedule(1.0, 0.0, 2, 2), [1, 0.75, 0.5, 0.25], rtol=1e-15)
    quadratic = [1, 0.1 + 0.9 * 9 / 16, 0.1 + 0.9 / 4, 0.1 + 0.9 / 16]
    np.testing.assert_allclose(polynomial_schedule(1.0, 0.1, 1, 4, power=2.0), quadratic, rtol=1e-15)
    warmed_up = polynomial_schedule(1.0, 0.0, 2, 5, warmup_epochs=0.8)
    np.testing.assert_allclose(warmed_up, [0, 1 / 3, 2 / 3, 1, *(1 - np.arange(6) / 6)], rtol=1e-15)
    with pytest.raises(ValueError, match="warmup_epochs=5 does not fit a run of 4 epochs"):
        polynomial_schedule(1.0, 0.0, 4, 4, warmup_epochs=5)


# What mmcv 1's hooks give for the published configurations: PolyLrUpdaterHook (power 1, min_lr 0) over 160,000
# iterations, and StepLrUpdaterHook after epochs 27 and 33 of 36 with 7,329 iterations each.
SEGMENTATION = {
    0: 1e-10,
    1: 6.676618270875e-08,
    750: 4.9765674765625e-05,
    1499: 9.899708298270875e-05,
    1500: 9.90625e-05,
    80_000: 5e-5,
    159_999: 6.25e-10,
}
DETECTION = {0: 1e-7, 250: 5.005e-5, 499: 9.98002e-5, 500: 1e-4, 197_882: 1e-4, 197_883: 1e-5, 241_857: 1e-6}


def test_a_warm_up_from_a_ratio_gives_the_published_schedules():
    optim = base_config().optim
    optim.update({"lr": 1e-4, "schedule": "polynomial", "min_lr": 0.0, "warmup_steps": 1500, "warmup_ratio": 1e-6})
    rates = make_schedule(optim, 160_000 / 1263, 1263)
    assert len(rates) == 160_000
    np.testing.assert_allclose(rates[[*SEGMENTATION]], [*SEGMENTATION.values()], rtol=1e-11)
    optim.update({"schedule": "multistep", "milestones": (27, 33), "warmup_steps": 500, "warmup_ratio": 1e-3})
    rates = make_schedule(optim, 36, 7329)
    assert len(rates) == 36 * 7329
    np.testing.assert_allclose(rates[[*DETECTION]], [*DETECTION.values()], rtol=1e-11)


def test_a_cosine_is_warmed_up_from_a_ratio_while_it_falls():
    rates = cosine_schedule(1.0, 0.0, 1, 8, warmup_epochs=0.5, warmup_ratio=0.2)
    factors = np.array([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])
    np.testing.assert_allclose(rates, factors * cosine_schedule(1.0, 0.0, 1, 8), rtol=1e-15)
    np.testing.assert_array_equal(
        cosine_schedule(1.0, 0.0, 1, 8, 0.5, warmup_ratio=1.0), cosine_schedule(1.0, 0.0, 1, 8)
    )


def test_a_recipe_names_its_schedule():
    optim = base_config().optim
    optim.update({"lr": 0.1, "milestones": (1,), "warmup_epochs": 1.0, "min_lr": 0.0})
    np.testing.assert_array_equal(make_schedule(optim, 3, 5), cosine_schedule(0.1, 0.0, 3, 5, 1))
    optim.schedule = "multistep"
    np.testing.assert_array_equal(make_schedule(optim, 3, 5), multistep_schedule(0.1, (1,), 0.1, 3, 5, 1))
    optim.update({"schedule": "polynomial", "power": 3.0, "min_lr": 0.01})
    np.testing.assert_array_equal(make_schedule(optim, 3, 5), polynomial_schedule(0.1, 0.01, 3, 5, 1, power=3.0))
    optim.schedule = "linear"
    with pytest.raises(ValueError, match=r"optim\.schedule='linear' is not known; expected 'cosine' or 'multistep'"):
        make_schedule(optim, 3, 5)


@pytest.mark.parametrize("milestone", [-2, 0, float("nan"), "ten"])
def test_a_milestone_that_is_no_epoch_is_refused(milestone):
    optim = base_config().optim
    optim.update({"schedule": "multistep", "milestones": (1.5, milestone)})
    with pytest.raises(
        ValueError, match=rf"^optim\.milestones has {milestone!r} among its epochs; expected numbers ab"
    ):
        make_schedule(optim, 3, 5)


def test_decay_applies_as_in_pytorch():
    """By the original's rule on its own names and shapes: all but vectors and names that end in .bias."""
    model = UniRepLKNet((1, 1, 2, 1), (8, 16, 24, 32), ((3,), (7,), (0, 5), (7,)))
    params = abstract_variables(model)["params"]
    found = jax.tree.leaves(jax.tree_util.tree_map_with_path(decays, params))
    names = [torch_names.torch_name([key.key for key in path]) for path, _ in jax.tree.leaves_with_path(params)]
    table = torch_names.name_table({"params": params})
    expected = [not (len(table[name].shape) == 1 or name.endswith(".bias")) for name in names]
    assert dict(zip(names, found, strict=True)) == dict(zip(names, expected, strict=True))
    decayed = {name for name, decay in zip(names, found, strict=True) if decay}
    assert {"stages.1.0.act.1.gamma", "stages.1.0.act.1.beta", "stages.1.0.dwconv.dil_conv_k5_1.weight"} <= decayed
    assert not {"stages.1.0.gamma", "norm.weight", "stages.1.0.norm.weight", "stages.1.0.se.up.bias"} & decayed


def adamw_by_hand(params, gradients, rates, b1=0.9, b2=0.999, eps=1e-8, decay=0.05):
    """PyTorch's AdamW in float64; decayed are all but vectors."""
    p = {name: value.astype(np.float64) for name, value in params.items()}
    m, v = ({name: np.zeros_like(value) for name, value in p.items()} for _ in range(2))
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        for name, g in gradient.items():
            g = g.astype(np.float64)
            if p[name].ndim > 1:
                p[name] = p[name] * (1 - rate * decay)
            m[name] = b1 * m[name] + (1 - b1) * g
            v[name] = b2 * v[name] + (1 - b2) * g**2
            p[name] = p[name] - rate * (m[name] / (1 - b1**t)) / (np.sqrt(v[name] / (1 - b2**t)) + eps)
    return p


@pytest.fixture
def problem():
    """Parameters, gradients of four steps, some as small as AdamW's epsilon, and rates, of which the last stays."""
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 4), "bias": (4,), "gamma": (1, 1, 1, 4), "scale": (4,)}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    sizes = [1.0, 1e-4, 1e-7, 1e-8]
    gradients = [{name: (rng.normal(size=s) * sizes).astype(np.float32) for name, s in shapes.items()} for _ in "1234"]
    return params, gradients, [0.1, 0.2, 0.05]


def test_four_steps_of_adamw_by_hand(problem):
    params, gradients, rates = problem
    optimizer = make_optimizer(ADAMW, np.array(rates))
    ours, state = jax.tree.map(jnp.asarray, params), optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, ours)
        ours = optax.apply_updates(ours, updates)
    expected = adamw_by_hand(params, gradients, [*rates, rates[-1]])
    for name, value in expected.items():
        # In float32, 1 - 0.999 is off by 1e-5 of itself; the steps add up to 0.4.
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=5e-6, err_msg=name)


def test_four_steps_of_adamw_in_torch(problem):
    torch = pytest.importorskip("torch")
    params, gradients, rates = problem
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in params.items()}
    groups = [
        {"params": [t for t in tensors.values() if t.ndim > 1], "weight_decay": 0.05},
        {"params": [t for t in tensors.values() if t.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, eps=1e-8)
    for gradient, rate in zip(gradients, [*rates, rates[-1]], strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(gradient[name], dtype=torch.float64)
        optimizer.step()
    for name, value in adamw_by_hand(params, gradients, [*rates, rates[-1]]).items():
        np.testing.assert_allclose(value, tensors[name].numpy(), rtol=1e-12, err_msg=name)


def test_four_steps_of_adam_in_torch_whose_decay_is_a_part_of_the_gradient(problem):
    torch = pytest.importorskip("torch")
    params, gradients, rates = problem
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in params.items()}
    optimizer = torch.optim.Adam(tensors.values(), betas=(0.95, 0.999), eps=1e-8, weight_decay=0.05)
    config = adamw(name="adam", decay_rule="all", b1=0.95)
    ours = jax.tree.map(jnp.asarray, params)
    chain = make_optimizer(config, np.array(rates))
    state = chain.init(ours)
    for gradient, rate in zip(gradients, [*rates, rates[-1]], strict=True):
        optimizer.param_groups[0]["lr"] = rate
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(gradient[name], dtype=torch.float64)
        optimizer.step()
        updates, state = chain.update(gradient, state, ours)
        ours = optax.apply_updates(ours, updates)
    for name, tensor in tensors.items():
        # In float32, 1 - 0.999 is off by 1e-5 of itself; the steps add up to 0.4.
        np.testing.assert_allclose(ours[name], tensor.numpy(), rtol=0, atol=5e-6, err_msg=name)


def test_an_unknown_decay_rule_is_refused():
    with pytest.raises(ValueError, match=r"optim\.decay_rule='none' is not known; expected 'matrices' or 'all'"):
        make_optimizer(adamw(decay_rule="none"), np.ones(3))


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"optim\.name='lion' is not known"):
        make_optimizer(adamw(name="lion"), np.ones(3))


@pytest.mark.parametrize("depth", [6, 8, 18, 27, 40])
def test_layers_are_the_originals_for_every_depth(depth):
    """The table of the original's get_num_layer_for_convnext, by its words: stages.2.b is 3 + b // 3."""
    by_hand = {f"stages_2_{b}/pwconv1/kernel": 3 + b // 3 for b in range(depth)}
    by_hand |= {f"stages_{i}_0/dwconv/lk_origin/kernel": layer for i, layer in ((0, 1), (1, 2), (3, 12))}
    by_hand |= {f"downsample_layers_{i}/norm/scale": layer for i, layer in enumerate((0, 2, 3, 12))}
    by_hand |= {name: 13 for name in ("norm/scale", "head/kernel", "decoder/stages_0_0/kernel", "norm0/scale")}
    by_hand |= {name: 13 for name in ("decode_head/fpn_convs_0/conv/kernel", "auxiliary_head/conv_seg/kernel")}
    assert {name: layer_id(name) for name in by_hand} == by_hand
    assert {name: layer_id(f"backbone/{name}") for name in by_hand} == by_hand


# The published factors of segmentation at rate 0.9, from layer 0 to 13; the small network has nine groups.
TWELVE = [0.254187, 0.28243, 0.313811, 0.348678, 0.38742, 0.430467, 0.478297, 0.531441, 0.59049, 0.6561, 0.729]
TWELVE += [0.81, 0.9, 1]


def layered(depth):
    """Parameters, one for each layer: {name: tensor}."""
    names = [f"stages_2_{block}" for block in range(depth)] + [f"downsample_layers_{i}" for i in range(4)]
    names += ["stages_0_1", "stages_1_2", "stages_3_0"]
    return {"backbone": {name: {"kernel": jnp.zeros((1, 1))} for name in names}, "head": {"kernel": jnp.zeros((1, 1))}}


@pytest.mark.parametrize(
    ("depth", "layer_groups", "scales"), [(27, 12, TWELVE), (18, 9, TWELVE[3:]), (6, 5, TWELVE[7:])]
)
def test_the_number_of_layer_groups_is_the_recipes(depth, layer_groups, scales):
    groups = parameter_groups(layered(depth), 0.9, layer_groups=layer_groups)
    scale = {name: leaf["kernel"].lr_scale for name, leaf in groups["backbone"].items()}
    assert groups["head"]["kernel"] == (layer_groups + 1, 1.0, 0.0)
    found = [scale["downsample_layers_0"], scale["stages_0_1"], scale["stages_1_2"], scale["stages_2_0"]]
    found += [scale[f"stages_2_{block}"] for block in range(3, depth, 3)] + [scale["stages_3_0"], 1.0]
    np.testing.assert_allclose(found, scales, atol=5e-7)  # published to six digits
    assert scale["downsample_layers_1"] == scale["stages_1_2"]
    assert scale["downsample_layers_2"] == scale["stages_2_2"] == scale["stages_2_0"]
    assert scale["downsample_layers_3"] == scale["stages_3_0"] == 0.9


def test_a_trunk_that_is_too_deep_for_the_groups_is_refused():
    with pytest.raises(ValueError, match=r"^optim\.layer_groups=8 are too few: backbone/stages_2_18/kernel belongs to"):
        parameter_groups(layered(19), 0.9, layer_groups=8)
    with pytest.raises(ValueError, match=r"layer_groups=2 .* belongs to group 9; raise it to 9\.$"):  # not to 3, then 4
        parameter_groups(layered(19), 0.9, layer_groups=2)
    assert parameter_groups(layered(18), 0.9, layer_groups=8)["head"]["kernel"].layer == 9


def test_the_optimizer_has_the_recipes_groups():
    params = layered(3)
    optimizer = make_optimizer(adamw(layer_decay=0.5, layer_groups=4), np.array([1.0]))
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    steps = [-float(updates["backbone"][name]["kernel"][0, 0]) for name in ("stages_3_0", "downsample_layers_0")]
    np.testing.assert_allclose(steps, [0.5, 0.5**5], rtol=1e-5)  # in float32, 1 - 0.999 is off by 1e-5 of itself


def test_layer_decay_scales_the_step_and_its_decay():
    params = {"stages_0_0": {"kernel": jnp.ones((2, 2))}, "head": {"kernel": jnp.ones((2, 2))}}
    optimizer = make_optimizer(adamw(layer_decay=0.5, weight_decay=0.1), np.array([0.01]))
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    step = -0.01 * (1 + 0.1)  # AdamW's first step is 1; the decayed parameters are 1
    # In float32, 1 - 0.999 is off by 1e-5 of itself.
    np.testing.assert_allclose(updates["head"]["kernel"], step, rtol=1e-5)
    np.testing.assert_allclose(updates["stages_0_0"]["kernel"], step * 0.5**12, rtol=1e-5)


def test_two_steps_of_adam_with_other_decays_and_eps():
    params = {"bias": jnp.zeros(1)}
    optimizer = make_optimizer(adamw(b1=0.5, b2=0.75, eps=0.5), np.array([1.0]))
    state = optimizer.init(params)
    for gradient in (1.0, 3.0):
        updates, state = optimizer.update({"bias": jnp.array([gradient])}, state, params)
    mean, square = (0.25 * 1 + 0.5 * 3) / 0.75, (0.1875 * 1 + 0.25 * 9) / 0.4375
    np.testing.assert_allclose(updates["bias"], -mean / (math.sqrt(square) + 0.5), rtol=1e-6)


def test_the_gradient_is_clipped_to_its_global_norm():
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    moments = []
    for bound in (0.0, 1.0, 10.0):
        optimizer = make_optimizer(adamw(clip_norm=bound), np.array([0.01]))
        _, state = optimizer.update({"a": jnp.array([3.0]), "b": jnp.array([4.0])}, optimizer.init(params), params)
        moments.append([float(state[1].mu[name][0]) * 10 for name in "ab"])
    np.testing.assert_allclose(moments, [[3, 4], [0.6, 0.8], [3, 4]], rtol=1e-6)


def test_weight_decay_follows_its_own_cosine():
    params = {"kernel": jnp.ones((1, 1))}
    optimizer = make_optimizer(adamw(weight_decay=0.4, weight_decay_end=0.0), np.full(4, 1.0))
    state, found = optimizer.init(params), []
    for _ in range(4):
        updates, state = optimizer.update({"kernel": jnp.zeros((1, 1))}, state, params)
        found.append(-float(updates["kernel"][0, 0]))
    np.testing.assert_allclose(found, 0.2 * (1 + np.cos(np.pi * np.arange(4) / 4)), rtol=1e-6)
