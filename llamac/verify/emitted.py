"""Imports an emitted model.py as a user's Python would find it, and runs it in float64."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from llamac.verify.oracle import Oracle, Outcome
from llamac.verify.packing import module_packing_problem

ROOTS = ("model", "runtime")  # the emitted directory's own modules


def run_emitted(files: Mapping[str, str], oracle: Oracle) -> Outcome:
    """Run the emitted model on the oracle's batch. files: relative path → text."""
    with imported(files) as module:
        if hasattr(module, "rope_tables"):  # the emitted call, but wide tables out of it
            module.rope_tables = partial(module.rope_tables, dtype=torch.float64)
        model = module.Model(dtype=torch.float64)
        views = partial(_views, module)
        if problem := module_packing_problem(model, views, oracle.weights):
            raise ValueError(problem)
        loss = model(oracle.tokens, oracle.labels)
        loss.backward()
        gradients = {
            canonical: view
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
            for canonical, view in views(name, parameter.grad)
        }
        with torch.no_grad():
            evaluated = model(oracle.tokens, oracle.labels)
        return Outcome(loss.detach(), evaluated, model.logits(oracle.prompt), gradients)


@contextmanager
def imported(files: Mapping[str, str]) -> Iterator[Any]:
    """The module `model` of an emitted directory, beside its own `runtime` package.

    Modules of these names that this process knows already are put aside meanwhile. The module stays
    usable afterwards, except for what it would import only then.
    """
    with TemporaryDirectory(prefix="llamac-verify-") as directory:
        for name, text in files.items():
            if name.endswith(".py"):
                path = Path(directory, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        aside = _take_modules()
        sys.path.insert(0, directory)
        importlib.invalidate_caches()
        try:
            yield importlib.import_module("model")
        finally:
            sys.path.remove(directory)
            _take_modules()
            sys.modules.update(aside)


def _take_modules() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] in ROOTS]
    return {name: sys.modules.pop(name) for name in names}


def _views(module: Any, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    parameters = sys.modules["runtime.parameters"]
    yield from parameters.canonical_views(name, tensor, module.PACKED)
