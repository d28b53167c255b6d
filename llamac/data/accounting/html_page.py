"""Render data accounts as one self-contained HTML page of charts, counts and samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from llamac.data.accounting.accounts import Account
from llamac.data.accounting.funnel import Amount, StepCounts
from llamac.data.accounting.stats import count_noun, format_count, megabytes
from llamac.look.page import page

WIDTH, LABEL, FIGURES, BAR, GAP = 960, 150, 240, 22, 8  # pixels: chart, its columns, a bar
LEFT, CHANGED = "var(--s1)", "var(--view)"  # colours of the theme: text left, text cut
SOURCES = tuple(f"var(--s{number})" for number in range(1, 9))
REASONS = SOURCES[1:]  # without the colour of kept text
# Style sheets beside those of every page.
STYLES = (Path(__file__).with_name("data_page.css"),)


def data_page(name: str, accounts: Sequence[Account]) -> str:
    """Return the HTML page of a run's data.

    name: the spec's name, for the title. accounts: one per source.
    """
    title = f"The data of {name}"
    parts = [
        f"<header><h1>{escape(title)}</h1>",
        '<button id="theme" title="colours of the page">theme: auto</button></header><main>',
        *_mixture(accounts),
        *(line for account in accounts for line in _source(account)),
        "</main>",
    ]
    return page(title, "\n".join(parts), STYLES)


# --- The mixture -----------------------------------------------------------------------------


def _mixture(accounts: Sequence[Account]) -> Iterator[str]:
    tokens = sum(account.tokens for account in accounts)
    yield '<p class="aside">Share of each source in the mixture, and its tokens.</p>'
    rows = [("share", [account.share for account in accounts])]
    if tokens:
        rows.append(("tokens", [account.tokens / tokens for account in accounts]))
    names = [account.source.name for account in accounts]
    yield _svg(_stacked_bars(rows, names), len(rows))
    yield '<div class="wide"><table><tr>'
    head = ("share", "documents", "text", "training tokens", "held out", "bytes per token")
    yield '<th class="left">source</th>' + "".join(f"<th>{text}</th>" for text in head) + "</tr>"
    for number, account in enumerate(accounts):
        name = f"{_key(_colour(number, SOURCES))} {escape(account.source.name)}"
        share, cells = f"<td>{account.share:.2%}</td>", _split_cells(account)
        yield f'<tr><td class="left">{name}</td>{share}{cells}</tr>'
    yield "</table></div>"


def _split_cells(account: Account) -> str:
    if not account.finished:
        return '<td colspan="5">unfinished</td>'
    train, held_out = account.splits["train"], account.splits["validation"]
    cells = (
        f"{train['documents'] + held_out['documents']:,}",
        megabytes(train["bytes"] + held_out["bytes"]),
        f"{train['tokens']:,}",
        f"{held_out['tokens']:,}",
        f"{train['bytes'] / train['tokens']:.3f}" if train["tokens"] else "",
    )
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _stacked_bars(rows: list[tuple[str, list[float]]], names: list[str]) -> Iterator[str]:
    for number, (label, parts) in enumerate(rows):
        top, x = number * (BAR + GAP), float(LABEL)
        yield _text(0, top, label)
        for index, (part, name) in enumerate(zip(parts, names, strict=True)):
            width = part * (WIDTH - LABEL)
            yield _rect(x, top, width, _colour(index, SOURCES), f"{name}: {part:.2%}")
            if width > 8 * len(name) + 12:
                yield _text(x + 6, top, name, "on")
            x += width


# --- A source --------------------------------------------------------------------------------


def _source(account: Account) -> Iterator[str]:
    source = account.source
    yield f'<h2 id="{escape(source.name)}">{escape(source.name)}</h2>'
    kind = f"{escape(source.kind)}, {account.share:.1%} of the mixture"
    if not account.rows:
        yield f'<p class="aside">{kind}; nothing has been read yet.</p>'
        return
    inputs, size = account.rows[0].entered
    on_disk = f"{count_noun(inputs, 'input')}, {megabytes(size)} on disk"
    yield f'<p class="aside">{kind}; {on_disk}.</p>'
    yield _svg(_funnel(account), len(account.rows))
    yield from _table(account)
    yield from _samples(account)


def _funnel(account: Account) -> Iterator[str]:
    """Draw a bar per step: the text that is left, then the text removed, by reason."""
    longest = max(max(row.entered[1] for row in account.rows[1:]), 1) if account.rows[1:] else 1
    longest = max(longest, account.rows[0].left[1])
    scale = (WIDTH - LABEL - FIGURES) / longest
    for number, row in enumerate(account.rows):
        top, x = number * (BAR + GAP), LABEL + row.left[1] * scale
        yield _text(0, top, row.name)
        yield _rect(LABEL, top, row.left[1] * scale, LEFT, f"{megabytes(row.left[1])} left")
        for colour, label, size in _losses(row):
            yield _rect(x, top, size * scale, colour, f"{label}: {megabytes(size)}")
            x += size * scale
        tokens = account.estimate_tokens(row.left[1])
        tokens_note = "" if tokens is None else f", ≈ {format_count(tokens)} tokens"
        yield _text(x + 8, top, f"{row.left[0]:,} · {megabytes(row.left[1])}{tokens_note}", "aside")


def _losses(row: StepCounts) -> Iterator[tuple[str, str, int]]:
    """Yield (colour, label, bytes removed) for each reason; cuts within kept documents first."""
    if row.entered[1] and row.changed:
        rejected = sum(size for _, size in row.rejected.values())
        cut = row.entered[1] - row.left[1] - rejected
        yield CHANGED, f"cut out of {row.changed:,} documents", max(cut, 0)
    for number, (reason, amount) in enumerate(_by_size(row)):
        yield _colour(number, REASONS), reason, amount[1]


def _by_size(row: StepCounts) -> list[tuple[str, Amount]]:
    return sorted(row.rejected.items(), key=lambda item: (-item[1][1], -item[1][0], item[0]))


def _table(account: Account) -> Iterator[str]:
    yield '<table><tr><th class="left">step</th><th class="left">removed</th>'
    yield "<th>documents</th><th>text</th><th>of input</th></tr>"
    for index, row in enumerate(account.rows):
        losses = [(_key(colour), label, size) for colour, label, size in _losses(row)]
        for key, label, size in losses:
            documents = row.rejected[label][0] if label in row.rejected else row.changed
            share = f"{size / row.entered[1]:.1%}" if index and row.entered[1] else ""
            text = megabytes(size) if index else ""
            yield (
                f'<tr><td class="left">{row.name}</td><td class="left">{key} {escape(label)}</td>'
                f"<td>{documents:,}</td><td>{text}</td><td>{share}</td></tr>"
            )
    yield "</table>"


def _samples(account: Account) -> Iterator[str]:
    if account.examples:
        yield "<details><summary><b>read</b>: left out</summary><pre>"
        yield "\n".join(map(escape, account.examples))
        yield "</pre></details>"
    last = account.rows[-1]
    for row in account.rows:
        for kind, samples in row.samples.items():
            if kind == "" and row is not last:
                continue  # only the last step's kept documents are final
            count = {"": row.left[0], "changed": row.changed}.get(kind)
            count = row.rejected[kind][0] if count is None else count
            title = f"<b>{row.name}</b>: {escape(kind or 'kept')}"
            yield f"<details><summary>{title}, {len(samples)} of {count:,}</summary>"
            yield from (_sample(sample, kind) for sample in samples)
            yield "</details>"


def _sample(sample: dict[str, str], kind: str) -> str:
    caption = escape(" · ".join(filter(None, (sample["where"], sample.get("detail")))))
    before = f'<pre class="gone">{escape(sample["before"])}</pre>' if "before" in sample else ""
    look = "kept" if kind in ("", "changed") else "gone"
    text = f'<pre class="{look}">{escape(sample["text"])}</pre>'
    return f"<figure><figcaption>{caption}</figcaption>{before}{text}</figure>"


# --- Drawing ---------------------------------------------------------------------------------


def _svg(shapes: Iterator[str], rows: int) -> str:
    height = rows * (BAR + GAP)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(shapes)}</svg>'


def _rect(x: float, top: float, width: float, colour: str, title: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{top}" width="{max(width, 0):.1f}" height="{BAR}" '
        f'style="fill:{colour}">'
        f"<title>{escape(title)}</title></rect>"
    )


def _text(x: float, top: float, text: str, look: str = "") -> str:
    return f'<text x="{x:.1f}" y="{top + BAR - 6}" class="{look}">{escape(text)}</text>'


def _key(colour: str) -> str:
    return f'<span class="key" style="background:{colour}"></span>'


def _colour(number: int, colours: Sequence[str]) -> str:
    return colours[number % len(colours)]
