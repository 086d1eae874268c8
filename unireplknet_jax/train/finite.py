"""What a run reports of its steps, and how it stops when numbers stop being finite."""

import math

import numpy as np

GROUP = "grad_norm/"
UPDATE = "update_norm/"  # of the step that a group takes; looked at here, and not reported


def mean_of_finite(window, step, schedule):
    """The means {name: value} of the scalars of some steps, the last of which brought the run to `step` steps.

    window: [{name: value}]; schedule: the learning rate of every step.
    Raises FloatingPointError, naming step, learning rate and parameter groups, if one of them is not finite.
    """
    first = step - len(window)
    for index, scalars in enumerate(window):
        if not all(map(math.isfinite, scalars.values())):
            before = window[index - 1] if index else {}
            raise FloatingPointError(_explain(scalars, before, first + index + 1, schedule[first + index]))
    reported = [name for name in window[0] if not name.startswith(UPDATE)]
    return {name: float(np.mean([scalars[name] for scalars in window])) for name in reported}


def _explain(scalars, before, step, lr):
    bad = [name for name, value in scalars.items() if not math.isfinite(value)]
    names = ", ".join(name for name in bad if not name.startswith((GROUP, UPDATE)))
    if all(name.startswith(UPDATE) for name in bad):
        return (
            f"the update of the parameters stopped being finite at step {step}, learning rate {lr:.3g} (though the "
            f"gradients were; not finite: {_some(bad, UPDATE)}); look at optim.weight_decay, optim.eps and optim.lr, "
            "and resume from the last checkpoint."
        )
    norms = {name.removeprefix(GROUP): value for name, value in before.items() if name.startswith(GROUP)}
    largest = max(norms, key=norms.get, default=None)
    earlier = f"; the largest one of the step before was {norms[largest]:.3g} in {largest}" if largest else ""
    return (
        f"{names or 'a gradient'} stopped being finite at step {step}, learning rate {lr:.3g} (gradients that are not "
        f"finite: {_some(bad, GROUP)}{earlier}); lower optim.lr, lengthen optim.warmup_epochs or set optim.clip_norm, "
        "and resume from the last checkpoint."
    )


def _some(names, prefix):
    """Up to five of the groups among the names."""
    groups = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return (", ".join(groups[:5]) or "none") + (f" and {len(groups) - 5} more" if len(groups) > 5 else "")
