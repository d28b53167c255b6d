"""Strings of a spec reach code only as the literals they are, whatever is in them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamac.emit.trainer import render_trainer
from llamac.ir.parser import parse_program
from llamac.ir.printer import print_program
from llamac.passes.pass_list import stages
from llamac.spec import Spec, load_spec
from tests.emit.conftest import SMALL, files, small

HOSTILE = [
    "__import__('os').system('touch pwned')",
    '"; import os; os.system("touch pwned"); "',
    "'; import os; os.system('touch pwned'); '",
    '"""\nimport os; os.system("touch pwned")\n"""',
    "'''\nraise SystemExit\n'''",
    "{{ 7 * 7 }}{% for x in spec %}{{ x }}{% endfor %}{# gone #}",
    "{{ spec.__class__.__mro__ }}",
    "\\",
    "\\'",
    '\\"',
    "\\n\\x41\\N{BULLET}",
    "a\nb\r\nc\rd\u2028e\x85f\x0cg",
    "$(touch pwned)`touch pwned`; touch pwned && touch pwned",
    "' ; touch pwned ; '",
    "${IFS}$HOME!!",
    "-n\ttab",
    "# not a comment",
    "\x1b[31m\x7f\ufeff\u202e",
    "ünïcödé 漢字 🦙",
    "%s %(x)s {0} {x!r}",
    " ",
]
"""What could break out of Python, of shell, of a template, or of a line."""


def hostile_spec(text: str) -> Spec:
    return small().replace(
        {
            "eval.prompt": text,
            "data.directory": text,
            "tokenizer.path": text,
            "launch.environment": {"HOSTILE": text},
            "data.source": [
                {"name": "a", "kind": "files", "share": 1.0, "paths": [text], "text_field": text}
            ],
        }
    )


@pytest.fixture(scope="module")
def harmless() -> dict[str, str]:
    return files(hostile_spec("harmless"))


def without_literals(source: str) -> str:
    """The code, its string literals blanked."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)


def constants(source: str) -> dict[str, Any]:
    """The module's `NAME = literal` lines."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue  # an expression
    return found


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_string_of_a_spec_becomes_code(text: str, harmless: dict[str, str]) -> None:
    made = files(hostile_spec(text))
    assert made.keys() == harmless.keys()
    for name in made:
        if name.endswith(".py") and name != "train.py":
            assert made[name] == harmless[name], name
    assert without_literals(made["train.py"]) == without_literals(harmless["train.py"])
    found = constants(made["train.py"])
    assert found["PROMPT"] == text
    assert found["DATA_DIRECTORY"] == text
    for name in ("README.md", "requirements.txt"):
        assert made[name] == harmless[name]

    resolved = tomllib.loads(made["spec.toml"])
    assert resolved["eval"]["prompt"] == text
    assert resolved["tokenizer"]["path"] == text
    assert resolved["launch"]["environment"] == {"HOSTILE": text}
    assert resolved["data"]["source"][0]["paths"] == [text]
    assert resolved["data"]["source"][0]["text_field"] == text


def test_a_prompt_may_hold_the_character_that_ends_strings_elsewhere() -> None:
    spec = small().replace({"eval.prompt": "a\0b"})
    made = render_trainer(spec)
    assert "\0" not in made["train.py"]
    assert constants(made["train.py"])["PROMPT"] == "a\0b"
    assert tomllib.loads(spec.to_toml())["eval"]["prompt"] == "a\0b"


@pytest.mark.slow
@settings(
    derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
@given(prompt=st.text(), directory=st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_any_text_arrives_as_it_was(prompt: str, directory: str) -> None:
    spec = small().replace({"eval.prompt": prompt, "data.directory": directory})
    found = constants(render_trainer(spec)["train.py"])
    assert (found["PROMPT"], found["DATA_DIRECTORY"]) == (prompt, directory)


def test_the_launch_script_exports_values_as_they_are(tmp_path: Path) -> None:
    wanted = {f"HOSTILE_{number}": text for number, text in enumerate(HOSTILE)}
    spec = small().replace({"launch.environment": wanted})
    script = tmp_path / "launch" / "local.sh"
    script.parent.mkdir()
    script.write_text(render_trainer(spec)["launch/local.sh"], encoding="utf-8")
    subprocess.run(["bash", "-n", script], check=True)

    (tmp_path / "train.py").write_text(
        "import json, os, sys\n"
        "print(json.dumps([sys.argv[1:], {k: v for k, v in os.environ.items() if 'HOSTILE' in k}]))"
    )
    done = subprocess.run(
        ["bash", script, "--steps", "a b"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "PYTHONUTF8": "1"},
    )
    assert json.loads(done.stdout) == [["--steps", "a b"], wanted]
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    ["a\nimport os.toml", 'x"""y.toml', "# {save}  # p:1.toml", "{{ x }}.toml", "é\u2028\x1b.toml"],
    ids=ascii,
)
def test_a_spec_s_file_name_stays_in_its_comments(file: str, tmp_path: Path) -> None:
    spec = tmp_path / file
    spec.write_text('name = "fine"\nextends = "tiny"\n[model]\nmultiple_of = 8\n', encoding="utf-8")
    loaded = load_spec(spec, SMALL)
    plain = tmp_path / "plain.toml"
    plain.write_bytes(spec.read_bytes())
    made, wanted = files(loaded), files(load_spec(plain, SMALL))
    for name in made:
        if not name.endswith(".ir"):
            assert made[name] == wanted[name], name
    for stage in stages(loaded):
        text = print_program(stage.program)
        assert text.isprintable() or set(text) - set(filter(str.isprintable, text)) == {"\n"}
        assert print_program(parse_program(text)) == text


@pytest.mark.parametrize("override", ["model.dim=48  ", "model.dim=48  # x", " model.dim = 4_8\n"])
def test_an_override_s_text_stays_in_its_comments(override: str) -> None:
    for stage in stages(load_spec("tiny", [*SMALL, override])):
        text = print_program(stage.program)
        assert print_program(parse_program(text)) == text
