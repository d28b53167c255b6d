"""Former place of the readers of sources, which scripts outside this tree still import from."""

from .data.skipped import Skipped
from .data.sources import documents

__all__ = ["Skipped", "documents"]
