"""`llamac completion bash|zsh|fish`: a shell script that asks llamac for completions."""

from __future__ import annotations

import inspect
from enum import StrEnum
from typing import Annotated, Any, get_args, get_type_hints

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Shell(StrEnum):
    """Shells for which completion is available."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


# Each script passes the words of the line so far, the partial one last, and falls back on file
# names.
SCRIPTS = {
    Shell.bash: r"""_llamac() {
    local IFS=$'\n' words=("${COMP_WORDS[@]:1:COMP_CWORD}")
    [[ $COMP_CWORD -eq 0 ]] && return
    COMPREPLY=($(llamac completion bash -- "${words[@]}" 2>/dev/null))
    [[ ${COMPREPLY[0]} == *= || ${COMPREPLY[0]} == *. ]] && compopt -o nospace
}
complete -o default -F _llamac llamac
""",
    Shell.zsh: r"""#compdef llamac
_llamac() {
    local -a found
    found=("${(@f)$(llamac completion zsh -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    local -a open=("${(@M)found:#*[=.]}") whole=("${(@)found:#*[=.]}")
    [[ -n "${open[1]}" ]] && compadd -Q -S '' -a open
    [[ -n "${whole[1]}" ]] && compadd -Q -a whole
    _files
}
compdef _llamac llamac
""",
    Shell.fish: r"""function __llamac
    set -l words (commandline -opc)[2..] (commandline -ct)
    llamac completion fish -- $words 2>/dev/null
end
complete -c llamac -a '(__llamac)'
""",
}


@app.command()
def completion(
    shell: Annotated[Shell, typer.Argument(help="Shell of the script")],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORD", hidden=True, help="For the script itself")
    ] = None,
) -> None:
    """Print a script that completes llamac's command lines in your shell.

    bash: add `eval "$(llamac completion bash)"` to ~/.bashrc. zsh: the same in ~/.zshrc, after
    compinit. fish: llamac completion fish > ~/.config/fish/completions/llamac.fish.
    """
    if words is None:
        print(SCRIPTS[shell], end="")
        return
    for word in candidates(words):
        print(word)


def candidates(words: list[str]) -> list[str]:
    """Return the completions of the last word of a command line.

    words: the command line after `llamac`, at least one; the last may be partial or empty.
    """
    from llamac.cli import VERBS
    from llamac.cli.common.typer_command import command_of

    *before, partial = words
    if not before:
        return _beginning(partial, [*VERBS, "--help", "--version"])
    verb, *rest = before
    if verb not in VERBS:
        return []
    command = command_of(verb)
    inner: dict[str, Any] = getattr(command, "commands", {})
    if inner:
        if not rest:
            return _beginning(partial, [*inner, "--help"])
        if rest[0] not in inner:
            return []
        command, rest = inner[rest[0]], rest[1:]
    return _beginning(partial, _of(command, rest, partial))


def _of(command: Any, before: list[str], partial: str) -> list[str]:
    """Return the completions of `partial` after the words `before` of a command."""
    options = {name: one for one in command.params for name in one.opts if name.startswith("-")}
    last = options.get(before[-1]) if before else None
    if last is not None and not last.is_flag:
        return _spec_keys() if "--set" in last.opts else _choices(command, last)
    if partial.startswith("-"):
        return [*options, "--help"]
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    if arguments and arguments[0].metavar == "SPEC" and not before:
        from llamac.resources import shipped_specs

        return list(shipped_specs())
    return [value for one in arguments for value in _choices(command, one)]


def _choices(command: Any, parameter: Any) -> list[str]:
    """Return the allowed values of an enumeration parameter; empty for others."""
    annotation = get_type_hints(inspect.unwrap(command.callback))[parameter.name]
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    return [str(value) for kind in kinds if issubclass(kind, StrEnum) for value in kind]


def _spec_keys() -> list[str]:
    """Return `section.key=` for each key of a spec."""
    from llamac.spec import Spec

    found = []
    for name, field in Spec.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]  # one model, or a choice of them
        keys = dict.fromkeys(key for kind in kinds for key in getattr(kind, "model_fields", ()))
        found += [f"{name}.{key}=" for key in keys] or [f"{name}="]
    return found


def _beginning(partial: str, words: list[str]) -> list[str]:
    return [word for word in words if word.startswith(partial)]
