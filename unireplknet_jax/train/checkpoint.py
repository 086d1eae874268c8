"""The train state on disk: Orbax, the newest few steps, and the facts a resumed run must share with the first."""

import pathlib

import jax


class TrainCheckpoints:
    """The numbered train states below workdir/checkpoints.

    facts: {name: value} that decide which example a step sees (batch size, seed); saved with every state and compared
    on restore, because a step number means another position in the data where they differ.
    """

    def __init__(self, workdir, facts, keep=2):
        import orbax.checkpoint as ocp

        self._ocp, self._facts = ocp, facts
        options = ocp.CheckpointManagerOptions(max_to_keep=keep)
        self._manager = ocp.CheckpointManager((pathlib.Path(workdir) / "checkpoints").absolute(), options=options)

    def save(self, step, state):
        """Write a state in the background."""
        args = self._ocp.args
        composite = args.Composite(state=args.StandardSave(state), facts=args.JsonSave(self._facts))
        if step != self._manager.latest_step():
            self._manager.save(step, args=composite)

    def restore(self, state, shardings):
        """The newest state on the given shardings, or `state` itself if there is none.

        Raises ValueError if facts differ or the saved state is of another network or optimizer.
        """
        step = self._manager.latest_step()
        if step is None:
            return state
        args = self._ocp.args
        facts = self._manager.restore(step, args=args.Composite(facts=args.JsonRestore()))["facts"]
        for name, value in self._facts.items():
            if facts.get(name) != value:
                raise ValueError(
                    f"this run has {name}={value}, but the checkpoint at step {step} was made with {facts.get(name)}; "
                    "resume with the same value or start in another workdir."
                )
        like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)
        try:
            return self._manager.restore(step, args=args.Composite(state=args.StandardRestore(like)))["state"]
        except ValueError as error:
            raise ValueError(
                f"the checkpoint at step {step} is not of the network and optimizer of this recipe "
                f"({str(error).splitlines()[0]}); resume with its own recipe or start in another workdir."
            ) from None

    def close(self):
        """Wait for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()
