"""Messages for errors in the command line: what is wrong, the nearest valid value, and help."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

from llamac.spec.validation.errors import closest_option

_BOUNDS = {
    "greater than or equal to": "{} or more",
    "greater than": "more than {}",
    "less than or equal to": "{} at most",
    "less than": "less than {}",
}


def usage_message(error: Any, verb: str) -> str:
    """Return the message for an error in the command line, ending in a pointer to the help.

    error: exception of typer or click. verb: the command, if the error does not know it.
    """
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "") or f"llamac {verb}"
    commands: list[str] = list(getattr(getattr(context, "command", None), "commands", ()))
    message = str(getattr(error, "message", "")) or "the command line is not complete"
    if commands and (type(error).__name__ == "NoArgsIsHelpError" or "Missing command" in message):
        message = f"give a command: {', '.join(commands)}"
    elif commands and (unknown := re.search(r"No such command '([^']*)'", message)):
        message = f"there is no command {unknown[1]!r}; {_nearest(unknown[1], commands)}"
    else:
        message = _plain(error.format_message())
    return f"{path}: {message}\nTry: {path} --help"


def _plain(text: str) -> str:
    text = text.replace("Value error, ", "")
    if choice := re.search(r"'([^']*)' is not one of ('[^']*'(?:, '[^']*')*)\.?", text):
        options = re.findall(r"'([^']*)'", choice[2])
        said = f"{choice[1]!r} is not one of {', '.join(options)}{_hint(choice[1], options)}"
        text = text[: choice.start()] + said
    if bound := re.search(r"Input should be (greater|less)(.*?) (-?[\d.]+)$", text):
        text = text[: bound.start()] + "must be " + _BOUNDS[bound[1] + bound[2]].format(bound[3])
    return text


def _hint(word: str, options: list[str]) -> str:
    near = closest_option(word, options)
    return f"; did you mean {near}?" if near else ""


def _nearest(word: str, options: list[str]) -> str:
    close = get_close_matches(word, options, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(options)}"
