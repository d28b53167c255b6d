"""Render the accounts as tables on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from llamac.data.accounting.accounts import Account
from llamac.data.accounting.epochs import Epochs
from llamac.data.accounting.funnel import StepCounts
from llamac.runtime.terminal import escaped

WIDTH = 160  # of what is piped
REASONS = 6  # shown of a step; the page has all
LINES = 6  # shown of a sample


def print_parts(parts: Sequence[RenderableType]) -> None:
    """Print to stdout."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    for part in parts:
        console.print(part)


def funnels(accounts: Sequence[Account]) -> Iterator[RenderableType]:
    for account in accounts:
        yield source_heading(account)
        if account.rows:
            yield funnel_table(account)
        yield ""
    yield mixture_table(accounts)


def source_heading(account: Account) -> Text:
    source = account.source
    text = Text(source.name, "bold")
    text.append(f"  {source.kind}, {account.share:.1%} of the mixture", "not bold")
    if account.rows:
        inputs, size = account.rows[0].entered
        text.append(f"; {counted(inputs, 'input')}, {megabytes(size)} on disk", "not bold")
    if not account.finished:
        text.append("  unfinished", "yellow")
    return text


def funnel_table(account: Account) -> Table:
    """Return a table with a row per step: what it leaves, and what it removes for which reasons."""
    table = _table("step", "documents", "text", "tokens", "left", "removed")
    for index, row in enumerate(account.rows):
        tokens = account.tokens_of(row.left[1])
        table.add_row(
            row.name,
            f"{row.left[0]:,}",
            megabytes(row.left[1]),
            "" if tokens is None else f"≈ {format_count(tokens)}",
            f"{row.left[1] / row.entered[1]:.1%}" if index and row.entered[1] else "",
            escaped(", ".join(reasons(row))),
        )
    if account.finished:
        train, held_out = account.splits["train"], account.splits["validation"]
        table.add_row(
            "tokens",
            f"{train['documents'] + held_out['documents']:,}",
            megabytes(train["bytes"] + held_out["bytes"]),
            f"{account.tokens:,}",
            "",
            f"{held_out['tokens']:,} of them held out",
        )
    return table


def reasons(row: StepCounts) -> Iterator[str]:
    """Yield phrases such as `12 × short document`, most frequent first, then the number changed."""
    ordered = sorted(row.rejected.items(), key=lambda item: (-item[1][0], item[0]))
    for reason, (documents, _) in ordered[:REASONS]:
        yield f"{documents:,} × {reason}"
    if rest := ordered[REASONS:]:
        yield f"{sum(documents for _, (documents, _) in rest):,} for {len(rest)} other reasons"
    if row.changed:
        yield f"{row.changed:,} changed"


def mixture_table(accounts: Sequence[Account]) -> Table:
    table = _table("source", "share", "documents", "train tokens", "validation", "bytes per token")
    for account in accounts:
        if account.finished:
            train, held_out = account.splits["train"], account.splits["validation"]
            table.add_row(
                account.source.name,
                f"{account.share:.2%}",
                f"{train['documents'] + held_out['documents']:,}",
                f"{train['tokens']:,}",
                f"{held_out['tokens']:,}",
                f"{train['bytes'] / train['tokens']:.3f}" if train["tokens"] else "",
            )
    return table


def samples(accounts: Sequence[Account]) -> Iterator[RenderableType]:
    """Yield excerpts of the documents that each step removed, changed and kept."""
    for account in accounts:
        yield source_heading(account)
        for row in account.rows:
            for kind, held in row.samples.items():
                if kind == "" and row is not account.rows[-1]:
                    continue  # only the last step's kept documents are final
                yield Text(escaped(f"  {row.name}: {kind or 'kept'}"), "bold")
                for sample in held:
                    detail = f"  ({sample['detail']})" if "detail" in sample else ""
                    yield Text(escaped(f"    {sample['where']}{detail}"), "cyan")
                    if "before" in sample:
                        yield _excerpt("-", sample["before"])
                    yield _excerpt("+" if "before" in sample else " ", sample["text"])


def epochs_table(rows: Sequence[Epochs]) -> Table:
    """Return a table like Table 1 of the LLaMA paper, with the tokens consumed so far."""
    consumed = any(row.consumed for row in rows)
    columns = ["source", "share", "unique tokens", "planned tokens", "epochs"]
    table = _table(*columns, *(["consumed tokens", "epochs so far"] if consumed else []))
    for row in rows:
        unique = "not known" if row.unique is None else format_count(row.unique)
        cells = [
            row.name,
            f"{row.share:.1%}",
            unique,
            format_count(row.planned),
            _epochs(row.epochs),
        ]
        if consumed:
            cells += [format_count(row.consumed), _epochs(row.epochs_consumed)]
        table.add_row(*cells)
    total = ["", "", "", format_count(sum(row.planned for row in rows)), ""]
    if consumed:
        total += [format_count(sum(row.consumed for row in rows)), ""]
    table.add_section()
    table.add_row(*total)
    return table


def format_count(number: float) -> str:
    """Format a number: 1.4e12 as "1.40T"; numbers below a million unscaled."""
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if number >= scale:
            return f"{number / scale:,.2f}{unit}"
    return f"{number:,.0f}"


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e10 else f"{size / 1e9:,.1f} GB"


def _epochs(number: float | None) -> str:
    return "" if number is None else f"{number:.2f}"


def _excerpt(mark: str, text: str) -> Text:
    lines = escaped(text).split("\n")
    more = ["…"] if len(lines) > LINES else []
    return Text("\n".join(f"      {mark} {line[:150]}" for line in [*lines[:LINES], *more]), "dim")


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        left = column in ("step", "source", "removed")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    return table
