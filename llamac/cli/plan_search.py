"""`llamac plan --search`, `--why` and `--compute`: the forms that choose."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llamac.cli.common import writable, write

if TYPE_CHECKING:
    from llamac.plan.prediction import Prediction
    from llamac.plan.setting import Setting

WIDE = 140  # columns of what is piped: a layout's name is long


def find(
    setting: Setting,
    gpus: int,
    top: int,
    as_json: bool,
    output: Path | None,
    base: str,
    overrides: Sequence[str],
) -> None:
    """The best layouts, and the first as a spec that extends `base`."""
    if output is not None:
        writable(output)

    from llamac.plan.search.search import search
    from llamac.plan.search.winner import search_json, summary, table, winner_toml

    found = search(setting, gpus, top)
    if output is not None:
        write(output, winner_toml(found, base, overrides, output))
    if as_json:
        print(json.dumps(search_json(found), indent=2))
        return

    from llamac.plan.render.report import show_sections

    show_sections(summary(found), [table(found)], WIDE)
    if output is not None:
        print(f"wrote {output}: {found.best[0].layout}")


def explain(setting: Setting, gpus: int, names: tuple[str, str], as_json: bool) -> None:
    """Why one of two layouts beats the other; numbers are ranks of the search."""
    from llamac.plan.search.compare import differences, sentences, verdict

    pair = _pair(setting, gpus, names)
    if as_json:
        print(json.dumps({key: one.to_json() for key, one in zip("AB", pair, strict=True)}))
        return

    from llamac.plan.render.report import show_sections

    show_sections([verdict(*pair)], differences(*pair), WIDE)
    print()
    print("\n".join(sentences(*pair)))


def _pair(setting: Setting, gpus: int, names: tuple[str, str]) -> list[Prediction]:
    from llamac.plan.predict import predict
    from llamac.plan.search.layout import parse_layout
    from llamac.plan.target import LayoutError
    from llamac.spec import SpecError

    ranks = [int(name) for name in names if name.isdecimal()]
    best = []
    if ranks:
        if min(ranks) < 1:
            raise LayoutError("--why 0: ranks of a search begin at 1")

        from llamac.plan.search.search import search

        best = search(setting, gpus, max(ranks)).best
        if len(best) < max(ranks):
            raise LayoutError(f"--why {max(ranks)}: the search found {len(best)} layouts")
    pair = []
    for name in names:
        if name.isdecimal():
            pair.append(best[int(name) - 1].prediction)
        else:
            changes = parse_layout(name, setting.spec, gpus).changes(setting.spec)
            try:
                spec = setting.spec.replace(changes)
            except SpecError as error:
                said = "; ".join(f"{one.message} ({one.help})" for one in error.diagnostics)
                raise LayoutError(f"layout {name!r}: {said}") from error
            pair.append(predict(replace(setting, spec=spec)))
    return pair


def size(
    compute: str | None,
    gpu_days: float | None,
    device: str | None,
    choice: str,
    overrides: Sequence[str],
    output: Path | None,
) -> None:
    """What a budget buys, and the chosen model as a spec."""
    if output is not None:
        writable(output)

    from llamac.plan.device.device import load_device
    from llamac.plan.render.report import show_sections
    from llamac.plan.sizing.scaling_laws import flops_of, parse_flops
    from llamac.plan.sizing.sized_spec import Budget, chosen, heading, sections, sized_toml

    on = load_device(device or "a100-80gb")
    flops = parse_flops(compute) if compute is not None else flops_of(gpu_days or 0.0, on)
    budget = Budget(flops, on)
    if output is not None:
        best = chosen(budget, choice)
        text, shape = sized_toml(best, budget, overrides, output)
        write(output, text)
    show_sections([heading(budget)], sections(budget), WIDE)
    if output is not None:
        print(f"\nwrote {output}: {shape.n_layers} layers of {shape.dim:,}, ", end="")
        print(f"{shape.parameters:,} parameters, {best.name}")


def refuse(forms: Mapping[str, object], idle: Mapping[str, object]) -> None:
    """Options that ask for several things at once, or that would do nothing."""
    given = [option for option, value in forms.items() if value not in (None, False)]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} ask for different things: give one")
    unused = [option for option, value in idle.items() if value not in (None, False)]
    if unused:
        form = f"with {given[0]}" if given else "here"
        raise typer.BadParameter(f"{' and '.join(unused)} would do nothing {form}: leave it out")
