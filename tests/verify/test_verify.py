"""`llamac verify`: the twin, the yardstick, and what the command says when all is well."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from llamac.cli import main
from llamac.emit.build import files_of
from llamac.emit.importing import import_emitted
from llamac.passes.pass_list import NAMES, Stage, compile_spec
from llamac.spec import Spec, load_spec
from llamac.verify.oracle import TOLERANCE, ModelOutput, errors, make_oracle, relative_error
from llamac.verify.packed_parameters import module_packing_problem, packing_problem
from llamac.verify.twin import shrink
from llamac.verify.verdicts import verdicts
from tests.compare import shipped

STAGES = (*NAMES, "model.py", "cache", "inference.py")

LLAMA3 = 'model.rope_scaling={kind="llama3", factor=8.0}'

# -- the command -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["65b"],
        ["llama2-70b", "--set=hardware.device=cuda"],
        ["gpt3-block"],
        ["post-norm", "--set=recompute.policy=none"],
        ["tiny", "--set=recompute.policy=full", "--set=model.tied_embeddings=true"],
        ["7b", "--set=model.rope_layout=half_split", f"--set={LLAMA3}", "--set=model.bias=true"],
        ["1b", "--set=model.activation=relu", "--set=kernels.attention=math"],
        ["tiny", "--set=model.head_dim=6", "--set=model.n_kv_heads=2"],
        ["llama2-70b", "--set=parallel.tensor=16", "--set=parallel.data_shard=128"],
        ["tiny", "--set=parallel.tensor=2", "--set=parallel.context=2"],
        ["lora-chat"],
    ],
    ids=" ".join,
)
def test_every_stage_agrees(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", *arguments]) == 0
    out = capsys.readouterr().out
    table = out.split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in table] == ["stage", *STAGES]
    assert out.endswith(
        f"{arguments[0]} is compiled correctly: {len(STAGES)} stages agree with the reference\n"
    )


@pytest.mark.slow
def test_a_rank_that_reads_a_neighbour_s_positions_is_found() -> None:
    """A fault of what is emitted for several ranks alone: the stages before it are right."""

    def broken(spec: Spec, made: Sequence[Stage]) -> dict[str, str]:
        files = files_of(spec, made)
        right = 'take_part(rank_order(table, 0, 2), "cp", dim=0)'
        assert right in files["model.py"]
        files["model.py"] = files["model.py"].replace(right, "table.chunk(2)[0]")
        return files

    twin = shrink(load_spec("tiny", ["parallel.context=2"]))
    failed = [verdict.stage for verdict in verdicts(twin, broken) if verdict.failed]
    assert failed == ["model.py"]


@pytest.mark.slow
def test_rounding_stays_far_below_the_tolerance() -> None:
    for name in ("65b", "gpt3-block"):
        for verdict in verdicts(shrink(load_spec(name)), files_of):
            assert verdict.worst[1] < TOLERANCE / 100, verdict


@pytest.mark.slow
def test_verbose_lists_every_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "tiny", "--verbose"]) == 0
    out = capsys.readouterr().out
    for name in make_oracle(shrink(load_spec("tiny"))).weights:
        assert out.count(f"    d {name} ") == len(NAMES) + 1  # all but the two that only generate


@pytest.mark.slow
def test_it_says_which_kernel_stands_in_for_xformers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "65b"]) == 0
    assert "attention: the spec runs xformers" in capsys.readouterr().out
    assert main(["verify", "65b", "--set=hardware.device=cpu"]) == 0
    assert "attention:" not in capsys.readouterr().out


def test_a_spec_that_cannot_be_compiled_is_a_spec_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "tiny", "--set=kernels.attention=xformers"]) == 2
    error = capsys.readouterr().err
    assert 'attention = "xformers" cannot be used: its fast kernels take 16-bit values' in error
    assert main(["verify", "tiny", "--set=model.dim=0"]) == 2


# -- the twin --------------------------------------------------------------------------------------

SIZES = {"n_layers", "dim", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "vocab_size"}


@pytest.mark.parametrize("name", ["65b", "llama2-70b", "gpt3-block", "post-norm", "tiny"])
def test_the_twin_keeps_every_feature_and_ratio(name: str) -> None:
    spec, twin = shipped(name), shrink(shipped(name))
    for field, value in spec.model:
        if field not in SIZES:
            assert getattr(twin.model, field) == value, field
    assert (twin.recompute, twin.precision) == (spec.recompute, spec.precision)
    large, small = spec.model, twin.model
    assert small.n_heads / small.n_kv_heads == large.n_heads / large.n_kv_heads
    assert small.dim / (small.n_heads * small.head_dim) == 1
    assert small.ffn_dim / small.dim == pytest.approx(large.ffn_dim / large.dim, rel=0.02)
    assert small.n_layers == 2
    assert small.dim <= 256


@pytest.mark.parametrize("name", ["65b", "tiny"])
def test_the_twin_s_loss_takes_several_chunks_and_a_ragged_one(name: str) -> None:
    twin = shrink(load_spec(name))
    tokens, chunk = twin.batch.micro_batch * twin.batch.sequence_length, twin.kernels.loss_chunk
    assert tokens > 3 * chunk
    assert tokens % chunk


def test_what_is_small_already_stays() -> None:
    small = [
        "model.n_layers=1", "model.dim=8", "model.n_heads=2", "model.ffn_dim=20",
        "model.n_kv_heads=1", "model.vocab_size=320", "batch.sequence_length=5",
        "kernels.loss_chunk=1",
    ]  # fmt: skip
    spec = load_spec("tiny", small)
    twin = shrink(spec)
    assert twin.model == spec.model
    assert (twin.batch.sequence_length, twin.kernels.loss_chunk) == (5, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "extreme",
    [
        ["model.n_heads=512", "model.n_kv_heads=1", "model.dim=512", 'model.position="learned"'],
        ["model.dim=1", "model.n_heads=1", "model.head_dim=2"],
        ["model.ffn_dim=1"],
        ["model.ffn_dim=4000000"],
        ["model.head_dim=2048"],
        ["batch.sequence_length=1"],
    ],
    ids=" ".join,
)
def test_extreme_shapes_have_a_twin_that_runs(extreme: list[str]) -> None:
    twin = shrink(load_spec("tiny", extreme))
    assert twin.model.dim * twin.model.ffn_dim <= 2**18
    assert not [verdict for verdict in verdicts(twin, files_of) if verdict.failed]


# -- the yardstick ---------------------------------------------------------------------------------


@pytest.fixture
def outcome() -> ModelOutput:
    """Gradients of two parameters, one of them zero but for rounding."""
    return ModelOutput(
        loss=torch.tensor(2.0),
        evaluated=torch.tensor(2.0),
        logits=torch.ones(1, 2, 3),
        gradients={"wq": torch.tensor([1.0, -4.0]), "wk_bias": torch.tensor([1e-17, 0.0])},
    )


def test_what_is_equal_has_no_error(outcome: ModelOutput) -> None:
    assert set(errors(outcome, outcome).values()) == {0.0}


def test_rounding_around_zero_is_judged_by_the_other_gradients(outcome: ModelOutput) -> None:
    rounded = {**outcome.gradients, "wk_bias": torch.tensor([-3e-17, 2e-17])}
    assert errors(replace(outcome, gradients=rounded), outcome)["d wk_bias"] < 1e-13
    wrong = {**outcome.gradients, "wk_bias": torch.tensor([1e-6, 0.0])}
    assert errors(replace(outcome, gradients=wrong), outcome)["d wk_bias"] > 1e-4


@pytest.mark.parametrize(
    "wrong",
    [
        torch.tensor([1.0, math.nan]),
        torch.tensor([math.inf, -4.0]),
        torch.ones(1),
        torch.ones(2, 2),
    ],
)
def test_no_number_and_no_shape_is_never_right(wrong: torch.Tensor, outcome: ModelOutput) -> None:
    gradients = {**outcome.gradients, "wq": wrong}
    assert errors(replace(outcome, gradients=gradients), outcome)["d wq"] == math.inf
    assert relative_error(torch.tensor(1.0), torch.tensor(math.nan)) == math.inf


def test_a_missing_gradient_and_one_too_many_are_wrong(outcome: ModelOutput) -> None:
    fewer = {"wk_bias": outcome.gradients["wk_bias"]}
    assert errors(replace(outcome, gradients=fewer), outcome)["d wq"] == math.inf
    assert errors(outcome, replace(outcome, gradients=fewer))["d wq"] == math.inf


def test_weights_are_no_special_values() -> None:
    weights = make_oracle(shrink(load_spec("gpt3-block"))).weights
    for name, weight in weights.items():
        assert weight.std() > 0, name
        if weight.ndim == 1:
            assert abs(weight.mean().item() - (not name.endswith("_bias"))) < 0.2, name


# -- packing ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twin() -> Spec:
    return shrink(load_spec("tiny", ["model.bias=true", "model.n_heads=8", "model.n_kv_heads=2"]))


def test_packing_goes_both_ways(twin: Spec) -> None:
    assert packing_problem(compile_spec(twin), make_oracle(twin).weights) == ""


def test_rows_that_are_lost_doubled_or_strange_are_named(twin: Spec) -> None:
    program, weights = compile_spec(twin), make_oracle(twin).weights
    wqkv = program.parameters["layers.*.attention.wqkv"]
    q, k, v = wqkv.pieces

    def problem(*pieces) -> str:
        table = {**program.parameters, wqkv.name: replace(wqkv, pieces=pieces)}
        return packing_problem(replace(program, parameters=table), weights)

    assert problem(q, k, k) == "no parameter contains layers.0.attention.wv"
    assert problem(q, k) == (
        f"{wqkv.name} is {wqkv.type}, its pieces [{q.rows + k.rows}, {wqkv.type.shape[1]}]"
    )
    assert "which the model does not have" in problem(
        q, k, replace(v, name="layers.*.attention.wx")
    )
    assert "changes when packed into" in problem(
        replace(q, rows=k.rows), replace(k, rows=q.rows), v
    )
    twice = {**program.parameters, "norm2": replace(program.parameters["norm"], name="norm2")}
    found = packing_problem(replace(program, parameters=twice), weights)
    assert found == "norm is contained twice"


class Held(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.empty(3, 2))


def test_an_emitted_table_that_overlaps_is_found() -> None:
    weights = {"a": torch.ones(2, 2), "b": torch.zeros(1, 2)}

    def split(at: int):
        def views(_name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
            yield from (("a", tensor[:2]), ("b", tensor[at : at + 1]))

        return views

    assert module_packing_problem(Held(), split(2), weights) == ""
    overlapping = module_packing_problem(Held(), split(1), weights)
    assert overlapping == "w changes when unpacked and packed again"


# -- importing what was emitted --------------------------------------------------------------------


def test_importing_leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = type(sys)("runtime")
    monkeypatch.setitem(sys.modules, "runtime", mine)
    path, known = list(sys.path), set(sys.modules)
    files = {
        "model.py": "from runtime.x import y",
        "runtime/__init__.py": "",
        "runtime/x.py": "y=1",
    }
    with import_emitted(files) as model:
        assert model.y == 1
        assert sys.modules["runtime"] is not mine
    assert sys.modules["runtime"] is mine
    with pytest.raises(ZeroDivisionError), import_emitted({"model.py": "1 / 0"}):
        pass
    assert (sys.path, set(sys.modules)) == (path, known)
