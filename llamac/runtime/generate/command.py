"""Command line of an emitted generate.py, which prints continuations of prompts."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .. import machine
from ..checkpoint import load_run
from ..checkpoint.load_run import BadRequest
from ..checkpoint.model_directory import ModelDirectory, open_model
from ..terminal import escaped, quiet
from ..tokenizers.chat_template import CHAT_TEMPLATE, ChatTemplate
from .engine import STEP, Generation, GenerationSpeed
from .sampling import Sampling
from .text import Decoder


@dataclass(frozen=True)
class EmittedProgram:
    """Settings and classes of an emitted generate.py.

    Attributes:
        name: name of the spec.
        directory: the emitted directory, default of --run.
        data: `data.directory` of the spec; None for the run's own.
        model: class of the model.
        packed: name of a packed parameter → its canonical pieces.
        inference: class Inference, called as `inference(model, rows, positions)` to allocate
            key-value caches for that many rows and positions.
        pack: packs the model's linear weights in place for a CPU's matmul.
        compile: compiles the decoding step for a device.
        device: "auto", "cpu" or "cuda".
        dtype: dtype of the weights and of the computation.
        spec: resolved spec.
        threads: number of CPU threads; None for torch's default.
        sample: defaults of max_new_tokens, context, temperature, top_p and seed.
        longer: whether the model supports more positions than training used.
    """

    name: str
    directory: Path
    data: str | None
    model: type[Any]
    packed: Mapping[str, Any]
    inference: Callable[..., Any]
    pack: Callable[[Any], None]
    compile: Callable[[torch.device], None]
    device: str
    dtype: torch.dtype
    spec: Mapping[str, Any]
    threads: int | None
    sample: Mapping[str, Any]
    longer: bool


def main(program: EmittedProgram) -> int:
    """Run generate.py; return its exit code: 0, 1 (error), 2 (invalid request), 130 (Ctrl-C)."""
    args = _parser(program).parse_args()
    try:
        generate(program, args)
        return 0
    except machine.RunError as error:
        print(escaped(f"error: {error}"), file=sys.stderr)
        return 2 if isinstance(error, BadRequest) else 1
    except torch.OutOfMemoryError:
        print(
            "error: the GPU is out of memory; set CUDA_VISIBLE_DEVICES= to use the CPU",
            file=sys.stderr,
        )
        return 1
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _parser(program: EmittedProgram) -> argparse.ArgumentParser:
    about = f"Continue prompts with the newest weights of {program.name}."
    parser = argparse.ArgumentParser(description=about, allow_abbrev=False)
    add = parser.add_argument
    add(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="text to continue; repeatable; - reads stdin",
    )
    add(
        "--prompts",
        metavar="FILE",
        help='one prompt per line, or JSON lines: a string or {"prompt": …}',
    )
    add("--chat", action="store_true", help="render prompts as messages with the chat template")
    add("--system", metavar="TEXT", help="system message of --chat")
    add("--tokens", dest="count", type=int, metavar="N", help="maximum number of new tokens")
    add("--temperature", type=float, metavar="T", help="sampling temperature; 0: greedy")
    add("--top-p", type=float, metavar="P", help="nucleus sampling: probability to sample from")
    add("--top-k", type=int, metavar="K", help="sample from the K most likely tokens; 0: all")
    add("--min-p", type=float, metavar="P", help="minimum probability relative to the most likely")
    add(
        "--repetition-penalty",
        type=float,
        metavar="R",
        help="divide scores of tokens that occurred; 1: off",
    )
    add("--stop", action="append", default=[], metavar="TEXT", help="stop before this text")
    add("--seed", type=int, default=program.sample["seed"], metavar="S")
    add("--batch", type=int, default=8, metavar="N", help="prompts generated together")
    add("--json", action="store_true", help="print one JSON object per prompt")
    add(
        "--compile",
        action="store_true",
        help="compile decoding; worthwhile for thousands of tokens",
    )
    add("--checkpoint", default="newest", metavar="STEP|PATH")
    add("--run", type=Path, default=program.directory, metavar="DIR", help="run or import")
    return parser


def settings(
    program: EmittedProgram, args: argparse.Namespace, authors: Mapping[str, Any]
) -> Sampling:
    """Return the sampling settings: those of the command line, else `authors`, else the spec.

    authors: generation settings of an imported model, as `ModelDirectory.generation`; do_sample
    False means temperature 0. Raises BadRequest if a value is out of range.
    """
    names = [field.name for field in fields(Sampling)]
    usual = {key: program.sample[key] for key in ("temperature", "top_p")}
    usual |= {key: authors[key] for key in names if authors.get(key) is not None}
    if authors.get("do_sample") is False:
        usual["temperature"] = 0.0
    usual |= {key: getattr(args, key) for key in names if getattr(args, key) is not None}
    ranges = {
        "temperature": ("0 or more", lambda x: x >= 0),
        "top_p": ("above 0 and at most 1", lambda x: 0 < x <= 1),
        "top_k": ("0 or more", lambda x: x >= 0),
        "min_p": ("from 0 to 1", lambda x: 0 <= x <= 1),
        "repetition_penalty": ("above 0", lambda x: 0 < x < float("inf")),
    }
    for name, (range, holds) in ranges.items():
        if name in usual and not holds(usual[name]):  # also refuses nan
            raise BadRequest(f"--{name.replace('_', '-')} {usual[name]} is not {range}")
    return Sampling(**usual)


def generate(program: EmittedProgram, args: argparse.Namespace) -> None:
    """Load the model, continue all prompts, one batch at a time, and print the results.

    Progress and speed are printed to stderr. args: parsed command line of generate.py. Raises
    BadRequest if an argument is invalid, RunError if the model cannot be loaded.
    """
    prompts = read_prompts(args)
    count = program.sample["max_new_tokens"] if args.count is None else args.count
    for name, value, low in (
        ("tokens", count, 0),
        ("seed", args.seed, 0),
        ("batch", args.batch, 1),
    ):
        if not low <= value < 2**63:
            raise BadRequest(f"--{name} {value} is not {low} or more, and below 2**63")
    settings(program, args, {})  # check requests before reading weights
    log = lambda line: print(escaped(line), file=sys.stderr)  # noqa: E731
    data = Path(program.data) if program.data else None
    opened = open_model(args.run, args.checkpoint, log, data, spec=program.spec)
    sampling = settings(program, args, opened.generation)
    device = machine.choose_device(program.device)
    torch.set_num_threads(program.threads or torch.get_num_threads())
    rows = [_tokens(opened, prompt, args) for prompt in prompts]
    model = program.model(device=device, dtype=program.dtype)
    load_run.load_weights(opened.checkpoint, model, program.packed, program.spec["model"])
    if args.compile:
        program.compile(device)
        sizes = {min(args.batch, len(rows)), len(rows) % args.batch or args.batch}
        filled = 16 * STEP  # a usual number of positions, by which Inductor chooses loops
        for size in sorted(sizes, reverse=True):
            log(f"compiling decoding for {size} rows")
            token = torch.zeros(size, dtype=torch.int64, device=device)
            program.inference(model, size, filled + 1).decode(token, token, filled)
    else:
        program.pack(model)

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # its encoding may lack characters
    speed = GenerationSpeed()
    context = opened.context if program.longer else program.sample["context"]
    for first in range(0, len(rows), args.batch):
        batch = Generation(
            partial(program.inference, model),
            rows[first : first + args.batch],
            count,
            context=context,
            device=device,
            sampling=sampling,
            seed=args.seed,
            first_row=first,
            ends=opened.end,
            speed=speed,
        )
        _print(batch, prompts, first, opened, args)
    print(quiet(str(speed), sys.stderr), file=sys.stderr)


def read_prompts(args: argparse.Namespace) -> list[str]:
    """Return the prompts of --prompt, then those of --prompts, in order.

    args: parsed command line of generate.py. Raises BadRequest if there are none or they cannot be
    read, or for --system without --chat.
    """
    prompts = [load_run.read_prompt(text) for text in args.prompt or []]
    if args.prompts is not None:
        try:
            lines = Path(args.prompts).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeError) as error:
            raise BadRequest(f"--prompts {args.prompts} cannot be read: {error}") from error
        is_json = args.prompts.endswith((".jsonl", ".json"))
        for number, line in enumerate(lines, 1):
            if line.strip():
                prompts.append(_from_json(args.prompts, number, line) if is_json else line)
    if not prompts:
        raise BadRequest("no prompt: give --prompt TEXT or --prompts FILE")
    if args.system is not None and not args.chat:
        raise BadRequest("--system has no effect without --chat")
    return prompts


def _from_json(file: str, number: int, line: str) -> str:
    try:
        value = json.loads(line)
        text = value.get("prompt") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise ValueError('it is neither a string nor an object with a string "prompt"')
        text.encode()
        return text
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{file}:{number} is not a prompt: {error}") from error


def _tokens(opened: ModelDirectory, prompt: str, args: argparse.Namespace) -> list[int]:
    assert opened.tokenizer is not None
    if not args.chat:
        tokens = [*opened.begin, *map(int, opened.tokenizer.encode(prompt))]
    elif opened.chat_template is None:
        raise BadRequest(f"{opened.directory} has no chat template: leave --chat out")
    else:
        system = [] if args.system is None else [{"role": "system", "content": args.system}]
        messages = [*system, {"role": "user", "content": prompt}]
        template = ChatTemplate(opened.tokenizer, opened.chat_template, opened.bos_text)
        tokens = template.prompt(messages)
    if not tokens:
        raise BadRequest("the prompt is empty and this model has no BOS token: give a text")
    if (largest := max(tokens)) >= (size := opened.spec["model"]["vocab_size"]):
        raise BadRequest(
            f"{opened.directory}: its tokenizer gives {opened.tokenizer.piece(largest)!r} the id "
            f"{largest:,}, but the model has {size:,} tokens: use the model's own tokenizer"
        )
    return tokens


def _print(
    batch: Generation, prompts: Sequence[str], first: int, opened: ModelDirectory, args: Any
) -> None:
    """Print a batch: stream a single prompt; print several in order when all are done."""
    assert opened.tokenizer is not None
    streamed = len(prompts) == 1 and not args.json
    starts = [list(tokens) for tokens in batch.tokens]
    decoders = [Decoder(opened.tokenizer, tokens, args.stop) for tokens in starts]
    texts = ["" for _ in starts]
    reasons = ["length" for _ in starts]
    generated: list[list[int]] = [[] for _ in starts]

    def give(row: int, text: str) -> None:
        texts[row] += text
        if streamed and text:
            print(escaped(text), end="", flush=sys.stdout.isatty())

    if streamed and not args.chat:
        print(escaped(prompts[0]), end="", flush=sys.stdout.isatty())
    for step in batch:
        for row, token in step:
            generated[row].append(token)
            if token in batch.ends:
                reasons[row] = "end"
                continue
            give(row, decoders[row].feed(token))
            if decoders[row].stopped:
                reasons[row] = "stop"
                batch.stop(row)
    for row, decoder in enumerate(decoders):
        give(row, decoder.finish())
        if decoder.stopped:
            reasons[row] = "stop"
    if streamed:
        print(flush=True)
        return
    for row, text in enumerate(texts):
        prompt = prompts[first + row]
        if args.json:
            answer = {"prompt": prompt, "text": text, "finish": reasons[row]}
            answer |= {"prompt_tokens": len(starts[row]), "tokens": generated[row]}
            print(json.dumps(answer), flush=True)
        else:
            print("---" * (first + row > 0) + "\n" * (first + row > 0), end="")
            print(escaped(("" if args.chat else prompt) + text), flush=True)


def generate_sample(
    inference: Callable[..., Any],
    model: Any,
    tokenizer: Any,
    prompt: str,
    *,
    max_new_tokens: int,
    context: int,
    temperature: float,
    top_p: float,
    seed: int,
    start: Sequence[int] = (),
    ends: Sequence[int] = (),
) -> str:
    """Return `prompt` with its continuation, a sample during training.

    inference: class Inference of the emitted directory. context: largest number of positions;
    beyond it, only the last ones are read. start: ids to continue instead of the prompt's, such as
    those of a rendered chat; the result is then "prompt → continuation". ends: ids, besides EOS,
    each of which ends the continuation. Sampling uses its own random generator, so it does not
    affect training.
    """
    begin = [*start] or [tokenizer.eos, *map(int, tokenizer.encode(prompt))]
    rows = Generation(
        partial(inference, model),
        [begin],
        max_new_tokens,
        context=context,
        device=next(model.parameters()).device,
        sampling=Sampling(temperature, top_p),
        seed=seed,
        ends=(tokenizer.eos, *ends),
    )
    decoder = Decoder(tokenizer, rows.tokens[0])
    tokens = (token for step in rows for _, token in step if token not in rows.ends)
    text = "".join(map(decoder.feed, tokens)) + decoder.finish()
    return f"{prompt} → {text}" if start else prompt + text


def chat_sample(directory: Path, tokenizer: Any, prompt: str) -> dict[str, Any]:
    """Return the arguments `start` and `ends` of `generate_sample` for a supervised model.

    The prompt becomes a user's message, or plain text if there is no chat template. directory:
    prepared data with the template and the tokens that begin and end texts. Returns {} for an empty
    prompt. Raises RunError if the template cannot be used.
    """
    chat, file = load_run.read_chat_settings(directory), directory / CHAT_TEMPLATE
    if not prompt:
        return {}
    if chat.get("template_sha256") is None:
        start = [*chat["begin"], *map(int, tokenizer.encode(prompt))]
    else:
        template = ChatTemplate(tokenizer, file.read_text(encoding="utf-8"), chat["bos"])
        start = template.prompt([{"role": "user", "content": prompt}])
    return {"start": start, "ends": chat["end"]}
