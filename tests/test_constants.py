"""Values that stand in two layers, as neither may import the other, are equal."""

from __future__ import annotations

from typing import get_args

import pytest

from llamac.runtime.data.sources import input_files
from llamac.runtime.kernels import padding
from llamac.spec import data, root
from llamac.verify import reference

KINDS = get_args(data.Source.model_fields["kind"].annotation)


def test_kinds_of_sources_and_padding_agree() -> None:
    assert input_files.PYTHON == data.PYTHON
    assert input_files.CONVERSATIONS == data.CONVERSATIONS
    assert {*data.PYTHON, *data.CONVERSATIONS} < {*KINDS}
    assert padding.PADDING == root.PADDING == reference.PADDING


@pytest.mark.parametrize("stage", [None, "clean"])
@pytest.mark.parametrize("kind", KINDS)
def test_spec_and_trainer_agree_on_what_must_be_cleaned_first(kind, stage) -> None:
    source = data.Source.model_construct(name="a", kind=kind, share=1.0, stage=stage)
    assert source.needs_cleaning == input_files.needs_cleaning({"kind": kind, "stage": stage})
