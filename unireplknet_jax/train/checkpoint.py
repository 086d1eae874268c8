"""The train state on disk: Orbax, in the background, the newest few steps, and the facts a resumed run must share."""

import logging

import jax

_log = logging.getLogger(__name__)


class TrainCheckpoints:
    """The numbered train states below workdir/checkpoints.

    facts: {name: value} that decide which example a step sees (batch size, seed); saved with every state and compared
    on restore, because a step number means another position in the data where they differ.
    workdir: an absolute path, of a local folder or a bucket. state: the shapes and shardings of the train state, as
    `step.abstract_state` gives them. keep: how many states stay.
    """

    def __init__(self, workdir, facts, state, keep=2):
        import orbax.checkpoint as ocp

        self._ocp, self._facts, self._state = ocp, facts, state
        self._folder = workdir / "checkpoints"
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, step, state):
        """Write a state in the background; a failure to write an earlier one (a full disk) is raised here."""
        args = self._ocp.args
        facts = {**self._facts, "state": _outline(self._state)}
        composite = args.Composite(state=args.StandardSave(state), facts=args.JsonSave(facts))
        if step != self._manager.latest_step():
            self._manager.save(step, args=composite)

    def restore(self):
        """The newest readable state on the shardings of this run, whatever mesh wrote it; None if there is none.

        A damaged one is reported and moved to checkpoints/damaged. Raises ValueError if facts differ, if the states are
        of another network or optimizer, or if all are damaged.
        """
        steps, failures = sorted(self._manager.all_steps(), reverse=True), []
        for step in steps:
            try:
                facts = self._read(step, "facts", self._ocp.args.JsonRestore())
                self._check(step, facts)
                state = self._read(step, "state", self._ocp.args.StandardRestore(self._state))
            except (_Mismatch, jax.errors.JaxRuntimeError, MemoryError):
                raise
            except Exception as error:  # what a damaged file raises depends on which of its parts is hit
                failures.append(f"step {step} ({str(error).strip().splitlines()[0] if str(error) else error!r})")
                continue
            self._set_aside(steps[: len(failures)], failures)
            return state
        if failures:
            raise ValueError(f"no checkpoint in {self._folder} can be read: {'; '.join(failures)}.")
        return None

    def close(self):
        """Wait for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _read(self, step, item, args):
        return self._manager.restore(step, args=self._ocp.args.Composite(**{item: args}))[item]

    def _check(self, step, facts):
        for name, value in self._facts.items():
            if facts[name] != value:
                raise _Mismatch(
                    f"this run has {name}={value}, but the checkpoint at step {step} was made with {facts[name]}; "
                    "resume with the same value or start in another workdir."
                )
        theirs, ours = facts["state"], _outline(self._state)
        differing = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
        if differing:
            some = ", ".join(differing[:3]) + (f" and {len(differing) - 3} more" if len(differing) > 3 else "")
            raise _Mismatch(
                f"the checkpoint at step {step} is not of the network and optimizer of this recipe (they differ in "
                f"{some}); resume with its own recipe or start in another workdir."
            )

    def _set_aside(self, steps, failures):
        if not steps:
            return
        _log.warning("damaged checkpoints in %s are not used: %s", self._folder, "; ".join(failures))
        if jax.process_index() == 0:
            (self._folder / "damaged").mkdir(exist_ok=True)
            for step in steps:
                _rename_to_free(self._folder / str(step), self._folder / "damaged" / str(step))
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("damaged checkpoints set aside")
        self._manager.reload()


class _Mismatch(ValueError):
    """The checkpoint is whole, but not this run's."""


def _outline(state):
    """{path: "float32[3,4]"} of a train state."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _rename_to_free(source, target):
    number = 0
    while target.exists():
        number += 1
        target = target.with_name(f"{source.name}.{number}")
    source.rename(target)
