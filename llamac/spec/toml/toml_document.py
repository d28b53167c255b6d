"""A TOML document merged with its base specs, and the position of each value."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any

from llamac.resources import directory, find_spec, shipped_specs
from llamac.spec.toml.positions import Lines, Place, scan
from llamac.spec.validation.errors import (
    OPTION,
    Diagnostic,
    Location,
    Path,
    SpecError,
    describe,
    toml_key,
)

LARGEST_FILE = 1024 * 1024
"""Largest size of a spec file in bytes, so that `llamac check /dev/zero` ends."""
LONGEST_INTEGER = 64
"""Fewest digits of a number that is blamed when Python refuses one (it reads up to 4300)."""


_EITHER_OR = (
    (("schedule", "steps"), ("schedule", "tokens")),
    (("batch", "tokens"), ("batch", "sequences")),
)
"""Pairs of keys of which a spec sets one: setting either removes the other."""


_RENAMED: dict[tuple[str, ...], tuple[str, ...]] = {
    ("activation", "checkpoint"): ("recompute", "policy")
}
_RENAMED_SECTIONS = {"activation": "recompute"}
"""Former names of keys and sections, which are still read."""


def current_name(path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the current path of a key or section, given a path that may use former names."""
    path = (*_RENAMED.get(path[:2], path[:2]), *path[2:])
    return (_RENAMED_SECTIONS.get(path[0], path[0]), *path[1:]) if path else path


@dataclass
class TomlDocument:
    """Parsed TOML data and the position of every key in it.

    A `Path` is the sequence of keys and indices of a value: `("data", "source", 0, "share")`.

    file: name of the document's own file in messages.
    data: values of the document, merged with those of its base specs.
    places: locations of each key and its value, by path.
    files: files that were read, the document's own first, then its base specs.
    shipped: names of those files that are shipped with llamac.
    notes: messages for the user that are not errors.
    """

    file: str
    data: dict[str, Any] = field(default_factory=dict)
    places: dict[Path, Place] = field(default_factory=dict)
    files: tuple[FilePath, ...] = ()
    roots: dict[str, FilePath] = field(default_factory=dict)
    """Directory to which a file's relative paths refer, by the file's name as in `places`."""
    shipped: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def value(self, path: Path) -> Any:
        """Return the value at `path`. Raises KeyError if there is none."""
        value: Any = self.data
        for part in path:
            try:
                value = value[part]
            except (IndexError, TypeError) as error:
                raise KeyError(path) from error
        return value

    def place(self, path: Path) -> Place:
        """Return the locations of the key at `path` and of its value.

        If they are unknown: those of the nearest enclosing table, else the whole file.
        """
        for size in range(len(path), 0, -1):
            if place := self.places.get(path[:size]):
                return place
        whole = Location(self.file)
        return Place(whole, whole)

    def put(self, path: Path, value: Any, place: Place) -> None:
        """Set the value at `path`, creating missing tables.

        A key that excludes `path` is removed: `schedule.tokens` for `schedule.steps`.

        place: the value's place, for error messages.
        """
        self._drop_alternative(path)
        parent: Any = self.data
        for size, part in enumerate(path[:-1], start=1):
            if isinstance(parent, dict) and part not in parent:
                parent[part] = {}
                self.places.setdefault(path[:size], place)
            parent = parent[part]
        parent[path[-1]] = value
        self._forget(path)
        self.places[path] = place

    def rename(self) -> None:
        """Rename keys and sections that have former names, in place, and add a note about each."""
        for path in [path for path in self.places if len(path) <= 2]:
            names = tuple(map(str, path))
            if (new := current_name(names)) == names:
                continue
            place = self.places[path]
            if len(path) == 2 or not isinstance(self.data[names[0]], dict):
                self.put(new, self.value(path), place)
                self.note_renamed(names, new, place)
        for old in _RENAMED_SECTIONS:
            self.drop((old,))

    def note_renamed(self, old: tuple[str, ...], new: tuple[str, ...], place: Place) -> None:
        """Add a note that the key or section `old`, at `place`, is now called `new`."""
        at = place.key
        where = f"--set {at.source}" if at.file == OPTION else f"{at.file}:{at.line}"
        self.notes.append(f"{where}: `{'.'.join(old)}` is now called `{'.'.join(new)}`")

    def drop(self, path: Path) -> None:
        """Remove the key at `path`, if it exists, and its recorded location.

        Data inside an array is not removed, but its location is.
        """
        parent: Any = self.data
        for part in path[:-1]:
            parent = parent.get(part) if isinstance(parent, dict) else None
        if isinstance(parent, dict):
            parent.pop(path[-1], None)
        self._forget(path)

    def _drop_alternative(self, path: Path) -> None:
        for first, second in _EITHER_OR:
            if path in (first, second):
                self.drop(second if path == first else first)

    def _forget(self, path: Path) -> None:
        for known in [known for known in self.places if known[: len(path)] == path]:
            del self.places[known]

    def merge(self, over: TomlDocument, at: Path = ()) -> None:
        """Merge another document into this one, in place.

        Tables are merged by key; any other value replaces the present one, and its place too. Keys
        that exclude one of `over`, as in `put`, are removed.

        over: the document whose values take precedence. at: path of the table to merge.
        """
        mine, theirs = self.value(at), over.value(at)
        # All at once and first: a layer that gives both is itself at fault, and must say so.
        for key in theirs:
            self._drop_alternative((*at, key))
        for key, value in theirs.items():
            path = (*at, key)
            if isinstance(value, dict) and isinstance(mine.get(key), dict):
                self.merge(over, path)
            else:
                mine[key] = value
                self._forget(path)
                below = over.places.items()
                self.places.update((p, q) for p, q in below if p[: len(path)] == path)
            if path in over.places:
                self.places[path] = over.places[path]


