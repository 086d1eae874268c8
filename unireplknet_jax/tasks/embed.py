"""Embeddings of what a user gives: the pooled features of a network's trunk, before any classifier."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unireplknet_jax.data.broken import check_policy
from unireplknet_jax.data.files import source_name, write_npz
from unireplknet_jax.models.shapes import trunk_of
from unireplknet_jax.tasks.base import Batch
from unireplknet_jax.tasks.checkpoint import Checkpoint
from unireplknet_jax.tasks.network import Network
from unireplknet_jax.tasks.predict import log_skipped, merged_once
from unireplknet_jax.tasks.sources import in_chunks, sources_of


@dataclasses.dataclass(frozen=True, eq=False)
class Embedding:
    """The vector (c,) of one source, or why it could not be read."""

    source: str
    vector: np.ndarray | None
    error: str | None = None


def embed(checkpoint: Any, inputs: Any, *, broken: str = "refuse", batch_size: int = 8) -> np.ndarray:
    """(n, c) float32: for each input the last map of the trunk, averaged over its positions, before the classifier.

    The trunk is the network itself or, in one with layers around it, what is called `backbone` there. Windows, views
    and poses of one input are averaged. checkpoint, inputs, batch_size: as of `predict`, and as there a merged form is
    computed. broken: "refuse" raises ValueError for the first input that cannot be read; "skip" logs it and gives NaN.

    Raises ValueError for a forecaster: its trunk sees each group of stations as a map of its own.
    """
    check_policy(broken)
    sources, merged = sources_of(inputs), merged_once(checkpoint)
    key = "embed", batch_size
    network = merged.cache[key] = merged.cache.get(key) or embedder(merged, batch_size)
    vectors = np.full((len(sources), trunk_of(merged.module).dims[-1]), np.nan, np.float32)
    for index, embedding in enumerate(embed_files(merged, sources, batch_size, network, broken)):
        log_skipped(sources[index], index, embedding.error)
        if embedding.vector is not None:
            vectors[index] = embedding.vector
    return vectors


def embed_files(
    checkpoint: Checkpoint,
    sources: Sequence[Any],
    batch_size: int = 8,
    network: Network | None = None,
    broken: str = "skip",
) -> Iterator[Embedding]:
    """Yield an `Embedding` for every source, in order, in the form of the checkpoint; arguments as `predict_files`."""
    network, count = network or embedder(checkpoint, batch_size), len(sources)
    for chunk in in_chunks(checkpoint.task, sources, batch_size, broken):
        found = iter(network([example for reading in chunk for example in reading.examples], count))
        for reading in chunk:
            vectors = [next(found)["features"] for _ in reading.examples]
            yield Embedding(source_name(reading.source), np.mean(vectors, axis=0) if vectors else None, reading.error)


def embedder(checkpoint: Checkpoint, batch_size: int = 8) -> Network:
    """The network of a checkpoint as it embeds."""
    task = checkpoint.task

    def apply(module: nn.Module, variables: Mapping[str, Any], inputs: Batch) -> dict[str, jax.Array]:
        return {"features": task.features(lambda *arguments: _pooled(module, *arguments), variables, inputs)}

    return Network(checkpoint, apply, batch_size)


def _pooled(module: nn.Module, variables: Mapping[str, Any], *inputs: jax.Array) -> jax.Array:
    """(rows, c) float32: the mean over the positions of the last map of a network's trunk."""
    if trunk_of(module) is module:
        last = module.apply(variables, *inputs, method="features")[-1]
    else:
        _, found = module.apply(
            variables,
            *inputs,
            capture_intermediates=lambda layer, method: layer.name == "backbone" and method == "__call__",
            mutable=["intermediates"],
        )
        (last,) = found["intermediates"]["backbone"]["__call__"]
    return jnp.mean(last, axis=(1, 2), dtype=jnp.float32)


def write_embeddings(path: str | os.PathLike[str], files: Sequence[str], vectors: Sequence[np.ndarray]) -> None:
    """Write "embeddings" (n, c) and "files" (n,), the names of what they are of, to one .npz, whole or not at all."""
    write_npz(path, embeddings=np.stack(vectors), files=np.array(files, str))
