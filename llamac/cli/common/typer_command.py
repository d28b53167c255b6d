"""The typer command of a verb, with untruncated help that ends in examples."""

from __future__ import annotations

from importlib import import_module
from keyword import iskeyword
from typing import Any

# Verb, or verb and subcommand → complete command lines, which work in this order in one
# directory. `tests/cli/test_examples.py` runs all of them.
EXAMPLES = {
    "check": ["check tiny", "check 65b --set parallel.tensor=8 --elsewhere"],
    "plan": ["plan 7b --device a100-80gb --gpus 8", "plan 7b --device h100 --gpus 16 --search"],
    "build": ["build tiny", "build 7b -o build/my-7b --set optimizer.lr=2e-4"],
    "data prepare": ["data prepare tiny"],
    "data stats": ["data stats tiny"],
    "data epochs": ["data epochs tiny", "data epochs 65b"],
    "data where": ["data where tiny python-docs 0:256 --text"],
    "data export": ["data export tiny -o exported --format megatron"],
    "train": ["train tiny --steps 20", "train tiny"],
    "launch": ["launch 7b --backend slurm --render"],
    "report": ["report runs/tiny -o tiny.html", "report runs/tiny --png figures"],
    "generate": ['generate runs/tiny --prompt "The function returns"'],
    "eval": ["eval runs/tiny --tasks heldout --limit 8"],
    "export": ["export runs/tiny -o tiny-hf --format hf"],
    "import": ["import tiny-hf -o mine.toml"],
    "tokenizer train": ["tokenizer train tiny"],
    "tokenizer compare": ["tokenizer compare tiny.model runs/tiny"],
    "tokenizer explain": ['tokenizer explain "low lower lowest" --merges 4'],
    "verify": ["verify tiny", "verify tiny --set model.n_kv_heads=2"],
    "inspect": ["inspect tiny --region block --after pack", "inspect 65b --memory"],
    "schema": ["schema -o llamac.schema.json"],
    "completion": ["completion bash"],
}


def command_of(verb: str) -> Any:
    """Import the module of a verb and return its click command, with examples in its help.

    verb: key of `llamac.cli.verbs.VERBS`.
    """
    import typer

    module = f"{verb}_" if iskeyword(verb) else verb
    command = typer.main.get_command(import_module(f"llamac.cli.{module}").app)
    command.context_settings.setdefault("help_option_names", ["-h", "--help"])
    _finish_help(command, verb)
    for name, inner in getattr(command, "commands", {}).items():
        _finish_help(inner, f"{verb} {name}")
    return command


def _finish_help(command: Any, path: str) -> None:
    """Add examples and an untruncated short help to a command."""
    if command.help:
        command.short_help = " ".join(command.help.split("\n\n")[0].split())
    if examples := EXAMPLES.get(path):
        lines = "\n".join(f"  llamac {line}" for line in examples)
        command.epilog = f"\b\nExamples:\n{lines}"  # \b: lines stay as they are
