"""Meta's format: there and back without a bit changed, whole or shared among ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llamac.convert.names import to_half_split
from llamac.runtime.tokenizers.loading import load_tokenizer_file
from tests.convert.conftest import (
    divergence,
    exports,
    imports,
    llamac,
    log_probabilities,
    make_run,
    tokens_of,
    weights_of,
)

LLAMA3 = 'model.rope_scaling={kind="llama3", factor=32.0, original_context=32}'


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize(
    "overrides",
    [
        ("model.vocab_size=332",),
        ("model.vocab_size=332", "model.n_kv_heads=4", "model.ffn_dim=100"),
        ("model.vocab_size=332", LLAMA3, "model.rope_theta=500000.0", "model.norm_eps=1e-6"),
    ],
    ids=["llama1", "grouped", "llama3"],
)
def test_there_and_back_gives_the_same_bits(overrides, parts, tmp_path, tokenizer) -> None:
    spec = make_run(tmp_path / "run", tokenizer, *overrides)
    directory = exports(tmp_path / "run", "--format", "meta", "--parts", parts)
    assert len([*directory.glob("consolidated.*.pth")]) == parts
    back = imports(directory)
    before, after = weights_of(tmp_path / "run"), weights_of(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    tokens = tokens_of(spec.model.vocab_size)
    found, wanted = (log_probabilities(d, tokens) for d in (back, tmp_path / "run"))
    assert divergence(wanted, found) == 0
    # Meta's code begins every text with the file's BOS: a run's texts begin after an EOS.
    ids = load_tokenizer_file(directory / "tokenizer.model")
    assert (ids.bos, ids.eos, ids.pieces_sha256) == (2, 2, tokenizer.pieces_sha256)
    note = json.loads((back / "import.json").read_text())
    assert (note["begin"], note["end"]) == ([2], [2])


def test_the_files_are_those_of_torch_save(tmp_path: Path, tokenizer) -> None:
    make_run(tmp_path / "run", tokenizer, "model.rope_layout=half_split")
    directory = exports(tmp_path / "run", "--format", "meta", "--dtype", "bfloat16")
    loaded = torch.load(directory / "consolidated.00.pth", weights_only=True, mmap=True)
    own = weights_of(tmp_path / "run")
    query = loaded["layers.1.attention.wq.weight"]
    assert torch.equal(to_half_split(query, 8), own["layers.1.attention.wq"].bfloat16())
    assert torch.equal(loaded["norm.weight"], own["norm"].bfloat16())
    params = json.loads((directory / "params.json").read_text())
    hidden = int(2 * 4 * params["dim"] / 3)
    hidden = int(params.get("ffn_dim_multiplier", 1) * hidden)
    assert params["multiple_of"] * -(-hidden // params["multiple_of"]) == 96


def test_a_tied_output_is_written_and_found_again(tmp_path: Path, tokenizer) -> None:
    make_run(tmp_path / "run", tokenizer, "model.tied_embeddings=true")
    directory = exports(tmp_path / "run", "--format", "meta")
    loaded = torch.load(directory / "consolidated.00.pth", weights_only=True)
    assert torch.equal(loaded["output.weight"], loaded["tok_embeddings.weight"])
    assert "tied_embeddings = true" in imports(directory).with_suffix(".toml").read_text()


@pytest.mark.parametrize(
    ("overrides", "options", "says"),
    [
        (("model.bias=true",), (), "not support model.bias = True"),
        (("model.head_dim=12",), (), "needs head_dim = dim / n_heads"),
        ((), ("--parts", 3), "--parts 3 does not divide model.n_heads = 8"),
    ],
)
def test_what_metas_code_cannot_run_is_refused(
    overrides, options, says, tmp_path, tokenizer, capsys
) -> None:
    make_run(tmp_path / "run", tokenizer, *overrides)
    output = tmp_path / "out"
    assert llamac("export", tmp_path / "run", "-o", output, "--format", "meta", *options) == 2
    assert says in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_pickle_with_code_is_not_run(tmp_path: Path, tokenizer, capsys) -> None:
    make_run(tmp_path / "run", tokenizer)
    directory = exports(tmp_path / "run", "--format", "meta")

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "pwned",))

    torch.save({"tok_embeddings.weight": Evil()}, directory / "consolidated.00.pth")
    assert llamac("import", directory, "-o", tmp_path / "bad.toml") == 2
    assert "consolidated.00.pth cannot be read with weights_only=True" in capsys.readouterr().err
    assert not (tmp_path / "pwned").exists()
    assert not (tmp_path / "bad").exists()
