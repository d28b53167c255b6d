"""Hash table from 64-bit keys to float32 vectors, as arrays that can be memory-mapped.

It uses open addressing with linear probing, and looks up arrays of keys at a time. Keys must be
uniformly distributed hashes; 0 marks an empty slot.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
"""Hashes by which values are found, uint64 [n]."""


def build(keys: Keys, values: NDArray[np.float32]) -> tuple[Keys, NDArray[np.float32]]:
    """Build a table from distinct keys, uint64 [n], and values, float32 [n, k].

    Returns the keys by slot, uint64 [m], and the values by slot, float32 [m, k]. m is the smallest
    power of 2 that is at least 2n and at least 2.
    """
    bits = max(1, int(2 * len(keys) - 1).bit_length())
    slots = np.zeros(1 << bits, np.uint64)
    slot_values = np.zeros((1 << bits, values.shape[1]), np.float32)
    pending, at = np.arange(len(keys)), _home(keys, bits)
    while len(pending):
        free = slots[at] == 0
        _, first = np.unique(at[free], return_index=True)
        inserted = np.flatnonzero(free)[first]
        slots[at[inserted]] = keys[pending[inserted]]
        slot_values[at[inserted]] = values[pending[inserted]]
        remaining = np.ones(len(pending), bool)
        remaining[inserted] = False
        pending, at = pending[remaining], (at[remaining] + 1) & (len(slots) - 1)
    return slots, slot_values


def find(slots: Keys, keys: Keys) -> NDArray[np.int64]:
    """Return the slot of each key, int64 [n]; -1 if the key is absent.

    slots: keys by slot, from `build`, uint64 [m]. keys: uint64 [n].
    """
    at = _home(keys, len(slots).bit_length() - 1)
    occupants = slots[at]
    indices = np.where(occupants == keys, at, -1)
    pending = np.flatnonzero((occupants != keys) & (occupants != 0))
    while len(pending):
        at[pending] = (at[pending] + 1) & (len(slots) - 1)
        occupants = slots[at[pending]]
        same = occupants == keys[pending]
        indices[pending[same]] = at[pending[same]]
        pending = pending[~same & (occupants != 0)]
    return indices


def _home(keys: Keys, bits: int) -> NDArray[np.int64]:
    return (keys >> np.uint64(64 - bits)).astype(np.int64)
