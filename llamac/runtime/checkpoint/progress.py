"""A run's progress in steps, sequences and tokens, as a checkpoint stores it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import RunError


@dataclass
class Progress:
    """Progress of a run: the data it used is `sequences`, skipped steps included."""

    step: int = 0
    sequences: int = 0
    tokens: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Progress:
        """Read the progress from a checkpoint's state; an empty state is the beginning."""
        return cls(**{name: state.get(name, 0) for name in cls.names()})

    @classmethod
    def names(cls) -> list[str]:
        return [field.name for field in fields(cls)]

    @property
    def updates(self) -> int:
        """Steps that changed the weights."""
        return self.step - self.skipped_steps

    def count(self, sequences: int, tokens: int, skipped: bool) -> None:
        self.step += 1
        self.sequences += sequences
        self.tokens += tokens
        self.skipped_steps += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0

    def give_up_after(self, limit: int) -> None:
        if self.skipped_in_a_row >= limit:
            raise RunError(
                f"loss or gradients were not finite in the last {self.skipped_in_a_row} steps, up "
                f"to step {self.step}, so none of them changed the weights: look at metrics.jsonl. "
                "This run goes on under its own values only; with others (a lower optimizer.lr, a "
                "longer warm-up, fp32) begin another one with -o DIR (train.py: --run DIR), from "
                "step 0 or, with --resume PATH, from a checkpoint of this run",
                teller=0,
            )
