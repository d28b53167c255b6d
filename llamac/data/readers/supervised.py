"""Read supervised data as text, for training and comparing tokenizers.

`runtime.data.sources.conversations` reads the records. Preparation tokenises them with
`runtime.data.answer_tokens`, which marks the tokens that have a loss.
"""

from __future__ import annotations

from collections.abc import Iterator

from llamac.data.document import Document
from llamac.runtime.data.sources.conversations import parse_conversation, read_conversations
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.spec.data import Source


def read(path: str, source: Source, skipped: Skipped) -> Iterator[Document]:
    """Yield a document per conversation: the text of all its messages."""
    for line, conversation in read_conversations(path, skipped, parse_conversation):
        yield Document(conversation.content, path, line)
