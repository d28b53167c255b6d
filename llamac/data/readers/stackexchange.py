"""Read a StackExchange site's Posts.xml: one document per question, with its answers.

The posts of a thread may be anywhere in the file, so they are sorted in a database on disk.
meta: site (the name of the file's directory), title, score, tags, answers (their number).
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree

from llamac.data.document import Document
from llamac.data.formats.html import extract_text, parse_html
from llamac.data.formats.xml import records
from llamac.runtime.data.sources.records import accept_text
from llamac.runtime.data.sources.skipped_records import Skipped
from llamac.spec.data import Source

ENDINGS = (".xml",)
QUESTION, ANSWER = "1", "2"  # PostTypeId; the others are wikis, tags, elections
CACHE_KIB = 1 << 16  # page cache of the database

_TABLE = (
    "CREATE TABLE post (thread INTEGER, answer INTEGER, score INTEGER, id INTEGER, line INTEGER, \
title TEXT, tags TEXT, body TEXT)"
)
_INDEX = "CREATE INDEX threads ON post (thread, answer, score DESC, id)"
_ORDERED = "SELECT * FROM post ORDER BY thread, answer, score DESC, id"


class _Post(NamedTuple):
    thread: int
    answer: int
    score: int
    id: int
    line: int
    title: str
    tags: str
    body: str


def read(path: str, source: Source, skipped: Skipped) -> Iterator[Document]:
    """Yield questions ordered by id, each with its answers by descending score, then id.

    A question begins with `Q: `, an answer with `A: `. HTML becomes text; code keeps its layout.
    """
    site = os.path.basename(os.path.dirname(os.path.abspath(path)))
    with tempfile.TemporaryDirectory(prefix="llamac-posts-") as directory:
        database = sqlite3.connect(os.path.join(directory, "posts"), isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            database.execute(_TABLE)
            database.execute("BEGIN")
            rows = records(path, b"<row", b"/>", skipped)
            posts = (_post(line, row, f"{path}:{line}", skipped) for line, row in rows)
            database.executemany(
                "INSERT INTO post VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (post for post in posts if post)
            )
            database.execute(_INDEX)
            for thread in _threads(map(_Post._make, database.execute(_ORDERED))):
                yield from _document(thread, path, site, skipped)
        finally:
            database.close()


def _post(line: int, row: ElementTree.Element, where: str, skipped: Skipped) -> _Post | None:
    kind = row.get("PostTypeId")
    if kind not in (QUESTION, ANSWER):
        return skipped.add("neither question nor answer", where)
    try:
        number, score = _integer(row, "Id"), _integer(row, "Score")
        thread = number if kind == QUESTION else _integer(row, "ParentId")
    except ValueError:
        return skipped.add("broken post", where)
    title, tags = row.get("Title", ""), row.get("Tags", "")
    return _Post(thread, kind == ANSWER, score, number, line, title, tags, row.get("Body", ""))


def _integer(row: ElementTree.Element, name: str) -> int:
    value = int(row.get(name, ""))
    if abs(value) >= 1 << 63:
        raise ValueError
    return value


def _threads(posts: Iterator[_Post]) -> Iterator[list[_Post]]:
    thread: list[_Post] = []
    for post in posts:
        if thread and post.thread != thread[0].thread:
            yield thread
            thread = []
        thread.append(post)
    if thread:
        yield thread


def _document(thread: list[_Post], path: str, site: str, skipped: Skipped) -> Iterator[Document]:
    question, *answers = thread
    where = f"{path}:{question.line}"
    if question.answer:
        for answer in thread:
            skipped.add("answer without its question", f"{path}:{answer.line}")
        return
    for duplicate in (post for post in answers if not post.answer):
        skipped.add("question twice", f"{path}:{duplicate.line}")
    texts = [_text(post, path, skipped) for post in answers if post.answer]
    texts = [text for text in texts if text]
    parts = (question.title.strip(), _text(question, path, skipped))
    head = "\n\n".join(part for part in parts if part)
    text = "\n\n".join((f"Q: {head}", *(f"A: {text}" for text in texts))) if head else ""
    if accept_text(text, where, skipped):
        meta = {"site": site, "title": question.title, "score": question.score}
        meta |= {"tags": question.tags, "answers": len(texts)}
        yield Document(text, path, question.line, meta)


def _text(post: _Post, path: str, skipped: Skipped) -> str:
    """Return a post's body as text; if it cannot be read, count it and return ""."""
    tree = parse_html(post.body, f"{path}:{post.line}", skipped)
    return "" if tree is None else extract_text(tree, main=False).strip()
