"""Apply the heuristics of C4 (Raffel et al. 2020, section 2.2), in the original code's order."""

from __future__ import annotations

import re

from llamac.data.document import Document, Filter, Rejected
from llamac.data.stages.common.need import file_bytes, sha256
from llamac.data.stages.common.sentences import split_sentences
from llamac.spec.stages import C4

END_MARKS = (".", "?", "!", '"')  # endings of the lines that are kept
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_POLICIES = re.compile(
    "terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies"
)


def build(stage: C4) -> Filter:
    """Return the filter that applies C4's rules; it removes lines of documents in place."""
    bad_words = _bad_words(stage)

    def judge(document: Document) -> Document | Rejected:
        kept_lines, count, lines = [], 0, document.text.splitlines()
        for line in lines:
            line = line.strip()
            if "[" in line:
                line = _CITATION.sub("", line)
            if not line.endswith(END_MARKS) or line.endswith("..."):
                continue
            if len(line.split()) < stage.min_words:
                continue
            lower = line.lower()
            if "lorem ipsum" in lower:
                return Rejected("lorem ipsum")
            if "javascript" in lower:
                continue
            if "{" in line:
                at = line.index("{")
                return Rejected("curly bracket", line[max(at - 40, 0) : at + 40])
            if _POLICIES.search(lower):
                continue
            if bad_words and (word := bad_words.search(lower)):
                return Rejected("bad word", word[0])
            kept_lines.append(line)
            count += len(split_sentences(line))
        if count < stage.min_sentences:
            detail = f"{count} < {stage.min_sentences} in {len(kept_lines)} of {len(lines)} lines"
            return Rejected("few sentences", detail)
        document.text = "\n".join(kept_lines).strip()
        return document

    return judge


def facts(stage: C4) -> dict[str, str]:
    """Return the sha256 of the list of bad words as `bad_words`; empty if the stage has no list."""
    return {"bad_words": sha256(_bad_words_file(stage.bad_words))} if stage.bad_words else {}


def _bad_words(stage: C4) -> re.Pattern[str] | None:
    if stage.bad_words is None:
        return None
    lines = _bad_words_file(stage.bad_words).decode(errors="replace").lower().splitlines()
    words = sorted({re.escape(line.strip()) for line in lines if line.strip()})
    return re.compile(f"(?<![a-z])(?:{'|'.join(words)})(?![a-z])") if words else None


def _bad_words_file(path: str) -> bytes:
    return file_bytes(path, "`bad_words` must name a file with one word per line")
