"""What is reported of a window of steps, and what is said when a number stops being finite."""

import math

import pytest

from unireplknet_jax.train.finite import mean_of_finite

SCHEDULE = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def test_a_window_is_reported_by_its_means():
    window = [{"loss": 1.0, "grad_norm/head": 3.0}, {"loss": 2.0, "grad_norm/head": 7.0}]
    assert mean_of_finite(window, 2, SCHEDULE) == {"loss": 1.5, "grad_norm/head": 5.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("index", "step", "lr"), [(0, 3, 0.3), (1, 4, 0.4), (2, 5, 0.5)])
def test_the_first_bad_step_of_a_window_is_named(bad, index, step, lr):
    window = [{"loss": bad if place >= index else 1.0} for place in range(3)]
    message = f"^loss stopped being finite at step {step}, learning rate {lr:.3g} "
    with pytest.raises(FloatingPointError, match=message):
        mean_of_finite(window, 5, SCHEDULE)


def test_the_groups_and_the_largest_gradient_before_are_named():
    window = [
        {"loss": 1.0, "grad_norm": 5.0, "grad_norm/stem": 3.0, "grad_norm/head": 4.0},
        {"loss": math.nan, "grad_norm": math.nan, "grad_norm/stem": 2.0, "grad_norm/head": math.inf},
    ]
    with pytest.raises(FloatingPointError) as caught:
        mean_of_finite(window, 6, SCHEDULE)
    assert str(caught.value) == (
        "loss, grad_norm stopped being finite at step 6, learning rate 0.6 (gradients that are not finite: head; the "
        "largest one of the step before was 4 in head); lower optim.lr, lengthen optim.warmup_epochs or set "
        "optim.clip_norm, and resume from the last checkpoint."
    )


def test_many_groups_are_counted():
    with pytest.raises(FloatingPointError, match=r"not finite: g0, g1, g2, g3, g4 and 2 more\)"):
        mean_of_finite([{f"grad_norm/g{index}": math.nan for index in range(7)}], 1, SCHEDULE)


def test_without_a_step_before_and_without_groups_less_is_said():
    message = r"^loss stopped .* at step 1, learning rate 0\.1 \(gradients that are not finite: none\); lower"
    with pytest.raises(FloatingPointError, match=message):
        mean_of_finite([{"loss": math.nan, "grad_norm/head": 1.0}], 1, SCHEDULE)


def test_a_gradient_alone_is_called_one():
    with pytest.raises(FloatingPointError, match=r"^a gradient stopped being finite .* not finite: head"):
        mean_of_finite([{"loss": 1.0, "grad_norm/head": math.inf}], 1, SCHEDULE)


def test_an_update_alone_is_called_one():
    scalars = {
        "loss": 1.0,
        "grad_norm": 2.0,
        "grad_norm/head": 2.0,
        "update_norm/head": math.nan,
        "update_norm/stem": 1.0,
    }
    with pytest.raises(FloatingPointError) as caught:
        mean_of_finite([scalars], 4, SCHEDULE)
    assert str(caught.value) == (
        "the update of the parameters stopped being finite at step 4, learning rate 0.4 (though the gradients were; "
        "not finite: head); look at optim.weight_decay, optim.eps and optim.lr, and resume from the last checkpoint."
    )


def test_finite_updates_are_not_reported():
    assert mean_of_finite([{"loss": 1.0, "update_norm/head": 3.0}], 1, SCHEDULE) == {"loss": 1.0}