def read(file: str) -> TomlDocument:
    """Return the document in a file, merged with the base specs that its `extends` names.

    file: a path, or the name of a shipped spec.
    Raises SpecError if a file cannot be read or is not TOML, or `extends` or `unset` is invalid.
    """
    path = find_spec_file(file, Location(file))
    return _read(file if path == FilePath(file) else _relative(path), path, [])


def find_spec_file(
    name: str, error_location: Location, first_directory: FilePath | None = None
) -> FilePath:
    """Return the file of a spec, given a path or the name of a shipped spec.

    If there is neither, returns the path of the missing file. Raises SpecError if `name` cannot be
    a path.

    error_location: location to which the error points.
    first_directory: directory of relative paths; None is the working directory.
    """
    if "\0" in name:
        raise _failure(error_location, "cannot read the spec: no path holds the character U+0000")
    try:
        return find_spec(name, first_directory)
    except OSError as error:
        raise _failure(error_location, f"cannot read the spec: {error.strerror}") from error


def _read(
    file: str, path: FilePath, chain: list[FilePath], error_location: Location | None = None
) -> TomlDocument:
    document = parse(_text(file, path, error_location or Location(file)), file)
    document.files = (path.absolute(),)
    shipped = path.resolve().parent == directory("specs").resolve()
    document.shipped = {file} if shipped else set()
    document.roots[file] = FilePath.cwd() if shipped else path.absolute().parent
    if "extends" not in document.data:
        if "unset" in document.data:
            place = document.places[("unset",)].key
            raise _failure(place, "`unset` removes keys of a base spec, but there is no `extends`")
        return document
    base = document.data.pop("extends")
    place = document.places.pop(("extends",)).value
    if not isinstance(base, str) or not base:
        message = f"`extends` must be the path of another spec, not {describe(base)}"
        raise _failure(place, message, 'for instance extends = "7b.toml"')
    chain = [*chain, path.resolve()]
    base_path = find_spec_file(base, place, first_directory=path.parent)
    if base_path.resolve() in chain:
        names = [step.name for step in [*chain[chain.index(base_path.resolve()) :], base_path]]
        message = f"`extends` forms a cycle: {' → '.join(names)}"
        raise _failure(place, message, "a spec cannot extend itself: remove one of the links")
    beside = os.path.normpath(os.path.join(os.path.dirname(file), base))
    shown = beside if base_path == path.parent / base else _relative(base_path)
    merged = _read(shown, base_path, chain, place)
    if "unset" in document.data:
        _unset(merged, document)
    merged.file, merged.files = file, (*document.files, *merged.files)
    merged.roots |= document.roots
    merged.shipped |= document.shipped
    merged.notes += document.notes
    merged.merge(document)
    return merged


