"""Render wiki templates as readers see them, by the patterns in `wikis.TEMPLATES`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from llamac.data.formats.wikis import TEMPLATES

_UNITS = {"km2": "km²", "m2": "m²", "cm2": "cm²", "m3": "m³", "cm3": "cm³", "km3": "km³", "C": "°C"}
_UNITS |= {"F": "°F", "sqmi": "sq mi", "sqft": "sq ft", "kmph": "km/h", "acre": "acres"}
_RANGES = {"-": "–", "–": "–", "to": " to ", "and": " and ", "or": " or ", "x": " × ", "by": " by "}
_RANGES |= {"×": " × ", "+/-": " ± ", "±": " ± ", "&": " and ", "to(-)": " to "}
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_NOTES = {"flat": "♭", "b": "♭", "sharp": "♯", "#": "♯", "natural": "♮", "n": "♮"}

_NUMBER = re.compile(r"[1-9][0-9]?")
_FIELD = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")
_OPTION = re.compile(r"<([^<>]*)>")
_ISO = re.compile(r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})")
_QUANTITY = re.compile(r"[-+−]?[0-9][0-9.,/+ ]*")


@dataclass(frozen=True, slots=True)
class Arguments:
    """Arguments of a template.

    positional: unnamed arguments, in order. named: by name; `1=…` sets position 1.
    """

    positional: list[str]
    named: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, key: str) -> str:
        """Return the argument of a name, or of a position from "1"; "" if it is missing."""
        if key in self.named:
            return self.named[key]
        number = int(key) if _NUMBER.fullmatch(key) else 0
        return self.positional[number - 1] if 0 < number <= len(self.positional) else ""

    def all(self) -> list[str]:
        """Return the non-empty positional arguments in order, including those named by number."""
        last = max((int(key) for key in self.named if _NUMBER.fullmatch(key)), default=0)
        numbers = range(1, max(last, len(self.positional)) + 1)
        return [text for number in numbers if (text := self[str(number)])]


Rule = Callable[[Arguments], str]
"""Function that returns the text that a template with these arguments shows."""


# Functions of MediaWiki that are written like templates: {{lc:TEXT}}.
PARSER_FUNCTIONS = frozenset(("formatnum", "lc", "uc", "lcfirst", "ucfirst"))


def rule(name: str, language: str, in_sentence: bool) -> Rule | None:
    """Return the function that renders the template `name`; None if it shows nothing.

    name: as in wikitext; that of a parser function is followed by a colon and its argument.
    language: the wiki's; "" if unknown. in_sentence: whether the template is inside a sentence,
    where an unknown template shows its only argument, as most templates there do.
    """
    known, title, name = _rules(language), name, name.lower()
    if name in known:
        return known[name]
    if name.startswith(("lang-", "ipa-")):
        return known[name[: name.index("-") + 1]]
    if "_" in name:
        return rule(title.replace("_", " "), language, in_sentence)
    if ":" in name and (function := name.partition(":")[0].rstrip()) in PARSER_FUNCTIONS:
        return known[function]
    if "siècle" in name:  # {{XIXe siècle}}
        return lambda arguments: title
    return (
        only_argument if in_sentence and name else None
    )  # {{#tag:ref|...}} and {{{1}}} have no name


@cache
def _rules(language: str) -> dict[str, Rule | None]:
    """Return the rule of each template, by lower-case name, on a wiki in that language.

    For an unknown language, the rules of all are merged; English takes precedence.
    """
    languages = ("en", language) if language else (*reversed(TEMPLATES),)
    return {
        name: _FUNCTIONS.get(pattern) or (_pattern_rule(pattern) if pattern else None)
        for code in languages
        for pattern, names in TEMPLATES.get(code, ())
        for name in names.split(", ")
    }


def _pattern_rule(pattern: str) -> Rule:
    def render(arguments: Arguments) -> str:
        def value(match: re.Match[str]) -> str:
            if match[1] == "*":
                return (match[2] or "").join(arguments.all())
            return next((text for key in match[1].split("|") if (text := arguments[key])), "")

        def option(match: re.Match[str]) -> str:
            complete = all(value(field) for field in _FIELD.finditer(match[1]))
            return match[1] if complete else ""

        return _FIELD.sub(value, _OPTION.sub(option, pattern))

    return render


def only_argument(arguments: Arguments) -> str:
    """Render an unknown template inside a sentence as its only argument.

    Empty if there are other arguments, or if it has no letters or contains an address.
    """
    if len(arguments.positional) != 1 or arguments.named:
        return ""
    text = arguments.positional[0]
    return text if "//" not in text and any(map(str.isalpha, text)) else ""


def _convert(arguments: Arguments) -> str:
    """Render `5|to|10|km|mi` as "5 to 10 km", `6|ft|2|in|m` as "6 ft 2 in" (no conversion)."""
    values = arguments.all()
    rendered = values[:1]
    at = 1
    while at + 1 < len(values) and values[at] in _RANGES:
        rendered += (_RANGES[values[at]], values[at + 1])
        at += 2
    if at < len(values):
        rendered.append(f" {_UNITS.get(values[at], values[at])}")
        if at + 2 < len(values) and _QUANTITY.fullmatch(values[at + 1]):
            rendered.append(f" {values[at + 1]} {values[at + 2]}")
    return "".join(rendered)


def _val(arguments: Arguments) -> str:
    """Render `5.3|0.2|e=3|u=kg` as "5.3±0.2×10^3 kg"."""
    number, *errors = arguments.all() or [""]
    if len(errors) == 1:
        number += errors[0] if errors[0].startswith("(") else f"±{errors[0]}"
    number += "".join(errors[:2]) if len(errors) > 1 else ""
    power = f"×10^{arguments['e']}" if arguments["e"] else ""
    unit = next((arguments[key] for key in ("u", "ul", "up", "upl") if arguments[key]), "")
    gap = "" if not unit or unit[0] in "%°" else " "
    return f"{arguments['p']}{number}{power}{gap}{unit}{arguments['s']}"


def _frac(arguments: Arguments) -> str:
    match arguments.all():
        case [whole, above, below, *_]:
            return f"{whole} {above}/{below}"
        case [above, below]:
            return f"{above}/{below}"
        case [below]:
            return f"1/{below}"
    return "/"


def _date(arguments: Arguments) -> str:
    """Render `1970|5|3|df=y` as "3 May 1970", without df as "May 3, 1970"; join other forms."""
    values = arguments.all()
    if values and (match := _ISO.fullmatch(values[0])):
        values = list(match.groups())
    if not values or not (values[0].isdecimal() and len(values[0]) == 4):
        return " ".join(values)
    year, *rest = values
    if not rest or not (rest[0].isdecimal() and 1 <= int(rest[0]) <= 12):
        return year
    month = _MONTHS.split("|")[int(rest[0]) - 1]
    if len(rest) < 2 or not (rest[1].isdecimal() and len(rest[1]) <= 2):
        return f"{month} {year}"
    day = int(rest[1])
    return f"{day} {month} {year}" if arguments["df"] else f"{month} {day}, {year}"


def _as_of(arguments: Arguments) -> str:
    if arguments["alt"]:
        return arguments["alt"]
    word = "since" if arguments["since"] else "as of"
    word = word if arguments["lc"] else word.capitalize()
    day_first = {} if arguments["df"].lower() == "us" else {"df": "y"}
    return f"{word} {_date(Arguments(arguments.positional, arguments.named | day_first))}"


def _sounds(arguments: Arguments) -> str:
    """Render `lang|æ|n|_|ˈ|b` as "/æn ˈb/", without the codes before and after the sounds."""
    words = ("lang", "pron", "us", "uk", "also", "local", "ipa", "en-us", "en-uk")
    sounds = "".join(part for part in arguments.all() if part.lower() not in words)
    return f"/{sounds.replace('_', ' ')}/"


def _lines(arguments: Arguments) -> str:
    return "".join(f"\n* {item}" for item in arguments.all()) + "\n"


_FUNCTIONS: dict[str, Rule] = {
    "@convert": _convert,
    "@val": _val,
    "@frac": _frac,
    "@date": _date,
    "@as_of": _as_of,
    "@lines": _lines,
    "@lower": lambda arguments: arguments["1"].lower(),
    "@upper": lambda arguments: arguments["1"].upper(),
    "@sounds": _sounds,
    "@note": lambda arguments: _NOTES.get(arguments["1"], arguments["1"]),
}
