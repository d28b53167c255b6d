"""Render data accounts as terminal tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from llamac.data.accounting.accounts import Account
from llamac.data.accounting.epochs import Epochs
from llamac.data.accounting.funnel import StepCounts
from llamac.look.text_table import Cell, TextTable
from llamac.runtime.terminal import escaped

REASONS = 6  # reasons shown per step; the HTML page has all
LINES = 6  # lines shown of a sample


def funnel_tables(accounts: Sequence[Account]) -> Iterator[TextTable]:
    """Yield a table of the cleaning steps per source, then one of the mixture."""
    for account in accounts:
        yield funnel_table(account)
    yield mixture_table(accounts)


def source_heading(account: Account) -> Text:
    """Return a line with the source's name, kind, share and input size, and if it is unfinished."""
    source = account.source
    text = Text()
    text.append(source.name, "title")
    text.append(f"  {source.kind}, {account.share:.1%} of the mixture")
    if account.rows:
        inputs, size = account.rows[0].entered
        text.append(f"; {count_noun(inputs, 'input')}, {megabytes(size)} on disk")
    if not account.finished:
        text.append("  unfinished", "warn")
    return text


def funnel_table(account: Account) -> TextTable:
    """Return a table with a row per cleaning step: text left, and documents removed by reason.

    A finished source has a last row with its documents, text and tokens of both splits.
    """
    head = ("step", "documents", "text", "tokens", "left", "removed")
    rows: list[tuple[str, ...]] = []
    for index, row in enumerate(account.rows):
        tokens = account.estimate_tokens(row.left[1])
        rows.append(
            (
                row.name,
                f"{row.left[0]:,}",
                megabytes(row.left[1]),
                "" if tokens is None else f"≈ {format_count(tokens)}",
                f"{row.left[1] / row.entered[1]:.1%}" if index and row.entered[1] else "",
                escaped(", ".join(rejection_reasons(row))),
            )
        )
    if account.finished:
        train, held_out = account.splits["train"], account.splits["validation"]
        rows.append(
            (
                "tokens",
                f"{train['documents'] + held_out['documents']:,}",
                megabytes(train["bytes"] + held_out["bytes"]),
                f"{account.tokens:,}",
                "",
                f"{held_out['tokens']:,} of them held out",
            )
        )
    return TextTable(source_heading(account), head if rows else [""] * 6, rows, "<>>>><")


def rejection_reasons(row: StepCounts) -> Iterator[str]:
    """Yield phrases such as "12 × short document", most frequent first.

    All after the first `REASONS` are one phrase. The number of changed documents is last.
    """
    ordered = sorted(row.rejected.items(), key=lambda item: (-item[1][0], item[0]))
    for reason, (documents, _) in ordered[:REASONS]:
        yield f"{documents:,} × {reason}"
    if rest := ordered[REASONS:]:
        yield f"{sum(documents for _, (documents, _) in rest):,} for {len(rest)} other reasons"
    if row.changed:
        yield f"{row.changed:,} changed"


def mixture_table(accounts: Sequence[Account]) -> TextTable:
    """Return a table of each finished source: share, documents, tokens and bytes per token."""
    head = ("source", "share", "documents", "train tokens", "validation", "bytes per token")
    rows = []
    for account in accounts:
        if account.finished:
            train, held_out = account.splits["train"], account.splits["validation"]
            rows.append(
                (
                    account.source.name,
                    f"{account.share:.2%}",
                    f"{train['documents'] + held_out['documents']:,}",
                    f"{train['tokens']:,}",
                    f"{held_out['tokens']:,}",
                    f"{train['bytes'] / train['tokens']:.3f}" if train["tokens"] else "",
                )
            )
    return TextTable("the mixture", head, rows, "<>>>>>")


def samples(accounts: Sequence[Account]) -> Iterator[Cell]:
    """Yield the samples of each step under headings: removed and changed documents.

    Kept documents are shown for the last step only, whose result is final.
    """
    for account in accounts:
        yield source_heading(account)
        for row in account.rows:
            for kind, excerpts in row.samples.items():
                if kind == "" and row is not account.rows[-1]:
                    continue  # only the last step's kept documents are final
                yield Text(escaped(f"  {row.name}: {kind or 'kept'}"), "title")
                for sample in excerpts:
                    detail = f"  ({sample['detail']})" if "detail" in sample else ""
                    yield Text(escaped(f"    {sample['where']}{detail}"), "place")
                    if "before" in sample:
                        yield _excerpt("-", sample["before"])
                    yield _excerpt("+" if "before" in sample else " ", sample["text"])


def epochs_table(rows: Sequence[Epochs]) -> TextTable:
    """Return a table of each source's tokens and epochs, like Table 1 of the LLaMA paper.

    Once the run has consumed tokens, these and their epochs are two more columns.
    """
    consumed = any(row.consumed for row in rows)
    head = ["source", "share", "unique tokens", "planned tokens", "epochs"]
    head += ["consumed tokens", "epochs so far"] if consumed else []
    table_rows = []
    for row in rows:
        unique = "not known" if row.unique is None else format_count(row.unique)
        cells = [row.name, f"{row.share:.1%}", unique, format_count(row.planned)]
        cells.append(_epochs(row.epochs))
        if consumed:
            cells += [format_count(row.consumed), _epochs(row.epochs_consumed)]
        table_rows.append(cells)
    total = ["in all", "", "", format_count(sum(row.planned for row in rows)), ""]
    if consumed:
        total += [format_count(sum(row.consumed for row in rows)), ""]
    align = "<" + ">" * (len(head) - 1)
    return TextTable(
        "tokens and epochs of each source", head, [*table_rows, total], align, total=True
    )


def format_count(number: float) -> str:
    """Format a number with a unit: 1.4e12 as "1.40T", and below a million in full."""
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if number >= scale:
            return f"{number / scale:,.2f}{unit}"
    return f"{number:,.0f}"


def count_noun(number: int, noun: str) -> str:
    """Return a number and its noun, such as "1 input" or "2,000 inputs"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def megabytes(size: int) -> str:
    """Format bytes as MB, or as GB from 10 GB on (decimal units)."""
    return f"{size / 1e6:,.1f} MB" if size < 1e10 else f"{size / 1e9:,.1f} GB"


def _epochs(number: float | None) -> str:
    return "" if number is None else f"{number:.2f}"


def _excerpt(mark: str, text: str) -> Text:
    lines = escaped(text).split("\n")
    ellipsis = ["…"] if len(lines) > LINES else []
    shown = "\n".join(f"      {mark} {line[:150]}" for line in [*lines[:LINES], *ellipsis])
    return Text(shown, {"-": "removed", "+": "added"}.get(mark, "note"))
