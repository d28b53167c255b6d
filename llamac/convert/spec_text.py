"""Write the spec of an imported model, with only the values that differ from defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from llamac.resources import shipped_specs
from llamac.runtime.checkpoint.model_directory import TOKENIZER_FILES
from llamac.spec import load_spec
from llamac.spec.model import Model
from llamac.spec.toml.writer import toml_literal, toml_string

SHAPE = ("dim", "n_layers", "n_heads")
"""Keys of [model] without defaults."""

MAX_SEQUENCE_LENGTH = 2048  # tokens of a training sequence in a spec that extends no other
COMMENTS = {
    "n_kv_heads": "key and value heads, each shared by a group of query heads",
    "rope_layout": "RoPE layout of the source",
    "tied_embeddings": "the output projection shares the embedding's weights",
    "bias": "biases of linear layers",
    "qk_norm": "queries and keys are normalised",
    "sliding_window": "tokens that a query attends to",
}
"""Comments on keys of [model] in the written spec."""


def spec_text(
    name: str,
    table: Mapping[str, Any],
    *,
    title: str,
    tokenizer: str | None,
    eos: int | None,
    context: int,
    float32: bool,
    finetune: Mapping[str, Any],
) -> str:
    """Return the TOML text of a spec that continues training the import in the directory `name`.

    table: the import's [model] table. title: display name of the source.
    tokenizer: name of the tokenizer file in the import, or None: the source has no tokenizer.
    eos: end-of-document id, or None if the tokenizer's files name it.
    context: maximum number of positions. float32: whether to compute in float32.
    finetune: [finetune] table of imported adapters; empty for a full model.
    """
    base = _base(table, name, context)
    overrides = _overrides(table, base[1] if base else None)
    lines = [
        f"# {_one_line(title)}, imported: `llamac generate {name} --prompt TEXT` runs it,",
        "# `llamac train` continues its training: name your own text below.",
    ]
    lines += [f'extends = "{base[0]}"'] if base else []
    lines += ["", "[init]", f"from = {toml_string(name)}  # weights; the optimizer starts afresh"]
    if finetune:
        lines += ["", "[finetune]", *(_line(key, value) for key, value in finetune.items())]
    if overrides:
        lines += ["", "[model]", *(_line(key, value) for key, value in overrides.items())]
    path = f"path = {toml_string(f'{name}/{tokenizer or TOKENIZER_FILES[0]}')}"
    absent = "  # the source has none; without it, `llamac train` trains a new one"
    lines += ["", "[tokenizer]", path if tokenizer else f"# {path}{absent}"]
    lines += [f"eos = {eos}  # ends a document"] if eos is not None else []
    lines += [
        "",
        "[[data.source]]",
        'name = "python-docs"  # placeholder for your own: kind = "files", paths = '
        '["my/texts/**/*.md"]',
        'kind = "python-docs"',
        "share = 1.0",
    ]
    if not base:
        length = toml_literal(min(context, MAX_SEQUENCE_LENGTH))
        lines += ["", "[batch]", f"sequence_length = {length}", "sequences = 8", "micro_batch = 1"]
    lines += ["", "[optimizer]", "lr = 1e-5  # small, as the weights are trained already"]
    lines += ["", "[schedule]", "steps = 1_000", "warmup_steps = 50"]
    if float32:
        lines += ["", "[precision]", 'compute = "fp32"  # as the source\'s weights']
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)[:80]


def _line(key: str, value: Any) -> str:
    comment = f"  # {COMMENTS[key]}" if key in COMMENTS else ""
    return f"{key} = {toml_literal(value)}{comment}"


def _base(table: Mapping[str, Any], name: str, context: int) -> tuple[str, Model] | None:
    """Return (file name, model) of the closest shipped spec with the import's shape, or None."""
    model = Model.model_validate(dict(table))
    shape = (*SHAPE, "n_kv_heads", "head_dim", "ffn_dim", "vocab_size")
    candidates = []
    for stem, path in shipped_specs().items():
        spec = load_spec(str(path))
        other = spec.model
        same = all(getattr(other, key) == getattr(model, key) for key in shape)
        if same and stem != name and not spec.init.source and spec.batch.sequence_length <= context:
            candidates.append((len(_overrides(table, other)), path.name, other))
    if not candidates:
        return None
    _, file, other = min(candidates, key=lambda candidate: candidate[:2])
    return file, other


def _overrides(table: Mapping[str, Any], base: Model | None) -> dict[str, Any]:
    """Return the keys of [model] whose values are neither in `base` nor defaults."""
    return {key: value for key, value in table.items() if value != _default(key, table, base)}


def _default(key: str, table: Mapping[str, Any], base: Model | None) -> Any:
    """Return the default of a [model] key, or None if the spec must give it."""
    if base is None and key not in SHAPE:
        needed = {k: table[k] for k in (*SHAPE, "head_dim") if k != key and k in table}
        try:
            base = Model.model_validate(needed)
        except ValidationError:  # dim does not divide into n_heads
            return None
    value: Any = getattr(base, key, None)
    return value.model_dump() if hasattr(value, "model_dump") else value
