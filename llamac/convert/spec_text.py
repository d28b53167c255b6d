"""Write the spec of an imported model, with only the values that differ from defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from llamac.resources import shipped_specs
from llamac.spec import load_spec
from llamac.spec.model import Model
from llamac.spec.toml.writer import string, toml_literal

SHAPE = ("dim", "n_layers", "n_heads")
"""Keys of [model] that every spec gives."""

LONGEST = 2048  # tokens of a training sequence that an import begins with
COMMENTS = {
    "n_kv_heads": "key and value heads, each shared by a group of query heads",
    "rope_layout": "RoPE layout of the source",
    "tied_embeddings": "the output projection shares the embedding's weights",
    "bias": "biases of linear layers",
    "qk_norm": "queries and keys are normalised",
    "sliding_window": "tokens that a query attends to",
}


def spec_text(
    name: str,
    table: Mapping[str, Any],
    *,
    title: str,
    tokenizer: str,
    eos: int | None,
    context: int,
    exact: bool,
    finetune: Mapping[str, Any],
) -> str:
    """Return the TOML of a spec that continues training the import in the directory `name`.

    table: its [model]. title: display name of the source. tokenizer: file name in the import.
    eos: end-of-document id, if the tokenizer's files do not name it. exact: whether the weights are
    float32. finetune: the [finetune] table of imported adapters.
    """
    base = _base(table, name, context)
    given = _differing(table, base[1] if base else None)
    lines = [
        f"# {_one_line(title)}, imported: `llamac generate {name} --prompt TEXT` runs it,",
        "# `llamac train` continues its training: name your own text below.",
    ]
    lines += [f'extends = "{base[0]}"'] if base else []
    lines += ["", "[init]", f"from = {string(name)}  # weights; the optimizer starts afresh"]
    if finetune:
        lines += ["", "[finetune]", *(_line(key, value) for key, value in finetune.items())]
    if given:
        lines += ["", "[model]", *(_line(key, value) for key, value in given.items())]
    lines += ["", "[tokenizer]", f"path = {string(f'{name}/{tokenizer}')}"]
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
        length = toml_literal(min(context, LONGEST))
        lines += ["", "[batch]", f"sequence_length = {length}", "sequences = 8", "micro_batch = 1"]
    lines += ["", "[optimizer]", "lr = 1e-5  # small, as the weights are trained already"]
    lines += ["", "[schedule]", "steps = 1_000", "warmup_steps = 50"]
    if exact:
        lines += ["", "[precision]", 'compute = "fp32"  # as the source\'s weights']
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)[:80]


def _line(key: str, value: Any) -> str:
    comment = f"  # {COMMENTS[key]}" if key in COMMENTS else ""
    return f"{key} = {toml_literal(value)}{comment}"


def _base(table: Mapping[str, Any], name: str, context: int) -> tuple[str, Model] | None:
    """Return name and model of the shipped spec with the import's shape, or None."""
    model = Model.model_validate(dict(table))
    shape = (*SHAPE, "n_kv_heads", "head_dim", "ffn_dim", "vocab_size")
    found = []
    for stem, path in shipped_specs().items():
        spec = load_spec(str(path))
        other = spec.model
        same = all(getattr(other, key) == getattr(model, key) for key in shape)
        if same and stem != name and not spec.init.source and spec.batch.sequence_length <= context:
            found.append((len(_differing(table, other)), path.name, other))
    if not found:
        return None
    _, file, other = min(found, key=lambda one: one[:2])
    return file, other


def _differing(table: Mapping[str, Any], base: Model | None) -> dict[str, Any]:
    """Return the keys that a spec must give: those that neither `base` nor a default has."""
    return {key: value for key, value in table.items() if value != _usual(key, table, base)}


def _usual(key: str, table: Mapping[str, Any], base: Model | None) -> Any:
    """Return the default of a [model] key, or None if the spec must give it."""
    if base is None and key not in SHAPE:
        needed = {k: table[k] for k in (*SHAPE, "head_dim") if k != key and k in table}
        try:
            base = Model.model_validate(needed)
        except ValidationError:  # dim does not divide into n_heads
            return None
    found: Any = getattr(base, key, None)
    return found.model_dump() if hasattr(found, "model_dump") else found
