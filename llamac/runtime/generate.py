"""Sampling from a model, one token at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor


class GivesLogits(Protocol):
    """Any model with `logits`: int64 [B, S] → [B, S, V]."""

    def logits(self, tokens: Tensor) -> Tensor: ...


class SpeaksTokens(Protocol):
    """The tokenizer, as far as sampling goes."""

    eos: int

    def encode(self, text: str) -> Iterable[int]: ...
    def decode(self, ids: Iterable[int]) -> str: ...


def continuation(
    model: GivesLogits,
    tokenizer: SpeaksTokens,
    prompt: str,
    *,
    count: int,
    context: int,
    device: torch.device,
    temperature: float,
    top_p: float,
    seed: int,
) -> Iterator[str]:
    """What follows `prompt`, piece by piece as it comes, each ending with a whole character.

    The prompt is read as the beginning of a document: after the EOS of the one before.
    """
    start = [tokenizer.eos, *map(int, tokenizer.encode(prompt))]
    tokens = generate(
        model,
        start,
        count,
        context=context,
        device=device,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        end=tokenizer.eos,
    )
    return decoded(tokenizer, start[-1], tokens)


def decoded(tokenizer: SpeaksTokens, before: int, ids: Iterable[int]) -> Iterator[str]:
    """The text of `ids`, which follow the token `before`, each part as soon as it is certain.

    A character may be spelled by several tokens, and until the last of them it reads as U+FFFD:
    such an end waits. `before` is decoded along, because LLaMA's tokenizer drops the space that
    a text's first token begins with.
    """
    held, known = [before], tokenizer.decode([before])
    for token in ids:
        held.append(token)
        text = tokenizer.decode(held)
        if not text.endswith("\ufffd"):
            yield text[len(known) :]
            held, known = [token], tokenizer.decode([token])
    yield tokenizer.decode(held)[len(known) :]


@torch.no_grad()
def generate(
    model: GivesLogits,
    prompt: Sequence[int],
    count: int,
    *,
    context: int,
    device: torch.device,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    end: int | None = None,
) -> Iterator[int]:
    """Continue `prompt` (at least one token) by up to `count` tokens, stopping after `end`.

    Each token re-reads the last `context` tokens: no cache to keep in step with the model, and
    quite fast enough for a sample now and then. Draws come from a generator of their own, so
    sampling never disturbs training.
    """
    if not prompt:
        raise ValueError("generate needs at least one prompt token, such as BOS")
    generator = torch.Generator().manual_seed(seed)
    tokens = list(prompt[-context:])
    for _ in range(count):
        window = torch.tensor([tokens[-context:]], device=device)  # 1 S
        logits = model.logits(window)[0, -1].float().cpu()  # V
        tokens.append(sample(logits, temperature, top_p, generator))
        yield tokens[-1]
        if tokens[-1] == end:
            break


def sample(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Draw one token id from logits [V]; temperature 0 takes the likeliest.

    `top_p` keeps the smallest set of likeliest tokens whose probability reaches it (nucleus
    sampling, Holtzman et al. 2020, §3.1).
    """
    if temperature == 0.0:
        return int(logits.argmax())
    scores = (logits - logits.max()).double() / temperature  # finite, however cold it is
    probabilities, ids = torch.softmax(scores, dim=-1).sort(descending=True)
    outside = probabilities.cumsum(dim=-1) - probabilities >= top_p
    outside[0] = False
    probabilities[outside] = 0.0
    return int(ids[torch.multinomial(probabilities, 1, generator=generator)])
