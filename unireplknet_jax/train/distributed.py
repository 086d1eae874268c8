"""Several processes as one run: joining, agreeing on a pre-emption, gathering what only process 0 writes."""

import contextlib
import functools
import json
import os
import signal
import threading

import jax
import numpy as np

from unireplknet_jax.train.sharding import replicated

COORDINATOR = "UNIREPLKNET_COORDINATOR"  # host:port of process 0, with the two below
PROCESSES = "UNIREPLKNET_PROCESSES"
PROCESS = "UNIREPLKNET_PROCESS"
AUTO = "UNIREPLKNET_DISTRIBUTED"  # "auto": ask the cluster (Cloud TPU, Slurm, Open MPI, ...), as jax does


def join():
    """Make this process part of a run of several, if the environment says so; before any device is touched.

    launch/*.sh set the variables. Raises ValueError if only some of them are set or are no numbers.
    """
    values = {name: os.environ.get(name) for name in (COORDINATOR, PROCESSES, PROCESS)}
    if any(values.values()):
        missing = [name for name, value in values.items() if not value]
        if missing or not (values[PROCESSES].isdigit() and values[PROCESS].isdigit()):
            what = f"{', '.join(missing)} is missing" if missing else f"{PROCESSES} and {PROCESS} must be numbers"
            raise ValueError(f"the environment describes a run of several processes, but {what}.")
        jax.distributed.initialize(values[COORDINATOR], int(values[PROCESSES]), int(values[PROCESS]))
    elif os.environ.get(AUTO) == "auto":
        jax.distributed.initialize()


class Preempted(Exception):
    """The run was told to stop and has saved what it had done; the same command goes on from there."""


class Preemption:
    """Notices SIGTERM, by which clusters announce that a machine will be taken away.

    Where `join` has told jax of a run, be it of one process, jax's own service takes the signal from then on and lets
    the processes agree on the step at which they stop; otherwise the signal is handled here.
    """

    def __init__(self):
        self._told, self._notice = False, None

    def __enter__(self):
        self._shared = jax.distributed.is_initialized()
        self._alone = not self._shared and threading.current_thread() is threading.main_thread()
        if self._alone:
            self._before = signal.signal(signal.SIGTERM, self._tell)
        return self

    def __exit__(self, *_):
        if self._alone:
            signal.signal(signal.SIGTERM, self._before)

    def _tell(self, *_):
        self._told = True
        self._stop_now()

    def _stop_now(self):
        if self._told and self._notice:
            raise Preempted(self._notice)

    @contextlib.contextmanager
    def at_once(self, notice):
        """Raise `Preempted(notice)` as soon as the signal comes: for waits in which there is nothing to save.

        Where the processes of a run have to agree nothing changes: one that leaves would keep the others waiting.
        """
        self._notice = notice
        try:
            self._stop_now()
            yield
        finally:
            self._notice = None

    def reached(self, step):
        """Whether to save and stop at this step; every process has to ask before the first and after every one."""
        if not self._shared:
            return self._told
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)


def to_host(mesh, tree):
    """Whole arrays as NumPy on process 0, wherever their parts are, None on others; a collective of all processes."""
    whole = _gatherer(mesh)(tree)
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), whole) if jax.process_index() == 0 else None


@functools.cache
def _gatherer(mesh):
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))


def from_first_process(compute):
    """What a function gives on process 0, the only one that calls it, JSON-able, on every process; its error, too.

    The others get a ValueError with the same sentence.
    """
    if jax.process_count() == 1:
        return compute()
    result, failed = [], None
    if jax.process_index() == 0:
        try:
            result = [{"value": compute()}]
        except Exception as error:  # raised below, when the others know of it
            result, failed = [{"error": str(error)}], error
    (result,) = gather_rows(result)
    if failed is not None:
        raise failed
    if "error" in result:
        raise ValueError(result["error"])
    return result["value"]


def gather_rows(rows):
    """The JSON-able rows of all processes, in the order of the processes, on every one of them."""
    if jax.process_count() == 1:
        return rows
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(rows).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([text.size]))[:, 0]
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: text.size] = text
    texts = multihost_utils.process_allgather(padded)
    return [row for one, size in zip(texts, sizes, strict=True) for row in json.loads(one[:size].tobytes())]
