"""Hash table from 64-bit keys to float32 values, as arrays that can be memory-mapped.

Open addressing with linear probing; whole arrays of keys are looked up at a time. Keys must be well
mixed hashes; 0 marks an empty slot.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]


def build(keys: Keys, values: NDArray[np.float32]) -> tuple[Keys, NDArray[np.float32]]:
    """Build a table: keys [n], distinct, and values [n, k] → slots [m], values [m, k].

    m is the least power of 2 that is 2n or more.
    """
    bits = max(1, int(2 * len(keys) - 1).bit_length())
    slots = np.zeros(1 << bits, np.uint64)
    stored = np.zeros((1 << bits, values.shape[1]), np.float32)
    waiting, at = np.arange(len(keys)), _home(keys, bits)
    while len(waiting):
        free = slots[at] == 0
        _, first = np.unique(at[free], return_index=True)
        placed = np.flatnonzero(free)[first]
        slots[at[placed]] = keys[waiting[placed]]
        stored[at[placed]] = values[waiting[placed]]
        left = np.ones(len(waiting), bool)
        left[placed] = False
        waiting, at = waiting[left], (at[left] + 1) & (len(slots) - 1)
    return slots, stored


def find(slots: Keys, keys: Keys) -> NDArray[np.int64]:
    """Return the index of each key's slot, int64 [n], or -1 if absent.

    slots: from `build`, uint64 [m]. keys: uint64 [n].
    """
    at = _home(keys, len(slots).bit_length() - 1)
    occupants = slots[at]
    found = np.where(occupants == keys, at, -1)
    going = np.flatnonzero((occupants != keys) & (occupants != 0))
    while len(going):
        at[going] = (at[going] + 1) & (len(slots) - 1)
        occupants = slots[at[going]]
        same = occupants == keys[going]
        found[going[same]] = at[going[same]]
        going = going[~same & (occupants != 0)]
    return found


def _home(keys: Keys, bits: int) -> NDArray[np.int64]:
    return (keys >> np.uint64(64 - bits)).astype(np.int64)
