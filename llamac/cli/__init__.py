"""The command line: `llamac VERB …`.

Verbs are in `cli/verbs.py`.

A verb that fails raises: `typer.Exit(3)` where it has said why, or any exception with an
`exit_code`, whose text is then the message. Exit codes: 0 ok · 1 failed while running ·
2 usage or spec error · 3 verification failed · 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from llamac.cli.verbs import VERBS

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code, printing expected errors to stderr.

    arguments: words after `llamac`; None takes those of this process. Without any, it prints help.
    """
    verb, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(
            stream, "reconfigure"
        ):  # the terminal's encoding may lack characters of the spec
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        if verb == "help" and rest[:1] and rest[0] in VERBS:
            verb, *rest = [*rest, "--help"]
        if verb in ("-h", "--help", "help"):
            print(_overview())
        elif verb in ("-V", "--version"):
            print(_version())
        elif verb in VERBS:
            code = _run(verb, rest)
            if code == INTERRUPTED:  # newer versions of typer return the interrupt's exit code
                raise KeyboardInterrupt
            return code
        else:
            return _unknown(verb)
    except KeyboardInterrupt:
        print("llamac: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (
        BrokenPipeError
    ):  # the reader closed the pipe, as `head` does; avoid an error when flushing at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return OK


def _overview() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {help}" for verb, help in VERBS.items())
    return (
        "Usage: llamac COMMAND [SPEC] [--set section.key=value]… [OPTIONS]\n\n"
        "Compiles a declarative spec of a LLaMA-style pretraining run into a trainer you can\n"
        "read, own and launch. SPEC is a TOML file, or a shipped spec such as tiny or 65b.\n\n"
        f"Commands:\n{verbs}\n\n"
        "Options:\n"
        "  -h, --help     this page; llamac COMMAND --help for one command\n"
        "  -V, --version  the version"
    )


def _version() -> str:
    from llamac import __version__

    return f"llamac {__version__}"


def _unknown(verb: str) -> int:
    from difflib import get_close_matches

    from llamac.spec.validation.errors import printable

    close = get_close_matches(verb[:80], VERBS, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"there are {', '.join(VERBS)}"
    print(f"llamac: there is no command {printable(verb)!r}; {hint}", file=sys.stderr)
    return USAGE


def _run(verb: str, arguments: list[str]) -> int:
    import typer

    from llamac.cli.common.typer_command import command_of

    command = command_of(verb)
    try:
        result = command.main(arguments, prog_name=f"llamac {verb}", standalone_mode=False)
        return result if isinstance(result, int) else OK
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except BrokenPipeError:
        raise
    except Exception as error:
        code = getattr(error, "exit_code", FAILED if isinstance(error, OSError) else None)
        if code is None:  # a bug in llamac: show the traceback, which also exits with 1
            raise
        _print_error(error, verb)
        return code


def _print_error(error: Exception, verb: str) -> None:
    """Print the message of an exception that has an exit code."""
    from llamac.runtime.terminal import escaped
    from llamac.spec.validation.errors import SpecError

    usage = hasattr(error, "format_message")  # typer's own error, about the command line
    if usage:
        from llamac.cli.common.usage import usage_message

        text = usage_message(error, verb)
    else:
        text = str(error)
    if text and not isinstance(error, SpecError) and not usage:
        text = f"llamac {verb}: {text}"
    if text:
        from llamac.look.console import show_error

        show_error(escaped(text))
