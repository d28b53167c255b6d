"""[init]: the weights that a run begins from, where they are not drawn at random."""

from __future__ import annotations

from typing import Any

from pydantic import Field, create_model

from llamac.spec.section import NonEmpty, Section

# `from` is a keyword of Python, so the field cannot be written as a class has it.
_From: Any = create_model(
    "_From",
    __base__=Section,
    **{
        "from": (
            NonEmpty | None,
            Field(
                default=None,
                description="Directory of an import, of a run or of one checkpoint, whose weights "
                "the run begins from; the optimizer starts afresh. Default: random weights.",
            ),
        )
    },
)


class Init(_From):
    """The weights that a run begins from, where they are not drawn at random."""

    FILES = ("from",)

    @property
    def source(self) -> str | None:
        """The value of `from`."""
        return getattr(self, "from")
