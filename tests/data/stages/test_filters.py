"""Stages that judge a document alone."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from llamac.data.document import Document, Rejected
from llamac.data.stages import StageError, build, facts
from llamac.data.stages.common.sentences import split_sentences
from llamac.data.stages.decontaminate import contaminated_documents
from llamac.data.stages.header_comments import without_header
from llamac.data.stages.licence import permits
from llamac.spec.stages import (
    C4,
    DEFAULT_STAGES,
    Code,
    Decontaminate,
    HeaderComments,
    Language,
    Length,
    Licence,
    Pii,
    Stage,
)
from tests.data.preparing import prepared, write_corpus, write_spec
from tests.data.stages.judged import filtered, reasons, surveyed

STAGES = get_args(get_args(Stage)[0])


# --- The registry --------------------------------------------------------------------------


@pytest.mark.parametrize("section", STAGES, ids=lambda section: section.__name__)
def test_every_stage_of_a_spec_has_its_module(section: Any) -> None:
    name = section.model_fields["stage"].default
    assert callable(importlib.import_module(f"llamac.data.stages.{name}").build)


@pytest.mark.parametrize("section", STAGES, ids=lambda section: section.__name__)
def test_every_key_is_described(section: Any) -> None:
    for name, field in section.model_fields.items():
        assert name == "stage" or field.description.endswith((".", "characters", "pieces")), name


def test_the_papers_stages_of_each_kind() -> None:
    assert {kind: [stage.stage for stage in stages] for kind, stages in DEFAULT_STAGES.items()} == {
        "commoncrawl": ["line_dedup", "language", "perplexity", "quality"],
        "c4": ["c4", "language", "span_dedup"],
        "github": ["licence", "header_comments", "code", "exact_dedup"],
        "wikipedia": ["language"],
        "books": ["book_overlap"],
        "arxiv": [],
        "stackexchange": ["largest_sites"],
    }


def test_errors_name_the_source_and_the_stage() -> None:
    source = SimpleNamespace(name="web", stage=(C4(bad_words="/none"),))
    with pytest.raises(StageError, match=r"^web: c4: cannot read /none: No such file"):
        build(C4(bad_words="/none"), source)
    with pytest.raises(StageError, match=r"^web: c4: cannot read"):
        facts(C4(bad_words="/none"), source)


# --- Length, code, licence -----------------------------------------------------------------


def test_length() -> None:
    assert filtered(Length(min_chars=2, max_chars=3), "a", "ab", "abcd") == [
        Rejected("short document", "1 < 2 characters"),
        "ab",
        Rejected("long document", "4 > 3 characters"),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def f(x):\n    return x\n", "kept"),
        ("x" * 1001 + "\nshort\n", "long line"),
        (("y" * 101 + "\n") * 9, "long lines on average"),
        (
            "// ------------------------------\n/* ===================== */\n",
            "few letters and digits",
        ),
        ("é" * 3 + "+" * 9, "kept"),
        ("é" * 3 + "+" * 10, "few letters and digits"),
        ("\n\n", "empty"),
    ],
)
def test_code(text: str, reason: str) -> None:
    assert reasons(filtered(Code(), text)) == [reason]


@pytest.mark.parametrize(
    "expression",
    [
        "BSD-3-clause~Google",
        *("MIT", "Expat", "X11", "BSD-3-Clause", "BSD-3-clause", "0BSD", "Apache-2.0", "MIT-0"),
        *("GPL-2+ or MIT", "MIT/X11", "GPL-3.0-only OR (MIT AND Apache-2.0)", "Expat, and BSD"),
        *("Apache-2.0 WITH LLVM-exception", "(MIT)", "GPL-2+ and/or Expat"),
    ],
)
def test_permissive_licences(expression: str) -> None:
    assert permits(expression, ("mit", "expat", "x11", "bsd", "0bsd", "apache"))


@pytest.mark.parametrize(
    "expression",
    [
        *("GPL-3.0-or-later", "MITNFA", "MIT AND GPL-2.0", "BSD-3-clause and (GPL-2+)", "Artistic"),
        *("GPL-2+ with Apache-exception", "(", "OR", "public-domain", "CC-BY-4.0 and Expat"),
    ],
)
def test_other_licences(expression: str) -> None:
    assert not permits(expression, ("mit", "expat", "x11", "bsd", "0bsd", "apache"))


def test_a_files_own_tag_counts_for_more_than_its_packages_licence() -> None:
    tagged = "// SPDX-License-Identifier: GPL-2.0-only\nint x;\n"
    assert filtered(Licence(), "int x;", tagged, licence="MIT") == [
        "int x;",
        Rejected("licence", "GPL-2.0-only"),
    ]
    assert filtered(Licence(), "int x;") == [Rejected("no licence known")]
    assert reasons(filtered(Licence(allowed=("MPL-2.0",)), "x", licence="MPL-2.0")) == ["kept"]


def test_a_mention_of_a_tag_is_none() -> None:
    text = 'HEAD = "SPDX-License-Identifier: MIT"\n'
    assert filtered(Licence(), text, licence="GPL-3.0") == [Rejected("licence", "GPL-3.0")]


HEADERS = {
    "C": ("/*\n * Copyright (c) 2001 A.\n */\n\n#include <a.h>\n", "#include <a.h>\n"),
    "Go": (
        "// Copyright 2009 A.\n// All rights reserved.\n\n// Package a does b.\npackage a\n",
        "// Package a does b.\npackage a\n",
    ),
    "Go build tag": (
        "//go:build linux\n\n// Copyright 2009 A.\n\npackage a\n",
        "//go:build linux\n\npackage a\n",
    ),
    "Python": (
        "#!/usr/bin/python\n# -*- coding: utf-8 -*-\n# License: MIT\n\n'''Does a.'''\nx = 1\n",
        "#!/usr/bin/python\n# -*- coding: utf-8 -*-\n'''Does a.'''\nx = 1\n",
    ),
    "Rust": (
        "// SPDX-License-Identifier: MIT\n//! A crate.\nfn a() {}\n",
        "fn a() {}\n",
    ),
    "HTML": ("<!-- Licensed under MIT -->\n<p>x</p>\n", "<p>x</p>\n"),
    "XML": (
        '<?xml version="1.0"?>\n<!-- Copyright A -->\n<a/>\n',
        '<?xml version="1.0"?>\n<a/>\n',
    ),
    "PHP": ("<?php\n/** @license MIT */\necho 1;\n", "<?php\necho 1;\n"),
    "SQL": ("-- Copyright A\nselect 1;\n", "select 1;\n"),
    "OCaml": ("(* Copyright A *)\nlet x = 1\n", "let x = 1\n"),
    "Lisp": (";; Copyright A\n(f)\n", "(f)\n"),
    "no licence": ("# Says what it does.\nx = 1\n", "# Says what it does.\nx = 1\n"),
    "licence in the code": ("x = 1\n# Copyright A\n", "x = 1\n# Copyright A\n"),
    "nothing else": ("/* Copyright A */", ""),
}


@pytest.mark.parametrize("name", HEADERS)
def test_header_comments(name: str) -> None:
    before, after = HEADERS[name]
    assert without_header(before) == after
    assert filtered(HeaderComments(), before) == [after]


# --- C4 ------------------------------------------------------------------------------------

PAGE = "It rained all day in the town. The cat slept on the old sofa. Nobody came to see us."


def test_c4_keeps_lines_that_end_like_sentences() -> None:
    page = "\n".join(
        [
            "Home | About | Contact us today please",
            PAGE + "[12]",
            "Read on for more about this...",
            "Two words only.",
            "Please enable JavaScript to see this page.",
            "We use cookies, see our Privacy Policy for more.",
            '  "I see," said the old blind man."  ',
        ]
    )
    assert filtered(C4(), page) == [f'{PAGE}\n"I see," said the old blind man."']


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Lorem ipsum dolor sit amet it goes.", "lorem ipsum"),
        ("The function main() { was not closed.", "curly bracket"),
        ("function main() { return 0; }", "kept"),  # no line of prose: it is removed alone
    ],
)
def test_c4_drops_pages(line: str, reason: str) -> None:
    assert reasons(filtered(C4(), f"{PAGE}\n{line}")) == [reason]


def test_c4_counts_sentences() -> None:
    judged = filtered(C4(), "Only Mr. J. Smith came here, e.g. today. And so did she.\nx")
    assert judged == [Rejected("few sentences", "2 < 3 in 1 of 2 lines")]


def test_c4s_bad_words_stand_alone(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("Darn\n\nheck no\n")
    stage = C4(bad_words=str(tmp_path / "words"))
    pages = [PAGE, f"{PAGE}\nWell, darn it all again.", f"{PAGE}\nShe darned all of the socks."]
    assert reasons(filtered(stage, *pages)) == ["kept", "bad word", "kept"]
    before = facts(stage)
    (tmp_path / "words").write_text("Darn\n")
    assert facts(stage) != before


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("One. Two! Three? Four", 4),
        ('He said "No." Then he left. (She stayed.) 3 came.', 4),
        ("Dr. No lives at 3.5 St. James Street, U.S. soil.", 1),
        ("see e.g. this and that etc. and so on.", 1),
        ("", 0),
        ("…", 1),
    ],
)
def test_sentences(line: str, count: int) -> None:
    assert len(split_sentences(line)) == count


# --- Language ------------------------------------------------------------------------------

TEXTS = {
    "en": "The weather was fine in the morning, and we went down to the river to swim.",
    "de": "Das Wetter war am Morgen schön, und wir gingen zum Schwimmen an den Fluss hinunter.",
    "fr": "Il faisait beau le matin et nous sommes descendus à la rivière pour nous baigner.",
    "ru": "Утром была хорошая погода, и мы пошли купаться на реку с нашими друзьями.",
}


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "module"), [("fasttext", "fasttext"), ("langid", "py3langid")])
def test_languages_are_told_apart(engine: Any, module: str) -> None:
    pytest.importorskip(module, reason=f"identifies languages with engine = {engine!r}")
    for language in TEXTS:
        judged = filtered(Language(languages=(language,), engine=engine), *TEXTS.values())
        assert [made for made in judged if isinstance(made, str)] == [TEXTS[language]]


def test_only_the_beginning_of_a_text_is_looked_at() -> None:
    text = TEXTS["en"] * 10 + TEXTS["ru"] * 1000
    assert reasons(filtered(Language(max_chars=700), text)) == ["kept"]


def test_what_identified_the_language_is_a_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    known = facts(Language())
    assert known["engine"].startswith("fasttext-predict")
    assert known["model"] == "lid.176.ftz"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert facts(Language())["engine"].startswith("py3langid")


def test_a_language_that_is_not_sure_is_refused() -> None:
    (judged,) = filtered(Language(threshold=1.0), TEXTS["en"])
    assert isinstance(judged, Rejected)
    assert judged.reason == "language unsure"


def test_a_dump_may_say_its_language_itself() -> None:
    stage = Language(languages=("de",), by="source")
    assert reasons(filtered(stage, TEXTS["en"], language="de")) == ["kept"]
    assert filtered(stage, "", language="en") == [Rejected("language", "en")]
    assert filtered(stage, "") == [Rejected("language unknown")]


def test_a_file_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"not a model")
    with pytest.raises(StageError, match="cannot load the fastText model"):
        build(Language(model=str(tmp_path / "model.bin")))


# --- Evaluation data -----------------------------------------------------------------------

QUESTION = "Which of the two brothers who lived by the river was the older one of them?"


def sets(folder: Path) -> Decontaminate:
    (folder / "quiz.jsonl").write_text(
        '{"question": "Too short to look for"}\n'
        f'{{"question": "{QUESTION}", "choices": ["yes", "no"], "answer": 0}}\n'
    )
    (folder / "plain.txt").write_text("An item.\n\nEight words are enough to be found whole.\n")
    return Decontaminate(paths=(str(folder / "*.jsonl"), str(folder / "plain.txt")))


def test_documents_with_evaluation_items_are_dropped_and_the_items_named(tmp_path: Path) -> None:
    stage = sets(tmp_path)
    copied = f"Someone asked: {QUESTION.upper().replace(' ', ' - ')} Nobody knew."
    partly = " ".join(QUESTION.split()[:12]) + " but what else?"
    whole = "It says: eight words are enough, to be found whole!"
    judged = surveyed(stage, tmp_path / "survey", [copied, partly], [], [whole])
    first, second = judged[0]
    assert isinstance(first, Rejected)
    assert first.reason == "evaluation data"
    assert first.detail.startswith("quiz.jsonl:2: which of the two brothers")
    assert second == partly
    assert judged[2] == [
        Rejected("evaluation data", "plain.txt:3: eight words are enough to be found whole")
    ]


def test_runs_of_letters_and_numbers_are_no_contamination(tmp_path: Path) -> None:
    letters = " ".join("abcdefghijklmnop")
    (tmp_path / "quiz.jsonl").write_text(f'["{letters}", "{QUESTION}", "A 1 B 2 C 3 D 4"]\n')
    stage = Decontaminate(paths=(str(tmp_path / "quiz.jsonl"),))
    texts = [f"The alphabet: {letters}", "a 1, b 2, c 3, d 4"]
    assert surveyed(stage, tmp_path / "survey", texts) == [texts]


def test_the_report_lists_every_hit(tmp_path: Path) -> None:
    surveyed(sets(tmp_path), tmp_path / "survey", ["fine"], [QUESTION, "fine", QUESTION])
    found = list(contaminated_documents(tmp_path / "survey/decided", 2))
    assert [(hit["file"], hit["line"], hit["items"]) for hit in found] == [
        ("1", 1, ["quiz.jsonl:2"]),
        ("1", 3, ["quiz.jsonl:2"]),
    ]


@pytest.mark.slow
def test_preparing_leaves_the_report(tmp_path: Path) -> None:
    write_corpus(tmp_path / "web")
    texts = [json.loads(line)["text"] for line in (tmp_path / "web/3.jsonl").open()]
    line, longest = max(enumerate(texts, start=1), key=lambda entry: len(entry[1]))
    (tmp_path / "sets.jsonl").write_text(json.dumps({"question": longest}) + "\n")
    paths = f'paths = ["{tmp_path}/sets.jsonl"]'
    stage = f'[[data.source.stage]]\nstage = "decontaminate"\n{paths}\n'
    prepared(write_spec(tmp_path, stage), tmp_path / "prepared")
    (hit,) = map(json.loads, (tmp_path / "prepared/web/contaminated.jsonl").open())
    assert (Path(hit["file"]).name, hit["line"], hit["items"]) == (
        "3.jsonl",
        line,
        ["sets.jsonl:1"],
    )


def test_the_sets_are_facts(tmp_path: Path) -> None:
    known = facts(sets(tmp_path))
    assert (known["texts"], known["too_short"], len(known["sets"])) == (6, 4, 2)


def test_sets_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no file matches"):
        build(Decontaminate(paths=(str(tmp_path / "none*"),)))
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n{"a"\n')
    with pytest.raises(StageError, match=r"bad\.jsonl:2 is not JSON"):
        facts(Decontaminate(paths=(str(tmp_path / "bad.jsonl"),)))
    (tmp_path / "bad.jsonl").write_text('{"a": "too short"}\n')
    with pytest.raises(StageError, match="`paths`: no item has 8 words or more"):
        facts(Decontaminate(paths=(str(tmp_path / "bad.jsonl"),)))


# --- Personal data -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Mail jane.doe+x@mail.example.co.uk.", "Mail <email>."),
        ("user@host and a@b are none", "user@host and a@b are none"),
        ("Call +44 20 7946 0958 or (555) 123-4567.", "Call <phone> or <phone>."),
        ("555-123-4567, ISBN 978-0-13-110362-7", "<phone>, ISBN 978-0-13-110362-7"),
        ("from 93.184.216.34 to 10.0.0.1", "from <ip> to 10.0.0.1"),
        ("see 3.6.6.2 and v1.2.3.4.5", "see 3.6.6.2 and v1.2.3.4.5"),
        ("+442079460958, +1.415.555.0123", "<phone>, <phone>"),
        ("+3.140000 +9223372036854775807 +063415", "+3.140000 +9223372036854775807 +063415"),
        ("2001:4860:4860::8888 at 12:30:45", "<ip> at 12:30:45"),
        ("1999-2003, 3.14159265, 1234567890", "1999-2003, 3.14159265, 1234567890"),
    ],
)
def test_personal_data_is_masked(text: str, masked: str) -> None:
    assert filtered(Pii(), text) == [masked]


def test_what_was_masked_is_counted() -> None:
    document = Document("a@example.org, b@example.org", "f", 1)
    judge = build(Pii(mask=("email",)))
    assert callable(judge)
    judge(document)
    assert document.meta == {"masked": {"email": 2}}
