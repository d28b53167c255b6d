"""The verbs of the command line, and how to add one.

A verb is one line in `VERBS` and one module beside this file, imported only when that verb is
called; so `llamac --help` stays quick however heavy a verb is. To add the verb `build`, write
`"build": "compile SPEC into a trainer"` below and `llamac/cli/build.py` with

    app = typer.Typer(add_completion=False, rich_markup_mode=None)

    @app.command()
    def build(spec: SpecArgument, overrides: SetOption = None) -> None: ...

(`SpecArgument`, `SetOption` and `load` are in `llamac.cli.common.options`; examples for its help in
`llamac.cli.common.typer_command`.) A verb with verbs of its own, such as `data prepare`, gives its
`app` several commands. Checks and choices before a run are in `llamac.cli.preflight`.
"""

from __future__ import annotations

VERBS = {
    "check": "validate SPEC: report all errors with file, line and a suggested fix",
    "plan": "predict a run of SPEC: its memory, speed and duration",
    "build": "compile SPEC into a trainer you can read, own and launch",
    "data": "prepare SPEC's training text and report on it",
    "train": "build SPEC into a run directory and train it, resuming an interrupted run",
    "launch": "build SPEC and start it on this machine, SLURM, Kubernetes or SkyPilot",
    "report": "show runs side by side: loss curves, speed, data, samples, events",
    "import": "convert a Hugging Face, Meta or GGUF model to a spec and weights",
    "export": "write RUN's weights for transformers, Meta's code, llama.cpp or peft",
    "generate": "continue a text with the weights of RUN",
    "eval": "evaluate RUN on the paper's tasks, compared with the paper's results",
    "tokenizer": "train, compare and explain tokenizers",
    "verify": "compare every stage of a small twin of SPEC with plain eager PyTorch",
    "inspect": "show SPEC's program after any pass: IR, Python, drawings, memory",
    "schema": "print the JSON Schema of specs, for completion in your editor",
    "completion": "print a script that completes these commands in bash, zsh or fish",
}
"""Description of each verb in `llamac --help`, in the order in which they are listed."""
