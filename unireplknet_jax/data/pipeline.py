"""Batches from random-access sources, a function of (seed, position) alone.

The order is fixed: shuffle, repeat, random_map, and only then the rows of a process. So an example's shuffle position
and its random draws depend on the seed and on its index in the endless stream, not on hosts, workers or threads, and
global batch s is always rows [s * batch_size, (s + 1) * batch_size): the step is the only state there is to save.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import grain

Example = Mapping[str, Any]
Batch = dict[str, Any]  # arrays (n, ...), and lists of what is not stacked


def training_stream(source: Any, augment: Callable[[Any, np.random.Generator], Any], seed: int) -> grain.MapDataset:
    """The endless, shuffled and augmented stream over a source: another order and other draws in every epoch.

    source: `__len__` and `__getitem__`, as `open_source` returns it, or a grain.MapDataset.
    augment: (example, rng) -> example; rng is good for this call only. Picklable, if worker processes are to run it.
    seed: 0 .. 2**32 - 1.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}; expected an integer from 0 to 2**32 - 1")
    return _map_dataset(source).seed(seed).shuffle().repeat(None).random_map(augment)


@dataclasses.dataclass(frozen=True, eq=False)
class ShapedStream:
    """The endless stream of `training_stream` for examples of several shapes: `in_batches` puts equal ones together.

    source, seed: as of `training_stream`.
    augment: (element, rng) -> example, as there; the rng depends on the seed, the epoch and the element's index.
    key: (index, rng) -> what tells the shape of the example apart that `augment` makes with the same rng; it is asked
        for every example of an epoch before any is made, so it must not decode.
    """

    source: Sequence[Any]
    augment: Callable[[Any, np.random.Generator], Example]
    key: Callable[[int, np.random.Generator], Hashable]
    seed: int

    def __len__(self) -> int:
        return sys.maxsize

    def in_batches(self, batch_size: int) -> grain.MapDataset:
        """The stream in an order in which rows [s * batch_size, (s + 1) * batch_size) have one shape, for every s.

        An epoch has len(source) // batch_size batches, a function of the seed, its number and the batch size. What of a
        shape fills no batch is left over. As many batches as the epoch still lacks are made of such rests, filled up
        with examples of their shape; which rests, is drawn by how large they are.
        """
        import grain

        if len(self.source) < batch_size:
            raise ValueError(f"batch_size is {batch_size}, but there are {len(self.source)} examples; lower it")
        return grain.MapDataset.source(_InBatches(self, batch_size))

    def rng(self, epoch: int, index: int) -> np.random.Generator:
        """The generator of an element in an epoch, at its start."""
        return np.random.default_rng((self.seed, epoch, index))


@dataclasses.dataclass(frozen=True, eq=False)
class _InBatches:
    """What `ShapedStream.in_batches` returns, by its position."""

    stream: ShapedStream
    batch_size: int

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, position: int) -> Example:
        stream, steps = self.stream, len(self.stream.source) // self.batch_size
        batch, row = divmod(position, self.batch_size)
        epoch, batch = divmod(batch, steps)
        with _planning:  # threads that come to an epoch together wait for one plan
            index = int(_epoch_plan(stream, epoch, self.batch_size)[batch, row])
        return stream.augment(stream.source[index], stream.rng(epoch, index))


_planning = threading.Lock()


