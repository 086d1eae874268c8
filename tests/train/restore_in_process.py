"""A process that saves or restores train states with others: python restore_in_process.py WORKDIR WHAT.

WHAT: "save" writes the steps 1, 2 and 3; with "damaged" and "out of reach" process 1 alone finds the newest step so,
and the step that came back is printed.
"""

import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from linear import Linear, adamw

from unireplknet_jax.train.checkpoint import TrainCheckpoints
from unireplknet_jax.train.distributed import join
from unireplknet_jax.train.optimizer import make_optimizer
from unireplknet_jax.train.sharding import make_mesh
from unireplknet_jax.train.step import abstract_state, make_state


def main(workdir, what):
    join()
    optimizer, mesh = make_optimizer(adamw(), np.full(3, 1e-2)), make_mesh()
    checkpoints = TrainCheckpoints(Path(workdir), {"seed": 0}, abstract_state(Linear(), optimizer, mesh), 3)
    if what == "save":
        state = make_state(Linear(), optimizer, mesh, seed=0)
        for step in (1, 2, 3):
            state = {**state, "step": state["step"] + 1}
            checkpoints.save(step, state)
    else:
        if jax.process_index() == 1:
            _make_trouble(what)
        try:
            print("restored step", int(checkpoints.restore()["step"]))
        except OSError as error:
            print("OSError:", error)
    checkpoints.close()


def _make_trouble(what):
    """Let the first thing that is read be damaged, or out of reach."""
    real, calls = ocp.StandardCheckpointer.restore, []

    def restore(*args):
        calls.append(args)
        if len(calls) == 1:
            raise {"damaged": ValueError("DATA_LOSS: as if"), "out of reach": ValueError("UNAVAILABLE: as if")}[what]
        return real(*args)

    ocp.StandardCheckpointer.restore = restore


if __name__ == "__main__":
    main(*sys.argv[1:])
