"""Spec → the files around model.py: train.py, README.md, requirements.txt, launch/local.sh.

Values of the spec enter Python only as literals and shell only quoted; a template that names
something unknown fails. The text is as `ruff format` would leave it, without needing ruff.
"""

from __future__ import annotations

import ast
import hashlib
import shlex
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import llamac
from llamac.spec import Spec

WIDTH = 100
PACKAGE = Path(llamac.__file__).parent
FILES = ("train.py", "README.md", "requirements.txt", "launch/local.sh")


def render_trainer(spec: Spec) -> dict[str, str]:
    """The rendered files by relative path. The same spec gives the same text."""
    values = _values(spec)
    environment = Environment(
        loader=FileSystemLoader(templates_directory()),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters |= {"py": literal, "sh": shlex.quote}
    environment.globals["constant"] = constant
    return {name: environment.get_template(f"{name}.j2").render(values) for name in FILES}


def runtime_files(*sources: str) -> list[str]:
    """The modules of `runtime/` that these Python sources import, directly or not, sorted."""
    runtime = PACKAGE / "runtime"
    needed, pending = {"__init__.py"}, [name for text in sources for name in _imports(text)]
    while pending:
        file = f"{pending.pop()}.py"
        if file not in needed:
            needed.add(file)
            pending += _imports((runtime / file).read_text(encoding="utf-8"), relative=True)
    return sorted(needed)


def templates_directory() -> Path:
    """Inside the wheel, or beside the package in a checkout."""
    shared = PACKAGE / "share" / "templates"
    return shared if shared.is_dir() else PACKAGE.parent / "templates"


def constant(name: str, value: Any) -> str:
    """`NAME = literal`, on several lines where one is too long."""
    text = literal(value, used=len(name) + 3)
    if isinstance(value, str) and len(name) + 3 + _width(text) > WIDTH >= _width(text) + 4:
        text = f"(\n    {text}\n)"
    return f"{name} = {text}"


def literal(value: Any, used: int = 0, indent: int = 0) -> str:
    """A Python literal for what TOML can say; `used` columns of its first line are taken."""
    if isinstance(value, str):
        return _string(value)
    if not isinstance(value, dict | list | tuple):
        return repr(value)
    opening, closing = {dict: "{}", list: "[]", tuple: "()"}[type(value)]
    line = opening + ", ".join(_items(value, None)) + closing
    if isinstance(value, tuple) and len(value) == 1:
        line = f"{opening}{line[1:-1]},{closing}"
    if not value or used + _width(line) <= WIDTH:
        return line
    inside = " " * (indent + 4)
    body = "".join(f"{inside}{item},\n" for item in _items(value, indent + 4))
    return f"{opening}\n{body}{' ' * indent}{closing}"


def _items(value: Any, indent: int | None) -> Iterator[str]:
    """Each element, as one line where `indent` is None, else as wide as that indent leaves it."""
    pairs = value.items() if isinstance(value, dict) else ((None, item) for item in value)
    for key, item in pairs:
        prefix = "" if key is None else f"{literal(key)}: "
        if indent is None:
            yield prefix + literal(item, used=-(10**9))
        else:  # one column for the comma
            yield prefix + literal(item, used=indent + _width(prefix) + 1, indent=indent)


def _string(text: str) -> str:
    """`repr(text)`, but in double quotes unless single ones need fewer escapes, as ruff has it."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    quoted = {quote: "\\" + quote, "'" if quote == '"' else '"': "'" if quote == '"' else '"'}
    return quote + "".join(quoted.get(c) or repr(c)[1:-1] for c in text) + quote


def _width(text: str) -> int:
    return len(text) + sum(unicodedata.east_asian_width(c) in "WF" for c in text)


def _values(spec: Spec) -> dict[str, Any]:
    """What the templates see besides the spec: sections regrouped as the runtime takes them."""
    optimizer, schedule = spec.optimizer, spec.schedule
    return {
        "spec": spec,
        "version": llamac.__version__,
        "spec_sha256": hashlib.sha256(spec.to_toml().encode()).hexdigest(),
        "dtype": {"bf16": "torch.bfloat16", "fp32": "torch.float32"}[spec.precision.compute],
        "optimizer": {
            "betas": tuple(optimizer.betas),
            "eps": optimizer.eps,
            "weight_decay": optimizer.weight_decay,
            "clip_norm": optimizer.clip_norm,
        },
        "schedule": {
            "kind": schedule.kind,
            "peak": optimizer.lr,
            "warmup_steps": schedule.warmup_steps,
            "min_ratio": schedule.min_lr_ratio,
        },
        "sample": {
            "count": spec.eval.sample_tokens,
            "context": spec.batch.sequence_length,
            "temperature": spec.eval.temperature,
            "top_p": spec.eval.top_p,
            "seed": spec.seed,
        },
    }


def _imports(source: str, relative: bool = False) -> list[str]:
    """Names of runtime modules: `from runtime.x import y`, `from runtime import x`, and inside
    runtime itself `from .x import y`, `from . import x`."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom):
            continue
        module = node.module or ""
        if relative and node.level == 1:
            names += [module] if module else [alias.name for alias in node.names]
        elif not relative and node.level == 0 and module.split(".")[0] == "runtime":
            inner = module.partition(".")[2]
            names += [inner] if inner else [alias.name for alias in node.names]
    return names
