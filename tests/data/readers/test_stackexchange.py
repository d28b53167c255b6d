"""StackExchange: questions with their answers, best first."""

from __future__ import annotations

import time
from html import escape
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.readers import assert_linear, read, write
from tests.data.readers.test_html import HOSTILE


def post(number: int, body: str, score: object = 0, parent: int | None = None, **more: str) -> str:
    kind = {"PostTypeId": "1"} if parent is None else {"PostTypeId": "2", "ParentId": str(parent)}
    fields = {"Id": str(number), "Score": str(score), "Body": body} | kind | more
    written = {name: escape(value).replace("\n", "&#xA;") for name, value in fields.items()}
    return "  <row " + " ".join(f'{name}="{value}"' for name, value in written.items()) + " />\n"


def dump(folder: Path, *posts: str, site: str = "cooking.example") -> Path:
    text = '\ufeff<?xml version="1.0" encoding="utf-8"?>\n<posts>\n' + "".join(posts) + "</posts>\n"
    return write(folder / site / "Posts.xml", text)


def test_a_question_and_its_answers_are_a_document(tmp_path: Path) -> None:
    path = dump(
        tmp_path,
        post(8, "<p>Stir.</p>", 1, parent=2),
        post(2, "<p>How do I <b>make</b> it?</p>", 5, Title="Fish & chips", Tags="<fish>"),
        post(9, "<p>Like so:</p><pre><code>if a &lt; b:\n    fry()\n</code></pre>", 3, parent=2),
        post(1, "<p>Alone</p>", Title="No answer"),
    )
    documents, counts = read("stackexchange", path)
    assert [document.text for document in documents] == [
        "Q: No answer\n\nAlone",
        "Q: Fish & chips\n\nHow do I make it?\n\nA: Like so:\n\nif a < b:\n    fry()\n\nA: Stir.",
    ]
    assert documents[1].line == 4
    assert documents[1].meta == {
        "site": "cooking.example",
        "title": "Fish & chips",
        "score": 5,
        "tags": "<fish>",
        "answers": 2,
    }
    assert not counts


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(-2000, 2000), min_size=1, max_size=8), st.randoms())
def test_scores_are_numbers_not_strings(tmp_path: Path, scores: list[int], order) -> None:
    """RedPajama sorted "9" before "82". Of the same score, the older answer is first."""
    answers = [(number, score) for number, score in enumerate(scores, start=10)]
    posts = [post(1, "q"), *(post(n, f"answer {n}", score, parent=1) for n, score in answers)]
    order.shuffle(posts)
    (document,), _ = read("stackexchange", dump(tmp_path, *posts))
    expected = [number for number, _ in sorted(answers, key=lambda pair: (-pair[1], pair[0]))]
    assert document.text.split("\n\n")[1:] == [f"A: answer {number}" for number in expected]


def test_what_is_wrong_with_posts_is_counted(tmp_path: Path) -> None:
    path = dump(
        tmp_path,
        post(1, "<p>q</p>"),
        post(2, "<p>a</p>", "many", parent=1),
        post(3, "<p>a</p>", parent=77),
        post(4, "<p>tag</p>", PostTypeId="5"),
        post(5, "<p>a</p>", 1 << 70, parent=1),
        post(6, "<p> </p>"),
        '  <row Id="7" PostTypeId="1" Score="1" Body="never closed\n',
        post(1, "<p>q again</p>"),
        post(8, "<p>kept</p>", parent=1),
    )
    documents, counts = read("stackexchange", path)
    assert [document.text for document in documents] == ["Q: q\n\nA: kept"]
    assert counts == {
        "broken post": 2,
        "answer without its question": 1,
        "neither question nor answer": 1,
        "empty": 1,
        "broken XML": 1,
        "question twice": 1,
    }


def test_posts_are_read_however_their_xml_is_written(tmp_path: Path) -> None:
    rows = [
        "<row\r\n\tBody='&lt;p>1 &quot;a&quot; / &lt;/p>'\r\n\tId='1' PostTypeId='1' Score='3'/>",
        '<row Score="0" Id="2" Title="x /> y" Body="&lt;br/>two" PostTypeId="1" />',
        '<row Id="3" PostTypeId="1" Score="0" Body="&#60;p&#x3e; &#252; &amp;amp; &#128512;"/>',
        '<row Id="4" PostTypeId="1" Score="0" Body="a &#x1F; control character" />',
        '<row Id="5" PostTypeId="1" Score="0" Body="a &nbsp; of no entity" />',
        '<row Id="6" PostTypeId="1" Score="0" Title="19&quot;" Body="six" />',
    ]
    for end, codec in (("\n", "utf-8"), ("\r\n", "utf-8-sig"), ("\r\n", "utf-16"), ("", "utf-8")):
        text = f'<?xml version="1.0"?>{end}<posts>{end}{end.join(rows)}{end}</posts>'
        path = write(tmp_path / codec / "Posts.xml", text.encode(codec))
        documents, counts = read("stackexchange", path)
        assert [document.text for document in documents] == [
            'Q: 1 "a" /',
            "Q: x /> y\n\ntwo",
            "Q: ü & 😀",
            "Q: a control character",
            'Q: 19"\n\nsix',
        ]
        assert counts == {"broken XML": 1, "illegal characters": 1}


@pytest.mark.slow
@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.timeout(60)
def test_a_body_made_to_take_forever_costs_itself(case: str, tmp_path: Path) -> None:
    path = dump(
        tmp_path,
        post(1, "<p>q</p>", Title="t"),
        post(2, HOSTILE[case](40_000), parent=1),
        post(3, "<p>a</p>", parent=1),
    )
    began = time.process_time()
    (document,), _ = read("stackexchange", path)
    assert time.process_time() - began < 2
    assert document.text.startswith("Q: t\n\nq\n\n")
    assert document.text.endswith("A: a")


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_time_grows_with_the_length_of_a_dump(tmp_path: Path) -> None:
    for unit in ('<row Id="1" ', "/>", '<row Body="/>', "<row />", '"', "<row '\""):
        assert_linear(
            lambda n, unit=unit: read(
                "stackexchange", write(tmp_path / "Posts.xml", "<posts>" + unit * n)
            ),
            20_000,
        )


def test_a_truncated_dump_gives_what_came_before(tmp_path: Path) -> None:
    path = dump(tmp_path, post(1, "one"), post(2, "two"))
    write(path, path.read_bytes()[:-30])
    documents, counts = read("stackexchange", path)
    assert [document.text for document in documents] == ["Q: one"]
    assert counts == {"truncated XML": 1}


@pytest.mark.parametrize("illegal", ["&#x1;", "&#xD800;", "&#0;", "&#xFFFF;", "\x08"])
def test_a_character_that_xml_forbids_costs_itself_not_the_thread(
    illegal: str, tmp_path: Path
) -> None:
    answer = post(8, "<p>Stir it HERE well.</p>", 1, parent=2).replace("HERE", f"{illegal}now&#9;")
    path = dump(tmp_path, post(2, "<p>How?</p>", 5, Title="Soup"), answer)
    documents, counts = read("stackexchange", path)
    assert [document.text for document in documents] == ["Q: Soup\n\nHow?\n\nA: Stir it now well."]
    assert counts == {"illegal characters": 1}
