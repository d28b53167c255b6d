"""Tasks of the LLaMA paper with free answers: closed-book questions, mathematics and code."""

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


def normalize_answer(answer: str) -> str:
    """Normalise an answer (LLaMA paper, appendix A).

    The result is in lower case, without articles, punctuation and repeated spaces.
    """
    answer = "".join(char for char in answer.lower() if char not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", answer).split())


def is_exact_match(answer: str, question: Question) -> bool:
    """Return whether an answer equals one of the right answers after `normalize_answer`."""
    return normalize_answer(answer) in map(normalize_answer, question.answers)


def _qa_prompt(question: str) -> str:
    return f"Q: {question.strip().rstrip('?')}?\nA:"


def read_nq(row: Row) -> Question:
    """Read a row of NaturalQuestions: a question and a list of right answers.

    Raises BadRowError if a field is missing or has another form.
    """
    answers = list_field(row, "answer", min_length=1)
    prompt = _qa_prompt(text_field(row, "question"))
    return Question(prompt, answers=tuple(answers), solution=f" {answers[0]}")


def read_triviaqa(row: Row) -> Question:
    """Read a row of TriviaQA: a question, its answer and the aliases of that.

    Raises BadRowError if a field is missing or has another form.
    """
    answer = row.get("answer")
    if not isinstance(answer, Mapping):
        raise BadRowError("field 'answer' is not {value: …, aliases: […]}")
    with within_field("answer"):
        aliases, value = list_field(answer, "aliases", min_length=1), text_field(answer, "value")
    prompt = _qa_prompt(text_field(row, "question"))
    return Question(prompt, answers=(value, *aliases), solution=f" {value}")


def describe_questions(_about: str) -> str:
    """Return the instruction before closed-book questions, whatever their subject."""
    return "Answer these questions:\n"


def read_gsm8k(row: Row) -> Question:
    """Read a row of GSM8k: a question, and a worked answer that ends in "#### NUMBER".

    The calculator's notes <<…>> are removed from the answer that examples show.
    Raises BadRowError if a field is missing or has another form.
    """
    answer = text_field(row, "answer")
    _, mark, value = answer.rpartition("####")
    if not mark or not value.strip():
        raise BadRowError(f"field 'answer' does not end in '#### NUMBER': {answer[-40:]!r}")
    worked = re.sub(r"<<.*?>>", "", answer)  # a calculator's notes
    prompt = f"Question: {text_field(row, 'question')}\nAnswer:"
    return Question(prompt, answers=(value.strip().replace(",", ""),), solution=f" {worked}")


def last_number(answer: str) -> str:
    """Return the first number after "####", else the last one, as text; "" without a number.

    Thousands separators and zeros at the end of decimals are removed.
    """
    _, mark, marked = answer.rpartition("####")
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", marked if mark else answer)
    if not numbers:
        return ""
    number = (numbers[0] if mark else numbers[-1]).replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


def same_number(answer: str, question: Question) -> bool:
    """Return whether the `last_number` of an answer equals that of the right one, as text."""
    return last_number(answer) == last_number(question.answers[0])


def read_math(row: Row) -> Question:
    r"""Read a row of MATH: a problem, and a solution whose last \boxed{…} is the answer.

    Raises BadRowError if a field is missing or has another form.
    """
    solution = text_field(row, "solution")
    if not (value := last_boxed(solution)):
        raise BadRowError("field 'solution' has no \\boxed{…} with an answer")
    prompt = f"Problem:\n{text_field(row, 'problem')}\n\nSolution:\n"
    return Question(prompt, answers=(value,), solution=solution.strip())


def last_boxed(solution: str) -> str:
    r"""Return the content of the last \boxed{…}, in which braces may be nested; "" without one."""
    at = solution.rfind("\\boxed{")
    depth = 0
    for end in range(at + 6, len(solution)) if at >= 0 else ():
        depth += {"{": 1, "}": -1}.get(solution[end], 0)
        if depth == 0:
            return solution[at + 7 : end].strip()
    return ""


def normalize_tex(answer: str) -> str:
    """Normalise the TeX of an answer (Lewkowycz et al. 2022, appendix D.1)."""
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
    r"""Return the last `\boxed{…}` of an answer, normalised by `normalize_tex`; "" without one."""
    return normalize_tex(last_boxed(answer))


def same_math(answer: str, question: Question) -> bool:
    """Return whether the last boxed expression of an answer is right after `normalize_tex`."""
    return math_answer(answer) == normalize_tex(question.answers[0])


def read_humaneval(row: Row) -> Question:
    """Read a row of HumanEval: a prompt, a test that defines check(candidate), the function's name.

    White space at the prompt's end is removed, as in bigcode-evaluation-harness: many tokenizers
    have one token for a line break with its indentation, which a model could not generate
    otherwise. Raises BadRowError if a field is missing or has another form.
    """
    prompt = text_field(row, "prompt").rstrip()
    check = f"\n{text_field(row, 'test')}\n\ncheck({text_field(row, 'entry_point')})\n"
    return Question(prompt, check=check, solution=f"\n{row.get('canonical_solution', '')}")


def read_mbpp(row: Row) -> Question:
    """Read a row of MBPP: a task (`text` or `prompt`), tests, and a solution.

    The prompt shows the tests and ends with [BEGIN], as in Austin et al. 2021; the solution ends
    with [DONE]. Raises BadRowError if a field is missing or has another form.
    """
    tests = list_field(row, "test_list", min_length=1)
    task = row.get("text") or text_field(row, "prompt")
    prompt = (
        f"You are an expert Python programmer, and here is your task: {task} Your code should "
        f"pass these tests:\n\n{chr(10).join(tests)}\n[BEGIN]\n"
    )
    setup = str(row.get("test_setup_code") or "")
    check = "\n" + "\n".join([setup, *tests]) + "\n"
    return Question(prompt, check=check, solution=f"{text_field(row, 'code').strip()}\n[DONE]")


def build_program(name: str, question: Question, answer: str) -> str:
    """Return the source of a program that runs to its end only if the answer is right.

    name: the task's, as only humaneval's answers continue the prompt. answer: generated code.
    """
    code = question.prompt + answer if name == "humaneval" else answer
    return code + "\n" + question.check


QA = {"question": "text", "answer": "list of strings"}  # columns of NaturalQuestions

ANSWERS = (  # tasks with free answers
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
        judge=is_exact_match,
        extract=normalize_answer,
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
        judge=is_exact_match,
        extract=normalize_answer,
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
