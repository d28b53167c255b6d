"""What came in is what was left plus what was taken away, at every step, and samples say why."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from llamac.cli import main
from llamac.data.accounting import funnel
from llamac.data.accounting.accounts import Account, accounts
from llamac.data.accounting.epochs import epochs, run_tokens, tokens_done
from llamac.data.accounting.funnel import SAMPLES, StepCounts
from llamac.data.accounting.html_page import data_page
from llamac.data.document import Document, Rejected
from llamac.data.source_plan import PartSizes
from llamac.runtime.data.prepared import PreparedDataError
from llamac.spec import load_spec
from tests.data.preparing import prepared, write_corpus, write_spec

SHARES = {"common_crawl": 67, "c4": 15, "github": 4.5, "wikipedia": 4.5, "books": 4.5}
SHARES |= {"arxiv": 2.5, "stackexchange": 2}
EPOCHS = (1.10, 1.06, 0.64, 2.45, 2.23, 1.06, 1.03)  # Touvron et al. 2023, Table 1


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder / "web")
    (folder / "web" / "6.jsonl").write_text('{"text": " "}\n{"text": 5}\nno JSON\n')
    write_spec(folder)
    return folder


@pytest.fixture(scope="module")
def found(corpus: Path) -> list[Account]:
    spec = corpus / "mix.toml"
    prepared(spec, corpus / "prepared")
    return accounts(load_spec(spec).data, corpus / "prepared")


def test_every_step_adds_up(found: list[Account]) -> None:
    for account in found:
        for before, row in zip(account.rows, account.rows[1:], strict=False):
            assert row.entered == before.left
            rejected = [sum(amounts) for amounts in zip(*row.rejected.values(), strict=True)]
            documents, size = rejected or (0, 0)
            assert row.left[0] == row.entered[0] - documents
            assert row.left[1] <= row.entered[1] - size
            assert row.changed or row.left[1] == row.entered[1] - size
        splits = account.splits.values()
        assert account.rows[-1].left[0] == sum(split["documents"] for split in splits)
        assert account.rows[-1].left[1] == sum(split["bytes"] for split in splits)


def test_each_stage_has_its_reasons_and_the_reader_too(found: list[Account]) -> None:
    rows = found[0].rows
    assert [row.name for row in rows] == ["read", "length", "exact_dedup", "length", "line_dedup"]
    assert {reason: n for reason, (n, _) in rows[0].rejected.items()} == {
        "empty": 1,
        "not text": 1,
        "invalid JSON": 1,
    }
    assert [set(row.rejected) for row in rows[2:4]] == [{"exact duplicate"}, {"long document"}]
    assert rows[4].changed > 0
    assert any("6.jsonl:3: invalid JSON" in example for example in found[0].examples)


def test_samples_say_where_and_what_decided(found: list[Account]) -> None:
    sample = found[0].rows[3].samples["long document"][0]
    assert re.fullmatch(r".*/web/\d\.jsonl:\d+", sample["where"])
    assert re.fullmatch(r"\d+ > 2000 characters", sample["detail"])
    assert len(sample["text"]) == funnel.EXCERPT
    cut = found[0].rows[4].samples["changed"][0]
    assert cut["before"] != cut["text"]


@pytest.mark.slow
def test_counts_and_samples_do_not_depend_on_how_work_is_cut(
    corpus: Path, found: list[Account], tmp_path: Path
) -> None:
    spec = write_spec(corpus)
    prepared(spec, tmp_path, sizes=PartSizes(part=7_000, chunk=2_000))
    again = accounts(load_spec(spec).data, tmp_path)
    assert funnel.to_json(again[0].rows) == funnel.to_json(found[0].rows)


def test_samples_are_a_fair_choice_in_whatever_order_parts_are_added() -> None:
    documents = [Document(f"text {n}", f"file-{n % 7}", n) for n in range(2000)]
    whole, parts = StepCounts("length"), [StepCounts("length") for _ in range(5)]
    for n, document in enumerate(documents):
        whole.reject(document, 10, Rejected("short"))
        parts[n % 5].reject(document, 10, Rejected("short"))
    random.Random(1).shuffle(parts)
    [added] = funnel.total([[part] for part in parts])
    assert added == whole
    assert len(whole.samples["short"]) == SAMPLES
    lines = [int(sample["where"].rpartition(":")[2]) for sample in whole.samples["short"]]
    assert max(lines) > 500  # not merely the first


def test_names_of_files_may_be_any_bytes() -> None:
    row = StepCounts("read")
    row.keep(Document("text", "caf\udce9", 1), 4)
    assert row.samples[""][0]["where"] == "caf?:1"


def test_unfinished_work_is_accounted_for(corpus: Path, tmp_path: Path) -> None:
    spec = write_spec(corpus)
    prepared(spec, tmp_path)
    (tmp_path / "manifest.json").unlink()
    for account in accounts(load_spec(spec).data, tmp_path):
        assert not account.finished
        assert account.rows[-1].left[0] > 0
    with pytest.raises(PreparedDataError, match="has no prepared data"):
        accounts(load_spec(spec).data, tmp_path / "elsewhere")


def test_the_page_stands_alone_and_its_bars_are_in_proportion(found: list[Account]) -> None:
    text = data_page("mix <&>", found)
    assert "The data of mix &lt;&amp;&gt;" in text
    assert not re.search(r"(src|href)=|url\(", text)
    charts = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.S)]
    assert len(charts) == 1 + len(found)
    for account, chart in zip(found, charts[1:], strict=True):
        bars = {shape.findtext("title"): float(shape.get("width", "0")) for shape in chart}
        left = [v for k, v in bars.items() if k and k.endswith(" left")]
        assert left == sorted(left, reverse=True)
        assert len(account.rows) > 1 or left


def test_stats_are_shown_by_the_command(
    corpus: Path, found: list[Account], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = str(corpus / "mix.toml")
    assert main(["data", "stats", spec]) == 0
    said = capsys.readouterr().out
    assert re.search(r"line_dedup +\d+ .* \d+ × repeated lines, \d+ changed", said)
    assert main(["data", "stats", spec, "--samples"]) == 0
    assert "length: long document" in capsys.readouterr().out
    assert main(["data", "stats", spec, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)[0]
    assert first["steps"][1]["rejected"] == found[0].rows[1].rejected
    assert main(["data", "stats", spec, "-o", str(tmp_path / "stats.html")]) == 0
    assert (tmp_path / "stats.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    elsewhere = f'data.directory="{tmp_path}/none"'
    assert main(["data", "stats", spec, "--set", elsewhere]) == 1
    assert "run `llamac data prepare`" in capsys.readouterr().err


# --- Epochs ----------------------------------------------------------------------------------


def test_the_papers_epochs_follow_from_its_shares_and_its_tokens(tmp_path: Path) -> None:
    spec = load_spec("65b")
    assert {source.name: source.share for source in spec.data.source} == SHARES
    rows = epochs(spec, tmp_path, tmp_path)
    assert tuple(round(row.epochs or 0, 2) for row in rows) == EPOCHS
    assert sum(row.planned for row in rows) == pytest.approx(run_tokens(spec))
    assert run_tokens(spec) == pytest.approx(1.4e12, rel=1e-5)


def test_counted_tokens_take_precedence_and_consumed_ones_are_counted(
    corpus: Path, found: list[Account], tmp_path: Path
) -> None:
    spec = load_spec(corpus / "mix.toml", ["data.source.0.unique_tokens=5"])
    (tmp_path / "metrics.jsonl").write_text('{"tokens": 2048}\n{"tokens": 4096}\n{"tok')
    assert tokens_done(tmp_path) == 4096
    rows = epochs(spec, corpus / "prepared", tmp_path)
    assert [row.unique for row in rows] == [a.splits["train"]["tokens"] for a in found]
    assert [row.consumed for row in rows] == [0.75 * 4096, 0.25 * 4096]
    declared = epochs(spec, tmp_path, tmp_path)
    assert [(row.unique, row.prepared) for row in declared] == [(5, False), (None, False)]
    assert declared[1].epochs is None


def test_shares_that_change_count_from_their_phase_on(corpus: Path, tmp_path: Path) -> None:
    text = (corpus / "mix.toml").read_text()
    phase = "[[data.phase]]\nat = 100_000\nshares = { web = 0, notes = 1 }\n"
    (tmp_path / "phases.toml").write_text(text + phase)
    spec = load_spec(tmp_path / "phases.toml")
    web, notes = epochs(spec, tmp_path, tmp_path)
    assert web.planned == 75_000
    assert notes.planned == run_tokens(spec) - 75_000


def test_a_damaged_account_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_corpus(tmp_path / "web", files=2, documents=10)
    spec = write_spec(tmp_path, "")
    prepare = ["data", "prepare", str(spec), "--workers", "1"]
    assert main(prepare) == 0
    said = capsys.readouterr().out
    assert re.search(rf"{tmp_path}/prepared holds [\d,]+ tokens of \d sources", said)
    assert main(prepare) == 0
    assert capsys.readouterr().out == said.replace(" sources: ", " sources, prepared before: ")
    account = next((tmp_path / "prepared").glob("*/funnel.json"))
    for left in ("[", "[{}]", "7", "[" * 100_000):
        account.write_text(left)
        assert main(["data", "stats", str(spec)]) == 1
        assert f"{account} is damaged" in capsys.readouterr().err
