"""The spec: one Pydantic model per TOML section, and errors that point into the file."""

from llamac.spec.errors import SpecError
from llamac.spec.loader import load_spec
from llamac.spec.root import Spec

__all__ = ["Spec", "SpecError", "load_spec"]
