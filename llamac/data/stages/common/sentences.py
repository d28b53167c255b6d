"""Split a line into sentences, for C4's heuristics."""

from __future__ import annotations

import re

# A run of marks is matched once, from its beginning: otherwise a page of dots takes quadratic time.
_END = re.compile(r"""(?<![.?!…])[.?!…]++["'”’»)\]]*+(?=\s++["'“‘«(\[]*+[^\Wa-z_])""")
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘]+$")
_ABBREVIATIONS = re.compile(
    "(adj|adv|al|approx|apr|assoc|aug|ave|bros|capt|cf|cmdr|co|col|corp|dec|dept|dr|e.g|eds?|eq|esp"
    "|est|etc|feb|figs?|gen|gov|i.e|inc|jan|jr|jul|jun|lt|ltd|mar|messrs|mrs?|ms|mt|nov|oct|op"
    "|pp?|prof|rep|rev|sec|sen|sept?|sgt|sr|st|u.k|u.s|vols?|vs)",
    re.IGNORECASE,
)


def split_sentences(line: str) -> list[str]:
    """Split a line of prose into sentences; text after the last end mark is a sentence too."""
    sentences, begin = [], 0
    for end in _END.finditer(line):
        if line[end.start()] == "." and _abbreviated(line, end.start()):
            continue
        sentences.append(line[begin : end.end()].strip())
        begin = end.end()
    if rest := line[begin:].strip():
        sentences.append(rest)
    return sentences


def _abbreviated(line: str, stop: int) -> bool:
    """Return whether a full stop belongs to the word before it, as in `Mr.`, `e.g.`, `J.`."""
    word = _LAST_WORD.search(line, max(stop - 12, 0), stop)
    if not word:
        return False
    initial = len(word[0]) == 1 and word[0].isalpha() and word[0] != "I"
    return initial or _ABBREVIATIONS.fullmatch(word[0]) is not None
