"""`python -m llamac.plan.published.score`: a table in, the same table with predictions out."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from llamac.plan.published.score import ADDED, main, predict_row, score
from tests.plan.published.test_row_setting import GPT

Captured = pytest.CaptureFixture[str]


def table(*rows: dict[str, str]) -> str:
    out = io.StringIO()
    fields = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(out, fields, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_three_columns_are_added_and_others_kept() -> None:
    found = score(table(GPT | {"mine": "a, b"}))
    (row,) = read(found.table)
    assert (found.refused, found.done) == ([], 1)
    assert tuple(row)[-3:] == ADDED
    assert row["mine"] == "a, b"
    assert 1e3 < float(row["predicted_tok_s_gpu"]) < 1e5
    assert 1e10 < int(row["predicted_peak_bytes"]) < 8e10
    assert row["predicted_fits"] == "1"


def test_what_does_not_fit_is_said() -> None:
    (row,) = read(score(table(GPT | {"mbs": "64", "gpu": "V100 16GB"})).table)
    assert row["predicted_fits"] == "0"


def test_predictions_of_before_are_replaced() -> None:
    once = score(table(GPT)).table
    assert score(once).table == once


def test_peak_is_measured_as_the_row_says() -> None:
    kinds = ("nvidia-smi", "GiB max reserved", "GiB max allocated")
    rows = read(score(table(*(GPT | {"mem_kind": kind} for kind in kinds))).table)
    peaks = [int(row["predicted_peak_bytes"]) for row in rows]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == 3


def test_a_row_that_cannot_be_expressed_keeps_its_place(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(table(GPT, GPT | {"model": "mixtral"}), encoding="utf-8")
    assert main([str(path)]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("row 2 (mixtral): mixtures of experts")
    assert [row["predicted_fits"] for row in read(said.out)] == ["1", ""]


def test_a_table_of_which_no_row_is_understood_fails(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    assert main([str(path), "-o", str(tmp_path / "out.csv")]) == 2
    assert "row 1 (no model): column" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00"])
def test_a_file_that_is_no_table_fails(
    content: bytes | None, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "rows.csv"
    if content is not None:
        path.write_bytes(content)
    assert main([str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}: ")


def speed(**changes: str) -> float:
    return predict_row(GPT | changes).tokens_per_second_per_gpu


def test_what_is_done_twice_takes_longer() -> None:
    assert speed(act_ckpt="full") < 0.85 * speed(act_ckpt="none")
    assert speed(attn_kernel="unfused") < speed(attn_kernel="flash")


def test_layouts_are_ranked_as_they_should_be() -> None:
    """Tensor ranks of a small model wait for each other; stages wait in bubbles."""
    assert speed(tp="8") < speed(tp="2") < speed(tp="1")
    many = speed(pp="4", gbs_seqs="512")
    assert speed(pp="4", gbs_seqs="32") < many < speed(pp="1", gbs_seqs="512")


def test_values_and_columns_that_are_not_understood_are_counted() -> None:
    odd = GPT | {"act_ckpt": "lunar", "attn_kernel": "warp9", "dp_sharding": "zero1", "mood": "x"}
    found = score(table(odd, odd, GPT | {"mood": ""}))
    assert found.unread["act_ckpt", "lunar", "none"] == 2
    assert found.unread["attn_kernel", "warp9", "FlashAttention"] == 2
    assert found.unread_columns == ["mood"]
    assert "column act_ckpt: 'lunar' is not understood; assumed none (2 rows)" in found.remarks()


def test_a_policy_that_is_not_understood_is_no_checkpointing() -> None:
    plain = speed(act_ckpt="none")
    assert speed(act_ckpt="lunar") == speed(act_ckpt="none (all kept)") == plain
    assert speed(act_ckpt="every_layer") == speed(act_ckpt="full") < plain
