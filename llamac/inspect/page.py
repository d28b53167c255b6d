"""One HTML page, all in itself: the drawing, what is kept in memory, and the IR of every stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from llamac.inspect.diff import GraphChange, graph_changes, ir_diff
from llamac.inspect.drawing.svg import program_svg
from llamac.inspect.memory import ProgramMemory, RegionMemory, program_memory, readable_bytes
from llamac.inspect.report import status_text, times
from llamac.ir.printer import print_program
from llamac.ir.program import Program

STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --muted: #6b7280; --paper: #ffffff;
  --line: #e2e0d8; --soft: #f6f4ee; --add: #12703a; --remove: #b3261e; --kept: #fde9b8;
  --again: #d5f0ec; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --muted: #9ca3af; --paper: #16181d;
  --line: #343842; --soft: #1f222a; --add: #6fcf97; --remove: #ff8a80; --kept: #5c4712;
  --again: #134e48; } }
body { margin: 2rem auto; max-width: 100rem; padding: 0 1.5rem; color: var(--ink);
  background: var(--paper); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.5rem; } h2 { margin-top: 2.5rem; font-size: 1.2rem; } h3 { font-size: 1rem; }
svg { max-width: 100%; height: auto; }
pre, td, th, code { font: 12px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { overflow-x: auto; padding: .75rem 1rem; border-radius: 6px; background: var(--soft); }
table { border-collapse: collapse; margin: .5rem 0 1rem; }
th, td { padding: .15rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
th { color: var(--muted); font-weight: 600; }
th:first-child, td:first-child, .left { text-align: left; }
tr.saved td:last-child { background: var(--kept); }
tr.recomputed td:last-child { background: var(--again); }
details { border-top: 1px solid var(--line); padding: .5rem 0; }
summary { cursor: pointer; font-weight: 600; } summary span { color: var(--muted);
  font-weight: 400; }
.aside { color: var(--muted); } .add { color: var(--add); } .remove { color: var(--remove); }
""".strip()


def page(stages: Sequence[tuple[str, Program]]) -> str:
    """Return the HTML page of the last of these (name, program) stages, with the text of all."""
    name, program = stages[-1]
    title = escape(f"{program.name} after {name}")
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>",
        f"<style>\n{STYLE}\n</style></head><body>",
        f"<h1>{title}</h1>",
        *(f'<p class="aside">{escape(note)}</p>' for note in program.notes),
        program_svg(program, name).rstrip(),
        *_memory(program),
        *_stages(stages),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _memory(program: Program) -> Iterator[str]:
    memory = program_memory(program)
    if not memory.regions:
        return
    yield "<h2>What is kept for the backward pass</h2>"
    yield (
        f"<p>Each size is for one run of its region with {escape(_sizes(program))}. 1 sbh is "
        f"batch·seq·dim elements, {readable_bytes(memory.unit)}. The model keeps "
        f"{readable_bytes(memory.saved)} in all; with nothing recomputed it would keep "
        f"{readable_bytes(memory.everything)}. Its {memory.parameters:,} parameters take "
        f"{readable_bytes(memory.parameter_bytes)}.</p>"
    )
    for region in memory.regions:
        yield from _region(region, memory)


def _sizes(program: Program) -> str:
    return " and ".join(f"{name} = {size:,}" for name, size in program.symbols.items())


def _region(region: RegionMemory, memory: ProgramMemory) -> Iterator[str]:
    yield f"<h3>{escape(times(region))}</h3>"
    yield f"<p>{_comparison(region, memory)}</p>"
    yield '<table><tr><th>value</th><th class="left">type</th><th>bytes</th><th>sbh</th>'
    yield '<th>kept so far</th><th class="left">what becomes of it</th></tr>'
    so_far = 0
    for value in region.values:
        so_far += value.kept
        yield (
            f'<tr class="{escape(value.status)}"><td>{escape(value.name)}</td>'
            f'<td class="left">{escape(str(value.type))}</td>'
            f"<td>{readable_bytes(value.nbytes)}</td><td>{memory.sbh(value.nbytes):.2f}</td>"
            f"<td>{readable_bytes(so_far)}</td>"
            f'<td class="left">{escape(status_text(value))}</td></tr>'
        )
    yield "</table>"


def _comparison(region: RegionMemory, memory: ProgramMemory) -> str:
    return (
        f"keeps {readable_bytes(region.saved)} = {memory.sbh(region.saved):.2f} sbh; with nothing "
        f"recomputed, {readable_bytes(region.everything)} = {memory.sbh(region.everything):.2f} sbh"
    )


def _stages(stages: Sequence[tuple[str, Program]]) -> Iterator[str]:
    yield "<h2>The program after each pass</h2>"
    before: tuple[str, Program] | None = None
    for name, program in stages:
        changes = graph_changes(before[1], program) if before else []
        count = sum(len(c.added) + len(c.removed) + len(c.changed) for c in changes)
        about = f"{count} nodes added, removed or changed" if before else "from the spec"
        yield f"<details><summary>{escape(name)} <span>{about}</span></summary>"
        yield from _counts(changes)
        text = print_program(program)
        if before:
            lines = ir_diff(print_program(before[1]), text, (before[0], name))
            yield f"<h3>Changes</h3>\n<pre>{_diff(lines)}</pre>"
        yield f"<h3>The whole</h3>\n<pre>{escape(text)}</pre></details>"
        before = name, program


def _counts(changes: Sequence[GraphChange]) -> Iterator[str]:
    rows = [
        f"<tr><td>{escape(f'{change.region}.{change.direction}')}</td>"
        f'<td class="left">{escape(op)}</td><td>{one}</td><td>{two}</td></tr>'
        for change in changes
        for op, (one, two) in sorted(change.counts.items())
    ]
    if rows:
        yield '<table><tr><th>graph</th><th class="left">op</th><th>before</th><th>after</th></tr>'
        yield from rows
        yield "</table>"


def _diff(lines: Sequence[str]) -> str:
    return "\n".join(_diff_line(line) for line in lines) or "none"


def _diff_line(line: str) -> str:
    kind = {"+": "add", "-": "remove", "@": "aside"}.get(line[:1])
    return f'<span class="{kind}">{escape(line)}</span>' if kind else escape(line)
