"""Import LoRA adapters in peft's format, for the import or run that they were trained on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field

from llamac.convert import untrusted_files
from llamac.convert.errors import ConversionError
from llamac.convert.hf.hf_import import READERS
from llamac.convert.hf.peft_export import peft_name
from llamac.convert.hf.tokenizer_export import hf_files
from llamac.convert.hf.tokenizer_files import chat_template_of, hf_prefix_ids, read_tokenizer_files
from llamac.convert.merge_adapters import B, adapted_weight, is_adapter_name
from llamac.convert.model_source import ForeignModel, FrozenBase, Shapes
from llamac.convert.names import LAYER, reorder_rows
from llamac.convert.tensors import LazyTensor, require_tensors
from llamac.convert.typed_table import Number, Size, Table, validate_table
from llamac.runtime.checkpoint.adapters import require_all_weights
from llamac.runtime.checkpoint.initial_weights import resolve_source
from llamac.runtime.checkpoint.model_directory import TOKENIZER_FILES, is_import, open_model
from llamac.spec import load_spec
from llamac.spec.finetune import Linear
from llamac.spec.model import Model

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
MODULES = {  # peft's: ours
    LAYER[name][0].rpartition(".")[2]: name.rpartition(".")[2]
    for name in LAYER
    if name.rpartition(".")[2] in get_args(Linear)
}
WITHOUT_EFFECT = {  # keys that do not change what saved adapters compute
    *("auto_mapping", "peft_version", "revision", "inference_mode", "exclude_modules"),
    *("megatron_config", "megatron_core", "qalora_group_size", "eva_config", "runtime_config"),
    *("task_type", "ensure_weight_tying"),
}
BASE_UNCHANGED = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that keep the base weights; others train with modified ones."""


class AdapterConfig(Table):
    """Supported keys of adapter_config.json; any other is an error if set, except WITHOUT_EFFECT.

    r: rank. lora_alpha: numerator of the adapters' scale, lora_alpha / r.
    target_modules: names of the adapted linears, or a pattern. lora_dropout: ignored, with a note.
    bias, init_lora_weights: supported only as "none" and as a value of BASE_UNCHANGED.
    """

    peft_type: str
    r: Size
    lora_alpha: Number
    target_modules: list[str] | str
    base_model_name_or_path: str | None = None
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    bias: str = "none"
    init_lora_weights: bool | str | None = True


def open_peft(directory: Path, base: Path, log: Callable[[str], None]) -> ForeignModel:
    """Open LoRA adapters in peft's format, without reading their weights.

    base: import, run or checkpoint with the weights that the adapters are added to.
    log: called with each message for the user.
    Raises ConversionError for damaged files and for options other than plain LoRA, RunError if
    `base` has no undamaged checkpoint or holds adapters itself.
    """
    where = untrusted_files.path_inside(directory, CONFIG)
    config = _validate_config(untrusted_files.read_json(where), where)
    weights = _weight_file(directory)
    tensors = READERS[weights.suffix](weights)
    path, home = resolve_source(base, log)
    require_all_weights(path)
    opened = open_model(home, str(path), log, need_tokenizer=not is_import(home))
    title = config.base_model_name_or_path or opened.note.get("title") or home.resolve().name
    if config.lora_dropout:
        log(f"note: lora_dropout = {config.lora_dropout} is not applied when training goes on")
    spec = load_spec(str(home / "spec.toml"))
    finetune = {
        "method": "lora",
        "rank": config.r,
        "alpha": config.lora_alpha,
        "targets": _targets(config, tensors, where),
    }
    tokenizer, template, begin = read_tokenizer_files(directory), opened.chat_template, opened.begin
    if any(name in tokenizer for name in TOKENIZER_FILES):
        begin = hf_prefix_ids(directory, tokenizer, opened.bos)
        template = chat_template_of(directory, tokenizer) or template
    else:
        tokenizer = hf_files(opened)

    def read(shapes: Shapes) -> dict[str, LazyTensor]:
        halves = {name: shape for name, shape in shapes.items() if is_adapter_name(name)}
        require_tensors(tensors, {peft_name(n): s for n, s in halves.items()}, str(directory))
        return {name: _in_base_order(name, tensors[peft_name(name)], spec.model) for name in halves}

    return ForeignModel(
        family="peft",
        title=title,
        model=opened.spec["model"],
        tensors=read,
        files=(where, weights),
        context=opened.context,
        tokenizer=tokenizer,
        bos=opened.bos,
        begin=begin,
        end=opened.end,
        chat_template=template,
        generation=opened.generation,
        frozen=FrozenBase(path.resolve(), finetune, spec.precision.compute == "fp32"),
    )


def _validate_config(table: Mapping[str, Any], where: Path) -> AdapterConfig:
    """Validate the configuration; raise ConversionError for anything other than plain LoRA."""
    config = validate_table(AdapterConfig, table, str(where))
    known = WITHOUT_EFFECT | AdapterConfig.model_fields.keys()
    unsupported = [key for key, value in table.items() if value and key not in known]
    unsupported += ["bias"] if config.bias != "none" else []
    unsupported += ["init_lora_weights"] if config.init_lora_weights not in BASE_UNCHANGED else []
    if config.peft_type != "LORA":
        raise ConversionError(f"{where}: peft_type = {config.peft_type!r:.60}: only LORA is read")
    if unsupported:
        raise ConversionError(
            f"{where}: {unsupported[0]} = {table[unsupported[0]]!r:.60} is not supported: only "
            "plain LoRA is. Merge the adapters with peft's merge_and_unload, and import the result"
        )
    return config


def _weight_file(directory: Path) -> Path:
    for name in WEIGHTS:
        if (directory / name).exists():
            return untrusted_files.path_inside(directory, name)
    raise ConversionError(f"{directory} has no {' or '.join(WEIGHTS)}")


def _targets(config: AdapterConfig, tensors: Iterable[str], where: Path) -> list[str]:
    """Return the adapted linears, in the configuration's order where it lists them.

    If `target_modules` is a pattern, they are found from the tensors' names.
    """
    matches = (re.search(r"(\w+)\.lora_[AB]\.weight$", name) for name in tensors)
    adapted = dict.fromkeys(match[1] for match in matches if match)
    if not adapted:
        raise ConversionError(f"{where.parent} holds no tensor of an adapter")
    named = config.target_modules
    listed = adapted if isinstance(named, str) else [name.rpartition(".")[2] for name in named]
    for name in (*listed, *adapted):
        if name not in MODULES:
            raise ConversionError(
                f"{where}: it adapts {name[:60]}; only {', '.join(MODULES)} can be adapted here"
            )
        if name not in adapted:
            raise ConversionError(
                f"{where}: target_modules has {name}, of which there is no tensor beside it"
            )
    return list(dict.fromkeys(MODULES[name] for name in (*listed, *adapted)))


def _in_base_order(name: str, tensor: LazyTensor, model: Model) -> LazyTensor:
    """Return an adapter's A or B, with the rows of B in the base's RoPE layout."""
    if not name.endswith(B):
        return tensor
    peft_model = model.model_copy(update={"rope_layout": "half_split"})
    return reorder_rows(adapted_weight(name), tensor, peft_model, model.rope_layout)
