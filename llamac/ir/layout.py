"""Inference of layouts through an op, from its dims in einsum notation.

`linear` of x, weight and bias is `bsi,oi,o->bso`, one letter per dimension; `llamac.ir.types`
explains the placements `S(dim)`, `P` and `R`. A mesh axis may split one letter, and must split it
in every operand that has it. A result with that letter is split along it; a result without it is a
partial sum (`P`). A capital letter is a dimension that must not be split. `*` is an elementwise
operand of any rank; the last `*` repeats. An op whose operands are all `*` is linear in them, so
partial sums may pass through it. They may also pass if all operands with a `+` before their dims
are partial sums, or one operand with a `^` is, and the other operands are replicated: the op is
jointly linear in all `+` operands, and linear in each `^` operand separately. A result `.` is a sum
over the rank's own elements, which the trainer reduces over ranks once per step.
"""

from __future__ import annotations

from collections.abc import Sequence

from llamac.ir.types import TensorType, Types, expect


def with_layouts(dims: str, operands: Sequence[TensorType | None], results: Types) -> Types:
    """Return the result types of an op, with layouts inferred from its operands.

    dims: the op's dimensions, in the notation of this module's docstring.
    operands: types of the operands, None for absent ones.
    results: type or types of the results, whose layouts are ignored.
    Raises TypeRuleError if the op cannot run on operands with these layouts.
    """
    several = results if isinstance(results, tuple) else (results,)
    plain = tuple(TensorType(kind.dtype, kind.shape) for kind in several)
    axes = sorted({axis for kind in operands if kind for axis, _ in kind.layout})
    if axes:
        left, _, right = dims.partition("->")
        sources = _terms(left, len(operands))
        targets = _terms(right, len(plain))
        given = [(t, kind) for t, kind in zip(sources, operands, strict=True) if kind is not None]
        for axis in axes:
            places = _places(axis, given, targets)
            plain = tuple(k.with_placement(axis, p) for k, p in zip(plain, places, strict=True))
    return plain if isinstance(results, tuple) else plain[0]


def _terms(text: str, count: int) -> list[str]:
    terms = text.split(",")[:count]
    return terms + terms[-1:] * (count - len(terms))


def _places(
    axis: str, given: Sequence[tuple[str, TensorType]], targets: Sequence[str]
) -> list[str]:
    """Return the placement of each result on one axis."""
    placements = [(term, kind.placement(axis)) for term, kind in given]
    if any(place == "P" for _, place in placements):
        expect(
            _passes_sums(placements),
            f"its operands are partial sums over {axis} that must be reduced first",
        )
        return ["P"] * len(targets)
    placements = [(term.lstrip("+^"), place) for term, place in placements]
    split = {_letter(term, place) for term, place in placements if place != "R"}
    expect(len(split) == 1, f"{axis} splits its operands along different dimensions")
    (letter,) = split
    expect(not letter.isupper(), f"{axis} splits a dimension that the op needs whole")
    for term, place in placements:
        where = f"S({term.index(letter)})" if letter in term else "R"
        alike = term == "*" and place == f"S({letter})"
        expect(alike or place == where, f"{axis} splits a dimension of only some of its operands")
    if letter.isdigit():  # of `*`
        return [f"S({letter})"] * len(targets)
    return [_place(letter, term) for term in targets]


def _passes_sums(placements: Sequence[tuple[str, str]]) -> bool:
    """Return whether an op's results are partial sums because some of its operands are."""
    partial = [term for term, place in placements if place == "P"]
    whole = [term for term, place in placements if place == "R"]
    if len(partial) + len(whole) < len(placements):
        return False
    together = all(term == "*" or term[0] == "+" for term in partial)
    single = len(partial) == 1 and partial[0][0] == "^"
    return single or (together and not any(term[:1] in ("*", "+") for term in whole))


def _place(letter: str, term: str) -> str:
    if letter in term:
        return f"S({term.index(letter)})"
    return "R" if term == "." else "P"


def _letter(term: str, place: str) -> str:
    """Return the letter that `S(dim)` splits in a term, or the dim itself if the term is `*`."""
    dim = place[2:-1]
    return dim if term == "*" else term[int(dim)]
