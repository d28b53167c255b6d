"""Former location of `runtime.data.sources.source_documents`, kept for scripts that import it."""

from .data.sources.skipped_records import Skipped
from .data.sources.source_documents import documents

__all__ = ["Skipped", "documents"]
