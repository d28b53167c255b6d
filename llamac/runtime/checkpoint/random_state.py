"""State of torch's random generators in base64, for checkpoints."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence

import torch

from ..distributed.ranks import Ranks
from ..durable_files import fingerprint
from ..errors import RunError

SINGLE_RANK = Ranks()


def random_state() -> dict[str, str]:
    """Return the states of torch's global generators in base64, by kind of device.

    Keys: "cpu" and, if CUDA is available, "cuda", the generator of the current GPU.
    """
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return {name: b64encode(bytes(t.tolist())).decode() for name, t in state.items()}


def set_random_state(saved: Sequence[Mapping[str, str]], ranks: Ranks = SINGLE_RANK) -> None:
    """Set torch's global generators from a checkpoint's state["random"].

    saved: one `random_state` if all ranks had the same, or one per rank. If they differed and the
    number of ranks has changed, all ranks use one seed derived from them. A CUDA state is ignored
    without CUDA. Raises RunError if the state is damaged.
    """
    if len(saved) not in (1, ranks.size):
        torch.manual_seed(int(fingerprint(list(saved))[:15], 16))
        return
    state = saved[ranks.rank if len(saved) > 1 else 0]
    try:
        restored = {n: torch.tensor([*b64decode(s)], dtype=torch.uint8) for n, s in state.items()}
        torch.set_rng_state(restored["cpu"])
        if "cuda" in restored and torch.cuda.is_available():
            torch.cuda.set_rng_state(restored["cuda"])
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise RunError(f"the checkpoint's random state is damaged: {error}") from error
