"""Where a spec leaves the dtype open, a run computes in one that the machine is fast in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamac.cli import main
from llamac.cli.preflight import chosen_dtype
from llamac.cli.preflight.chosen_dtype import choose_dtype
from llamac.spec import load_spec

ON_CPU = ["precision.compute=bf16", 'hardware.device="cpu"']
OPEN, BF16 = ["125m", []], ["125m", ["precision.compute=bf16"]]


@pytest.mark.parametrize(
    ("spec", "fast", "compute", "word"),
    [
        (OPEN, True, "bf16", ""),
        (OPEN, False, "fp32", "this CPU has no bf16 arithmetic"),
        (BF16, True, "bf16", ""),
        (BF16, False, "bf16", "no bf16 arithmetic and is slower in it than in fp32"),
        (["tiny", []], False, "fp32", ""),
    ],
)
def test_the_dtype_is_the_spec_s_or_what_the_cpu_is_fast_in(
    spec: list, fast: bool, compute: str, word: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(chosen_dtype, "multiplies_in_bf16", lambda: fast)
    found, said = choose_dtype(load_spec(*spec), tmp_path)
    assert found.precision.compute == compute
    assert word in said
    assert bool(word) == bool(said)


def test_a_gpu_computes_in_bf16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(chosen_dtype, "multiplies_in_bf16", lambda: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert choose_dtype(load_spec("125m"), tmp_path)[0].precision.compute == "bf16"


@pytest.mark.parametrize("compute", ["bf16", "fp32"])
def test_a_run_keeps_what_it_began_in(
    compute: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(chosen_dtype, "multiplies_in_bf16", lambda: compute == "fp32")
    (tmp_path / "checkpoints/step-00000001").mkdir(parents=True)
    (tmp_path / "spec.toml").write_text(f'[precision]\ncompute = "{compute}"\n')
    assert choose_dtype(load_spec("125m"), tmp_path)[0].precision.compute == compute


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("settings", "told"),
    [(ON_CPU, True), (ON_CPU[:1], False), (ON_CPU[1:], False), ([*ON_CPU, "--elsewhere"], False)],
)
def test_check_tells_that_bf16_is_slow_on_this_cpu(
    settings: list[str],
    told: bool,
    fast: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(chosen_dtype, "multiplies_in_bf16", lambda: fast)
    sets = [word for text in settings for word in (["--set"] * ("=" in text) + [text])]
    assert main(["check", "125m", *sets]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert ("slow here bf16: this CPU has no bf16 arithmetic" in said) == (told and not fast)
    assert main(["check", "125m", "--json", *sets]) == 0
    assert bool(json.loads(capsys.readouterr().out)["warnings"]) == (told and not fast)
