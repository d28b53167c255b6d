"""The paper's tasks with free answers: closed-book questions, mathematics and code."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping

from llamac.evaluate.tasks.question import (
    BadRowError,
    EvalTask,
    Question,
    Row,
    list_field,
    text_field,
    within_field,
)


def normalised(answer: str) -> str:
    """Normalise an answer: lower case, no articles, punctuation or double spaces (LLaMA, A)."""
    answer = "".join(one for one in answer.lower() if one not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", answer).split())


def matches(answer: str, question: Question) -> bool:
    """Return whether an answer equals one of the right ones after normalisation."""
    return normalised(answer) in map(normalised, question.answers)


def _asked(question: str) -> str:
    return f"Q: {question.strip().rstrip('?')}?\nA:"


def read_nq(row: Row) -> Question:
    answers = list_field(row, "answer", least=1)
    prompt = _asked(text_field(row, "question"))
    return Question(prompt, answers=tuple(answers), solution=f" {answers[0]}")


def read_triviaqa(row: Row) -> Question:
    answer = row.get("answer")
    if not isinstance(answer, Mapping):
        raise BadRowError("field 'answer' is not {value: …, aliases: […]}")
    with within_field("answer"):
        aliases, value = list_field(answer, "aliases", least=1), text_field(answer, "value")
    prompt = _asked(text_field(row, "question"))
    return Question(prompt, answers=(value, *aliases), solution=f" {value}")


def describe_questions(_about: str) -> str:
    return "Answer these questions:\n"


def read_gsm8k(row: Row) -> Question:
    """Read a question and a worked answer, whose last line is "#### NUMBER"."""
    answer = text_field(row, "answer")
    _, mark, value = answer.rpartition("####")
    if not mark or not value.strip():
        raise BadRowError(f"field 'answer' does not end in '#### NUMBER': {answer[-40:]!r}")
    worked = re.sub(r"<<.*?>>", "", answer)  # a calculator's notes
    prompt = f"Question: {text_field(row, 'question')}\nAnswer:"
    return Question(prompt, answers=(value.strip().replace(",", ""),), solution=f" {worked}")


def last_number(answer: str) -> str:
    """Return the number after "####", or else the last number; empty without one."""
    _, mark, after = answer.rpartition("####")
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", after if mark else answer)
    if not numbers:
        return ""
    found = (numbers[0] if mark else numbers[-1]).replace(",", "")
    return found.rstrip("0").rstrip(".") if "." in found else found


def same_number(answer: str, question: Question) -> bool:
    return last_number(answer) == last_number(question.answers[0])


def read_math(row: Row) -> Question:
    r"""Read a problem and a solution, whose last \boxed{…} is the answer."""
    solution = text_field(row, "solution")
    if not (value := boxed(solution)):
        raise BadRowError("field 'solution' has no \\boxed{…} with an answer")
    prompt = f"Problem:\n{text_field(row, 'problem')}\n\nSolution:\n"
    return Question(prompt, answers=(value,), solution=solution.strip())


def boxed(solution: str) -> str:
    r"""Return the content of the last \boxed{…}, with nested braces; empty without one."""
    at = solution.rfind("\\boxed{")
    depth = 0
    for end in range(at + 6, len(solution)) if at >= 0 else ():
        depth += {"{": 1, "}": -1}.get(solution[end], 0)
        if depth == 0:
            return solution[at + 7 : end].strip()
    return ""


def plain_tex(answer: str) -> str:
    """Normalise the TeX of an answer (Lewkowycz et al. 2022, D.1)."""
    answer = answer.strip().strip("$").rstrip(".")
    for old, new in (
        (r"\\(?:left|right|displaystyle|,|!|;|\$)", ""),
        (r"\\(?:text|mathrm|mbox)\{([^{}]*)\}", r"\1"),
        (r"\\[dt]frac", r"\\frac"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
        (r"\^\{?\\circ\}?|\\degree|\\%|%", ""),
        (r"(\d),(?=\d{3}\b)", r"\1"),
        (r"\s+", ""),
    ):
        answer = re.sub(old, new, answer)
    return answer


def math_answer(answer: str) -> str:
    return plain_tex(boxed(answer))


def same_math(answer: str, question: Question) -> bool:
    return math_answer(answer) == plain_tex(question.answers[0])


def read_humaneval(row: Row) -> Question:
    """Read a prompt, a test that defines check(candidate), and the name of the function.

    The prompt ends without its line break, as in bigcode-evaluation-harness: many tokenizers have
    one token for a line break with the indentation after it, which a model could not give then.
    """
    prompt = text_field(row, "prompt").rstrip()
    check = f"\n{text_field(row, 'test')}\n\ncheck({text_field(row, 'entry_point')})\n"
    return Question(prompt, check=check, solution=f"\n{row.get('canonical_solution', '')}")


def read_mbpp(row: Row) -> Question:
    tests = list_field(row, "test_list", least=1)
    task = row.get("text") or text_field(row, "prompt")
    prompt = (
        f"You are an expert Python programmer, and here is your task: {task} Your code should "
        f"pass these tests:\n\n{chr(10).join(tests)}\n[BEGIN]\n"
    )
    setup = str(row.get("test_setup_code") or "")
    check = "\n" + "\n".join([setup, *tests]) + "\n"
    return Question(prompt, check=check, solution=f"{text_field(row, 'code').strip()}\n[DONE]")


def written_program(name: str, question: Question, answer: str) -> str:
    """Return a program that succeeds only if the answer is right."""
    code = question.prompt + answer if name == "humaneval" else answer
    return code + "\n" + question.check


QA = {"question": "text", "answer": "list of strings"}

ANSWERS = (
    EvalTask(
        "nq",
        "NaturalQuestions",
        "google-research-datasets/nq_open",
        "validation",
        QA,
        read_nq,
        kind="answer",
        metric="exact_match",
        describe=describe_questions,
        between="\n",
        until=("\n", ".", ","),
        tokens=16,
        judge=matches,
        extract=normalised,
    ),
    EvalTask(
        "triviaqa",
        "TriviaQA",
        "mandarjoshi/trivia_qa rc.nocontext",
        "validation",
        {"question": "text", "answer": "{value: text, aliases: list of strings}"},
        read_triviaqa,
        kind="answer",
        metric="exact_match",
        describe=describe_questions,
        between="\n",
        until=("\n", ".", ","),
        tokens=24,
        judge=matches,
        extract=normalised,
    ),
    EvalTask(
        "gsm8k",
        "GSM8k",
        "openai/gsm8k main",
        "test",
        {"question": "text", "answer": "text that ends in #### NUMBER"},
        read_gsm8k,
        kind="answer",
        metric="exact_match",
        shots=8,
        until=("Question:",),
        judge=same_number,
        extract=last_number,
    ),
    EvalTask(
        "math",
        "MATH",
        "EleutherAI/hendrycks_math",
        "test",
        {"problem": "text", "solution": "text with \\boxed{ANSWER}"},
        read_math,
        kind="answer",
        metric="exact_match",
        shots=4,
        until=("Problem:",),
        tokens=512,
        judge=same_math,
        extract=math_answer,
    ),
    EvalTask(
        "humaneval",
        "HumanEval",
        "openai/openai_humaneval",
        "test",
        {"prompt": "text", "test": "text", "entry_point": "text"},
        read_humaneval,
        kind="answer",
        metric="pass@1",
        until=("\nclass", "\ndef", "\n#", "\n@", "\nif", "\nprint", "\n```"),
        tokens=512,
        temperature=0.1,
        runs_code=True,
        version=2,
    ),
    EvalTask(
        "mbpp",
        "MBPP",
        "google-research-datasets/mbpp",
        "test",
        {"text": "text", "code": "text", "test_list": "list of strings"},
        read_mbpp,
        kind="answer",
        metric="pass@1",
        shots=3,
        until=("[DONE]",),
        tokens=512,
        temperature=0.1,
        runs_code=True,
    ),
)
