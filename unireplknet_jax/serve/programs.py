"""A checkpoint's network, compiled for batches of a few sizes before anybody waits for one."""

from __future__ import annotations

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from unireplknet_jax.models.prepare import prepare
from unireplknet_jax.tasks.base import Example
from unireplknet_jax.tasks.checkpoint import Checkpoint
from unireplknet_jax.tasks.network import Network
from unireplknet_jax.tasks.predict import predictor

Kind = tuple[tuple[int, ...], ...]  # the shapes of an example's inputs
Prediction = dict[str, np.ndarray]
_MOST_OTHERS = 8  # programs for kinds that the task does not name: somebody could send a thousand
_RUNS, _RUNNING = 5, 1.0  # runs of a program, and seconds of all, of which the quickest tells what a batch costs
_MANY = 10**9  # sources, so that programs are optimized
_log = logging.getLogger(__name__)


def batch_sizes(most: int) -> tuple[int, ...]:
    """1, 2, 4, 8, ... and `most`."""
    return tuple(sorted({*(2**power for power in range(most.bit_length())), most}))


class Programs:
    """The programs of a checkpoint: for each kind that its task names one of every size, for other kinds one of size 1.

    The variables are prepared where a task has one input array, whose map then has one size.
    """

    def __init__(self, checkpoint: Checkpoint, most: int) -> None:
        """most: examples at a time, of which a task with large maps takes fewer (`Task.together`)."""
        self.checkpoint, self.task = checkpoint, checkpoint.task
        specs = self.task.specs(train=False)
        self.inputs: dict[str, jax.ShapeDtypeStruct] = dict(specs[0].inputs)
        self.kinds: dict[Kind, dict[str, jax.ShapeDtypeStruct]] = {
            tuple(leaf.shape for leaf in spec.inputs.values()): dict(spec.inputs) for spec in specs
        }
        self.sizes = batch_sizes(min(most, self.task.together))
        self.outputs: dict[str, tuple[tuple[int, ...], np.dtype]] = {}  # of one example; -1 where kinds differ
        self.compiled = 0
        self._seconds: dict[tuple[Kind, int], float] = {}  # of a batch, once its program is warm
        self._networks: dict[tuple[Kind, int], Network] = {}
        self._others: collections.OrderedDict[Kind, Network] = collections.OrderedDict()
        self._lock = threading.Lock()

    def kind_of(self, example: Example) -> Kind:
        """The shapes of an example's inputs."""
        return tuple(np.shape(example[name]) for name in self.inputs)

    def warm(self) -> None:
        """Compile the programs of all kinds that the task names, run each, and measure how long it takes then.

        An artefact may take some of these kinds alone; ValueError where it takes none.
        """
        for kind, inputs in [*self.kinds.items()]:
            try:
                self._warm(kind, inputs)
            except ValueError:
                if self.checkpoint.variables or len(self.kinds) == 1:
                    raise
                del self.kinds[kind]

    def _warm(self, kind: Kind, inputs: Mapping[str, jax.ShapeDtypeStruct]) -> None:
        zeros = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in inputs.items()}
        for name in [name for name in zeros if name.startswith("size")]:
            zeros[name] = np.ones_like(zeros[name])  # nothing can be computed of a picture without pixels
        for size in self.sizes:
            network = self._networks[kind, size] = self._network(kind, size)
            found = network([zeros] * size, _MANY)
            times: list[float] = []
            while len(times) < _RUNS and sum(times) < _RUNNING:
                began = time.perf_counter()
                network([zeros] * size, _MANY)
                times.append(time.perf_counter() - began)
            self._seconds[kind, size] = min(times)
            self.compiled += 1
        for name, value in found[0].items():
            shape, _ = self.outputs.get(name, (value.shape, value.dtype))
            same = tuple(a if a == b else -1 for a, b in zip(shape, value.shape, strict=True))
            self.outputs[name] = same, value.dtype

    def _network(self, kind: Kind, size: int) -> Network:
        return predictor(self._prepared(kind), size)

    def _prepared(self, kind: Kind) -> Checkpoint:
        variables = self.checkpoint.variables
        if len(self.inputs) > 1 or not self.checkpoint.merged or not variables:  # there are none of an artefact
            return self.checkpoint
        ((name, leaf),) = self.inputs.items()
        batch = {name: jax.ShapeDtypeStruct((1, *kind[0]), leaf.dtype)}
        (maps,) = jax.eval_shape(self.task.inputs, batch)
        return dataclasses.replace(self.checkpoint, variables=prepare(variables, maps.shape[1:3]))

    def is_warm(self, kind: Kind) -> bool:
        """Whether a batch of this kind can run at once."""
        return kind in self.kinds or kind in self._others

    def size_for(self, kind: Kind, waiting: int) -> int:
        """The size of the next batch: that with the least time for each example that really is there."""
        if kind not in self.kinds:
            return 1
        return min(self.sizes, key=lambda size: (self._seconds[kind, size] / min(size, waiting), -size))

    def most(self, kind: Kind) -> int:
        """Examples of a kind that can go together."""
        return self.sizes[-1] if kind in self.kinds else 1

    def run(self, kind: Kind, size: int, examples: Sequence[Example]) -> list[Prediction]:
        """What the network says of up to `size` examples of a kind, the batch filled up with the last of them."""
        filled = [*examples, *[examples[-1]] * (size - len(examples))]
        if kind in self.kinds:
            return self._networks[kind, size](filled, _MANY)[: len(examples)]
        network = self._others.get(kind)
        if network is None:
            _log.info("compiling for inputs of the shapes %s, of which none has come before", kind)
            network = self._network(kind, size)
            self.compiled += 1
        found = network(filled, _MANY)[: len(examples)]
        with self._lock:  # only now is it warm
            self._others[kind] = network
            self._others.move_to_end(kind)
            while len(self._others) > _MOST_OTHERS:  # the one that was used longest ago
                self._others.popitem(last=False)
        return found
