"""Read preferences as text, for training and comparing tokenizers: prompts with both answers."""

from __future__ import annotations

from collections.abc import Iterator

from llamac.data.document import Document
from llamac.runtime.data.sources.conversations import read_conversations
from llamac.runtime.data.sources.preference_records import parse_preference
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.spec.data import Source


def read(path: str, source: Source, skipped: Skipped) -> Iterator[Document]:
    """Yield a document per preference: the conversation with each answer, the chosen one first."""
    for line, preference in read_conversations(path, skipped, parse_preference):
        yield Document(f"{preference.chosen.content}\n{preference.rejected.content}", path, line)
