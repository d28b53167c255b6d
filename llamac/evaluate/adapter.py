"""Adapter of an emitted inference program to lm-evaluation-harness' LM interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from llamac.evaluate.loaded_model import LoadedModel
from llamac.evaluate.log_probabilities import Progress, Scorer
from llamac.evaluate.prefix_groups import OVERHEAD, batches
from llamac.runtime.checkpoint.load_run import BadRequest
from llamac.runtime.generate.engine import Generation
from llamac.runtime.generate.sampling import Sampling
from llamac.runtime.generate.text import Decoder

NEW_TOKENS = 256  # at most, where a task does not say: lm-eval's own default


class Adapter(TemplateLM):
    """LM of lm-evaluation-harness for a run or an import, equivalent to its HFLM.

    Texts longer than the context are truncated on the left, as by HFLM. The model's begin tokens
    are put before a text that does not start with them.
    """

    def __init__(
        self, model: LoadedModel, max_tokens: int = 4096, seed: int = 0, progress: Any = None
    ) -> None:
        """Wrap a model.

        max_tokens: maximum tokens per batch, including padding. seed: seed of sampled answers.
        progress: called with ("reading" or "answering", number done, total); None reports nothing.
        """
        super().__init__()
        self.opened, self.max_tokens, self.seed = model, max_tokens, seed
        self.scorer = Scorer(model.make, model.device, max_tokens)
        self._progress = progress or (lambda _what, _done, _total: None)

    @property
    def eot_token_id(self) -> int:
        """Return the tokenizer's EOS id."""
        return self.opened.tokenizer.eos

    @property
    def prefix_token_id(self) -> int:
        """Return the id put before a text without context, so that its first token has a score."""
        return self.opened.prefix

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Return the ids of a text's tokens, after the model's begin tokens.

        If the text starts with the last begin token, that one is not repeated.
        add_special_tokens: False omits the begin tokens. Other arguments are ignored.
        """
        begin = self.opened.begin
        if add_special_tokens is False:
            return self.opened.encode(string)
        if begin and string.startswith(piece := self.opened.tokenizer.piece(begin[-1])):
            string = string.removeprefix(piece)
        return [*begin, *self.opened.encode(string)]

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Return (log P(continuation | context) in nats, whether greedy decoding gives it).

        requests: their arguments are (context, continuation), both texts. disable_tqdm: ignored.
        """
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        longest = self.opened.context + 1  # the last token is only predicted
        pairs = []
        for _, context, continuation in requests:
            max_context = max(longest - len(continuation), 1)
            pairs.append((context[-max_context:], continuation[-(longest - 1) :]))
        scores = self.scorer.score(pairs, self._report_reading())
        return [(score.log_probability, score.greedy) for score in scores]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-probability of each text in nats; every token is predicted once.

        Texts longer than the context are divided into windows. requests: their arguments are
        (text,). disable_tqdm: ignored.
        """
        windows: list[tuple[Any, list[int], list[int]]] = []
        owner = []
        for number, request in enumerate(requests):
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.opened.context,
                context_len=1,
            ):
                context, continuation = make_disjoint_window(window)
                windows.append((None, context, continuation))
                owner.append(number)
        totals = [0.0 for _ in requests]
        for number, (value, _) in zip(owner, self._loglikelihood_tokens(windows), strict=True):
            totals[number] += value
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return a continuation of each prompt, up to a stop string, EOS or the token limit.

        requests: their arguments are (prompt, settings), with settings `until`, `max_gen_toks` (256
        by default), `do_sample`, `temperature`, `top_p` and `top_k`. disable_tqdm: ignored.
        Raises BadRequest if the context has no room for a prompt and the new tokens.
        """
        answers = ["" for _ in requests]
        by_settings: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            _, settings = _arguments(request)
            by_settings.setdefault(repr(settings), []).append(number)
        done = 0
        for numbers in by_settings.values():
            _, settings = _arguments(requests[numbers[0]])
            new = int(settings.get("max_gen_toks", NEW_TOKENS))
            max_prompt = self.opened.context - new
            if max_prompt < 1:
                raise BadRequest(
                    f"the model's context of {self.opened.context} tokens leaves no room for a "
                    f"prompt and {new} new tokens"
                )
            prompts = [self.tok_encode(_arguments(requests[n])[0])[-max_prompt:] for n in numbers]
            prompts = [prompt or [self.prefix_token_id] for prompt in prompts]
            make = self._after_common_prefix(prompts)
            for batch in batches([len(prompt) + new for prompt in prompts], self.max_tokens):
                texts = self._answer([prompts[row] for row in batch], new, settings, make, done)
                for row, text in zip(batch, texts, strict=True):
                    answers[numbers[row]] = text
                done += len(batch)
                self._progress("answering", done, len(requests))
        return answers

    def _answer(
        self,
        prompts: Sequence[list[int]],
        new: int,
        settings: Mapping[str, Any],
        make: Callable[[int, int], Any],
        first_row: int,
    ) -> list[str]:
        """Continue the prompts of one batch by `new` tokens at most.

        first_row: number of the first random stream.
        """
        until = settings.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        temperature = float(settings.get("temperature", 0.0))
        do_sample = settings.get("do_sample", temperature > 0)
        generation = Generation(
            make,
            prompts,
            new,
            context=self.opened.context,
            device=self.opened.device,
            sampling=Sampling(
                temperature=(temperature or 1.0) if do_sample else 0.0,
                top_p=float(settings.get("top_p", 1.0)),
                top_k=int(settings.get("top_k", 0)),
            ),
            seed=self.seed,
            ends=self.opened.directory.end,
            first_row=first_row,
        )
        tokenizer = self.opened.tokenizer
        decoders = [Decoder(tokenizer, prompt, stops) for prompt in prompts]
        texts = ["" for _ in prompts]
        for step in generation:
            for row, token in step:
                if token in generation.ends:
                    continue
                texts[row] += decoders[row].feed(token)
                if decoders[row].stopped:
                    generation.stop(row)
        return [text + decoder.finish() for text, decoder in zip(texts, decoders, strict=True)]

    def _after_common_prefix(self, prompts: Sequence[list[int]]) -> Callable[[int, int], Any]:
        """Return a function like `make` whose Inferences reuse the cache of the common prefix."""
        first, last = min(prompts), max(prompts)  # the common prefix of these two is that of all
        pairs = enumerate(zip(first, last, strict=False))
        shared = next((at for at, (a, b) in pairs if a != b), min(len(first), len(last)))
        shared = min(shared, *(len(prompt) - 1 for prompt in prompts))
        if shared < OVERHEAD or len(prompts) == 1:
            return self.opened.make
        common = torch.tensor([first[:shared]], device=self.opened.device)
        prefix = self.opened.make(1, shared)
        prefix.prefill(common, torch.tensor([shared - 1], device=self.opened.device))
        return lambda rows, length: _AfterPrefix(self.opened.make(rows, length), prefix, common)

    def _report_reading(self) -> Progress:
        return lambda done, total: self._progress("reading", done, total)


def _arguments(request: Instance) -> tuple[str, dict[str, Any]]:
    """Return the prompt and the settings of a generation request."""
    prompt, settings = request.arguments
    return prompt, settings


class _AfterPrefix:
    """An Inference that starts from the cache of a common prefix, int64 [1, P]."""

    def __init__(self, inference: Any, prefix: Any, common: Tensor) -> None:
        self.inference, self.prefix, self.common = inference, prefix, common
        self.decode = inference.decode

    def prefill(self, tokens: Tensor, last: Tensor) -> Tensor:
        length = self.common.shape[1]
        if not bool((tokens[:, :length] == self.common).all()):  # windows beyond the context
            return self.inference.prefill(tokens, last)
        rows = torch.arange(len(tokens), device=tokens.device)
        self.inference.copy_prefix(self.prefix, rows, torch.zeros_like(rows), length)
        first, ends = torch.full_like(rows, length), last - length
        return self.inference.extend(tokens[:, length:], first, ends, rows, ends)
