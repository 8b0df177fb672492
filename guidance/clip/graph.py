"""Approximate search of a large index: usearch's graph (HNSW, Malkov & Yashunin 2016), 8 bits a number."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from guidance.errors import InputError
from guidance.media import replacing

#: How many true neighbours of how many pictures are looked for to tell the recall.
NEIGHBOURS, PROBES = 20, 100
#: Neighbours that a search keeps in sight: more find more and take longer.
BREADTH = 512


@cache
def installed() -> bool:
    """Whether usearch is."""
    return find_spec("usearch") is not None


def build(path: Path, slots: Int64[np.ndarray, " n"], vectors: Float32[np.ndarray, "m d"]) -> float:
    """Write the graph of the embeddings of slots (the first is slot 1); returns its recall.

    That is the share of the true 20 nearest of 100 of the embeddings, spread over all, that a search for 20
    finds. A text is farther from all pictures than they are from each other, and its recall may be lower.
    """
    from usearch.index import Index

    graph = Index(ndim=vectors.shape[1], metric="ip", dtype="i8")
    for start in range(0, len(slots), 65536):
        some = slots[start : start + 65536]
        graph.add(some, vectors[some - 1])
    with replacing(path) as temporary:
        graph.save(str(temporary))
    probes = slots[np.linspace(0, len(slots) - 1, PROBES).astype(np.int64)]
    hits = 0
    for probe in probes:
        query = np.array(vectors[probe - 1])
        scores = (vectors @ query)[slots - 1]
        true = slots[np.argpartition(-scores, NEIGHBOURS)[:NEIGHBOURS]]
        near = nearest(path, query, 20 * NEIGHBOURS)
        near = near[np.argsort(-(vectors[near - 1] @ query))][:NEIGHBOURS]
        hits += len(np.intersect1d(true, near))
    return hits / (NEIGHBOURS * PROBES)


def nearest(path: Path, query: Float32[np.ndarray, " d"], count: int) -> Int64[np.ndarray, " k"]:
    """About `count` slots whose embeddings are nearest to a query, from the graph's file in place.

    Raises InputError when the file is gone or broken.
    """
    from usearch.index import Index

    graph = Index(ndim=len(query), metric="ip", dtype="i8", expansion_search=max(BREADTH, count))
    try:
        if not path.is_file():  # to usearch this is an empty graph
            raise FileNotFoundError("it is gone")
        graph.view(str(path))
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"the graph {path} cannot be read ({error}); delete it if it is there, and make it again: "
            f"guidance embed SOURCES --index {path.parent}"
        ) from error
    return graph.search(query, count).keys.astype(np.int64)
