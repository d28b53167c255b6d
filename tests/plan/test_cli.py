"""`llamac plan`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamac.cli import main
from llamac.plan.target import LayoutError, device_for, on_gpus
from llamac.spec import load_spec
from tests.test_layers import modules_after

Captured = pytest.CaptureFixture[str]


def printed(capsys: Captured, *arguments: str) -> str:
    assert main(["plan", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_it_answers_what_is_asked_before_a_run(capsys: Captured) -> None:
    out = printed(capsys, "65b")
    assert out.startswith("65b: 65,285,660,672 parameters on 2,048 × NVIDIA A100 SXM4 80GB\n")
    verdict = out.splitlines()[2]
    assert verdict.startswith("fits: ")
    assert "tokens/s/GPU" in verdict
    assert "days" in verdict
    for words in ("optimizer state", "waiting for data ranks", "MFU", "HFU", "GPU-hours", "tp"):
        assert words in out


def test_json_is_as_the_design_has_it_and_alone(capsys: Captured, tmp_path: Path) -> None:
    trace = str(tmp_path / "trace.json")
    assert main(["plan", "65b", "--json", "--trace", trace]) == 0
    said = capsys.readouterr()
    assert said.err == f"wrote {trace}\n"
    found = json.loads(said.out)
    assert found["parameters"]["total"] == 65_285_660_672
    assert set(found["parameters"]) == {"total", "per_rank"}
    assert {"per_token", "attention_per_token"} <= set(found["flops"])
    held = found["memory"]["per_gpu"]
    parts = {"parameters", "gradients", "optimizer", "activations", "logits", "communication"}
    assert parts | {"total"} <= set(held)
    assert sum(held.values()) - held["total"] == pytest.approx(held["total"], abs=len(held))
    assert found["fits"] is True
    assert found["step_seconds"] == pytest.approx(sum(found["seconds"].values()))
    for key in ("tokens_per_second_per_gpu", "mfu", "hfu"):
        assert found[key] > 0
    assert set(found["communication"]) == {"tp_bytes", "dp_shard_bytes"}
    hours = found["run"]["days"] * 24 * 2048
    assert found["run"]["gpu_hours"] == pytest.approx(hours)
    assert found["tokens_per_second_per_gpu"] * 2048 * found["run"]["days"] * 86_400 == (
        pytest.approx(1.4e12, rel=1e-4)
    )


def test_json_holds_ops_and_collectives_where_they_are_asked_for(capsys: Captured) -> None:
    plain = json.loads(printed(capsys, "65b", "--json"))
    more = json.loads(printed(capsys, "65b", "--json", "--ops", "--collectives"))
    assert set(more) - set(plain) == {"regions", "ops", "collectives"}
    assert {"op", "shape", "flops", "nbytes", "seconds", "bound", "count"} <= set(more["ops"][0])
    assert {"axis", "ranks", "link", "nbytes", "seconds", "exposed"} <= set(more["collectives"][0])


def test_ops_and_collectives_are_tables(capsys: Captured) -> None:
    out = printed(capsys, "65b", "--ops", "--collectives")
    assert "linear_weight_gradient" in out
    assert "block backward: d_attn_in" in out
    assert "within a node" in out


@pytest.mark.slow
def test_trace_and_picture_are_written_whole_or_not_at_all(
    capsys: Captured, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("trace.json", "memory.svg", "memory.png")]
    out = printed(capsys, "tiny", "--trace", str(files[0]), "--picture", str(files[1]))
    assert out.endswith(f"wrote {files[0]}\nwrote {files[1]}\n")
    printed(capsys, "tiny", "--picture", str(files[2]))
    assert json.loads(files[0].read_text())["traceEvents"]
    assert files[1].read_text().startswith("<svg")
    assert files[2].read_bytes().startswith(b"\x89PNG")
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert main(["plan", "tiny", "--trace", str(tmp_path / "gone" / "trace.json")]) == 2
    assert "there is no directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a spec, such as tiny or 65b"),
        (["gone.toml"], "gone.toml: error: cannot read the spec"),
        (["65b", "--device", "h300"], "no device 'h300': did you mean h"),
        (["65b", "--set", "hardware.gpu=z9"], "--set hardware.gpu=z9: no device 'z9': known: "),
        (["65b", "--gpus", "100"], "64 or 128 GPUs would do"),
        (["65b", "--gpus", "0"], "Invalid value for '--gpus'"),
        (["65b", "--set", "model.dim=100"], "error:"),
        (["tiny", "--picture", "memory.pdf"], "memory.pdf ends in neither .svg nor .png"),
        (["tiny", "-o", "machine.toml"], "it has no effect without --calibrate"),
        (["tiny", "--calibrate", "--json"], "SPEC and --json has no effect with --calibrate"),
        (["tiny", "--device", "h1000"], "no device 'h1000'"),
        (["tiny", "--framework", "jax"], "is not one of"),
    ],
)
def test_what_makes_no_sense_exits_with_2(
    arguments: list[str], message: str, capsys: Captured
) -> None:
    assert main(["plan", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_other_frameworks_and_shardings_can_be_expressed(capsys: Captured) -> None:
    gelu = ("gpt3-block", "--device", "a100-80gb", "--gpus", "8", "--json")
    ours = json.loads(printed(capsys, *gelu))
    theirs = json.loads(
        printed(
            capsys,
            *gelu,
            "--framework",
            "megatron",
            "--sharding",
            "zero1",
            "--set",
            "kernels.attention=math",
        )
    )
    n = theirs["parameters"]["per_rank"]
    held = theirs["memory"]["per_gpu"]
    assert held["parameters"] + held["gradients"] == 6 * n  # Megatron's 6 + 12/dp
    assert held["optimizer"] == 12 * n / 8
    assert ours["memory"]["per_gpu"]["parameters"] == n / 2  # FSDP: fp32 shards
    assert theirs["step_seconds"] > ours["step_seconds"]


def test_every_style_is_an_option() -> None:
    from llamac.cli.plan import Framework
    from llamac.plan.cost.framework import FRAMEWORKS

    assert [str(one) for one in Framework] == list(FRAMEWORKS)


def test_data_ranks_follow_the_gpus() -> None:
    spec = load_spec("65b", ["batch.micro_batch=1"])
    assert on_gpus(spec, 2048) is spec
    assert on_gpus(spec, 4096).parallel.data_shard == 512
    with pytest.raises(
        LayoutError, match=r"3 GPUs: each copy of the model takes 8.*; 8 GPUs would"
    ):
        on_gpus(spec, 3)
    shared = ["parallel.data_replicate=4", "parallel.data_shard=64"]
    hybrid = load_spec("65b", ["batch.micro_batch=1", *shared])
    layout = on_gpus(hybrid, 1024).parallel
    assert (layout.data_replicate, layout.data_shard) == (2, 64)  # shards keep their size
    alone = on_gpus(load_spec("125m"), 4).parallel
    assert (alone.data_replicate, alone.data_shard) == (1, 4)


def test_the_device_is_the_specs_or_else_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_for(load_spec("65b")).name == "a100-80gb"
    for name in ("h100-sxm", "h100", "H100 SXM5 80GB"):
        assert device_for(load_spec("65b"), name).name == "h100-sxm"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_for(load_spec("tiny")).name == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    assert device_for(load_spec("tiny")).name == "h100-sxm"
    assert device_for(load_spec("tiny", ["hardware.device=cpu"])).name == "cpu"
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Some GPU 9000")
    with pytest.raises(ValueError, match=r"Some GPU 9000 is not among .* --calibrate"):
        device_for(load_spec("tiny"))


SMALL = ("tiny", "125m", "1b")


@pytest.mark.parametrize("name", ["tiny", "125m", "1b", "7b", "13b", "33b", "65b", "llama2-70b"])
def test_every_shipped_spec_has_a_plan(name: str, capsys: Captured) -> None:
    fits = name != "1b"  # not in the memory of the CPU that a spec without a GPU is planned for
    assert main(["plan", name, "--device", "cpu" if name in SMALL else "a100-80gb"]) == (
        0 if fits else 3
    )
    assert f"tokens/s/{'process' if name in SMALL else 'GPU'}" in capsys.readouterr().out


def test_help_does_not_wait_for_torch() -> None:
    modules = modules_after("plan", "--help")
    assert "llamac.cli.plan" in modules
    assert "torch" not in modules
