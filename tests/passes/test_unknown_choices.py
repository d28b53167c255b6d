"""A choice that the spec allows and nobody implements fails, in compiler and reference alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llamac.passes.lower import Lower
from llamac.runtime.data.token_streams import open_stream
from llamac.runtime.kernels.rope import rope_tables
from llamac.spec import Spec
from llamac.verify.reference import Reference
from tests.compare import shipped

CHOICES = [
    ("activation", "squared_relu", KeyError),
    ("norm", "batchnorm", KeyError),
    ("position", "alibi", ValueError),
    ("norm_position", "sandwich", ValueError),
]


def with_choice(key: str, value: str) -> Spec:
    """A spec as if its model's literal had one more choice."""
    spec = shipped("tiny")
    return spec.model_copy(update={"model": spec.model.model_copy(update={key: value})})


@pytest.mark.parametrize(("key", "value", "error"), CHOICES)
def test_lower_does_not_take_it_for_another(key: str, value: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=value):
        Lower().apply(with_choice(key, value))


@pytest.mark.parametrize(("key", "value", "error"), CHOICES)
def test_the_reference_does_not_either(key: str, value: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=value):
        Reference(with_choice(key, value).model).logits(torch.zeros(1, 4, dtype=torch.int64))


def test_the_runtime_s_tables_and_data_take_no_unknown_name() -> None:
    with pytest.raises(ValueError, match="yarn"):
        rope_tables(8, 4, theta=1e4, scaling={"kind": "yarn", "factor": 2.0})
    source = {"name": "a", "train": {"shards": []}}
    with pytest.raises(ValueError, match="first_fit"):
        open_stream(Path(), {"dtype": "<u2"}, source, "train", 8, "first_fit")
