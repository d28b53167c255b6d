"""Keep pages similar to those that Wikipedia cites, by a classifier (LLaMA paper, section 2.1).

The classifier is a logistic regression on the distinct words and word pairs among a page's first
500 words, hashed to buckets; each of a page's n features has the value 1 / √n. Only the beginning
is read, so that length has little influence.
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

HELP = "`llamac data classifier SPEC` trains it"  # hint if the model is missing
WORDS = 500  # words of a page that are read
PENALTY = 0.1
"""L2 regularisation: 1 / C of scikit-learn's LogisticRegression."""

Features = NDArray[np.uint32]
"""Sorted distinct buckets of a page's words and word pairs, uint32 [n]."""


def build(stage: Quality) -> Filter:
    """Return the filter that keeps pages of probability `stage.threshold` or more.

    It records the probability in `meta`. Raises StageError if the classifier is missing or of
    another size.
    """
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
    """Return the sha256 of the classifier. Raises StageError if it cannot be read."""
    return {"sha256": sha256(file_bytes(stage.model, HELP))}


def load(stage: Quality) -> QualityModel:
    """Read the classifier of a stage. Raises StageError if it is missing or of another size."""
    require_readable(stage.model, HELP)
    model = arrays.load(Path(stage.model))
    if len(model["weights"]) != stage.buckets:
        message = f"{stage.model} has {len(model['weights'])} buckets, not {stage.buckets}"
        raise StageError(f"{message}: train it again, or set `buckets` to that number")
    return QualityModel(model["weights"], float(model["bias"][0]))


def save(model: QualityModel, path: Path) -> None:
    """Write a classifier to a file that `load` reads."""
    arrays.save(path, {"weights": model.weights, "bias": np.array([model.bias])})


def features(text: str, buckets: int) -> Features:
    """Return the sorted buckets of a page's features, uint32 [n]; empty without words.

    buckets: their number, the size of the classifier.
    """
    # Words rarely have more than 15 letters; the cut avoids reading a whole book.
    words = hash_texts(normalised_words(text[: WORDS * 16]).split()[:WORDS])
    both = np.concatenate([words, ngrams(words, 2)])
    return np.unique((both % np.uint64(buckets)).astype(np.uint32))


@dataclass(frozen=True)
class QualityModel:
    """Logistic regression on hashed features.

    weights: of each bucket, float32 [buckets]. bias: added to the weighted sum.
    """

    weights: NDArray[np.float32]
    bias: float

    def probability(self, page: Features) -> float:
        """Return the probability that Wikipedia would cite a page with these features."""
        score = self.bias + float(self.weights[page].sum(dtype=np.float64)) / _norm(page)
        return float(1 / (1 + np.exp(-score)))


def train(pages: Sequence[Features], labels: Sequence[bool], buckets: int) -> QualityModel:
    """Fit a logistic regression by L-BFGS in float32, with at most 200 iterations.

    pages: features of each page. labels: whether Wikipedia cites it. buckets: number of weights.
    The loss is strictly convex, so its optimum is unique.
    """
    import torch
    import torch.nn.functional as F

    lengths = torch.tensor([len(page) for page in pages])
    # The optimal weight of an unused bucket is 0.
    used_buckets, positions = np.unique(np.concatenate(pages), return_inverse=True)
    indices = torch.from_numpy(positions.astype(np.int64))
    offsets = torch.cumsum(lengths, 0) - lengths
    scales = lengths.clamp(min=1).rsqrt()
    targets = torch.tensor(labels, dtype=torch.float32)
    weights = torch.zeros(len(used_buckets), 1, requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, bias], max_iter=200, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        sums = F.embedding_bag(indices, weights, offsets, mode="sum")[:, 0]
        losses = F.binary_cross_entropy_with_logits(sums * scales + bias, targets, reduction="sum")
        loss = (losses + PENALTY / 2 * weights.square().sum()) / len(targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    all_weights = np.zeros(buckets, np.float32)
    all_weights[used_buckets] = weights.detach()[:, 0].numpy()
    return QualityModel(all_weights, bias.item())


def _norm(page: Features) -> float:
    return max(len(page), 1) ** 0.5
