"""Write the model card of a Hugging Face export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import llamac
from llamac.convert.hf.config_export import family_for
from llamac.convert.trained_model import TrainedModel
from llamac.runtime import durable_files
from llamac.runtime.terminal import escaped
from llamac.spec.toml.writer import to_toml

USE = """\
```python
from transformers import AutoModelForCausalLM, %(tokenizer)s

model = AutoModelForCausalLM.from_pretrained("PATH")
tokenizer = %(tokenizer)s.from_pretrained("PATH")
```
"""
"""Section of the card on loading the model. tokenizer: a tokenizer class of transformers."""


def model_card(trained: TrainedModel, dtype: str) -> str:
    """Return the text of README.md: origin, shape, usage and spec, for a run also data and loss.

    dtype: name of the weights' dtype, such as "bfloat16".
    """
    spec = trained.spec
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "---", ""]
    lines += [f"# {spec.name}", ""]
    lines += [*_origin(trained), f"Weights are {dtype}. {_shape(trained)}", "", _use(trained)]
    if not trained.opened.imported:
        lines += ["## Data", "", *_data(trained), "", "## Training", "", *_training(trained), ""]
    lines += ["## Spec", "", "```toml", _spec_text(trained), "```", ""]
    return "\n".join(lines)


def _use(trained: TrainedModel) -> str:
    """Return the card's section on loading the model.

    For Qwen2, AutoTokenizer of transformers 5 ignores tokenizer_config.json and uses Qwen2's own
    pre-tokenizer.
    """
    ignored_config = not trained.opened.imported and family_for(trained.spec.model) == "qwen2"
    return USE % {"tokenizer": "PreTrainedTokenizerFast" if ignored_config else "AutoTokenizer"}


def _origin(trained: TrainedModel) -> Iterator[str]:
    note, opened = trained.opened.note, trained.opened
    if opened.imported:
        yield f"Imported by llamac from {escaped(note['title'])}, {note['family']}."
        return
    yield f"Trained by llamac {llamac.__version__}, step {trained.step:,}."
    if note:
        yield f"It started from {escaped(note['title'])}, weights sha256 {note['weights_sha256']}."


def _shape(trained: TrainedModel) -> str:
    model = trained.spec.model
    count = sum(tensor.numel for tensor in trained.tensors.values())
    return (
        f"{count:,} parameters: {model.n_layers} layers of width {model.dim}, {model.n_heads} "
        f"heads, a vocabulary of {model.vocab_size:,}."
    )


def _data(trained: TrainedModel) -> Iterator[str]:
    manifest: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        directory = trained.spec.data.directory or trained.opened.directory / "data"
        manifest = durable_files.read_json(Path(directory) / "manifest.json")
    if not isinstance(manifest, dict) or "sources" not in manifest:
        yield "The run directory has no record of its data."
        return
    yield "| source | share | tokens |"
    yield "|---|---|---|"
    shares = {source.name: source.share for source in trained.spec.data.source}
    total = sum(shares.values())
    for source in manifest["sources"]:
        share = shares.get(source["name"], 0.0) / total
        yield f"| {escaped(source['name'])} | {share:.1%} | {source['train']['tokens']:,} |"


def _training(trained: TrainedModel) -> Iterator[str]:
    spec, row = trained.spec, _last_row(trained)
    trained_tokens, total_tokens = (
        steps * spec.batch.tokens for steps in (trained.step, spec.total_steps)
    )
    yield f"- tokens: {trained_tokens:,} of {total_tokens:,}"
    for key, what in (("loss", "training loss"), ("validation_loss", "held-out loss")):
        if key in row:
            yield f"- {what}: {row[key]:.4f} nats per token"
    gpu = spec.hardware.gpu or spec.hardware.device
    yield f"- hardware: {spec.parallel.ranks} × {escaped(Path(str(gpu)).name)}"
    yield f"- precision: {spec.precision.compute}, masters float32"


def _last_row(trained: TrainedModel) -> dict[str, Any]:
    """Return the newest value of each metric up to the exported step, from metrics.jsonl."""
    latest: dict[str, Any] = {}
    with suppress(OSError, UnicodeDecodeError):
        for line in (trained.opened.directory / "metrics.jsonl").read_text().splitlines():
            with suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and row.get("step", 0) <= trained.step:
                    latest |= {key: value for key, value in row.items() if value is not None}
    return latest


def _spec_text(trained: TrainedModel) -> str:
    """Return the TOML of the spec's model and training sections, which contain no paths."""
    sections = ("model", "batch", "optimizer", "schedule", "precision")
    written = trained.spec.toml_values()
    if trained.opened.imported:
        sections = ("model",)
    return to_toml({key: written[key] for key in sections}).strip()
