"""Every impossible layout is refused with a rule, and what the refusal suggests is possible."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamac.spec import SpecError, load_spec
from tests.compare import SPECS

DEGREES = st.sampled_from([1, 1, 1, 2, 3, 4, 5, 6, 8, 12, 16, 48, 64, 100, 256])
LAYOUTS = st.fixed_dictionaries(
    {
        "parallel.tensor": DEGREES,
        "parallel.context": st.sampled_from([1, 1, 1, 2, 3, 4, 8]),
        "parallel.pipeline": st.sampled_from([1, 1, 1, 2, 3, 7, 64]),
        "parallel.pipeline_virtual": st.sampled_from([1, 1, 2, 3]),
        "parallel.data_shard": DEGREES,
        "parallel.data_replicate": st.sampled_from([1, 1, 2, 3]),
        "parallel.sequence": st.booleans(),
        "model.tied_embeddings": st.sampled_from([False, False, False, True]),
    }
)
NAMES = ("tiny", "125m", "7b", "65b", "llama2-70b")
STEPS = 8  # of taking a refusal's first suggestion, until nothing is refused

Settings = Mapping[str, object]


def refusals(name: str, settings: Settings) -> tuple[str, ...]:
    """The help of each problem; none if the spec is valid. Each has a place and a rule."""
    # Whether nodes are full and a warm-up ends is another matter.
    overrides = ["launch.gpus_per_node=1_000_000", "schedule.warmup_steps=1"]
    overrides += [f"{key}={str(value).lower()}" for key, value in settings.items()]
    try:
        load_spec(SPECS / f"{name}.toml", overrides)
    except SpecError as error:
        for found in error.diagnostics:
            assert re.match(r"(--set|.*\.toml):\d+:\d+: error: \S", str(found))
        return tuple(found.help or "" for found in error.diagnostics)
    return ()


def suggestions(help: str) -> Iterator[dict[str, str]]:
    """`tensor = 4 with context = 2, tensor = 2 or batch.tokens = 8 or 16 works`: four of them."""
    assert help.endswith(" works"), help
    key = ""
    for way in re.split(r", | or ", help.removesuffix(" works")):
        changes = {}
        for change in way.split(" with "):
            name, equals, value = change.rpartition(" = ")
            key = name if equals else key
            changes[key if "." in key else f"parallel.{key}"] = value
        yield changes


@pytest.mark.slow
@given(st.sampled_from(NAMES), LAYOUTS)
@settings(max_examples=150, deadline=None)
def test_what_a_refusal_suggests_is_possible(name: str, layout: dict[str, object]) -> None:
    helps = refusals(name, layout)
    if len(helps) == 1:
        for changes in suggestions(helps[0]):
            assert not refusals(name, {**layout, **changes}), (helps, changes)
    for _ in range(STEPS):
        if not helps:
            return
        layout = {**layout, **next(suggestions(helps[0]))}
        helps = refusals(name, layout)
    raise AssertionError(f"{STEPS} suggestions were taken, and yet: {helps}")
