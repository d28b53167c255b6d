"""Adapters in peft's format: what is exported comes back bit for bit, and peft's own are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llamac.runtime.checkpoint.initial_weights import find_initial
from llamac.runtime.distributed.ranks import Ranks
from llamac.runtime.errors import RunError
from tests.convert.conftest import (
    GROUPED,
    exports,
    hf_config,
    hf_log_probabilities,
    hf_model,
    imports,
    llamac,
    tokens_of,
    weights_of,
)
from tests.convert.test_init import trained

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def home(tokenizer, tmp_path_factory) -> Path:
    """A model of transformers, `hf`, its import, `imported`, and adapters by peft, `adapters`."""
    from peft import LoraConfig, get_peft_model

    home = tmp_path_factory.mktemp("peft")
    base = hf_model(hf_config("llama", **GROUPED))
    base.save_pretrained(home / "hf")
    (home / "hf/tokenizer.model").write_bytes(tokenizer.model)
    imports(home / "hf")
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=["v_proj", "q_proj", "down_proj"], task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, config)
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=random))
    model.save_pretrained(str(home / "adapters"))
    return home


def imported_adapters(home: Path, source: str, name: str, base: str = "imported") -> Path:
    return imports(home / source, name, "--base", home / base)


def test_an_import_gives_back_peft_s_tensors_bit_for_bit(home: Path) -> None:
    adapters = imported_adapters(home, "adapters", "tuned")
    exported = exports(adapters, "--format", "peft", name="exported")
    wanted, found = load_file(home / "adapters" / WEIGHTS), load_file(exported / WEIGHTS)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    theirs, ours = (json.loads((home / d / CONFIG).read_text()) for d in ("adapters", "exported"))
    assert {key: theirs[key] for key in ("r", "lora_alpha")} == {"r": 4, "lora_alpha": 6}
    assert all(ours[key] == theirs[key] for key in ("r", "lora_alpha", "bias", "use_dora"))
    assert set(ours["target_modules"]) == set(theirs["target_modules"])

    imported_adapters(home, "exported", "twice")
    second = exports(home / "twice", "--format", "peft", name="second")
    for file in (CONFIG, WEIGHTS):
        assert (second / file).read_bytes() == (exported / file).read_bytes()


def test_adapters_beside_an_interleaved_base_come_back_bit_for_bit(home: Path) -> None:
    exports(home / "imported", "--format", "meta", name="meta")
    imports(home / "meta", "from-meta")
    adapters = imported_adapters(home, "adapters", "tuned-meta", "from-meta")
    exported = exports(adapters, "--format", "peft", name="exported-meta")
    wanted, found = load_file(home / "adapters" / WEIGHTS), load_file(exported / WEIGHTS)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    ours = weights_of(adapters)["layers.0.attention.wq_lora_b"]
    assert not any(torch.equal(ours, tensor) for tensor in wanted.values())  # rows are reordered


def test_merged_adapters_compute_what_peft_s_do(home: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    merged = exports(imported_adapters(home, "adapters", "to-merge"), name="merged")
    base, model = (
        AutoModelForCausalLM.from_pretrained(one, attn_implementation="eager")
        for one in (home / "hf", merged)
    )
    tokens = tokens_of(331)
    plain = hf_log_probabilities(base, tokens)
    wanted = hf_log_probabilities(
        PeftModel.from_pretrained(base.float(), home / "adapters"), tokens
    )
    assert (wanted - plain).abs().max() > 1e-2
    torch.testing.assert_close(hf_log_probabilities(model, tokens), wanted, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_training_goes_on_from_imported_adapters(home: Path, capfd) -> None:
    """A step at a vanishing learning rate leaves them as they came; then they make text."""
    adapters = imported_adapters(home, "adapters", "to-train")
    still = ("--set", "optimizer.lr=1e-30", "--set", "checkpoint.keep=9")
    run = home / "run"
    trained(adapters.with_suffix(".toml"), run, *still, "--steps", "2")
    before, after = weights_of(adapters), weights_of(run)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    trained(adapters.with_suffix(".toml"), run, *still)  # resumes beside the same base
    state = json.loads((run / "checkpoints/step-00000004/state.json").read_text())["curve"]
    note = json.loads((run / "init.json").read_text())
    assert state["adapters"] == note["adapters_sha256"]
    for where in (adapters, run):
        capfd.readouterr()
        assert llamac("generate", where, "--prompt", "a few", "--tokens", "3") == 0
        assert capfd.readouterr().out.startswith("a few")


def test_adapters_of_another_rank_or_method_are_not_begun_from(home: Path, tmp_path: Path) -> None:
    adapters = imported_adapters(home, "adapters", "begun")
    curve = json.loads((adapters / "checkpoints/step-00000000/state.json").read_text())["curve"]
    begin = (str(adapters), curve["model"], tmp_path, print, Ranks())
    with pytest.raises(RunError, match="rank: 4 there, 8 here"):
        find_initial(*begin, curve["finetune"] | {"rank": 8})
    with pytest.raises(RunError, match="holds adapters but no model"):
        find_initial(*begin)
    note = find_initial(*begin, curve["finetune"] | {"targets": ["w2", "wq", "wv"]})
    assert note["adapters"] == str(adapters / "checkpoints/step-00000000")
    assert note["checkpoint"] == str(home / "imported/checkpoints/step-00000000")


def configured(**changes: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def rewritten(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        tensors = load_file(directory / WEIGHTS)
        change(tensors)
        save_file(tensors, directory / WEIGHTS)

    return write


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
BAD = {
    "rank": (configured(r=8), "q_proj.lora_A"),
    "dora": (configured(use_dora=True), "use_dora = True is not supported"),
    "rslora": (configured(use_rslora=True), "use_rslora = True"),
    "saved modules": (configured(modules_to_save=["lm_head"]), "modules_to_save = ['lm_head']"),
    "bias": (configured(bias="all"), "bias = 'all'"),
    "ranks": (configured(rank_pattern={"q_proj": 8}), "rank_pattern = {'q_proj': 8}"),
    "some layers": (configured(layers_to_transform=[0]), "layers_to_transform = [0]"),
    "pissa": (configured(init_lora_weights="pissa"), "init_lora_weights = 'pissa'"),
    "unknown option": (configured(use_tomorrow=True), "use_tomorrow = True"),
    "kind": (configured(peft_type="IA3"), "peft_type = 'IA3'"),
    "no alpha": (configured(lora_alpha=None), "lora_alpha"),
    "target": (configured(target_modules=["q_proj", "lm_head"]), "it adapts lm_head"),
    "target without tensor": (configured(target_modules=["o_proj"]), "has o_proj, of which"),
    "missing tensor": (rewritten(lambda t: t.pop(FIRST)), f"lacks {FIRST}"),
    "extra tensor": (
        rewritten(lambda t: t.update({"base_model.model.lm_head.weight": t[FIRST].clone()})),
        "lm_head.weight",
    ),
    "integers": (rewritten(lambda t: t.update({FIRST: t[FIRST].int()})), "torch.int32"),
    "no tensors": (rewritten(lambda t: t.clear()), "holds no tensor of an adapter"),
    "no file": (lambda directory: (directory / WEIGHTS).unlink(), "has no adapter_model"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_plain_lora_is_refused_by_name(home: Path, tmp_path, capfd, what: str) -> None:
    change, said = BAD[what]
    shutil.copytree(home / "adapters", tmp_path / "bad")
    change(tmp_path / "bad")
    given = ("import", tmp_path / "bad", "-o", tmp_path / "x.toml", "--base", home / "imported")
    assert llamac(*given) == 2
    assert said in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "x.toml").exists()


def test_a_base_is_asked_for_and_must_be_whole_weights(home: Path, tmp_path, capfd) -> None:
    given = ("import", home / "adapters", "-o", tmp_path / "x.toml")
    assert llamac(*given) == 2
    assert "give that import as --base DIR" in " ".join(capfd.readouterr().err.split())
    assert llamac("import", home / "hf", "-o", tmp_path / "x.toml", "--base", home / "imported")
    assert "leave out --base" in capfd.readouterr().err
    adapters = imported_adapters(home, "adapters", "no-base")
    assert llamac(*given, "--base", adapters) == 1
    assert "holds adapters but no model" in capfd.readouterr().err
