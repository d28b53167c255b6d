"""[init]: the weights from which a run starts, if they are not random."""

from __future__ import annotations

from typing import Any

from pydantic import Field, create_model

from llamac.spec.section import NonEmpty, Section

TEXT: Any = NonEmpty
FIELDS: dict[str, Any] = {
    "from": (
        TEXT | None,
        Field(
            default=None,
            description="Directory of an import, of a run or of one checkpoint, whose weights "
            "the run begins from; the optimizer starts afresh. Default: random weights.",
        ),
    )
}

# `from` is a keyword of Python, so no class can declare the field.
_From: Any = create_model("_From", __base__=Section, **FIELDS)


class InitialWeights(_From):
    """Initial weights of a run, if they are not random."""

    FILES = ("from",)

    @property
    def source(self) -> str | None:
        """Directory of an import, a run or a checkpoint; None for random weights."""
        return getattr(self, "from")
