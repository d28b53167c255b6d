"""Layouts of a run: parallel degrees, micro-batch and checkpointing policy.

Their text form is `tp8,pp4,vpp2,dp64,mb1,selective`; degrees of 1 are omitted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from typing import Any

from llamac.plan.target import LayoutError
from llamac.spec import Spec

POLICIES = ("none", "selective", "full")
"""Checkpointing policies that a search tries, from least to most recomputation."""

EXAMPLE = "tp8,pp4,dp64,mb1,selective"
_DEGREES = {
    "tp": "tensor",
    "cp": "context",
    "pp": "pipeline",
    "vpp": "pipeline_virtual",
    "dp": "data_shard",
    "rep": "data_replicate",
    "mb": "micro_batch",
}


@dataclass(frozen=True, order=True)
class Layout:
    """A layout: degrees as in [parallel], sequences per micro-batch, and checkpointing.

    sequence: whether sequence parallelism is used. checkpoint: value of recompute.policy.
    budget: value of recompute.budget in bytes, if the policy is "budget", else None.
    """

    tensor: int = 1
    sequence: bool = True
    context: int = 1
    pipeline: int = 1
    pipeline_virtual: int = 1
    data_shard: int = 1
    data_replicate: int = 1
    micro_batch: int = 1
    checkpoint: str = "selective"
    budget: int | None = None

    @property
    def data(self) -> int:
        """Return the number of data-parallel ranks, shards times replicas."""
        return self.data_shard * self.data_replicate

    @property
    def ranks(self) -> int:
        """Return the number of ranks, the product of all degrees but `pipeline_virtual`."""
        return self.tensor * self.context * self.pipeline * self.data

    @property
    def kind(self) -> Layout:
        """Return a layout that is equal for all layouts of the same kind.

        Layouts are of the same kind if they differ only in the stages per pipeline rank and in how
        many data-parallel ranks shard state.
        """
        return replace(self, pipeline_virtual=1, data_shard=self.data, data_replicate=1)

    def __str__(self) -> str:
        parts = []
        for short, key in _DEGREES.items():
            degree = getattr(self, key)
            if degree > 1 or short == "mb":
                parts.append(f"{short}{degree}")
            if short == "tp" and degree > 1 and not self.sequence:
                parts.append("nosp")
        limit = "" if self.budget is None else f"{self.budget / 1e9:g}GB"
        return ",".join([*parts, self.checkpoint + limit])

    def changes(self, spec: Spec) -> dict[str, Any]:
        """Return new values of the keys of `spec` that this layout changes, for `Spec.replace`."""
        new = {f"parallel.{key}": getattr(self, key) for key in _PARALLEL}
        if self.tensor == 1:
            del new["parallel.sequence"]  # which means nothing there
        new["parallel.async_tensor"] = _async(spec, self)
        new["batch.micro_batch"] = self.micro_batch
        new["recompute.policy"] = self.checkpoint
        new["recompute.budget"] = self.budget
        return {key: value for key, value in new.items() if value != _value(spec, key)}

    def apply_to(self, spec: Spec) -> Spec:
        """Return a copy of `spec` with this layout, without validating it."""
        update: dict[str, Any] = {key: getattr(self, key) for key in _PARALLEL}
        update["async_tensor"] = _async(spec, self)
        parts: dict[str, Any] = {
            "parallel": spec.parallel.model_copy(update=update),
            "batch": spec.batch.model_copy(update={"micro_batch": self.micro_batch}),
            "recompute": spec.recompute.model_copy(
                update={"policy": self.checkpoint, "budget": self.budget}
            ),
        }
        return spec.model_copy(update=parts)


_REST = ("micro_batch", "checkpoint", "budget")
_PARALLEL = [one.name for one in fields(Layout) if one.name not in _REST]


def _async(spec: Spec, layout: Layout) -> bool:
    return spec.parallel.async_tensor and layout.sequence and layout.tensor > 1


def _value(spec: Spec, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(spec, section), name)


def layout_of(spec: Spec) -> Layout:
    """Return the layout that a spec states: degrees, micro-batch and checkpointing policy."""
    degrees = {key: getattr(spec.parallel, key) for key in _PARALLEL}
    return Layout(
        **degrees,
        micro_batch=spec.batch.micro_batch,
        checkpoint=spec.recompute.policy,
        budget=spec.recompute.budget,
    )


def parse_layout(text: str, spec: Spec, gpus: int) -> Layout:
    """Parse a layout such as `tp8,pp4,dp64,mb1,selective`, of `spec` on `gpus` GPUs.

    Degrees default to 1, except that `dp` defaults to the remaining GPUs; micro-batch and policy
    default to the spec's. Raises LayoutError if the text is malformed or has another number of
    ranks.
    """
    values: dict[str, Any] = {
        "micro_batch": spec.batch.micro_batch,
        "checkpoint": spec.recompute.policy,
        "budget": spec.recompute.budget,
    }
    named = set()
    for part in filter(None, re.split(r"[,\s]+", text.strip().lower())):
        degree = re.fullmatch(r"([a-z]+)([1-9][0-9]{0,6})", part)
        limit = re.fullmatch(r"budget([0-9]{1,6}(?:\.[0-9]{1,9})?)gb", part)
        if part in POLICIES or limit:
            key, value = "checkpoint", "budget" if limit else part
            values["budget"] = round(Decimal(limit[1]) * 10**9) if limit else None
        elif part in ("sp", "nosp"):
            key, value = "sequence", part == "sp"
        elif degree and degree[1] in _DEGREES:
            key, value = _DEGREES[degree[1]], int(degree[2])
        else:
            raise LayoutError(
                f"layout {text!r}: {part!r} is unknown; known: "
                f"{', '.join(f'{short}N' for short in _DEGREES)}, sp, nosp, "
                f"{', '.join(POLICIES)}, budgetNGB, as in {EXAMPLE}"
            )
        if key in named:
            raise LayoutError(f"layout {text!r} says twice what {key} is")
        named.add(key)
        values[key] = value
    if not named:
        raise LayoutError(f"layout {text!r} is empty; write one such as {EXAMPLE}")
    layout = Layout(**values)
    if "data_shard" not in named and gpus % layout.ranks == 0:
        layout = Layout(**values, data_shard=gpus // layout.ranks)
    if layout.ranks != gpus:
        raise LayoutError(
            f"layout {text!r} has {layout.ranks:,} ranks, but there are {gpus:,} GPUs: the product "
            "of tp, cp, pp, dp and rep must be their number; --gpus N plans for another"
        )
    return layout
