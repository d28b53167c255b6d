"""The spec: a Pydantic model for each TOML section, and errors that point into the file."""

from llamac.spec.loader import load_spec
from llamac.spec.root import Spec
from llamac.spec.validation.errors import SpecError

__all__ = ["Spec", "SpecError", "load_spec"]