def _unset(base: TomlDocument, child: TomlDocument) -> None:
    """Remove from `base` the keys that `child` lists in `unset`."""
    at: Path = ("unset",)
    keys, failures = child.data.pop("unset"), list[Diagnostic]()
    example = 'unset = ["model.ffn_dim"] removes that key of the base'
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        message = f"`unset` must be an array of dotted keys, not {describe(keys)}"
        raise _failure(child.place(at).value, message, example)
    for index, key in enumerate(keys):
        path: Path = current_name(tuple(key.split(".")))
        try:
            base.value(path)
        except KeyError:
            place = child.place((*at, index)).value
            message = f"{describe(key)} is not set in the base spec"
            failures.append(Diagnostic(place, message, "remove it from `unset`"))
        base.drop(path)
    if failures:
        raise SpecError(failures)


def _relative(path: FilePath) -> str:
    """Return `path` relative to the working directory where it lies below it."""
    here = FilePath.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _text(file: str, path: FilePath, error_location: Location) -> str:
    """Return the file's text, line ends normalised as tomllib does."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(LARGEST_FILE + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        named = "" if error_location.file == file else f" {toml_key(file)}"
        raise _failure(
            error_location,
            f"cannot read the spec{named}: {reason[0].lower()}{reason[1:]}",
            _others(path),
        ) from error
    if len(raw) > LARGEST_FILE:
        raise _failure(Location(file), f"larger than {LARGEST_FILE} bytes: not a spec")
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        message = f"not a text file in UTF-8: byte 0x{raw[error.start]:02x} here"
        raise _failure(Location(file, line, column), message, "save the file as UTF-8") from error


def _others(path: FilePath) -> str:
    """Return a hint with similarly named specs for a path that cannot be read."""
    if path.is_dir():
        found = sorted(path.glob("*.toml"))[:3]
        return f"name a file in it: {', '.join(map(str, found))}" if found else ""
    beside = {one.name: str(one) for one in path.parent.glob("*.toml")}
    names = {**beside, **{name: name for name in shipped_specs()}}
    close = get_close_matches(path.name, names, n=1) or get_close_matches(path.stem, names, n=1)
    if close:
        return f"did you mean {names[close[0]]}?"
    return f"the shipped specs go by name: {', '.join(shipped_specs())}"


def parse(text: str, file: str) -> TomlDocument:
    """Return the document in a TOML text, with former names of keys replaced.

    Raises SpecError if it is not valid TOML. file: name of the file in messages.
    """
    too_long = re.search(rf"[0-9_]{{{LONGEST_INTEGER},}}", text)
    try:
        document = TomlDocument(file, tomllib.loads(text), scan(text, file))
        document.rename()
        return document
    except RecursionError as error:
        raise _failure(Location(file), "nested too deeply to be a spec") from error
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(str(error), text, file) from error
    except ValueError as error:  # digits beyond Python's limit
        where = Lines(text, file).locate(*too_long.span()) if too_long else Location(file)
        raise _failure(where, "not valid TOML: this number has too many digits") from error


def _syntax_error(message: str, text: str, file: str) -> SpecError:
    """Return tomllib's message, `… (at line 3, column 7)`, as a diagnostic."""
    reason, _, position = message.rpartition(" (at ")
    reason = reason or message
    found = re.match(r"line (\d+), column (\d+)", position)
    lines = Lines(text, file)
    where = (
        lines.locate_character(*map(int, found.groups()))
        if found
        else lines.locate(len(text), len(text))
    )
    help = "quote strings, put table names in [brackets], leave numbers and true/false unquoted"
    if twice := re.match(r"Cannot declare \(([^)]*)\) twice|Cannot overwrite a value", reason):
        name = ".".join(re.findall(r"'([^']*)'", twice[1] or ""))
        before = re.search(rf"^\s*\[\s*{re.escape(name)}\s*\]", text, re.M) if name else None
        at = f", in line {text.count(chr(10), 0, before.end()) + 1}" if before else ""
        reason = f"the table [{name}] is already defined{at}" if name else "this key is already set"
        help = "put its keys into one table; only [[double brackets]] may be repeated"
        help = help if name else "remove one of the two"
    return _failure(where, f"not valid TOML: {reason[0].lower()}{reason[1:]}", help)


def _failure(location: Location, message: str, help: str = "") -> SpecError:
    return SpecError([Diagnostic(location, message, help)])
