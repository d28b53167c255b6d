"""Former location of `runtime.data.sources`, kept for scripts that import it."""

from .data.skipped import Skipped
from .data.sources import documents

__all__ = ["Skipped", "documents"]
