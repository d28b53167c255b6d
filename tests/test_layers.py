"""Imports go one way, and the runtime stands on its own (docs/architecture.md)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import llamac

PACKAGE = Path(llamac.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# What each part may import of llamac, besides itself. `runtime` is the floor: it imports nothing.
BELOW = {
    "runtime": set(),
    "spec": set(),
    "look": {"runtime"},
    "ir": {"runtime", "spec"},
    "ops": {"ir", "spec", "runtime"},
    "passes": {"ops", "ir", "spec"},
    "emit": {"passes", "ops", "ir", "spec", "runtime"},
    "verify": {"emit", "passes", "ops", "ir", "spec", "runtime"},
    "plan": {"passes", "ops", "ir", "spec", "runtime", "look"},
    "data": {"spec", "runtime", "look"},
    "convert": {"passes", "ops", "ir", "spec", "runtime"},
    "evaluate": {"convert", "emit", "passes", "spec", "runtime", "look"},
    "launch": {"spec"},
    "inspect": {"emit", "passes", "ops", "ir", "spec", "look"},
    "report": {"data", "plan", "spec", "runtime", "look"},
}
BELOW["cli"] = set(BELOW)
SHARED = {"__version__", "resources"}  # the package itself and where its data files lie

# The emitted trainer's own dependencies; the lazy ones are imported where they are first needed.
RUNTIME_MAY_IMPORT = {"torch", "numpy"}
RUNTIME_MAY_IMPORT_LATE = {
    "sentencepiece",
    "tokenizers",
    "rich",
    "tensorboard",
    "wandb",
    "trackio",
    "pyarrow",
    "zstandard",
    "jinja2",
}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether it runs as the file is imported) for each absolute import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((f"{node.module}.{alias.name}", node not in late) for alias in node.names)


def parts(path: Path) -> Iterator[str]:
    """The parts of llamac that a file imports."""
    for name, _ in imports(path):
        package, _, rest = name.partition(".")
        if package == "llamac":
            part = rest.partition(".")[0]
            if part and part not in SHARED:
                yield part


def test_every_part_has_its_place() -> None:
    found = {path.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE}
    assert found == set(BELOW)


def test_the_diagram_of_the_docs_is_true() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^(\w+) +→ ([\w, ]+)$", page, re.M))
    assert rows.pop("cli") == "all others"
    shown = {part: set(below.split(", ")) - {"none"} for part, below in rows.items()}
    assert shown == {part: below for part, below in BELOW.items() if part != "cli"}


def test_within_the_compiler_few_files_see_a_whole_spec() -> None:
    inner = {"ir", "ops", "passes", "runtime", "look"}
    reading = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if path.relative_to(PACKAGE).parts[0] in inner
        and any(name in ("llamac.spec.Spec", "llamac.spec.root.Spec") for name, _ in imports(path))
    }
    assert reading == {"passes/lower.py", "passes/pass_list.py"}


def test_no_two_parts_stand_on_each_other() -> None:
    for part, below in BELOW.items():
        for other in below:
            assert part not in BELOW[other], f"{part} and {other}"


@pytest.mark.slow
def test_imports_go_one_way() -> None:
    wrong = {}
    for path in FILES:
        part = path.relative_to(PACKAGE).parts[0]
        allowed = set() if path.parent == PACKAGE else BELOW[part] | {part}
        if found := set(parts(path)) - allowed:
            wrong[path.relative_to(PACKAGE)] = found
    assert not wrong, f"may not be imported there: {wrong}"


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path.is_relative_to(PACKAGE / "runtime")],
    ids=lambda path: str(path.relative_to(PACKAGE / "runtime")),
)
def test_the_runtime_stands_on_its_own(path: Path) -> None:
    chosen = {"xformers"} if path.name == "attention_xformers.py" else set()
    for name, at_the_top in imports(path):
        package = name.partition(".")[0]
        if package in sys.stdlib_module_names or package in RUNTIME_MAY_IMPORT | chosen:
            continue
        # `torch.utils.tensorboard` is torch's; the package behind it is imported by it.
        assert package in RUNTIME_MAY_IMPORT_LATE, f"{path.name} imports {name}"
        assert not at_the_top, f"{path.name} imports {name} before it is needed"


def test_files_stay_short() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    long = {path.relative_to(PACKAGE): count for path, count in lines.items() if count > 400}
    assert not long, f"{long} lines: a file holds one idea"


def modules_after(*arguments: str) -> set[str]:
    """The modules that `llamac` with these arguments has imported when it ends."""
    code = (
        "import sys\n"
        "from llamac.cli import main\n"
        f"sys.argv = ['llamac', *{list(arguments)!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("schema",)], ids=" ".join)
def test_the_light_commands_do_not_wait_for_torch(arguments: tuple[str, ...]) -> None:
    modules = modules_after(*arguments)
    assert "llamac.cli" in modules
    assert not modules & {"torch", "numpy", "sentencepiece", "tensorboard"}


def test_checking_a_spec_does_not_wait_for_torch() -> None:
    from llamac.resources import directory

    modules = modules_after("check", str(directory("specs") / "tiny.toml"))
    assert "llamac.spec" in modules
    assert "torch" not in modules
