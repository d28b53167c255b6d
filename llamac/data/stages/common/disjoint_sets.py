"""Union-find over documents in one array, many edges at a time.

labels: int64 [documents], each document's parent; a root is its own parent, and the first of its
set.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
"""Numbers of documents, int64 [n]."""


def find_roots(labels: Numbers, documents: Numbers) -> Numbers:
    """Return the root of each document's set, int64 [n]; compresses paths in `labels`."""
    parents = labels[documents]
    while (grandparents := labels[parents]).tobytes() != parents.tobytes():
        parents = grandparents
    labels[documents] = parents
    return parents


def union(labels: Numbers, first: Numbers, second: Numbers) -> None:
    """Merge the sets of first[i] and second[i] for all i, in `labels`; the order is irrelevant."""
    while len(first):
        first_roots, second_roots = find_roots(labels, first), find_roots(labels, second)
        distinct = first_roots != second_roots
        first, second = first[distinct], second[distinct]
        low = np.minimum(first_roots[distinct], second_roots[distinct])
        high = np.maximum(first_roots[distinct], second_roots[distinct])
        np.minimum.at(labels, high, low)
