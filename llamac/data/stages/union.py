"""Connected sets of documents, as a forest in one array, many edges at a time.

labels, int64: each document's parent, itself for a root. A root is the first of its set.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def roots(labels: Numbers, documents: Numbers) -> Numbers:
    """The first document of the set that each one is in; shortens the way for the next time."""
    found = labels[documents]
    while (further := labels[found]).tobytes() != found.tobytes():
        found = further
    labels[documents] = found
    return found


def join(labels: Numbers, first: Numbers, second: Numbers) -> None:
    """Joins the sets of first[i] and second[i], for all i; the outcome knows no order."""
    while len(first):
        one, other = roots(labels, first), roots(labels, second)
        apart = one != other
        first, second = first[apart], second[apart]
        low = np.minimum(one[apart], other[apart])
        high = np.maximum(one[apart], other[apart])
        np.minimum.at(labels, high, low)
