"""Union-find over documents in one array, many edges at a time.

labels, int64: each document's parent, itself for a root. A root is the first of its set.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def roots(labels: Numbers, documents: Numbers) -> Numbers:
    """Return the first document of each document's set; compresses the paths it follows."""
    found = labels[documents]
    while (further := labels[found]).tobytes() != found.tobytes():
        found = further
    labels[documents] = found
    return found


def join(labels: Numbers, first: Numbers, second: Numbers) -> None:
    """Join the sets of first[i] and second[i], for all i; the result does not depend on order."""
    while len(first):
        one, other = roots(labels, first), roots(labels, second)
        apart = one != other
        first, second = first[apart], second[apart]
        low = np.minimum(one[apart], other[apart])
        high = np.maximum(one[apart], other[apart])
        np.minimum.at(labels, high, low)
