"""JSON Schema of a spec, generated from the models that validate it."""

from __future__ import annotations

from typing import Any

from llamac.spec.root import Spec

_EXTENDS = {
    "type": "string",
    "minLength": 1,
    "description": "Base spec: a path relative to this file, or the name of a shipped spec "
    "('65b'). This file's tables are merged into it key by key; arrays are "
    "replaced.",
}
_UNSET = {
    "type": "array",
    "items": {"type": "string", "minLength": 1},
    "description": "Dotted keys to remove from the base spec: each takes its default, unless this "
    "file sets it.",
}
_WHOLE = ("Source", "LinearScaling", "Llama3Scaling")
"""Tables that `extends` never merges into by halves, so that their required keys are required."""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a spec file, for editors.

    As `extends` may provide any key, the only required ones are the `kind` of a table with several
    kinds, and keys of tables that `extends` does not merge, such as a [[data.source]].
    """
    schema = _tidy(Spec.model_json_schema())
    for table in [schema, *schema["$defs"].values()]:
        if table["title"] not in _WHOLE:
            table["required"] = [key for key in table.get("required", ()) if key == "kind"]
    schema["properties"] = {"extends": _EXTENDS, "unset": _UNSET, **schema["properties"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "llamac spec",
    }


def _tidy(node: Any) -> Any:
    """Return a schema node without null, which TOML does not have."""
    if isinstance(node, list):
        return [_tidy(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    tidy = {
        key: _tidy(value) for key, value in node.items() if not (key == "default" and value is None)
    }
    options = [option for option in tidy.get("anyOf", []) if option != {"type": "null"}]
    if len(options) == 1:
        del tidy["anyOf"]
        return {**options[0], **tidy}
    return {**tidy, "anyOf": options} if options else tidy
