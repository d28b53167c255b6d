"""The training step of an emitted directory's train.py on one device."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from contest import emitted_model
from torch import Tensor

from llamac.verify.graph_rehearsal import GraphRehearsal

WARM = 4
"""Steps on CUDA before those that are timed: three warm up, and the fourth is captured."""


class EmittedTrainer:
    """Model, optimizer and CUDA graph as train.py makes them; one directory a process.

    Attributes:
        train, emitted: The modules train.py and model.py.
        graph: The `CudaGraph`, or None where train.py has none. On CPUs it captures nothing,
            unless `rehearse` gives it a stand-in.
    """

    def __init__(
        self,
        directory: Path,
        device: torch.device,
        weights: Mapping[str, Tensor] | None = None,
        rehearse: bool = False,
    ) -> None:
        """weights: canonical weights; initialised by the spec's seed without them."""
        sys.path.insert(0, str(directory))
        self.train: Any = importlib.import_module("train")
        self.emitted: Any = importlib.import_module("model")
        train = self.train
        if hasattr(train, "make_deterministic"):
            train.make_deterministic(device)
        self.mesh, sharding = train.Mesh(train.DEGREES, device), train.ParamSharding(train.PACKED)
        if weights is None:
            self.model = self.mesh.build_model(train.Model, train.DTYPE)
            named = self.model.named_parameters()
            train.initialise_sharded(named, train.INIT, sharding, train.SEED)
        else:
            self.model = emitted_model(self.emitted, weights, str(device), train.DTYPE)
        named = self.model.named_parameters()
        self.optimizer = train.ShardedOptimizer(
            named, sharding, self.mesh, train.AdamW, **train.OPTIMIZER
        )
        self.graph: Any = None
        if hasattr(train, "CudaGraph"):
            recorder = GraphRehearsal(self.optimizer) if rehearse else None
            self.graph = train.CudaGraph(self.model, self.optimizer, self.mesh, recorder)

    def step(self, tokens: Tensor, labels: Tensor, lr: float = 1e-4) -> Any:
        """Take one step on int64 [sequences, S] and return its `Outcome`, for which it waits."""
        train = self.train
        if self.graph is not None:
            loss = train.accumulate(self.graph, tokens, labels, train.MICRO_BATCH)
        else:
            loss = train.accumulate(self.model, tokens, labels, self.mesh)
        return self.optimizer.read(self.optimizer.step(lr, loss, train.count_targets(labels)))
