"""Adapters: they learn what peft's learn, resume bit for bit, and leave in peft's format."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llamac.convert.names import hf_name, to_interleaved
from llamac.emit.build import files_of
from llamac.emit.importing import import_emitted
from llamac.passes.pass_list import stages
from llamac.runtime.distributed.mesh import Mesh
from llamac.runtime.distributed.param_sharding import ParamSharding
from llamac.runtime.distributed.sharded_optimizer import ShardedOptimizer
from llamac.runtime.optimizers.adamw import AdamW
from llamac.runtime.parameters import canonical_views
from llamac.spec import load_spec
from tests.convert.conftest import (
    GROUPED,
    exports,
    hf_log_probabilities,
    hf_model,
    imports,
    llamac,
    tokens_of,
    weights_of,
)
from tests.convert.test_init import trained

TARGETS = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")
LORA = (
    "finetune.method=lora",
    "finetune.rank=4",
    "finetune.alpha=6.0",
    f"finetune.targets={json.dumps(TARGETS)}",
)
SETTINGS = tuple(word for one in LORA for word in ("--set", one))


def peft_model(base: Any) -> Any:
    """A model of transformers with peft's adapters, of which neither half is zero."""
    from peft import LoraConfig, get_peft_model

    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "up_proj"]
    config = LoraConfig(r=4, lora_alpha=6, target_modules=modules, task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=random))
    return model


def peft_name(canonical: str) -> str:
    base, _, half = canonical.rpartition("_lora_")
    module = hf_name(base).removesuffix(".weight")
    return f"base_model.model.{module}.lora_{half.upper()}.default.weight"


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["half_split", "interleaved"])
def test_gradients_and_a_step_are_peft_s(hf, layout: str) -> None:
    """An AdamW step of llamac's optimizer on the emitted model, and torch's on peft's, agree."""
    directory, base = hf("llama", **GROUPED)
    home = imports(directory)
    given = [f"init.from={home}", *LORA, f"model.rope_layout={layout}", "precision.compute=fp32"]
    spec = load_spec(str(home.with_suffix(".toml")), given)
    weights, model = weights_of(home), peft_model(base)
    theirs = dict(model.named_parameters())
    sequences = tokens_of(331, 65)
    tokens, labels = sequences[:, :-1], sequences[:, 1:]

    def turned(name: str, values: Tensor) -> Tensor:
        """Rows that RoPE turns, as ours are ordered."""
        stem = name.removesuffix("_lora_b")
        if layout == "interleaved" and stem.endswith(("wq", "wk")) and "_lora_a" not in name:
            return to_interleaved(values, 8)
        return values

    with import_emitted(files_of(spec, list(stages(spec)))) as module:
        ours = module.Model(dtype=torch.float32)
        views = partial(canonical_views, packed=module.PACKED)
        with torch.no_grad():
            for held, parameter in ours.named_parameters():
                for name, view in views(held, parameter):
                    found = theirs[peft_name(name)] if "_lora_" in name else weights[name]
                    view.copy_(turned(name, found))
        sharding, options = (
            ParamSharding(module.PACKED),
            {"betas": (0.9, 0.95), "eps": 1e-5},
        )  # eps is LLaMA-2's
        degrees: dict[str, int] = dict.fromkeys(("pp", "dp_replicate", "dp_shard", "cp", "tp"), 1)
        mesh = Mesh(degrees, torch.device("cpu"))
        optimizer = ShardedOptimizer(
            ours.named_parameters(),
            sharding,
            mesh,
            AdamW,
            weight_decay=0.1,
            clip_norm=1e9,
            **options,
        )
        merged = 3  # A of wq, wk and wv is one tensor, A of w1 and w3 another
        assert len(optimizer.masters) == 2 * (2 * len(TARGETS) - merged)
        loss = ours(tokens, labels)
        loss.backward()
        held = {h: p.grad for h, p in optimizer.masters.items() if p.grad is not None}
        gradients = {n: g / 128 for h, grad in held.items() for n, g in views(h, grad)}

        learns = [p for p in model.parameters() if p.requires_grad]
        reference = torch.optim.AdamW(learns, lr=1e-3, weight_decay=0.1, **options)
        wanted = model(input_ids=sequences, labels=sequences).loss
        wanted.backward()
        torch.testing.assert_close(loss / 128, wanted, rtol=1e-6, atol=0)
        for name, gradient in gradients.items():
            there = turned(name, theirs[peft_name(name)].grad)
            torch.testing.assert_close(gradient, there, rtol=1e-4, atol=1e-6)

        reference.step()
        optimizer.step(1e-3, loss, torch.tensor(128.0))
        for held, parameter in ours.named_parameters():
            for name, view in views(held, parameter):
                there = theirs[peft_name(name)] if "_lora_" in name else weights[name]
                torch.testing.assert_close(view, turned(name, there), rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def lora_run(tokenizer, tmp_path_factory) -> Path:
    """Directory of an import, `hf`'s, and of a LoRA run of four steps from it, `straight`."""
    home = tmp_path_factory.mktemp("lora")
    model = hf_model(__import__("tests.convert.conftest", fromlist=["x"]).hf_config(**GROUPED))
    model.save_pretrained(home / "hf")
    (home / "hf/tokenizer.model").write_bytes(tokenizer.model)
    imports(home / "hf")
    trained(home / "imported.toml", home / "straight", *SETTINGS)
    return home


@pytest.mark.slow
def test_only_adapters_are_saved_and_a_run_resumes_bit_for_bit(lora_run: Path) -> None:
    spec = lora_run / "imported.toml"
    trained(spec, lora_run / "stopped", *SETTINGS, "--steps", "2")
    trained(spec, lora_run / "stopped", *SETTINGS)
    straight, stopped = (weights_of(lora_run / run) for run in ("straight", "stopped"))
    assert set(straight) == {
        f"layers.{layer}.{'attention' if name[1] in 'qkvo' else 'feed_forward'}.{name}_lora_{half}"
        for layer in (0, 1)
        for name in TARGETS
        for half in "ab"
    }
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)
    assert all(straight[name].any() for name in straight)
    state = json.loads((lora_run / "straight/checkpoints/step-00000004/state.json").read_text())
    note = json.loads((lora_run / "straight/init.json").read_text())
    assert state["curve"]["init"] == note["weights_sha256"]
    assert state["curve"]["finetune"]["rank"] == 4


