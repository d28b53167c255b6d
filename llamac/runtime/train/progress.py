"""Progress of a run in steps, sequences and tokens, which checkpoints store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import RunError


@dataclass
class Progress:
    """Progress of a run; its fields are keys of a checkpoint's state.

    step, sequences, tokens: totals, including those of skipped steps. skipped_steps: steps without
    an update because the loss or gradients were not finite. skipped_in_a_row: consecutive skipped
    steps up to the current one; 0 if it was not skipped. following: checksum of the next step's
    data, from `Mixture.batch_checksum`; 0 if unknown.
    """

    step: int = 0
    sequences: int = 0
    tokens: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    following: int = 0

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Progress:
        """Return the progress in a checkpoint's state; missing keys are 0."""
        return cls(**{name: state.get(name, 0) for name in cls.names()})

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the fields."""
        return [field.name for field in fields(cls)]

    @property
    def updates(self) -> int:
        """Return the number of steps that changed the weights."""
        return self.step - self.skipped_steps

    def require_next(self, following: int) -> None:
        """Raise RunError unless the next step's data is that recorded in the checkpoint.

        following: checksum of the data that the mixture reads next. A checkpoint without a recorded
        one is accepted.
        """
        if self.following not in (0, following):
            raise RunError(
                f"the data does not continue where step {self.step} left it: the next sequence is "
                "not the one recorded in the checkpoint. Build the trainer again with the version "
                "of llamac that started the run, or start another run "
                "with -o DIR (train.py: --run DIR)"
            )

    def advance(self, sequences: int, tokens: int, following: int) -> None:
        """Count an enqueued step. Call `count_skipped` with its result before this is saved.

        sequences, tokens: numbers of them in the step. following: checksum of the next step's data.
        """
        self.step += 1
        self.sequences += sequences
        self.tokens += tokens
        self.following = following

    def is_due(self, every: int, last: int) -> bool:
        """Return whether the current step is a multiple of `every`, or step `last`."""
        return self.step == last or self.step % every == 0

    def count_skipped(self, skipped: bool) -> None:
        """Record whether a step was skipped. Call this once per step, in order."""
        self.skipped_steps += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0

    def give_up_after(self, limit: int) -> None:
        """Raise RunError if the last `limit` steps were all skipped."""
        if self.skipped_in_a_row >= limit:
            raise RunError(
                f"loss or gradients were not finite in the last {self.skipped_in_a_row} steps, up "
                f"to step {self.step}, so none of them changed the weights: see metrics.jsonl. "
                "This run can only continue with its own settings; to change them (a lower "
                "optimizer.lr, a longer warm-up, fp32), start another run with -o DIR (train.py: "
                "--run DIR), from "
                "step 0 or, with --resume PATH, from a checkpoint of this run",
                printing_rank=0,
            )
