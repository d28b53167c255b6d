"""[batch]: batch size of an optimizer step, micro-batch size and sequence length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from llamac.spec.section import DERIVED, Section, require_one_of
from llamac.spec.units import Count, Tokens
from llamac.spec.validation.errors import Problem, join_options, nearest_divisors, nearest_multiples


class Batch(Section):
    """Batch of an optimizer step, given as either `tokens` or `sequences`.

    After validation both are set.
    """

    sequence_length: Count = Field(default=2048, description="Tokens in one training sequence.")
    tokens: Annotated[Tokens, Field(le=2**40)] = Field(
        default=DERIVED,
        description="Tokens per optimizer step, over all ranks; or give `sequences`.",
    )
    sequences: Count = Field(
        default=DERIVED,
        description="Sequences per optimizer step, over all ranks; or give `tokens`.",
    )
    micro_batch: Count = Field(default=1, description="Sequences in one forward pass.")

    def rules(self) -> Iterator[Problem]:
        if broken := list(require_one_of(self, "tokens", "sequences")):
            yield from broken
            return
        length = self.sequence_length
        if self.is_set("tokens") and self.tokens % length:
            message = f"tokens = {self.tokens} is not a multiple of sequence_length = {length}"
            ways = f"tokens = {join_options(nearest_multiples(self.tokens, of=length))} works"
            yield Problem(("tokens",), message, ways)
            return
        sequences = self.sequences or self.tokens // length
        if sequences % self.micro_batch:
            message = f"a step of {sequences} sequences is not a multiple of micro_batch"
            message += f" = {self.micro_batch}"
            ways = f"micro_batch = {join_options(nearest_divisors(self.micro_batch, of=sequences))}"
            ways += (
                f" or sequences = {join_options(nearest_multiples(sequences, of=self.micro_batch))}"
            )
            yield Problem(("micro_batch",), message, ways + " works")

    def derived_values(self) -> dict[str, Any]:
        sequences = self.sequences or self.tokens // self.sequence_length
        return {"sequences": sequences, "tokens": sequences * self.sequence_length}

    def micro_batches(self, data_ranks: int) -> int:
        """Return the micro-batches per step on each rank. data_ranks: data-parallel degree."""
        return self.sequences // (self.micro_batch * data_ranks)

    def toml_values(self) -> dict[str, Any]:
        keys = super().toml_values()
        implied = "sequences" if self.is_set("tokens") else "tokens"
        return {key: keys[key] for key in keys if key != implied}
