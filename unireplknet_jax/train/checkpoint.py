"""The train state on disk: Orbax, in the background, the newest few steps, and the facts a resumed run must share."""

import json
import logging
import pathlib
import re

import jax

from unireplknet_jax.data.base import listed
from unireplknet_jax.models.directory import this_process
from unireplknet_jax.train.checksums import verify_checksums, write_checksums
from unireplknet_jax.train.distributed import gather_rows

_log = logging.getLogger(__name__)
_WHOLE, _DAMAGED, _OUT_OF_REACH, _NOT_OURS = range(4)  # what a process finds, the worse the larger
_SHARED_FROM = 2**20  # bytes of an array for each device that has it, from which they share the writing
_PASSING = re.compile(
    r"\b(UNAVAILABLE|PERMISSION_DENIED|UNAUTHENTICATED|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED|CANCELLED): "
)


class TrainCheckpoints:
    """The numbered train states below workdir/checkpoints.

    facts: {name: value} that decide which example a step sees (batch size, seed); saved with every state and compared
    on restore, because a step number means another position in the data where they differ.
    workdir: an absolute path, of a local folder or a bucket. state: the shapes and shardings of the train state, as
    `step.abstract_state` gives them. keep: how many states stay.

    In a local folder, every state has checksums of its files, written before it counts as saved. A bucket checks what
    it stores by itself.
    """

    def __init__(self, workdir, facts, state, keep=2):
        import orbax.checkpoint as ocp

        self._ocp, self._facts, self._state = ocp, facts, state
        self._folder = workdir / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        # Where every device has a whole array, each would write its part of it, by a program of its own for every shape
        # and part: seconds of compilation at the first state, which pay for large arrays alone.
        arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=_SHARED_FROM)
        registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
        states = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
        handlers = {"state": states, "facts": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self._folder, options=options, item_handlers=handlers)
        self._saving = None

    def save(self, step, state):
        """Write a state in the background; a failure to write an earlier one (a full disk) is raised here."""
        args = self._ocp.args
        facts = {**self._facts, "state": _outline(self._state)}
        composite = args.Composite(state=args.PyTreeSave(state), facts=args.JsonSave(facts))
        if step != self._manager.latest_step():
            self._manager.wait_until_finished()
            self._saving = step
            self._manager.save(step, args=composite)

    def _seal(self):
        """In the background, on process 0: all files of a state are there, and it does not count as saved yet."""
        if self._is_local():
            (unfinished,) = self._folder.glob(f"{self._saving}.orbax-checkpoint-tmp*")
            write_checksums(unfinished)

    def _is_local(self):
        return isinstance(self._folder, pathlib.Path)

    def restore(self):
        """The newest readable state on the shardings of this run, whatever mesh wrote it; None if there is none.

        Every process reads its part alone, and all of them take a state only if each could. A damaged state is
        reported and moved to checkpoints/damaged. Raises ValueError if facts differ, if the states are of another
        network or optimizer, or if all are damaged; OSError if one cannot be read for now.
        """
        (steps, *_), failures = gather_rows([sorted(self._manager.all_steps(), reverse=True)]), []
        for step in steps:
            state, *verdict = self._read(step)
            found, text = max(gather_rows([verdict]))
            if found == _WHOLE:
                self._set_aside(steps[: len(failures)], failures)
                return state
            if found == _NOT_OURS:
                raise ValueError(text)
            if found == _OUT_OF_REACH:
                raise OSError(
                    f"the checkpoint at step {step} in {self._folder} could not be read ({text}); nothing was moved, "
                    "run the same command again when it can be."
                )
            failures.append(f"step {step} ({text})")
            state = None  # or two of them would have to fit
        if failures:
            raise ValueError(
                f"no checkpoint in {self._folder} can be read: {'; '.join(failures)}; put back a copy of one, or start "
                "in another workdir."
            )
        return None

    def close(self):
        """Wait for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _read(self, step):
        """(state or None, finding, sentence) of this process, without a word with the others."""
        folder = self._folder / str(step)
        try:
            self._check(step, json.loads((folder / "facts" / "metadata").read_text()))
            if self._is_local():
                verify_checksums(folder, jax.process_index(), jax.process_count())
            with self._ocp.StandardCheckpointer(multiprocessing_options=this_process()) as checkpointer:
                return checkpointer.restore(folder / "state", self._state), _WHOLE, ""
        except _Mismatch as error:
            return None, _NOT_OURS, str(error)
        except Exception as error:  # what a damaged file raises depends on which of its parts is hit
            if type(error) is Exception and error.__cause__:  # Orbax's, around what TensorStore says
                error = error.__cause__
            return None, _kind(error), self._reason(step, error)

    def _reason(self, step, error):
        """A short sentence, the paths in it relative to the state's folder."""
        text = str(error.args[0]) if error.args else ""
        if isinstance(error, OSError) and error.strerror:
            text = f"{error.filename}: {error.strerror}"
        elif isinstance(error, KeyError):
            text = f"there is no {text!r} in it"
        text = (text.strip().splitlines() or [type(error).__name__])[0].replace(f"{self._folder / str(step)}/", "")
        return text if len(text) <= 120 else f"{text[:117]}..."

    def _check(self, step, facts):
        for name, value in self._facts.items():
            before = facts.get(name, value)
            if before != value and isinstance(value, dict):
                raise _Mismatch(
                    f"the {name} are others than those that the checkpoint at step {step} was made with: "
                    f"{listed(_changed(before, value))}; resume with the same or start in another workdir."
                )
            if before != value:
                if isinstance(value, list):  # what is the same in both says nothing
                    same = {*before} & {*value}
                    before, value = (listed([n for n in names if n not in same] or names) for names in (before, value))
                raise _Mismatch(
                    f"this run has {name}={value}, but the checkpoint at step {step} was made with {before}; resume "
                    "with the same value or start in another workdir."
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


def _changed(before, now):
    """What differs between two {group: [count, checksum of names]}, "wren (30, now 31)", in the order of the first."""
    for group in [*before, *(group for group in now if group not in before)]:
        was, has = before.get(group, [0, 0]), now.get(group, [0, 0])
        if was[0] != has[0]:
            yield f"{group} ({was[0]:,}, now {has[0]:,})"
        elif was != has:
            yield f"{group} ({has[0]:,}, but with other names)"


class _Mismatch(ValueError):
    """The checkpoint is whole, but not this run's."""


def _kind(error):
    """Whether an error in reading means damage, or what may pass: a network, a permission."""
    kinds = (ValueError, LookupError, TypeError, AttributeError)
    gone = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
    return _DAMAGED if isinstance(error, kinds + gone) and not _PASSING.search(str(error)) else _OUT_OF_REACH


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


def saved_so_far(workdir):
    """The rest of a sentence: up to which step a run can go on from what is in its workdir."""
    if "://" in str(workdir):
        return f"the run goes on from what is saved in {workdir}."
    steps = [int(path.name) for path in pathlib.Path(workdir, "checkpoints").glob("*") if path.name.isdigit()]
    if not steps:
        return "no step was saved yet."
    return f"step {max(steps)} is saved in {workdir}, from which the same command goes on."