@pytest.mark.slow
def test_an_export_is_base_plus_adapters(lora_run: Path) -> None:
    from transformers import AutoModelForCausalLM

    run = lora_run / "straight"
    exported = exports(run, name="merged")
    model = AutoModelForCausalLM.from_pretrained(exported, attn_implementation="eager")
    base, adapters = weights_of(lora_run / "imported"), weights_of(run)
    theirs = dict(model.named_parameters())
    for name, weight in base.items():
        wanted = weight
        if f"{name}_lora_a" in adapters:
            wanted = weight + 1.5 * adapters[f"{name}_lora_b"] @ adapters[f"{name}_lora_a"]
            assert not torch.equal(wanted, weight)
        torch.testing.assert_close(theirs[hf_name(name)], wanted, rtol=0, atol=1e-7)
    for format in ("meta", "gguf"):
        exports(run, "--format", format, name=f"merged-{format}")


@pytest.mark.slow
def test_peft_loads_the_adapters_beside_the_base(lora_run: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapters = exports(lora_run / "straight", "--format", "peft", name="adapters")
    merged = exports(lora_run / "straight", name="merged-too")
    base = AutoModelForCausalLM.from_pretrained(lora_run / "hf", attn_implementation="eager")
    model = AutoModelForCausalLM.from_pretrained(merged, attn_implementation="eager")
    tokens = tokens_of(331)
    plain = hf_log_probabilities(base, tokens)
    found = hf_log_probabilities(PeftModel.from_pretrained(base.float(), adapters), tokens)
    wanted = hf_log_probabilities(model, tokens)
    assert (found - plain).abs().max() > 1e-5
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_run_of_adapters_makes_text(lora_run: Path, capfd) -> None:
    assert llamac("generate", lora_run / "straight", "--prompt", "a few", "--tokens", "3") == 0
    assert capfd.readouterr().out.startswith("a few")


@pytest.mark.slow
def test_a_base_that_is_gone_or_another_is_named(lora_run: Path, tmp_path: Path, capfd) -> None:
    run = lora_run / "straight"
    shutil.move(lora_run / "imported", lora_run / "elsewhere")
    assert llamac("export", run, "-o", tmp_path / "out") == 1
    assert "are not at" in capfd.readouterr().err
    shutil.copytree(lora_run / "elsewhere", lora_run / "imported")
    manifest = lora_run / "imported/checkpoints/step-00000000/MANIFEST.json"
    manifest.write_text(manifest.read_text() + "\n")
    assert llamac("export", run, "-o", tmp_path / "out") == 1
    assert "its weights differ" in capfd.readouterr().err
    shutil.rmtree(lora_run / "imported")
    shutil.move(lora_run / "elsewhere", lora_run / "imported")
    assert not (tmp_path / "out").exists()


def test_a_model_without_adapters_has_none_to_export(hf, tmp_path: Path, capfd) -> None:
    home = imports(hf()[0])
    assert llamac("export", home, "-o", tmp_path / "out", "--format", "peft") != 0
    assert "has no adapters" in capfd.readouterr().err