@functools.lru_cache(maxsize=4)
def _epoch_plan(stream: ShapedStream, epoch: int, batch_size: int) -> np.ndarray:
    """(batches, batch_size) int: which examples an epoch's batches hold."""
    rng = np.random.default_rng((stream.seed, epoch))
    order = rng.permutation(len(stream.source)).tolist()
    groups = [np.array(order)[own] for own in _by_key([stream.key(i, stream.rng(epoch, i)) for i in order])]
    whole = [group[: len(group) // batch_size * batch_size].reshape(-1, batch_size) for group in groups]
    rests = np.array([len(group) % batch_size for group in groups])
    lacking = len(order) // batch_size - sum(map(len, whole))
    for number in rng.choice(len(groups), lacking, replace=False, p=rests / rests.sum()) if lacking else ():
        whole.append(np.resize(np.roll(groups[number], rests[number]), batch_size)[None])
    return rng.permutation(np.concatenate(whole))


def train_batches(
    stream: grain.MapDataset | ShapedStream,
    batch_size: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    workers: int = 0,
    arrays: Collection[str] | None = None,
) -> Iterator[Batch]:
    """This process's rows of the global batches start_step, start_step + 1, ... of a stream.

    Each entry of an example becomes (batch_size / process_count, ...): arrays keep their dtype, Python integers become
    int32 and floats float32. A finite stream ends with its last full global batch.

    batch_size: rows of a global batch, over all processes; must be a multiple of process_count.
    num_threads: batches that are built at the same time in each process (0: when they are asked for).
    workers: processes that build batches (0: this one builds them), each with `num_threads` threads. The
        threads of one process share its GIL: decoding and resizing run beside each other, the Python around them does
        not, so a host with many cores needs workers. They import the main module again, which therefore
        needs its `if __name__ == "__main__"`; call the iterator's `close()` at the end.
    arrays: the entries that are stacked, None: all; others become lists.
    """
    rows = _rows_per_process(batch_size, process_index, process_count)
    if start_step < 0:
        raise ValueError(f"start_step is {start_step}; expected 0 or a positive step")
    if isinstance(stream, ShapedStream):
        stream = stream.in_batches(batch_size)
    steps = len(stream) // batch_size
    if start_step > steps:
        raise ValueError(f"start_step is {start_step}, but the stream has {steps} full batches; start earlier")
    # Batches of `rows` are contiguous, so process p of P owns every P-th of them, beginning with the p-th.
    batches = stream.batch(rows, drop_remainder=True, batch_fn=functools.partial(_stack, arrays=arrays))
    batches = batches[start_step * process_count + process_index : steps * process_count : process_count]
    return _built(batches, num_threads, workers)


def eval_batches(
    dataset: Sequence[Example],
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    workers: int = 0,
    arrays: Collection[str] | None = None,
    keys: Sequence[Hashable] | None = None,
) -> Iterator[Batch]:
    """This process's rows of all batches of a dataset: over all processes every example once, in order.

    Every process gets ceil(len(dataset) / batch_size) batches of batch_size / process_count rows. The last ones are
    filled up with zeros; the added entry "mask", (n,) float32, is 1 on examples and 0 on such filling.

    batch_size: rows of a global batch, over all processes; must be a multiple of process_count.
    num_threads, workers, arrays: as of `train_batches`.
    keys: (len(dataset),) what tells examples of several shapes apart. A batch holds examples of one key: those of the
        key seen first come first, and the last batches of every key are filled up.
    """
    import grain

    rows = _rows_per_process(batch_size, process_index, process_count)
    examples = _map_dataset(dataset)
    if len(examples) == sys.maxsize:
        raise ValueError("the evaluation dataset repeats without end; expected one pass, without repeat()")
    if keys is not None and len(keys) != len(examples):
        raise ValueError(f"there are {len(keys)} keys for {len(examples)} examples; expected one for each")
    masked = examples.map(_with_mask)
    groups = [masked] if keys is None else [grain.MapDataset.source(_Chosen(masked, own)) for own in _by_key(keys)]
    stack = functools.partial(_stack, arrays=arrays)
    batches = [_filled(group, batch_size, arrays).batch(rows, batch_fn=stack) for group in groups]
    whole = batches[0] if len(batches) == 1 else grain.MapDataset.concatenate(batches)
    return _built(whole[process_index::process_count], num_threads, workers)


def _by_key(keys: Sequence[Hashable]) -> list[list[int]]:
    """The indices of every key, that of the first example first."""
    found: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        found.setdefault(key, []).append(index)
    return list(found.values())


@dataclasses.dataclass(frozen=True, eq=False)
class _Chosen:
    """Some examples of a dataset."""

    dataset: grain.MapDataset
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.dataset[self.indices[index]]


def _filled(examples: grain.MapDataset, batch_size: int, arrays: Collection[str] | None) -> grain.MapDataset:
    """The examples, and zeros up to whole batches."""
    import grain

    padding = -len(examples) % batch_size
    if not padding:
        return examples
    blank = {
        name: np.zeros_like(_as_array(name, value)) if arrays is None or name in arrays else None
        for name, value in examples[0].items()
    }
    return grain.MapDataset.concatenate([examples, grain.MapDataset.source([blank]).repeat(padding)])


def _built(batches: grain.MapDataset, num_threads: int, workers: int) -> Iterator[Batch]:
    """The batches of a dataset in order, built by threads of this process or of `workers` others."""
    import grain

    dataset = batches.to_iter_dataset(_read_options(num_threads))
    if workers:
        from absl import flags

        if not flags.FLAGS.is_parsed():  # grain reads a flag of its own as it starts workers
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
    return iter(dataset)


def _map_dataset(source: Sequence[Example]) -> grain.MapDataset:
    import grain

    dataset = source if isinstance(source, grain.MapDataset) else grain.MapDataset.source(source)
    if len(dataset) == 0:
        raise ValueError("the dataset is empty; expected at least one example, check its folder and split")
    return dataset


def _rows_per_process(batch_size: int, process_index: int, process_count: int) -> int:
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size is {batch_size} for {process_count} processes; expected a multiple of the process count"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index is {process_index}; expected 0 to {process_count - 1}")
    return batch_size // process_count


def _read_options(num_threads: int) -> grain.ReadOptions:
    import grain

    # Grain's defaults, 16 threads and 500 batches, would hold gigabytes of images.
    return grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads and max(2, num_threads))


def _with_mask(example: Example) -> dict[str, Any]:
    if "mask" in example:
        raise ValueError('an example has an entry "mask", which marks padding in evaluation; give it another name')
    return {**example, "mask": np.float32(1)}


def _stack(examples: Sequence[Example], arrays: Collection[str] | None = None) -> Batch:
    names = set(examples[0])
    for example in examples:
        if set(example) != names:
            raise ValueError(f"examples have entries {sorted(names)} and {sorted(example)}; expected the same in all")
    batch = {}
    for name in examples[0]:
        if arrays is not None and name not in arrays:
            batch[name] = [example[name] for example in examples]
            continue
        values = [_as_array(name, example[name]) for example in examples]
        kinds = sorted({f"{value.dtype} {value.shape}" for value in values})
        if len(kinds) > 1:
            raise ValueError(f'entry "{name}" is {" and ".join(kinds)}; expected one dtype and shape in all examples')
        batch[name] = np.stack(values)
    return batch


def _as_array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, bool) or (isinstance(value, np.ndarray | np.generic) and value.dtype.kind not in "OUSMm"):
        return np.asarray(value)
    if isinstance(value, int) and -(2**31) <= value < 2**31:
        return np.asarray(value, np.int32)
    if isinstance(value, float):
        return np.asarray(value, np.float32)
    raise ValueError(
        f'entry "{name}" is {value!r:.80} ({type(value).__name__}); expected an array, a float or an int of 32 bits'
    )
