"""The rendered files: formatted, short, the same every time, and deaf to hostile strings."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamac.emit.python_source import constant, python_literal
from llamac.emit.trainer import render_trainer, runtime_files
from llamac.spec import load_spec

SPECS = sorted(Path(__file__).parents[2].joinpath("specs").glob("*.toml"))
RUFF = shutil.which("ruff") or shutil.which("ruff", path=str(Path(sys.executable).parent))
HOSTILE = [
    '"""',
    "'''",
    "a\"b'c",
    "{{ 7 * 7 }}{% raw %}{# x #}",
    "line\nbreak\r\n\ttab",
    "back\\slash\\",
    "$(touch pwned) `touch pwned` \"; touch pwned; '",
    "\u202eright to left\u2028",
    "長い" * 40,
    "x" * 95,
    "# not a comment",
]

texts = st.text() | st.sampled_from(HOSTILE)
finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner) | st.tuples(inner),
    max_leaves=8,
)


def formatted(text: str) -> str:
    assert RUFF is not None
    command = [RUFF, "format", "--isolated", "--line-length", "100", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


@given(values)
def test_a_literal_is_the_value_and_nothing_else(value):
    assert ast.literal_eval(python_literal(value)) == value
    assert ast.literal_eval(constant("X", value).removeprefix("X = ").strip()) == value


@pytest.mark.slow
@pytest.mark.parametrize(("name", "lines"), [("train.py", 200), ("generate.py", 70)])
@pytest.mark.parametrize("spec", SPECS, ids=lambda path: path.stem)
def test_programs_are_short_valid_and_the_same_every_time(spec, name, lines):
    text = render_trainer(load_spec(spec))[name]
    assert len(text.splitlines()) <= lines
    assert max(map(len, text.splitlines())) <= 100
    ast.parse(text)
    assert text == render_trainer(load_spec(spec))[name]


@pytest.mark.slow
@pytest.mark.skipif(RUFF is None, reason="ruff is not installed")
def test_train_py_is_as_ruff_would_leave_it(make_spec):
    for prompt in HOSTILE:
        spec = make_spec().replace({"eval.prompt": prompt, "data.directory": prompt * 2})
        text = render_trainer(spec)["train.py"]
        assert text == formatted(text), prompt


@pytest.mark.slow
@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_strings_reach_train_py_only_as_the_strings_they_are(make_spec, hostile):
    spec = make_spec().replace({"eval.prompt": hostile, "data.directory": hostile})
    plain = make_spec().replace({"eval.prompt": "p", "data.directory": "d"})
    tree, other = (ast.parse(render_trainer(s)["train.py"]) for s in (spec, plain))

    def constants(tree: ast.Module) -> dict[str, ast.expr]:
        return {ast.unparse(n.targets[0]): n.value for n in tree.body if isinstance(n, ast.Assign)}

    assert ast.literal_eval(constants(tree)["PROMPT"]) == hostile
    assert ast.literal_eval(constants(tree)["DATA_DIRECTORY"]) == hostile
    for name in ("PROMPT", "DATA_DIRECTORY", "SPEC_SHA256"):  # and nothing else has changed
        for t in (tree, other):
            constants(t)[name].__dict__["value"] = None
    assert ast.unparse(tree) == ast.unparse(other)


def test_the_launch_script_exports_values_as_they_are(make_spec, tmp_path):
    variables = {f"V{n}": text for n, text in enumerate(HOSTILE)}
    spec = make_spec().replace({"launch.environment": variables})
    (tmp_path / "launch").mkdir()
    script = tmp_path / "launch" / "local.sh"
    script.write_text(render_trainer(spec)["launch/local.sh"], encoding="utf-8", newline="")
    code = "import os; print(ascii({k: v for k, v in os.environ.items() if k[0] == 'V'}))"
    (tmp_path / "train.py").write_text(code)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("V")}
    done = subprocess.run(
        ["bash", str(script)],
        cwd=tmp_path,
        env=environment | {"PYTHON": sys.executable, "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ast.literal_eval(done.stdout) == variables
    assert not (tmp_path / "pwned").exists()


def test_requirements_follow_the_spec(make_spec):
    cpu = render_trainer(make_spec())["requirements.txt"]
    assert "xformers" not in cpu
    assert "tensorboard" not in cpu
    assert "pyarrow" in cpu
    gpu = make_spec('hardware.device="cuda"', "log.tensorboard=true")
    assert {"xformers", "tensorboard"} <= {
        line.split(">")[0] for line in render_trainer(gpu)["requirements.txt"].splitlines()
    }


def test_runtime_files_are_what_is_imported_directly_or_not():
    files = runtime_files("from runtime.data.mixture import Mixture\nimport os\n")
    assert {"__init__.py", "data/__init__.py", "data/mixture.py", "data/prepared.py"} <= set(files)
    assert {"data/prepared.py", "durable_files.py", "errors.py"} <= set(
        files
    )  # siblings, and a folder above
    assert "train/optimizer.py" not in files
    schedule = ["__init__.py", "train/__init__.py", "train/lr_schedule.py"]
    assert runtime_files("from runtime.train import lr_schedule") == schedule
    attention = runtime_files("from runtime.kernels.attention import attention_sdpa")
    assert "kernels/attention/attention_cpu.cpp" in attention  # the C++ source of a module
    assert runtime_files("from runtime import errors") == ["__init__.py", "errors.py"]
    assert runtime_files("import runtime_other\nfrom x.runtime import y") == []
