"""A name means one thing throughout llamac, so that a search for it ends at its definition."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import llamac

PACKAGE = Path(llamac.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# Rooms whose modules are named after one another: an op, its pass, what computes it; a data set's
# reader and its cleaning stages.
FAMILIES = {
    "ops": "op",
    "passes": "op",
    "runtime.kernels": "op",
    "runtime.distributed": "op",
    "data.readers": "data set",
    "data.stages": "data set",
}
# A command is named as what it runs, a section of the spec as what it configures.
NAMED_AFTER_OTHERS = {"cli", "spec"}
# Former places of what lies elsewhere, which commands and scripts outside this tree still name.
ALIASES = {"llamac.plan.score", "llamac.runtime.sources"}
OF_EACH_LAYER = {"errors"}  # what a layer raises, where Python packages keep it

# An optimizer's section is named as its update rule, by which the trainer finds the rule.
SAME_BY_DESIGN = {"AdamW", "Lion"}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


def top_level(kind: type[ast.ClassDef] | type[ast.FunctionDef]) -> Iterator[tuple[str, str]]:
    """(name, module) of each class or function at the top level of a module; no command."""
    for module in MODULES:
        for node in tree_of(module).body:
            if isinstance(node, kind) and not any("command" in d for d in decorators(node)):
                yield node.name, module


def decorators(node: ast.ClassDef | ast.FunctionDef) -> list[str]:
    return [ast.unparse(decorator) for decorator in node.decorator_list]


def imports_in(module: str) -> Iterator[tuple[str, str]]:
    """(module, name) of each `from … import` of a module, without those for type checkers."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    tree = tree_of(module)
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in for_types:
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            origin = ".".join([*parents, node.module or ""]) if node.level else node.module
            yield from ((f"{origin}".rstrip("."), alias.name) for alias in node.names)


def imported_by(module: str) -> set[str]:
    """The modules of llamac that a module imports, anywhere in it."""
    found = set()
    for origin, name in imports_in(module):
        found.add(f"{origin}.{name}" if f"{origin}.{name}" in MODULES else origin)
    return (found & MODULES.keys()) - {module}


def imported() -> dict[tuple[str, str], list[str]]:
    """(module, name) → the modules that import the name from it."""
    found = defaultdict(list)
    for module in MODULES:
        for origin, name in imports_in(module):
            found[origin, name].append(module)
    return found


def grouped(pairs: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for name, module in pairs:
        found[name].append(module)
    return {name: modules for name, modules in found.items() if len(modules) > 1}


def test_no_two_modules_share_a_name() -> None:
    homes = defaultdict(set)
    for module in MODULES.keys() - ALIASES:
        room, _, name = module.removeprefix("llamac.").rpartition(".")
        package = MODULES[module].name == "__init__.py"
        if room and not package and not {room, name} & (NAMED_AFTER_OTHERS | OF_EACH_LAYER):
            homes[name].add(FAMILIES.get(room, module))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


@pytest.mark.slow
def test_imports_form_no_cycle() -> None:
    """Not even by imports within functions; those for type checkers alone do not run."""
    edges = {module: imported_by(module) for module in MODULES}
    waiting = dict(edges)
    while leaves := [module for module, below in waiting.items() if not below & waiting.keys()]:
        waiting = {module: below for module, below in waiting.items() if module not in leaves}
    assert sorted(waiting) == []  # what is in a cycle, or above one


@pytest.mark.slow
def test_no_two_classes_share_a_name() -> None:
    shared = grouped(top_level(ast.ClassDef))
    assert {name: shared[name] for name in shared.keys() - SAME_BY_DESIGN} == {}
    assert shared.keys() >= SAME_BY_DESIGN


@pytest.mark.slow
def test_no_two_functions_of_one_name_are_imported_by_it() -> None:
    """Those that share a name are called with their module's: `checkpoint.load`, `arrays.load`."""
    importers = imported()
    shared = {
        name: [module for module in modules if importers.get((module, name))]
        for name, modules in grouped(top_level(ast.FunctionDef)).items()
        if not name.startswith("_")
    }
    assert {name: modules for name, modules in shared.items() if len(modules) > 1} == {}


@pytest.mark.slow
def test_the_search_for_imports_finds_some() -> None:
    importers = imported()
    assert "llamac.passes.pass_list" in importers["llamac.passes.lower", "Lower"]
    assert importers["llamac.runtime.data.sources.parquet", "rows"] == [
        "llamac.runtime.data.sources.records"
    ]
