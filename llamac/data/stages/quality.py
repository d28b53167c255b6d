"""Keep pages like those that Wikipedia cites, by a linear classifier (LLaMA, section 2.1).

Logistic regression on the words and word pairs at a page's beginning, hashed to n buckets of value
1 / √n. Only the beginning is read, so that length has little influence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamac.data.document import Document, Filter, Rejected
from llamac.data.stages import StageError
from llamac.data.stages.common import arrays
from llamac.data.stages.common.need import file_bytes, require_readable, sha256
from llamac.data.stages.common.words import hash_texts, ngrams, normalised_words
from llamac.spec.stages import Quality

HELP = "`llamac data classifier SPEC` trains it"
WORDS = 500
PENALTY = 0.1
"""Weight of half the squared weights against the sum of the pages' losses; scikit-learn's 1 / C."""

Features = NDArray[np.uint32]


def build(stage: Quality) -> Filter:
    model = load(stage)

    def judge(document: Document) -> Document | Rejected:
        probability = model.probability(features(document.text, stage.buckets))
        if probability < stage.threshold:
            detail = f"{probability:.2f} < {stage.threshold:g}"
            return Rejected("unlike pages that are cited", detail)
        document.meta["quality"] = round(probability, 4)
        return document

    return judge


def facts(stage: Quality) -> dict[str, str]:
    return {"sha256": sha256(file_bytes(stage.model, HELP))}


def load(stage: Quality) -> Trained:
    """Read the classifier that the stage names. Raises StageError."""
    require_readable(stage.model, HELP)
    model = arrays.load(Path(stage.model))
    if len(model["weights"]) != stage.buckets:
        found = f"{stage.model} has {len(model['weights'])} buckets, not {stage.buckets}"
        raise StageError(f"{found}: train it again, or set `buckets` to that number")
    return Trained(model["weights"], float(model["bias"][0]))


def save(model: Trained, path: Path) -> None:
    arrays.save(path, {"weights": model.weights, "bias": np.array([model.bias])})


def features(text: str, buckets: int) -> Features:
    """Return the feature buckets of a page, uint32, sorted; empty for a page without words."""
    # Words rarely have more than 15 letters; the cut avoids reading a whole book.
    words = hash_texts(normalised_words(text[: WORDS * 16]).split()[:WORDS])
    both = np.concatenate([words, ngrams(words, 2)])
    return np.unique((both % np.uint64(buckets)).astype(np.uint32))


@dataclass(frozen=True)
class Trained:
    """Trained classifier. weights: float32 [buckets]."""

    weights: NDArray[np.float32]
    bias: float

    def probability(self, page: Features) -> float:
        """Return the probability that Wikipedia would cite a page with these features."""
        score = self.bias + float(self.weights[page].sum(dtype=np.float64)) / _norm(page)
        return float(1 / (1 + np.exp(-score)))


def train(pages: Sequence[Features], labels: Sequence[bool], buckets: int) -> Trained:
    """Fit a logistic regression by L-BFGS, in float32, to its unique optimum."""
    import torch
    import torch.nn.functional as F

    lengths = torch.tensor([len(page) for page in pages])
    # The optimal weight of an unused bucket is 0.
    seen, compact = np.unique(np.concatenate(pages), return_inverse=True)
    indices = torch.from_numpy(compact.astype(np.int64))
    offsets = torch.cumsum(lengths, 0) - lengths
    scales = lengths.clamp(min=1).rsqrt()
    targets = torch.tensor(labels, dtype=torch.float32)
    weights = torch.zeros(len(seen), 1, requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, bias], max_iter=200, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        summed = F.embedding_bag(indices, weights, offsets, mode="sum")[:, 0]
        losses = F.binary_cross_entropy_with_logits(
            summed * scales + bias, targets, reduction="sum"
        )
        loss = (losses + PENALTY / 2 * weights.square().sum()) / len(targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    whole = np.zeros(buckets, np.float32)
    whole[seen] = weights.detach()[:, 0].numpy()
    return Trained(whole, bias.item())


def _norm(page: Features) -> float:
    return max(len(page), 1) ** 0.5
