"""Generating: rows of a batch are independent, greedy or drawn; text ends where it should."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers.decoders import ByteFallback
from torch._dynamo.testing import CompileCounter
from torch._inductor import config as inductor

from llamac.emit.importing import import_emitted
from llamac.runtime.checkpoint.load_run import BadRequest
from llamac.runtime.generate import command
from llamac.runtime.generate.compiled import compile_step
from llamac.runtime.generate.engine import Generation
from llamac.runtime.generate.sampling import Sampling, choose
from llamac.runtime.generate.text import Decoder
from llamac.runtime.kernels.linear import ONEDNN
from llamac.runtime.kernels.packed_linear import has_panels
from tests.emit.conftest import files, small

GREEDY = Sampling(temperature=0.0)
PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 10, 11, 12, 13]]


@pytest.fixture
def generated() -> Any:
    with import_emitted(files(small("model.n_kv_heads=2")), "inference") as inference:
        holder = sys.modules["model"]
        model = holder.Model()
        holder.initialise(model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)

    def run(prompts: Any, count: int, how: Sampling = GREEDY, seed: int = 0, first: int = 0) -> Any:
        rows = Generation(
            lambda rows, length: inference.Inference(model, rows, length),
            prompts,
            count,
            context=24,
            device=torch.device("cpu"),
            sampling=how,
            seed=seed,
            first_row=first,
        )
        made: list[list[int]] = [[] for _ in prompts]
        for step in rows:
            for row, token in step:
                made[row].append(token)
        return made

    run.model = model  # type: ignore[attr-defined]
    return run


@pytest.mark.slow
def test_greedy_batches_are_what_reading_everything_again_gives_beyond_the_context_too(generated):
    def plain(prompt: list[int], count: int) -> list[int]:
        tokens = list(prompt)
        for _ in range(count):
            logits = generated.model.logits(torch.tensor([tokens[-24:]]))
            tokens.append(int(logits[0, -1].argmax()))
        return tokens[len(prompt) :]

    wanted = [plain(prompt, 40) for prompt in PROMPTS]
    assert generated(PROMPTS, 40) == wanted
    assert [generated([prompt], 40)[0] for prompt in PROMPTS] == wanted


def restored_settings() -> Any:
    """Context that restores what compiling for a CPU sets."""
    names = ("freezing", "max_autotune_gemm", "max_autotune_gemm_backends")
    return inductor.patch({name: getattr(inductor, name) for name in names})


@pytest.mark.slow
def test_the_decoding_step_is_compiled_once_for_caches_of_any_length(monkeypatch) -> None:
    counter, compiler = CompileCounter(), torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda step, **options: compiler(step, backend=counter, **options)
    )
    with import_emitted(files(small()), "inference") as inference, restored_settings():
        holder = sys.modules["model"]
        models = [holder.Model(), holder.Model()]
        for seed, model in enumerate(models):
            holder.initialise(model, seed)

        def scores(model: Any, filled: int, length: int, rows: int) -> torch.Tensor:
            steps = inference.Inference(model, rows, length)
            prompts = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]][:rows])
            steps.prefill(prompts, torch.tensor([2, 1, 2][:rows]))
            at = torch.tensor([3, 2, 3][:rows])
            return steps.decode(torch.tensor([7, 8, 9][:rows]), at, filled)

        cases = [(model, rows) for model in models for rows in (2, 3, 1)] * 2
        wanted = [scores(model, 4, 9, rows) for model, rows in cases]
        inference.compile_decode(torch.device("cpu"))
        for filled, length in ((8, 9), (8, 17), (16, 17), (12, 25)):
            found = [scores(model, filled, length, rows) for model, rows in cases]
            torch.testing.assert_close(found, wanted)
    # Once for one row and once for several; for each model where its weights are constants.
    assert counter.frame_count == (2 if has_panels(models[0].tok_embeddings) else 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2])
def test_compiling_packs_the_weights_for_several_rows(rows: int, dtype: Any, monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda step, **options: step)
    models = [torch.nn.ParameterDict({"tok_embeddings": torch.zeros(1, dtype=dtype)}) for _ in "ab"]
    packed: list[int] = []
    with restored_settings():
        step = compile_step(
            lambda model, caches, slots, tokens: tokens,
            torch.device("cpu"),
            lambda model: packed.append(id(model)),
        )
        for model in [*models, *models]:
            for batch in (rows, 3, 1):
                step(model, [], torch.arange(4), torch.zeros(batch, 1))
        packs = rows > 1 and has_panels(torch.zeros(1, dtype=dtype))
        assert inductor.freezing != packs
    assert len(packed) == 2 * packs


@pytest.mark.parametrize("tied", ["true", "false"])
def test_packed_weights_give_the_same_scores(tied: str) -> None:
    with import_emitted(files(small(f"model.tied_embeddings={tied}")), "inference") as inference:
        holder = sys.modules["model"]
        model = holder.Model()
        holder.initialise(model, 0)
    given = (torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([2, 1]))
    wanted = inference.Inference(model, 2, 8).prefill(*given)
    before = {id(parameter) for parameter in model.parameters()}
    inference.pack(model)
    torch.testing.assert_close(inference.Inference(model, 2, 8).prefill(*given), wanted)
    left = {id(parameter) for parameter in model.parameters()}
    packs = ONEDNN or has_panels(model.tok_embeddings)
    assert (left < before) == packs  # where packing helps, the plain weights are freed


@pytest.mark.slow
def test_a_row_draws_from_a_stream_of_its_own(generated):
    how = Sampling(1.0, 0.9, 20, 0.01, 1.2)
    made = generated(PROMPTS, 15, how, seed=3)
    assert made == [generated([p], 15, how, 3, row)[0] for row, p in enumerate(PROMPTS)]
    assert made != generated(PROMPTS, 15, how, seed=4)


@pytest.mark.parametrize(
    ("how", "allowed"),
    [
        (Sampling(top_p=1e-9), {2}),
        (Sampling(top_p=0.6), {2, 0}),
        (Sampling(), {0, 1, 2, 3}),
        (Sampling(top_k=2), {2, 0}),
        (Sampling(min_p=0.25), {2, 0, 1}),
        (Sampling(top_k=3, min_p=0.4), {2, 0}),
        (Sampling(temperature=1e-45), {2}),
        (Sampling(temperature=float("inf")), {0, 1, 2, 3}),
    ],
)
def test_only_what_is_allowed_is_drawn(how: Sampling, allowed: set[int]) -> None:
    scores = torch.tensor([[0.3, 0.15, 0.5, 0.05]]).log().expand(500, -1)
    uniforms = torch.linspace(0, 1, 501, dtype=torch.float64)[:500]
    assert set(choose(scores, how, uniforms).tolist()) == allowed


def test_a_penalty_turns_down_what_a_row_holds() -> None:
    scores, held = torch.tensor([[2.0, 1.5, -1.0]]), torch.tensor([[True, False, True]])
    how = Sampling(temperature=0.0, repetition_penalty=1.5)
    assert choose(scores, how, torch.zeros(1), held).item() == 1


class Letters:
    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, ids: Any) -> str:
        return "".join(chr(i) for i in ids)


@pytest.mark.parametrize(
    ("stops", "text", "wanted"),
    [
        (["END"], "abENDc", "ab"),
        (["xy", "b"], "abxy", "a"),
        (["END"], "abEN", "abEN"),
        ([], "q", "q"),
    ],
)
def test_text_ends_before_a_stop_string(stops: list[str], text: str, wanted: str) -> None:
    decoder = Decoder(Letters(), [ord(".")], stops)
    assert "".join(decoder.feed(ord(c)) for c in text) + decoder.finish() == wanted


def test_a_tokenizer_larger_than_the_model_is_reported() -> None:
    tokenizer = SimpleNamespace(encode=Letters().encode, piece=chr)
    spec = {"model": {"vocab_size": ord("b")}}
    opened: Any = SimpleNamespace(directory="mine", tokenizer=tokenizer, begin=(1,), spec=spec)
    args: Any = SimpleNamespace(chat=False)
    assert command._tokens(opened, "aa", args) == [1, 97, 97]
    with pytest.raises(BadRequest, match=r"mine: its tokenizer gives 'b' the id 98, .* 98 tokens"):
        command._tokens(opened, "ab", args)


class ByteTokens:
    """Byte tokens (ids below 256) as tokenizers' ByteFallback decodes them, and letters."""

    def encode(self, text: str) -> list[int]:
        return [one for c in text for one in ([ord(c) + 256] if c.isascii() else c.encode())]

    def decode(self, ids: Any) -> str:
        pieces = [chr(i - 256) if i >= 256 else f"<0x{i:02X}>" for i in ids]
        return ByteFallback().decode(pieces)


@pytest.mark.parametrize("prompt", ["", "a", "\u00e9"])
def test_characters_of_several_tokens_are_given_one_by_one(prompt: str) -> None:
    tokenizer, text = ByteTokens(), "\U0001f600\u65e5\u672cb\u00e9\u00e9\ufffd\ufffdc"
    decoder = Decoder(tokenizer, tokenizer.encode(prompt))
    given = [decoder.feed(token) for token in tokenizer.encode(text)]
    assert [one for one in given if one] == [*text[:-3], text[-3:]]
    assert decoder.finish() == ""


def test_an_invalid_byte_does_not_change_the_text_before_it() -> None:
    decoder = Decoder(ByteTokens(), [])
    tokens = [*"\u00e9".encode(), 0x80, 256 + ord("a")]
    assert [decoder.feed(token) for token in tokens] == ["", "\u00e9", "", "\ufffda"]


def test_decoding_is_compiled_in_the_cache_of_its_instruction_set(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # restored afterwards
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SOME")
    with restored_settings():
        compile_step(lambda *inputs: inputs[0], torch.device("cpu"), lambda model: None)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"].endswith("_some")
