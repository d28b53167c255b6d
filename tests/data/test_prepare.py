"""What a preparation leaves: all that the stages kept, in order, in a form that a trainer takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamac.cli import main
from llamac.data.source_plan import PartSizes, plan_source
from llamac.runtime.data import token_shards
from llamac.runtime.data.mixture import Mixture
from llamac.runtime.errors import SourceError
from llamac.runtime.tokenizers.loading import load_tokenizer_file
from llamac.spec import load_spec
from tests.data.preparing import SMALL, hashes, preparation, prepared, write_corpus, write_spec


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder / "web")
    return folder


@pytest.fixture(scope="module")
def done(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("done")
    return root, prepared(write_spec(corpus), root)


def texts(root: Path, manifest: dict[str, Any], source: int, split: str = "train") -> list[str]:
    """The documents that a source's shards spell."""
    files = [root / shard["file"] for shard in manifest["sources"][source][split]["shards"]]
    stream = np.concatenate([np.fromfile(file, manifest["dtype"]) for file in files])
    model = load_tokenizer_file(root / "tokenizer.model")
    ends = np.flatnonzero(stream == model.eos) + 1
    assert ends[-1] == len(stream)
    return [model.decode(tokens) for tokens in np.split(stream, ends)[:-1]]


def expected(corpus: Path) -> list[str]:
    """The stages of `preparing.STAGES`, written down again in the plainest way."""
    found = [
        json.loads(line)["text"]
        for file in sorted((corpus / "web").glob("*.jsonl"))
        for line in file.open(encoding="utf-8")
    ]
    kept: list[str] = []
    for text in dict.fromkeys(text for text in found if len(text) >= 12):
        if len(text) <= 2000:
            kept.append(text)
    seen: set[str] = set()
    result = []
    for text in kept:
        lines = [line for line in text.split("\n") if line not in seen]
        if len(text) < 20:
            continue
        seen.update(text.split("\n"))
        if len("\n".join(lines)) >= 20:
            result.append("\n".join(lines))
    return result


def test_what_the_stages_keep_is_in_the_shards_whole_and_in_order(
    corpus: Path, done: tuple[Path, dict[str, Any]]
) -> None:
    root, manifest = done
    train, held_out = texts(root, manifest, 0), texts(root, manifest, 0, "validation")
    want = expected(corpus)
    assert 30 < len(want) < 240
    assert sorted(train + held_out) == sorted(want)
    assert train == [text for text in want if text in set(train)]
    assert held_out


@pytest.mark.slow
def test_how_the_work_is_cut_changes_no_document(corpus: Path, tmp_path: Path) -> None:
    spec, found = write_spec(corpus), []
    for name, sizes in (("small", SMALL), ("large", PartSizes()), ("odd", PartSizes(9_000, 1_000))):
        manifest = prepared(spec, tmp_path / name, sizes=sizes)
        found.append(texts(tmp_path / name, manifest, 0))
    assert found[0] == found[1] == found[2]


def test_the_manifest_is_what_a_trainer_would_have_asked_for(
    corpus: Path, done: tuple[Path, dict[str, Any]]
) -> None:
    """The emitted trainer prepares with these arguments, and finds nothing left to do."""
    root, manifest = done
    spec = load_spec(write_spec(corpus))
    before = hashes(root)
    again = token_shards.prepare(
        root,
        sources=[source.toml_values() for source in spec.data.source],
        tokenizer=spec.tokenizer.toml_values(),
        vocab_size=spec.model.vocab_size,
        validation=spec.data.validation,
        shard_tokens=spec.data.shard_tokens,
        seed=spec.seed,
    )
    assert again == manifest
    assert hashes(root) == before
    full = [shard["tokens"] for shard in manifest["sources"][0]["train"]["shards"]]
    assert full.count(1000) > 2
    assert max(full) == 1000
    mixture = Mixture(root, "train", 64, seed=1)
    assert mixture.sequences(0, 8).shape == (8, 65)


def test_parts_share_what_may_be_read(corpus: Path, tmp_path: Path) -> None:
    notes = load_spec(write_spec(corpus)).data.source[1]
    plan = plan_source(notes, tmp_path, SMALL)
    assert notes.max_bytes is not None
    most = [part.max_text_bytes for part in plan.parts if part.max_text_bytes is not None]
    assert len(most) == len(plan.parts) > 1
    assert notes.max_bytes <= sum(most) < notes.max_bytes + len(most)


def test_a_trainer_alone_says_which_command_cleans(corpus: Path, tmp_path: Path) -> None:
    spec = load_spec(write_spec(corpus))
    with pytest.raises(SourceError, match=r"run `llamac data prepare SPEC --set data.directory="):
        token_shards.prepare(
            tmp_path,
            sources=[source.toml_values() for source in spec.data.source],
            tokenizer=spec.tokenizer.toml_values(),
            vocab_size=320,
            validation=0.1,
            shard_tokens=100,
            seed=1,
        )


def test_a_stage_that_cannot_run_is_told_before_anything_is_written(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = '[[data.source.stage]]\nstage = "perplexity"\nmodel = "nowhere.npz"\n'
    spec = write_spec(corpus, stages)
    directory = tmp_path / "out"
    arguments = ["data", "prepare", str(spec), "--set", f'data.directory="{directory}"']
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert f"web: perplexity: cannot read {corpus / 'nowhere.npz'}" in said
    assert "llamac data classifier" in said
    assert not directory.exists()


def test_a_source_of_which_nothing_is_left_says_why(corpus: Path, tmp_path: Path) -> None:
    stages = '[[data.source.stage]]\nstage = "length"\nmin_chars = 100_000\n'
    with pytest.raises(SourceError, match=r"'web' has no documents left .*\d+ × length: short doc"):
        prepared(write_spec(corpus, stages), tmp_path)


def test_a_changed_spec_is_refused_on_the_command_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, run = write_spec(corpus), f'data.directory="{tmp_path}/out"'
    assert main(["data", "prepare", str(spec), "--set", run, "--workers", "1"]) == 0
    capsys.readouterr()
    change = ["--set", "data.source.0.stage.3.keep=none"]
    assert main(["data", "prepare", str(spec), "--set", run, *change]) == 2
    said = capsys.readouterr().err
    assert "data.source.web.stage.3.line_dedup.keep: 'first' before, 'none' now" in said


def test_plans_are_the_same_everywhere(corpus: Path, tmp_path: Path) -> None:
    spec = write_spec(corpus)
    first, second = (preparation(spec, tmp_path) for _ in range(2))
    assert first.plans == second.plans
    inputs = [path for part in first.plans[0].parts for path in part.inputs]
    assert inputs == sorted(map(str, (corpus / "web").glob("*.jsonl")))
    assert not any(tmp_path.iterdir())


def test_a_stage_that_cannot_run_is_told_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "s.toml").write_text(
        'extends = "tiny.toml"\n[[data.source]]\nname = "a"\nkind = "files"\nshare = 1\n'
        f'paths = ["{tmp_path}/a.txt"]\n[[data.source.stage]]\nstage = "length"\nmin_chars = 1\n'
        '[[data.source.stage]]\nstage = "c4"\nbad_words = "/none"\n'
    )
    prepare = ["data", "prepare", str(tmp_path / "s.toml"), "--run", str(tmp_path / "run")]
    assert main(prepare) == 2
    assert "s.toml:10: a: c4: cannot read /none" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
